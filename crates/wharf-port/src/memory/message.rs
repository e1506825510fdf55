//! Messages: bytes that are copied once and then sent by any number of links, on any thread.

mod builder;

pub use builder::MessageBuilder;

use super::error::{MemoryError, NoBuffers};
use super::free_list::{FreeList, Run};
use super::ledger::BufferCounts;
use super::slots::{Slots, stride_bytes};
use super::table::try_table;
use crate::sync::{AtomicU32, Ordering};
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

/// The size of a pool of messages, which [`MessagePool::new`] allocates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessagePoolConfig {
    /// Buffers; 1 to 16,777,216. A message takes at least one, so this is also the most messages
    /// that can exist.
    pub buffers: u32,
    /// Bytes in each buffer; 64 to 1,048,576.
    pub buffer_size_bytes: u32,
}

impl MessagePoolConfig {
    /// `buffers` buffers of 2,048 bytes.
    #[must_use]
    pub fn new(buffers: u32) -> Self {
        Self { buffers, buffer_size_bytes: 2048 }
    }

    /// Bytes that the pool allocates, tables included.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        // Each buffer has a link in the free list and a header.
        let buffer = u64::from(stride_bytes(self.buffer_size_bytes)) + 4;
        u64::from(self.buffers) * (buffer + size_of::<Header>() as u64)
    }
}

/// A fixed set of equal buffers for messages, allocated at startup, for all threads.
///
/// A clone is another handle to the same pool. The pool's memory is freed with the last of the
/// handles and the messages.
///
/// # Cost
///
/// Creating or freeing a message of any length: one compare-and-swap and two to three further
/// locked instructions. Lock-free; no system call.
#[derive(Clone)]
pub struct MessagePool {
    inner: Arc<Inner>,
}

struct Inner {
    slots: Slots,
    free: FreeList,
    /// A message has the header of its first buffer.
    headers: Box<[Header]>,
    #[cfg(loom)]
    accesses: Box<[loom::cell::UnsafeCell<()>]>,
}

/// The state that the handles to one message share. One cache line each, because threads change the
/// counts of different messages at the same time.
#[derive(Debug)]
#[repr(align(64))]
struct Header {
    /// Handles to the message; 0 if there is no message.
    references: AtomicU32,
    /// The message's last buffer, and how many it has. Written before the first handle exists, and
    /// while a builder has it.
    last: AtomicU32,
    count: AtomicU32,
}

// An `Arc` that threads share needs both; atomics and an address are both.
const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<MessagePool>();
    is_shared::<Message>();
};

impl MessagePool {
    /// Allocates a pool.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the system cannot allocate the memory.
    ///
    /// # Panics
    ///
    /// If a value is outside the range that [`MessagePoolConfig`] states.
    pub fn new(config: MessagePoolConfig) -> Result<Self, MemoryError> {
        let MessagePoolConfig { buffers, buffer_size_bytes } = config;
        let inner = Inner {
            slots: Slots::new(buffers, buffer_size_bytes)?,
            free: FreeList::full(buffers)?,
            headers: try_table("the headers of messages", (0..buffers).map(|_| Header::unused()))?,
            #[cfg(loom)]
            accesses: (0..buffers).map(|_| loom::cell::UnsafeCell::new(())).collect(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Copies `data` to a new message. An empty message takes one buffer, too.
    ///
    /// # Errors
    ///
    /// [`NoBuffers`] if too few buffers are free, or `data` has 4 GiB or more; then no buffer is
    /// taken.
    ///
    /// # Cost
    ///
    /// Copies `data.len()` bytes, once for any number of recipients; allocates nothing.
    pub fn message_of(&self, data: &[u8]) -> Result<Message, NoBuffers> {
        let inner = &*self.inner;
        let len = u32::try_from(data.len()).map_err(|_| NoBuffers)?;
        let size_bytes = inner.slots.size_bytes();
        let run = inner.free.acquire(len.div_ceil(size_bytes).max(1)).ok_or(NoBuffers)?;
        let mut index = run.first;
        for piece in data.chunks(size_bytes as usize) {
            // SAFETY: the buffer was just acquired, so no message has it (INV-MESSAGE-1), and the
            // piece is not longer than a buffer.
            unsafe { inner.write(index, 0, piece) };
            index = inner.free.behind(index);
        }
        Ok(self.message_in(run, len))
    }

    /// Begins a message that is written in several parts. It takes its first buffer here, so that
    /// [`finish`](MessageBuilder::finish) cannot fail.
    ///
    /// # Errors
    ///
    /// [`NoBuffers`] if no buffer is free.
    ///
    /// # Cost
    ///
    /// That of an empty message.
    pub fn builder(&self) -> Result<MessageBuilder, NoBuffers> {
        let run = self.inner.free.acquire(1).ok_or(NoBuffers)?;
        Ok(MessageBuilder { message: self.message_in(run, 0), run, last_len: 0 })
    }

    /// The first handle to a message of this run's buffers, which were just acquired.
    #[inline]
    fn message_in(&self, run: Run, len: u32) -> Message {
        let header = &self.inner.headers[run.first as usize];
        header.set_run(run);
        header.references.store(1, Ordering::Relaxed);
        // The message's last handle releases the count that this takes.
        let pool = Arc::into_raw(Arc::clone(&self.inner)).cast_mut();
        // SAFETY: an `Arc`'s content has an address.
        let pool = unsafe { NonNull::new_unchecked(pool) };
        Message { pool, first: run.first, len }
    }

    /// Free buffers; exact while no other thread creates or frees a message.
    #[must_use]
    pub fn free_count(&self) -> u32 {
        self.inner.free.free_count()
    }

    /// All buffers, free or not.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.inner.free.capacity()
    }

    /// Bytes in each buffer.
    #[must_use]
    pub fn buffer_size_bytes(&self) -> u32 {
        self.inner.slots.size_bytes()
    }

    /// Counts the buffers: each is free or `shared`, that is in a message.
    #[must_use]
    pub fn ledger(&self) -> BufferCounts {
        let free = self.free_count();
        BufferCounts { free, shared: self.capacity() - free, ..BufferCounts::default() }
    }

    /// The pool's counts, for any thread.
    #[must_use]
    pub fn ledger_view(&self) -> MessageLedgerView {
        MessageLedgerView { pool: Arc::downgrade(&self.inner), buffers: self.capacity() }
    }
}

/// The counts of a pool of messages. It does not keep the pool's memory.
#[derive(Clone)]
pub struct MessageLedgerView {
    pool: Weak<Inner>,
    buffers: u32,
}

impl MessageLedgerView {
    /// Counts the buffers, as [`MessagePool::ledger`]. All are free if the pool is gone.
    #[must_use]
    pub fn ledger(&self) -> BufferCounts {
        match self.pool.upgrade() {
            Some(inner) => MessagePool { inner }.ledger(),
            None => BufferCounts { free: self.buffers, ..BufferCounts::default() },
        }
    }
}

impl fmt::Debug for MessageLedgerView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MessageLedgerView").field(&self.ledger()).finish()
    }
}

impl fmt::Debug for MessagePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessagePool")
            .field("buffers", &self.capacity())
            .field("buffer_size_bytes", &self.buffer_size_bytes())
            .field("free", &self.free_count())
            .finish()
    }
}

#[cfg(loom)]
// SAFETY: the cells hold no data; loom checks by them that accesses are ordered.
unsafe impl Sync for Inner {}

impl Inner {
    /// Copies `bytes` to a buffer, after its first `at` bytes.
    ///
    /// # Safety
    ///
    /// Only the caller has access to the buffer, and `bytes` fit.
    unsafe fn write(&self, index: u32, at: u32, bytes: &[u8]) {
        self.note_write(index);
        // SAFETY: by the caller's promise the address lies in the slot or at its end.
        let to = unsafe { self.slots.bytes_of(index).add(at as usize) };
        // SAFETY: by the caller's promise the rest of the slot is long enough, and no other code
        // has access to it; so `bytes` do not overlap it.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    /// The bytes of a buffer from `skipped` on, at most `len`.
    ///
    /// # Safety
    ///
    /// The buffer is one of a message that has a handle as long as `self` is borrowed.
    unsafe fn read(&self, index: u32, skipped: u32, len: u32) -> &[u8] {
        self.note_read(index);
        let size_bytes = self.slots.size_bytes();
        assert!(skipped <= size_bytes, "{skipped} of {size_bytes} bytes skipped");
        let len = len.min(size_bytes - skipped) as usize;
        // SAFETY: just checked, so the address lies in the slot or at its end.
        let start = unsafe { self.slots.bytes_of(index).add(skipped as usize) };
        // SAFETY: the range lies in the slot, which is initialised memory that lives as long as
        // `self`. By the caller's promise the message has a handle, and its bytes are not written
        // then (INV-MESSAGE-2).
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }

    /// Releases the buffers of a message.
    ///
    /// # Safety
    ///
    /// `first` is the first buffer of a message, and the caller had the last handle to it.
    unsafe fn release(&self, first: u32) {
        let header = &self.headers[first as usize];
        let last = header.last.load(Ordering::Relaxed);
        let count = header.count.load(Ordering::Relaxed);
        if cfg!(debug_assertions) {
            let mut index = first;
            for _ in 0..count {
                self.note_write(index);
                // SAFETY: the message has no handle any more (INV-MESSAGE-1).
                unsafe { self.slots.poison(index) };
                index = self.free.behind(index);
            }
        }
        self.free.release(Run { first, last, count });
    }

    /// Tells loom of a write, so that it finds an access that is not ordered with it.
    #[cfg_attr(not(loom), expect(clippy::unused_self, reason = "for loom only"))]
    fn note_write(&self, _index: u32) {
        #[cfg(loom)]
        self.accesses[_index as usize].with_mut(|_| ());
    }

    /// As [`note_write`](Self::note_write), for a read.
    #[cfg_attr(not(loom), expect(clippy::unused_self, reason = "for loom only"))]
    fn note_read(&self, _index: u32) {
        #[cfg(loom)]
        self.accesses[_index as usize].with(|_| ());
    }
}

impl Header {
    fn unused() -> Self {
        let zero = || AtomicU32::new(0);
        Self { references: zero(), last: zero(), count: zero() }
    }

    /// Stores which buffers the message has, for its last handle.
    #[inline]
    fn set_run(&self, run: Run) {
        // Relaxed: the message moves to other threads by a synchronising operation.
        self.last.store(run.last, Ordering::Relaxed);
        self.count.store(run.count, Ordering::Relaxed);
    }
}

/// A handle to a message: immutable bytes, fewer than 4 GiB.
///
/// A clone shares the bytes and costs one locked instruction. Dropping the last handle releases the
/// buffers, on any thread. A message of any length takes [one entry](super::Chain::push_message) of
/// a chain.
pub struct Message {
    /// From `Arc::into_raw`; all handles to a message together have one count of it.
    pool: NonNull<Inner>,
    first: u32,
    /// Bytes that this handle shows: all, except in a message that ends a truncated chain.
    len: u32,
}

const _: () = assert!(size_of::<Message>() == 16);

// SAFETY: the pool is `Send` and `Sync`. The only data accessed through it without atomics are the
// bytes of the message, which no code writes while there is a handle (INV-MESSAGE-2); an atomic
// count decides which handle is the last.
unsafe impl Send for Message {}
// SAFETY: as above; `&Message` only reads bytes, and clones by the atomic count.
unsafe impl Sync for Message {}

impl Message {
    /// The message's length in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the message has no bytes.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes, one slice for each buffer; none is empty.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.pieces(self.start(), self.len)
    }

    /// [`len`](Self::len) as it is stored.
    #[inline]
    pub(super) fn len_u32(&self) -> u32 {
        self.len
    }

    /// The position of the first byte.
    #[inline]
    pub(super) fn start(&self) -> Position {
        Position { index: self.first, skipped: 0 }
    }

    /// The position `len` bytes after `from`, which is this message's; both lie inside it.
    pub(super) fn position_behind(&self, from: Position, len: u32) -> Position {
        let inner = self.inner();
        let size_bytes = inner.slots.size_bytes();
        let Position { mut index, mut skipped } = from;
        let mut left = len;
        while left >= size_bytes - skipped {
            left -= size_bytes - skipped;
            (index, skipped) = (inner.free.behind(index), 0);
        }
        Position { index, skipped: skipped + left }
    }

    /// `len` bytes from `from` on, all of them this message's, one slice for each buffer.
    #[inline]
    pub(super) fn pieces(&self, from: Position, len: u32) -> Pieces<'_> {
        Pieces { inner: Some(self.inner()), at: from, left: len }
    }

    /// Limits this handle to the first `len` bytes.
    pub(super) fn truncate(&mut self, len: u32) {
        self.len = self.len.min(len);
    }

    #[inline]
    fn inner(&self) -> &Inner {
        // SAFETY: the handles to a message have a count of the pool's `Arc` (INV-MESSAGE-3).
        unsafe { self.pool.as_ref() }
    }

    fn header(&self) -> &Header {
        &self.inner().headers[self.first as usize]
    }
}

impl Clone for Message {
    fn clone(&self) -> Self {
        // Relaxed: `self` is a handle, so the count is not 0 before.
        let before = self.header().references.fetch_add(1, Ordering::Relaxed);
        if before > u32::MAX / 2 {
            // Reached only by forgotten handles (`mem::forget`). A count that wraps would release
            // buffers in use, so the process aborts, as with `Arc`.
            std::process::abort();
        }
        Self { pool: self.pool, first: self.first, len: self.len }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // AcqRel: pairs with itself in the other handles' drops, so that the next owner of the
        // buffers writes them after the last read.
        if self.header().references.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: this was the last handle.
            unsafe { self.inner().release(self.first) };
            // SAFETY: the pointer is from `Arc::into_raw`, and only the last handle releases its
            // count, here (INV-MESSAGE-3).
            drop(unsafe { Arc::from_raw(self.pool.as_ptr()) });
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("first", &self.first).field("len", &self.len).finish()
    }
}

/// The position of a byte in a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// The index of its buffer.
    pub(super) index: u32,
    /// Bytes of the buffer before it.
    pub(super) skipped: u32,
}

/// The bytes of a message, or of a part of it, one slice for each buffer.
#[derive(Clone)]
pub(super) struct Pieces<'a> {
    inner: Option<&'a Inner>,
    at: Position,
    left: u32,
}

impl Pieces<'_> {
    /// No bytes, of no message.
    pub(super) fn none() -> Self {
        Self { inner: None, at: Position { index: 0, skipped: 0 }, left: 0 }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 {
            return None;
        }
        let inner = self.inner?;
        let Position { index, skipped } = self.at;
        // SAFETY: only `Message::pieces` creates one that is not empty, and its result borrows the
        // message's handle for `'a`. The index is the message's, because `left` counts the bytes
        // after it.
        let piece = unsafe { inner.read(index, skipped, self.left) };
        #[expect(clippy::cast_possible_truncation, reason = "at most `left`, which is a u32")]
        {
            self.left -= piece.len() as u32;
        }
        if self.left > 0 {
            self.at = Position { index: inner.free.behind(index), skipped: 0 };
        }
        Some(piece)
    }
}
