//! The origin of a link, and the worker that runs its callbacks.

use std::fmt;

/// How a link came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// The server accepted a connection.
    #[non_exhaustive]
    Accepted {
        /// The listener that accepted it.
        listener: ListenerId,
    },
}

/// The id of a listener, a number that the program chooses
/// ([`Builder::listen_as`](crate::Builder::listen_as)). [`Builder::listen`](crate::Builder::listen)
/// uses 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a number that the program chooses")]
pub struct ListenerId(pub u16);

/// The id of a worker, which is a thread that runs callbacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId {
    pub(crate) index: u16,
}

impl WorkerId {
    pub(crate) fn of_shard(shard: u8) -> Self {
        Self { index: shard.into() }
    }

    /// From 0 to one below [`Worker::count`](crate::Worker::count).
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.index)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.index.fmt(f)
    }
}
