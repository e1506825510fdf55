//! The limits of closing and draining, and their checks.

use crate::link::slot::{Phase, Slot};
use std::time::Duration;
use wharf_port::port::Time;

/// Stall timeout of a closing link, if the stall timeout is disabled; also the time that a broken link
/// waits for the end of its input.
pub(in crate::engine) const FLUSH_MAX: Duration = Duration::from_secs(30);
/// Maximum time of a lingering close, from the shutdown of the sending side.
const LINGER_MAX: Duration = Duration::from_secs(2);
/// Bytes that a closing link discards, before a lingering link is closed immediately.
const LINGER_BYTES_MAX: u32 = 64 << 20;
/// Maximum of bytes that a draining link receives and sends together, so that a peer that continues to
/// send does not prolong the drain.
const DRAIN_BYTES_MAX: u32 = 8 << 20;

/// When a link that lingers, or whose output is broken, is closed; `None` for other links.
pub(in crate::engine) fn closing_deadline(slot: &Slot) -> Option<Time> {
    match slot.phase {
        Phase::Lingering => Some(slot.time.active_at.saturating_add(LINGER_MAX)),
        // A broken link waits for the end of its input.
        Phase::Open if slot.output.broken.is_some() && !slot.is_held() => {
            Some(slot.time.active_at.saturating_add(FLUSH_MAX))
        }
        _ => None,
    }
}

/// The stall timeout of a closing link.
pub(in crate::engine) fn flush_timeout(stall: Duration) -> Duration {
    if stall.is_zero() { FLUSH_MAX } else { stall }
}

/// Whether a lingering link has discarded more bytes than it may.
pub(in crate::engine) fn exceeds_linger(slot: &Slot) -> bool {
    slot.phase == Phase::Lingering && slot.ending.phase_bytes > LINGER_BYTES_MAX
}

/// Notes `len` received bytes of a draining link. The drain receives no more than had arrived when it
/// began.
pub(in crate::engine) fn note_drained(slot: &mut Slot, len: u32) {
    slot.ending.owed = slot.ending.owed.map(|owed| owed.saturating_sub(len));
    slot.ending.drain_received =
        slot.ending.owed == Some(0) || slot.ending.phase_bytes > DRAIN_BYTES_MAX;
}
