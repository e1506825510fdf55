//! What comes out of the port.

use super::error::OsError;
use super::operation::Key;
use crate::memory::{Buffer, Chain};
use std::fmt;
use std::net::SocketAddr;

/// One thing that happened: to the operation in flight on the socket with this key, or a packet.
///
/// `S` is an accepted connection, `T` a posted packet.
#[expect(
    clippy::exhaustive_structs,
    reason = "whose, and what: back ends build it, users match it"
)]
pub struct Completion<S, T> {
    /// The key of the socket; 0 for a posted packet.
    pub key: Key,
    /// What happened.
    pub outcome: Outcome<S, T>,
}

/// What a completion says. `S` is an accepted connection, `T` a posted packet.
#[non_exhaustive]
pub enum Outcome<S, T> {
    /// A connection came in. It is not associated yet; dropping it closes it.
    Accepted {
        /// The connection.
        stream: S,
        /// Its other end.
        peer: SocketAddr,
        /// Whether the accept is over.
        last: bool,
    },
    /// An accept is over without a connection.
    AcceptEnded(End),
    /// Bytes came in. The buffer is not empty.
    Received {
        /// The bytes.
        buffer: Buffer,
        /// Whether the receive is over.
        last: bool,
    },
    /// A receive is over without bytes.
    ReceiveEnded(End),
    /// A send is over: `sent` bytes of the chain, which still has all of them, went to the system.
    Sent {
        /// What was submitted.
        chain: Chain,
        /// How much of it was sent; less than all if it was short, cancelled or failed.
        sent: usize,
        /// Why no more was sent; `None` if all was, or if the send was merely short.
        end: Option<End>,
    },
    /// The socket is closed, and its place is free.
    Closed,
    /// A packet that some thread posted.
    Posted(T),
}

/// Why an operation ended without doing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The peer has sent its last byte.
    PeerClosed,
    /// It was cancelled, or its socket is being closed, or (a receive of many on io_uring) it had
    /// brought as many bytes as it may.
    Cancelled,
    /// [`Shots::IfReady`](super::Shots::IfReady): nothing was there.
    NotReady,
    /// A receive of 0 bytes: there are bytes to receive.
    Readable,
    /// The system said no.
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
