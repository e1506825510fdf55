//! The threads that run callbacks.

use crate::shared::handle::Handle;
use crate::vocabulary::origin::WorkerId;
use std::fmt;
use std::time::Instant;

/// A worker for the time of one callback that is no link's.
pub struct Worker<'a, W = ()> {
    /// What the handler keeps for this thread.
    pub context: &'a mut W,
    /// The server.
    pub server: &'a Handle,
    pub(crate) id: WorkerId,
    pub(crate) count: usize,
    pub(crate) now: Instant,
}

impl<W> Worker<'_, W> {
    /// Which worker this is.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// How many workers there are: one for each shard.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The worker's clock, read once a turn; in the simulator, the simulated one.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }
}

impl<W> fmt::Debug for Worker<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("id", &self.id()).finish_non_exhaustive()
    }
}
