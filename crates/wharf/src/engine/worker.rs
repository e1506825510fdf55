//! One shard: a port, its links, and the thread's worker context. `turn` is the whole circle.
//!
//! ```text
//!   socket ─► kernel ─► port.dequeue ─► dispatch ─► Handler ─► send queue ─► flush ─► port.submit
//!      ▲                                                                                  │
//!      └───────────────────────────────── kernel ◄────────────────────────────────────────┘
//! ```
//!
//! A callback never reaches the port: it queues, and the flush at the end of the turn submits for
//! all links at once. So no callback is entered again while it runs.

use crate::engine::acceptor::Acceptor;
use crate::engine::broadcast::Broadcast;
use crate::engine::callbacks::Callbacks;
use crate::link::core::Core;
use crate::link::wheel::Wheel;
use crate::plant::EnginePlant;
use crate::service::Service;
use crate::shared::handle::Handle;
use crate::shared::marks::Mark;
use crate::shared::{Command, Shared};
use crate::shares::Borrower;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wharf_port::memory::LedgerView;
use wharf_port::port::{Completions, Operation, Port, PortError, Poster, Socket, Time};

/// Completions that one turn takes; the rest waits for the next turn, which does not sleep.
///
/// Enough that a system call is shared by many messages; few enough that what they touch stays in
/// the cache.
pub(super) const BATCH: usize = 256;
/// A turn that takes longer, or a wait that lasts longer than it was asked to, has been held up.
const LAG_MAX: Duration = Duration::from_millis(100);

/// One shard's engine, generic over its port.
pub(crate) struct Worker<P: Port<Packet = Command<<P as Port>::Stream>>, V: Service> {
    pub(super) port: P,
    pub(super) core: Core,
    pub(super) wheel: Wheel,
    pub(super) acceptor: Acceptor<P::Stream>,
    /// Every shard's inbox, for connections that this one accepts.
    pub(super) posters: Box<[Poster<Command<P::Stream>>]>,
    pub(super) callbacks: Callbacks<V>,
    /// Where a callback's input is copied together.
    pub(super) scratch: Vec<u8>,
    /// What other threads have asked of links, until all that they posted before is delivered.
    pub(super) marked: Vec<(u32, u32, Mark)>,
    /// Turns since the first of that was seen.
    pub(super) turns_to_marks: u32,
    /// A broadcast that is not in every inbox yet.
    pub(super) held: Option<Broadcast>,
    /// Links of which a post to others was refused, and when they are told that they can try again.
    pub(super) refused: VecDeque<u32>,
    pub(super) retry_at: Option<Time>,
    /// Links with more input than one turn's calls could take.
    pub(super) again: VecDeque<u32>,
    /// How often an open link's progress is looked at, in nanoseconds.
    pub(super) look_every_ns: Option<u64>,
    /// Room to list those that hold loans.
    pub(super) borrowers: Vec<Borrower>,
    /// When loans are looked at next, while somebody waits for one.
    pub(super) loans_due: Option<Time>,
    /// Receives are being cancelled because loans have become tight.
    pub(super) stops_receives: bool,
    /// Refused posts that the shard has looked at, and when it does so again.
    pub(super) posts_refused: u64,
    pub(super) posts_due: Time,
    /// The last dequeue came back short: what there was to hear of links has been heard.
    pub(super) may_time_out: bool,
    /// Full dequeues in a row.
    full_turns: u32,
    /// When the drain ends by force.
    pub(super) drain_until: Option<Time>,
    /// Links have begun to drain: what was posted before the stop has been handed out.
    pub(super) drains: bool,
    /// Turns since the shard saw that the server stops, until it drains.
    pub(super) turns_to_drain: u32,
    /// Why the shard stopped the server.
    pub(super) failure: Option<String>,
    completions: Completions<P>,
    /// When the last dequeue came back, by the port's clock.
    pub(super) woke: Time,
    /// What was left of the wait when it came back with nothing; `None`: it had no end.
    unslept: Option<Duration>,
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    GoOn,
    /// The server is stopping and this shard has no links left.
    Done,
}

impl<P: Port<Packet = Command<<P as Port>::Stream>>, V: Service> Worker<P, V> {
    /// Makes the shard and, by `on_worker_start`, its context.
    pub(crate) fn new(
        shard: u8,
        port: P,
        handler: Arc<V::Handler>,
        shared: Arc<Shared>,
    ) -> Result<Self, String> {
        let places = shared.settings.links_per_shard();
        let wheel = Wheel::new(super::timeout_scale(&shared.settings), port.now());
        let look_every_ns = super::time_out::look_every_ns(&shared.settings);
        // The moment first, so that no link's time lies in the future.
        #[expect(clippy::disallowed_methods, reason = "once: what the port's clock counts from")]
        let zero = (Instant::now(), port.now());
        let mut worker = Self {
            callbacks: Callbacks {
                server: Handle::new(Arc::clone(&shared)),
                handler,
                context: None,
                states: (0..places).map(|_| None).collect(),
            },
            scratch: Vec::with_capacity(shared.settings.input_bytes as usize),
            marked: Vec::with_capacity(places as usize),
            turns_to_marks: 0,
            held: None,
            refused: VecDeque::with_capacity(places as usize),
            retry_at: None,
            core: Core::new(shard, places, port.pool().clone(), shared, zero),
            wheel,
            acceptor: Acceptor::new(),
            posters: Box::default(),
            again: VecDeque::with_capacity(places as usize),
            look_every_ns,
            borrowers: Vec::with_capacity(places as usize),
            loans_due: None,
            stops_receives: false,
            posts_refused: 0,
            posts_due: Time::default(),
            may_time_out: true,
            full_turns: 0,
            drain_until: None,
            drains: false,
            turns_to_drain: 0,
            failure: None,
            completions: Completions::<P>::with_capacity(BATCH),
            woke: port.now(),
            unslept: Some(Duration::ZERO),
            port,
        };
        (worker.core.now, worker.core.clock) = (worker.woke, worker.woke);
        worker.share_buffers();
        worker.make_context()?;
        Ok(worker)
    }

    /// One round: waits, handles what has completed, and sends what that has queued.
    ///
    /// # Errors
    ///
    /// The port is broken; the worker is to be dropped.
    pub(crate) fn turn(&mut self) -> Result<Turn, PortError> {
        let now = self.port.now();
        self.account(now);
        let nothing_is_handed_over = !self.core.shared.is_accepting();
        // The wake-up that told so may have ended the turn before: then this one must not wait.
        let may_be_over = nothing_is_handed_over && self.is_done(true);
        let at_once = may_be_over
            || !self.again.is_empty()
            || !self.marked.is_empty()
            || self.is_to_look_at_posts(now);
        let wait = if at_once { Some(Duration::ZERO) } else { self.wait(now) };
        let link_time = self.link_time(now);
        self.port.dequeue(&mut self.completions, wait)?;
        let is_short = self.completions.len() < BATCH;
        let saw_all = nothing_is_handed_over && is_short;
        self.woke = self.port.now();
        self.core.clock = self.woke;
        self.pass_time(link_time, self.woke.since(now), wait);
        self.core.turn = self.core.turn.wrapping_add(1);
        // One that came back early with nothing has not looked: a signal, or a wake-up, ended it.
        let came_early =
            self.completions.is_empty() && wait.is_none_or(|asked| self.woke.since(now) < asked);
        self.note_dequeue(is_short && !came_early, is_short);

        let mut completions = std::mem::take(&mut self.completions);
        self.core.stats().completions.add(completions.len() as u64);
        for completion in completions.drain(..) {
            self.dispatch(completion);
        }
        self.completions = completions;

        // What is done now takes its time, as a callback of a completion does.
        if self.core.marks().any() || !self.marked.is_empty() || !self.again.is_empty() {
            self.unslept = Some(Duration::ZERO);
        }
        self.obey_marks(is_short);
        self.serve_again();
        self.retry_posts();
        self.expire();
        self.check_stop(is_short);
        self.accept_more();
        self.share_buffers();
        self.flush();
        Ok(if self.is_done(saw_all) { Turn::Done } else { Turn::GoOn })
    }

    /// Whether time-outs may end links now: not while more is to be heard of them, because a
    /// callback or a pause of the process may have held it up. Nor for ever: after so many full
    /// turns each link has had its own.
    fn note_dequeue(&mut self, saw_all: bool, is_short: bool) {
        self.full_turns = if is_short { 0 } else { self.full_turns + 1 };
        let rounds = 2 * self.core.slots.live_count() / BATCH + 2;
        self.may_time_out = saw_all || self.full_turns as usize > rounds;
    }

    /// After so many turns what was in the inbox before has been handed out, also where each is
    /// full: every second one begins with packets.
    pub(super) fn turns_of_an_inbox(&self) -> u32 {
        let packets = self.core.shared.settings.inbox_capacity as usize;
        2 * u32::try_from(packets.div_ceil(BATCH)).unwrap_or(u32::MAX / 4) + 2
    }

    /// The links' clock at `now`. It runs with the port's, but leaves out what no link is to blame
    /// for: callbacks that take long, and pauses of the process.
    pub(super) fn link_time(&self, now: Time) -> Time {
        let passed = now.since(self.woke);
        self.core.now.after(self.unslept.map_or(passed, |unslept| passed.min(unslept + LAG_MAX)))
    }

    /// The port has waited: for as long as it was asked to, or longer if the process was held up.
    fn pass_time(&mut self, link_time: Time, waited: Duration, asked: Option<Duration>) {
        let counted = asked.map_or(waited, |asked| waited.min(asked + LAG_MAX));
        let planted = self.core.shared.planted.is(EnginePlant::LinkClockIsPorts);
        self.core.now = if planted { self.woke } else { link_time.after(counted) };
        // One that came back early with nothing goes on waiting in the next turn.
        let sleeps_on = self.completions.is_empty();
        self.unslept = if sleeps_on {
            asked.map(|asked| asked.saturating_sub(waited))
        } else {
            Some(Duration::ZERO)
        };
    }

    /// How long the port may wait: until the next time-out; `None` if there is none.
    pub(super) fn wait(&mut self, now: Time) -> Option<Duration> {
        let (real_now, now) = (now, self.link_time(now));
        let drain = self.drain_until.map(|time| time.since(real_now));
        let accept = self.acceptor.retry_at().map(|time| time.since(now));
        let loans = self.loans_due.map(|time| time.since(now));
        let retry = self.retry_at.map(|time| time.since(now));
        [self.wheel.wait(now), drain, accept, loans, retry].into_iter().flatten().min()
    }

    /// Publishes the counts of the turn that is over.
    fn account(&mut self, now: Time) {
        let stats = self.core.stats();
        stats.turns.add(1);
        stats.busy_ns.add(now.0.saturating_sub(self.woke.0));
        let port = self.port.counters();
        stats.receive_pauses.set(port.receive_pauses);
        stats.accept_aborts.set(port.accept_aborts);
        stats.waits.set(port.waits);
    }

    /// How other threads reach this shard, and what they see of its buffers.
    pub(crate) fn reached_by(&self) -> (Poster<Command<P::Stream>>, LedgerView) {
        (self.port.poster(), self.core.pool.ledger_view())
    }

    /// Why the shard stopped the server, if it did.
    pub(crate) fn failure(&mut self) -> Option<String> {
        self.failure.take()
    }
}

/// Hands an operation to the port.
///
/// # Panics
///
/// If the port refuses it: of each kind only one is in flight on a socket, and none on one that closes.
pub(super) fn submit<P: Port>(port: &mut P, socket: Socket, operation: Operation) {
    if let Err(error) = port.submit(socket, operation) {
        unreachable!("the port refuses an operation: {error}");
    }
}
