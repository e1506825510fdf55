//! How a simulation ended, and why clients may have ended before they got what they waited for.

use crate::sim::{FaultCounts, Time};
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

/// Why a client may have ended before it got what it waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Excuse {
    /// A fault of the world struck its connection: a reset, a black hole, deafness.
    Harmed,
    /// The handler panicked for it, as planned.
    Panicked,
    /// The workload kicked it.
    Kicked,
    /// It sent nothing for the idle time, while the server owed it nothing.
    Idle,
    /// It did not read for the stall time.
    SlowReader,
    /// It held buffers that others waited for.
    Loan,
    /// Its handler's reply was out for the answer timeout.
    LateReply,
    /// The table was full, and the server refuses then.
    Refused,
    /// The link lingered for its whole time, and the client did not end its side: the reset that
    /// followed cost it bytes that had all been sent.
    Lingered,
    /// The server stopped, and it has the answers to all that had arrived before.
    Stopped,
    /// The drain's time was over while the link still made progress, or bytes waited at the client.
    DrainedOut,
}

impl Excuse {
    /// Every excuse.
    pub const ALL: [Self; 11] = [
        Self::Harmed,
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

/// How many clients were excused, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExcuseCounts {
    counts: [u64; Excuse::ALL.len()],
}

impl ExcuseCounts {
    /// How many clients had this excuse.
    #[must_use]
    pub fn of(&self, excuse: Excuse) -> u64 {
        self.counts[excuse as usize]
    }

    /// How many had any.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, count)| *sum += count);
    }

    pub(super) fn add(&mut self, excuse: Excuse) {
        self.counts[excuse as usize] += 1;
    }
}

impl fmt::Display for ExcuseCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (excuse, count) in Excuse::ALL.iter().zip(self.counts) {
            writeln!(f, "{count:>10}  clients cut: {excuse:?}")?;
        }
        Ok(())
    }
}
