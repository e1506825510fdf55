//! The user's code, as the server sees it.

use crate::link::input::Input;
use crate::link::{Link, LinkId};
use crate::{Error, Result};
use std::any::Any;
use std::fmt;
use std::io;

/// What a server does with its links.
///
/// One value serves all shards at once, so it is shared between threads; what belongs to one
/// thread is in [`Worker`](Self::Worker), what belongs to one link in [`State`](Self::State).
///
/// Promises: the callbacks of one link never run at the same time; `on_disconnect` comes
/// exactly once for each `on_connect` that succeeded, and nothing comes after it; no callback
/// runs under a lock. A callback queues what is to be sent, and the shard sends it when
/// the callback is over, in one system call for all links.
///
/// # Panics
///
/// A panic in a callback closes that link, is counted, and the worker goes on with a fresh context.
/// `on_disconnect` is still called, with the state as the panic left it. Only if no fresh context can
/// be made does the server stop, and the links of that worker then end without `on_disconnect`.
pub trait Handler: Send + Sync + Sized + 'static {
    /// The context of a worker thread, such as a database connection. It is made and dropped on
    /// that thread and need not be `Send`.
    type Worker: 'static;
    /// What the handler keeps for a link. It starts as its default and lies in the link's place
    /// in the table.
    type State: Default + Send + 'static;

    /// Makes the context of one worker, on the worker's thread, before the server takes links, and
    /// again after a panic.
    ///
    /// Must be written unless `Worker` is `()`.
    ///
    /// # Errors
    ///
    /// An error here stops the start of the server, or later the server.
    fn on_worker_start(&self, worker: WorkerId) -> io::Result<Self::Worker> {
        let _ = worker;
        unit_context()
    }

    /// A connection came in; the link is open.
    ///
    /// # Errors
    ///
    /// An error refuses the connection: it is closed, what was queued for it is sent first, and
    /// `on_disconnect` is not called.
    fn on_connect(&self, worker: &mut Self::Worker, link: &mut Link<'_, Self::State>) -> Result {
        let _ = (worker, link);
        Ok(())
    }

    /// Bytes came in: a piece of the stream, in order, as long as it happened to arrive, at most one
    /// buffer. It may hold a part of a message, or several.
    ///
    /// It is called while no more than half of the send queue is unsent and the
    /// [grant](crate::Builder::grant_bytes) is free: an answer of up to that length is not refused. What
    /// comes meanwhile waits unread.
    ///
    /// # Errors
    ///
    /// An error closes the link; `?` on a failed send does just that.
    fn on_receive(
        &self,
        worker: &mut Self::Worker,
        link: &mut Link<'_, Self::State>,
        data: &[u8],
    ) -> Result;

    /// What is unread, whole: the callback that the server really makes. By default it gives the
    /// first piece to [`on_receive`](Self::on_receive) and consumes it. Not for use yet.
    ///
    /// # Errors
    ///
    /// An error closes the link.
    #[doc(hidden)]
    fn on_input(
        &self,
        worker: &mut Self::Worker,
        link: &mut Link<'_, Self::State>,
        input: &mut Input<'_>,
    ) -> Result {
        let len = input.chunk().len();
        self.on_receive(worker, link, input.chunk())?;
        input.consume(len);
        Ok(())
    }

    /// Everything that was queued has been handed to the system, or buffers that were refused are
    /// free again: there is room for more. Still called when the peer has closed its half, so that
    /// answers longer than the queue can be finished.
    ///
    /// # Errors
    ///
    /// An error closes the link.
    fn on_sent(&self, worker: &mut Self::Worker, link: &mut Link<'_, Self::State>) -> Result {
        let _ = (worker, link);
        Ok(())
    }

    /// Nothing was received for the idle time-out. Says whether the link stays for another one.
    fn on_idle(&self, worker: &mut Self::Worker, link: &mut Link<'_, Self::State>) -> Idle {
        let _ = (worker, link);
        Idle::Close
    }

    /// The link is gone; why, and what it carried. Sends to it fail, sends to others do not.
    fn on_disconnect(
        &self,
        worker: &mut Self::Worker,
        link: &mut Link<'_, Self::State>,
        reason: DisconnectReason,
    ) {
        let _ = (worker, link, reason);
    }
}

/// The default context of workers without one.
fn unit_context<W: 'static>() -> io::Result<W> {
    let mut unit = Some(());
    let context = (&mut unit as &mut dyn Any).downcast_mut::<Option<W>>().and_then(Option::take);
    context.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::Unsupported,
            "the handler's type Worker is not (), so on_worker_start must be written",
        )
    })
}

/// A worker's number; from 0 to one below the number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub(crate) u8);

impl WorkerId {
    /// The number as an index.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What becomes of an idle link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Idle {
    /// It is closed, with [`DisconnectReason::Idle`].
    Close,
    /// It stays for another idle time-out.
    Keep,
}

/// Why a link ended. The variants say who ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The peer closed in good order.
    PeerClosed,
    /// The peer's system reset the connection, or the network lost it.
    PeerReset,
    /// Nothing was received for the idle time-out.
    Idle,
    /// The peer read so slowly that what was to be sent found no room.
    SlowReader,
    /// The handler closed it.
    HandlerClosed,
    /// The handler returned an error.
    HandlerError,
    /// The handler panicked.
    HandlerPanic,
    /// Another thread closed it through the server's handle.
    Kicked,
    /// The server is stopping.
    ServerStopping,
    /// The system refused an operation on it.
    SystemError,
    /// It held unread input that others waited for: a message that was never completed.
    Limit,
}

impl DisconnectReason {
    /// All reasons, in the order in which statistics count them.
    pub const ALL: [Self; 11] = [
        Self::PeerClosed,
        Self::PeerReset,
        Self::Idle,
        Self::SlowReader,
        Self::HandlerClosed,
        Self::HandlerError,
        Self::HandlerPanic,
        Self::Kicked,
        Self::ServerStopping,
        Self::SystemError,
        Self::Limit,
    ];

    /// A word for logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::PeerReset => "peer_reset",
            Self::Idle => "idle",
            Self::SlowReader => "slow_reader",
            Self::HandlerClosed => "handler_closed",
            Self::HandlerError => "handler_error",
            Self::HandlerPanic => "handler_panic",
            Self::Kicked => "kicked",
            Self::ServerStopping => "server_stopping",
            Self::SystemError => "system_error",
            Self::Limit => "limit",
        }
    }

    /// What an error that a handler returned means for its link.
    pub(crate) fn of_error(error: &Error) -> Self {
        use crate::SendError::{NoBuffers, QueueFull};
        match error {
            Error::Send(QueueFull | NoBuffers) => Self::SlowReader,
            _ => Self::HandlerError,
        }
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What went over a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Bytes received.
    pub received_bytes: u64,
    /// Times that `on_receive` was called.
    pub received_count: u64,
    /// Bytes handed to the system to be sent.
    pub sent_bytes: u64,
}

/// Kept small: it is asked for with each callback.
const _: () = assert!(size_of::<LinkId>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_unit_context_has_a_default() {
        unit_context::<()>().unwrap();
        let error = unit_context::<u64>().unwrap_err();
        assert!(error.to_string().contains("on_worker_start must be written"), "{error}");
    }

    #[test]
    fn each_reason_stands_at_its_place_and_has_its_own_name() {
        for (index, reason) in DisconnectReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        let names: std::collections::HashSet<_> =
            DisconnectReason::ALL.map(DisconnectReason::name).into();
        assert_eq!(names.len(), DisconnectReason::ALL.len());
    }
}
