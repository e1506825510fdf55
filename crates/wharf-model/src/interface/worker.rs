//! The threads that run callbacks.

use super::Handle;
use std::fmt;

/// A worker for the time of one callback that is no link's.
pub struct Worker<'a, W = ()> {
    /// What the handler keeps for this thread.
    pub context: &'a mut W,
    /// The server.
    pub server: &'a Handle,
    pub(crate) facts: &'a WorkerFacts,
}

pub(crate) struct WorkerFacts {
    pub(crate) id: WorkerId,
    pub(crate) count: usize,
}

impl<W> Worker<'_, W> {
    /// Which worker this is.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.facts.id
    }

    /// How many workers of this kind there are: shards, or threads of the pool.
    #[must_use]
    pub fn count(&self) -> usize {
        self.facts.count
    }
}

impl<W> fmt::Debug for Worker<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// A thread that runs callbacks: a shard's, or one of the pool's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId {
    pub(crate) index: u16,
    pub(crate) pool: bool,
}

impl WorkerId {
    /// From 0 to one below [`Worker::count`].
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.index)
    }

    /// Whether it is a thread of the pool, which may block.
    #[must_use]
    pub fn is_pool(self) -> bool {
        self.pool
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.pool { "pool-" } else { "" }, self.index)
    }
}
