//! What can fail.

use crate::thread_pool::schedule::Refusal;
use crate::vocabulary::error::Error;
use std::error::Error as StdError;
use std::fmt;
use std::io;

/// A job was not submitted; here it is again.
#[non_exhaustive]
pub struct Rejected<F> {
    /// The job, unchanged.
    pub job: F,
    /// Why.
    pub reason: RejectReason,
}

/// Why a job was not submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RejectReason {
    /// The queue is full.
    Full,
    /// The pool is stopping, or has stopped.
    Stopping,
    /// The queue is full, and the factory of contexts failed in the caller:
    /// [`WhenQueueFull::RunInCaller`](super::WhenQueueFull::RunInCaller).
    NoContext,
}

impl From<Refusal> for RejectReason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full => Self::Full,
            Refusal::Stopping => Self::Stopping,
        }
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => {
                "the thread pool's queue is full; try again later, or raise queue_capacity or \
                 threads_max"
            }
            Self::Stopping => "the thread pool is stopping",
            Self::NoContext => {
                "the thread pool's queue is full, and no context could be made to run the job in \
                 the caller; try again later, or raise queue_capacity or threads_max"
            }
        })
    }
}

impl StdError for RejectReason {}

impl<F> fmt::Debug for Rejected<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<F> fmt::Display for Rejected<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.reason, f)
    }
}

impl<F> StdError for Rejected<F> {}

/// A pool, or a persistent thread, did not start. No thread is left behind.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// Settings that are out of range or contradict each other, all of them.
    Settings(String),
    /// There is no memory for a queue of this many jobs.
    Memory {
        /// [`Builder::queue_capacity`](super::Builder::queue_capacity).
        jobs: usize,
    },
    /// The system started no thread.
    Thread(io::Error),
    /// The factory of contexts returned this error, or panicked.
    Context(Error),
    /// The pool of the persistent thread is stopping.
    Stopping,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(faults) => write!(f, "settings of the thread pool: {faults}"),
            Self::Memory { jobs } => {
                write!(f, "no memory for a queue of {jobs} jobs; lower queue_capacity")
            }
            Self::Thread(error) => {
                write!(f, "cannot start a thread: {error}; use fewer threads, or raise the limits")
            }
            Self::Context(error) => write!(f, "cannot make a thread's context: {error}"),
            Self::Stopping => f.write_str("the thread pool is stopping"),
        }
    }
}

impl StdError for StartError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Thread(error) => Some(error),
            _ => None,
        }
    }
}
