//! A pool of threads for jobs of one type: a bounded queue, threads with a context each, and a stop
//! with a deadline. [`ThreadPool`](super::pool::ThreadPool) is this with closures as jobs.
//!
//! `schedule` decides, under the lock; this file holds the lock and does what was decided: it wakes and
//! starts threads. A thread's own part is in `thread`. No user code runs under the lock. A submission
//! allocates only if it starts a thread.

use crate::thread_pool::clock::{Clock, nanos};
use crate::thread_pool::record::{Current, Record, own_slot};
use crate::thread_pool::schedule::{Call, Limits, Refusal, Schedule, StopMode};
use crate::thread_pool::stats::PoolStats;
use crate::thread_pool::thread;
use crate::vocabulary::error::Error;
use std::io;
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread, ThreadId};
use std::time::Duration;

#[expect(
    clippy::disallowed_types,
    reason = "the queue and the list of sleeping threads change together; no user code runs meanwhile"
)]
type Lock<T> = std::sync::Mutex<T>;

/// What the jobs of a pool are, and how a thread runs them.
pub(crate) trait Work: Send + Sync + 'static {
    type Job: Send + 'static;
    /// What each thread makes for its jobs and keeps. It never leaves its thread.
    type Context: 'static;

    /// Makes a thread's context, on that thread: at its start, and after a panic of a job.
    ///
    /// # Errors
    ///
    /// While the pool starts, the start fails with the error of the first thread. Later, the thread
    /// tries again after [`RETRY`], unless the pool then has threads enough.
    fn make_context(&self, slot: usize) -> Result<Self::Context, Error>;

    /// Runs a job. A panic is caught and counted; the thread then drops its context and makes another.
    fn run(&self, context: &mut Self::Context, job: Self::Job);

    /// A number by which a watchdog knows the job; see [`Core::current`].
    fn tag(&self, job: &Self::Job) -> u64;

    /// The context of a thread of a running pool could not be made.
    fn context_failed(&self, slot: usize, error: &Error);
}

/// Time from a context that could not be made until the next attempt. Meanwhile the pool starts no
/// other threads.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// How often a thread yields its core while another one has the lock.
const YIELDS: u32 = 8;

/// The settings of a pool, checked by the caller.
#[derive(Debug)]
pub(crate) struct Config {
    /// The threads' name, to which a pool for several threads appends `-` and the slot's number.
    pub(crate) name: String,
    /// 1 ≤ `threads_min` ≤ `threads_max`.
    pub(crate) limits: Limits,
    /// After which a thread above the minimum ends if it had no job.
    pub(crate) idle_timeout: Duration,
    pub(crate) stack_bytes: Option<usize>,
}

/// Why a pool did not start. No thread of it is left.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There is no memory for the queue.
    Memory,
    /// The system started no thread.
    Thread(io::Error),
    /// A thread's context could not be made.
    Context(Error),
}

/// What is left when a pool has stopped.
#[derive(Debug)]
pub(crate) struct Leftovers<J> {
    /// Jobs that did not run, in the order of their submission.
    pub(crate) jobs: Vec<J>,
    /// The slots of the threads that had not ended at the deadline, each with its job; `None` if it was
    /// making or dropping its context. Such a thread ends when its job returns, if it does.
    pub(crate) threads: Vec<(usize, Option<Current>)>,
}

/// The owner of a pool. If it is dropped, the pool runs what is queued and stops; the drop waits for
/// that, unless a job of the pool itself drops it.
pub(crate) struct Core<K: Work> {
    shared: Arc<Shared<K>>,
}

/// What the threads and the owner of a pool share.
pub(super) struct Shared<K: Work> {
    pub(super) work: K,
    pub(super) config: Config,
    pub(super) clock: Clock,
    /// By slot.
    pub(super) records: Arc<[Record]>,
    state: Apart<Lock<State<K::Job>>>,
    /// A job was taken while submitters waited for capacity, or the pool stops.
    capacity_freed: Condvar,
    /// A thread has begun or ended.
    threads_changed: Condvar,
}

/// On cache lines of its own: what all threads write is not beside what they only read.
#[repr(align(128))]
struct Apart<T>(T);

pub(super) struct State<J> {
    pub(super) schedule: Schedule<J>,
    /// By slot, for wake-ups.
    pub(super) threads: Box<[Option<Thread>]>,
    /// Submitters that wait for capacity.
    capacity_waiters: usize,
    handles: Vec<JoinHandle<()>>,
    /// Threads of the pool that stop it, and wait for the others.
    own_stoppers: usize,
    /// Why the start fails.
    first_error: Option<Error>,
}

impl<K: Work> Core<K> {
    /// Starts the minimum of threads and returns when all have made their contexts.
    pub(crate) fn start(work: K, config: Config) -> Result<Self, Failure> {
        let threads_max = config.limits.threads_max;
        let state = State {
            schedule: Schedule::new(config.limits).map_err(|_| Failure::Memory)?,
            threads: vec![None; threads_max].into(),
            capacity_waiters: 0,
            handles: Vec::new(),
            own_stoppers: 0,
            first_error: None,
        };
        let shared = Arc::new(Shared {
            work,
            config,
            clock: Clock::new(),
            records: (0..threads_max).map(|_| Record::new()).collect(),
            state: Apart(Lock::new(state)),
            capacity_freed: Condvar::new(),
            threads_changed: Condvar::new(),
        });
        // Dropped on failure, it waits until the threads have ended.
        let core = Self { shared };
        let shared = &core.shared;
        let slots = shared.lock().schedule.begin();
        let mut spawned = Ok(());
        for slot in slots {
            spawned = spawned.and_then(|()| shared.spawn(slot));
            if spawned.is_err() {
                let _no_job_waits = shared.lock().schedule.start_failed(slot);
            }
        }
        spawned.map_err(Failure::Thread)?;
        let mut state = shared.lock();
        while !state.schedule.has_begun() {
            state = recover(shared.threads_changed.wait(state));
        }
        if let Some(error) = state.first_error.take() {
            drop(state);
            return Err(Failure::Context(error));
        }
        state.schedule.open();
        drop(state);
        Ok(core)
    }

    /// Queues a job, and wakes or starts a thread for it if none is coming; for a `long` job at once.
    /// Blocks for no longer than the lock is held; allocates only if it starts a thread.
    pub(crate) fn try_submit(&self, job: K::Job, long: bool) -> Result<(), (K::Job, Refusal)> {
        let shared = &self.shared;
        let now_ns = shared.clock.now_ns();
        let mut state = shared.lock();
        let call = state.schedule.push(job, now_ns, long)?;
        shared.perform(state, call);
        Ok(())
    }

    /// As [`try_submit`](Self::try_submit), but waits while the queue is full; on a thread of the pool
    /// itself it does not, since all could wait for each other.
    pub(crate) fn submit(&self, job: K::Job, long: bool) -> Result<(), (K::Job, Refusal)> {
        let shared = &self.shared;
        let now_ns = shared.clock.now_ns();
        let mut state = shared.lock();
        if state.schedule.refusal() == Some(Refusal::Full) && own_slot(&shared.records).is_none() {
            state.capacity_waiters += 1;
            while state.schedule.refusal() == Some(Refusal::Full) {
                state = recover(shared.capacity_freed.wait(state));
            }
            state.capacity_waiters -= 1;
        }
        let call = state.schedule.push(job, now_ns, long)?;
        shared.perform(state, call);
        Ok(())
    }

    /// The threads that run a job now, by slot, for a watchdog: which job, and since when on the clock
    /// of [`now_ns`](Self::now_ns). Takes no lock.
    pub(crate) fn current(&self) -> impl Iterator<Item = (usize, Current)> {
        let records = self.shared.records.iter().enumerate();
        records.filter_map(|(slot, record)| Some((slot, record.current()?)))
    }

    /// The time on the pool's clock.
    pub(crate) fn now_ns(&self) -> u64 {
        self.shared.clock.now_ns()
    }

    /// The name of a slot's thread.
    pub(crate) fn thread_name(&self, slot: usize) -> String {
        self.shared.thread_name(slot)
    }

    /// The counters. Takes the lock briefly.
    pub(crate) fn stats(&self) -> PoolStats {
        let mut stats = PoolStats::default();
        {
            let state = self.shared.lock();
            stats.threads = state.schedule.threads();
            stats.waiting = state.schedule.waiting();
            stats.submitted = state.schedule.submitted;
            stats.rejected = state.schedule.rejected;
        }
        self.shared.records.iter().for_each(|record| stats.add(record));
        stats
    }

    /// Rejects submissions from now on, and lets the threads end; does not wait for them. Returns the
    /// jobs that will not run.
    pub(crate) fn begin_stop(&self, mode: StopMode) -> Vec<K::Job> {
        let mut state = self.shared.lock();
        let jobs = state.schedule.stop(mode);
        let threads: Vec<Thread> = state.threads.iter().flatten().cloned().collect();
        drop(state);
        threads.iter().for_each(Thread::unpark);
        self.shared.capacity_freed.notify_all();
        jobs
    }

    /// Stops, waits until the threads have ended, for the timeout at most, and leaves those behind that
    /// still run a job. Called by a job of the pool itself, it does not wait for that job's thread.
    pub(crate) fn stop(&self, mode: StopMode, timeout: Duration) -> Leftovers<K::Job> {
        let shared = &self.shared;
        let deadline_ns = shared.clock.now_ns().saturating_add(nanos(timeout));
        let mut jobs = self.begin_stop(mode);
        let own = own_slot(&shared.records);
        let mut state = shared.lock();
        state.own_stoppers += usize::from(own.is_some());
        // Another thread of the pool may stop it as well: they do not wait for each other.
        shared.threads_changed.notify_all();
        while state.schedule.threads() > if own.is_some() { state.own_stoppers } else { 0 } {
            let rest_ns = deadline_ns.saturating_sub(shared.clock.now_ns());
            if rest_ns == 0 {
                break;
            }
            let rest = Duration::from_nanos(rest_ns);
            state = recover(shared.threads_changed.wait_timeout(state, rest)).0;
        }
        state.own_stoppers -= usize::from(own.is_some());
        jobs.extend(state.schedule.stop(StopMode::ReturnQueued));
        let alive: Vec<(usize, ThreadId)> = state.alive().collect();
        let handles = std::mem::take(&mut state.handles);
        drop(state);
        for handle in handles {
            // The others are left behind. A thread that has only been started will end at once.
            if !alive.iter().any(|(_, id)| *id == handle.thread().id()) {
                // A thread's body catches what panics.
                let _it_is_about_to_end = handle.join();
            }
        }
        let left = alive.into_iter().filter(|(slot, _)| own != Some(*slot));
        let left = left.map(|(slot, _)| (slot, shared.records[slot].current()));
        Leftovers { jobs, threads: left.collect() }
    }

    /// Runs what is queued, and waits for the threads; not in a job of the pool.
    pub(crate) fn finish(&self) {
        if own_slot(&self.shared.records).is_some() {
            // This thread runs what is left when its job has returned.
            self.begin_stop(StopMode::RunQueued);
        } else {
            self.stop(StopMode::RunQueued, Duration::MAX);
        }
    }
}

impl<K: Work> Drop for Core<K> {
    fn drop(&mut self) {
        self.finish();
    }
}

impl<J> State<J> {
    /// The threads that have had the lock and have not ended, by slot.
    fn alive(&self) -> impl Iterator<Item = (usize, ThreadId)> {
        let threads = self.threads.iter().enumerate();
        threads.filter_map(|(slot, thread)| Some((slot, thread.as_ref()?.id())))
    }
}

impl<K: Work> Shared<K> {
    /// Locks the state. While another thread has the lock, which is for some ten instructions, this one
    /// yields its core a few times before it sleeps: a thread that releases a lock on which another one
    /// sleeps pays for a system call to wake it, and mostly that would be a submitter.
    pub(super) fn lock(&self) -> MutexGuard<'_, State<K::Job>> {
        for _ in 0..YIELDS {
            if let Ok(state) = self.state.0.try_lock() {
                return state;
            }
            std::thread::yield_now();
        }
        recover(self.state.0.lock())
    }

    /// Releases the lock, and then wakes or starts the thread that was called.
    pub(super) fn perform(self: &Arc<Self>, state: MutexGuard<'_, State<K::Job>>, call: Call) {
        match call {
            Call::Nothing => {}
            Call::Wake(slot) => {
                let thread = state.threads[slot].clone();
                drop(state);
                if let Some(thread) = thread {
                    thread.unpark();
                }
            }
            Call::Start(slot) => {
                drop(state);
                self.start_thread(slot);
            }
        }
    }

    #[cold]
    fn start_thread(self: &Arc<Self>, slot: usize) {
        if let Err(error) = self.spawn(slot) {
            tracing::warn!(%error, "a thread pool could not start another thread");
            let mut state = self.lock();
            let call = state.schedule.start_failed(slot);
            self.perform(state, call);
        }
    }

    fn thread_name(&self, slot: usize) -> String {
        match (&self.config.name, self.config.limits.threads_max) {
            (name, 1) => name.clone(),
            (name, _) => format!("{name}-{slot}"),
        }
    }

    fn spawn(self: &Arc<Self>, slot: usize) -> io::Result<()> {
        let mut builder = std::thread::Builder::new().name(self.thread_name(slot));
        if let Some(bytes) = self.config.stack_bytes {
            builder = builder.stack_size(bytes);
        }
        let shared = Arc::clone(self);
        let handle = builder.spawn(move || thread::run(&shared, slot))?;
        let mut state = self.lock();
        state.handles.retain(|handle| !handle.is_finished());
        state.handles.push(handle);
        Ok(())
    }

    /// A job was taken: lets a submitter go on that waits for capacity.
    pub(super) fn note_taken(&self, state: &State<K::Job>) {
        if state.capacity_waiters > 0 {
            self.capacity_freed.notify_one();
        }
    }

    pub(super) fn notify_threads_changed(&self) {
        self.threads_changed.notify_all();
    }

    /// Keeps the error with which the start fails, if it is the first.
    pub(super) fn set_first_error(&self, error: Error) {
        // A second one is dropped after the lock is released.
        let mut error = Some(error);
        let mut state = self.lock();
        if state.first_error.is_none() {
            state.first_error = error.take();
        }
    }
}

impl<K: Work> std::fmt::Debug for Core<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

/// A lock's guard also when a thread has panicked with it; no thread does.
fn recover<T>(result: Result<T, PoisonError<T>>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
