//! The limits of closing and draining.

use std::time::Duration;

/// Stall timeout of a closing link, if the stall timeout is disabled; also the time that a broken link
/// waits for the end of its input.
pub(in crate::engine) const FLUSH_MAX: Duration = Duration::from_secs(30);
/// Maximum time of a lingering close, from the shutdown of the sending side.
pub(in crate::engine) const LINGER_MAX: Duration = Duration::from_secs(2);
/// Bytes that a closing link discards, before a lingering link is closed immediately.
pub(in crate::engine) const LINGER_BYTES_MAX: u32 = 64 << 20;
/// Maximum of bytes that a draining link receives and sends together, so that a peer that continues to
/// send does not prolong the drain.
pub(in crate::engine) const DRAIN_BYTES_MAX: u32 = 8 << 20;
