//! The ends of a server's threads, for those who wait for them with a timeout.

use std::sync::{Arc, Condvar, PoisonError};
use std::time::Duration;

#[expect(clippy::disallowed_types, reason = "held by a thread that ends, and by who waits for it")]
type Lock<T> = std::sync::Mutex<T>;

/// How many of a server's threads run.
#[derive(Debug, Default)]
pub(super) struct Ends {
    state: Lock<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    is_abandoned: bool,
}

/// A thread that runs, until this is dropped.
pub(super) struct RunningThread(Arc<Ends>);

impl Ends {
    /// Counts a thread, which drops the value when it ends.
    pub(super) fn add(self: &Arc<Self>) -> RunningThread {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).running += 1;
        RunningThread(Arc::clone(self))
    }

    /// Waits until all threads have ended, or are abandoned; at most for `timeout`.
    /// Returns whether they have ended.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |state: &mut State| state.running > 0 && !state.is_abandoned;
        let state = match timeout {
            Some(timeout) => {
                let waited = self.changed.wait_timeout_while(state, timeout, waits);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.changed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner),
        };
        state.running == 0
    }

    /// Ends all waits for threads that do not end.
    pub(super) fn abandon(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_abandoned = true;
        self.changed.notify_all();
    }
}

impl Drop for RunningThread {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).running -= 1;
        self.0.changed.notify_all();
    }
}
