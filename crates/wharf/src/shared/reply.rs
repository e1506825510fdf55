//! Replies that come later, from any thread.
//!
//! ```text
//!            defer                send begins            written              the shard takes it
//!   Empty ─────────► Waiting ──────────────► Writing ──────────► Done ──────────────────────► Empty
//!                       └── the link ends: its buffers go home, and the reply finds Closed
//! ```
//!
//! The buffers of a reply are set aside when it is promised, out of the link's own, so that writing it
//! cannot fail for want of them, and it is sent without a copy. The cell of a link's place is where they
//! are handed over. Its lock is held for as long as it takes to move a few words: who writes has the
//! buffers in hand, not the lock.

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

/// A reply that comes later: [`Input::defer`](crate::Input::defer). Its last methods consume it.
///
/// Dropping it unsent closes the link with
/// [`HandlerError`](crate::DisconnectReason::HandlerError): later replies would be taken for this one.
///
/// # Cost
///
/// Its buffers are set aside beforehand, so that sending does not fail for want of them. The end of the
/// link takes them back; a reply that is kept longer holds nothing. A system call only if the shard
/// sleeps.
#[must_use = "dropping a reply unsent closes its link"]
pub struct Reply {
    shared: Arc<Shared>,
    link: LinkKey,
    /// Which of the shard's deferrals it is.
    number: u32,
    /// The most bytes that it may have.
    max: usize,
    is_over: bool,
}

impl Reply {
    pub(crate) fn new(shared: Arc<Shared>, link: LinkKey, number: u32, max: usize) -> Self {
        Self { shared, link, number, max, is_over: false }
    }

    /// Sends the reply; the input goes on.
    ///
    /// # Errors
    ///
    /// [`PostError::Closed`] if the link has ended; [`PostError::TooLarge`] if it is longer than what
    /// was set aside, which closes the link as a drop does.
    pub fn send(mut self, payload: impl Payload) -> Result<(), PostError> {
        self.finish(&payload, Outcome::Send)
    }

    /// What `write!(reply, …)` calls: [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn write_fmt(self, text: fmt::Arguments<'_>) -> Result<(), PostError> {
        self.send(text)
    }

    /// There is no reply; the input goes on.
    pub fn none(mut self) {
        let _the_link_may_have_ended = self.finish(&[0_u8; 0], Outcome::Send);
    }

    /// Sends a last reply, which may be empty, and closes the link as [`Link::close`](crate::Link::close)
    /// does.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn close(mut self, payload: impl Payload) -> Result<(), PostError> {
        self.finish(&payload, Outcome::Close)
    }

    /// The link that waits for it.
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
        // A panic of the payload's own code hands the buffers back, too.
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

/// A reply that is being written.
struct Writing<'a> {
    reply: &'a Reply,
    parcel: Option<Parcel>,
    /// Bytes of it so far.
    len: usize,
    is_too_long: bool,
}

impl Writing<'_> {
    /// Gives the buffers back to the shard; says whether the link is still there.
    fn hand_back(&mut self, outcome: Outcome) -> bool {
        let Some(parcel) = self.parcel.take() else { return false };
        let Reply { shared, link, .. } = self.reply;
        let is_there = self.reply.cell().end(parcel, outcome);
        let marks = &shared.shards[link.shard()].marks;
        if !(is_there && marks.set(link.index(), link.generation(), Mark::REPLY)) {
            marks.set_place(link.index(), Mark::RETURNED);
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
            // One that will be thrown away has no buffers.
            let written = parcel.write(bytes);
            debug_assert!(written.is_ok() || parcel.len_max() == 0, "there is room for all of it");
        }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.hand_back(Outcome::Failed);
    }
}

/// How a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// What was written, which may be nothing, is sent.
    Send,
    /// The same, and the link is closed.
    Close,
    /// It was dropped, or was too long, or writing it panicked.
    Failed,
}

/// Where a link's deferred reply is handed over.
#[derive(Debug)]
pub(crate) struct ReplyCell(Lock<State>);

#[derive(Debug)]
enum State {
    Empty,
    Waiting { number: u32, parcel: Parcel },
    Writing { is_cancelled: bool },
    Done { parcel: Parcel, outcome: Outcome },
}

/// What the end of a link finds of its reply.
#[derive(Debug)]
pub(crate) enum Cancelled {
    /// Its buffers; the reply will find the link closed.
    Home(Parcel),
    /// It is being written: its buffers come back, with a mark for the place.
    Writing,
}

impl ReplyCell {
    pub(crate) fn new() -> Self {
        Self(Lock::new(State::Empty))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reply is promised, with the buffers for it.
    pub(crate) fn promise(&self, number: u32, parcel: Parcel) {
        *self.state() = State::Waiting { number, parcel };
    }

    /// The buffers of the reply with this number, to be written to.
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

    /// It is written; says whether its link is still there.
    fn end(&self, parcel: Parcel, outcome: Outcome) -> bool {
        let mut state = self.state();
        let is_there = matches!(*state, State::Writing { is_cancelled: false });
        *state = State::Done { parcel, outcome };
        is_there
    }

    /// What was written, if it is done.
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

    /// The link has ended before its reply came.
    pub(crate) fn cancel(&self) -> Option<Cancelled> {
        let mut state = self.state();
        match mem::replace(&mut *state, State::Empty) {
            State::Empty => None,
            State::Waiting { parcel, .. } | State::Done { parcel, .. } => {
                Some(Cancelled::Home(parcel))
            }
            State::Writing { .. } => {
                *state = State::Writing { is_cancelled: true };
                Some(Cancelled::Writing)
            }
        }
    }
}
