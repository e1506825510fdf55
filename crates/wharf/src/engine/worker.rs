//! One shard: a port, its links, and the thread's worker context. `turn` is the whole cycle.
//!
//! ```text
//!   socket ─► kernel ─► port.dequeue ─► dispatch ─► Handler ─► send queue ─► flush ─► port.submit
//!      ▲                                                                                  │
//!      └───────────────────────────────── kernel ◄────────────────────────────────────────┘
//! ```
//!
//! A callback cannot call the port: it queues, and the flush at the end of the turn submits for all
//! links. So no callback runs within another.

mod clock;

use crate::engine::callbacks::Callbacks;
use crate::engine::close::drain::Drain;
use crate::engine::loans::lending::Lending;
use crate::engine::packets::Sources;
use crate::engine::post::pending::Pending;
use crate::engine::serve::again::Again;
use crate::engine::timeout::timers::Timers;
use crate::link::core::ShardState;
use crate::service::Service;
use crate::shared::{Command, ShardPort, Shared};
use crate::vocabulary::error::StartError;
use clock::{Clock, Dequeued, Waited, lag_max};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wharf_port::memory::{LedgerView, MemoryError, try_with_capacity};
use wharf_port::port::{Completions, Operation, Port, PortError, Poster, Socket, Time};

/// Maximum of completions in one turn; the next turn takes the rest without sleeping.
///
/// 256 completions share one system call, and the memory that they use fits the cache.
pub(super) const BATCH: usize = 256;
/// One shard's engine, generic over its port and its handler's types.
pub(crate) struct Worker<P: ShardPort, V: Service> {
    pub(super) port: P,
    /// The links.
    pub(super) core: ShardState,
    pub(super) callbacks: Callbacks<V>,
    pub(super) pending: Pending,
    pub(super) timers: Timers,
    pub(super) lending: Lending,
    pub(super) drain: Drain,
    pub(super) clock: Clock,
    pub(super) again: Again,
    completions: Completions<P>,
}

/// Whether a thread of the server continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Continue,
    /// The server is stopping, and the thread has nothing left to do.
    Done,
}

impl<P: ShardPort, V: Service> Worker<P, V> {
    /// Makes the shard, and its context by `on_worker_start`.
    ///
    /// # Errors
    ///
    /// There is no memory for a table, or `on_worker_start` failed.
    pub(crate) fn new(
        shard: u8,
        port: P,
        handler: Arc<V::Handler>,
        shared: Arc<Shared>,
        packets: Sources<V::Context>,
    ) -> Result<Self, StartError> {
        let mut worker = Self::without_context(shard, port, handler, shared, packets)
            .map_err(|error| StartError::buffers(&error))?;
        worker.update_loans();
        let made = worker.callbacks.make_context(&worker.core);
        made.map_err(|reason| StartError::handler(&reason))?;
        Ok(worker)
    }

    fn without_context(
        shard: u8,
        port: P,
        handler: Arc<V::Handler>,
        shared: Arc<Shared>,
        packets: Sources<V::Context>,
    ) -> Result<Self, MemoryError> {
        let slots = shared.settings.links_per_shard();
        // The instant is read first, so that no `Link::now` is in the future.
        #[expect(clippy::disallowed_methods, reason = "once: what the port's clock counts from")]
        let zero = (Instant::now(), port.now());
        let (now, pool) = (port.now(), port.pool().clone());
        let lag_max = lag_max(&shared.settings.timeouts());
        let mut worker = Self {
            callbacks: Callbacks::new(handler, &shared, slots, packets)?,
            pending: Pending::new(slots)?,
            timers: Timers::new(&shared.settings, now),
            lending: Lending::new(slots)?,
            drain: Drain::default(),
            clock: Clock::new(now, lag_max),
            again: Again::new(slots)?,
            completions: try_with_capacity("completions", BATCH)?,
            core: ShardState::new(shard, slots, pool, shared, zero)?,
            port,
        };
        (worker.core.now, worker.core.clock) = (now, now);
        Ok(worker)
    }

    /// One turn: waits for completions, handles them, and submits what callbacks have queued.
    ///
    /// # Errors
    ///
    /// The port has failed; drop the worker.
    pub(crate) fn turn(&mut self) -> Result<Turn, PortError> {
        // Loaded before the dequeue: if the service thread has ended accepting, the dequeue gets all
        // connections that it posted.
        let accepting_ended = !self.core.shared.is_accepting();
        self.dequeue(accepting_ended)?;
        self.dispatch_all();
        self.handle_marks();
        self.deliver_packets();
        self.serve_again();
        self.retry_posts();
        self.expire_timeouts();
        self.check_stop();
        self.update_loans();
        self.flush();
        let inbox_emptied = accepting_ended && self.clock.is_short();
        Ok(if self.is_done(inbox_emptied) { Turn::Done } else { Turn::Continue })
    }

    /// Dequeues completions; waits for them if the shard has nothing else to do.
    fn dequeue(&mut self, accepting_ended: bool) -> Result<(), PortError> {
        let began = self.port.now();
        self.account(began);
        // The wake-up from `end_accepting` may have ended the previous turn's wait, so this turn must
        // not wait.
        let may_be_over = accepting_ended && self.is_done(true);
        let link_time = self.link_time(began);
        let wait = self.wait(began);
        let is_due = wait == Some(Duration::ZERO) || self.must_check_posts(link_time);
        let at_once = is_due || may_be_over || self.has_work();
        let asked = if at_once { Some(Duration::ZERO) } else { wait };
        self.core.running().end();
        self.port.dequeue(&mut self.completions, asked)?;
        let turn_start = self.port.now();
        let Waited { counted, paused } = self.clock.dequeued(&Dequeued {
            began,
            asked,
            turn_start,
            is_empty: self.completions.is_empty(),
            is_short: self.completions.len() < BATCH,
            is_due,
            links: self.core.slots.live_count(),
        });
        self.drain.extend(paused);
        self.core.now = link_time.saturating_add(counted);
        self.core.clock = turn_start;
        self.core.turn = self.core.turn.wrapping_add(1);
        Ok(())
    }

    fn dispatch_all(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        self.core.stats().completions.add(completions.len() as u64);
        for completion in completions.drain(..) {
            self.dispatch(completion);
        }
        self.completions = completions;
        if self.core.marks().any() || self.has_work() {
            self.clock.note_work();
        }
    }

    /// Whether the turn has work without a completion.
    pub(super) fn has_work(&self) -> bool {
        !self.again.is_empty() || self.pending.has_marks() || self.delivers_packets()
    }

    /// Whether all packets that were in the inbox `turns` turns ago are handled: the last dequeue was
    /// short, or there were more full turns than the inbox has packets for, of which every second one
    /// begins with packets.
    pub(super) fn has_handled_inbox(&self, turns: u32) -> bool {
        let packets = self.core.shared.settings.inbox_capacity as usize;
        let turns_max = 2 * u32::try_from(packets.div_ceil(BATCH)).unwrap_or(u32::MAX / 4) + 2;
        self.clock.is_short() || turns > turns_max
    }

    /// The links' clock at `now`.
    fn link_time(&self, now: Time) -> Time {
        self.core.now.saturating_add(self.clock.passed(now))
    }

    /// Time until the next timeout, for which the port may wait; `None` if there is none.
    pub(super) fn wait(&mut self, now: Time) -> Option<Duration> {
        let link_time = self.link_time(now);
        let drain = self.drain.until().map(|time| time.duration_since(now));
        let dues = [self.lending.due(), self.pending.retry_at()];
        let waits = dues.map(|due| due.map(|time| time.duration_since(link_time)));
        let timers = self.timers.time_to_next(link_time);
        waits.into_iter().chain([drain, timers]).flatten().min()
    }

    /// Publishes the counters of the previous turn.
    fn account(&mut self, now: Time) {
        let stats = self.core.stats();
        stats.turns.add(1);
        stats.busy_ns.add(now.0.saturating_sub(self.clock.turn_start().0));
        let port = self.port.counters();
        stats.buffer_waits.set(port.buffer_waits);
        stats.waits.set(port.waits);
    }

    /// The sending side of the shard's inbox, and the counts of its buffers.
    pub(crate) fn poster_and_ledger(&self) -> (Poster<Command<P::Stream>>, LedgerView) {
        (self.port.poster(), self.core.pool.ledger_view())
    }

    /// Takes the error with which the shard stopped the server, if it did.
    pub(crate) fn failure(&mut self) -> Option<String> {
        self.callbacks.take_failure()
    }
}

impl<P: ShardPort, V: Service> Drop for Worker<P, V> {
    fn drop(&mut self) {
        self.core.running().end();
        self.end_streams();
        self.callbacks.drop_all(&self.core);
    }
}

/// Submits an operation.
///
/// # Panics
///
/// If the port rejects it, which would be a bug: the engine keeps at most one operation of each kind in
/// flight on a socket, and none on a closing one.
pub(super) fn submit<P: Port>(port: &mut P, socket: Socket, operation: Operation) {
    if let Err(error) = port.submit(socket, operation) {
        unreachable!("the port refuses an operation: {error}");
    }
}
