//! The end of a run: everybody gets what was promised, the server stops, and all is home.

use crate::engine::ensure;
use crate::handler::Handler;
use crate::sim::contract::Fate;
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
    /// Ends all trouble and waits until every client has ended: whoever is not damaged must get
    /// what it waits for. Damaged clients go, and links that the network has swallowed are closed.
    ///
    /// # Errors
    ///
    /// A client that waits for ever, or was cut off without a reason; or as [`step`](Self::step).
    pub fn settle(&mut self) -> Result<(), SimFailure> {
        let latency_ns = self.world.faults().latency_ns;
        self.world.set_faults(Faults::none().with_latency_ns(latency_ns));
        let mut deadline = self.now().after(SETTLE_MAX);
        let mut chances = 2;
        let steps_max = self.steps + SETTLE_STEPS_MAX;
        self.give_up_damaged();
        while self.clients_open > 0 || self.links_open() > 0 {
            let gave_up = self.steps.is_multiple_of(64) && self.give_up_damaged();
            let late = self.now() > deadline || self.steps > steps_max;
            if !late && self.step()? {
                continue;
            }
            if late || !self.give_up_damaged() {
                // Damage may have been done where nobody could see it yet: once more, then.
                if late && (gave_up || self.give_up_damaged()) && chances > 0 {
                    chances -= 1;
                    deadline = self.now().after(SETTLE_MAX);
                    continue;
                }
                let what = self.who_waits(if late { "too long" } else { "for ever" });
                return Err(self.fail(what));
            }
        }
        self.judge().map(drop).map_err(|what| self.fail(what))
    }

    /// Asks the server to stop, and waits until it has.
    ///
    /// # Errors
    ///
    /// It did not stop in time, or something was lost; or as [`step`](Self::step).
    pub fn stop(&mut self, drain: Duration) -> Result<(), SimFailure> {
        self.handle().stop(drain);
        self.note_stop();
        let struck = self.world.counts().of(FaultKind::ClockJump);
        let deadline = self.now().after(drain).after(STOP_SLACK);
        let steps_max = self.steps + SETTLE_STEPS_MAX;
        while self.shards.iter().any(|shard| shard.worker.is_some()) {
            let went_on = self.step()?;
            let jumped = self.jumps && self.world.counts().of(FaultKind::ClockJump) > struck;
            if !went_on || self.steps > steps_max || (!jumped && self.now() > deadline) {
                let left = self.links_open();
                let why = if went_on { "in time" } else { "any more" };
                let what = format!("the server does not stop {why}: {left} links are left");
                return Err(self.fail(what));
            }
        }
        Ok(())
    }

    /// [Settles](Self::settle), [stops](Self::stop) the server, and looks whether all is home.
    ///
    /// # Errors
    ///
    /// What did not hold.
    pub fn finish(mut self) -> Result<SimReport, SimFailure> {
        if self.shared.stopping().is_none() {
            self.settle()?;
            self.stop(DRAIN)?;
        }
        self.finish_stopped()
    }

    fn finish_stopped(mut self) -> Result<SimReport, SimFailure> {
        let steps_max = self.steps + SETTLE_STEPS_MAX;
        while self.clients_open > 0 && self.steps < steps_max && self.step()? {}
        for number in 0..u32::try_from(self.clients.len()).unwrap_or(u32::MAX) {
            let left = self.clients[number as usize].connection.is_some();
            let cut = left.then(|| "when the server stopped".to_owned());
            self.end_client(number, cut, false);
        }
        while self.world.advance() {}
        let verdict = self.judge().and_then(|excused| self.check_all_home().map(|()| excused));
        let excused = verdict.map_err(|what| self.fail(what))?;
        let stats = self.stats();
        let cut = excused.total();
        Ok(SimReport {
            steps: self.steps,
            completions: stats.workers.iter().map(|worker| worker.completions).sum(),
            clients_whole: self.clients.len() as u64 - cut,
            clients_cut: cut,
            excused,
            time: self.now(),
            faults: self.world.counts(),
            stats,
            trace: self.world.trace(),
        })
    }

    /// A shard says that it is done: nothing of its own may be left.
    pub(super) fn shard_done(&mut self, number: usize) -> Result<(), String> {
        let shard = &mut self.shards[number];
        let (ledger, entries) = (shard.pool.ledger(), shard.pool.free_entries());
        ensure!(shard.census.live == 0, "shard {number} is done with {:?}", shard.census);
        let lent = shard.worker.as_ref().map_or(0, |worker| worker.port().inner.lent());
        let home = ledger.free + lent;
        ensure!(home == shard.pool.capacity(), "shard {number} has not all: {ledger:?}");
        let large = shard.pool.large();
        let is_out = large.is_some_and(|large| large.free() < large.capacity());
        ensure!(!is_out, "shard {number} has not all large buffers: {large:?}");
        ensure!(entries == shard.entries, "shard {number} has {entries} of {}", shard.entries);
        let Some(worker) = shard.worker.take() else { return Ok(()) };
        let stale = worker.stale();
        ensure!(stale == 0, "shard {number} has seen {stale} stale completions");
        drop(worker);
        if self.shards.iter().all(|shard| shard.worker.is_none()) {
            self.handler.on_stop(&self.handle());
        }
        Ok(())
    }

    fn check_all_home(&self) -> Result<(), String> {
        self.check_counters()?;
        let open = self.links_open();
        ensure!(open == 0, "{open} places are still counted");
        for (sender, posts) in self.shared.posts.iter().enumerate() {
            let ledger = posts.ledger();
            let all = ledger.free == posts.capacity();
            ensure!(all, "not all posts of sender {sender} are home: {ledger:?}");
        }
        let connections = self.world.connections();
        ensure!(connections == 0, "{connections} connections are still open");
        Ok(())
    }

    /// Damaged clients will never get what they wait for; the links of those that are gone without
    /// the server's hearing of it are closed, as an operator would.
    /// `false`: there was nobody to give up.
    fn give_up_damaged(&mut self) -> bool {
        let swallows = self.world.counts().of(FaultKind::BlackHole) > 0;
        let handle = self.handle();
        let mut did_something = false;
        for number in 0..u32::try_from(self.clients.len()).unwrap_or(u32::MAX) {
            let connection = self.clients[number as usize].connection.as_ref();
            if connection.is_some_and(SimClient::is_harmed) {
                self.end_client(number, Some("by a fault".to_owned()), false);
                did_something = true;
            }
            let peer = &self.clients[number as usize];
            if peer.connection.is_none()
                && (peer.harmed || swallows)
                && let Fate::Open(link) = self.contract.fate(number as usize)
            {
                handle.link(link).close();
                did_something = true;
            }
        }
        did_something
    }

    fn links_open(&self) -> u32 {
        self.shared.shards.iter().map(|shard| shard.open.load(Ordering::SeqCst)).sum()
    }

    fn who_waits(&self, how_long: &str) -> String {
        let waiting = self.clients.iter().enumerate();
        let mut waiting = waiting.filter_map(|(number, peer)| {
            let fate = self.contract.fate(number);
            peer.client.as_ref().map(|client| (number, client.waits_for(), fate))
        });
        match waiting.next() {
            Some((number, what, fate)) => format!(
                "client {number} waits {how_long} for {what} (at the server: {fate:?}), and {} more",
                waiting.count()
            ),
            None => {
                let open = |number: &usize| matches!(self.contract.fate(*number), Fate::Open(_));
                let who = (0..self.clients.len()).find(open);
                let harmed = who.is_some_and(|number| self.clients[number].harmed);
                let fate = who.map(|number| self.contract.fate(number));
                format!(
                    "all clients are gone, but {} links stay {how_long}, one of them that of \
                     client {who:?} (harmed: {harmed}, at the server: {fate:?})",
                    self.links_open()
                )
            }
        }
    }
}

/// Trouble is over: this is enough for all that is left, and for a few flush time-outs of 10 s.
const SETTLE_MAX: Duration = Duration::from_secs(300);
const SETTLE_STEPS_MAX: u64 = 4_000_000;
/// How long [`Simulation::finish`] lets links drain.
const DRAIN: Duration = Duration::from_secs(5);
/// How much longer than its drain a stop may take: delays of single operations.
const STOP_SLACK: Duration = Duration::from_secs(5);
