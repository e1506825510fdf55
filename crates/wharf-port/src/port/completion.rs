//! Completions: what [`Port::dequeue`](super::Port::dequeue) returns.

use super::error::OsError;
use super::operation::Key;
use crate::memory::buffer::Buffer;
use crate::memory::chain::Chain;
use std::fmt;
use std::net::SocketAddr;

/// A completion of an operation on the socket with this key, or a posted packet.
///
/// `S` is an accepted connection, `T` a posted packet.
#[expect(
    clippy::exhaustive_structs,
    reason = "a key and an outcome: back ends build it, users match it"
)]
pub struct Completion<S, T> {
    /// The key of the socket; 0 for a posted packet.
    pub key: Key,
    /// The result of the operation, or the packet.
    pub outcome: Outcome<S, T>,
}

/// The result of an operation, or a packet. `S` is an accepted connection, `T` a posted packet.
#[non_exhaustive]
pub enum Outcome<S, T> {
    /// A connection was accepted. It is not associated yet; dropping it closes it.
    Accepted {
        /// The connection.
        stream: S,
        /// The peer's address.
        peer: SocketAddr,
        /// Whether this is the accept's last completion.
        last: bool,
    },
    /// An accept ended without a connection.
    AcceptEnded(EndReason),
    /// Bytes were received. The buffer is not empty.
    Received {
        /// The bytes.
        buffer: Buffer,
        /// Whether this is the receive's last completion.
        last: bool,
    },
    /// A receive ended without bytes.
    ReceiveEnded(EndReason),
    /// A send ended: the system took the first `sent` bytes of the chain, which still has all
    /// bytes.
    Sent {
        /// The submitted chain.
        chain: Chain,
        /// Bytes sent: less than `chain.len()` if the send was short, was cancelled or failed.
        sent: usize,
        /// Why the send ended early; `None` if it sent all bytes or was short.
        end: Option<EndReason>,
    },
    /// The socket is closed, and its slot is free. The last completion with the socket's key.
    Closed,
    /// A packet that a [`Poster`](super::Poster) posted.
    Posted(T),
}

/// Why an operation ended without doing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// The end of the stream: the peer has shut down its sending side, and all bytes were received.
    PeerClosed,
    /// The operation was cancelled, or its socket is being closed, or (a multishot receive on
    /// io_uring) it had received `bytes_max` bytes.
    Cancelled,
    /// [`CompletionMode::IfReady`](super::CompletionMode::IfReady): there were no bytes.
    NotReady,
    /// A receive of 0 bytes: there are bytes to receive.
    Readable,
    /// The system call failed.
    Failed(OsError),
}

impl<S, T> fmt::Debug for Completion<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion")
            .field("key", &self.key)
            .field("outcome", &self.outcome)
            .finish()
    }
}

impl<S, T> fmt::Debug for Outcome<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { peer, last, .. } => write!(f, "Accepted({peer}, last: {last})"),
            Self::AcceptEnded(end) => write!(f, "AcceptEnded({end:?})"),
            Self::Received { buffer, last } => {
                write!(f, "Received({} bytes, last: {last})", buffer.len())
            }
            Self::ReceiveEnded(end) => write!(f, "ReceiveEnded({end:?})"),
            Self::Sent { chain, sent, end } => {
                write!(f, "Sent({sent} of {} bytes, {end:?})", chain.len())
            }
            Self::Closed => f.write_str("Closed"),
            Self::Posted(_) => f.write_str("Posted"),
        }
    }
}
