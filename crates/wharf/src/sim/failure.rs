//! The results of a simulation, and why clients ended early.

use crate::sim::{FaultCounts, Time};
use crate::stats::Stats;
use std::fmt;

/// A failure of a run, with all that is needed to replay it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimFailure {
    /// The seed of the run.
    pub seed: u64,
    /// Steps before the failure.
    pub step: u64,
    /// The simulated time of the failure.
    pub time: Time,
    /// What failed.
    pub what: String,
    /// The command that replays the run, if the program set one.
    pub replay: Option<String>,
}

impl SimFailure {
    /// A failure that was found after the end of a run.
    #[must_use]
    pub fn new(seed: u64, what: &str, replay: Option<String>) -> Self {
        Self { seed, step: 0, time: Time::default(), what: what.to_owned(), replay }
    }
}

impl fmt::Display for SimFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, step, time, what, replay } = self;
        write!(f, "seed {seed}, step {step}, {} ns: {what}", time.0)?;
        replay.as_ref().map_or(Ok(()), |command| write!(f, "\nreplay: {command}"))
    }
}

impl std::error::Error for SimFailure {}

/// The counts of a run without a failure.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SimReport {
    /// Steps taken.
    pub steps: u64,
    /// Completions that the engine's shards dequeued.
    pub completions: u64,
    /// Clients that got all that they waited for.
    pub clients_completed: u64,
    /// Clients that ended early.
    pub clients_ended_early: u64,
    /// Their causes.
    pub early_ends: EarlyEndCounts,
    /// The simulated clock at the end.
    pub time: Time,
    /// The faults that took effect.
    pub faults: FaultCounts,
    /// The server's counters at the end.
    pub stats: Stats,
    /// A hash of the run: equal hashes mean with high probability that two runs were the same.
    pub trace: u64,
}

/// Why a client may end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EarlyEndCause {
    /// A fault of the world on its connection: a reset, a black hole, a peer that never reads.
    Fault,
    /// The handler panicked in one of its callbacks, as planned.
    Panicked,
    /// The workload closed its link.
    Kicked,
    /// It sent nothing for the idle timeout, while the server owed it nothing.
    Idle,
    /// It did not read for the stall timeout.
    SlowReader,
    /// Its link held buffers for which others waited.
    Loan,
    /// Its handler deferred a reply for the answer timeout.
    LateReply,
    /// No slot was free, and the policy is to refuse.
    Refused,
    /// The lingering close reached its timeout, because the client did not end its stream: the reset
    /// then discarded bytes that had been sent.
    Lingered,
    /// The server stopped, and the client has the replies to all that had arrived before.
    Stopped,
    /// The drain timeout ended while the link still made progress, or the client had unread bytes.
    DrainedOut,
}

impl EarlyEndCause {
    /// All causes.
    pub const ALL: [Self; 11] = [
        Self::Fault,
        Self::Panicked,
        Self::Kicked,
        Self::Idle,
        Self::SlowReader,
        Self::Loan,
        Self::LateReply,
        Self::Refused,
        Self::Lingered,
        Self::Stopped,
        Self::DrainedOut,
    ];
}

/// Numbers of clients that ended early, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EarlyEndCounts {
    counts: [u64; EarlyEndCause::ALL.len()],
}

impl EarlyEndCounts {
    /// The number of clients that ended early for this cause.
    #[must_use]
    pub fn of(&self, cause: EarlyEndCause) -> u64 {
        self.counts[cause as usize]
    }

    /// The number of clients that ended early.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, count)| *sum += count);
    }

    pub(super) fn add(&mut self, cause: EarlyEndCause) {
        self.counts[cause as usize] += 1;
    }
}

impl fmt::Display for EarlyEndCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (cause, count) in EarlyEndCause::ALL.iter().zip(self.counts) {
            writeln!(f, "{count:>10}  clients ended early: {cause:?}")?;
        }
        Ok(())
    }
}
