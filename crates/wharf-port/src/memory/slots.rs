//! Equal slots in one region, by index. The pools keep which of them are free.

use super::error::MemoryError;
use super::region::Region;
use crate::range;
use std::ops::RangeInclusive;
use std::ptr::NonNull;

/// The memory of a pool, divided into equal slots.
#[derive(Debug)]
pub(super) struct Slots {
    region: Region,
    size_bytes: u32,
    stride_bytes: u32,
}

/// The pattern of free buffers in builds with debug assertions: not valid UTF-8, not zero.
const POISON: u8 = 0xD5;

/// Slots start at cache lines, so that two of them never share one.
pub(super) fn stride_bytes(size_bytes: u32) -> u32 {
    size_bytes.next_multiple_of(64)
}

/// The most buffers of a pool.
pub(super) const BUFFERS_MAX: u32 = 1 << 24;
/// The bytes that a buffer can have.
pub(super) const BUFFER_SIZE_BYTES: RangeInclusive<u32> = 64..=1 << 20;

/// Panics if one of the sizes of a pool is out of its range.
pub(super) fn check_size(buffers: u32, buffer_size_bytes: u32) {
    range::check("buffers", buffers, &(1..=BUFFERS_MAX));
    range::check("buffer_size_bytes", buffer_size_bytes, &BUFFER_SIZE_BYTES);
}

impl Slots {
    /// Allocates `count` slots of `size_bytes` bytes.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the system cannot allocate the memory.
    ///
    /// # Panics
    ///
    /// As [`check_size`].
    pub(super) fn new(count: u32, size_bytes: u32) -> Result<Self, MemoryError> {
        check_size(count, size_bytes);
        let stride_bytes = stride_bytes(size_bytes);
        let region = Region::new(u64::from(stride_bytes) * u64::from(count))?;
        let slots = Self { region, size_bytes, stride_bytes };
        if cfg!(debug_assertions) {
            // SAFETY: no slot has been handed out yet.
            (0..count).for_each(|index| unsafe { slots.poison(index) });
        }
        Ok(slots)
    }

    /// Bytes in each slot.
    #[inline]
    pub(super) fn size_bytes(&self) -> u32 {
        self.size_bytes
    }

    /// The address of the slot's first byte; the [`size_bytes`](Self::size_bytes) bytes from there
    /// on lie in the region and are initialised memory.
    #[inline]
    pub(super) fn bytes_of(&self, index: u32) -> NonNull<u8> {
        self.region.at(index as usize * self.stride_bytes as usize)
    }

    /// Fills a free slot with the pattern.
    ///
    /// # Safety
    ///
    /// No other code accesses the slot meanwhile.
    pub(super) unsafe fn poison(&self, index: u32) {
        // SAFETY: the slot lies in the region; only the caller accesses it.
        unsafe { self.bytes_of(index).write_bytes(POISON, self.size_bytes as usize) };
    }

    /// Panics if the slot was written since it was filled with the pattern.
    ///
    /// # Safety
    ///
    /// No other code writes to the slot meanwhile, except by the kind of bug that this detects.
    pub(super) unsafe fn check_poison(&self, index: u32) {
        let len = self.size_bytes as usize;
        // SAFETY: the slot lies in the region, which is initialised memory and lives as long as
        // `self`; by the caller's promise no code writes to it.
        let bytes = unsafe { std::slice::from_raw_parts(self.bytes_of(index).as_ptr(), len) };
        let late = bytes.iter().position(|byte| *byte != POISON);
        assert!(late.is_none(), "buffer {index} was written while free, first at byte {late:?}");
    }
}
