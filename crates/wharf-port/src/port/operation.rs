//! Operations, and the handles and errors of submitting them.

use super::error::OsError;
use crate::memory::chain::Chain;
use std::fmt;

/// 64 bits that the program chose when it associated the socket.
///
/// The port returns them with every completion of that socket and does not interpret them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a key is 64 bits and nothing else")]
pub struct Key(pub u64);

/// A handle to an associated socket: the index of its slot in the port's table, and a generation.
///
/// The port reuses the slot after the socket is closed, under a new generation, so that an
/// operation with a stale handle fails and cannot reach the slot's next socket. Valid only for the
/// port that returned it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// How often an accept or a receive completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompletionMode {
    /// Oneshot: once.
    Oneshot,
    /// Multishot: until it is cancelled, the stream ends, it fails, or a receive has received
    /// `bytes_max` bytes.
    Multishot,
    /// At once: with the bytes that are there, or with [`EndReason::NotReady`](super::EndReason::NotReady). If
    /// there are bytes but no free buffer, it waits for a buffer, like the others.
    IfReady,
}

/// An operation on a socket.
#[derive(Debug)]
#[non_exhaustive]
pub enum Operation {
    /// Accept connections on a listening socket.
    ///
    /// [`CompletionMode::IfReady`] is an error.
    Accept(CompletionMode),
    /// Receive into buffers of the port's pool. The operation holds no buffer before bytes are
    /// there.
    Receive {
        /// How often it completes.
        mode: CompletionMode,
        /// The most bytes in all its completions together; the receive ends when it has received
        /// them, also with [`CompletionMode::Multishot`]. `u32::MAX` is no limit.
        ///
        /// 0 is a zero-byte receive: it takes no buffer and no bytes, and completes once. It ends
        /// with [`EndReason::Readable`](super::EndReason::Readable) when there are bytes, and with the stream's
        /// end or error when there are none and will be none. With [`CompletionMode::IfReady`] it completes
        /// at once, with [`EndReason::NotReady`](super::EndReason::NotReady) if neither is the case.
        ///
        /// # Platforms
        ///
        /// On io_uring a multishot receive whose limit is more than one buffer holds can exceed the
        /// limit by as many buffers as the kernel has
        /// ([`PortConfig::receive_buffers_max`](super::PortConfig::receive_buffers_max),
        /// [`Port::set_receive_buffers`](super::Port::set_receive_buffers)): the port cancels it at the limit, and
        /// completions that the kernel has made by then follow. The last completion is the last of
        /// these, or [`EndReason::Cancelled`](super::EndReason::Cancelled).
        bytes_max: u32,
    },
    /// Send the bytes of the chain in order. An empty chain is an error.
    Send(Chain),
    /// Cancel the operations in flight on the socket, and close it after they have completed.
    ///
    /// [`Outcome::Closed`](super::Outcome::Closed) is the last completion with the socket's key.
    Close,
}

impl Operation {
    /// A receive without a limit of bytes.
    #[must_use]
    pub fn receive(mode: CompletionMode) -> Self {
        Self::Receive { mode, bytes_max: u32::MAX }
    }

    /// The operation's kind.
    #[must_use]
    pub fn kind(&self) -> OperationKind {
        match self {
            Self::Accept(_) => OperationKind::Accept,
            Self::Receive { .. } => OperationKind::Receive,
            Self::Send(_) => OperationKind::Send,
            Self::Close => OperationKind::Close,
        }
    }
}

/// The kinds of operations. A socket has at most one of each in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OperationKind {
    /// [`Operation::Accept`]
    Accept,
    /// [`Operation::Receive`]
    Receive,
    /// [`Operation::Send`]
    Send,
    /// [`Operation::Close`]
    Close,
}

/// An operation was not submitted; it is returned unchanged.
#[derive(Debug)]
#[non_exhaustive]
pub struct SubmitError {
    /// The reason.
    pub kind: SubmitErrorKind,
    /// The operation, with its buffers.
    pub operation: Operation,
}

/// Why an operation was not submitted. Of several reasons the first in this order is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubmitErrorKind {
    /// The socket was closed; another socket may use its slot.
    StaleSocket,
    /// The socket is being closed.
    Closing,
    /// An accept on a connection, a receive or send on a listener, an empty send, or an accept with
    /// [`CompletionMode::IfReady`].
    WrongOperation,
    /// An operation of this kind is in flight on the socket already.
    AlreadyInFlight,
}

impl fmt::Display for SubmitErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StaleSocket => "the socket is closed",
            Self::AlreadyInFlight => "an operation of this kind is in flight on the socket already",
            Self::Closing => "the socket is being closed",
            Self::WrongOperation => "a socket of this kind does not support the operation",
        })
    }
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} was not submitted: {}", self.operation.kind(), self.kind)
    }
}

impl std::error::Error for SubmitError {}

/// A socket could not be associated with the port; it is returned.
#[derive(Debug)]
#[non_exhaustive]
pub struct AssociateError<S> {
    /// The socket.
    pub socket: S,
    /// The call that failed; `None` if the port has no free slot
    /// ([`PortConfig::sockets_max`](super::PortConfig::sockets_max)) or, on Windows, has 1,024
    /// listeners.
    pub error: Option<OsError>,
}

impl<S> fmt::Display for AssociateError<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error {
            None => f.write_str(NO_SLOT),
            Some(error) => error.fmt(f),
        }
    }
}

impl<S: fmt::Debug> std::error::Error for AssociateError<S> {}

#[cfg(not(windows))]
const NO_SLOT: &str = "the port has sockets_max sockets; close one, or raise sockets_max";
#[cfg(windows)]
const NO_SLOT: &str = "the port has sockets_max sockets or 1,024 listeners; close one";
