//! A plan on the model.

use crate::Outcome;
use crate::plan::{ANSWER_MS, Buffers, ClientPlan, IDLE_MS, LOAN_WAIT_MS, Plan};
use wharf_model as api;
use wharf_model::{Handle, Handler, LinkEnd, Model, Rng, Settings};

#[path = "../programs/handlers/mod.rs"]
mod handlers;
#[path = "start.rs"]
mod start;

pub(crate) use start::run;

/// A client, and what it has done.
struct ModelClient<'a> {
    plan: &'a ClientPlan,
    link: usize,
    heard: Vec<u8>,
    written: usize,
    pauses: usize,
    writes_at_ms: u64,
    reads_at_ms: u64,
}

impl<'a> ModelClient<'a> {
    fn new(plan: &'a ClientPlan, link: usize) -> Self {
        let heard = Vec::new();
        Self { plan, link, heard, written: 0, pauses: 0, writes_at_ms: 0, reads_at_ms: 0 }
    }

    /// Writes and reads what it may now. Whether it did something.
    fn go_on<H, S, W>(
        &mut self,
        model: &mut Model<H, S, W>,
        now_ms: u64,
        is_greeted: bool,
        rng: &mut Rng,
    ) -> bool
    where
        H: Handler<S, W>,
        S: Send + 'static,
        W: 'static,
    {
        let mut moved = false;
        let rest = &self.plan.text[self.written..];
        if is_greeted && now_ms >= self.writes_at_ms && !rest.is_empty() {
            let written = model.arrive(self.link, &rest[..rest.len().min(self.plan.chunk)]);
            self.written += written;
            self.writes_at_ms = now_ms + self.plan.write_pause_ms;
            moved |= written > 0;
        }
        if let Some(time_ms) = self.plan.next_pause(&mut self.pauses, self.heard.len()) {
            self.reads_at_ms = self.reads_at_ms.max(now_ms) + time_ms;
        }
        if now_ms >= self.reads_at_ms {
            let len = (1 + rng.below(4_096)).min(self.plan.readable(self.pauses, self.heard.len()));
            let heard = model.leave(self.link, len);
            moved |= !heard.is_empty();
            self.heard.extend(heard);
        }
        let is_written = self.written == self.plan.text.len();
        let has_all = self.heard.len() >= self.plan.expected.len();
        let ends = self.plan.finishes || (has_all && !self.plan.hears_end());
        if is_written && ends && !model.link(self.link).is_ended {
            model.finish(self.link);
            moved = true;
        }
        moved
    }
}

/// Runs the plan with this handler, and with a part of the program beside it.
fn serve<H, S, W, T>(plan: &Plan, handler: H, thread: impl FnOnce(Handle) -> T) -> Outcome
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
    T: FnMut(u64) -> Option<u64>,
{
    let mut rng = Rng::new(plan.seed);
    let settings = Settings {
        buffer_size_bytes: plan.buffer_size_bytes,
        links_max: plan.clients.len(),
        input_bytes: plan.input_bytes,
        output_bytes: plan.output_bytes,
        grant_bytes: plan.grant_bytes,
        send_buffers_max: 1 + rng.below(8),
        idle_timeout_ms: IDLE_MS,
        stall_timeout_ms: 30_000,
        answer_timeout_ms: ANSWER_MS,
        loan_wait_ms: LOAN_WAIT_MS,
        ..Settings::default()
    };
    let settings = match plan.buffers {
        Buffers::Plenty(buffer_count) => Settings { buffer_count, ..settings },
        Buffers::Scarce(more) => {
            let surplus = settings.surplus_min() + more;
            settings.with_surplus(surplus)
        }
    };
    let mut model = Model::new(handler, settings);
    let mut thread = thread(model.server().clone());
    let mut clients: Vec<ModelClient<'_>> =
        plan.clients.iter().map(|plan| ModelClient::new(plan, model.connect())).collect();
    let (mut now_ms, mut quiet_ms) = (0, 0);
    // Nothing may happen for as long as the longest timeout takes.
    while quiet_ms < QUIET_MS {
        let is_greeted =
            clients.iter().all(|client| client.heard.len() >= client.plan.greeting_bytes);
        let mut moved = thread(now_ms) == Some(now_ms);
        for client in &mut clients {
            moved |= client.go_on(&mut model, now_ms, is_greeted, &mut rng);
        }
        moved |= model.turn();
        model.tick(1);
        now_ms += 1;
        quiet_ms = if moved { 0 } else { quiet_ms + 1 };
        let is_over = |client: &ModelClient<'_>| {
            let link = model.link(client.link);
            matches!(link.end, LinkEnd::Over(_)) && link.unsent_bytes == 0
        };
        if !moved && clients.iter().all(is_over) {
            break;
        }
    }
    let mut outcome = Outcome { missed: model.server().stats().missed, ..Outcome::default() };
    for (number, client) in clients.into_iter().enumerate() {
        if let LinkEnd::Over(reason) = model.link(client.link).end {
            outcome.reasons.insert(number, reason.name());
        }
        outcome.heard.push(plan.determined(&client.heard));
    }
    outcome
}

const QUIET_MS: u64 = IDLE_MS + 2_000;
