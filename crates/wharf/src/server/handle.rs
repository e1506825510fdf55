//! The handle: what any thread can do with a running server.

use super::shared::Shared;
use crate::error::{Result, SendError};
use crate::link::LinkId;
use crate::stats::Stats;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A server, from any thread: send, broadcast, close, look, stop. Cheap to clone.
///
/// Dropping handles does not stop the server; [`stop`](Self::stop) does.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Posts a copy of `data` to a link, to be sent after what is queued there already.
    ///
    /// `Ok` means *posted*: if the link closes meanwhile, or its queue turns out to be full, the
    /// message is dropped and counted in [`Stats::stale_posts`].
    ///
    /// # Errors
    ///
    /// On an error nothing was posted.
    ///
    /// - [`SendError::Gone`]: the link is closed, or the server has stopped.
    /// - [`SendError::NoBuffers`]: the buffers for posted messages are used up.
    /// - [`SendError::Busy`]: the link's shard is behind.
    /// - [`SendError::TooLarge`]: no queue could ever hold it.
    ///
    /// # Cost
    ///
    /// Copies `data.len()` bytes. Allocates and blocks never. A system call only if the shard
    /// sleeps.
    pub fn send(&self, link: LinkId, data: &[u8]) -> Result<(), SendError> {
        if !self.shared.is_alive(link) {
            return Err(SendError::Gone);
        }
        let message = self.shared.message(self.shared.outside(), data)?;
        match self.shared.inlet(link.shard()) {
            Some(_) if message.is_empty() => Ok(()),
            Some(inlet) => inlet.send(link, message),
            None => Err(SendError::Gone),
        }
    }

    /// Posts one copy of `data` to every open link but `except`.
    ///
    /// A link whose queue has no room is left out and counted in [`Stats::broadcast_skips`].
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send); on [`SendError::Busy`] or [`SendError::Gone`] the links of some
    /// shards may have got it.
    pub fn broadcast(&self, data: &[u8], except: Option<LinkId>) -> Result<(), SendError> {
        let message = self.shared.message(self.shared.outside(), data)?;
        if message.is_empty() {
            return Ok(());
        }
        self.shared.broadcast_to_shards(&message, except, None)
    }

    /// Closes a link in good order, with
    /// [`DisconnectReason::Kicked`](crate::DisconnectReason::Kicked); what is queued is sent first.
    ///
    /// # Errors
    ///
    /// [`SendError::Gone`] if the link is closed already, [`SendError::Busy`] if its shard is
    /// behind.
    pub fn close(&self, link: LinkId) -> Result<(), SendError> {
        if !self.shared.is_alive(link) {
            return Err(SendError::Gone);
        }
        self.shared.inlet(link.shard()).map_or(Err(SendError::Gone), |inlet| inlet.close(link))
    }

    /// Reads all counters.
    ///
    /// # Cost
    ///
    /// Looks at every buffer's owner tag: some ten microseconds for 10,000 buffers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Asks the server to stop, and returns at once.
    ///
    /// It takes no more connections. Each link handles what has arrived, sends what is queued, tells
    /// its peer the end, and closes; what is left after `drain` is cut. A later call can
    /// shorten the time; with [`Duration::ZERO`] links are cut at once.
    pub fn stop(&self, drain: Duration) {
        self.shared.stop(drain);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}
