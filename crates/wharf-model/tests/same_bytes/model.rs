//! A plan on the model.

use crate::Outcome;
use crate::plan::{ClientPlan, Plan};
use crate::program::{Partial, Program};
use wharf_model::{Handler, Input, Link, LinkEnd, Model, Result, Rng, Settings};

/// A program as a handler that takes all it is given, a buffer at a time.
struct OnModel(Program);

impl Handler<Partial> for OnModel {
    fn on_connect(&self, _: &mut Link<'_>) -> Result<Partial> {
        Ok(Partial::default())
    }

    fn on_receive(&self, link: &mut Link<'_, Partial>, input: &mut Input<'_>) -> Result {
        let data = input.chunk();
        self.0.receive(link.state, data, |reply| link.out.send(reply))?;
        let len = data.len();
        input.consume(len);
        Ok(())
    }
}

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

type Server = Model<OnModel, Partial, ()>;

impl ModelClient<'_> {
    /// Writes and reads what it may now. Whether it did something.
    fn go_on(&mut self, model: &mut Server, now_ms: u64, rng: &mut Rng) -> bool {
        let mut moved = false;
        if now_ms >= self.writes_at_ms && self.written < self.plan.text.len() {
            let rest = &self.plan.text[self.written..];
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
        let closes = self.plan.finishes || self.heard.len() >= self.plan.expected.len();
        if is_written && closes && !model.link(self.link).is_ended {
            model.finish(self.link);
            moved = true;
        }
        moved
    }
}

pub(crate) fn run(plan: &Plan) -> Outcome {
    let mut rng = Rng::new(plan.seed);
    let settings = Settings {
        buffer_size_bytes: plan.buffer_size_bytes,
        buffer_count: plan.buffer_count,
        links_max: plan.clients.len(),
        input_bytes: plan.output_bytes,
        output_bytes: plan.output_bytes,
        grant_bytes: plan.buffer_size_bytes,
        send_buffers_max: 1 + rng.below(8),
        idle_timeout_ms: 60_000,
        stall_timeout_ms: 30_000,
        ..Settings::default()
    };
    let mut model = Model::new(OnModel(plan.program), settings);
    let mut clients: Vec<ModelClient<'_>> = plan
        .clients
        .iter()
        .map(|plan| ModelClient {
            plan,
            link: model.connect(),
            heard: Vec::new(),
            written: 0,
            pauses: 0,
            writes_at_ms: 0,
            reads_at_ms: 0,
        })
        .collect();
    let mut now_ms = 0;
    let mut quiet_ms = 0;
    // Nothing may happen for as long as a pause takes.
    while quiet_ms < QUIET_MS {
        let mut moved = false;
        for client in &mut clients {
            moved |= client.go_on(&mut model, now_ms, &mut rng);
        }
        moved |= model.turn();
        model.tick(1);
        now_ms += 1;
        quiet_ms = if moved { 0 } else { quiet_ms + 1 };
    }
    let mut outcome = Outcome::default();
    for (number, client) in clients.into_iter().enumerate() {
        if let LinkEnd::Over(reason) = model.link(client.link).end {
            outcome.reasons.insert(number, reason.name());
        }
        outcome.heard.push(client.heard);
    }
    outcome
}

const QUIET_MS: u64 = 10_000;
