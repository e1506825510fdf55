//! How a connection and its two sides are named.

use crate::port::Socket;

/// A connection's place in the world, with a generation.
pub(super) type ConnId = Socket;

/// The side of a connection that connected.
pub(super) const CLIENT: usize = 0;
/// The side of a connection that was accepted.
pub(super) const SERVER: usize = 1;
