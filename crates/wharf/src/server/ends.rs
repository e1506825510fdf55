//! The ends of a server's threads, for those who wait for them with a timeout.

use std::sync::{Arc, Condvar, PoisonError};
use std::time::Duration;

#[expect(clippy::disallowed_types, reason = "held by a thread that ends, and by who waits for it")]
type Lock<T> = std::sync::Mutex<T>;

/// How many of a server's threads run.
#[derive(Debug, Default)]
pub(super) struct Ends {
    running: Lock<usize>,
    changed: Condvar,
}

/// A thread that runs, until this is dropped.
pub(super) struct RunningThread(Arc<Ends>);

impl Ends {
    /// Counts a thread, which drops the value when it ends.
    pub(super) fn add(self: &Arc<Self>) -> RunningThread {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        RunningThread(Arc::clone(self))
    }

    /// Waits until all threads have ended, at most for `timeout`; returns whether they have.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(running, timeout, |running| *running > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }
}

impl Drop for RunningThread {
    fn drop(&mut self) {
        *self.0.running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.changed.notify_all();
    }
}
