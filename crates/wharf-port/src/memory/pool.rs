//! The buffer pool: equal buffers, acquired and released without atomics on one thread.

use super::buffer::Buffer;
use super::entries::{Content, EntryTable, Node};
use super::error::MemoryError;
use super::ledger::{BufferCounts, LedgerView, Owner};
use super::message::Message;
use super::slots::{BUFFER_SIZE_BYTES, BUFFERS_MAX, Slots, check_size, stride_bytes};
use super::table::try_table;
use crate::range;
use std::cell::Cell;
use std::fmt;
use std::ptr::NonNull;

/// The size of a pool, which [`BufferPool::new`] allocates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolConfig {
    /// Buffers; 1 to 16,777,216.
    pub buffers: u32,
    /// Bytes in each buffer; 64 to 1,048,576.
    pub buffer_size_bytes: u32,
    /// Chain entries for messages: one for each message in each queue; 0 to 1,073,741,824.
    pub shared_entries: u32,
    /// Large buffers to receive into, beside the others; 0 to 16,777,216.
    pub large_buffers: u32,
    /// Bytes in each large buffer; more than in the others, up to 1,048,576. Ignored without large
    /// buffers.
    pub large_size_bytes: u32,
}

impl PoolConfig {
    /// `buffers` buffers of 2,048 bytes, as many entries for messages, and no large buffers.
    #[must_use]
    pub fn new(buffers: u32) -> Self {
        Self {
            buffers,
            buffer_size_bytes: 2048,
            shared_entries: buffers,
            large_buffers: 0,
            large_size_bytes: 0,
        }
    }

    /// Bytes that the pool allocates, tables included.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        // Each buffer has an index in the free stack and a tag.
        let buffer = u64::from(stride_bytes(self.buffer_size_bytes)) + 4 + 1;
        let counts = [self.buffers, self.shared_entries, self.large_buffers];
        let entries: u64 = counts.map(u64::from).iter().sum();
        u64::from(self.buffers) * buffer
            + entries * size_of::<Node<Entry>>() as u64
            + self.large().map_or(0, |large| large.size_bytes())
    }

    /// Panics if a value is outside its range.
    fn validate(&self) {
        check_size(self.buffers, self.buffer_size_bytes);
        range::check("shared_entries", self.shared_entries, &(0..=SHARED_ENTRIES_MAX));
        range::check("large_buffers", self.large_buffers, &(0..=BUFFERS_MAX));
        if self.large_buffers > 0 {
            let sizes = self.buffer_size_bytes + 1..=*BUFFER_SIZE_BYTES.end();
            range::check("large_size_bytes", self.large_size_bytes, &sizes);
        }
    }

    /// The configuration of the pool of large buffers. Chain entries for them are in the table of
    /// the pool of small buffers.
    fn large(&self) -> Option<Self> {
        (self.large_buffers > 0).then(|| Self {
            buffer_size_bytes: self.large_size_bytes,
            shared_entries: 0,
            ..Self::new(self.large_buffers)
        })
    }
}

/// With the entries for buffers the number still fits an index.
const SHARED_ENTRIES_MAX: u32 = 1 << 30;

/// A fixed set of equal I/O buffers for one thread, allocated at startup.
///
/// It may also have *large* buffers, into which a port receives a stream that fills one buffer
/// after the other, to save calls and completions. If no large buffer is free, small ones are used;
/// bytes that may stay queued are moved to small ones while large ones are scarce
/// ([`Chain::move_front`](super::Chain::move_front)).
///
/// A clone is another handle to the same pool, as of an `Rc`. Buffers are acquired LIFO, because
/// the buffer that was released last is the one most likely in the cache. The pool's memory is
/// freed with the last of its handles, buffers and chain entries.
///
/// A pool, its buffers and its chains stay on one thread, except a [`Parcel`](super::Parcel), which
/// another thread may fill. [`MessagePool`](super::MessagePool) is for bytes that several threads
/// or links use.
///
/// ```compile_fail,E0277
/// fn elsewhere<T: Send>() {}
/// elsewhere::<wharf_port::memory::BufferPool>();
/// ```
///
/// # Invariants
///
/// INV-POOL-1 to INV-POOL-3, see the source of the module `memory`. In builds with debug assertions
/// a release fills the buffer with a pattern, and the next acquire checks the pattern, so that it
/// detects a write to a free buffer by the kernel or by the program.
///
/// # Cost
///
/// Acquiring or releasing a buffer: about ten plain instructions; no lock, no locked instruction,
/// no system call.
pub struct BufferPool {
    inner: NonNull<Inner>,
}

/// A pool. All access is through shared references, and to its cells on one thread only. A parcel
/// on another thread accesses only data without a cell: `slots`, and the address of the entries
/// (INV-PARCEL-2).
pub(super) struct Inner {
    pub(super) slots: Slots,
    pub(super) tags: LedgerView,
    pub(super) entries: EntryTable<Entry>,
    /// The free buffers are the first `free_count` of these; the last of them is acquired next.
    free: Box<[Cell<u32>]>,
    free_count: Cell<u32>,
    /// The pool of large buffers; chain entries for them are in `entries` of this pool.
    large: Option<BufferPool>,
    /// [`BufferPool`] handles to this pool.
    handles: Cell<u32>,
    /// Which acquire by a port from now on fails, counted from 1; 0 if none does.
    #[cfg(any(test, feature = "sim"))]
    failing_acquire: Cell<u32>,
}

/// The content of a chain entry.
#[derive(Debug, Default)]
pub(super) enum Entry {
    /// None: the entry is on the table's free list.
    #[default]
    Free,
    /// A buffer that is the chain's own.
    Buffer(Buffer),
    /// A message, with all its buffers.
    Message(Message),
}

impl Entry {
    /// The content's length in bytes.
    #[inline]
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Free => 0,
            Self::Buffer(buffer) => buffer.len(),
            Self::Message(message) => message.len(),
        }
    }
}

impl Content for Entry {
    #[inline]
    fn is_message(&self) -> bool {
        matches!(self, Self::Message(_))
    }
}

// Two of them fit a cache line.
const _: () = assert!(size_of::<Node<Entry>>() == 32);

impl BufferPool {
    /// Allocates a pool.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the system cannot allocate the memory.
    ///
    /// # Panics
    ///
    /// If a value is outside the range that [`PoolConfig`] states.
    pub fn new(config: PoolConfig) -> Result<Self, MemoryError> {
        config.validate();
        let large = config.large();
        let of_large = large.map_or(0, |large| large.buffers);
        let inner = Inner {
            slots: Slots::new(config.buffers, config.buffer_size_bytes)?,
            tags: LedgerView::all_free(config.buffers)?,
            entries: EntryTable::new(config.buffers + of_large, config.shared_entries)?,
            large: large.map(Self::new).transpose()?,
            free: try_table("the free buffers", (0..config.buffers).rev().map(Cell::new))?,
            free_count: Cell::new(config.buffers),
            handles: Cell::new(1),
            #[cfg(any(test, feature = "sim"))]
            failing_acquire: Cell::new(0),
        };
        Ok(Self { inner: NonNull::from(Box::leak(Box::new(inner))) })
    }

    /// Acquires an empty buffer, whose bytes are unspecified; `None` if none is free.
    #[inline]
    #[must_use]
    pub fn acquire(&self, owner: Owner) -> Option<Buffer> {
        let inner = self.inner();
        #[cfg(any(test, feature = "sim"))]
        if owner == Owner::KernelReceive && inner.fails_acquire() {
            return None;
        }
        let count = inner.free_count.get().checked_sub(1)?;
        let index = inner.free[count as usize].get();
        // In release only the release checks (`set_free`): a second check takes an acquire and a
        // release from 2.7 to 4.9 ns.
        debug_assert!(inner.tags.is_free(index), "buffer {index} was in use");
        if cfg!(debug_assertions) {
            // SAFETY: the buffer is free, so it has no handle (INV-POOL-1).
            unsafe { inner.slots.check_poison(index) };
        }
        inner.free_count.set(count);
        inner.tags.set_out(index, owner);
        Some(Buffer::new(self.inner, index))
    }

    /// Acquires an empty large buffer, whose bytes are unspecified; `None` if none is free.
    #[inline]
    #[must_use]
    pub fn acquire_large(&self, owner: Owner) -> Option<Buffer> {
        self.large()?.acquire(owner)
    }

    /// The pool of the large buffers; `None` if the pool has none.
    #[inline]
    #[must_use]
    pub fn large(&self) -> Option<&Self> {
        self.inner().large.as_ref()
    }

    /// Makes the port's acquire with this number fail, counted from the next one, which is 1; 0
    /// makes all succeed. Only acquires for [`Owner::KernelReceive`] count: other callers know how
    /// many buffers are free. Returns the number that was set before and not reached, 0 if it was
    /// reached: a test that runs with each number from 1, until a run ends with another result than
    /// 0, has failed every acquire once.
    #[cfg(any(test, feature = "sim"))]
    #[expect(clippy::must_use_candidate, reason = "unused at the start of a run")]
    pub fn fail_nth_acquire(&self, number: u32) -> u32 {
        self.inner().failing_acquire.replace(number)
    }

    /// Free buffers, without the large ones.
    #[inline]
    #[must_use]
    pub fn free_count(&self) -> u32 {
        self.inner().free_count()
    }

    /// Free chain entries.
    #[inline]
    #[must_use]
    pub fn free_entry_count(&self) -> u32 {
        self.inner().entries.free_count()
    }

    /// Chain entries that further messages can take.
    #[must_use]
    pub fn free_message_entry_count(&self) -> u32 {
        self.inner().entries.messages_left()
    }

    /// All buffers, free or not, without the large ones.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.inner().capacity()
    }

    /// Bytes in each buffer, except the large ones.
    #[inline]
    #[must_use]
    pub fn buffer_size_bytes(&self) -> u32 {
        self.inner().slots.size_bytes()
    }

    /// Counts the buffers by owner, without the large ones.
    ///
    /// # Cost
    ///
    /// Reads every buffer's tag: for statistics and tests, not for each message.
    #[must_use]
    pub fn ledger(&self) -> BufferCounts {
        self.inner().tags.ledger()
    }

    /// A view of the ledger for other threads, which is valid after the pool was dropped.
    #[must_use]
    pub fn ledger_view(&self) -> LedgerView {
        self.inner().tags.clone()
    }

    #[inline]
    fn inner(&self) -> &Inner {
        // SAFETY: from `Box::leak` in `new`, and not freed while there are handles (INV-POOL-3), of
        // which `self` is one.
        unsafe { self.inner.as_ref() }
    }

    #[inline]
    pub(super) fn pointer(&self) -> NonNull<Inner> {
        self.inner
    }
}

impl Clone for BufferPool {
    fn clone(&self) -> Self {
        let handles = &self.inner().handles;
        // Reached only by forgotten handles (`mem::forget`). A count that wraps would free a pool
        // in use.
        let Some(count) = handles.get().checked_add(1) else { std::process::abort() };
        handles.set(count);
        Self { inner: self.inner }
    }
}

impl Drop for BufferPool {
    fn drop(&mut self) {
        let handles = &self.inner().handles;
        handles.set(handles.get() - 1);
        // SAFETY: this handle is not used again.
        unsafe { Inner::free_if_unused(self.inner) };
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("buffers", &self.capacity())
            .field("buffer_size_bytes", &self.buffer_size_bytes())
            .field("free", &self.free_count())
            .field("free_entry_count", &self.free_entry_count())
            .finish()
    }
}

impl Inner {
    #[expect(clippy::cast_possible_truncation, reason = "made from a u32")]
    pub(super) fn capacity(&self) -> u32 {
        self.free.len() as u32
    }

    #[inline]
    pub(super) fn free_count(&self) -> u32 {
        self.free_count.get()
    }

    /// Releases a buffer; frees the pool if it was the last part in use.
    ///
    /// # Safety
    ///
    /// The caller has the only handle to the buffer and does not use it again.
    #[inline]
    pub(super) unsafe fn release(this: NonNull<Self>, index: u32) {
        // SAFETY: a pool outlives its buffers (INV-POOL-3), and the caller still has one.
        let inner = unsafe { this.as_ref() };
        if cfg!(debug_assertions) {
            // SAFETY: the caller's was the only handle (INV-POOL-1).
            unsafe { inner.slots.poison(index) };
        }
        inner.tags.set_free(index);
        let count = inner.free_count.get();
        inner.free[count as usize].set(index);
        inner.free_count.set(count + 1);
        // SAFETY: the caller does not use the buffer again.
        unsafe { Self::free_if_unused(this) };
    }

    /// Frees a pool that has no handle any more, if every buffer and entry is free.
    ///
    /// # Safety
    ///
    /// The caller has just released a handle, a buffer or an entry of the pool, and uses neither
    /// that nor a reference to the pool again.
    #[inline]
    pub(super) unsafe fn free_if_unused(this: NonNull<Self>) {
        #[cold]
        fn free_orphan(this: NonNull<Inner>) {
            // SAFETY: as below.
            let inner = unsafe { this.as_ref() };
            if inner.free_count.get() == inner.capacity() && inner.entries.is_unused() {
                // SAFETY: `new` leaked the pool from a box. No handle, buffer or chain entry exists
                // that gives access to it, and no reference is used after this.
                drop(unsafe { Box::from_raw(this.as_ptr()) });
            }
        }
        // SAFETY: a pool is freed only below, when the last of its handles, buffers and entries is
        // released, and the caller has just released one that was not released before (INV-POOL-3).
        if unsafe { this.as_ref() }.handles.get() == 0 {
            free_orphan(this);
        }
    }

    /// Counts an acquire, and returns whether it is the one that shall fail.
    #[cfg(any(test, feature = "sim"))]
    fn fails_acquire(&self) -> bool {
        let number = self.failing_acquire.get();
        self.failing_acquire.set(number.saturating_sub(1));
        number == 1
    }
}
