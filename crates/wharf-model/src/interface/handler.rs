//! The user's code, as the server sees it.

use super::{Error, Input, Link, Result, Worker};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// What a server does with its links.
///
/// One value serves all workers at once. `S` is what it keeps for each link, made by
/// [`on_connect`](Self::on_connect); `W` what it keeps for each worker thread, such as a database
/// connection, made by [`on_worker_start`](Self::on_worker_start); it need not be [`Send`]. A
/// handler that needs neither is `impl Handler for Echo`.
///
/// # Promises
///
/// The callbacks of a link never run at the same time, wherever they run; `on_disconnect` is called
/// exactly once for each `on_connect` that succeeded, and nothing after it; no callback runs under a
/// lock; no bytes leave and no other callback runs before this one has returned.
///
/// # Errors
///
/// An error closes its link, whatever its cause; what is queued is sent first. The reason is
///
/// | returned | reason |
/// | --- | --- |
/// | [`SendError::Full`](crate::SendError::Full) | [`OutputFull`](DisconnectReason::OutputFull) |
/// | [`TooLong`](crate::TooLong) | [`Limit`](DisconnectReason::Limit) |
/// | anything else | [`HandlerError`](DisconnectReason::HandlerError) |
///
/// # Panics
///
/// A panic resets its link: what is queued may be half a reply, and is not sent. It is counted, and
/// the worker continues with a new `W`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler with link state `{S}` and worker context `{W}`",
    note = "`impl Handler for {Self}` means neither: write `impl Handler<State, Context> for {Self}`"
)]
#[expect(
    unused_variables,
    reason = "defaults do nothing; their parameters have names for the docs"
)]
pub trait Handler<S = (), W = ()>: Send + Sync + 'static
where
    S: Send + 'static,
    W: 'static,
{
    /// Makes the context of a thread that runs callbacks, on that thread, before there are links, and
    /// again after a panic. It is dropped on that thread.
    ///
    /// Must be written unless `W` is `()`; the build fails otherwise.
    ///
    /// # Errors
    ///
    /// The server does not start; after a panic, it stops.
    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<W> {
        const {
            assert!(
                size_of::<W>() == 0,
                "the worker context is not (): write on_worker_start, which makes it"
            );
        }
        unit()
    }

    /// A link opened. Returns its state; until then the state is `()`.
    ///
    /// Must be written unless `S` is `()`; the build fails otherwise.
    ///
    /// # Errors
    ///
    /// The link is refused: what is queued is sent; groups and a partner that it asked for
    /// are undone; `on_disconnect` is not called.
    fn on_connect(&self, link: &mut Link<'_, (), W>) -> Result<S> {
        const {
            assert!(
                size_of::<S>() == 0,
                "the link state is not (): write on_connect, which makes it"
            );
        }
        unit()
    }

    /// There is unread input, and the output is not above its high-water mark and has the grant
    /// ([`Settings`](crate::Settings)).
    ///
    /// Take one message, reply, return. What is left stays with the link, up to
    /// [`Settings::input_bytes`](crate::Settings::input_bytes), above which reading pauses.
    /// `on_receive` is called again
    ///
    /// - at once, if this call took something;
    /// - when there is what this call asked for: [`Input::take`] and its like (counted from the first
    ///   unread byte, also after a rewind), [`Output::ensure`](crate::Output::ensure);
    /// - if it asked for nothing: when more came, or more may be queued;
    /// - after [`resume`](Link::resume), [`on_writable`](Self::on_writable), the end of the partner, and the end
    ///   of a [deferred](Input::defer) reply.
    ///
    /// It is not called while the link is [paused](Link::pause), while a reply is deferred, while the
    /// pool has the link, or after [`close`](Link::close). At most `calls_per_turn_max` calls for one link come
    /// in one turn of its worker.
    ///
    /// # Errors
    ///
    /// As [`Handler`] says: an error closes the link.
    fn on_receive(&self, link: &mut Link<'_, S, W>, input: &mut Input<'_>) -> Result;

    /// The output has the grant again, or what [`Output::ensure`](crate::Output::ensure) asked for.
    ///
    /// Called only after the output had too little: `Full`, [`Output::send_some`](crate::Output::send_some),
    /// [`Output::read_from`](crate::Output::read_from), `ensure`, a
    /// [`try_post`](crate::Recipients::try_post) in a callback of this link that was refused as
    /// `Full`; and after [`Output::notify`](crate::Output::notify). It comes before the `on_receive`
    /// that the same capacity allows, also while the link is paused.
    ///
    /// # Errors
    ///
    /// As [`Handler`] says: an error closes the link.
    fn on_writable(&self, link: &mut Link<'_, S, W>) -> Result {
        Ok(())
    }

    /// The peer has ended its stream, and what came is handled: `input` is empty, or `on_receive` took
    /// nothing of it with nothing queued. There is a grant.
    ///
    /// `Close`: when what is queued and deferred is sent and no `on_writable` is due. `Keep`: until
    /// [`Link::close`], or until [`Output::finish`](crate::Output::finish) has ended the other half
    /// too; `on_receive` is still called for what is unread.
    ///
    /// # Errors
    ///
    /// As [`Handler`] says: an error closes the link.
    fn on_end(&self, link: &mut Link<'_, S, W>, input: &mut Input<'_>) -> Result<Verdict> {
        Ok(Verdict::Close)
    }

    /// For the idle timeout the link waited for its peer: nothing received, queued or deferred, not
    /// paused, not in the pool. There is a grant.
    ///
    /// # Errors
    ///
    /// As [`Handler`] says: an error closes the link.
    fn on_idle(&self, link: &mut Link<'_, S, W>) -> Result<Verdict> {
        Ok(Verdict::Close)
    }

    /// The server begins to stop. There is a grant, for a last message.
    ///
    /// `Close`: when what is unread is handled (as for [`on_end`](Self::on_end)) and what is queued and
    /// deferred is sent. `Keep`: until [`Link::close`], at most until the drain timeout.
    ///
    /// # Errors
    ///
    /// As [`Handler`] says: an error closes the link.
    fn on_drain(&self, link: &mut Link<'_, S, W>) -> Result<Verdict> {
        Ok(Verdict::Close)
    }

    /// The link has ended; why, and what it carried. Its state is dropped after this.
    fn on_disconnect(&self, link: &mut Link<'_, S, W>, reason: DisconnectReason) {}

    /// The link's partner has ended.
    ///
    /// # Errors
    ///
    /// As [`Handler`] says: an error closes the link.
    fn on_partner_gone(
        &self,
        link: &mut Link<'_, S, W>,
        reason: DisconnectReason,
    ) -> Result<Verdict> {
        Ok(Verdict::Close)
    }
}

/// What happens to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is closed, after what the callback's contract says.
    Close,
    /// It stays.
    Keep,
}

/// Why a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The peer has ended its stream.
    PeerClosed,
    /// The peer's system reset the connection, or the network lost it.
    PeerReset,
    /// The peer sent more than a limit allows, or held borrowed buffers with an incomplete message.
    Limit,
    /// The peer sent nothing for the idle timeout.
    Idle,
    /// The peer took nothing for the stall timeout, held borrowed buffers with unsent output, or
    /// missed a post under [`WhenSlow::Disconnect`](crate::WhenSlow::Disconnect).
    SlowReader,
    /// The handler queued more than there was capacity for, and returned that error.
    OutputFull,
    /// The handler closed it.
    HandlerClosed,
    /// The handler returned an error, or a [`Reply`](crate::Reply) was dropped or never sent.
    HandlerError,
    /// The handler panicked.
    HandlerPanic,
    /// Another link or thread closed it.
    Kicked,
    /// The server is stopping.
    ServerStopping,
    /// Its partner ended.
    PartnerGone,
}

impl DisconnectReason {
    /// All reasons, in the order in which statistics count them. A slice: its length may grow.
    pub const ALL: &'static [Self] = &[
        Self::PeerClosed,
        Self::PeerReset,
        Self::Limit,
        Self::Idle,
        Self::SlowReader,
        Self::OutputFull,
        Self::HandlerClosed,
        Self::HandlerError,
        Self::HandlerPanic,
        Self::Kicked,
        Self::ServerStopping,
        Self::PartnerGone,
    ];

    /// A word for logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::PeerReset => "peer_reset",
            Self::Limit => "limit",
            Self::Idle => "idle",
            Self::SlowReader => "slow_reader",
            Self::OutputFull => "output_full",
            Self::HandlerClosed => "handler_closed",
            Self::HandlerError => "handler_error",
            Self::HandlerPanic => "handler_panic",
            Self::Kicked => "kicked",
            Self::ServerStopping => "server_stopping",
            Self::PartnerGone => "partner_gone",
        }
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The only value of `()`, for a type that is known to be it.
fn unit<T: 'static>() -> Result<T> {
    let mut unit = Some(());
    let value = (&mut unit as &mut dyn Any).downcast_mut::<Option<T>>().and_then(Option::take);
    value.ok_or_else(|| {
        Error::msg("a type without size that is not () must be made by its callback")
    })
}

/// A function that receives.
impl<F> Handler for F
where
    F: Fn(&mut Link<'_>, &mut Input<'_>) -> Result + Send + Sync + 'static,
{
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        self(link, input)
    }
}

/// A handler that the program keeps a reference to.
impl<H, S, W> Handler<S, W> for Arc<H>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<W> {
        (**self).on_worker_start(worker)
    }

    fn on_connect(&self, link: &mut Link<'_, (), W>) -> Result<S> {
        (**self).on_connect(link)
    }

    fn on_receive(&self, link: &mut Link<'_, S, W>, input: &mut Input<'_>) -> Result {
        (**self).on_receive(link, input)
    }

    fn on_writable(&self, link: &mut Link<'_, S, W>) -> Result {
        (**self).on_writable(link)
    }

    fn on_end(&self, link: &mut Link<'_, S, W>, input: &mut Input<'_>) -> Result<Verdict> {
        (**self).on_end(link, input)
    }

    fn on_idle(&self, link: &mut Link<'_, S, W>) -> Result<Verdict> {
        (**self).on_idle(link)
    }

    fn on_drain(&self, link: &mut Link<'_, S, W>) -> Result<Verdict> {
        (**self).on_drain(link)
    }

    fn on_disconnect(&self, link: &mut Link<'_, S, W>, reason: DisconnectReason) {
        (**self).on_disconnect(link, reason);
    }

    fn on_partner_gone(
        &self,
        link: &mut Link<'_, S, W>,
        reason: DisconnectReason,
    ) -> Result<Verdict> {
        (**self).on_partner_gone(link, reason)
    }
}
