//! The invariants of a simulation.

use crate::engine::inspect::ensure;
use crate::engine::service_thread::ServiceThread;
use crate::handler::Handler;
use crate::sim::simulation::Simulation;
use crate::stats::{Counter, ShardStats};
use std::sync::atomic::Ordering;

impl<H, S, W> Simulation<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// Checks the invariants after a step: the callbacks' records each time, the counters and the free
    /// slots every 8 steps (fewer with many shards), the tables, buffers and waits every 64. A shard's
    /// links were checked after its turn.
    pub(super) fn check(&mut self) -> Result<(), String> {
        self.checker.handle_requests();
        if let Some(failure) = self.checker.failure() {
            return Err(failure.clone());
        }
        self.note_free_slots();
        if self.steps.is_multiple_of(COUNTERS_EACH * (1 + self.shards.len() as u64 / 4)) {
            self.check_counters()?;
            self.check_free_slots()?;
        }
        if self.steps.is_multiple_of(BUFFERS_EACH) {
            self.check_tables()?;
            self.check_waits()?;
        }
        Ok(())
    }

    /// Notes since when there has been a free slot.
    fn note_free_slots(&mut self) {
        let has_free_slot = self.shared.free_slots() > 0 && self.shared.stopping().is_none();
        if has_free_slot != self.free_slot_since_ns.is_some() {
            self.free_slot_since_ns = has_free_slot.then(|| self.world.steady_ns());
        }
    }

    /// The counters agree with each other, with the tables, and with the callbacks.
    pub(super) fn check_counters(&self) -> Result<(), String> {
        let sum = |counter: fn(&ShardStats) -> &Counter| -> u64 {
            self.shared.shards.iter().map(|shard| counter(&shard.stats).get()).sum()
        };
        let open: u64 = self
            .shared
            .shards
            .iter()
            .map(|s| u64::from(s.slots_taken.load(Ordering::SeqCst)))
            .sum();
        let limit = u64::from(self.settings.links);
        ensure!(open <= limit, "{open} links, of {limit}");
        let live: u64 = self.shards.iter().map(|shard| u64::from(shard.slot_counts.live)).sum();
        ensure!(open >= live, "{live} links live, but {open} counted");
        // A connection on the way to its shard has a reserved slot.
        let waiting = self.service.as_ref().map_or(0, ServiceThread::waiting_count);
        let pending = open - live + waiting as u64;
        let service = &self.shared.service.stats;
        let [accepted, refused, rejects, connects] = [
            service.accepted.get(),
            service.refused_full.get()
                + service.refused_stopping.get()
                + sum(|stats| &stats.refused_stopping),
            sum(|stats| &stats.rejects),
            sum(|stats| &stats.connects),
        ];
        ensure!(
            accepted == refused + rejects + connects + pending,
            "{accepted} accepted, but {refused} refused, {rejects} rejected, {connects} connected \
             and {pending} slots reserved"
        );
        let connected: u64 = self.shards.iter().map(|s| u64::from(s.slot_counts.connected)).sum();
        let shards = self.shared.shards.iter();
        let closes: u64 = shards.flat_map(|shard| &shard.stats.closes).map(Counter::get).sum();
        ensure!(
            connects == closes + connected,
            "{connects} connects, {closes} closes, {connected}"
        );
        let tally = self.checker.tally();
        ensure!(
            (tally.connects, tally.disconnects) == (connects, closes),
            "the handler saw {tally:?}, the counters say {connects} and {closes}"
        );
        let open = tally.connects - tally.disconnects;
        ensure!(tally.states == open, "{} states of links live, of {open} links", tally.states);
        let panics = sum(|stats| &stats.handler_panics);
        ensure!(panics == tally.planned_panics, "{panics} panics, {}", tally.planned_panics);
        Ok(())
    }

    /// While there is a free slot, the service thread does not sleep without an accept.
    fn check_free_slots(&self) -> Result<(), String> {
        let wants = self.service.as_ref().is_some_and(ServiceThread::waits_for_slot);
        let runs = self.is_runnable(self.shards.len());
        let sleeps = wants && self.shared.stopping().is_none() && !runs;
        ensure!(
            !sleeps || self.shared.free_slots() == 0,
            "the service thread waits for a slot, but one is free"
        );
        Ok(())
    }

    /// Every slot is in one list, and the counts of the buffers agree with their owner tags.
    pub(super) fn check_tables(&self) -> Result<(), String> {
        for (number, shard) in self.shards.iter().enumerate() {
            let Some(worker) = &shard.worker else { continue };
            let said = |what| format!("shard {number}: {what}");
            worker.check_slot_lists().map_err(said)?;
        }
        for posts in &self.shared.post_pools {
            let ledger = posts.ledger();
            ensure!(
                ledger.free == posts.free_count(),
                "posts: {ledger:?}, {} free",
                posts.free_count()
            );
        }
        Ok(())
    }
}

/// Steps between two checks: a check costs about as much as a step.
const COUNTERS_EACH: u64 = 8;
const BUFFERS_EACH: u64 = 64;
