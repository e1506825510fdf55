//! Ends a run: clients finish, the server stops, and all slots and buffers must be free.

use crate::engine::inspect::ensure;
use crate::handler::Handler;
use crate::sim::checker::ConnectionStatus;
use crate::sim::early_end::nanos;
use crate::sim::failure::{SimFailure, SimReport};
use crate::sim::simulation::Simulation;
use crate::sim::{FaultKind, Faults, SimClient};
use std::sync::atomic::Ordering;
use std::time::Duration;

impl<H, S, W> Simulation<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// Ends all faults and waits until every client has ended: clients without a fault must get what
    /// they wait for. It removes clients with a fault, and closes links whose connection the network
    /// has lost.
    ///
    /// # Errors
    ///
    /// A client that waits without end, or ended early without a cause; or as [`step`](Self::step).
    pub fn finish_clients(&mut self) -> Result<(), SimFailure> {
        let latency_ns = self.world.faults().latency_ns;
        self.world.set_faults(Faults::none().with_latency_ns(latency_ns));
        self.pauses.max = Duration::ZERO;
        let mut deadline = self.now().saturating_add(FINISH_MAX);
        let mut retries = 2;
        let steps_max = self.steps + FINISH_STEPS_MAX;
        self.close_faulted_clients();
        while self.clients_open > 0 || self.links_open() > 0 {
            let gave_up = self.steps.is_multiple_of(64) && self.close_faulted_clients();
            let late = self.now() > deadline || self.steps > steps_max;
            if !late && self.step()? {
                continue;
            }
            if late || !self.close_faulted_clients() {
                // A fault may show only now: repeat.
                if late && (gave_up || self.close_faulted_clients()) && retries > 0 {
                    retries -= 1;
                    deadline = self.now().saturating_add(FINISH_MAX);
                    continue;
                }
                let what = self.describe_waiting(if late { "too long" } else { "without end" });
                return Err(self.fail(what));
            }
        }
        self.check_clients().map(drop).map_err(|what| self.fail(what))
    }

    /// Stops the server, and waits until it has stopped.
    ///
    /// # Errors
    ///
    /// The server did not stop within the drain timeout and the injected delays, or its final state is
    /// wrong; or as [`step`](Self::step).
    pub fn stop(&mut self, drain: Duration) -> Result<(), SimFailure> {
        self.handle().stop(drain);
        self.note_stop();
        let jumps_before = self.world.fault_counts().of(FaultKind::ClockJump);
        let begin_ns = self.world.steady_ns();
        // On the steady clock, as the pauses: small jumps of the other add up during a long pause.
        let time_max_ns = nanos(drain.saturating_add(STOP_SLACK));
        let steps_max = self.steps + FINISH_STEPS_MAX;
        while self.service.is_some() || self.shards.iter().any(|shard| shard.worker.is_some()) {
            let went_on = self.step()?;
            let jumped =
                self.jumps && self.world.fault_counts().of(FaultKind::ClockJump) > jumps_before;
            let paused_ns = self.pauses.within(begin_ns, u64::MAX);
            let took_ns = self.world.steady_ns() - begin_ns;
            let is_late = took_ns > time_max_ns.saturating_add(paused_ns);
            if !went_on || self.steps > steps_max || (!jumped && is_late) {
                let left = self.links_open();
                let why = if went_on { "in time" } else { "any more" };
                let what = format!("the server does not stop {why}: {left} links are left");
                return Err(self.fail(what));
            }
        }
        Ok(())
    }

    /// [Finishes the clients](Self::finish_clients), [stops](Self::stop) the server, and checks that all
    /// slots and buffers are free.
    ///
    /// # Errors
    ///
    /// What failed.
    pub fn finish(mut self) -> Result<SimReport, SimFailure> {
        if self.shared.stopping().is_none() {
            self.finish_clients()?;
            self.stop(DRAIN)?;
        }
        self.finish_stopped()
    }

    fn finish_stopped(mut self) -> Result<SimReport, SimFailure> {
        let steps_max = self.steps + FINISH_STEPS_MAX;
        while self.clients_open > 0 && self.steps < steps_max && self.step()? {}
        for number in 0..u32::try_from(self.clients.len()).unwrap_or(u32::MAX) {
            let left = self.clients[number as usize].connection.is_some();
            let ended_early = left.then(|| "when the server stopped".to_owned());
            self.end_client(number, ended_early, false);
        }
        while self.world.advance() {}
        let verdict = self
            .check_clients()
            .and_then(|early_ends| self.check_all_released().map(|()| early_ends));
        let early_ends = verdict.map_err(|what| self.fail(what))?;
        let stats = self.stats();
        let clients_ended_early = early_ends.total();
        Ok(SimReport {
            steps: self.steps,
            completions: stats.workers.iter().map(|worker| worker.completions).sum(),
            clients_completed: self.clients.len() as u64 - clients_ended_early,
            clients_ended_early,
            early_ends,
            time: self.now(),
            faults: self.world.fault_counts(),
            stats,
            trace: self.world.trace(),
        })
    }

    /// Checks a shard that is done: it must have no links, and all its buffers must be free.
    pub(super) fn shard_done(&mut self, number: usize) -> Result<(), String> {
        let shard = &mut self.shards[number];
        let (ledger, entries) = (shard.pool.ledger(), shard.pool.free_entry_count());
        ensure!(shard.slot_counts.live == 0, "shard {number} is done with {:?}", shard.slot_counts);
        let provided =
            shard.worker.as_ref().map_or(0, |worker| worker.port().inner.provided_buffers());
        let free = ledger.free + provided;
        ensure!(free == shard.pool.capacity(), "shard {number} has buffers in use: {ledger:?}");
        let large = shard.pool.large();
        let is_out = large.is_some_and(|large| large.free_count() < large.capacity());
        ensure!(!is_out, "shard {number} has large buffers in use: {large:?}");
        ensure!(entries == shard.entries, "shard {number} has {entries} of {}", shard.entries);
        self.shared.shards[number].ended.store(true, Ordering::Release);
        self.shared.service.wake();
        let Some(worker) = shard.worker.take() else { return Ok(()) };
        let stale = worker.stale();
        ensure!(stale == 0, "shard {number} has seen {stale} stale completions");
        drop(worker);
        if self.shards.iter().all(|shard| shard.worker.is_none()) {
            self.handler.on_stop(&self.handle());
        }
        Ok(())
    }

    fn check_all_released(&self) -> Result<(), String> {
        self.check_counters()?;
        let open = self.links_open();
        ensure!(open == 0, "{open} slots are still counted");
        for (sender, posts) in self.shared.post_pools.iter().enumerate() {
            let ledger = posts.ledger();
            let all = ledger.free == ledger.total();
            ensure!(all, "sender {sender} has buffers for posts in use: {ledger:?}");
        }
        let connections = self.world.connections();
        ensure!(connections == 0, "{connections} connections are still open");
        Ok(())
    }

    /// Removes clients with a fault, which cannot get what they wait for, and closes the links of those
    /// whose end the server cannot see, as an operator would. `false`: there was none.
    fn close_faulted_clients(&mut self) -> bool {
        let swallows = self.world.fault_counts().of(FaultKind::BlackHole) > 0;
        let handle = self.handle();
        let mut did_something = false;
        for number in 0..u32::try_from(self.clients.len()).unwrap_or(u32::MAX) {
            let connection = self.clients[number as usize].connection.as_ref();
            if connection.is_some_and(SimClient::may_lose_bytes) {
                self.end_client(number, Some("by a fault".to_owned()), false);
                did_something = true;
            }
            let peer = &self.clients[number as usize];
            if peer.connection.is_none()
                && (peer.faulted || swallows)
                && let ConnectionStatus::Open(link) = self.checker.status(number as usize)
            {
                handle.link(link).close();
                did_something = true;
            }
        }
        did_something
    }

    fn links_open(&self) -> u32 {
        self.shared.shards.iter().map(|shard| shard.slots_taken.load(Ordering::SeqCst)).sum()
    }

    fn describe_waiting(&self, how_long: &str) -> String {
        let waiting = self.clients.iter().enumerate();
        let mut waiting = waiting.filter_map(|(number, peer)| {
            let status = self.checker.status(number);
            peer.client.as_ref().map(|client| (number, client.waits_for(), status))
        });
        match waiting.next() {
            Some((number, what, status)) => format!(
                "client {number} waits {how_long} for {what} (at the server: {status:?}), and {} more",
                waiting.count()
            ),
            None => {
                let open = |number: &usize| {
                    matches!(self.checker.status(*number), ConnectionStatus::Open(_))
                };
                let who = (0..self.clients.len()).find(open);
                let faulted = who.is_some_and(|number| self.clients[number].faulted);
                let status = who.map(|number| self.checker.status(number));
                format!(
                    "all clients are gone, but {} links stay {how_long}, one of them that of \
                     client {who:?} (faulted: {faulted}, at the server: {status:?})",
                    self.links_open()
                )
            }
        }
    }
}

/// Simulated time in which all clients must end after the faults: several flush timeouts of 30 s.
const FINISH_MAX: Duration = Duration::from_secs(300);
const FINISH_STEPS_MAX: u64 = 4_000_000;
/// The drain timeout of [`Simulation::finish`].
const DRAIN: Duration = Duration::from_secs(5);
/// Time that a stop may take beyond its drain timeout, for delays of single operations.
const STOP_SLACK: Duration = Duration::from_secs(5);
