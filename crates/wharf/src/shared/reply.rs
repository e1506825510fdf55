//! Deferred replies, which any thread can send.
//!
//! ```text
//!            defer                send begins            written              the shard takes it
//!   Empty ─────────► Waiting ──────────────► Writing ──────────► Done ──────────────────────► Empty
//!                       └── the link ends: the buffers are released, and `send` fails with Closed
//! ```
//!
//! `defer` reserves the buffers of a reply, so that its sender cannot lack buffers and the shard sends
//! it without a copy. The cell of the link's slot passes the buffers from the shard to the sender and
//! back. A thread holds the cell's lock only to move a few words: the sender writes without the lock.

use crate::acts::{Act, Whom, tell_of};
use crate::shared::Shared;
use crate::shared::marks::Mark;
use crate::shared::payload::{Parts, Payload};
use crate::vocabulary::error::PostError;
use crate::vocabulary::id::LinkId;
use crate::vocabulary::id::LinkKey;
use std::fmt;
use std::mem;
use std::sync::{Arc, MutexGuard, PoisonError};
use wharf_port::memory::Parcel;

#[expect(
    clippy::disallowed_types,
    reason = "held for moves of a few words, and only where a reply is deferred"
)]
type Lock<T> = std::sync::Mutex<T>;

/// A deferred reply, made by [`Input::defer`](crate::Input::defer). `send`, `write!`, `none` and
/// `close` consume it.
///
/// Dropping it unsent closes the link with [`HandlerError`](crate::DisconnectReason::HandlerError): the
/// peer would take a later reply for this one.
///
/// # Cost
///
/// Its buffers are reserved, so that sending cannot fail for lack of buffers. The end of the link
/// releases them, also if the reply still exists. One system call if the shard sleeps.
#[must_use = "dropping a reply unsent closes its link"]
pub struct Reply {
    shared: Arc<Shared>,
    link: LinkKey,
    /// The number of the shard's deferral.
    number: u32,
    /// Maximum length in bytes.
    max: usize,
    is_over: bool,
}

impl Reply {
    pub(crate) fn new(shared: Arc<Shared>, link: LinkKey, number: u32, max: usize) -> Self {
        Self { shared, link, number, max, is_over: false }
    }

    /// Sends the reply; the link's input is available again.
    ///
    /// # Errors
    ///
    /// [`PostError::Closed`] if the link has ended; [`PostError::TooLarge`] if the payload is longer
    /// than the reserved bytes, which closes the link as a drop does.
    pub fn send(mut self, payload: impl Payload) -> Result<(), PostError> {
        self.finish(&payload, Outcome::Send)
    }

    /// `write!(reply, …)` calls this; as [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn write_fmt(self, text: fmt::Arguments<'_>) -> Result<(), PostError> {
        self.send(text)
    }

    /// Ends the deferral without a reply; the link's input is available again.
    pub fn none(mut self) {
        let _the_link_may_have_ended = self.finish(&[0_u8; 0], Outcome::Send);
    }

    /// Sends a last reply, which may be empty, and closes the link gracefully, as
    /// [`Link::close`](crate::Link::close).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn close(mut self, payload: impl Payload) -> Result<(), PostError> {
        self.finish(&payload, Outcome::Close)
    }

    /// The link that waits for the reply.
    #[must_use]
    pub fn link(&self) -> LinkId {
        LinkId::new(self.shared.id, self.link)
    }

    fn finish(&mut self, payload: &impl Payload, outcome: Outcome) -> Result<(), PostError> {
        self.is_over = true;
        let Some(parcel) = self.cell().begin(self.number) else {
            tell_of(Whom::Link(self.link()), Act::ReplyDropped);
            return Err(PostError::Closed);
        };
        // If the payload's code panics, the drop of `writing` returns the buffers.
        let mut writing = Writing { reply: self, parcel: Some(parcel), len: 0, is_too_long: false };
        let fits = payload.write(&mut writing).is_ok() && !writing.is_too_long;
        let act = match outcome {
            _ if !fits => Act::ReplyDropped,
            Outcome::Close => Act::ReplyAndClose(writing.len),
            Outcome::Send | Outcome::Failed => Act::Reply(writing.len),
        };
        tell_of(Whom::Link(writing.reply.link()), act);
        let is_closed = !writing.hand_back(if fits { outcome } else { Outcome::Failed });
        if is_closed {
            Err(PostError::Closed)
        } else if fits {
            Ok(())
        } else {
            Err(PostError::TooLarge)
        }
    }

    fn cell(&self) -> &ReplyCell {
        &self.shared.shards[self.link.shard()].replies[self.link.index() as usize]
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_over
            && let Some(parcel) = self.cell().begin(self.number)
        {
            tell_of(Whom::Link(self.link()), Act::ReplyDropped);
            Writing { reply: self, parcel: Some(parcel), len: 0, is_too_long: false }
                .hand_back(Outcome::Failed);
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("link", &self.link()).finish_non_exhaustive()
    }
}

/// A reply during the write; its drop returns the buffers.
struct Writing<'a> {
    reply: &'a Reply,
    parcel: Option<Parcel>,
    /// Bytes written so far.
    len: usize,
    is_too_long: bool,
}

impl Writing<'_> {
    /// Returns the buffers to the shard; returns whether the link is still alive.
    fn hand_back(&mut self, outcome: Outcome) -> bool {
        let Some(parcel) = self.parcel.take() else { return false };
        let Reply { shared, link, .. } = self.reply;
        let is_there = self.reply.cell().end(parcel, outcome);
        let marks = &shared.shards[link.shard()].marks;
        if !(is_there && marks.set(link.index(), link.generation(), Mark::REPLY)) {
            marks.set_slot_mark(link.index(), Mark::RETURNED);
        }
        shared.wake(link.shard());
        is_there
    }
}

impl Parts for Writing<'_> {
    fn add(&mut self, bytes: &[u8]) {
        self.len = self.len.saturating_add(bytes.len());
        self.is_too_long |= self.len > self.reply.max;
        if let Some(parcel) = &mut self.parcel
            && !self.is_too_long
        {
            // A parcel of a broken link has no buffers: its reply is discarded.
            let written = parcel.write(bytes);
            assert!(
                written.is_ok() || parcel.len_max() == 0,
                "the parcel has capacity for all of it"
            );
        }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.hand_back(Outcome::Failed);
    }
}

/// The result of a deferral.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The shard sends what was written, which may be empty.
    Send,
    /// The same, and the shard closes the link.
    Close,
    /// The reply was dropped or too long, or its payload panicked.
    Failed,
}

/// The cell through which a link's deferred reply passes.
#[derive(Debug)]
pub(crate) struct ReplyCell(Lock<State>);

#[derive(Debug)]
enum State {
    Empty,
    Waiting { number: u32, parcel: Parcel },
    Writing { is_cancelled: bool },
    Done { parcel: Parcel, outcome: Outcome },
}

/// The state of a link's reply when the link ends.
#[derive(Debug)]
pub(crate) enum Cancelled {
    /// The buffers; the reply's `send` will fail with `Closed`.
    Returned(Parcel),
    /// A thread is writing the reply; it returns the buffers and sets `Mark::RETURNED` of the slot.
    Writing,
}

impl ReplyCell {
    pub(crate) fn new() -> Self {
        Self(Lock::new(State::Empty))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a deferral, with its buffers.
    pub(crate) fn promise(&self, number: u32, parcel: Parcel) {
        *self.state() = State::Waiting { number, parcel };
    }

    /// Takes the buffers of the deferral with this number, to write to them.
    fn begin(&self, number: u32) -> Option<Parcel> {
        let mut state = self.state();
        match &*state {
            State::Waiting { number: waits, .. } if *waits == number => {}
            _ => return None,
        }
        match mem::replace(&mut *state, State::Writing { is_cancelled: false }) {
            State::Waiting { parcel, .. } => Some(parcel),
            _ => None,
        }
    }

    /// Returns the written buffers; returns whether the link is still alive.
    fn end(&self, parcel: Parcel, outcome: Outcome) -> bool {
        let mut state = self.state();
        let is_there = matches!(*state, State::Writing { is_cancelled: false });
        *state = State::Done { parcel, outcome };
        is_there
    }

    /// Takes the written buffers and the result, if the reply is done.
    pub(crate) fn take(&self) -> Option<(Parcel, Outcome)> {
        let mut state = self.state();
        if !matches!(*state, State::Done { .. }) {
            return None;
        }
        match mem::replace(&mut *state, State::Empty) {
            State::Done { parcel, outcome } => Some((parcel, outcome)),
            _ => None,
        }
    }

    /// Cancels the deferral of a link that ends.
    pub(crate) fn cancel(&self) -> Option<Cancelled> {
        let mut state = self.state();
        match mem::replace(&mut *state, State::Empty) {
            State::Empty => None,
            State::Waiting { parcel, .. } | State::Done { parcel, .. } => {
                Some(Cancelled::Returned(parcel))
            }
            State::Writing { .. } => {
                *state = State::Writing { is_cancelled: true };
                Some(Cancelled::Writing)
            }
        }
    }
}
