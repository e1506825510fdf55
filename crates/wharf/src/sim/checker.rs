//! Checks the callbacks: which link each belongs to, and what happened on each connection.
//!
//! The promises for the calls of one link are in `rules.rs`. Both keep records of their own and use
//! none of the engine's.

use crate::acts::{Act, Watch, Whom};
use crate::engine::inspect::ensure;
use crate::sim::rules::{Facts, Limits, LinkView, Outcome, Rest, Rules};
use crate::vocabulary::id::{LinkId, LinkKey};
use crate::vocabulary::reason::DisconnectReason;
use std::net::IpAddr;
use std::sync::{OnceLock, PoisonError};
use wharf_port::port::Time;
use wharf_port::sim::{TrafficWatch, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Connect,
    Receive,
    Writable,
    End,
    Idle,
    Drain,
    Disconnect(DisconnectReason),
}

/// The state of a client's connection at the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ConnectionStatus {
    /// No callback of it was called.
    #[default]
    Unseen,
    Open(LinkId),
    Over(DisconnectReason),
}

/// The record of one connection at the server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ConnectionHistory {
    pub(super) status: ConnectionStatus,
    /// The link's id, after it was opened.
    pub(super) link: Option<LinkId>,
    /// Bytes that the handler has taken.
    pub(super) received: u64,
    /// Bytes that the handler was called with, taken or not.
    seen: u64,
    /// The last call with new bytes, or the opening of the link, on the links' clock.
    heard_link_ns: u64,
    /// The unread bytes that count as handled.
    rest: Rest,
    /// The handler left input unread and asked for nothing.
    pub(super) leaves_input: bool,
    /// The handler waits for capacity for its own reply.
    pub(super) awaits_capacity: bool,
    /// The handler itself holds back calls, or the end of the link.
    pub(super) is_held: bool,
    /// Another link or thread has requested its close.
    pub(super) is_kicked: bool,
    /// The longest time of a deferred reply, on the links' clock.
    pub(super) reply_ns: u64,
    /// One of its callbacks panicked as planned.
    pub(super) panicked: bool,
    /// When the link was opened, on the steady clock; time in the backlog does not count.
    pub(super) opened_steady_ns: u64,
    /// The last call of `on_idle`.
    pub(super) idle: Option<IdleRecord>,
}

impl ConnectionHistory {
    /// Whether the handler waits for the rest of a message.
    pub(super) fn is_incomplete(&self) -> bool {
        matches!(self.rest, Rest::Wants(wants) if wants > 0)
    }

    /// The number of the first `delivered` bytes for which a call of the handler is due.
    pub(super) fn unhandled(&self, delivered: u64) -> u64 {
        let unread = delivered.saturating_sub(self.received);
        let is_handled = match self.rest {
            Rest::Wants(wants) => unread < wants,
            // Bytes behind those that it left may never be received.
            Rest::Left(left) => left > 0 || unread == 0,
        };
        if is_handled { 0 } else { unread }
    }
}

/// The state of a link at a call of `on_idle`.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdleRecord {
    /// Time without new bytes for the handler, on the links' clock.
    pub(super) silent_ns: u64,
    /// Bytes that had arrived at the server, but not at the handler.
    pub(super) unhandled: u64,
    /// When bytes moved last, and when the call was, on the steady clock.
    pub(super) moved_ns: u64,
    pub(super) at_ns: u64,
}

/// A callback's link and its worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) event: Event,
    pub(super) link: LinkId,
    /// The connection's number, by its peer's address.
    pub(super) connection: usize,
    /// The shard whose worker runs it.
    pub(super) worker: usize,
    pub(super) is_revoked: bool,
    pub(super) is_stopping: bool,
}

#[derive(Debug)]
pub(super) struct CallbackChecker {
    world: World,
    limits: Limits,
    failure: OnceLock<String>,
    watch: Watch,
    records: Lock<CheckerState>,
}

#[expect(
    clippy::disallowed_types,
    reason = "one handler serves all shards of a simulation; not in a server's path"
)]
type Lock<T> = std::sync::Mutex<T>;

#[derive(Debug, Default)]
struct CheckerState {
    /// By shard and slot.
    slots: Vec<Vec<SlotRecord>>,
    /// By the connections' numbers.
    histories: Vec<ConnectionHistory>,
    watches: Vec<TrafficWatch>,
    /// By shard.
    turns: Vec<u64>,
    /// The shard whose turn runs.
    turning: Option<usize>,
    /// The end of the drain timeout.
    drained_out_at: Option<Time>,
    /// The sum of the pauses of the process so far.
    paused_ns: u64,
    tally: Tally,
    /// A log of calls and requests, if one was asked for.
    log: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) connects: u64,
    pub(super) disconnects: u64,
    pub(super) planned_panics: u64,
    /// Number of links' states that were made and not dropped.
    pub(super) states: u64,
}

/// The last link of a slot.
#[derive(Debug, Default)]
struct SlotRecord {
    generation: u32,
    connection: usize,
    /// Between a successful `on_connect` and `on_disconnect`.
    open: bool,
    /// Whether a callback runs.
    busy: bool,
    /// Since the begin of `on_connect`.
    rules: Option<Rules>,
}

impl CallbackChecker {
    pub(super) fn new(world: World, shards: u32, slots: u32, limits: Limits) -> Self {
        let records = || (0..slots).map(|_| SlotRecord::default()).collect();
        let slots = (0..shards).map(|_| records()).collect();
        let turns = (0..shards).map(|_| 0).collect();
        let records = Lock::new(CheckerState { slots, turns, ..CheckerState::default() });
        Self { world, limits, failure: OnceLock::new(), watch: Watch::new(), records }
    }

    /// Adds a client that has connected.
    pub(super) fn watch(&self, traffic: TrafficWatch) {
        self.records().watches.push(traffic);
    }

    /// Notes the shard whose turn runs; `None` after it.
    pub(super) fn note_turn(&self, shard: Option<usize>) {
        let mut records = self.records();
        records.turning = shard;
        if let Some(shard) = shard {
            records.turns[shard] += 1;
        }
    }

    /// Notes a stop, and when the server force-closes its links.
    pub(super) fn note_stop(&self, until: Time) {
        self.records().drained_out_at = Some(until);
    }

    /// Notes the sum of the pauses of the process.
    pub(super) fn note_pauses(&self, total_ns: u64) {
        self.records().paused_ns = total_ns;
    }

    /// Starts the log.
    pub(super) fn keep_log(&self) {
        self.records().log = Some(Vec::new());
    }

    /// Takes the log.
    pub(super) fn take_log(&self) -> Vec<String> {
        self.records().log.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Handles the requests from outside of callbacks.
    pub(super) fn handle_requests(&self) {
        let told = self.watch.take();
        if !told.is_empty() {
            let mut records = self.records();
            told.into_iter()
                .for_each(|(whom, act)| self.take_request(&mut records, None, whom, act));
        }
    }

    pub(super) fn enter(&self, call: &Call, at: LinkView) {
        self.handle_requests();
        let mut records = self.records();
        records.log(|| format!("{} {:?}: {at:?}", call.link, call.event));
        let facts = self.facts(&records, call);
        if let Err(what) = self.begin(&mut records, call, at, &facts) {
            self.fail(format!("link {}: {:?} {what}", call.link, call.event));
        }
        if call.event == Event::Idle {
            records.note_idle(call.connection, facts.link_ns, self.world.steady_ns());
        }
        let history = history_of(&mut records.histories, call.connection);
        let seen = history.received + at.unread as u64;
        if seen > history.seen {
            (history.seen, history.heard_link_ns) = (seen, facts.link_ns);
        }
    }

    fn begin(
        &self,
        records: &mut CheckerState,
        call: &Call,
        at: LinkView,
        facts: &Facts,
    ) -> Result<(), String> {
        let key = call.link.key();
        let (shard, slot) = (key.shard(), key.index() as usize);
        ensure!(records.turning == Some(shard), "in the turn of shard {:?}", records.turning);
        ensure!(call.worker == shard, "by worker {}", call.worker);
        let record = &mut records.slots[shard][slot];
        let was_busy = std::mem::replace(&mut record.busy, true);
        ensure!(!was_busy, "while another callback runs");
        if call.event == Event::Connect {
            let is_next = !record.open && key.generation() > record.generation;
            ensure!(
                is_next,
                "but its slot has generation {}, {}",
                record.generation,
                record.state()
            );
            record.generation = key.generation();
            record.connection = call.connection;
            record.rules = Some(Rules::new(self.limits, at, facts));
        }
        let is_it = record.generation == key.generation();
        let is_open = record.open || call.event == Event::Connect;
        ensure!(
            is_it && is_open,
            "but its slot has generation {}, {}",
            record.generation,
            record.state()
        );
        ensure!(record.connection == call.connection, "with the peer {}", call.connection);
        record.rules.as_mut().map_or(Ok(()), |rules| rules.begin(call.event, at, facts))
    }

    /// Handles the return of a callback; a failed connect ends the link.
    pub(super) fn leave(&self, call: &Call, mut at: LinkView, outcome: Outcome) {
        let told = self.watch.take();
        let mut records = self.records();
        for (whom, act) in told {
            if let (Whom::Own, Act::Defers { unread }) = (whom, act) {
                // The input yields nothing after a deferral: use what was unread before it.
                at.unread = unread;
            }
            self.take_request(&mut records, Some(call), whom, act);
        }
        records.log(|| format!("{} {:?} -> {outcome:?}: {at:?}", call.link, call.event));
        let facts = self.facts(&records, call);
        let steady_ns = self.world.steady_ns();
        let CheckerState { slots, histories, tally, .. } = &mut *records;
        let key = call.link.key();
        let record = &mut slots[key.shard()][key.index() as usize];
        record.busy = false;
        let history = history_of(histories, call.connection);
        if let Some(rules) = &mut record.rules {
            let taken = rules.unread_at_begin().saturating_sub(at.unread);
            if let Err(what) = rules.end(call.event, outcome, at, &facts) {
                self.fail(format!("link {}: {:?} {what}", call.link, call.event));
            }
            if matches!(call.event, Event::Receive | Event::End) {
                history.received += taken as u64;
            }
            (history.rest, history.is_held) = (rules.rest(), rules.is_held());
            history.leaves_input = rules.leaves_input();
            history.awaits_capacity = rules.awaits_capacity();
            history.reply_ns = rules.reply_ns(&facts);
        }
        match (call.event, outcome) {
            (Event::Connect, Outcome::Closes(reason)) => {
                history.status = ConnectionStatus::Over(reason)
            }
            (Event::Connect, _) => {
                tally.connects += 1;
                record.open = true;
                (history.status, history.link) =
                    (ConnectionStatus::Open(call.link), Some(call.link));
                (history.opened_steady_ns, history.heard_link_ns) = (steady_ns, facts.link_ns);
            }
            (Event::Disconnect(reason), _) => {
                tally.disconnects += 1;
                (record.open, record.rules) = (false, None);
                history.status = ConnectionStatus::Over(reason);
            }
            _ => {}
        }
    }

    /// Handles a request, from the callback `by` or from outside of callbacks.
    fn take_request(&self, records: &mut CheckerState, by: Option<&Call>, whom: Whom, act: Act) {
        records.log(|| format!("  {whom:?} {act:?}"));
        match whom {
            Whom::Own => {
                if let Some(call) = by {
                    self.handle_request(records, call.link, act, true);
                }
            }
            Whom::Link(link) => self.handle_request(records, link, act, false),
            Whom::AllBut(except) => {
                let all = records.histories.iter().filter_map(|history| match history.status {
                    ConnectionStatus::Open(link) if Some(link) != except => Some(link),
                    _ => None,
                });
                for link in all.collect::<Vec<_>>() {
                    self.handle_request(records, link, act, false);
                }
            }
        }
    }

    fn handle_request(&self, records: &mut CheckerState, link: LinkId, act: Act, is_own: bool) {
        let key = link.key();
        let slot = records.slots.get(key.shard()).and_then(|of| of.get(key.index() as usize));
        let Some(record) = slot.filter(|record| record.generation == key.generation()) else {
            return;
        };
        let connection = record.connection;
        let facts = self.facts_of(records, key, connection);
        if matches!(act, Act::Reply(_) | Act::ReplyAndClose(_) | Act::Resume)
            && let Some(traffic) = records.watches.get(connection)
        {
            // From now on the server owes the client something.
            traffic.asked(self.world.steady_ns());
        }
        let record = &mut records.slots[key.shard()][key.index() as usize];
        if let Some(rules) = &mut record.rules {
            rules.handle_request(act, is_own, &facts);
            let (is_held, is_kicked) = (rules.is_held(), rules.is_kicked());
            let history = history_of(&mut records.histories, connection);
            (history.is_held, history.is_kicked) = (is_held, is_kicked);
        }
    }

    fn facts(&self, records: &CheckerState, call: &Call) -> Facts {
        Facts {
            is_revoked: call.is_revoked,
            is_stopping: call.is_stopping,
            ..self.facts_of(records, call.link.key(), call.connection)
        }
    }

    fn facts_of(&self, records: &CheckerState, link: LinkKey, connection: usize) -> Facts {
        let traffic = records.watches.get(connection).map(TrafficWatch::get).unwrap_or_default();
        let drained_out_at = records.drained_out_at;
        Facts {
            link_ns: self.link_ns(link),
            ran_ns: self.world.steady_ns().saturating_sub(records.paused_ns),
            turn: records.turns.get(link.shard()).copied().unwrap_or(0),
            from_server: traffic.from_server,
            peer_has_ended: traffic.client_ended,
            is_broken: traffic.faulted || traffic.reset,
            is_stopping: false,
            is_drained_out: drained_out_at.is_some_and(|until| until <= self.world.now()),
            is_revoked: false,
        }
    }

    /// The clock of the link's shard.
    fn link_ns(&self, link: LinkKey) -> u64 {
        // Shards and their ports are made in the same order.
        self.world.link_ns(u32::try_from(link.shard()).unwrap_or(0))
    }

    pub(super) fn note_planned_panic(&self, connection: usize) {
        let mut records = self.records();
        records.tally.planned_panics += 1;
        history_of(&mut records.histories, connection).panicked = true;
    }

    /// Counts a link's state that was made or dropped.
    pub(super) fn note_state(&self, is_made: bool) {
        let states = &mut self.records().tally.states;
        *states = if is_made { *states + 1 } else { states.saturating_sub(1) };
    }

    /// Stores the first failure.
    pub(super) fn fail(&self, what: String) {
        let _only_the_first_counts = self.failure.set(what);
    }

    pub(super) fn failure(&self) -> Option<&String> {
        self.failure.get()
    }

    pub(super) fn status(&self, connection: usize) -> ConnectionStatus {
        self.history(connection).status
    }

    pub(super) fn history(&self, connection: usize) -> ConnectionHistory {
        self.records().histories.get(connection).copied().unwrap_or_default()
    }

    pub(super) fn tally(&self) -> Tally {
        self.records().tally
    }

    fn records(&self) -> std::sync::MutexGuard<'_, CheckerState> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlotRecord {
    fn state(&self) -> &'static str {
        if self.open { "open" } else { "closed" }
    }
}

impl CheckerState {
    fn log(&mut self, text: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(text());
        }
    }

    fn note_idle(&mut self, connection: usize, link_ns: u64, steady_ns: u64) {
        let Some(traffic) = self.watches.get(connection).map(TrafficWatch::get) else { return };
        let history = history_of(&mut self.histories, connection);
        history.idle = Some(IdleRecord {
            silent_ns: link_ns.saturating_sub(history.heard_link_ns),
            unhandled: history.unhandled(traffic.to_server),
            moved_ns: traffic.moved_steady_ns,
            at_ns: steady_ns,
        });
    }
}

fn history_of(histories: &mut Vec<ConnectionHistory>, connection: usize) -> &mut ConnectionHistory {
    if histories.len() <= connection {
        histories.resize(connection + 1, ConnectionHistory::default());
    }
    &mut histories[connection]
}

/// The connection's number: the world gives the nth connection the address 10.0.0.0 plus n.
pub(super) fn number_of(peer: Option<IpAddr>) -> usize {
    match peer {
        Some(IpAddr::V4(address)) => (u32::from(address) & 0x00FF_FFFF) as usize,
        _ => usize::MAX,
    }
}
