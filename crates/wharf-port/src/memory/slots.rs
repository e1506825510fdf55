//! Equal buffers side by side in one region, by index. Which of them is free is not known here.

use super::error::MemoryError;
use super::region::Region;
use std::ptr::NonNull;

/// The memory of a pool, cut into equal slots.
#[derive(Debug)]
pub(super) struct Slots {
    region: Region,
    size_bytes: u32,
    stride_bytes: u32,
}

/// What free buffers are filled with in builds with debug assertions: no valid UTF-8, no zero.
const POISON: u8 = 0xD5;

/// Slots start at whole cache lines, so that two of them never share one.
pub(super) fn stride_bytes(size_bytes: u32) -> u32 {
    size_bytes.next_multiple_of(64)
}

impl Slots {
    /// Takes `count` slots of `size_bytes` bytes from the system.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the system does not give that much.
    ///
    /// # Panics
    ///
    /// If there would be no slot or more than 16,777,216, or they are smaller than 64 bytes or
    /// larger than 1,048,576.
    pub(super) fn new(count: u32, size_bytes: u32) -> Result<Self, MemoryError> {
        assert!((1..=1 << 24).contains(&count), "buffers: {count}");
        assert!((64..=1 << 20).contains(&size_bytes), "buffer_size_bytes: {size_bytes}");
        let stride_bytes = stride_bytes(size_bytes);
        let region = Region::new(stride_bytes as usize * count as usize)?;
        let slots = Self { region, size_bytes, stride_bytes };
        if cfg!(debug_assertions) {
            // SAFETY: nobody has been given a slot yet.
            (0..count).for_each(|index| unsafe { slots.poison(index) });
        }
        Ok(slots)
    }

    /// Bytes in each slot.
    #[inline]
    pub(super) fn size_bytes(&self) -> u32 {
        self.size_bytes
    }

    /// The address of the slot's first byte; all [`size_bytes`](Self::size_bytes) from there on lie
    /// in the region and are initialised memory.
    #[inline]
    pub(super) fn bytes_of(&self, index: u32) -> NonNull<u8> {
        self.region.at(index as usize * self.stride_bytes as usize)
    }

    /// Fills a free slot with a pattern.
    ///
    /// # Safety
    ///
    /// Nobody else reads or writes the slot meanwhile.
    pub(super) unsafe fn poison(&self, index: u32) {
        // SAFETY: the slot lies in the region; the caller has it alone.
        unsafe { self.bytes_of(index).write_bytes(POISON, self.size_bytes as usize) };
    }

    /// Checks that nobody has written to the slot since it was filled with the pattern.
    ///
    /// # Safety
    ///
    /// Nobody else writes to the slot meanwhile, but for the fault that this looks for.
    pub(super) unsafe fn check_poison(&self, index: u32) {
        let len = self.size_bytes as usize;
        // SAFETY: the slot lies in the region, which is initialised memory and lives as long as
        // `self`; by the caller's promise nobody writes to it.
        let bytes = unsafe { std::slice::from_raw_parts(self.bytes_of(index).as_ptr(), len) };
        let late = bytes.iter().position(|byte| *byte != POISON);
        assert!(late.is_none(), "buffer {index} was written while free, first at byte {late:?}");
    }
}
