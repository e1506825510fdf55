//! A chain: buffers and messages that leave as one unbroken run of bytes.

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
use super::error::NoRoom;
use super::ledger::Owner;
use super::message::{Message, Position};
use super::pool::{BufferPool, Entry, Inner};
pub use fill::Filled;
pub use parcel::Parcel;
use slices::{Slices, behind};
use std::fmt;
use std::ptr::NonNull;

/// A first-in, first-out run of buffers of its own and of messages, of any length.
///
/// The entries come from a fixed table of the pool that the chain was first given, so a chain
/// allocates nothing. A buffer takes an entry, and so does a message, whatever its length. The
/// bytes of the first entry that have been sent already are skipped. Dropping a chain frees the
/// entries, the buffers, and the messages that nothing else holds.
///
/// A chain stays on the thread of its pool; what goes to another thread is a [`Message`], or a
/// [`Parcel`] that comes back:
///
/// ```compile_fail,E0277
/// fn elsewhere<T: Send>() {}
/// elsewhere::<wharf_port::memory::Chain>();
/// ```
pub struct Chain {
    /// Whose table the entries are in; `Some` only while there are some, or while a chain is being
    /// made that will join one that has.
    pool: Option<NonNull<Inner>>,
    head: u32,
    tail: u32,
    /// How many entries.
    entries: u32,
    /// How many of them are buffers; the others are messages.
    buffers: u32,
    /// Bytes of the first entry that are consumed.
    skipped: u32,
    /// Where they end, if some are and the first entry is a message: so a long message is not
    /// walked through again at each short send.
    skipped_to: Position,
    len: usize,
}

const _: () = assert!(size_of::<Chain>() <= 48);

impl Chain {
    /// An empty chain; takes nothing.
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

    /// Copies `data` behind what is here: into the room of the last buffer, if a buffer is last,
    /// then into buffers from `pool`, at most `buffers_max` of them, marked with `owner`.
    ///
    /// # Errors
    ///
    /// [`NoRoom`] if that is not possible for all of `data`; then nothing changed.
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
    ) -> Result<(), NoRoom> {
        // Most messages fit one buffer, and are behind nothing.
        let fits = (1..=pool.buffer_size_bytes() as usize).contains(&data.len());
        if self.entries == 0 && buffers_max > 0 && fits {
            let mut buffer = pool.acquire(owner).ok_or(NoRoom)?;
            buffer.append(data);
            return self.push(pool, buffer).map_err(|_| NoRoom);
        }
        self.append_slices(pool, std::iter::once(data), data.len(), owner, buffers_max)
    }

    /// Copies the bytes of `message` behind what is here, as [`append`](Self::append) does: for
    /// when no entry is left for the message itself.
    ///
    /// # Errors
    ///
    /// [`NoRoom`] if that is not possible for all of them; then nothing changed.
    pub fn append_copy_of(
        &mut self,
        pool: &BufferPool,
        message: &Message,
        owner: Owner,
        buffers_max: u32,
    ) -> Result<(), NoRoom> {
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
    ) -> Result<(), NoRoom> {
        let here_len = len.min(self.room());
        if here_len < len {
            // First what can fail: the bytes that need buffers of their own.
            let needed = (len - here_len).div_ceil(pool.buffer_size_bytes() as usize);
            if needed > (buffers_max.min(pool.free()) as usize) {
                return Err(NoRoom);
            }
            let mut fresh = Self { pool: self.pool, ..Self::new() };
            fresh.fill(pool, behind(slices.clone(), here_len), owner)?;
            let here = self.fill_last(slices, here_len);
            debug_assert_eq!(here, here_len, "the room was measured above");
            self.append_chain(fresh);
        } else {
            self.fill_last(slices, len);
        }
        Ok(())
    }

    /// Puts copies of all slices into buffers from `pool`.
    #[inline]
    fn fill<'d>(
        &mut self,
        pool: &BufferPool,
        slices: impl Iterator<Item = &'d [u8]>,
        owner: Owner,
    ) -> Result<(), NoRoom> {
        let mut last: Option<Buffer> = None;
        for mut rest in slices {
            while !rest.is_empty() {
                let mut buffer = match last.take() {
                    Some(buffer) => buffer,
                    None => pool.acquire(owner).ok_or(NoRoom)?,
                };
                rest = &rest[buffer.append(rest)..];
                if buffer.room() == 0 {
                    self.push(pool, buffer).map_err(|_| NoRoom)?;
                } else {
                    last = Some(buffer);
                }
            }
        }
        last.map_or(Ok(()), |buffer| self.push(pool, buffer).map_err(|_| NoRoom))
    }

    /// Copies at most `len` bytes of the slices into the last buffer, and says how many.
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

    /// Puts `buffer` behind what is here; an empty one is dropped. The entry comes from `pool`'s
    /// table if the chain is empty, else from the table that the chain is in.
    ///
    /// # Errors
    ///
    /// The buffer, if the table has no entry left.
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

    /// Puts `buffer` behind what is here, its first bytes into the room of the last buffer, and
    /// releases it if all of them fit there. So a run of short buffers takes no more of them than
    /// its bytes need.
    ///
    /// # Errors
    ///
    /// What is left of the buffer, if the table has no entry left.
    ///
    /// # Cost
    ///
    /// Copies the buffer's bytes, but not those of one behind a buffer that is full.
    pub fn push_packed(&mut self, pool: &BufferPool, mut buffer: Buffer) -> Result<(), Buffer> {
        let moved = self.fill_last(std::iter::once(&*buffer), buffer.len().min(self.room()));
        #[expect(clippy::cast_possible_truncation, reason = "a buffer has at most 1 MiB")]
        buffer.remove_front(moved as u32);
        self.push(pool, buffer)
    }

    /// Puts `message` behind what is here, in one entry; an empty one is dropped. The entry comes
    /// from the same table as that of a [buffer](Self::push).
    ///
    /// # Errors
    ///
    /// The message, if the table has no entry left.
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

    /// Puts the bytes of `other`, which has lost none to [`advance`](Self::advance), behind what
    /// is here.
    ///
    /// # Panics
    ///
    /// If both hold bytes and their entries are in different tables, or `other` has lost some.
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

    /// Takes whole entries off the front, as many as have `len_max` bytes together, but one at
    /// least. A message is one entry.
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

    /// Drops what is behind the first `len` bytes, so that a chain which was `len` bytes long when
    /// something was appended is as it was before that. Does nothing if the chain is no longer
    /// than that.
    ///
    /// # Cost
    ///
    /// Walks over the entries that stay.
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

    /// Drops the last `len` bytes of one of this chain's entries, which has more.
    fn cut_end_of(&mut self, index: u32, len: usize) {
        if len == 0 {
            return;
        }
        let content = table_of(self.pool).content(index);
        // SAFETY: the entry is this chain's, and `&mut self` is the only way to it (INV-CHAIN-1).
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

    /// Drops the first `len` bytes: they have been sent. May end inside a buffer or a message.
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

    /// Consumes `len` bytes of the first entry, which has more.
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

    /// Bytes that fit into the last entry behind what is there: none if that is a message.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        match self.last() {
            Some(Entry::Buffer(buffer)) => buffer.room() as usize,
            Some(Entry::Message(_) | Entry::Free) | None => 0,
        }
    }

    /// Whether the last entry is one of the large buffers of `pool`.
    #[must_use]
    pub fn ends_in_large(&self, pool: &BufferPool) -> bool {
        matches!(self.last(), Some(Entry::Buffer(buffer)) if buffer.is_large(pool))
    }

    /// Marks the holder of every buffer in the chain. Messages have no such mark.
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

    /// Bytes that are left in the chain.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte is left.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many entries hold the bytes: [`buffers`](Self::buffers) and
    /// [`messages`](Self::messages). A message may have many slices.
    #[inline]
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// How many buffers the chain pins; those of its messages are not among them.
    #[inline]
    #[must_use]
    pub fn buffers(&self) -> u32 {
        self.buffers
    }

    /// How many messages are in the chain.
    #[inline]
    #[must_use]
    pub fn messages(&self) -> u32 {
        self.entries - self.buffers
    }

    /// The first slice of [`slices`](Self::slices), empty if there is none. It has all of the
    /// bytes if it is as long as the chain.
    #[inline]
    #[must_use]
    pub fn front(&self) -> &[u8] {
        match self.first() {
            Some(Entry::Buffer(buffer)) => &buffer[self.skipped as usize..],
            Some(Entry::Message(_)) => self.slices().next().unwrap_or_default(),
            Some(Entry::Free) | None => &[],
        }
    }

    /// The bytes, one slice for each buffer, also of messages; none is empty.
    #[inline]
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> + Clone {
        Slices::new(self)
    }

    /// The bytes from the one at position `at` on, as [`slices`](Self::slices) has them; none if
    /// the chain is not longer than `at`. Position 0 is the first byte that is left in the chain.
    ///
    /// # Cost
    ///
    /// Walks over the entries before the position, and over the buffers of the message that it is
    /// in, if it is in one; reads no byte.
    pub fn slices_from(&self, at: usize) -> impl Iterator<Item = &[u8]> + Clone {
        Slices::new(self).behind(at)
    }

    /// The entries with their indexes and the bytes that are left in each.
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

    /// Bytes that are left in the first entry.
    #[inline]
    fn first_len(&self) -> usize {
        self.first().map_or(0, |entry| entry.len() - self.skipped as usize)
    }

    /// One of this chain's entries.
    #[inline]
    fn entry(&self, index: u32) -> &Entry {
        let content = table_of(self.pool).content(index);
        // SAFETY: the entry is this chain's (INV-CHAIN-1), and it changes only through
        // `&mut self`.
        unsafe { &*content }
    }

    #[inline]
    fn last_mut(&mut self) -> Option<&mut Entry> {
        if self.entries == 0 {
            return None;
        }
        let content = table_of(self.pool).content(self.tail);
        // SAFETY: the entry is this chain's (INV-CHAIN-1), and `&mut self` is the only way to it.
        Some(unsafe { &mut *content })
    }

    fn clear(&mut self) {
        while let Some(entry) = self.pop() {
            drop(entry);
        }
    }

    /// Takes the first entry out, with what of it is left.
    #[inline]
    fn pop(&mut self) -> Option<Entry> {
        if self.entries == 0 {
            return None;
        }
        let pool = self.pool?;
        let table = table_of(self.pool);
        let index = self.head;
        self.head = table.next(index);
        // SAFETY: the entry is this chain's, `&mut self` is the only way to it (INV-CHAIN-1), and
        // the chain's head is the entry behind it from now on.
        let entry = unsafe { table.remove(index) };
        let left = entry.len() - self.skipped as usize;
        self.entries -= 1;
        self.len -= left;
        self.skipped = 0;
        self.buffers -= u32::from(matches!(entry, Entry::Buffer(_)));
        if self.entries == 0 {
            self.pool = None;
        }
        // SAFETY: the entry was a part of the pool and has been given back above. The chain uses
        // its others only, if it has some; then the pool is not freed.
        unsafe { Inner::free_if_unused(pool) };
        Some(entry)
    }

    /// Keeps the first entries, and returns the others.
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

    /// Becomes empty without freeing the entries, which are another chain's now.
    fn forget(&mut self) {
        (self.pool, self.entries, self.buffers, self.len) = (None, 0, 0, 0);
    }
}

/// What is known of the first entries of a chain.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    last: u32,
    entries: u32,
    buffers: u32,
    len: usize,
}

impl Kept {
    /// Counts one more entry, of which `len` bytes are left.
    fn add(&mut self, index: u32, entry: &Entry, len: usize) {
        self.last = index;
        self.entries += 1;
        self.len += len;
        self.buffers += u32::from(matches!(entry, Entry::Buffer(_)));
    }
}

/// The table that the entries of a chain are in.
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
    /// Fills a new chain with `data`, with `owner` on its buffers.
    ///
    /// # Errors
    ///
    /// [`NoRoom`] if buffers or entries are missing; then nothing was taken.
    pub fn chain_of(&self, data: &[u8], owner: Owner) -> Result<Chain, NoRoom> {
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
