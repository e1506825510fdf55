//! The ids of a connection and of its two sides.

use crate::port::operation::Socket;

/// A connection's slot in the world's table, with a generation.
pub(super) type ConnId = Socket;

/// The side of a connection that connected.
pub(super) const CLIENT: usize = 0;
/// The side of a connection that was accepted.
pub(super) const SERVER: usize = 1;
