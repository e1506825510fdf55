//! Links: a connection, its place in the table, its send queue and its time-outs.
//!
//! Nothing here makes a system call: a link queues, and the engine flushes.

pub(crate) mod core;
pub(crate) mod fifo;
mod id;
pub(crate) mod input;
pub(crate) mod slot;
pub(crate) mod wheel;

pub(crate) use id::LINKS_PER_SHARD_MAX;
pub use id::LinkId;

use self::core::Core;
use crate::error::SendError;
use crate::handler::{Totals, WorkerId};
use crate::server::Handle;
use std::fmt;
use std::net::SocketAddr;

/// A link, as a callback sees it: where bytes are sent, and where its state is.
///
/// It lives for one callback; to reach the link later, or from another thread, keep its
/// [`id`](Self::id) and use a [`Handle`].
pub struct Link<'a, S> {
    core: &'a mut Core,
    index: u32,
    state: &'a mut S,
}

impl<'a, S> Link<'a, S> {
    pub(crate) fn new(core: &'a mut Core, index: u32, state: &'a mut S) -> Self {
        Self { core, index, state }
    }

    /// The same link with a part of its state, and the rest of the state.
    #[cfg(feature = "sim")]
    pub(crate) fn split<T, U>(
        &mut self,
        parts: impl FnOnce(&mut S) -> (&mut T, &mut U),
    ) -> (Link<'_, T>, &mut U) {
        let (state, rest) = parts(self.state);
        (Link { core: self.core, index: self.index, state }, rest)
    }

    /// The shard's clock.
    #[cfg(feature = "sim")]
    pub(crate) fn now(&self) -> wharf_port::port::Time {
        self.core.now
    }

    /// Queues a copy of `data` to be sent on this link, after all that is queued already.
    ///
    /// `data` may be longer than one buffer and reaches the peer as one unbroken run of bytes.
    /// An empty `data` sends nothing and succeeds. `Ok` means *queued here*, not *received there*.
    ///
    /// # Errors
    ///
    /// On an error nothing was queued, so the same call may be made again, in
    /// [`on_sent`](crate::Handler::on_sent) for example.
    ///
    /// - [`SendError::QueueFull`]: the peer reads too slowly, and the queue has no room.
    /// - [`SendError::NoBuffers`]: the buffers left are kept for other links.
    /// - [`SendError::TooLarge`]: the queue could never hold it.
    /// - [`SendError::Gone`]: the link is closing.
    ///
    /// # Cost
    ///
    /// Copies `data.len()` bytes. Allocates and blocks never. System calls: none; the shard sends
    /// once, after the callback has returned.
    pub fn send(&mut self, data: &[u8]) -> Result<(), SendError> {
        self.core.queue(self.index, data)
    }

    /// Queues one copy of `data` for every other open link of the server.
    ///
    /// A link whose queue has no room is left out and counted; neither this link nor the others
    /// wait for it.
    ///
    /// # Errors
    ///
    /// - [`SendError::NoBuffers`]: the buffers for posted messages are used up; nobody got it.
    /// - [`SendError::Busy`]: a shard is behind with posted messages; its links did not get it.
    /// - [`SendError::TooLarge`]: no queue could ever hold it.
    ///
    /// # Cost
    ///
    /// Copies `data.len()` bytes once; each receiver costs an entry of its queue.
    /// Looks at every link of this shard. Allocates and blocks never.
    pub fn broadcast(&mut self, data: &[u8]) -> Result<(), SendError> {
        let shared = std::sync::Arc::clone(&self.core.shared);
        let message = shared.message(usize::from(self.core.shard), data)?;
        if message.is_empty() {
            return Ok(());
        }
        let result = shared.broadcast_to_shards(&message, None, Some(self.core.shard));
        self.core.broadcast(&message, Some(self.index));
        result
    }

    /// Closes the link in good order when this callback has returned: what is queued is sent
    /// first.
    pub fn close(&mut self) {
        self.core.slots[self.index].close_asked = true;
    }

    /// What the handler keeps for this link.
    pub fn state(&mut self) -> &mut S {
        self.state
    }

    /// The link's name; good for as long as the link lives, and for no other link afterwards.
    #[must_use]
    pub fn id(&self) -> LinkId {
        self.core.id(self.index)
    }

    /// The other end's address.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.core.slots[self.index].peer
    }

    /// Bytes that were queued and that the system has not taken yet.
    #[must_use]
    pub fn backlog_bytes(&self) -> usize {
        self.core.slots[self.index].backlog()
    }

    /// What went over the link so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.core.slots[self.index].totals
    }

    /// The worker that runs this callback.
    #[must_use]
    pub fn worker(&self) -> WorkerId {
        WorkerId(self.core.shard)
    }

    /// The server, to reach other links from here or from other threads.
    #[must_use]
    pub fn server(&self) -> Handle {
        Handle::new(std::sync::Arc::clone(&self.core.shared))
    }
}

impl<S> fmt::Debug for Link<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("id", &self.id()).field("peer", &self.peer()).finish()
    }
}
