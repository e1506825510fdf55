//! A chain: buffers and messages that are sent as one sequence of bytes.

mod fill;
#[cfg(test)]
#[cfg(not(loom))]
mod model;
mod parcel;
mod slices;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
mod transfer;

use super::buffer::Buffer;
use super::entries::EntryTable;
use super::error::NoBuffers;
use super::ledger::Owner;
use super::message::{Message, Position};
use super::pool::{BufferPool, Entry, Inner};
pub use fill::Filled;
pub use parcel::Parcel;
use slices::{Slices, behind};
use std::fmt;
use std::ptr::NonNull;

/// A FIFO sequence of buffers and messages.
///
/// Its entries are those of the table of the first pool that a method was given, so a chain
/// allocates nothing. A buffer takes one entry, and so does a message of any length.
/// [`advance`](Self::advance) skips bytes of the first entry that were sent. Dropping a chain
/// releases its entries and buffers, and drops its message handles.
///
/// A chain stays on the thread of its pool; a [`Message`] or a [`Parcel`] can move to another
/// thread.
///
/// ```compile_fail,E0277
/// fn elsewhere<T: Send>() {}
/// elsewhere::<wharf_port::memory::Chain>();
/// ```
pub struct Chain {
    /// The pool whose table has the entries; `Some` while there are entries, or while a chain is
    /// built that will be appended to one with entries.
    pool: Option<NonNull<Inner>>,
    head: u32,
    tail: u32,
    /// Entries.
    entries: u32,
    /// Entries that are buffers; the others are messages.
    buffers: u32,
    /// Bytes of the first entry that are consumed.
    skipped: u32,
    /// The position after them, if the first entry is a message and `skipped` > 0: so that a short
    /// send need not walk a long message again.
    skipped_to: Position,
    len: usize,
}

const _: () = assert!(size_of::<Chain>() <= 48);

impl Chain {
    /// An empty chain, without entries.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            pool: None,
            head: 0,
            tail: 0,
            entries: 0,
            buffers: 0,
            skipped: 0,
            skipped_to: Position { index: 0, skipped: 0 },
            len: 0,
        }
    }

    /// Appends a copy of `data`: to the last entry's spare capacity, if that is a buffer, then to
    /// at most `buffers_max` buffers of `pool`, counted under `owner`.
    ///
    /// # Errors
    ///
    /// [`NoBuffers`] if not all of `data` fits; then the chain is unchanged.
    ///
    /// # Cost
    ///
    /// Copies `data.len()` bytes; allocates nothing.
    #[inline]
    pub fn append(
        &mut self,
        pool: &BufferPool,
        data: &[u8],
        owner: Owner,
        buffers_max: u32,
    ) -> Result<(), NoBuffers> {
        // The common case: the bytes fit one buffer, and the chain is empty.
        let fits = (1..=pool.buffer_size_bytes() as usize).contains(&data.len());
        if self.entries == 0 && buffers_max > 0 && fits {
            let mut buffer = pool.acquire(owner).ok_or(NoBuffers)?;
            buffer.append(data);
            return self.push(pool, buffer).map_err(|_| NoBuffers);
        }
        self.append_slices(pool, std::iter::once(data), data.len(), owner, buffers_max)
    }

    /// Appends a copy of the bytes of `message`, as [`append`](Self::append) does: for when no
    /// entry is free for the message.
    ///
    /// # Errors
    ///
    /// [`NoBuffers`] if not all of them fit; then the chain is unchanged.
    pub fn append_copy_of(
        &mut self,
        pool: &BufferPool,
        message: &Message,
        owner: Owner,
        buffers_max: u32,
    ) -> Result<(), NoBuffers> {
        self.append_slices(pool, message.slices(), message.len(), owner, buffers_max)
    }

    #[inline]
    fn append_slices<'d>(
        &mut self,
        pool: &BufferPool,
        slices: impl Iterator<Item = &'d [u8]> + Clone,
        len: usize,
        owner: Owner,
        buffers_max: u32,
    ) -> Result<(), NoBuffers> {
        let here_len = len.min(self.spare_capacity());
        if here_len < len {
            // First the step that can fail: the bytes that need further buffers.
            let needed = (len - here_len).div_ceil(pool.buffer_size_bytes() as usize);
            if needed > (buffers_max.min(pool.free_count()) as usize) {
                return Err(NoBuffers);
            }
            let mut fresh = Self { pool: self.pool, ..Self::new() };
            fresh.fill(pool, behind(slices.clone(), here_len), owner)?;
            let here = self.fill_last(slices, here_len);
            assert_eq!(here, here_len, "the spare capacity is unchanged");
            self.append_chain(fresh);
        } else {
            self.fill_last(slices, len);
        }
        Ok(())
    }

    /// Appends copies of all slices in new buffers of `pool`.
    #[inline]
    fn fill<'d>(
        &mut self,
        pool: &BufferPool,
        slices: impl Iterator<Item = &'d [u8]>,
        owner: Owner,
    ) -> Result<(), NoBuffers> {
        let mut last: Option<Buffer> = None;
        for mut rest in slices {
            while !rest.is_empty() {
                let mut buffer = match last.take() {
                    Some(buffer) => buffer,
                    None => pool.acquire(owner).ok_or(NoBuffers)?,
                };
                rest = &rest[buffer.append(rest)..];
                if buffer.spare_capacity() == 0 {
                    self.push(pool, buffer).map_err(|_| NoBuffers)?;
                } else {
                    last = Some(buffer);
                }
            }
        }
        last.map_or(Ok(()), |buffer| self.push(pool, buffer).map_err(|_| NoBuffers))
    }

    /// Copies at most `len` bytes of the slices to the last buffer, and returns how many.
    #[inline]
    fn fill_last<'d>(&mut self, slices: impl Iterator<Item = &'d [u8]>, len: usize) -> usize {
        let Some(Entry::Buffer(last)) = self.last_mut() else { return 0 };
        let before = last.len();
        for slice in slices {
            let left = len - (last.len() - before);
            if left == 0 {
                break;
            }
            last.append(&slice[..slice.len().min(left)]);
        }
        let copied = last.len() - before;
        self.len += copied;
        copied
    }

    /// Appends `buffer`; drops an empty one. The entry is from `pool`'s table if the chain is
    /// empty, else from the table of the chain's entries.
    ///
    /// # Errors
    ///
    /// The buffer, if the table has no free entry.
    #[inline]
    pub fn push(&mut self, pool: &BufferPool, buffer: Buffer) -> Result<(), Buffer> {
        let len = buffer.len();
        if len == 0 {
            return Ok(());
        }
        match self.link(pool, Entry::Buffer(buffer)) {
            Ok(()) => {
                self.len += len;
                self.buffers += 1;
                Ok(())
            }
            Err(Entry::Buffer(buffer)) => Err(buffer),
            Err(Entry::Free | Entry::Message(_)) => unreachable!("what comes back is what went in"),
        }
    }

    /// Appends the bytes of `buffer`: copies as many as fit to the last buffer's spare capacity,
    /// and appends the buffer with the others, or releases it if there are none. So a sequence of
    /// buffers that are not full takes no more buffers than its bytes need.
    ///
    /// # Errors
    ///
    /// The buffer with the bytes that were not copied, if the table has no free entry.
    ///
    /// # Cost
    ///
    /// Copies the buffer's bytes, unless the last buffer is full.
    pub fn push_packed(&mut self, pool: &BufferPool, mut buffer: Buffer) -> Result<(), Buffer> {
        let moved =
            self.fill_last(std::iter::once(&*buffer), buffer.len().min(self.spare_capacity()));
        #[expect(clippy::cast_possible_truncation, reason = "a buffer has at most 1 MiB")]
        buffer.remove_front(moved as u32);
        self.push(pool, buffer)
    }

    /// Appends `message` as one entry; drops an empty one. The entry is from the same table as that
    /// of a [buffer](Self::push).
    ///
    /// # Errors
    ///
    /// The message, if the table has no free entry for messages.
    pub fn push_message(&mut self, pool: &BufferPool, message: Message) -> Result<(), Message> {
        let len = message.len();
        if len == 0 {
            return Ok(());
        }
        match self.link(pool, Entry::Message(message)) {
            Ok(()) => {
                self.len += len;
                Ok(())
            }
            Err(Entry::Message(message)) => Err(message),
            Err(Entry::Free | Entry::Buffer(_)) => unreachable!("what comes back is what went in"),
        }
    }

    #[inline]
    fn link(&mut self, pool: &BufferPool, entry: Entry) -> Result<(), Entry> {
        let pool = self.pool.unwrap_or_else(|| pool.pointer());
        let table = table_of(Some(pool));
        let index = table.insert(entry)?;
        if self.entries == 0 {
            self.pool = Some(pool);
            self.head = index;
            self.skipped = 0;
        } else {
            table.set_next(self.tail, index);
        }
        self.tail = index;
        self.entries += 1;
        Ok(())
    }

    /// Appends the entries of `other`, without a copy.
    ///
    /// # Panics
    ///
    /// If both have bytes, and their entries are in different tables or [`advance`](Self::advance)
    /// has skipped bytes of the first entry of `other`.
    pub fn append_chain(&mut self, mut other: Self) {
        if self.entries == 0 {
            std::mem::swap(self, &mut other);
        } else if other.entries > 0 {
            assert!(self.pool == other.pool, "the chains' entries are in different tables");
            assert!(other.skipped == 0, "a chain that was partly sent comes first");
            table_of(self.pool).set_next(self.tail, other.head);
            self.tail = other.tail;
            self.entries += other.entries;
            self.buffers += other.buffers;
            self.len += other.len;
            other.forget();
        }
    }

    /// Removes entries from the front, as many as have at most `len_max` bytes together, but at
    /// least one, and returns them. A message is one entry.
    #[inline]
    #[must_use]
    pub fn take_front(&mut self, len_max: usize) -> Self {
        if self.len <= len_max {
            return std::mem::take(self);
        }
        self.split_front(len_max)
    }

    fn split_front(&mut self, len_max: usize) -> Self {
        let mut kept = Kept::default();
        for (index, entry, left) in self.walk() {
            if kept.entries > 0 && kept.len + left > len_max {
                break;
            }
            kept.add(index, entry, left);
        }
        let rest = self.split_off(kept);
        std::mem::replace(self, rest)
    }

    /// Drops the bytes after the first `len`, which undoes appends to a chain of `len` bytes. Does
    /// nothing if the chain is not longer.
    ///
    /// # Cost
    ///
    /// Walks over the entries that remain.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        let mut kept = Kept::default();
        let mut cut_len = 0;
        for (index, entry, left) in self.walk() {
            if kept.len == len {
                break;
            }
            let stays = left.min(len - kept.len);
            kept.add(index, entry, stays);
            cut_len = left - stays;
        }
        self.cut_end_of(kept.last, cut_len);
        drop(self.split_off(kept));
    }

    /// Drops the last `len` bytes of one of this chain's entries, which is longer.
    fn cut_end_of(&mut self, index: u32, len: usize) {
        if len == 0 {
            return;
        }
        let content = table_of(self.pool).content(index);
        // SAFETY: the entry is this chain's, and only `&mut self` gives access to it (INV-CHAIN-1).
        let entry = unsafe { &mut *content };
        let stays = entry.len() - len;
        #[expect(clippy::cast_possible_truncation, reason = "an entry has less than 4 GiB")]
        match entry {
            Entry::Buffer(buffer) => buffer.set_len(stays as u32),
            Entry::Message(message) => message.truncate(stays as u32),
            Entry::Free => {}
        }
        self.len -= len;
    }

    /// Drops the first `len` bytes, which were sent. May end inside a buffer or a message.
    ///
    /// # Panics
    ///
    /// If the chain is shorter than that.
    pub fn advance(&mut self, len: usize) {
        assert!(len <= self.len, "{len} bytes sent of {}", self.len);
        let mut rest = len;
        while rest > 0 {
            let left = self.first_len();
            if rest < left {
                self.skip(rest);
                return;
            }
            rest -= left;
            drop(self.pop());
        }
    }

    /// Skips `len` bytes of the first entry, which is longer.
    fn skip(&mut self, len: usize) {
        #[expect(clippy::cast_possible_truncation, reason = "an entry has less than 4 GiB")]
        let by = len as u32;
        self.len -= len;
        if let Some(Entry::Message(message)) = self.first() {
            let from = if self.skipped == 0 { message.start() } else { self.skipped_to };
            self.skipped_to = message.position_behind(from, by);
        }
        self.skipped += by;
    }

    /// Spare capacity of the last entry: bytes that can still be appended to it; 0 if it is a
    /// message.
    #[inline]
    #[must_use]
    pub fn spare_capacity(&self) -> usize {
        match self.last() {
            Some(Entry::Buffer(buffer)) => buffer.spare_capacity() as usize,
            Some(Entry::Message(_) | Entry::Free) | None => 0,
        }
    }

    /// Whether the last entry is one of the large buffers of `pool`.
    #[must_use]
    pub fn ends_in_large(&self, pool: &BufferPool) -> bool {
        matches!(self.last(), Some(Entry::Buffer(buffer)) if buffer.is_large(pool))
    }

    /// Sets the owner of every buffer in the chain. Messages have none.
    pub fn set_owner(&self, owner: Owner) {
        if self.buffers == 0 {
            return;
        }
        for (_, entry, _) in self.walk() {
            if let Entry::Buffer(buffer) = entry {
                buffer.set_owner(owner);
            }
        }
    }

    /// The chain's length in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the chain has no bytes.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries: [`buffers`](Self::buffers) and [`messages`](Self::messages). A message may have
    /// many slices.
    #[inline]
    #[must_use]
    pub fn entry_count(&self) -> u32 {
        self.entries
    }

    /// Entries that are buffers; the buffers of messages are not counted.
    #[inline]
    #[must_use]
    pub fn buffers(&self) -> u32 {
        self.buffers
    }

    /// Entries that are messages.
    #[inline]
    #[must_use]
    pub fn messages(&self) -> u32 {
        self.entries - self.buffers
    }

    /// The first slice of [`slices`](Self::slices); empty if there is none.
    #[inline]
    #[must_use]
    pub fn front(&self) -> &[u8] {
        match self.first() {
            Some(Entry::Buffer(buffer)) => &buffer[self.skipped as usize..],
            Some(Entry::Message(_)) => self.slices().next().unwrap_or_default(),
            Some(Entry::Free) | None => &[],
        }
    }

    /// The bytes, one slice for each buffer of the chain and of its messages; none is empty.
    #[inline]
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> + Clone {
        Slices::new(self)
    }

    /// The bytes from position `at` on, as [`slices`](Self::slices); none if the chain is not
    /// longer than `at`. Position 0 is the chain's first byte.
    ///
    /// # Cost
    ///
    /// Walks over the entries before the position, and if it is in a message over the message's
    /// buffers; reads no byte.
    pub fn slices_from(&self, at: usize) -> impl Iterator<Item = &[u8]> + Clone {
        Slices::new(self).behind(at)
    }

    /// The entries with their indexes and the unconsumed bytes of each.
    fn walk(&self) -> impl Iterator<Item = (u32, &Entry, usize)> {
        let mut skipped = self.skipped as usize;
        let mut index = self.head;
        (0..self.entries).map(move |_| {
            let (at, entry) = (index, self.entry(index));
            index = table_of(self.pool).next(index);
            (at, entry, entry.len() - std::mem::take(&mut skipped))
        })
    }

    #[inline]
    fn first(&self) -> Option<&Entry> {
        (self.entries > 0).then(|| self.entry(self.head))
    }

    #[inline]
    fn last(&self) -> Option<&Entry> {
        (self.entries > 0).then(|| self.entry(self.tail))
    }

    /// Unconsumed bytes of the first entry.
    #[inline]
    fn first_len(&self) -> usize {
        self.first().map_or(0, |entry| entry.len() - self.skipped as usize)
    }

    /// One of this chain's entries.
    #[inline]
    fn entry(&self, index: u32) -> &Entry {
        let content = table_of(self.pool).content(index);
        // SAFETY: the entry is this chain's (INV-CHAIN-1), and it changes only through `&mut self`.
        unsafe { &*content }
    }

    #[inline]
    fn last_mut(&mut self) -> Option<&mut Entry> {
        if self.entries == 0 {
            return None;
        }
        let content = table_of(self.pool).content(self.tail);
        // SAFETY: the entry is this chain's (INV-CHAIN-1), and only `&mut self` gives access to it.
        Some(unsafe { &mut *content })
    }

    fn clear(&mut self) {
        while let Some(entry) = self.pop() {
            drop(entry);
        }
    }

    /// Removes the first entry.
    #[inline]
    fn pop(&mut self) -> Option<Entry> {
        if self.entries == 0 {
            return None;
        }
        let pool = self.pool?;
        let table = table_of(self.pool);
        let index = self.head;
        self.head = table.next(index);
        // SAFETY: the entry is this chain's, only `&mut self` gives access to it (INV-CHAIN-1), and
        // the chain's head is the next entry from now on.
        let entry = unsafe { table.remove(index) };
        let left = entry.len() - self.skipped as usize;
        self.entries -= 1;
        self.len -= left;
        self.skipped = 0;
        self.buffers -= u32::from(matches!(entry, Entry::Buffer(_)));
        if self.entries == 0 {
            self.pool = None;
        }
        // SAFETY: the entry was one of the pool's and was released above. The chain does not use it
        // again, and the pool only if it has further entries; then the pool is not freed.
        unsafe { Inner::free_if_unused(pool) };
        Some(entry)
    }

    /// Keeps the entries that `kept` counts, and returns the others.
    fn split_off(&mut self, kept: Kept) -> Self {
        if kept.entries == 0 {
            return std::mem::take(self);
        }
        if kept.entries == self.entries {
            return Self::new();
        }
        let rest = Self {
            pool: self.pool,
            head: table_of(self.pool).next(kept.last),
            tail: self.tail,
            entries: self.entries - kept.entries,
            buffers: self.buffers - kept.buffers,
            len: self.len - kept.len,
            ..Self::new()
        };
        self.tail = kept.last;
        self.entries = kept.entries;
        self.buffers = kept.buffers;
        self.len = kept.len;
        rest
    }

    /// Empties the chain without releasing its entries, which are another chain's now.
    fn forget(&mut self) {
        (self.pool, self.entries, self.buffers, self.len) = (None, 0, 0, 0);
    }
}

/// Counts of the first entries of a chain.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    last: u32,
    entries: u32,
    buffers: u32,
    len: usize,
}

impl Kept {
    /// Counts an entry with `len` unconsumed bytes.
    fn add(&mut self, index: u32, entry: &Entry, len: usize) {
        self.last = index;
        self.entries += 1;
        self.len += len;
        self.buffers += u32::from(matches!(entry, Entry::Buffer(_)));
    }
}

/// The table of a chain's entries.
#[inline]
fn table_of<'a>(pool: Option<NonNull<Inner>>) -> &'a EntryTable<Entry> {
    #[expect(clippy::expect_used, reason = "callers have an entry, or a pool's handle, in hand")]
    let pool = pool.expect("a chain with entries knows its table");
    // SAFETY: the caller has a handle to the pool or an entry of its table, and a pool outlives
    // both (INV-POOL-3). The reference is used within one call of a method of `Chain` or `Parcel`,
    // while that is so.
    &unsafe { pool.as_ref() }.entries
}

impl BufferPool {
    /// A new chain with a copy of `data`, its buffers counted under `owner`.
    ///
    /// # Errors
    ///
    /// [`NoBuffers`] if too few buffers or entries are free; then none is taken.
    pub fn chain_of(&self, data: &[u8], owner: Owner) -> Result<Chain, NoBuffers> {
        let mut chain = Chain::new();
        chain.append(self, data, owner, u32::MAX)?;
        Ok(chain)
    }
}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Chain {
    #[inline]
    fn drop(&mut self) {
        if self.entries > 0 {
            self.clear();
        }
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("buffers", &self.buffers())
            .field("messages", &self.messages())
            .field("len", &self.len)
            .finish()
    }
}
