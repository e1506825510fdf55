//! Whether a socket receives into large buffers.

use super::demand::Demand;
use crate::memory::{Buffer, BufferPool, Owner};

/// What the last receives of a socket say about its stream: as long as it fills buffers it comes in
/// large ones, if the pool has some.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bulk {
    /// Receives that may bring less than a buffer before the stream counts as a trickle.
    short_receives_left: u8,
}

/// A message of more than one buffer ends in one that it does not fill.
const SHORT_RECEIVES_MAX: u8 = 2;

impl Bulk {
    /// A receive has brought so many bytes.
    #[inline]
    pub(crate) fn record(&mut self, len: u32, pool: &BufferPool) {
        let fills = len >= pool.buffer_size_bytes();
        self.short_receives_left =
            if fills { SHORT_RECEIVES_MAX } else { self.short_receives_left.saturating_sub(1) };
    }

    /// Whether the next receive is to use a large buffer.
    #[inline]
    pub(crate) fn wants_large(self, demand: Demand, pool: &BufferPool) -> bool {
        self.short_receives_left > 0 && demand.len_max(u32::MAX) > pool.buffer_size_bytes()
    }

    /// A buffer for the next receive, a large one if that is of use and there is one.
    #[inline]
    pub(crate) fn acquire(self, demand: Demand, pool: &BufferPool, owner: Owner) -> Option<Buffer> {
        let large = self.wants_large(demand, pool).then(|| pool.acquire_large(owner)).flatten();
        large.or_else(|| pool.acquire(owner))
    }
}
