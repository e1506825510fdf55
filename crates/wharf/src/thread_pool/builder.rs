//! The settings of a pool.

use crate::thread_pool::error::StartError;
use crate::thread_pool::jobs::{Settings, WhenQueueFull};
use crate::thread_pool::pool::ThreadPool;
use crate::vocabulary::error::Result;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The greatest value of [`Builder::threads_max`].
const THREADS_MAX: usize = 4_096;
/// The greatest value of [`Builder::queue_capacity`].
const QUEUE_MAX: usize = 1 << 24;

/// The settings of a [`ThreadPool`]. Only [`start`](Self::start) checks them and starts threads.
#[must_use]
pub struct Builder<W = ()> {
    settings: Settings<W>,
    threads_min: usize,
    threads_max: Option<usize>,
}

impl Builder {
    pub(super) fn new() -> Self {
        let settings = Settings {
            name: "wharf-pool".to_owned(),
            queue_capacity: 1_024,
            idle_timeout: Duration::from_secs(10),
            stack_bytes: None,
            when_full: WhenQueueFull::Wait,
            factory: Arc::new(|| Ok(())),
        };
        Self { settings, threads_min: 1, threads_max: None }
    }
}

impl<W: 'static> Builder<W> {
    /// Name of the threads, to which their number is appended: `wharf-pool-0`. Default `wharf-pool`.
    /// Linux shows the first 15 bytes of a thread's name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// Number of threads that the pool starts with and never goes below, 1 to 4,096. Default 1.
    pub fn threads_min(mut self, threads: usize) -> Self {
        self.threads_min = threads;
        self
    }

    /// Maximum number of threads, `threads_min` to 4,096. Default 64, or `threads_min` if that is more.
    /// Each takes less than 512 bytes at start, and a stack while it runs.
    ///
    /// The pool starts another thread when work waits and every thread is busy. It starts them one
    /// after another, each as soon as the one before runs, so that a burst of short jobs does not start
    /// as many threads as it has jobs; see [`ThreadPool::submit_long`] for jobs that are not short.
    pub fn threads_max(mut self, threads: usize) -> Self {
        self.threads_max = Some(threads);
        self
    }

    /// Number of jobs that can wait, 1 to 16,777,216; jobs that run are not counted. Default 1,024.
    /// All of the queue, 24 bytes for each job, is allocated at start.
    pub fn queue_capacity(mut self, jobs: usize) -> Self {
        self.settings.queue_capacity = jobs;
        self
    }

    /// What a submission does while the queue is full. Default [`WhenQueueFull::Wait`].
    pub fn when_full(mut self, policy: WhenQueueFull) -> Self {
        self.settings.when_full = policy;
        self
    }

    /// Time without a job after which a thread ends, if there are more than `threads_min`. Default 10
    /// s; zero is refused, [`Duration::MAX`] keeps every thread.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle_timeout = timeout;
        self
    }

    /// Size of a thread's stack in bytes, 65,536 to 1 GiB. Default: that of the standard library, 2
    /// MiB.
    pub fn stack_bytes(mut self, bytes: usize) -> Self {
        self.settings.stack_bytes = Some(bytes);
        self
    }

    /// A factory of contexts: what each thread makes for itself, keeps, and lends to each of its jobs.
    /// Default: none, the context is `()`.
    ///
    /// The factory runs on the thread that gets the context, which never leaves it and is dropped
    /// there. So it need not be `Send`: a database connection, a buffer, an initialised COM apartment.
    /// After a panic of a job its thread drops the context and makes another.
    ///
    /// An error, or a panic, of the factory fails [`start`](Self::start). Later it is logged and counted
    /// ([`PoolStats::context_failures`](super::PoolStats::context_failures)), and the thread tries
    /// again after 1 s; meanwhile the pool starts no further threads.
    pub fn context<C: 'static>(
        self,
        factory: impl Fn() -> Result<C> + Send + Sync + 'static,
    ) -> Builder<C> {
        let Settings { name, queue_capacity, idle_timeout, stack_bytes, when_full, .. } =
            self.settings;
        let factory = Arc::new(factory);
        Builder {
            settings: Settings {
                name,
                queue_capacity,
                idle_timeout,
                stack_bytes,
                when_full,
                factory,
            },
            threads_min: self.threads_min,
            threads_max: self.threads_max,
        }
    }

    /// Starts the pool and returns when `threads_min` threads have made their contexts.
    ///
    /// # Errors
    ///
    /// [`StartError`]; the threads that were started have ended then.
    pub fn start(self) -> Result<ThreadPool<W>, StartError> {
        let threads_max = self.threads_max.unwrap_or(64.max(self.threads_min));
        self.check(threads_max)?;
        ThreadPool::start(self.settings, (self.threads_min, threads_max))
    }

    fn check(&self, threads_max: usize) -> Result<(), StartError> {
        let mut faults = Vec::new();
        let mut demand = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        let min = self.threads_min;
        demand(
            (1..=threads_max).contains(&min) && threads_max <= THREADS_MAX,
            format!(
                "threads_min is {min} and threads_max {threads_max}, but 1 <= threads_min <= \
                 threads_max <= {THREADS_MAX} must hold"
            ),
        );
        let capacity = self.settings.queue_capacity;
        demand(
            (1..=QUEUE_MAX).contains(&capacity),
            format!("queue_capacity is {capacity}, use 1 to {QUEUE_MAX}"),
        );
        demand(!self.settings.idle_timeout.is_zero(), "idle_timeout is zero, use more".to_owned());
        let stack = self.settings.stack_bytes.unwrap_or(1 << 16);
        demand(
            (1 << 16..=1 << 30).contains(&stack),
            format!("stack_bytes is {stack}, use 65536 to {}", 1 << 30),
        );
        demand(is_name(&self.settings.name), name_fault(&self.settings.name));
        if faults.is_empty() { Ok(()) } else { Err(StartError::Settings(faults.join("; "))) }
    }
}

/// Whether the system takes it as a thread's name.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('\0')
}

pub(super) fn name_fault(name: &str) -> String {
    format!("the name is {name:?}, use at least one character and no NUL")
}

impl<W> fmt::Debug for Builder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("name", &self.settings.name)
            .field("threads_min", &self.threads_min)
            .field("threads_max", &self.threads_max)
            .field("queue_capacity", &self.settings.queue_capacity)
            .field("idle_timeout", &self.settings.idle_timeout)
            .field("when_full", &self.settings.when_full)
            .finish_non_exhaustive()
    }
}
