//! Accepted connections that no link has yet.

use std::fmt;
use std::net::{Shutdown, SocketAddr, TcpStream};

/// A connection, as a port accepts it.
pub(crate) trait Connection {
    /// Ends it, so that the peer hears of it also while another process holds the socket.
    fn refuse(&self);
}

impl Connection for TcpStream {
    fn refuse(&self) {
        let _it_may_be_gone = self.shutdown(Shutdown::Both);
    }
}

#[cfg(feature = "sim")]
impl Connection for wharf_port::sim::SimStream {
    fn refuse(&self) {
        // Its drop does: no other process holds it.
    }
}

/// An accepted connection that no link has yet, and where it came from. It is refused if it is
/// dropped, wherever it is then: in an inbox of a shard that has ended, too.
pub(crate) struct Accepted<S: Connection> {
    /// `None` only in `into_stream`.
    stream: Option<S>,
    pub(crate) peer: SocketAddr,
    /// The number of the listener.
    pub(crate) listener: u16,
}

impl<S: Connection> Accepted<S> {
    pub(crate) fn new(stream: S, peer: SocketAddr, listener: u16) -> Self {
        Self { stream: Some(stream), peer, listener }
    }

    /// Refuses it, for this reason in the log.
    pub(crate) fn refuse(self, reason: &str) {
        tracing::debug!(peer = %self.peer, reason, "connection refused");
        drop(self);
    }

    /// The connection, for a link.
    pub(crate) fn into_stream(mut self) -> S {
        let Some(stream) = self.stream.take() else {
            unreachable!("it is taken with the value that has it")
        };
        stream
    }
}

impl<S: Connection> Drop for Accepted<S> {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            stream.refuse();
        }
    }
}

impl<S: Connection> fmt::Debug for Accepted<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream: _, peer, listener } = self;
        f.debug_struct("Accepted")
            .field("peer", peer)
            .field("listener", listener)
            .finish_non_exhaustive()
    }
}
