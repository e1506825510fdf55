//! A link, as a callback sees it.

use super::{Handle, Input, LimitError, Output, Queue, WorkerId};
use std::fmt;

/// A link for the time of one callback: what leaves it, what the handler keeps for it, and what
/// serves it.
///
/// The four parts are fields, so that they can be used together.
#[non_exhaustive]
pub struct Link<'a, S = (), W = ()> {
    /// What is to be sent.
    pub out: Output<'a>,
    /// What the handler keeps for this link.
    pub state: &'a mut S,
    /// What the handler keeps for the thread that runs this.
    pub worker: &'a mut W,
    /// The server: other links, groups, all links.
    pub server: &'a Handle,
    pub(crate) facts: &'a Facts,
    pub(crate) asked: &'a mut Asked,
}

/// What does not change while a callback runs.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) id: LinkId,
    pub(crate) partner_of: Option<LinkId>,
    /// The pool runs this callback.
    pub(crate) in_pool: bool,
    pub(crate) totals: Totals,
}

/// What a callback asked for; it is done when the callback has returned.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) close: bool,
    pub(crate) abort: bool,
    pub(crate) pause: bool,
    pub(crate) resume: bool,
    pub(crate) connect: bool,
    pub(crate) offload: bool,
    /// The partner's output, which is here during a callback.
    pub(crate) partner: Queue,
}

impl<S, W> Link<'_, S, W> {
    /// Closes the link gracefully: what is queued and deferred is sent, what is unread is
    /// discarded; only `on_disconnect` is called after this. A handler that streams closes at the end
    /// of the stream.
    pub fn close(&mut self) {
        self.asked.close = true;
    }

    /// Closes the link without sending what is queued; the peer sees a reset.
    pub fn abort(&mut self) {
        self.asked.abort = true;
    }

    /// Stops `on_receive`. What comes waits, up to the input limit, and then at the peer.
    pub fn pause(&mut self) {
        (self.asked.pause, self.asked.resume) = (true, false);
    }

    /// Ends a pause; `on_receive` is called for what is unread, paused or not. From elsewhere:
    /// [`Recipients::resume`](crate::Recipients::resume).
    pub fn resume(&mut self) {
        (self.asked.pause, self.asked.resume) = (false, true);
    }

    /// Asks for this callback to be made again by the pool, where it may block: rewinds `input` to
    /// the mark. Returns whether that will happen; `false` says that this is the pool.
    pub fn offload(&mut self, input: &mut Input<'_>) -> bool {
        if !self.facts.in_pool {
            self.asked.offload = true;
            input.rewind();
        }
        !self.facts.in_pool
    }

    /// Makes the link a member; its end takes it out of all groups. Posts that are delivered after
    /// this reach it.
    ///
    /// # Errors
    ///
    /// [`LimitError`] if the link is in as many groups as it may be: 8.
    pub fn join(&mut self, group: Group) -> Result<(), LimitError> {
        let mut posts = self.server.lock();
        let mine = posts.groups.values().filter(|members| members.contains(&self.facts.id));
        if mine.count() >= GROUPS_MAX {
            return Err(LimitError::new("groups_max", GROUPS_MAX as u64));
        }
        posts.groups.entry(group).or_default().insert(self.facts.id);
        Ok(())
    }

    /// Takes the link out of a group.
    pub fn leave(&mut self, group: Group) {
        self.server.lock().groups.entry(group).or_default().remove(&self.facts.id);
    }

    /// Opens an outbound link as this one's partner. Partners are never called at the same time, so
    /// each can be handed the other's output.
    ///
    /// `on_connect` is called for the new link, with [`Origin::Partner`].
    ///
    /// A link with a partner is called when the partner's output has the grant, or is finished or closed;
    /// its own has no promised grant, and is asked by [`Output::ensure`].
    pub fn connect(&mut self) {
        self.asked.connect = true;
    }

    /// The partner's output. Until it is connected it has no capacity, so that forwarded input
    /// waits; its errors are [`SendError::PartnerFull`](crate::SendError::PartnerFull) and
    /// [`SendError::PartnerClosed`](crate::SendError::PartnerClosed).
    pub fn partner(&mut self) -> Output<'_> {
        Output { queue: &mut self.asked.partner, is_partner: true }
    }

    /// The same link with a part of its state, for a handler around another.
    pub fn with_state<T>(&mut self, part: impl FnOnce(&mut S) -> &mut T) -> Link<'_, T, W> {
        Link {
            out: self.out.reborrow(),
            state: part(self.state),
            worker: self.worker,
            server: self.server,
            facts: self.facts,
            asked: self.asked,
        }
    }

    /// The link's id; valid as long as the link lives, and for no other link afterwards.
    #[must_use]
    pub fn id(&self) -> LinkId {
        self.facts.id
    }

    /// Where the link comes from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.facts.partner_of.map_or(Origin::Accepted, |of| Origin::Partner { of })
    }

    /// The worker that runs this.
    #[must_use]
    pub fn worker_id(&self) -> WorkerId {
        WorkerId { index: 0, pool: self.facts.in_pool }
    }

    /// What the link has carried so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.facts.totals
    }
}

impl<S, W> fmt::Debug for Link<'_, S, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// The id of a link. The model gives no slot to a second link, so it is the slot's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub(crate) usize);

impl LinkId {
    /// The id of the link that the model opened as its `index`th, from 0.
    #[must_use]
    pub const fn new(index: usize) -> Self {
        Self(index)
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a link comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A client connected.
    Accepted,
    /// [`Link::connect`] asked for it.
    #[non_exhaustive]
    Partner {
        /// The link that did.
        of: LinkId,
    },
}

/// A group of links, by a number that the program chooses. It exists while it has members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(u64);

impl Group {
    /// By a number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }
}

/// What a link has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes that the peer has taken.
    pub sent_bytes: u64,
    /// Posts that were skipped because the link had no capacity for them.
    pub missed: u64,
}

/// In how many groups a link may be.
const GROUPS_MAX: usize = 8;
