//! How a simulation ended.

use crate::sim::{ExcuseCounts, FaultCounts, Time};
use crate::stats::Stats;
use std::fmt;

/// Something did not hold. The text has all that is needed to see it again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimFailure {
    /// What the run's chance came from.
    pub seed: u64,
    /// After how many steps.
    pub step: u64,
    /// At which time of the simulated clock.
    pub time: Time,
    /// What did not hold.
    pub what: String,
    /// The command that replays the run, if the program said one.
    pub replay: Option<String>,
}

impl SimFailure {
    /// A failure that was seen after the end of a run.
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

/// What a run that went well was made of.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SimReport {
    /// Steps taken.
    pub steps: u64,
    /// Completions that the engine's shards dequeued.
    pub completions: u64,
    /// Clients that got all that they waited for.
    pub clients_whole: u64,
    /// Clients that were cut off.
    pub clients_cut: u64,
    /// Why they may have been.
    pub excused: ExcuseCounts,
    /// The simulated clock at the end.
    pub time: Time,
    /// What went wrong on the way.
    pub faults: FaultCounts,
    /// The server's counters at the end.
    pub stats: Stats,
    /// A number that two runs share if, in all likelihood, they were the same.
    pub trace: u64,
}
