//! The trait that users implement.

use crate::link::Link;
use crate::link::input::Input;
use crate::shared::handle::Handle;
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::reason::{DisconnectReason, Verdict};
use crate::worker::Worker;
use std::any::Any;
use std::sync::Arc;

/// The callbacks of a server.
///
/// All workers share one handler. `S` is the state of a link, which [`on_connect`](Self::on_connect)
/// makes. `W` is the context of a worker thread, such as a database connection, which
/// [`on_worker_start`](Self::on_worker_start) makes; it need not be [`Send`]. A handler without both is
/// `impl Handler for Echo`.
///
/// # Promises
///
/// The callbacks of a link all run on one thread and never at the same time. `on_disconnect` is called
/// once for each `on_connect` that succeeded, and no callback of the link after it. No callback runs
/// under a lock. What a callback queues is sent after it has returned, and its worker runs no other
/// callback before.
///
/// # Errors
///
/// If a callback of a link returns an error, the server sends what is queued and closes the link. The
/// reason is
///
/// | returned | reason |
/// | --- | --- |
/// | [`SendError::Full`](crate::SendError::Full) | [`OutputFull`](DisconnectReason::OutputFull) |
/// | [`TooLong`](crate::TooLong) | [`Limit`](DisconnectReason::Limit) |
/// | anything else | [`HandlerError`](DisconnectReason::HandlerError) |
///
/// # Panics
///
/// If a callback of a link panics, the server resets the link and discards what is queued, which may be
/// half a reply. It counts the panic in [`Stats::handler_panics`](crate::Stats::handler_panics), and
/// the worker continues with a new `W`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler with link state `{S}` and worker context `{W}`",
    note = "`impl Handler for {Self}` means neither: write `impl Handler<State, Context> for {Self}`"
)]
pub trait Handler<S = (), W = ()>: Send + Sync + 'static
where
    S: Send + 'static,
    W: 'static,
{
    /// Called once at start, before the server listens. A handler starts threads that post here.
    ///
    /// # Errors
    ///
    /// The server does not start, and [`on_stop`](Self::on_stop) is not called.
    fn on_start(&self, server: &Handle) -> Result {
        let _ = server;
        Ok(())
    }

    /// Called once after an `on_start` that succeeded, when all links have ended and the workers'
    /// contexts are dropped; also if the start failed later.
    fn on_stop(&self, server: &Handle) {
        let _ = server;
    }

    /// Makes the context of a worker. Called on the worker's thread before it has links, and again
    /// after each panic of a callback; the context is dropped on that thread.
    ///
    /// Required unless `W` is `()`: without it `cargo build` fails (`cargo check` does not), or, if `W`
    /// is another type of size zero, the start.
    ///
    /// # Errors
    ///
    /// The server does not start; after a panic, the server stops.
    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<W> {
        let _ = worker;
        const {
            assert!(
                size_of::<W>() == 0,
                "the worker context is not (): write on_worker_start, which makes it"
            );
        }
        unit()
    }

    /// Called when a link has opened. Returns the link's state.
    ///
    /// Required unless `S` is `()`: without it `cargo build` fails (`cargo check` does not), or, if `S`
    /// is another type of size zero, each link is refused.
    ///
    /// ```compile_fail,E0080
    /// use wharf::{Handler, Input, Link, Result, Server};
    ///
    /// struct Names;
    ///
    /// impl Handler<String> for Names {
    ///     fn on_receive(&self, _: &mut Link<'_, String>, _: &mut Input<'_>) -> Result {
    ///         Ok(())
    ///     }
    /// }
    ///
    /// fn main() -> Result {
    ///     // The link state is not (): write on_connect, which makes it
    ///     Server::builder(Names).listen("127.0.0.1:9527").serve()
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// The server sends what is queued and closes the link; it does not call `on_disconnect`.
    fn on_connect(&self, link: &mut Link<'_, (), W>) -> Result<S> {
        let _ = link;
        const {
            assert!(
                size_of::<S>() == 0,
                "the link state is not (): write on_connect, which makes it"
            );
        }
        unit()
    }

    /// Called when the link has unread input, and the output is not above its high-water mark
    /// ([`Builder::output_bytes`](crate::Builder::output_bytes)) and has the grant
    /// ([`grant_bytes`](crate::Builder::grant_bytes)).
    ///
    /// Take one message, reply, return. The rest stays unread; at
    /// [`Builder::input_bytes`](crate::Builder::input_bytes) of it the server stops reading from the
    /// link. `on_receive` is called again
    ///
    /// - at once, if this call took something;
    /// - when what this call asked for is there: [`Input::take`] and its like (counted from the first
    ///   unread byte, also after a rewind), [`Output::ensure`](crate::Output::ensure);
    /// - if it asked for nothing: when more bytes arrived, or the output has more capacity;
    /// - after [`resume`](Link::resume), [`on_writable`](Self::on_writable), and the end of a
    ///   [deferred](Input::defer) reply.
    ///
    /// It is not called while the link is [paused](Link::pause), while a reply is deferred, or after
    /// [`close`](Link::close). A worker makes at most 64 calls for one link in one turn; the next turn
    /// continues.
    ///
    /// To take several messages in one call, take them while there is a grant for the reply to each:
    ///
    /// ```
    /// # use wharf::{Input, Link, Result};
    /// # fn on_receive(link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
    /// while link.out.has_grant() && let Some(line) = input.line(1024)? {
    ///     link.out.send((line, "\n"))?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// One closes the link; see [the table](Self#errors).
    fn on_receive(&self, link: &mut Link<'_, S, W>, input: &mut Input<'_>) -> Result;

    /// Called when the output has the grant again, or the capacity that
    /// [`Output::ensure`](crate::Output::ensure) asked for.
    ///
    /// Called only after the output had too little capacity: `Full`,
    /// [`Output::send_some`](crate::Output::send_some),
    /// [`Output::read_from`](crate::Output::read_from), `ensure`, a
    /// [`try_post`](crate::Recipients::try_post) in a callback of this link that was refused as `Full`;
    /// and after [`Output::notify`](crate::Output::notify). It is called before the `on_receive` that
    /// the same capacity allows, and also while the link is paused.
    ///
    /// # Errors
    ///
    /// One closes the link; see [the table](Self#errors).
    fn on_writable(&self, link: &mut Link<'_, S, W>) -> Result {
        let _ = link;
        Ok(())
    }

    /// Called once when the peer has ended its stream and the input is handled: `input` is empty, or
    /// `on_receive` took nothing of it and either asked for more bytes or had nothing queued. The
    /// output has the grant. Not called while the link is paused. The default is `Close`; the server
    /// drops the rest of an incomplete message.
    ///
    /// `Close`: the link closes when what is queued and deferred is sent and no `on_writable` is due.
    /// `Keep`: the link stays open until [`Link::close`], or until
    /// [`Output::finish`](crate::Output::finish) has ended its own stream; `on_receive` is still called
    /// for unread bytes, and the idle timeout still applies.
    ///
    /// # Errors
    ///
    /// One closes the link; see [the table](Self#errors).
    fn on_end(&self, link: &mut Link<'_, S, W>, input: &mut Input<'_>) -> Result<Verdict> {
        let _ = (link, input);
        Ok(Verdict::Close)
    }

    /// Called when the link has received nothing for the [idle timeout](crate::Builder::idle_timeout).
    /// Time with unsent bytes, a deferred reply or a pause does not count. The output has the grant.
    /// The default is `Close`; `Keep` restarts the timeout.
    ///
    /// # Errors
    ///
    /// One closes the link; see [the table](Self#errors).
    fn on_idle(&self, link: &mut Link<'_, S, W>) -> Result<Verdict> {
        let _ = link;
        Ok(Verdict::Close)
    }

    /// Called once when the server begins to stop. The output has the grant, for a last message. The
    /// default is `Close`.
    ///
    /// `Close`: the link closes when its input is handled (as for [`on_end`](Self::on_end)) and what is
    /// queued and deferred is sent. `Keep`: the link stays open until [`Link::close`] or the drain
    /// timeout.
    ///
    /// # Errors
    ///
    /// One closes the link; see [the table](Self#errors).
    fn on_drain(&self, link: &mut Link<'_, S, W>) -> Result<Verdict> {
        let _ = link;
        Ok(Verdict::Close)
    }

    /// Called once when the link's socket is closed. [`link.totals()`](Link::totals) is final. The
    /// link's state is dropped after this call.
    ///
    /// After a graceful close it is called when the peer has closed as well, or after 2 s. A table from
    /// names to links should therefore remove an entry where it closes the link, and here only if the
    /// entry still names this link.
    fn on_disconnect(&self, link: &mut Link<'_, S, W>, reason: DisconnectReason) {
        let _ = (link, reason);
    }
}

/// Returns `()` as a `T`; an error if `T` is another type.
fn unit<T: 'static>() -> Result<T> {
    let mut unit = Some(());
    let value = (&mut unit as &mut dyn Any).downcast_mut::<Option<T>>().and_then(Option::take);
    value.ok_or_else(|| {
        Error::msg(
            "a type without size that is not () must be made by on_connect or on_worker_start",
        )
    })
}

/// A handler that receives packets of type `P`, for any number of types: see [`inbox`](crate::inbox) and
/// [`Builder::every`](crate::Builder::every).
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not receive packets of type `{P}`",
    note = "write `impl OnPost<{P}, {W}> for {Self}`"
)]
pub trait OnPost<P, W = ()> {
    /// A packet for this worker. It is called on the worker's thread, between the callbacks of links. At
    /// most 64 packets of one inbox are handled before links have their turn.
    ///
    /// # Panics
    ///
    /// The packet is lost; the panic is counted, and the worker continues with a new context.
    fn on_post(&self, worker: &mut Worker<'_, W>, packet: P);
}

impl<P, W, H: OnPost<P, W>> OnPost<P, W> for Arc<H> {
    fn on_post(&self, worker: &mut Worker<'_, W>, packet: P) {
        (**self).on_post(worker, packet);
    }
}

/// A closure is a handler with this `on_receive`.
impl<F> Handler for F
where
    F: Fn(&mut Link<'_>, &mut Input<'_>) -> Result + Send + Sync + 'static,
{
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        self(link, input)
    }
}

/// An `Arc` of a handler, of which the program keeps a clone.
impl<H, S, W> Handler<S, W> for Arc<H>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    fn on_start(&self, server: &Handle) -> Result {
        (**self).on_start(server)
    }

    fn on_stop(&self, server: &Handle) {
        (**self).on_stop(server);
    }

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
}
