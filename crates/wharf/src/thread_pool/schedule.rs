//! Which job runs next, and which thread is woken, started or ended. Pure data: `Core` keeps it under
//! its lock and does what it says; the tests go through every interleaving of its calls.
//!
//! A thread is *coming* from the moment that it is woken or started until it has the lock. At most one
//! is coming on behalf of ordinary jobs, and the first that it does is to call the next thread if more
//! work waits. So a submitter pays for one wake-up at most, a burst of short jobs stays with few
//! threads, and still:
//!
//! - **INV-CALL** While a job waits and a thread sleeps, a thread is coming.
//! - **INV-GROW** While more jobs wait than threads make their context, every thread is busy and the
//!   maximum is not reached, a thread is coming, unless the system or a context's factory refused the
//!   last one.
//! - **INV-MIN** A running pool has its minimum of threads, beside those that are being started and those
//!   that are ending.

use std::collections::{TryReserveError, VecDeque};

/// A job, and when it was submitted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Queued<J> {
    pub(super) job: J,
    pub(super) at_ns: u64,
}

/// How many threads and jobs a pool may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Limits {
    pub(crate) threads_min: usize,
    pub(crate) threads_max: usize,
    pub(crate) queue_capacity: usize,
}

/// What the caller does when it has released the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub(super) enum Call {
    Nothing,
    /// Wake the thread of this slot.
    Wake(usize),
    /// Start a thread in this slot.
    Start(usize),
}

/// What a thread does next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Next<J> {
    Run(Queued<J>, Call),
    /// Sleep until it is woken; with `expires`, for the idle timeout at most.
    Sleep {
        expires: bool,
    },
    End,
}

/// Why a job was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// The queue is full.
    Full,
    /// The pool is stopping.
    Stopping,
}

/// What happens to queued jobs when a pool stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopMode {
    /// They run first, until the timeout of the stop.
    RunQueued,
    /// They are returned. Only jobs that run already are waited for.
    ReturnQueued,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Phase {
    /// The first threads make their contexts; a failure fails the start.
    Starting,
    Running,
    /// Threads run what is queued, and end.
    Draining,
    /// Nothing is queued; threads end.
    Ended,
}

/// The state of a pool under its lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Schedule<J> {
    limits: Limits,
    phase: Phase,
    jobs: VecDeque<Queued<J>>,
    /// The threads that sleep; the one that fell asleep last is at the end and is woken first.
    idle: Vec<usize>,
    /// Slots without a thread; the lowest is at the end.
    free: Vec<usize>,
    /// By slot: the thread was woken and has not had the lock since.
    woken: Box<[bool]>,
    /// Threads that were woken or started and have not had the lock since.
    coming: usize,
    /// Those of them that were started: the system may still refuse them.
    starting: usize,
    /// Threads that make their context and then take a job.
    making: usize,
    /// Threads whose context could not be made, and that wait to try again.
    broken: usize,
    /// Threads that were told to end, and have not ended.
    ending: usize,
    pub(super) submitted: u64,
    pub(super) rejected: u64,
}

impl<J> Schedule<J> {
    pub(super) fn new(limits: Limits) -> Result<Self, TryReserveError> {
        let mut jobs = VecDeque::new();
        jobs.try_reserve_exact(limits.queue_capacity)?;
        let mut free = Vec::new();
        free.try_reserve_exact(limits.threads_max)?;
        free.extend((0..limits.threads_max).rev());
        let mut idle = Vec::new();
        idle.try_reserve_exact(limits.threads_max)?;
        Ok(Self {
            limits,
            phase: Phase::Starting,
            jobs,
            idle,
            free,
            woken: vec![false; limits.threads_max].into(),
            coming: 0,
            starting: 0,
            making: 0,
            broken: 0,
            ending: 0,
            submitted: 0,
            rejected: 0,
        })
    }

    /// Number of jobs that wait.
    pub(super) fn waiting(&self) -> usize {
        self.jobs.len()
    }

    /// Number of threads, those that are being started included.
    pub(super) fn threads(&self) -> usize {
        self.limits.threads_max - self.free.len()
    }

    /// The slots of the threads that a pool begins with; the caller starts them.
    pub(super) fn begin(&mut self) -> Vec<usize> {
        let slots = self.free.split_off(self.limits.threads_max - self.limits.threads_min);
        (self.coming, self.starting) = (slots.len(), slots.len());
        slots
    }

    /// Whether all of the first threads have made their contexts, or failed.
    pub(super) fn has_begun(&self) -> bool {
        self.coming + self.making == 0
    }

    pub(super) fn is_starting(&self) -> bool {
        self.phase == Phase::Starting
    }

    /// The start has succeeded.
    pub(super) fn open(&mut self) {
        self.phase = self.phase.max(Phase::Running);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.phase >= Phase::Draining
    }

    /// Queues a job. For a `long` one a thread is called at once, whichever are coming already.
    pub(super) fn push(&mut self, job: J, at_ns: u64, long: bool) -> Result<Call, (J, Refusal)> {
        if let Some(refusal) = self.refusal() {
            self.rejected += 1;
            return Err((job, refusal));
        }
        self.jobs.push_back(Queued { job, at_ns });
        self.submitted += 1;
        Ok(if long { self.call_thread() } else { self.call_if_needed() })
    }

    /// Why a job would be refused now.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        if self.is_stopping() {
            Some(Refusal::Stopping)
        } else if self.jobs.len() >= self.limits.queue_capacity {
            Some(Refusal::Full)
        } else {
            None
        }
    }

    fn call_if_needed(&mut self) -> Call {
        if self.coming > 0 || self.jobs.is_empty() { Call::Nothing } else { self.call_thread() }
    }

    fn call_thread(&mut self) -> Call {
        let call = if let Some(slot) = self.idle.pop() {
            self.woken[slot] = true;
            Call::Wake(slot)
        } else if self.phase == Phase::Running
            && self.broken == 0
            && self.jobs.len() > self.making
            && let Some(slot) = self.free.pop()
        {
            self.starting += 1;
            Call::Start(slot)
        } else {
            return Call::Nothing;
        };
        self.coming += 1;
        call
    }

    /// The system refused to start a thread in this slot.
    pub(super) fn start_failed(&mut self, slot: usize) -> Call {
        self.coming -= 1;
        self.starting -= 1;
        self.free.push(slot);
        // A thread may have fallen asleep meanwhile.
        match self.idle.is_empty() {
            true => Call::Nothing,
            false => self.call_if_needed(),
        }
    }

    /// A thread that was started has the lock; see `make_context`.
    pub(super) fn arrive(&mut self) -> Option<Call> {
        self.coming -= 1;
        self.starting -= 1;
        self.make_context()
    }

    /// A thread makes its context next, the first one or, after a panic, another; `None` if it ends
    /// instead.
    pub(super) fn make_context(&mut self) -> Option<Call> {
        if self.is_stopping() && self.jobs.is_empty() {
            self.ending += 1;
            return None;
        }
        self.making += 1;
        Some(self.call_if_needed())
    }

    /// What a thread does next that has made its context.
    pub(super) fn take_first(&mut self, slot: usize) -> Next<J> {
        self.making -= 1;
        self.take(slot)
    }

    /// A thread could not make its context; returns whether it waits, and then calls `retry`. Else it
    /// ends.
    pub(super) fn context_failed(&mut self) -> bool {
        self.making -= 1;
        let waits = self.phase == Phase::Running;
        *(if waits { &mut self.broken } else { &mut self.ending }) += 1;
        waits
    }

    /// A thread that could not make its context has waited; returns whether it tries again. Else it
    /// ends.
    pub(super) fn retry(&mut self) -> bool {
        self.broken -= 1;
        let needed = !self.is_above_min() || !self.jobs.is_empty();
        let tries = needed && self.phase == Phase::Running;
        *(if tries { &mut self.making } else { &mut self.ending }) += 1;
        tries
    }

    /// What a thread does next that has run a job, or was woken.
    pub(super) fn take(&mut self, slot: usize) -> Next<J> {
        if let Some(job) = self.jobs.pop_front() {
            return Next::Run(job, self.call_if_needed());
        }
        if self.is_stopping() {
            self.ending += 1;
            return Next::End;
        }
        self.idle.push(slot);
        Next::Sleep { expires: self.is_above_min() }
    }

    /// Whether a thread may end.
    fn is_above_min(&self) -> bool {
        self.threads() - self.starting - self.ending > self.limits.threads_min
    }

    /// The sleep of a thread has ended; returns whether it was woken, and calls `take` next. Else
    /// something else has ended the sleep.
    pub(super) fn wake(&mut self, slot: usize) -> bool {
        let woken = std::mem::take(&mut self.woken[slot]);
        self.coming -= usize::from(woken);
        woken
    }

    /// What a thread does that was not woken in the idle timeout. One that stays keeps its place among
    /// those that sleep. If work waits, a thread is coming, which may call this one.
    pub(super) fn expire(&mut self, slot: usize) -> Next<J> {
        let expires = self.is_above_min();
        if !expires || !self.jobs.is_empty() {
            return Next::Sleep { expires };
        }
        self.idle.retain(|idle| *idle != slot);
        self.ending += 1;
        Next::End
    }

    /// A thread has ended.
    pub(super) fn end(&mut self, slot: usize) -> Call {
        self.ending -= 1;
        self.free.push(slot);
        self.call_if_needed()
    }

    /// Stops; the caller wakes all threads. Returns the jobs that will not run.
    pub(super) fn stop(&mut self, mode: StopMode) -> Vec<J> {
        for slot in self.idle.drain(..) {
            self.woken[slot] = true;
            self.coming += 1;
        }
        let (phase, returned) = match mode {
            StopMode::RunQueued => (Phase::Draining, VecDeque::new()),
            StopMode::ReturnQueued => (Phase::Ended, std::mem::take(&mut self.jobs)),
        };
        self.phase = self.phase.max(phase);
        returned.into_iter().map(|queued| queued.job).collect()
    }
}

#[cfg(test)]
mod tests;
