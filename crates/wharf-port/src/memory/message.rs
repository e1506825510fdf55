//! Messages: bytes that are copied once and then read by any number of links, on any thread.

mod builder;

pub use builder::MessageBuilder;

use super::error::{MemoryError, NoRoom};
use super::free_list::{FreeList, Run};
use super::ledger::Ledger;
use super::slots::{Slots, stride_bytes};
use crate::sync::{AtomicU32, Ordering};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

/// How large a pool of messages is. All of it is taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessagePoolConfig {
    /// How many buffers; 1 to 16,777,216. A message takes one at least, so this is also how many
    /// messages can exist.
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

    /// Bytes that a pool of this shape takes, tables included.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        // Each buffer has a link in the free list and a header.
        let buffer = u64::from(stride_bytes(self.buffer_size_bytes)) + 4;
        u64::from(self.buffers) * (buffer + size_of::<Header>() as u64)
    }
}

/// A fixed set of equal buffers for messages, taken at startup and never grown, for all threads.
///
/// A clone is another handle to the same pool. The memory goes back to the system with the last
/// of the handles and the messages.
///
/// # Cost
///
/// Making or freeing a message of any length: a compare-and-swap, and a few more locked
/// instructions. Lock-free; no system call.
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

/// What the handles to one message share. A cache line each, because shards count in the headers
/// of different messages at the same time.
#[derive(Debug)]
#[repr(align(64))]
struct Header {
    /// How many [`Message`]s name it; 0 if there is no such message.
    references: AtomicU32,
    /// The message's last buffer, and how many it has. Written before the first handle is made, and
    /// while a builder has it.
    last: AtomicU32,
    count: AtomicU32,
}

// Whatever is behind an `Arc` that threads share must be both; atomics and an address are.
const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<MessagePool>();
    is_shared::<Message>();
};

impl MessagePool {
    /// Takes all memory of a pool of this shape from the system.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the system does not give that much.
    ///
    /// # Panics
    ///
    /// If a number is outside the range that [`MessagePoolConfig`] states.
    pub fn new(config: MessagePoolConfig) -> Result<Self, MemoryError> {
        let MessagePoolConfig { buffers, buffer_size_bytes } = config;
        let inner = Inner {
            slots: Slots::new(buffers, buffer_size_bytes)?,
            free: FreeList::full(buffers),
            headers: (0..buffers).map(|_| Header::unused()).collect(),
            #[cfg(loom)]
            accesses: (0..buffers).map(|_| loom::cell::UnsafeCell::new(())).collect(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Copies `data` into a new message. An empty one takes a buffer all the same.
    ///
    /// # Errors
    ///
    /// [`NoRoom`] if too few buffers are free, or `data` is 4 GiB long or longer; then nothing was
    /// taken.
    ///
    /// # Cost
    ///
    /// Copies `data.len()` bytes, the only copy however many receive the message; allocates
    /// nothing.
    pub fn message_of(&self, data: &[u8]) -> Result<Message, NoRoom> {
        let inner = &*self.inner;
        let len = u32::try_from(data.len()).map_err(|_| NoRoom)?;
        let size_bytes = inner.slots.size_bytes();
        let run = inner.free.acquire(len.div_ceil(size_bytes).max(1)).ok_or(NoRoom)?;
        let mut index = run.first;
        for piece in data.chunks(size_bytes as usize) {
            // SAFETY: the buffer was just acquired, so no message has it (INV-MESSAGE-1), and the
            // piece is no longer than a buffer.
            unsafe { inner.write(index, 0, piece) };
            index = inner.free.behind(index);
        }
        Ok(self.message_in(run, len))
    }

    /// Begins a message whose bytes come in several pieces, and whose length need not be known.
    /// It has its first buffer at once, so that [finishing](MessageBuilder::finish) it cannot fail.
    ///
    /// # Errors
    ///
    /// [`NoRoom`] if no buffer is free.
    ///
    /// # Cost
    ///
    /// That of an empty message; allocates nothing.
    pub fn builder(&self) -> Result<MessageBuilder, NoRoom> {
        let run = self.inner.free.acquire(1).ok_or(NoRoom)?;
        Ok(MessageBuilder { message: self.message_in(run, 0), run, last_len: 0 })
    }

    /// The first handle to a message that has this run's buffers, which were just acquired.
    #[inline]
    fn message_in(&self, run: Run, len: u32) -> Message {
        let header = &self.inner.headers[run.first as usize];
        header.set_run(run);
        header.references.store(1, Ordering::Relaxed);
        // The count that this takes is given back by the message's last handle.
        let pool = Arc::into_raw(Arc::clone(&self.inner)).cast_mut();
        // SAFETY: an `Arc`'s content has an address.
        let pool = unsafe { NonNull::new_unchecked(pool) };
        Message { pool, first: run.first, len }
    }

    /// How many buffers are free; exact while no other thread makes or frees a message.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.inner.free.free_count()
    }

    /// How many buffers there are.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.inner.free.capacity()
    }

    /// Bytes in each buffer.
    #[must_use]
    pub fn buffer_size_bytes(&self) -> u32 {
        self.inner.slots.size_bytes()
    }

    /// Counts the buffers: each is free, or shared, which is in a message.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let free = self.free();
        Ledger { free, shared: self.capacity() - free, ..Ledger::default() }
    }
}

impl fmt::Debug for MessagePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessagePool")
            .field("buffers", &self.capacity())
            .field("buffer_size_bytes", &self.buffer_size_bytes())
            .field("free", &self.free())
            .finish()
    }
}

#[cfg(loom)]
// SAFETY: the cells hold nothing; they are there to be checked by loom, which finds the accesses
// that are not ordered.
unsafe impl Sync for Inner {}

impl Inner {
    /// Copies `bytes` into a buffer, behind its first `at` bytes.
    ///
    /// # Safety
    ///
    /// The caller has the buffer alone, and `bytes` fit there.
    unsafe fn write(&self, index: u32, at: u32, bytes: &[u8]) {
        self.note_write(index);
        // SAFETY: by the caller's promise the address lies in the slot or at its end.
        let to = unsafe { self.slots.bytes_of(index).add(at as usize) };
        // SAFETY: what is left of the slot is large enough, and nobody else has it, by the caller's promise; so
        // `bytes` are elsewhere.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    /// The bytes of a buffer from `skipped` on, `len` of them at most.
    ///
    /// # Safety
    ///
    /// The buffer belongs to a message to which there is a handle for as long as `self` is
    /// borrowed.
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

    /// Frees the buffers of a message.
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
                // SAFETY: nobody has a handle to the message any more (INV-MESSAGE-1).
                unsafe { self.slots.poison(index) };
                index = self.free.behind(index);
            }
        }
        self.free.release(Run { first, last, count });
    }

    /// Lets loom see a write, so that it finds an access that is not ordered against it.
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

    /// Says which buffers the message has, to whoever will have its last handle.
    #[inline]
    fn set_run(&self, run: Run) {
        // Relaxed: the message goes to other threads by something that orders this before it.
        self.last.store(run.last, Ordering::Relaxed);
        self.count.store(run.count, Ordering::Relaxed);
    }
}

/// A handle to a message: bytes of any length that do not change.
///
/// A clone shares the bytes and costs one locked instruction. The last handle frees the buffers,
/// on whichever thread. In a chain it takes [one entry](super::Chain::push_message), whatever its
/// length.
pub struct Message {
    /// What came from `Arc::into_raw`; all handles to a message together have one count of it.
    pool: NonNull<Inner>,
    first: u32,
    /// Bytes that this handle shows: all, but for the message that ends a truncated chain.
    len: u32,
}

const _: () = assert!(size_of::<Message>() == 16);

// SAFETY: the pool is `Send` and `Sync`. What is reached through it without atomics are the bytes
// of the message, which nobody writes while there is a handle (INV-MESSAGE-2); that the last handle
// is the last is decided by an atomic count.
unsafe impl Send for Message {}
// SAFETY: as above; `&Message` only reads bytes, and clones by the atomic count.
unsafe impl Sync for Message {}

impl Message {
    /// How many bytes it has.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it has no byte.
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

    /// The place of the first byte.
    #[inline]
    pub(super) fn start(&self) -> Position {
        Position { index: self.first, skipped: 0 }
    }

    /// The place `len` bytes behind `from`, which is this message's; both lie inside it.
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

    /// Shows no more than the first `len` bytes through this handle.
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
        // Relaxed: made from a handle, so the count cannot be on its way to 0.
        let before = self.header().references.fetch_add(1, Ordering::Relaxed);
        if before > u32::MAX / 2 {
            // Only handles that were forgotten get here. A count that wraps would free what is in
            // use, so there is nothing left but to end, as `Arc` does.
            std::process::abort();
        }
        Self { pool: self.pool, first: self.first, len: self.len }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // AcqRel: pairs with itself in the other handles' drops, so that the buffers are written
        // again only after the last read.
        if self.header().references.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: this was the last handle.
            unsafe { self.inner().release(self.first) };
            // SAFETY: the pointer came from `Arc::into_raw`, and its count is given back here only,
            // by the last handle (INV-MESSAGE-3).
            drop(unsafe { Arc::from_raw(self.pool.as_ptr()) });
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("first", &self.first).field("len", &self.len).finish()
    }
}

/// The place of a byte in a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// Which buffer it is in.
    pub(super) index: u32,
    /// How many bytes of the buffer are before it.
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
        // SAFETY: only `Message::pieces` makes one that is not empty, and what it returns borrows
        // the message's handle for `'a`. The index is the message's, because `left` counts the
        // bytes that are behind it.
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
