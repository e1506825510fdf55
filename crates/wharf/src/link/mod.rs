//! Links: a connection, its slot in the table, its unread input and unsent output, and its timeouts.
//!
//! Nothing here makes a system call: a link queues, and the engine flushes at the end of the turn.

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

/// A link during one callback: its output, its state, and its worker's context.
///
/// The four parts are fields, so that one expression can borrow several of them: `write!(link.out, "{}
/// is {}", link.state.name, link.worker.look_up(&link.state.name)?)?`.
#[non_exhaustive]
pub struct Link<'a, S = (), W = ()> {
    /// The send queue.
    pub out: Output<'a>,
    /// The state of this link, made by [`Handler::on_connect`](crate::Handler::on_connect).
    pub state: &'a mut S,
    /// The context of the worker that runs this callback.
    pub worker: &'a mut W,
    /// The server's handle, for other links and for all links.
    pub server: &'a Handle,
}

impl<S, W> Link<'_, S, W> {
    /// The link's id. After the link's end it reaches no link.
    #[must_use]
    pub fn id(&self) -> LinkId {
        self.out.core.id(self.out.index)
    }

    /// The peer's address; of a trusted proxy's link, that of the client whom its header names: see
    /// [`Builder::proxy_protocol`](crate::Builder::proxy_protocol).
    #[must_use]
    pub fn peer(&self) -> Address {
        self.slot().peer.into()
    }

    /// The local address.
    #[must_use]
    pub fn local(&self) -> Address {
        self.slot().local.into()
    }

    /// How the link came to be.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin::Accepted { listener: ListenerId(self.slot().listener) }
    }

    /// The worker that runs this callback.
    #[must_use]
    pub fn worker_id(&self) -> WorkerId {
        WorkerId::of_shard(self.out.core.shard)
    }

    /// The worker's clock, read once per turn after the dequeue; in a simulation the simulated time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.out.core.instant()
    }

    /// The link's counters so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = self.slot().totals;
        totals.missed += self.out.core.quotas().missed(self.out.index);
        totals
    }

    /// Closes the link gracefully after this callback: what is queued and deferred is sent, unread
    /// input is discarded, and only `on_disconnect` is called after this. A handler that streams closes
    /// at the end of the stream.
    ///
    /// After the last byte the link waits at most 2 s for the peer to close and discards what the peer
    /// sends: closing the socket with unread bytes would send a reset, and the peer's system would
    /// discard what the peer has not read. `on_disconnect` is called after that.
    pub fn close(&mut self) {
        tell(Act::Close);
        self.slot_mut().ending.close_requested = true;
    }

    /// Closes the link after this callback without sending what is queued; the peer gets a reset.
    pub fn abort(&mut self) {
        tell(Act::Abort);
        let slot = self.slot_mut();
        (slot.ending.close_requested, slot.ending.abort_requested) = (true, true);
    }

    /// Stops calls of `on_receive`. The server reads on up to
    /// [`Builder::input_bytes`](crate::Builder::input_bytes); what the peer sends beyond that stays in
    /// the systems' socket buffers.
    ///
    /// A paused link has no idle timeout, and `on_end` is called after its resume, also if the peer is
    /// gone. So each pause must end with [`resume`](Self::resume),
    /// [`Recipients::resume`](crate::Recipients::resume) or a close.
    pub fn pause(&mut self) {
        tell(Act::Pause);
        let now = self.out.core.now;
        let slot = self.slot_mut();
        slot.input.paused = true;
        slot.suspend_idle_time(now);
    }

    /// Ends a pause, if there is one, and has `on_receive` called for unread input. From other
    /// callbacks and threads: [`Recipients::resume`](crate::Recipients::resume).
    pub fn resume(&mut self) {
        tell(Act::Resume);
        let now = self.out.core.now;
        self.slot_mut().resume(now);
    }

    /// Sets this link's idle timeout in place of
    /// [`Builder::idle_timeout`](crate::Builder::idle_timeout); zero disables it. In whole
    /// milliseconds, rounded up.
    pub fn set_idle_timeout(&mut self, timeout: Duration) {
        tell(Act::IdleTimeout(timeout));
        self.slot_mut().time.idle_ms = millis(timeout);
    }

    /// The same link with a part of its state, for a handler that wraps another.
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
