//! Closures as the jobs of a `Core`.

use crate::thread_pool::core::{Config, Core, Failure, Work};
use crate::thread_pool::error::StartError;
use crate::thread_pool::schedule::{Limits, Refusal};
use crate::thread_pool::task::Job;
use crate::vocabulary::error::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

/// What a submission does while the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenQueueFull {
    /// It fails with [`RejectReason::Full`](super::RejectReason::Full), and returns the job.
    Fail,
    /// It waits until a thread takes a job. On a thread of the pool it fails instead: all threads could
    /// wait for each other. So could two pools whose jobs submit to each other, or a pool and its
    /// persistent thread: there use `Fail`.
    Wait,
    /// It runs the job itself, which slows the submitter down to the speed of the pool. The job gets a
    /// context of its own, which the factory makes in the caller and which is dropped afterwards: free
    /// without a factory, and as dear as the factory with one. Jobs that are in the queue may run later
    /// than this one. A [persistent thread](super::PersistentThread) waits instead: its jobs run
    /// nowhere else.
    RunInCaller,
}

/// The settings that the threads of a pool and its persistent threads have in common.
pub(super) struct Settings<W> {
    pub(super) name: String,
    pub(super) queue_capacity: usize,
    pub(super) idle_timeout: Duration,
    pub(super) stack_bytes: Option<usize>,
    pub(super) when_full: WhenQueueFull,
    pub(super) factory: Factory<W>,
}

/// What makes the contexts.
pub(super) type Factory<W> = Arc<dyn Fn() -> Result<W> + Send + Sync>;

/// Closures as jobs.
pub(super) struct Jobs<W> {
    factory: Factory<W>,
}

impl<W: 'static> Work for Jobs<W> {
    type Job = Job<W>;
    type Context = W;

    fn make_context(&self, _slot: usize) -> Result<W> {
        (self.factory)()
    }

    fn run(&self, context: &mut W, job: Job<W>) {
        job.run(context);
    }

    fn tag(&self, _job: &Job<W>) -> u64 {
        0
    }

    fn context_failed(&self, _slot: usize, error: &Error) {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        tracing::error!(%error, "thread {name} could not make its context, trying again in 1 s");
    }
}

/// Starts a core whose threads have this name.
pub(super) fn start_core<W: 'static>(
    settings: &Settings<W>,
    name: &str,
    (threads_min, threads_max): (usize, usize),
) -> Result<Core<Jobs<W>>, StartError> {
    let queue_capacity = settings.queue_capacity;
    let config = Config {
        name: name.to_owned(),
        limits: Limits { threads_min, threads_max, queue_capacity },
        idle_timeout: settings.idle_timeout,
        stack_bytes: settings.stack_bytes,
    };
    let jobs = Jobs { factory: Arc::clone(&settings.factory) };
    Core::start(jobs, config).map_err(|failure| match failure {
        Failure::Memory => StartError::Memory { jobs: queue_capacity },
        Failure::Thread(error) => StartError::Thread(error),
        Failure::Context(error) => StartError::Context(error),
    })
}

/// Submits a job, and waits for capacity if the policy is to.
pub(super) fn put<W: 'static>(
    core: &Core<Jobs<W>>,
    when_full: WhenQueueFull,
    job: Job<W>,
    long: bool,
) -> Result<(), (Job<W>, Refusal)> {
    match when_full {
        WhenQueueFull::Wait => core.submit(job, long),
        WhenQueueFull::Fail | WhenQueueFull::RunInCaller => core.try_submit(job, long),
    }
}
