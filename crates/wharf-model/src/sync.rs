//! The only use of a lock: handlers must be `Send + Sync`, and so must the parts of the model that they keep.

use std::fmt;
#[expect(
    clippy::disallowed_types,
    reason = "handles and replies may go to threads of the program"
)]
use std::sync::Mutex;
use std::sync::{Arc, MutexGuard, PoisonError};

/// A value that several parts of the model have in common.
#[expect(clippy::disallowed_types, reason = "see the import")]
pub(crate) struct Locked<T>(Arc<Mutex<T>>);

impl<T> Locked<T> {
    #[expect(clippy::disallowed_types, reason = "see the import")]
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(value)))
    }

    /// A panic under the lock is the handler's: the value is whole.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Locked<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Locked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locked").finish_non_exhaustive()
    }
}
