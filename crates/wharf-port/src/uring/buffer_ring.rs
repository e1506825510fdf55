//! A ring of provided buffers (io_uring_provided_buffers(7)), into which all sockets receive.
//!
//! The port writes entries and advances the tail; the kernel takes buffers in order and names the
//! one that it filled in the completion. The ring is smaller than the pool and is refilled with the
//! buffers that were released last, so that a few hundred buffers, which stay in the cache, are in
//! use.

use crate::memory::buffer::Buffer;
use crate::memory::ledger::Owner;
use crate::memory::pool::BufferPool;
use crate::memory::table::try_table;
use crate::port::error::{OsError, PortError};
use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// The buffer groups that receives select from: small buffers, and large ones.
pub(super) const SMALL_GROUP: u16 = 0;
pub(super) const LARGE_GROUP: u16 = 1;

/// A ring of provided buffers, and the buffers in it.
#[derive(Debug)]
pub(super) struct BufferRing {
    pool: BufferPool,
    entries: NonNull<BufRingEntry>,
    /// A power of two.
    entry_count: u16,
    /// The most buffers in the ring, at most `entry_count`.
    provided_max: u16,
    /// The number of provided buffers after a refill, at most `provided_max`.
    target_count: u16,
    tail: u16,
    /// The provided buffers by id.
    provided: Box<[Option<Buffer>]>,
    free_ids: Vec<u16>,
}

impl BufferRing {
    /// Registers a ring of `size` buffers, but at most half of the pool, as `group`.
    pub(super) fn new(
        ring: &IoUring,
        group: u16,
        pool: BufferPool,
        size: u32,
    ) -> Result<Self, PortError> {
        let size = size.min(pool.capacity() / 2).clamp(1, 32_768);
        #[expect(clippy::cast_possible_truncation, reason = "at most 32,768")]
        let (size, entry_count) = (size as u16, size.next_power_of_two() as u16);
        let provided = try_table("the provided buffers", (0..size).map(|_| None))?;
        let free_ids = try_table("the free ids of provided buffers", (0..size).rev())?.into_vec();
        let entries = map(entry_count)?;
        let buffers = Self {
            pool,
            entries,
            entry_count,
            provided_max: size,
            target_count: size,
            tail: 0,
            provided,
            free_ids,
        };
        let address = entries.as_ptr() as u64;
        let submitter = ring.submitter();
        // SAFETY: the memory is page-aligned, holds `entry_count` entries, and is unmapped when
        // this value is dropped, which is after the io_uring (the port's field order), so the
        // kernel reads no entry any more.
        unsafe { submitter.register_buf_ring_with_flags(address, entry_count, group, 0) }.map_err(
            |error| {
                let hint = "io_uring has no rings of provided buffers before Linux 5.19";
                let os = OsError::from_io("io_uring_register(PBUF_RING)", &error);
                PortError::new(os, (error.raw_os_error() == Some(libc::EINVAL)).then_some(hint))
            },
        )?;
        Ok(buffers)
    }

    /// Sets the number of buffers that a refill provides. Buffers in the ring stay until they are
    /// filled.
    pub(super) fn set_target_count(&mut self, buffers: u32) {
        self.target_count =
            u16::try_from(buffers).map_or(self.provided_max, |count| count.min(self.provided_max));
    }

    /// Provides buffers until there are `target_count`, or the pool is empty.
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
            // SAFETY: the entry is valid memory; the kernel reads an entry only after the tail has
            // passed it, and it has consumed this one, because fewer buffers are provided than the
            // ring has entries.
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

    /// Removes the buffer `id`, into which the kernel has written `len` bytes.
    pub(super) fn take_filled(&mut self, id: u16, len: u32) -> Buffer {
        let buffer = self.provided.get_mut(usize::from(id)).and_then(Option::take);
        let Some(mut buffer) = buffer else {
            panic!("the kernel has filled the buffer {id}, which is not provided");
        };
        self.free_ids.push(id);
        buffer.set_len(len);
        buffer.set_owner(Owner::Application);
        buffer
    }

    /// Leaks the provided buffers, because the kernel may still write to them.
    pub(super) fn leak(&mut self) {
        Box::leak(std::mem::take(&mut self.provided));
    }

    pub(super) fn buffer_size_bytes(&self) -> u32 {
        self.pool.buffer_size_bytes()
    }

    /// Buffers in the ring.
    #[expect(clippy::cast_possible_truncation, reason = "at most 32,768")]
    pub(super) fn provided_count(&self) -> u32 {
        u32::from(self.provided_max) - self.free_ids.len() as u32
    }

    /// Buffers that the next refill takes.
    pub(super) fn refill_count(&self) -> u32 {
        u32::from(self.target_count).saturating_sub(self.provided_count())
    }

    fn kernel_tail(&self) -> &AtomicU16 {
        // SAFETY: `entries` points to the first entry of the ring, which is initialised memory.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is an aligned u16 in the mapping, which exists as long as `self`. The
        // kernel only reads it; only the port's thread, which owns `self`, writes it, and entry 0's
        // other fields do not overlap it.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        let size_bytes = usize::from(self.entry_count) * size_of::<BufRingEntry>();
        // SAFETY: the whole of the mapping made in `map`; the io_uring is closed or the kernel has
        // pinned the pages for itself, and no other code has the address.
        let result = unsafe { munmap(self.entries.as_ptr().cast(), size_bytes) };
        // Only a leak if it fails, and only for a range that is no mapping.
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
