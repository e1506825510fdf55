//! The counters of a pool.

use crate::thread_pool::queue_times::QueueTimes;
use crate::thread_pool::record::Record;

/// The counters of a pool since its start. For a rate, subtract two readings.
///
/// The counters are read one after another while the threads run, so they are not of the same instant.
/// A job is counted as completed or panicked shortly after it has returned: also after its
/// [`Task`](super::Task) has the result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Threads now, those that are being started included.
    pub threads: usize,
    /// Threads that run a job now and are not blocked.
    pub running: usize,
    /// Threads whose job is in [`blocking`](super::blocking) now. A job that blocks elsewhere counts as
    /// running: the pool cannot see it.
    pub blocked: usize,
    /// Jobs that wait in the queue now.
    pub waiting: usize,
    /// Jobs that were accepted, those that ran in the caller included.
    pub submitted: u64,
    /// Jobs that were refused because the queue was full or the pool was stopping.
    pub rejected: u64,
    /// Jobs that have returned.
    pub completed: u64,
    /// Jobs that have panicked.
    pub panicked: u64,
    /// Jobs that ran, or run, in the thread that submitted them, because the queue was full:
    /// [`WhenQueueFull::RunInCaller`](super::WhenQueueFull::RunInCaller).
    pub run_in_caller: u64,
    /// Contexts that could not be made: the factory returned an error, or panicked.
    pub context_failures: u64,
    /// How long jobs waited until a thread began them; without those that ran in the caller.
    pub queue_times: QueueTimes,
}

impl PoolStats {
    /// Adds what one thread has done, and does now.
    pub(super) fn add(&mut self, thread: &Record) {
        if thread.current().is_some() {
            let number = if thread.is_blocked() { &mut self.blocked } else { &mut self.running };
            *number += 1;
        }
        self.completed += thread.completed.get();
        self.panicked += thread.panicked.get();
        self.context_failures += thread.context_failures.get();
        thread.add_queue_times(&mut self.queue_times);
    }
}
