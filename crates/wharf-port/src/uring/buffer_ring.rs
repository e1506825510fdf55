//! The window: buffers lent to the kernel for all sockets together, to receive into.
//!
//! It is a provided-buffer ring (`io_uring_register_buf_ring(3)`): the port writes entries and
//! moves the tail, the kernel takes them in order and names the one it used in the completion.
//! The window is smaller than the pool and is refilled with the buffers that came home last, so
//! that the same few hundred buffers, which are in the cache, do all the work.

use crate::memory::{Buffer, BufferPool, Owner};
use crate::port::{OsError, PortError};
use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// The buffer groups that receives name: small buffers, and large ones if the pool has some.
pub(super) const SMALL_GROUP: u16 = 0;
pub(super) const LARGE_GROUP: u16 = 1;

/// The ring of lent buffers.
#[derive(Debug)]
pub(super) struct BufferRing {
    pool: BufferPool,
    entries: NonNull<BufRingEntry>,
    /// A power of two.
    entry_count: u16,
    /// How many buffers can be lent, at most `entry_count`.
    provided_max: u16,
    /// How many buffers to lend, at most `size`.
    target_count: u16,
    tail: u16,
    /// The lent buffers by their id in the ring.
    provided: Box<[Option<Buffer>]>,
    free_ids: Vec<u16>,
}

impl BufferRing {
    /// Registers a window of at most `size` buffers and at most half of the pool with the ring.
    pub(super) fn new(
        ring: &IoUring,
        group: u16,
        pool: BufferPool,
        size: u32,
    ) -> Result<Self, PortError> {
        let size = size.min(pool.capacity() / 2).clamp(1, 32_768);
        #[expect(clippy::cast_possible_truncation, reason = "at most 32,768")]
        let (size, entry_count) = (size as u16, size.next_power_of_two() as u16);
        let entries = map(entry_count)?;
        let buffers = Self {
            pool,
            entries,
            entry_count,
            provided_max: size,
            target_count: size,
            tail: 0,
            provided: (0..size).map(|_| None).collect(),
            free_ids: (0..size).rev().collect(),
        };
        let address = entries.as_ptr() as u64;
        let submitter = ring.submitter();
        // SAFETY: the memory is page-aligned, holds `entry_count` entries, and is unmapped when
        // the window is dropped, which is after the ring (the port's field order), so the kernel
        // reads no entry any more.
        unsafe { submitter.register_buf_ring_with_flags(address, entry_count, group, 0) }.map_err(
            |error| {
                let hint = "this kernel's io_uring has no provided-buffer rings (Linux 5.19)";
                let os = OsError::from_io("io_uring_register(PBUF_RING)", &error);
                PortError::new(os, (error.raw_os_error() == Some(libc::EINVAL)).then_some(hint))
            },
        )?;
        Ok(buffers)
    }

    /// Lends so many buffers from now on, at most. Those that are lent stay so until they are filled.
    pub(super) fn set_target_count(&mut self, buffers: u32) {
        self.target_count =
            u16::try_from(buffers).map_or(self.provided_max, |count| count.min(self.provided_max));
    }

    /// Lends buffers until as many are lent as shall be, or the pool is empty.
    pub(super) fn refill(&mut self) {
        let before = self.tail;
        for _ in 0..self.refill_count() {
            let Some(id) = self.free_ids.pop() else { break };
            let Some(buffer) = self.pool.acquire(Owner::KernelReceive) else {
                self.free_ids.push(id);
                break;
            };
            let slot = usize::from(self.tail & (self.entry_count - 1));
            // SAFETY: `slot` < `entry_count`, so the entry lies in the mapping.
            let entry = unsafe { self.entries.add(slot) };
            // SAFETY: the entry is valid memory; the kernel reads an entry only once the tail has
            // passed it, and there are fewer buffers lent than entries.
            let entry = unsafe { &mut *entry.as_ptr() };
            entry.set_addr(buffer.bytes().as_ptr() as u64);
            entry.set_len(buffer.capacity());
            entry.set_bid(id);
            self.provided[usize::from(id)] = Some(buffer);
            self.tail = self.tail.wrapping_add(1);
        }
        if self.tail != before {
            // Release: the kernel's acquire of the tail sees the entries written above.
            self.kernel_tail().store(self.tail, Ordering::Release);
        }
    }

    /// Takes back the buffer `id`, into which the kernel wrote `len` bytes.
    pub(super) fn take_filled(&mut self, id: u16, len: u32) -> Option<Buffer> {
        let mut buffer = self.provided.get_mut(usize::from(id))?.take()?;
        self.free_ids.push(id);
        buffer.set_len(len);
        buffer.set_owner(Owner::Application);
        Some(buffer)
    }

    /// Gives up the lent buffers for good, because the kernel may still write to them.
    pub(super) fn leak(&mut self) {
        Box::leak(std::mem::take(&mut self.provided));
    }

    pub(super) fn buffer_size_bytes(&self) -> u32 {
        self.pool.buffer_size_bytes()
    }

    /// How many buffers are lent now.
    #[expect(clippy::cast_possible_truncation, reason = "at most 32,768")]
    pub(super) fn provided_count(&self) -> u32 {
        u32::from(self.provided_max) - self.free_ids.len() as u32
    }

    /// How many more buffers are to be lent.
    pub(super) fn refill_count(&self) -> u32 {
        u32::from(self.target_count).saturating_sub(self.provided_count())
    }

    fn kernel_tail(&self) -> &AtomicU16 {
        // SAFETY: `entries` points to the first entry of the ring, which is initialised memory.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is an aligned u16 in the mapping, which lives as long as `self`. The
        // kernel only reads it; the port's thread, which owns `self`, is the only one to write it,
        // and entry 0's other fields do not overlap it.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        let size_bytes = usize::from(self.entry_count) * size_of::<BufRingEntry>();
        // SAFETY: the whole of the mapping made in `map`; the kernel's ring is gone or has pinned
        // the pages for itself, and nobody else knows the address.
        let result = unsafe { munmap(self.entries.as_ptr().cast(), size_bytes) };
        debug_assert!(result.is_ok(), "munmap: {result:?}");
    }
}

fn map(entry_count: u16) -> Result<NonNull<BufRingEntry>, PortError> {
    let size_bytes = usize::from(entry_count) * size_of::<BufRingEntry>();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new private anonymous mapping at an address of the kernel's choice touches no
    // memory that exists already (mmap(2)); it is page-aligned and zeroed, as the ring must be.
    let address =
        unsafe { mmap_anonymous(std::ptr::null_mut(), size_bytes, access, MapFlags::PRIVATE) };
    address
        .ok()
        .and_then(|address| NonNull::new(address.cast()))
        .ok_or_else(|| OsError::new("mmap", libc::ENOMEM).into())
}
