//! A deferred reply.

use super::{LinkId, Payload, PostError};
use crate::bug::{ModelBug, planted};
use crate::sync::Locked;
use std::fmt;

/// A deferred reply: [`Input::defer`](crate::Input::defer). Its last methods consume it.
///
/// Dropping it unsent closes the link with
/// [`HandlerError`](crate::DisconnectReason::HandlerError): later replies would be taken for this one.
///
/// It is a claim, and holds no buffer: the end of the link cancels it. Within the guarantee it has
/// no reservation; it is queued when the link's own send has left.
#[must_use = "dropping a reply unsent closes its link"]
pub struct Reply {
    state: Option<Locked<ReplyState>>,
    bytes_max: usize,
    link: LinkId,
}

/// What has become of a reply.
#[derive(Debug)]
pub(crate) enum ReplyState {
    Waiting,
    Sent {
        bytes: Vec<u8>,
        close: bool,
    },
    Dropped,
    /// The link has ended.
    Cancelled,
}

/// The link's side of a reply.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) state: Locked<ReplyState>,
    pub(crate) bytes_max: usize,
}

impl Reply {
    pub(crate) fn new(link: LinkId, bytes_max: usize) -> (Self, Claim) {
        let state = Locked::new(ReplyState::Waiting);
        let claim = Claim { state: state.clone(), bytes_max };
        (Self { state: Some(state), bytes_max, link }, claim)
    }

    /// Sends the reply; the input continues.
    ///
    /// # Errors
    ///
    /// [`PostError::Closed`] if the link has ended; [`PostError::TooLarge`] if it is longer than its
    /// reservation, which closes the link as a drop does.
    pub fn send(self, payload: impl Payload) -> Result<(), PostError> {
        let bytes = payload.bytes();
        self.end(bytes, false)
    }

    /// What `write!(reply, …)` calls: [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn write_fmt(self, text: fmt::Arguments<'_>) -> Result<(), PostError> {
        self.send(text)
    }

    /// There is no reply; the input continues.
    pub fn none(self) {
        let _link_has_ended = self.end(Some(Vec::new()), false);
    }

    /// Sends a last reply, which may be empty, and closes the link as
    /// [`Link::close`](crate::Link::close) does.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn close(self, payload: impl Payload) -> Result<(), PostError> {
        let bytes = payload.bytes();
        self.end(bytes, true)
    }

    /// The link that waits for it.
    #[must_use]
    pub fn link(&self) -> LinkId {
        self.link
    }

    fn end(mut self, bytes: Option<Vec<u8>>, close: bool) -> Result<(), PostError> {
        let Some(state) = self.state.take() else { return Err(PostError::Closed) };
        let mut state = state.lock();
        if let ReplyState::Cancelled = *state {
            return Err(PostError::Closed);
        }
        if let Some(bytes) = bytes.filter(|bytes| bytes.len() <= self.bytes_max) {
            *state = ReplyState::Sent { bytes, close };
            Ok(())
        } else {
            *state = ReplyState::Dropped;
            Err(PostError::TooLarge)
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let Some(state) = &self.state else { return };
        let mut state = state.lock();
        if let ReplyState::Waiting = *state {
            *state = if planted(ModelBug::DroppedReplyIsNone) {
                ReplyState::Sent { bytes: Vec::new(), close: false }
            } else {
                ReplyState::Dropped
            };
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("link", &self.link).finish_non_exhaustive()
    }
}
