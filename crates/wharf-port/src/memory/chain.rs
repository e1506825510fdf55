//! A chain: several buffers that leave as one unbroken run of bytes.

use super::pool::{Buffer, BufferPool, Inner, Owner};
use crate::sync::{AtomicU32, Ordering};
use std::cell::UnsafeCell;
use std::fmt;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// A first-in, first-out run of buffers, whole or shared, of any length.
///
/// The entries come from a fixed table of the pool whose buffers it was first given, so a chain
/// allocates nothing. The bytes of the first buffer that have been sent already are skipped.
/// Dropping a chain gives entries and buffers back.
pub struct Chain {
    /// Whose table the entries are in; `Some` only while there are some, or while a chain is being
    /// made that will join one that has.
    pool: Option<NonNull<Inner>>,
    head: u32,
    tail: u32,
    entries: u32,
    /// Bytes of the first buffer that are consumed.
    skipped: u32,
    len: usize,
}

/// One entry of the table: a buffer and the index of the entry after it.
pub(super) struct Node {
    buffer: UnsafeCell<MaybeUninit<Buffer>>,
    next: AtomicU32,
}

// SAFETY: a chain owns its entries: it took their indexes from the table's free list and nobody
// else has them; buffers may change threads.
unsafe impl Send for Chain {}
// SAFETY: `&Chain` only reads entries, which change through `&mut Chain` alone.
unsafe impl Sync for Chain {}

/// A pool has too few buffers or chain entries left, or the caller's allowance is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NoRoom;

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no buffer is free for these bytes")
    }
}

impl std::error::Error for NoRoom {}

impl Chain {
    /// An empty chain; takes nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { pool: None, head: 0, tail: 0, entries: 0, skipped: 0, len: 0 }
    }

    /// Copies `data` behind what is here: into the room of the last buffer, then into buffers
    /// from `pool`, at most `buffers_max` of them, marked with `owner`.
    ///
    /// # Errors
    ///
    /// [`NoRoom`] if that is not possible for all of `data`; then nothing changed.
    ///
    /// # Cost
    ///
    /// Copies `data.len()` bytes; allocates nothing.
    pub fn append(
        &mut self,
        pool: &BufferPool,
        data: &[u8],
        owner: Owner,
        buffers_max: u32,
    ) -> Result<(), NoRoom> {
        self.append_slices(pool, std::iter::once(data), owner, buffers_max)
    }

    /// Copies the bytes of `other` behind what is here, as [`append`](Self::append) does.
    ///
    /// # Errors
    ///
    /// [`NoRoom`] if that is not possible for all of them; then nothing changed.
    pub fn append_copy(
        &mut self,
        pool: &BufferPool,
        other: &Self,
        owner: Owner,
        buffers_max: u32,
    ) -> Result<(), NoRoom> {
        self.append_slices(pool, other.slices(), owner, buffers_max)
    }

    fn append_slices<'d>(
        &mut self,
        pool: &BufferPool,
        slices: impl Iterator<Item = &'d [u8]> + Clone,
        owner: Owner,
        buffers_max: u32,
    ) -> Result<(), NoRoom> {
        let len: usize = slices.clone().map(<[u8]>::len).sum();
        let here_len = len.min(self.room());
        let needed = (len - here_len).div_ceil(pool.buffer_size_bytes() as usize);
        if needed > buffers_max as usize {
            return Err(NoRoom);
        }
        // First what can fail: the bytes that need buffers of their own.
        let mut fresh = Self { pool: self.pool, ..Self::new() };
        let mut last: Option<Buffer> = None;
        for mut rest in behind(slices.clone(), here_len) {
            while !rest.is_empty() {
                let mut buffer = match last.take() {
                    Some(buffer) => buffer,
                    None => pool.acquire(owner).ok_or(NoRoom)?,
                };
                rest = &rest[buffer.append(rest)..];
                if buffer.room() == 0 {
                    fresh.push(pool, buffer).map_err(|_| NoRoom)?;
                } else {
                    last = Some(buffer);
                }
            }
        }
        if let Some(buffer) = last {
            fresh.push(pool, buffer).map_err(|_| NoRoom)?;
        }
        let mut here_left = here_len;
        for slice in slices {
            let part = &slice[..slice.len().min(here_left)];
            let copied = self.last_mut().map_or(0, |last| last.append(part));
            debug_assert_eq!(copied, part.len(), "room was measured above");
            here_left -= copied;
        }
        self.len += here_len;
        self.append_chain(fresh);
        Ok(())
    }

    /// Puts `buffer` behind what is here; an empty one is dropped. The entry comes from `pool`'s
    /// table if the chain is empty, else from the table that the chain is in.
    ///
    /// # Errors
    ///
    /// The buffer, if the table has no entry left.
    pub fn push(&mut self, pool: &BufferPool, buffer: Buffer) -> Result<(), Buffer> {
        if buffer.is_empty() {
            return Ok(());
        }
        let table = self.pool.unwrap_or_else(|| pool.pointer());
        let inner = pool_of(Some(table));
        let Some(index) = inner.free_nodes.take() else { return Err(buffer) };
        self.len += buffer.len();
        // SAFETY: the entry's index was just taken, so this chain alone reaches it.
        let slot = unsafe { &mut *inner.nodes[index as usize].buffer.get() };
        slot.write(buffer);
        if self.entries == 0 {
            self.pool = Some(table);
            self.head = index;
            self.skipped = 0;
        } else {
            inner.nodes[self.tail as usize].next.store(index, Ordering::Relaxed);
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
    /// If both hold bytes and their entries are in different tables.
    pub fn append_chain(&mut self, mut other: Self) {
        if self.entries == 0 {
            std::mem::swap(self, &mut other);
        } else if other.entries > 0 {
            assert!(self.pool == other.pool, "the chains' entries are in different tables");
            assert!(other.skipped == 0, "a chain that was partly sent comes first");
            let inner = pool_of(self.pool);
            inner.nodes[self.tail as usize].next.store(other.head, Ordering::Relaxed);
            self.tail = other.tail;
            self.entries += other.entries;
            self.len += other.len;
            (other.pool, other.entries, other.len) = (None, 0, 0);
        }
    }

    /// Puts another handle to each of `other`'s buffers behind what is here, sharing the bytes.
    ///
    /// # Errors
    ///
    /// [`NoRoom`] if the table of this chain (`pool`'s, if it is empty) has too few entries left;
    /// then nothing changed.
    ///
    /// # Panics
    ///
    /// If `other` has lost bytes to [`advance`](Self::advance).
    pub fn share(&mut self, pool: &BufferPool, other: &Self) -> Result<(), NoRoom> {
        let table = self.pool.unwrap_or_else(|| pool.pointer());
        if pool_of(Some(table)).free_nodes.free() < other.entries {
            return Err(NoRoom);
        }
        assert!(other.skipped == 0, "a chain that was partly sent is not shared");
        let mut copy = Self { pool: self.pool, ..Self::new() };
        for buffer in other.buffers() {
            copy.push(pool, buffer.clone()).map_err(|_| NoRoom)?;
        }
        self.append_chain(copy);
        Ok(())
    }

    /// Takes whole buffers off the front, as many as have `len_max` bytes together, but one at least.
    #[must_use]
    pub fn take_front(&mut self, len_max: usize) -> Self {
        if self.len <= len_max {
            return std::mem::take(self);
        }
        let mut front = Self { head: self.head, skipped: self.skipped, ..Self::new() };
        while self.entries > 0 {
            let index = self.head;
            let len = self.entry(index).len() - self.skipped as usize;
            if front.entries > 0 && front.len + len > len_max {
                break;
            }
            front.pool = self.pool;
            front.tail = index;
            front.entries += 1;
            front.len += len;
            self.head = pool_of(self.pool).nodes[index as usize].next.load(Ordering::Relaxed);
            self.entries -= 1;
            self.len -= len;
            self.skipped = 0;
        }
        if self.entries == 0 {
            self.pool = None;
        }
        front
    }

    /// Drops the first `len` bytes: they have been sent.
    ///
    /// # Panics
    ///
    /// If the chain is shorter than that.
    pub fn advance(&mut self, len: usize) {
        assert!(len <= self.len, "{len} bytes sent of {}", self.len);
        let mut rest = len;
        while rest > 0 {
            let first = self.first().map_or(0, |buffer| buffer.len());
            let left = first - self.skipped as usize;
            if rest < left {
                #[expect(clippy::cast_possible_truncation, reason = "less than one buffer")]
                {
                    self.skipped += rest as u32;
                }
                self.len -= rest;
                return;
            }
            rest -= left;
            drop(self.pop());
        }
    }

    /// Bytes that fit into the last buffer behind what is there.
    #[must_use]
    pub fn room(&self) -> usize {
        self.last().map_or(0, Buffer::room) as usize
    }

    /// Marks the holder of every buffer in the chain.
    pub fn set_owner(&self, owner: Owner) {
        self.buffers().for_each(|buffer| buffer.set_owner(owner));
    }

    /// Bytes that are left in the chain.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many buffers hold the bytes.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// The bytes, one slice a buffer.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let skipped = self.skipped as usize;
        self.buffers().enumerate().map(move |(i, b)| if i == 0 { &b[skipped..] } else { &b[..] })
    }

    fn buffers(&self) -> impl Iterator<Item = &Buffer> + Clone {
        let mut index = self.head;
        (0..self.entries).map(move |_| {
            let buffer = self.entry(index);
            index = pool_of(self.pool).nodes[index as usize].next.load(Ordering::Relaxed);
            buffer
        })
    }

    fn first(&self) -> Option<&Buffer> {
        self.buffers().next()
    }

    fn last(&self) -> Option<&Buffer> {
        (self.entries > 0).then(|| self.entry(self.tail))
    }

    /// The buffer of one of this chain's entries.
    fn entry(&self, index: u32) -> &Buffer {
        let node = &pool_of(self.pool).nodes[index as usize];
        // SAFETY: the entry is this chain's, and it changes only through `&mut self`.
        let slot = unsafe { &*node.buffer.get() };
        // SAFETY: an entry is filled before its index gets into a chain, and emptied after it left.
        unsafe { slot.assume_init_ref() }
    }

    fn last_mut(&mut self) -> Option<&mut Buffer> {
        if self.entries == 0 {
            return None;
        }
        let node = &pool_of(self.pool).nodes[self.tail as usize];
        // SAFETY: the entry is this chain's, and `&mut self` is the only way to it.
        let slot = unsafe { &mut *node.buffer.get() };
        // SAFETY: as in `entry`.
        Some(unsafe { slot.assume_init_mut() })
    }

    /// Takes the first buffer out, without regard to what of it is skipped.
    fn pop(&mut self) -> Option<Buffer> {
        if self.entries == 0 {
            return None;
        }
        let index = self.head;
        let inner = pool_of(self.pool);
        let node = &inner.nodes[index as usize];
        self.head = node.next.load(Ordering::Relaxed);
        // SAFETY: the entry is this chain's, and `&mut self` is the only way to it.
        let slot = unsafe { &mut *node.buffer.get() };
        // SAFETY: filled, as in `entry`; it is given back below, so the buffer is moved out once.
        let buffer = unsafe { slot.assume_init_read() };
        self.entries -= 1;
        self.len -= buffer.len() - self.skipped as usize;
        self.skipped = 0;
        if self.entries == 0 {
            self.pool = None;
        }
        inner.free_nodes.give_back(index, || ());
        Some(buffer)
    }
}

/// What of `slices` is behind their first `skip` bytes.
fn behind<'d>(
    slices: impl Iterator<Item = &'d [u8]>,
    skip: usize,
) -> impl Iterator<Item = &'d [u8]> {
    let mut skip = skip;
    slices.map(move |slice| {
        let skipped = skip.min(slice.len());
        skip -= skipped;
        &slice[skipped..]
    })
}

/// The table that a chain with entries is in.
fn pool_of<'a>(pool: Option<NonNull<Inner>>) -> &'a Inner {
    #[expect(clippy::expect_used, reason = "callers have an entry, or a pool's handle, in hand")]
    let pool = pool.expect("a chain with entries knows its table");
    // SAFETY: the caller has a handle to the pool or an entry of its table, and a pool outlives
    // both (INV-POOL-3). The reference is used within one call of a method of `Chain`.
    unsafe { pool.as_ref() }
}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        while let Some(buffer) = self.pop() {
            drop(buffer);
        }
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("entries", &self.entries).field("len", &self.len).finish()
    }
}

impl Node {
    pub(super) fn empty() -> Self {
        Self { buffer: UnsafeCell::new(MaybeUninit::uninit()), next: AtomicU32::new(0) }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::super::PoolConfig;
    use super::*;

    fn pool(buffers: u32) -> BufferPool {
        let config = PoolConfig { buffer_size_bytes: 64, ..PoolConfig::new(buffers) };
        BufferPool::new(PoolConfig { shared_entries: 2, ..config }).unwrap()
    }

    fn bytes(chain: &Chain) -> Vec<u8> {
        chain.slices().flatten().copied().collect()
    }

    #[test]
    fn append_fills_the_last_buffer_before_it_takes_another() {
        let pool = pool(3);
        let mut chain = Chain::new();
        chain.append(&pool, &[1; 60], Owner::SendQueue, 9).unwrap();
        chain.append(&pool, &[2; 70], Owner::SendQueue, 9).unwrap();
        assert_eq!((chain.len(), chain.entries(), pool.free()), (130, 3, 0));
        assert_eq!(bytes(&chain), [[1; 60].as_slice(), [2; 70].as_slice()].concat());
        drop(chain);
        assert_eq!((pool.free(), pool.free_entries()), (3, 5));
    }

    #[test]
    fn append_is_all_or_nothing() {
        let pool = pool(2);
        let mut chain = pool.chain_of(&[1; 10], Owner::SendQueue).unwrap();
        assert_eq!(chain.append(&pool, &[2; 119], Owner::SendQueue, 9), Err(NoRoom));
        assert_eq!(chain.append(&pool, &[2; 55], Owner::SendQueue, 0), Err(NoRoom));
        assert_eq!((chain.len(), chain.entries(), pool.free()), (10, 1, 1));
        chain.append(&pool, &[2; 118], Owner::SendQueue, 1).unwrap();
        assert_eq!(chain.len(), 128);
    }

    #[test]
    fn advance_drops_whole_buffers_and_skips_parts() {
        let pool = pool(3);
        let all: Vec<u8> = (0..150).collect();
        let mut chain = pool.chain_of(&all, Owner::SendQueue).unwrap();
        chain.advance(10);
        assert_eq!((bytes(&chain), pool.free()), (all[10..].to_vec(), 0));
        chain.advance(60);
        assert_eq!((bytes(&chain), pool.free()), (all[70..].to_vec(), 1));
        chain.advance(80);
        assert!(chain.is_empty());
        assert_eq!(pool.free(), 3);
    }

    #[test]
    fn a_copy_of_a_chain_fills_the_last_buffer_first_and_is_all_or_nothing() {
        let pool = pool(5);
        let other = pool.chain_of(&(0..100).collect::<Vec<u8>>(), Owner::Shared).unwrap();
        let mut chain = pool.chain_of(&[7; 60], Owner::SendQueue).unwrap();
        assert_eq!(chain.append_copy(&pool, &other, Owner::SendQueue, 1), Err(NoRoom));
        assert_eq!((chain.len(), pool.free()), (60, 2));
        chain.append_copy(&pool, &other, Owner::SendQueue, 2).unwrap();
        assert_eq!((bytes(&chain)[60..].to_vec(), chain.entries()), ((0..100).collect(), 3));
        assert_eq!(chain.append_copy(&pool, &other, Owner::SendQueue, 9), Err(NoRoom));
        assert_eq!((chain.len(), pool.free()), (160, 0));
    }

    #[test]
    fn the_front_of_a_chain_can_be_taken_off_at_a_buffer() {
        let pool = pool(3);
        let all: Vec<u8> = (0..150).collect();
        let mut chain = pool.chain_of(&all, Owner::SendQueue).unwrap();
        chain.advance(10);
        let mut front = chain.take_front(60);
        assert_eq!((bytes(&front), bytes(&chain)), (all[10..64].to_vec(), all[64..].to_vec()));
        front.advance(54);
        front.append_chain(chain.take_front(1));
        assert_eq!((bytes(&front), bytes(&chain)), (all[64..128].to_vec(), all[128..].to_vec()));
        assert_eq!(bytes(&chain.take_front(1000)), all[128..]);
        assert!(chain.is_empty() && chain.take_front(1).is_empty());
        drop(front);
        assert_eq!((pool.free(), pool.free_entries()), (3, 5));
    }

    #[test]
    fn a_shared_chain_is_one_copy_and_costs_an_entry() {
        let (posts, links) = (pool(1), pool(2));
        let frame = posts.chain_of(b"news", Owner::Shared).unwrap();
        let mut queue = links.chain_of(b"old ", Owner::SendQueue).unwrap();
        queue.share(&links, &frame).unwrap();
        let mut empty_queue = Chain::new();
        empty_queue.share(&links, &frame).unwrap();
        assert_eq!((bytes(&queue), bytes(&empty_queue)), (b"old news".to_vec(), b"news".to_vec()));
        assert_eq!((posts.free(), links.free(), links.free_entries()), (0, 1, 1));
        // A shared tail is not written: bytes behind it go to a buffer of their own.
        queue.append(&links, b"!", Owner::SendQueue, 9).unwrap();
        assert_eq!(empty_queue.share(&links, &frame), Err(NoRoom));
        assert_eq!(bytes(&queue), b"old news!");
        drop((queue, empty_queue, frame));
        assert_eq!((posts.free(), links.free(), links.free_entries()), (1, 2, 4));
    }

    #[test]
    fn chains_of_one_table_join_without_a_copy() {
        let pool = pool(4);
        let mut sent = pool.chain_of(&[1; 70], Owner::SendQueue).unwrap();
        sent.advance(66);
        sent.append_chain(pool.chain_of(&[2; 70], Owner::SendQueue).unwrap());
        assert_eq!(bytes(&sent), [[1; 4].as_slice(), [2; 70].as_slice()].concat());
        assert_eq!(sent.entries(), 3);
    }
}
