//! The user's code, as the server sees it.

use crate::link::Link;
use crate::link::input::Input;
use crate::shared::handle::Handle;
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::reason::{DisconnectReason, Verdict};
use crate::worker::Worker;
use std::any::Any;
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
/// An error closes its link, whoever caused it; what is queued is sent first. The reason is
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
/// the worker goes on with a new `W`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler with link state `{S}` and worker context `{W}`",
    note = "`impl Handler for {Self}` means neither: write `impl Handler<State, Context> for {Self}`"
)]
pub trait Handler<S = (), W = ()>: Send + Sync + 'static
where
    S: Send + 'static,
    W: 'static,
{
    /// The server is about to start; it does not listen yet. Here start threads that post.
    ///
    /// # Errors
    ///
    /// The server does not start; [`on_stop`](Self::on_stop) is not called.
    fn on_start(&self, server: &Handle) -> Result {
        let _ = server;
        Ok(())
    }

    /// The last link and the workers' contexts are gone. Called once for each `on_start` that
    /// succeeded, also when the start failed after it.
    fn on_stop(&self, server: &Handle) {
        let _ = server;
    }

    /// Makes the context of a thread that runs callbacks, on that thread, before there are links, and
    /// again after a panic. It is dropped on that thread.
    ///
    /// Must be written unless `W` is `()`: `cargo build` fails otherwise (`cargo check` does not see it),
    /// or the start, if `W` is another type without size.
    ///
    /// # Errors
    ///
    /// The server does not start; after a panic, it stops.
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

    /// A link opened. Returns its state; until then the state is `()`.
    ///
    /// Must be written unless `S` is `()`: `cargo build` fails otherwise (`cargo check` does not see it),
    /// or each link is refused, if `S` is another type without size.
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
    /// The link is refused: what is queued is sent; `on_disconnect` is not
    /// called.
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

    /// There is unread input, and the output is not above its high-water mark and has the grant
    /// ([`Builder::output_bytes`](crate::Builder::output_bytes), [`grant_bytes`](crate::Builder::grant_bytes)).
    ///
    /// Take one message, reply, return. What is left stays with the link, up to
    /// [`Builder::input_bytes`](crate::Builder::input_bytes), above which the link is not read from.
    /// `on_receive` is called again
    ///
    /// - at once, if this call took something;
    /// - when there is what this call asked for: [`Input::take`] and its like (counted from the first
    ///   unread byte, also after a rewind), [`Output::ensure`](crate::Output::ensure);
    /// - if it asked for nothing: when more came, or more may be queued;
    /// - after [`resume`](Link::resume), [`on_writable`](Self::on_writable), and the end of a
    ///   [deferred](Input::defer) reply.
    ///
    /// It is not called while the link is [paused](Link::pause), while a reply is deferred, or after [`close`](Link::close). At most 64 calls for one link come in one
    /// turn of its worker.
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
    /// One closes the link; see [the table](Self#errors).
    fn on_writable(&self, link: &mut Link<'_, S, W>) -> Result {
        let _ = link;
        Ok(())
    }

    /// The peer has ended its stream, and what came is handled: `input` is empty, or `on_receive` took
    /// nothing of it with nothing queued. There is a grant. While the link is paused it does not come.
    /// By default `Close`; what is left of an incomplete message is dropped.
    ///
    /// `Close`: when what is queued and deferred is sent and no `on_writable` is due. `Keep`: until
    /// [`Link::close`], or until [`Output::finish`](crate::Output::finish) has ended the other half
    /// too; `on_receive` is still called for what is unread. A link that is kept still has its idle
    /// timeout.
    ///
    /// # Errors
    ///
    /// One closes the link; see [the table](Self#errors).
    fn on_end(&self, link: &mut Link<'_, S, W>, input: &mut Input<'_>) -> Result<Verdict> {
        let _ = (link, input);
        Ok(Verdict::Close)
    }

    /// For the [idle timeout](crate::Builder::idle_timeout) the link waited for its peer: it received
    /// nothing, and had nothing unsent or deferred, and was not paused. There is a grant. By default
    /// `Close`; after `Keep` it comes again when the timeout has passed once more.
    ///
    /// # Errors
    ///
    /// One closes the link; see [the table](Self#errors).
    fn on_idle(&self, link: &mut Link<'_, S, W>) -> Result<Verdict> {
        let _ = link;
        Ok(Verdict::Close)
    }

    /// The server begins to stop. There is a grant, for a last message. By default `Close`.
    ///
    /// `Close`: when what is unread is handled (as for [`on_end`](Self::on_end)) and what is queued and
    /// deferred is sent. `Keep`: until [`Link::close`], at most until the drain timeout.
    ///
    /// # Errors
    ///
    /// One closes the link; see [the table](Self#errors).
    fn on_drain(&self, link: &mut Link<'_, S, W>) -> Result<Verdict> {
        let _ = link;
        Ok(Verdict::Close)
    }

    /// The link has ended; why, and what it carried. Its state is dropped after this.
    ///
    /// After a close in good order it comes when the peer has closed, too, or after 2 s. So a table of
    /// names forgets one where its link is closed, and here only if it still names this link.
    fn on_disconnect(&self, link: &mut Link<'_, S, W>, reason: DisconnectReason) {
        let _ = (link, reason);
    }
}

/// The only value of `()`, for a type that is known to be it.
fn unit<T: 'static>() -> Result<T> {
    let mut unit = Some(());
    let value = (&mut unit as &mut dyn Any).downcast_mut::<Option<T>>().and_then(Option::take);
    value.ok_or_else(|| {
        Error::msg(
            "a type without size that is not () must be made by on_connect or on_worker_start",
        )
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
