//! Links: a connection, its place in the table, what is unread of it and what is to be sent, and its
//! time-outs.
//!
//! Nothing here makes a system call: a link queues, and the engine flushes.

pub(crate) mod core;
pub(crate) mod fifo;
pub(crate) mod framing;
pub(crate) mod input;
mod keep;
pub(crate) mod output;
pub(crate) mod peek;
pub(crate) mod posts;
mod queue;
pub(crate) mod slot;
pub(crate) mod unread;
pub(crate) mod wheel;

use crate::acts::{Act, tell};
use crate::link::output::Output;
use crate::link::slot::millis;
use crate::shared::handle::Handle;
use crate::vocabulary::address::Address;
use crate::vocabulary::id::LinkId;
use crate::vocabulary::origin::WorkerId;
use crate::vocabulary::origin::{ListenerId, Origin};
use crate::vocabulary::totals::Totals;
use std::fmt;
use std::time::{Duration, Instant};

/// A link for the time of one callback: what leaves it, what the handler keeps for it, and what
/// serves it.
///
/// The four parts are fields, so that they can be used together:
/// `write!(link.out, "{} is {}", link.state.name, link.worker.look_up(&link.state.name)?)?`.
#[non_exhaustive]
pub struct Link<'a, S = (), W = ()> {
    /// What is to be sent.
    pub out: Output<'a>,
    /// What the handler keeps for this link.
    pub state: &'a mut S,
    /// What the handler keeps for the thread that runs this.
    pub worker: &'a mut W,
    /// The server: other links, all links.
    pub server: &'a Handle,
}

impl<S, W> Link<'_, S, W> {
    /// The link's id; valid as long as the link lives, and for no other link afterwards.
    #[must_use]
    pub fn id(&self) -> LinkId {
        self.out.core.id(self.out.index)
    }

    /// The peer's address.
    #[must_use]
    pub fn peer(&self) -> Address {
        self.slot().peer.into()
    }

    /// The address of this end.
    #[must_use]
    pub fn local(&self) -> Address {
        self.slot().local.into()
    }

    /// Where the link comes from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin::Accepted { listener: ListenerId(self.slot().listener) }
    }

    /// The worker that runs this.
    #[must_use]
    pub fn worker_id(&self) -> WorkerId {
        WorkerId::of_shard(self.out.core.shard)
    }

    /// The worker's clock, read once a turn; in the simulator, the simulated one.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.out.core.instant()
    }

    /// What the link has carried so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = self.slot().totals;
        totals.missed += self.out.core.quotas().missed(self.out.index);
        totals
    }

    /// Closes the link in good order: what is queued and deferred is sent, what is unread is discarded;
    /// only `on_disconnect` is called after this. A handler that streams closes at the end of the stream.
    ///
    /// After the last byte the link waits for the peer to close, for 2 s at most: a reset would take
    /// from the peer what it has not read yet. `on_disconnect` comes after that.
    pub fn close(&mut self) {
        tell(Act::Close);
        self.slot_mut().close_asked = true;
    }

    /// Closes the link without sending what is queued; the peer sees a reset.
    pub fn abort(&mut self) {
        tell(Act::Abort);
        let slot = self.slot_mut();
        (slot.close_asked, slot.abort_asked) = (true, true);
    }

    /// Stops `on_receive`. What comes waits, up to the input limit, and then at the peer.
    ///
    /// A paused link has no idle timeout, and `on_end` waits for its resume, also when the peer is gone:
    /// whoever pauses it sees to it that it is resumed or closed.
    pub fn pause(&mut self) {
        tell(Act::Pause);
        let now = self.out.core.now;
        let slot = self.slot_mut();
        slot.paused = true;
        slot.owe(now);
    }

    /// Ends a pause; `on_receive` is called for what is unread, paused or not. From elsewhere:
    /// [`Recipients::resume`](crate::Recipients::resume).
    pub fn resume(&mut self) {
        tell(Act::Resume);
        let now = self.out.core.now;
        self.slot_mut().resume(now);
    }

    /// Another idle timeout than [`Builder::idle_timeout`](crate::Builder::idle_timeout); zero
    /// disables it.
    pub fn set_idle_timeout(&mut self, timeout: Duration) {
        tell(Act::IdleTimeout(timeout));
        self.slot_mut().idle_ms = millis(timeout);
    }

    /// The same link with a part of its state, for a handler around another.
    ///
    /// ```
    /// use wharf::{Handler, Input, Link, Result, Worker};
    ///
    /// /// Counts the calls of any handler. (A real one passes on every callback.)
    /// struct Counted<H>(H);
    ///
    /// impl<H, S, W> Handler<(u64, S), W> for Counted<H>
    /// where
    ///     H: Handler<S, W>,
    ///     S: Send + 'static,
    ///     W: 'static,
    /// {
    ///     fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<W> {
    ///         self.0.on_worker_start(worker)
    ///     }
    ///
    ///     fn on_connect(&self, link: &mut Link<'_, (), W>) -> Result<(u64, S)> {
    ///         Ok((0, self.0.on_connect(link)?))
    ///     }
    ///
    ///     fn on_receive(&self, link: &mut Link<'_, (u64, S), W>, input: &mut Input<'_>) -> Result {
    ///         link.state.0 += 1;
    ///         self.0.on_receive(&mut link.with_state(|(_, state)| state), input)
    ///     }
    /// }
    /// ```
    pub fn with_state<T>(&mut self, part: impl FnOnce(&mut S) -> &mut T) -> Link<'_, T, W> {
        Link {
            out: self.out.reborrow(),
            state: part(self.state),
            worker: self.worker,
            server: self.server,
        }
    }

    fn slot(&self) -> &slot::Slot {
        &self.out.core.slots[self.out.index]
    }

    fn slot_mut(&mut self) -> &mut slot::Slot {
        &mut self.out.core.slots[self.out.index]
    }
}

impl<S, W> fmt::Debug for Link<'_, S, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("id", &self.id()).field("peer", &self.peer()).finish()
    }
}
