//! A plan on the engine, with a simulated port.

use crate::Outcome;
use crate::plan::{ClientPlan, Plan};
use crate::program::{Partial, Program};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use wharf::sim::{Client, FaultKind, Faults, Next, SimClient, SimConfig, Simulation, Time};
use wharf::{DisconnectReason, Handler, Link, Result, Server};
use wharf_model::Rng;

type Reasons = Arc<Mutex<BTreeMap<usize, &'static str>>>;

/// A program as a handler that takes all it is given.
struct OnEngine {
    program: Program,
    reasons: Reasons,
}

impl Handler for OnEngine {
    type Worker = ();
    type State = Partial;

    fn on_receive(&self, (): &mut (), link: &mut Link<'_, Partial>, data: &[u8]) -> Result {
        let mut partial = std::mem::take(link.state());
        self.program.receive(&mut partial, data, |reply| link.send(reply))?;
        *link.state() = partial;
        Ok(())
    }

    fn on_disconnect(&self, (): &mut (), link: &mut Link<'_, Partial>, reason: DisconnectReason) {
        self.reasons.lock().unwrap().insert(number_of(link.peer()), reason.name());
    }
}

/// The number of the client at this address: 10.0.0.0 plus the number.
fn number_of(peer: SocketAddr) -> usize {
    match peer.ip() {
        IpAddr::V4(address) => usize::from(address.octets()[3]),
        IpAddr::V6(_) => usize::MAX,
    }
}

pub(crate) fn run(plan: &Plan) -> Outcome {
    let number = |value: usize| u32::try_from(value).unwrap();
    let builder = Server::builder()
        .shards(number(plan.shards))
        .links(number(plan.clients.len().max(plan.shards)))
        .buffers(number(plan.buffer_count))
        .buffer_size(number(plan.buffer_size_bytes))
        .send_queue(number(plan.output_bytes));
    let mut config = SimConfig::new(plan.seed);
    config.builder = builder;
    config.faults = faults(plan.seed);
    let reasons = Reasons::default();
    let handler = OnEngine { program: plan.program, reasons: Arc::clone(&reasons) };
    let mut simulation = Simulation::with(config, handler);
    let heard: Vec<Rc<RefCell<Vec<u8>>>> = plan.clients.iter().map(|_| Rc::default()).collect();
    for (client, heard) in plan.clients.iter().zip(&heard) {
        simulation.connect(EngineClient::new(client.clone(), Rc::clone(heard)));
    }
    let failure = simulation.finish().err().map(|failure| failure.to_string());
    let reasons = std::mem::take(&mut *reasons.lock().unwrap());
    Outcome { heard: heard.iter().map(|heard| heard.take()).collect(), reasons, failure }
}

/// What splits and delays, and breaks nothing.
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
    written: usize,
    finished: bool,
    /// Pauses of reading that have begun.
    pauses: usize,
    writes_at: Option<Time>,
    reads_at: Option<Time>,
}

impl EngineClient {
    fn new(plan: ClientPlan, heard: Rc<RefCell<Vec<u8>>>) -> Self {
        Self {
            plan,
            heard,
            written: 0,
            finished: false,
            pauses: 0,
            writes_at: None,
            reads_at: None,
        }
    }

    /// Writes until it would block or pauses.
    fn write(&mut self, connection: &mut SimClient, now: Time) {
        if self.writes_at.is_some_and(|time| time > now) {
            return;
        }
        self.writes_at = None;
        while self.written < self.plan.text.len() {
            let rest = &self.plan.text[self.written..];
            match connection.try_write(&rest[..rest.len().min(self.plan.chunk)]) {
                Ok(count) => self.written += count,
                // What was read tells whether that is right.
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
            if is_all && !self.plan.finishes && self.written == self.plan.text.len() {
                return Some(Next::Close);
            }
            let len = self.plan.readable(self.pauses, read).min(buffer.len());
            match connection.try_read(&mut buffer[..len]) {
                Ok(0) if is_all => return Some(Next::Close),
                Ok(0) => return Some(Next::Cut("by an end".to_owned())),
                Ok(count) => self.heard.borrow_mut().extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(_) => return Some(Next::Cut("by a reset".to_owned())),
            }
        }
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
        let wakes_at = self.writes_at.into_iter().chain(self.reads_at).min();
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
