//! What goes into the port.

use crate::memory::Chain;
use std::fmt;

/// Whose a completion is: 64 bits that the port's user chose when it associated the socket.
///
/// The port hands them back with every completion of that socket and looks at them nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a key is 64 bits and will stay so")]
pub struct Key(pub u64);

/// A socket that is associated with a port: its place in the port's table, and a generation.
///
/// The place is used again after the socket is closed; the generation then differs, so that a
/// stale handle is refused and never reaches the next owner. It means something only to the port
/// that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// How often an accept or a receive completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shots {
    /// Once.
    One,
    /// Again and again, until it is cancelled, its socket ends, it fails, or a receive has brought
    /// as many bytes as it may.
    Many,
    /// At once: with what is there, or with [`End::NotReady`](super::End::NotReady). Without a free
    /// buffer it waits for one, like the others.
    IfReady,
}

/// One thing to be done on a socket.
#[derive(Debug)]
#[non_exhaustive]
pub enum Operation {
    /// Take incoming connections from a listening socket.
    ///
    /// [`Shots::IfReady`] is not for accepts and is refused.
    Accept(Shots),
    /// Receive into buffers of the port's pool; no buffer is held until bytes are there.
    Receive {
        /// How often it completes.
        shots: Shots,
        /// The most bytes that it brings in all its completions together; with the last of them it
        /// is over, whatever `shots` says. `u32::MAX` is no limit.
        ///
        /// 0 asks whether there is something to receive: the operation then takes no buffer and no
        /// bytes, and completes once, whatever `shots` says but for when: with
        /// [`End::Readable`](super::End::Readable) when bytes are there, or as any receive ends
        /// when none will come; with [`Shots::IfReady`] at once, with
        /// [`End::NotReady`](super::End::NotReady) if neither is so.
        ///
        /// # Platforms
        ///
        /// On io_uring a receive of [`Shots::Many`] that may bring more than one buffer holds can
        /// exceed the figure, by the buffers that are lent to the kernel at most
        /// ([`PortConfig::receive_window`](super::PortConfig::receive_window),
        /// [`Port::set_window`](super::Port::set_window)). The port ends it when the figure is
        /// reached; what the kernel has received by then still comes, and the last completion is
        /// the last of these, or says [`End::Cancelled`](super::End::Cancelled).
        bytes_max: u32,
    },
    /// Send the bytes of the chain, which is not empty, in order.
    Send(Chain),
    /// End everything on the socket and close it.
    ///
    /// What is in flight is cancelled and completes first; then comes
    /// [`Outcome::Closed`](super::Outcome::Closed), the last completion with the socket's key.
    Close,
}

impl Operation {
    /// A receive that may bring any number of bytes.
    #[must_use]
    pub fn receive(shots: Shots) -> Self {
        Self::Receive { shots, bytes_max: u32::MAX }
    }

    /// Which kind of operation this is.
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

/// An operation was not taken. Nothing happened, and it is given back.
#[derive(Debug)]
#[non_exhaustive]
pub struct SubmitError {
    /// Why.
    pub kind: SubmitErrorKind,
    /// What was submitted, with its buffers.
    pub operation: Operation,
}

/// Why an operation was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubmitErrorKind {
    /// The socket was closed; its place may have another owner by now.
    StaleSocket,
    /// The socket is being closed.
    Closing,
    /// An accept on a connection, a receive or send on a listener, an empty send, or an accept
    /// with [`Shots::IfReady`].
    NotForThisSocket,
    /// An operation of this kind is in flight on the socket already.
    Busy,
}

impl fmt::Display for SubmitErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StaleSocket => "the socket was closed before",
            Self::Busy => "an operation of this kind is in flight on the socket already",
            Self::Closing => "the socket is being closed",
            Self::NotForThisSocket => "the operation does not fit the socket",
        })
    }
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} was not submitted: {}", self.operation.kind(), self.kind)
    }
}

impl std::error::Error for SubmitError {}

/// A socket could not be associated with the port; it is given back.
#[derive(Debug)]
#[non_exhaustive]
pub struct Refused<S> {
    /// The socket.
    pub socket: S,
    /// Why: the table is full (`None`), or the system's answer.
    pub error: Option<super::OsError>,
}

impl<S> fmt::Display for Refused<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error {
            None => f.write_str("the port's table of sockets is full"),
            Some(error) => error.fmt(f),
        }
    }
}

impl<S: fmt::Debug> std::error::Error for Refused<S> {}
