//! A named thread of a pool.

use crate::thread_pool::core::Core;
use crate::thread_pool::error::Rejected;
use crate::thread_pool::jobs::{Jobs, WhenQueueFull, put};
use crate::thread_pool::stats::PoolStats;
use crate::thread_pool::task::{Job, Task};
use std::fmt;
use std::sync::Arc;

/// A thread of a pool that runs only what is submitted to it, in order, and lives as long as the pool:
/// for resources that one thread must use, such as thread-local ones. Clones are the same thread.
///
/// [`ThreadPool::persistent`](super::ThreadPool::persistent) starts it. Its queue has the capacity of
/// the pool's, and its policy, but that [`WhenQueueFull::RunInCaller`] waits here.
pub struct PersistentThread<W: 'static = ()> {
    shared: Arc<Shared<W>>,
}

struct Shared<W: 'static> {
    name: String,
    core: Core<Jobs<W>>,
    when_full: WhenQueueFull,
}

impl<W: 'static> PersistentThread<W> {
    pub(super) fn new(name: &str, core: Core<Jobs<W>>, when_full: WhenQueueFull) -> Self {
        let when_full = match when_full {
            WhenQueueFull::RunInCaller => WhenQueueFull::Wait,
            other => other,
        };
        Self { shared: Arc::new(Shared { name: name.to_owned(), core, when_full }) }
    }

    /// As [`ThreadPool::submit`](super::ThreadPool::submit), to this thread.
    ///
    /// # Errors
    ///
    /// [`Rejected`], with the job: the queue is full, or the pool is stopping.
    pub fn submit<F>(&self, job: F) -> Result<(), Rejected<F>>
    where
        F: FnOnce(&mut W) + Send + 'static,
    {
        let put = put(self.core(), self.shared.when_full, Job::new(job), false);
        put.map_err(|(job, refusal)| Rejected { job: job.into_plain(), reason: refusal.into() })
    }

    /// As [`ThreadPool::submit_for`](super::ThreadPool::submit_for), to this thread.
    ///
    /// # Errors
    ///
    /// As for [`submit`](Self::submit).
    pub fn submit_for<F, R>(&self, job: F) -> Result<Task<R>, Rejected<F>>
    where
        F: FnOnce(&mut W) -> R + Send + 'static,
        R: Send + 'static,
    {
        let (job, task) = Job::with_task(job);
        match put(self.core(), self.shared.when_full, job, false) {
            Ok(()) => Ok(task),
            Err((job, refusal)) => {
                Err(Rejected { job: job.into_with_task(), reason: refusal.into() })
            }
        }
    }

    /// The thread's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The counters of this thread and its queue.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.core().stats()
    }

    pub(super) fn core(&self) -> &Core<Jobs<W>> {
        &self.shared.core
    }
}

impl<W: 'static> Clone for PersistentThread<W> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<W: 'static> fmt::Debug for PersistentThread<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PersistentThread").field("name", &self.shared.name).finish_non_exhaustive()
    }
}
