//! The buffer pool: equal buffers, handed out and released in a few instructions on one thread.

use super::buffer::Buffer;
use super::entries::{Content, EntryTable, Node};
use super::error::MemoryError;
use super::ledger::{Ledger, LedgerView, Owner};
use super::message::Message;
use super::slots::{Slots, stride_bytes};
use std::cell::Cell;
use std::fmt;
use std::ptr::NonNull;

/// How large a pool is. All of it is taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolConfig {
    /// How many buffers; 1 to 16,777,216.
    pub buffers: u32,
    /// Bytes in each buffer; 64 to 1,048,576.
    pub buffer_size_bytes: u32,
    /// How many more chain entries than buffers: what messages may take up in queues, one entry
    /// for each message and queue.
    pub shared_entries: u32,
    /// How many large buffers to receive into there are beside the others; 0 to 65,536.
    pub large_buffers: u32,
    /// Bytes in each of them; more than in the others, up to 1,048,576. Means nothing if there are none.
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

    /// Bytes that a pool of this shape takes, tables included.
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

    /// The pool of the large buffers. The entries for them are in the other's table.
    fn large(&self) -> Option<Self> {
        (self.large_buffers > 0).then(|| Self {
            buffer_size_bytes: self.large_size_bytes,
            shared_entries: 0,
            ..Self::new(self.large_buffers)
        })
    }
}

/// A fixed set of equal I/O buffers for one thread, taken at startup and never grown.
///
/// Beside them it may have some *large* ones, for a port to receive into where a stream fills one
/// buffer after the other. They save work, and nothing depends on them: who finds none takes a buffer
/// of the other kind, and who keeps bytes for long copies them into such.
///
/// A clone is another handle to the same pool, as of an `Rc`. Buffers are handed out last in,
/// first out, because the buffer that was released last is the one that is still in the cache. The
/// memory goes back to the system with the last of the handles, the buffers and the chains.
///
/// A pool and all that comes from it stay on one thread, but for a [`Parcel`](super::Parcel), which
/// another thread may fill; [`MessagePool`](super::MessagePool) is for what other threads or many
/// links are to have.
///
/// ```compile_fail,E0277
/// fn elsewhere<T: Send>() {}
/// elsewhere::<wharf_port::memory::BufferPool>();
/// ```
///
/// # Invariants
///
/// INV-POOL-1 to INV-POOL-3, see the source of the module `memory`. In builds with debug
/// assertions a buffer is filled with a pattern when it is released, and the pattern is checked
/// when the buffer is acquired again: a late write, by the kernel or by us, is caught there.
///
/// # Cost
///
/// Acquiring or releasing a buffer: some ten plain instructions; no lock, no locked instruction,
/// no system call.
pub struct BufferPool {
    inner: NonNull<Inner>,
}

/// A pool. Reached through shared references only, and its cells on one thread only. Other threads
/// reach, by a parcel, what has no cell: `slots`, and where the entries are (INV-PARCEL-2).
pub(super) struct Inner {
    pub(super) slots: Slots,
    pub(super) tags: LedgerView,
    pub(super) entries: EntryTable<Entry>,
    /// The free buffers are the first `free_count` of these; the next to be acquired is the last.
    free: Box<[Cell<u32>]>,
    free_count: Cell<u32>,
    /// The large buffers, which are a pool of their own but for their entries in chains.
    large: Option<BufferPool>,
    /// How many [`BufferPool`] handles there are.
    handles: Cell<u32>,
    /// Which take from now on fails, counted from 1; 0 if none does.
    #[cfg(any(test, feature = "sim"))]
    failing_take: Cell<u32>,
}

/// What an entry of a chain holds.
#[derive(Debug, Default)]
pub(super) enum Entry {
    /// Nothing: it is on the table's free list.
    #[default]
    Free,
    /// A buffer that is the chain's own.
    Buffer(Buffer),
    /// A message, whole, however many buffers it has.
    Message(Message),
}

impl Entry {
    /// How many bytes it holds.
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
    /// Takes all memory of a pool of this shape from the system.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the system does not give that much.
    ///
    /// # Panics
    ///
    /// If a number is outside the range that [`PoolConfig`] states.
    pub fn new(config: PoolConfig) -> Result<Self, MemoryError> {
        let large = config.large();
        let of_large = large.map_or(0, |large| large.buffers);
        assert!(
            large.is_none_or(|large| large.buffer_size_bytes > config.buffer_size_bytes),
            "large buffers are larger than the others: {config:?}"
        );
        let inner = Inner {
            slots: Slots::new(config.buffers, config.buffer_size_bytes)?,
            tags: LedgerView::all_free(config.buffers),
            entries: EntryTable::new(config.buffers + of_large, config.shared_entries),
            large: large.map(Self::new).transpose()?,
            free: (0..config.buffers).rev().map(Cell::new).collect(),
            free_count: Cell::new(config.buffers),
            handles: Cell::new(1),
            #[cfg(any(test, feature = "sim"))]
            failing_take: Cell::new(0),
        };
        Ok(Self { inner: NonNull::from(Box::leak(Box::new(inner))) })
    }

    /// Takes a buffer, empty and with its bytes unspecified, or `None` if all are out.
    #[inline]
    #[must_use]
    pub fn acquire(&self, owner: Owner) -> Option<Buffer> {
        let inner = self.inner();
        #[cfg(any(test, feature = "sim"))]
        if owner == Owner::KernelReceive && inner.is_take_to_fail() {
            return None;
        }
        let count = inner.free_count.get().checked_sub(1)?;
        let index = inner.free[count as usize].get();
        debug_assert!(inner.tags.is_free(index), "buffer {index} was out");
        if cfg!(debug_assertions) {
            // SAFETY: the buffer is free, so nobody has a handle to it (INV-POOL-1).
            unsafe { inner.slots.check_poison(index) };
        }
        inner.free_count.set(count);
        inner.tags.set_out(index, owner);
        Some(Buffer::new(self.inner, index))
    }

    /// Takes a large buffer, empty and with its bytes unspecified, or `None` if there is none left.
    #[inline]
    #[must_use]
    pub fn acquire_large(&self, owner: Owner) -> Option<Buffer> {
        self.large()?.acquire(owner)
    }

    /// The pool of the large buffers, if there are any.
    #[inline]
    #[must_use]
    pub fn large(&self) -> Option<&Self> {
        self.inner().large.as_ref()
    }

    /// Has the port's take with this number fail, counted from the next one, which is 1; 0 lets all
    /// succeed. Takes for other owners keep to accounts that say what there is. Returns the number that was still to come, 0 if it has come: a run for each number
    /// from 1, until one returns another than 0 at its end, has failed every take once.
    #[cfg(any(test, feature = "sim"))]
    #[expect(clippy::must_use_candidate, reason = "whoever begins a run does not care")]
    pub fn fail_take(&self, number: u32) -> u32 {
        self.inner().failing_take.replace(number)
    }

    /// How many buffers are free.
    #[inline]
    #[must_use]
    pub fn free(&self) -> u32 {
        self.inner().free_count()
    }

    /// How many more entries the pool's chains can hold.
    #[inline]
    #[must_use]
    pub fn free_entries(&self) -> u32 {
        self.inner().entries.free_count()
    }

    /// How many more messages the pool's chains can hold.
    #[must_use]
    pub fn free_message_entries(&self) -> u32 {
        self.inner().entries.messages_left()
    }

    /// How many buffers there are.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.inner().capacity()
    }

    /// Bytes in each buffer.
    #[inline]
    #[must_use]
    pub fn buffer_size_bytes(&self) -> u32 {
        self.inner().slots.size_bytes()
    }

    /// Counts the buffers by owner.
    ///
    /// # Cost
    ///
    /// Looks at every buffer's tag: for statistics and tests, not for the message path.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.inner().tags.ledger()
    }

    /// The same for other threads, and for when the pool is gone.
    #[must_use]
    pub fn ledger_view(&self) -> LedgerView {
        self.inner().tags.clone()
    }

    #[inline]
    fn inner(&self) -> &Inner {
        // SAFETY: made by `Box::leak` in `new`, and not freed while there are handles
        // (INV-POOL-3), of which `self` is one.
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
        // Only handles that were forgotten get that far. A count that wraps would free what is in
        // use.
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
            .field("free", &self.free())
            .field("free_entries", &self.free_entries())
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

    /// Puts a buffer on the free stack; frees the pool if that was the last of it.
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

    /// Frees a pool to which there is no handle any more, if every buffer and entry is free.
    ///
    /// # Safety
    ///
    /// The caller reached the pool by something of it that it has just given back, and uses
    /// neither that nor a reference to the pool again.
    #[inline]
    pub(super) unsafe fn free_if_unused(this: NonNull<Self>) {
        #[cold]
        fn free_orphan(this: NonNull<Inner>) {
            // SAFETY: as below.
            let inner = unsafe { this.as_ref() };
            if inner.free_count.get() == inner.capacity() && inner.entries.is_unused() {
                // SAFETY: `new` leaked the pool from a box. There is no handle, buffer or chain
                // entry left by which anybody could reach it, and no reference is used after this.
                drop(unsafe { Box::from_raw(this.as_ptr()) });
            }
        }
        // SAFETY: a pool is freed below only, when the last of its handles, buffers and entries is
        // given back, and the caller has just given back one that had not been (INV-POOL-3).
        if unsafe { this.as_ref() }.handles.get() == 0 {
            free_orphan(this);
        }
    }

    /// Counts a take, and says whether it is the one that shall fail.
    #[cfg(any(test, feature = "sim"))]
    fn is_take_to_fail(&self) -> bool {
        let number = self.failing_take.get();
        self.failing_take.set(number.saturating_sub(1));
        number == 1
    }
}
