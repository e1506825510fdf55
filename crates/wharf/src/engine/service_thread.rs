//! The service thread: accepts for all shards, gives them the ticks of `Builder::every`, and watches
//! their callbacks. It runs no code of the handler, so that no callback holds up the next connection.
//!
//! ```text
//!   listeners ─► port.dequeue ─► accept ─► inbox of the shard with the fewest links
//! ```

mod accept;
mod acceptor;
mod clock;
mod watch;

use crate::engine::packets::Ticker;
use crate::engine::service_thread::acceptor::Acceptor;
use crate::engine::service_thread::clock::TickClock;
use crate::engine::service_thread::watch::Watch;
use crate::engine::worker::{BATCH, Turn};
use crate::shared::{ShardPort, Shared};
use std::sync::Arc;
use wharf_port::memory::{MemoryError, try_with_capacity};
use wharf_port::port::{Completions, Outcome, PortError, Poster, Time};

/// The service thread's engine, generic over its port.
pub(crate) struct ServiceThread<P: ShardPort> {
    port: P,
    shared: Arc<Shared>,
    acceptor: Acceptor<P::Stream>,
    watch: Watch,
    clock: TickClock,
    completions: Completions<P>,
    /// The port's clock after the last dequeue.
    now: Time,
    /// It has seen the stop.
    is_stopping: bool,
}

impl<P: ShardPort> ServiceThread<P> {
    pub(crate) fn new(
        port: P,
        listeners: u32,
        shared: Arc<Shared>,
        tickers: Vec<Ticker>,
    ) -> Result<Self, MemoryError> {
        let now = port.now();
        let report_after = shared.settings.report_callbacks_after;
        let acceptor = Acceptor::new(listeners, shared.settings.backlog, shared.shards.len())?;
        Ok(Self {
            watch: Watch::new(report_after, shared.shards.len(), now)?,
            clock: TickClock::new(tickers),
            now,
            port,
            shared,
            acceptor,
            completions: try_with_capacity("completions", BATCH)?,
            is_stopping: false,
        })
    }

    /// One pass: waits for connections, assigns them to shards, and accepts more while slots are free.
    ///
    /// # Errors
    ///
    /// The port has failed; drop the service thread.
    pub(crate) fn turn(&mut self) -> Result<Turn, PortError> {
        let wait = self.due().map(|due| due.duration_since(self.port.now()));
        self.account();
        self.port.dequeue(&mut self.completions, wait)?;
        self.now = self.port.now();
        let mut completions = std::mem::take(&mut self.completions);
        for completion in completions.drain(..) {
            // What is posted only ends the wait.
            if !matches!(completion.outcome, Outcome::Posted(_)) {
                self.listener_completed(completion.key, completion.outcome);
            }
        }
        self.completions = completions;
        self.check_stop();
        self.arm_listeners();
        self.watch.look(&self.shared, self.now);
        if !self.is_stopping {
            self.clock.tick(&self.shared, self.now);
        }
        if self.is_stopping && self.acceptor.is_closed() {
            self.shared.end_accepting();
        }
        // It watches until the last callback has returned.
        let is_done = !self.shared.is_accepting() && self.shared.shards_have_ended();
        Ok(if is_done { Turn::Done } else { Turn::Continue })
    }

    /// When the next pass is due without a completion.
    fn due(&self) -> Option<Time> {
        let ticks = self.clock.due().filter(|_| !self.is_stopping);
        [self.acceptor.retry_at(), self.watch.due(), ticks].into_iter().flatten().min()
    }

    /// Counts the pass that ends.
    fn account(&mut self) {
        let stats = &self.shared.service.stats;
        let ns = self.port.now().duration_since(self.now).as_nanos();
        let ns = u64::try_from(ns).unwrap_or(u64::MAX);
        stats.passes.add(1);
        stats.last_pass_ns.set(ns);
        stats.longest_pass_ns.set(stats.longest_pass_ns.get().max(ns));
        let port = self.port.counters();
        stats.accept_aborts.set(port.accept_aborts);
        stats.waits.set(port.waits);
    }

    /// Stops accepting when the server is stopping.
    fn check_stop(&mut self) {
        if !self.is_stopping && self.shared.stopping().is_some() {
            self.is_stopping = true;
            self.stop_accepting();
        }
    }

    /// The sending side of its inbox, through which shards wake it.
    pub(crate) fn poster(&self) -> Poster<P::Packet> {
        self.port.poster()
    }
}

impl<P: ShardPort> Drop for ServiceThread<P> {
    fn drop(&mut self) {
        self.end_listeners();
        // It watches no more.
        for shard in 0..self.shared.shards.len() {
            self.shared.note_stall(shard, None);
        }
    }
}

#[cfg(feature = "sim")]
impl<P: ShardPort> ServiceThread<P> {
    pub(crate) fn port(&self) -> &P {
        &self.port
    }

    /// When its next pass is due without a completion.
    pub(crate) fn wakes_at(&self) -> Option<Time> {
        self.due()
    }

    /// Accepted connections that wait for a slot.
    pub(crate) fn waiting_count(&self) -> usize {
        self.acceptor.waiting.len()
    }

    /// Whether a listener waits for a free slot.
    pub(crate) fn waits_for_slot(&self) -> bool {
        !self.is_stopping && self.acceptor.waits_for_slot()
    }
}
