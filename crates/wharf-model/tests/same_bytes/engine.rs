//! A plan on the engine, with simulated ports.

use crate::Outcome;
use crate::plan::{ANSWER_MS, Buffers, ClientPlan, IDLE_MS, LOAN_WAIT_MS, Plan};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wharf as api;
use wharf::sim::{
    Client, EngineBug, FaultKind, Faults, Next, SimClient, SimConfig, Simulation, Time, fits,
};
use wharf::{
    Address, Builder, DisconnectReason, Handle, Handler, Input, Link, Result, Server, Verdict,
    Worker,
};
use wharf_model::Rng;

#[path = "../programs/handlers/mod.rs"]
mod handlers;
#[path = "start.rs"]
mod start;

thread_local! {
    static SHARDS: Cell<usize> = const { Cell::new(1) };
    static BUG: Cell<Option<EngineBug>> = const { Cell::new(None) };
}

/// Runs a plan on so many shards, with a bug that is planted in the engine, if any.
pub(crate) fn run(plan: &Plan, shards: usize, bug: Option<EngineBug>) -> Outcome {
    SHARDS.set(shards);
    BUG.set(bug);
    start::run(plan)
}

type Reasons = Arc<Mutex<BTreeMap<usize, &'static str>>>;

/// A handler that notes why its links end.
struct Noted<H> {
    inner: H,
    reasons: Reasons,
}

impl<H, S, W> Handler<S, W> for Noted<H>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<W> {
        self.inner.on_worker_start(worker)
    }

    fn on_connect(&self, link: &mut Link<'_, (), W>) -> Result<S> {
        self.inner.on_connect(link)
    }

    fn on_receive(&self, link: &mut Link<'_, S, W>, input: &mut Input<'_>) -> Result {
        self.inner.on_receive(link, input)
    }

    fn on_writable(&self, link: &mut Link<'_, S, W>) -> Result {
        self.inner.on_writable(link)
    }

    fn on_end(&self, link: &mut Link<'_, S, W>, input: &mut Input<'_>) -> Result<Verdict> {
        self.inner.on_end(link, input)
    }

    fn on_idle(&self, link: &mut Link<'_, S, W>) -> Result<Verdict> {
        self.inner.on_idle(link)
    }

    fn on_drain(&self, link: &mut Link<'_, S, W>) -> Result<Verdict> {
        self.inner.on_drain(link)
    }

    fn on_disconnect(&self, link: &mut Link<'_, S, W>, reason: DisconnectReason) {
        self.reasons.lock().unwrap().insert(number_of(link.peer()), reason.name());
        self.inner.on_disconnect(link, reason);
    }
}

/// The number of the client at this address: 10.0.0.0 plus the number.
fn number_of(peer: Address) -> usize {
    match peer.ip() {
        Some(IpAddr::V4(address)) => usize::from(address.octets()[3]),
        _ => usize::MAX,
    }
}

/// Runs the plan with this handler, and with a part of the program beside it.
fn serve<H, S, W, T>(plan: &Plan, handler: H, thread: impl FnOnce(Handle) -> T) -> Outcome
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
    T: FnMut(u64) -> Option<u64> + 'static,
{
    let number = |value: usize| u32::try_from(value).unwrap();
    let shards = SHARDS.get();
    let reasons = Reasons::default();
    let builder = Server::builder(Noted { inner: handler, reasons: Arc::clone(&reasons) })
        .shards(number(shards))
        .links_max(number(shards * plan.clients.len()))
        .buffer_size_bytes(number(plan.buffer_size_bytes))
        .grant_bytes(number(plan.grant_bytes))
        .input_bytes(number(plan.input_bytes))
        .output_bytes(number(plan.output_bytes))
        .idle_timeout(Duration::from_millis(IDLE_MS))
        .answer_timeout(Duration::from_millis(ANSWER_MS))
        .loan_wait(Duration::from_millis(LOAN_WAIT_MS));
    let builder = match plan.buffers {
        Buffers::Plenty(count) => builder.buffer_count(number(shards * count)),
        Buffers::Scarce(more) => with_least_buffers(builder, number(shards * more)),
    };
    let mut config = SimConfig::new(plan.seed);
    config.faults = faults(plan.seed);
    config.provides_buffers = plan.seed.is_multiple_of(2);
    config.engine_bug = BUG.get();
    let mut simulation = Simulation::with_config(config, builder);
    let mut thread = thread(simulation.handle());
    simulation.run_beside(move |now| thread(millis(now)).map(|time_ms| at(time_ms).max(now)));
    let heard: Vec<Rc<RefCell<Vec<u8>>>> = plan.clients.iter().map(|_| Rc::default()).collect();
    let greeted = Rc::new(Cell::new(0));
    for (client, heard) in plan.clients.iter().zip(&heard) {
        let heard = Rc::clone(heard);
        let client = EngineClient::new(client, plan.clients.len(), heard, Rc::clone(&greeted));
        simulation.connect(client);
    }
    let server = simulation.handle();
    let ended = Arc::clone(&reasons);
    let all = plan.clients.len();
    let failure = finish(simulation, move || ended.lock().unwrap().len() == all).err();
    let reasons = std::mem::take(&mut *reasons.lock().unwrap());
    Outcome {
        heard: heard.iter().map(|heard| plan.determined(&heard.borrow())).collect(),
        reasons,
        missed: server.stats().missed,
        failure,
    }
}

/// As few buffers as the settings allow, and so many more.
fn with_least_buffers<H, S, W>(mut builder: Builder<H, S, W>, more: u32) -> Builder<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    // A bisection: too few are refused, and `high` is not.
    let (mut low, mut high) = (0_u32, 1 << 20);
    while high - low > 1 {
        let middle = low.midpoint(high);
        builder = builder.buffer_count(middle);
        if fits(&builder) {
            high = middle;
        } else {
            low = middle;
        }
    }
    builder.buffer_count(high + more)
}

/// Runs until all clients and, as `is_over` says, all links have ended, and the server has stopped.
fn finish<H, S, W>(
    mut simulation: Simulation<H, S, W>,
    is_over: impl Fn() -> bool,
) -> std::result::Result<(), String>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    let run = |simulation: &mut Simulation<H, S, W>| {
        simulation.run_until(|simulation| simulation.clients_open() == 0 && is_over())?;
        if simulation.handle().is_stopping() {
            simulation.stop(Duration::from_secs(60))?;
        }
        Ok(())
    };
    run(&mut simulation)
        .and_then(|()| simulation.finish())
        .map(drop)
        .map_err(|failure: wharf::sim::SimFailure| failure.to_string())
}

/// Faults that split and delay, and end no connection.
fn faults(seed: u64) -> Faults {
    let mut rng = Rng::new(!seed);
    let kinds = [
        FaultKind::ShortReceive,
        FaultKind::ShortSend,
        FaultKind::Delay,
        FaultKind::Reorder,
        FaultKind::SpuriousWake,
        FaultKind::ShortDequeue,
    ];
    kinds
        .into_iter()
        .fold(Faults::none(), |faults, kind| faults.with(kind, rng.pick(&[0, 10_000, 200_000])))
}

struct EngineClient {
    plan: ClientPlan,
    heard: Rc<RefCell<Vec<u8>>>,
    /// Clients, and how many of them have heard their greeting.
    count: usize,
    greeted: Rc<Cell<usize>>,
    is_greeted: bool,
    written: usize,
    finished: bool,
    /// Pauses of reading that have begun.
    pauses: usize,
    writes_at: Option<Time>,
    reads_at: Option<Time>,
    gives_up_at: Option<Time>,
}

impl EngineClient {
    fn new(
        plan: &ClientPlan,
        count: usize,
        heard: Rc<RefCell<Vec<u8>>>,
        greeted: Rc<Cell<usize>>,
    ) -> Self {
        Self {
            plan: plan.clone(),
            heard,
            count,
            greeted,
            is_greeted: false,
            written: 0,
            finished: false,
            pauses: 0,
            writes_at: None,
            reads_at: None,
            gives_up_at: None,
        }
    }

    /// Writes until it would block or pauses.
    fn write(&mut self, connection: &mut SimClient, now: Time) {
        if !self.is_greeted && self.heard.borrow().len() >= self.plan.greeting_bytes {
            self.is_greeted = true;
            self.greeted.set(self.greeted.get() + 1);
        }
        if self.greeted.get() < self.count {
            self.writes_at = Some(later(now, 1));
        }
        if self.writes_at.is_some_and(|time| time > now) {
            return;
        }
        self.writes_at = None;
        while self.written < self.plan.text.len() {
            let rest = &self.plan.text[self.written..];
            match connection.try_write(&rest[..rest.len().min(self.plan.chunk)]) {
                Ok(count) => self.written += count,
                // The bytes that were read show whether that is right.
                Err(_) => return,
            }
            if self.plan.write_pause_ms > 0 {
                self.writes_at = Some(later(now, self.plan.write_pause_ms));
                return;
            }
        }
        if self.plan.finishes && !self.finished {
            self.finished = true;
            connection.shutdown_write();
        }
    }

    /// Reads until it would block, pauses or ends.
    fn read(&mut self, connection: &mut SimClient, now: Time) -> Option<Next> {
        let mut buffer = [0; 4096];
        loop {
            if self.reads_at.is_some_and(|time| time > now) {
                return None;
            }
            self.reads_at = None;
            let read = self.heard.borrow().len();
            if let Some(time_ms) = self.plan.next_pause(&mut self.pauses, read) {
                self.reads_at = Some(later(now, time_ms));
                continue;
            }
            let is_all = read >= self.plan.expected.len();
            if is_all && !self.plan.hears_end() && self.written == self.plan.text.len() {
                return Some(Next::Close);
            }
            let len = self.plan.readable(self.pauses, read).min(buffer.len());
            match connection.try_read(&mut buffer[..len]) {
                Ok(0) if is_all || self.plan.may_miss => return Some(Next::Close),
                Ok(0) => return Some(Next::EndedEarly("by an end".to_owned())),
                Ok(count) => self.heard.borrow_mut().extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return self.give_up(now);
                }
                Err(_) => return Some(Next::EndedEarly("by a reset".to_owned())),
            }
            self.gives_up_at = None;
        }
    }

    /// Closes if there was nothing to read for too long.
    fn give_up(&mut self, now: Time) -> Option<Next> {
        let time = *self.gives_up_at.get_or_insert(later(now, IDLE_MS / 2));
        (self.plan.may_miss && now >= time).then_some(Next::Close)
    }
}

impl Client for EngineClient {
    fn ready(
        &mut self,
        connection: &mut SimClient,
        now: Time,
    ) -> std::result::Result<Next, String> {
        self.write(connection, now);
        if let Some(next) = self.read(connection, now) {
            return Ok(next);
        }
        let gives_up_at = self.gives_up_at.filter(|_| self.plan.may_miss);
        let times = [self.writes_at, self.reads_at, gives_up_at];
        let wakes_at = times.into_iter().flatten().min();
        Ok(wakes_at.map_or(Next::Wait, Next::Sleep))
    }

    fn waits_for(&self) -> String {
        let (read, expected) = (self.heard.borrow().len(), self.plan.expected.len());
        let (written, text) = (self.written, self.plan.text.len());
        format!(
            "byte {read} of {expected}, written {written} of {text}, {:?}",
            self.plan.read_pauses
        )
    }
}

fn later(now: Time, time_ms: u64) -> Time {
    Time(now.0 + time_ms * 1_000_000)
}

fn millis(time: Time) -> u64 {
    time.0 / 1_000_000
}

fn at(time_ms: u64) -> Time {
    Time(time_ms * 1_000_000)
}
