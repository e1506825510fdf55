//! The life of one thread: make the context, run jobs, sleep, end.

use crate::guard::{call_user, catch_user_panic};
use crate::thread_pool::clock::nanos;
use crate::thread_pool::core::{RETRY, Shared, Work};
use crate::thread_pool::record::enter;
use crate::thread_pool::schedule::{Next, Queued};
use std::sync::Arc;
use std::time::Duration;

/// The body of a pool's thread.
pub(super) fn run<K: Work>(shared: &Arc<Shared<K>>, slot: usize) {
    enter(&shared.records, slot);
    let mut state = shared.lock();
    state.threads[slot] = Some(std::thread::current());
    let mut makes = state.schedule.arrive();
    let thread = OwnThread { shared, slot };
    while let Some(call) = makes {
        shared.perform(state, call);
        let panicked = thread.make_context().is_some_and(|mut context| {
            let panicked = thread.run_jobs(&mut context);
            // After a panic the context may be inconsistent.
            catch_user_panic(|| drop(context));
            panicked
        });
        state = shared.lock();
        makes = if panicked { state.schedule.make_context() } else { None };
    }
    state.threads[slot] = None;
    let call = state.schedule.end(slot);
    shared.notify_threads_changed();
    shared.perform(state, call);
}

struct OwnThread<'a, K: Work> {
    shared: &'a Arc<Shared<K>>,
    slot: usize,
}

impl<K: Work> OwnThread<'_, K> {
    /// Makes the context, in as many attempts as it takes. `None` if the thread is to end.
    fn make_context(&self) -> Option<K::Context> {
        let Self { shared, slot } = *self;
        loop {
            match call_user(|| shared.work.make_context(slot)) {
                Ok(context) => return Some(context),
                Err(error) => {
                    shared.records[slot].context_failures.add_one();
                    if shared.lock().schedule.is_starting() {
                        shared.set_first_error(error);
                    } else {
                        catch_user_panic(|| shared.work.context_failed(slot, &error));
                    }
                }
            }
            let waits = shared.lock().schedule.context_failed();
            shared.notify_threads_changed();
            if !waits {
                return None;
            }
            self.sleep_before_retry();
            if !shared.lock().schedule.retry() {
                return None;
            }
        }
    }

    fn sleep_before_retry(&self) {
        let end_ns = self.shared.clock.now_ns().saturating_add(nanos(RETRY));
        loop {
            let rest_ns = end_ns.saturating_sub(self.shared.clock.now_ns());
            if rest_ns == 0 || self.shared.lock().schedule.is_stopping() {
                return;
            }
            std::thread::park_timeout(Duration::from_nanos(rest_ns));
        }
    }

    /// Runs jobs until one panics, for which it returns true, or the thread is to end.
    fn run_jobs(&self, context: &mut K::Context) -> bool {
        let mut is_first = true;
        while let Some(job) = self.next_job(is_first) {
            if !self.run_job(context, job) {
                return true;
            }
            is_first = false;
        }
        false
    }

    /// Returns whether the job did not panic.
    fn run_job(&self, context: &mut K::Context, job: Queued<K::Job>) -> bool {
        let Self { shared, slot } = *self;
        let record = &shared.records[slot];
        let now_ns = shared.clock.now_ns();
        let tag = shared.work.tag(&job.job);
        record.begin(now_ns, now_ns.saturating_sub(job.at_ns), tag);
        let succeeded = catch_user_panic(|| shared.work.run(context, job.job));
        record.finish();
        let counter = if succeeded { &record.completed } else { &record.panicked };
        counter.add_one();
        succeeded
    }

    /// Sleeps until there is a job; `None` if the thread is to end.
    fn next_job(&self, is_first: bool) -> Option<Queued<K::Job>> {
        let Self { shared, slot } = *self;
        let mut state = shared.lock();
        let mut next = if is_first {
            shared.notify_threads_changed();
            state.schedule.take_first(slot)
        } else {
            state.schedule.take(slot)
        };
        loop {
            let expires = match next {
                Next::Run(job, call) => {
                    shared.note_taken(&state);
                    shared.perform(state, call);
                    return Some(job);
                }
                Next::End => return None,
                Next::Sleep { expires } => expires,
            };
            drop(state);
            let rested = self.sleep(expires);
            state = shared.lock();
            next = if state.schedule.wake(slot) {
                state.schedule.take(slot)
            } else if rested {
                state.schedule.expire(slot)
            } else {
                // Something of the program's own has woken this thread.
                Next::Sleep { expires }
            };
        }
    }

    /// Sleeps once; returns whether the idle timeout has passed.
    fn sleep(&self, expires: bool) -> bool {
        if !expires {
            std::thread::park();
            return false;
        }
        let clock = &self.shared.clock;
        let (start_ns, timeout) = (clock.now_ns(), self.shared.config.idle_timeout);
        std::thread::park_timeout(timeout);
        clock.now_ns() - start_ns >= nanos(timeout)
    }
}
