//! The worker, as callbacks see it.

use crate::shared::handle::Handle;
use crate::vocabulary::origin::WorkerId;
use std::fmt;
use std::time::Instant;

/// A worker during a callback that belongs to no link:
/// [`Handler::on_worker_start`](crate::Handler::on_worker_start) and
/// [`OnPost::on_post`](crate::OnPost::on_post).
pub struct Worker<'a, W = ()> {
    /// The context of this thread; `()` in `on_worker_start`, which makes it.
    pub context: &'a mut W,
    /// The server.
    pub server: &'a Handle,
    pub(crate) id: WorkerId,
    pub(crate) count: usize,
    pub(crate) now: Instant,
}

impl<W> Worker<'_, W> {
    /// The id of this worker.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// The number of workers: one for each shard.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The worker's clock, read once per turn after the dequeue; in a simulation the simulated time.
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
