//! The public pool: closures as jobs.

use crate::guard::{call_user, catch_user_panic};
use crate::thread_pool::builder::{Builder, is_name, name_fault};
use crate::thread_pool::core::Core;
use crate::thread_pool::error::{RejectReason, Rejected, StartError};
use crate::thread_pool::jobs::{Jobs, Settings, WhenQueueFull, put, start_core};
use crate::thread_pool::persistent::PersistentThread;
use crate::thread_pool::record::Current;
use crate::thread_pool::schedule::{Refusal, StopMode};
use crate::thread_pool::stats::PoolStats;
use crate::thread_pool::task::{Job, Task};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

#[expect(
    clippy::disallowed_types,
    reason = "held while the list of persistent threads is read or extended; no user code runs meanwhile"
)]
type Lock<T> = std::sync::Mutex<T>;

/// A pool of threads that run closures; see the [module](super).
///
/// `W` is the context that each thread makes for itself: see [`Builder::context`]. All methods can be
/// called from any thread, also from jobs; to share a pool, put it into an `Arc`.
///
/// Dropping a pool stops it: it runs what is queued, and the drop waits for that without a limit, so
/// that afterwards nothing of the pool runs. Call [`stop`](Self::stop) before if a job may not return.
/// A drop by a job of the pool does not wait for that job's thread; that thread runs what is then still
/// queued.
pub struct ThreadPool<W: 'static = ()> {
    settings: Settings<W>,
    core: Core<Jobs<W>>,
    persistent: Lock<Persistent<W>>,
    /// Jobs that ran in the thread that submitted them.
    in_caller: InCaller,
}

struct Persistent<W: 'static> {
    threads: Vec<PersistentThread<W>>,
    stopping: bool,
}

#[derive(Default)]
struct InCaller {
    begun: AtomicU64,
    completed: AtomicU64,
    panicked: AtomicU64,
}

/// How a pool has stopped.
#[derive(Debug)]
#[non_exhaustive]
pub struct StopReport<W: 'static> {
    /// Jobs that did not run: with [`StopMode::ReturnQueued`] all that were queued, with
    /// [`StopMode::RunQueued`] those that had not begun at the timeout. In the order of their
    /// submission, those of the persistent threads last.
    pub jobs: Vec<Job<W>>,
    /// Threads that had not ended at the timeout. They were left behind: each ends when its job
    /// returns, if it ever does.
    pub threads: Vec<BusyThread>,
    /// The counters at the end, without those of the persistent threads.
    pub stats: PoolStats,
}

/// A thread that runs a job, or that was left behind when its pool stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BusyThread {
    /// Its name.
    pub name: String,
    /// Time since its job began; `None` if it makes or drops its context.
    pub running: Option<Duration>,
}

impl BusyThread {
    fn new<W: 'static>(core: &Core<Jobs<W>>, slot: usize, job: Option<Current>) -> Self {
        let running =
            |job: Current| Duration::from_nanos(core.now_ns().saturating_sub(job.began_ns));
        Self { name: core.thread_name(slot), running: job.map(running) }
    }
}

impl ThreadPool {
    /// The settings of a pool without contexts, each with its default.
    pub fn builder() -> Builder {
        Builder::new()
    }
}

impl<W: 'static> ThreadPool<W> {
    pub(super) fn start(
        settings: Settings<W>,
        threads: (usize, usize),
    ) -> Result<Self, StartError> {
        let core = start_core(&settings, &settings.name, threads)?;
        let persistent = Lock::new(Persistent { threads: Vec::new(), stopping: false });
        Ok(Self { settings, core, persistent, in_caller: InCaller::default() })
    }

    /// Submits a job. The threads take jobs in the order of their submission, each the next one when it
    /// has ended the one before.
    ///
    /// A panic of the job is caught, reported by the panic hook, and counted; its thread makes another
    /// context.
    ///
    /// # Errors
    ///
    /// [`Rejected`], with the job: the queue is full (see [`Builder::when_full`]), or the pool is
    /// stopping.
    ///
    /// # Cost
    ///
    /// One allocation, for the closure. Reads the clock. A system call only if a thread sleeps and none
    /// is being woken already. Blocks only with [`WhenQueueFull::Wait`].
    pub fn submit<F>(&self, job: F) -> Result<(), Rejected<F>>
    where
        F: FnOnce(&mut W) + Send + 'static,
    {
        let put = self.put(Job::new(job), false);
        put.map_err(|(job, reason)| Rejected { job: job.into_plain(), reason })
    }

    /// As [`submit`](Self::submit), for a job that may take long or block. Below the maximum of threads
    /// it does not wait behind the jobs that run: if no thread sleeps, one is started for it at once,
    /// also while another is being started for a job before it.
    ///
    /// # Errors
    ///
    /// As for `submit`.
    pub fn submit_long<F>(&self, job: F) -> Result<(), Rejected<F>>
    where
        F: FnOnce(&mut W) + Send + 'static,
    {
        let put = self.put(Job::new(job), true);
        put.map_err(|(job, reason)| Rejected { job: job.into_plain(), reason })
    }

    /// As [`submit`](Self::submit), for a job whose result [`Task::wait`] returns.
    ///
    /// # Errors
    ///
    /// As for `submit`.
    ///
    /// # Cost
    ///
    /// One allocation more than `submit`, for the result.
    pub fn submit_for<F, R>(&self, job: F) -> Result<Task<R>, Rejected<F>>
    where
        F: FnOnce(&mut W) -> R + Send + 'static,
        R: Send + 'static,
    {
        let (job, task) = Job::with_task(job);
        match self.put(job, false) {
            Ok(()) => Ok(task),
            Err((job, reason)) => Err(Rejected { job: job.into_with_task(), reason }),
        }
    }

    fn put(&self, job: Job<W>, long: bool) -> Result<(), (Job<W>, RejectReason)> {
        match put(&self.core, self.settings.when_full, job, long) {
            Err((job, Refusal::Full)) if self.settings.when_full == WhenQueueFull::RunInCaller => {
                self.run_in_caller(job)
            }
            put => put.map_err(|(job, refusal)| (job, refusal.into())),
        }
    }

    fn run_in_caller(&self, job: Job<W>) -> Result<(), (Job<W>, RejectReason)> {
        let mut context = match call_user(|| (self.settings.factory)()) {
            Ok(context) => context,
            Err(error) => {
                tracing::error!(%error, "no context to run a job in the thread that submitted it");
                return Err((job, RejectReason::NoContext));
            }
        };
        let InCaller { begun, completed, panicked } = &self.in_caller;
        begun.fetch_add(1, Ordering::Relaxed);
        let succeeded = catch_user_panic(|| job.run(&mut context));
        (if succeeded { completed } else { panicked }).fetch_add(1, Ordering::Relaxed);
        catch_user_panic(|| drop(context));
        Ok(())
    }

    /// The persistent thread with this name, which is started by the first call: a thread that runs
    /// only what is submitted to it, in order, and lives as long as the pool. It has a context of the
    /// pool's factory, and a queue of its own with the pool's capacity.
    ///
    /// # Errors
    ///
    /// [`StartError`]: the thread could not be started, its context could not be made, or the pool is
    /// stopping.
    pub fn persistent(&self, name: &str) -> Result<PersistentThread<W>, StartError> {
        if let Some(thread) = self.find_persistent(name)? {
            return Ok(thread);
        }
        if !is_name(name) {
            return Err(StartError::Settings(name_fault(name)));
        }
        // Without the lock, because it calls the factory.
        let core = start_core(&self.settings, name, (1, 1))?;
        let thread = PersistentThread::new(name, core, self.settings.when_full);
        let mut persistent = self.lock_persistent();
        if persistent.stopping {
            return Err(StartError::Stopping);
        }
        // Another call may have started one as well; then this one ends.
        let started = persistent.threads.iter().find(|thread| thread.name() == name).cloned();
        if started.is_none() {
            persistent.threads.push(thread.clone());
        }
        drop(persistent);
        Ok(started.unwrap_or(thread))
    }

    fn find_persistent(&self, name: &str) -> Result<Option<PersistentThread<W>>, StartError> {
        let persistent = self.lock_persistent();
        if persistent.stopping {
            return Err(StartError::Stopping);
        }
        Ok(persistent.threads.iter().find(|thread| thread.name() == name).cloned())
    }

    fn lock_persistent(&self) -> MutexGuard<'_, Persistent<W>> {
        self.persistent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the persistent threads be started no more, and returns those that were.
    fn close_persistent(&self) -> Vec<PersistentThread<W>> {
        let mut persistent = self.lock_persistent();
        persistent.stopping = true;
        persistent.threads.clone()
    }

    /// The counters of the pool, without those of its persistent threads, which have their
    /// [own](PersistentThread::stats).
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let mut stats = self.core.stats();
        let InCaller { begun, completed, panicked } = &self.in_caller;
        stats.run_in_caller = begun.load(Ordering::Relaxed);
        stats.submitted += stats.run_in_caller;
        // The queue has refused those first.
        stats.rejected = stats.rejected.saturating_sub(stats.run_in_caller);
        stats.completed += completed.load(Ordering::Relaxed);
        stats.panicked += panicked.load(Ordering::Relaxed);
        stats
    }

    /// The threads of the pool that run a job now, without the persistent ones: for a watchdog.
    #[must_use]
    pub fn busy_threads(&self) -> Vec<BusyThread> {
        let current = self.core.current();
        current.map(|(slot, job)| BusyThread::new(&self.core, slot, Some(job))).collect()
    }

    /// Stops the pool and its persistent threads. Submissions fail from now on; jobs that run are
    /// waited for, what is queued runs or is returned, and the threads drop their contexts and end.
    ///
    /// At the timeout, queued jobs are returned, and threads that have not ended are left behind and
    /// named in the report. [`Duration::MAX`] is no timeout. May be called again: the report then has
    /// what is left by then.
    ///
    /// The destructor of a thread-local value that a job has made, and that blocks, can hold up the stop
    /// beyond its timeout.
    ///
    /// A job may stop its own pool: its thread is then not waited for, and not in the report.
    pub fn stop(&self, mode: StopMode, timeout: Duration) -> StopReport<W> {
        let now_ns = self.core.now_ns();
        let persistent = self.close_persistent();
        let cores = || std::iter::once(&self.core).chain(persistent.iter().map(|one| one.core()));
        let mut jobs: Vec<Vec<Job<W>>> = cores().map(|core| core.begin_stop(mode)).collect();
        let mut left = Vec::new();
        for (core, jobs) in cores().zip(&mut jobs) {
            let spent = Duration::from_nanos(self.core.now_ns() - now_ns);
            let end = core.stop(mode, timeout.saturating_sub(spent));
            jobs.extend(end.jobs);
            let threads = end.threads.into_iter();
            left.extend(threads.map(|(slot, job)| BusyThread::new(core, slot, job)));
        }
        StopReport {
            jobs: jobs.into_iter().flatten().collect(),
            threads: left,
            stats: self.stats(),
        }
    }
}

impl<W: 'static> Drop for ThreadPool<W> {
    fn drop(&mut self) {
        // All at once; then each is waited for. The drop of `core` waits for the others.
        self.core.begin_stop(StopMode::RunQueued);
        let persistent = self.close_persistent();
        for thread in &persistent {
            thread.core().begin_stop(StopMode::RunQueued);
        }
        // Handles of the program may keep these.
        for thread in &persistent {
            thread.core().finish();
        }
    }
}

impl<W: 'static> fmt::Debug for ThreadPool<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool").field("name", &self.settings.name).finish_non_exhaustive()
    }
}
