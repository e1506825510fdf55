//! Closures as jobs, and the result of one.

use crate::guard::said;
use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::time::Duration;

#[expect(
    clippy::disallowed_types,
    reason = "a result is stored once and taken once; no user code runs meanwhile"
)]
type Lock<T> = std::sync::Mutex<T>;

/// A job that did not run before its pool stopped: see [`StopReport::jobs`](super::StopReport::jobs).
/// It can be run here and now, or dropped; the [`Task`] of a dropped one fails with
/// [`NotRun`](TaskError::NotRun).
pub struct Job<W>(Box<dyn Run<W>>);

impl<W: 'static> Job<W> {
    /// Runs it on this thread. The result goes to its [`Task`], if it has one. A panic is not caught.
    pub fn run(self, context: &mut W) {
        self.0.run(context);
    }

    pub(super) fn new(job: impl FnOnce(&mut W) + Send + 'static) -> Self {
        Self(Box::new(Plain(job)))
    }

    /// A job whose result goes to a task.
    pub(super) fn with_task<R: Send + 'static>(
        job: impl FnOnce(&mut W) -> R + Send + 'static,
    ) -> (Self, Task<R>) {
        let result = Lock::new(Outcome::Pending);
        let cell = Arc::new(Cell { result, done: Condvar::new() });
        let promise = Promise { cell: Arc::clone(&cell) };
        (Self(Box::new(ForTask { job, promise })), Task { cell })
    }

    /// The closure that [`new`](Self::new) was called with.
    pub(super) fn into_plain<F: FnOnce(&mut W) + Send + 'static>(self) -> F {
        unboxed::<W, Plain<F>>(self).0
    }

    /// The closure that [`with_task`](Self::with_task) was called with.
    pub(super) fn into_with_task<F, R>(self) -> F
    where
        F: FnOnce(&mut W) -> R + Send + 'static,
        R: Send + 'static,
    {
        unboxed::<W, ForTask<F, R>>(self).job
    }
}

fn unboxed<W: 'static, T: 'static>(job: Job<W>) -> T {
    let job: Box<dyn Any> = job.0;
    match job.downcast::<T>() {
        Ok(job) => *job,
        Err(_) => unreachable!("the caller has made the job, so it knows its type"),
    }
}

impl<W> fmt::Debug for Job<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Job")
    }
}

trait Run<W>: Any + Send {
    fn run(self: Box<Self>, context: &mut W);
}

/// A job without a task.
struct Plain<F>(F);

impl<W, F: FnOnce(&mut W) + Send + 'static> Run<W> for Plain<F> {
    fn run(self: Box<Self>, context: &mut W) {
        (self.0)(context);
    }
}

/// A job with a task.
struct ForTask<F, R> {
    job: F,
    promise: Promise<R>,
}

impl<W, F, R> Run<W> for ForTask<F, R>
where
    F: FnOnce(&mut W) -> R + Send + 'static,
    R: Send + 'static,
{
    fn run(self: Box<Self>, context: &mut W) {
        let Self { job, promise } = *self;
        match catch_unwind(AssertUnwindSafe(|| job(context))) {
            Ok(result) => promise.set(Outcome::Done(result)),
            Err(payload) => {
                promise.set(Outcome::Failed(TaskError::Panicked(said(&*payload))));
                // The thread counts it, and makes another context.
                resume_unwind(payload);
            }
        }
    }
}

/// The result of a job that was submitted with [`submit_for`](super::ThreadPool::submit_for). Dropping
/// it forgets the result; the job runs nevertheless.
#[must_use = "to ignore the result, submit the job with `submit`"]
pub struct Task<R> {
    cell: Arc<Cell<R>>,
}

/// Why a job has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskError {
    /// It panicked; with the panic's text behind `: `, or nothing if that is no text.
    Panicked(String),
    /// The pool stopped before it ran, and it was dropped.
    NotRun,
}

struct Cell<R> {
    result: Lock<Outcome<R>>,
    done: Condvar,
}

enum Outcome<R> {
    Pending,
    Done(R),
    Failed(TaskError),
}

/// The side that stores the result.
struct Promise<R> {
    cell: Arc<Cell<R>>,
}

impl<R> Promise<R> {
    fn set(&self, outcome: Outcome<R>) {
        *self.cell.lock() = outcome;
        self.cell.done.notify_all();
    }
}

impl<R> Drop for Promise<R> {
    fn drop(&mut self) {
        let is_pending = matches!(*self.cell.lock(), Outcome::Pending);
        // Only this side changes the outcome.
        if is_pending {
            self.set(Outcome::Failed(TaskError::NotRun));
        }
    }
}

impl<R> Cell<R> {
    fn lock(&self) -> MutexGuard<'_, Outcome<R>> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R> Task<R> {
    /// Waits until the job has ended. A job that waits for another one of its pool keeps its thread
    /// meanwhile: with all threads in such jobs, none is left for those that they wait for.
    ///
    /// # Errors
    ///
    /// [`TaskError`]: the job panicked, or did not run.
    pub fn wait(self) -> Result<R, TaskError> {
        let mut result = self.cell.lock();
        while matches!(*result, Outcome::Pending) {
            result = self.cell.done.wait(result).unwrap_or_else(PoisonError::into_inner);
        }
        match std::mem::replace(&mut *result, Outcome::Pending) {
            Outcome::Done(value) => Ok(value),
            Outcome::Failed(error) => Err(error),
            Outcome::Pending => unreachable!("the loop has waited for another outcome"),
        }
    }

    /// As [`wait`](Self::wait), for this time at most; then the task is returned to wait again.
    ///
    /// # Errors
    ///
    /// The task itself, if the job has not ended. The inner error is that of `wait`.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<R, TaskError>, Self> {
        let pending = |outcome: &mut Outcome<R>| matches!(outcome, Outcome::Pending);
        let waited = self.cell.done.wait_timeout_while(self.cell.lock(), timeout, pending);
        drop(waited);
        if self.is_finished() { Ok(self.wait()) } else { Err(self) }
    }

    /// Whether the job has ended, so that [`wait`](Self::wait) does not wait.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        !matches!(*self.cell.lock(), Outcome::Pending)
    }
}

impl<R> fmt::Debug for Task<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("is_finished", &self.is_finished()).finish()
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(said) => write!(f, "the job panicked{said}"),
            Self::NotRun => f.write_str("the pool stopped before it ran the job"),
        }
    }
}

impl StdError for TaskError {}
