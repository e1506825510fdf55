//! The rule by which a socket receives into large buffers.

use super::demand::Demand;
use crate::memory::buffer::Buffer;
use crate::memory::ledger::Owner;
use crate::memory::pool::BufferPool;

/// Whether the last receives of a socket filled buffers. If so, the next one uses a large buffer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bulk {
    /// Receives in a row that may bring less than a buffer holds before small buffers are used
    /// again.
    short_receives_left: u8,
}

/// Two, because the last buffer of a message of several buffers is mostly not full.
const SHORT_RECEIVES_MAX: u8 = 2;

impl Bulk {
    /// Records the length of a completed receive.
    #[inline]
    pub(crate) fn record(&mut self, len: u32, pool: &BufferPool) {
        let fills = len >= pool.buffer_size_bytes();
        self.short_receives_left =
            if fills { SHORT_RECEIVES_MAX } else { self.short_receives_left.saturating_sub(1) };
    }

    /// Whether the next receive is to use a large buffer. io_uring asks this only: there the kernel
    /// chooses the buffer.
    #[inline]
    pub(crate) fn wants_large(self, demand: Demand, pool: &BufferPool) -> bool {
        self.short_receives_left > 0 && demand.len_max(u32::MAX) > pool.buffer_size_bytes()
    }

    /// A large buffer for the next receive, if it [is to use one](Self::wants_large) and one is
    /// free; else it uses a small one.
    #[inline]
    pub(crate) fn acquire_large(
        self,
        demand: Demand,
        pool: &BufferPool,
        owner: Owner,
    ) -> Option<Buffer> {
        self.wants_large(demand, pool).then(|| pool.acquire_large(owner)).flatten()
    }
}
