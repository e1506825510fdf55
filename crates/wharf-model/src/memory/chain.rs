//! A run of bytes in several buffers, some of them shared with other links.

use super::pool::{Buffer, Pool};
use crate::shares::chain_buffers_max;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes in the posts' own account, which several links send.
pub(crate) type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Bytes in order. Its first buffer may be partly consumed and its last partly filled; each counts
/// as a whole one.
pub(crate) struct Chain {
    entries: VecDeque<Entry>,
    len: usize,
    /// How many of the entries are buffers of the pool.
    buffer_count: usize,
    pool: Rc<Pool>,
}

enum Entry {
    Own(Buffer),
    Shared { bytes: SharedBytes, consumed: usize },
}

impl Entry {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(buffer) => buffer.bytes(),
            Self::Shared { bytes, consumed } => &(**bytes).as_ref()[*consumed..],
        }
    }

    fn consume(&mut self, len: usize) {
        match self {
            Self::Own(buffer) => buffer.consume(len),
            Self::Shared { consumed, .. } => *consumed += len,
        }
    }

    fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }
}

impl Chain {
    pub(crate) fn new(pool: &Rc<Pool>) -> Self {
        Self { entries: VecDeque::new(), len: 0, buffer_count: 0, pool: Rc::clone(pool) }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Buffers of the pool that it holds.
    pub(crate) fn buffer_count(&self) -> usize {
        self.buffer_count
    }

    /// Bytes that can be appended without another buffer.
    pub(crate) fn tail_capacity(&self) -> usize {
        match self.entries.back() {
            Some(Entry::Own(buffer)) => buffer.spare_capacity(),
            _ => 0,
        }
    }

    /// Appends a copy of `data`: fills the last buffer, then takes new ones.
    pub(crate) fn append(&mut self, mut data: &[u8]) {
        self.len += data.len();
        if let Some(Entry::Own(buffer)) = self.entries.back_mut() {
            data = &data[buffer.fill(data)..];
        }
        while !data.is_empty() {
            let mut buffer = self.pool.acquire();
            data = &data[buffer.fill(data)..];
            self.push(Entry::Own(buffer));
        }
    }

    /// Appends what one receive brought: at most one buffer, and a buffer of its own.
    pub(crate) fn append_received(&mut self, data: &[u8]) {
        let mut buffer = self.pool.acquire();
        let filled = buffer.fill(data);
        assert_eq!(filled, data.len(), "a receive brings at most one buffer");
        self.len += filled;
        self.push(Entry::Own(buffer));
    }

    pub(crate) fn append_shared(&mut self, bytes: SharedBytes) {
        self.len += (*bytes).as_ref().len();
        if !(*bytes).as_ref().is_empty() {
            self.push(Entry::Shared { bytes, consumed: 0 });
        }
    }

    /// Moves the first buffer of `from` to the end, if it is full and at most `len_max` bytes;
    /// returns how many bytes that was.
    pub(crate) fn move_full_buffer(&mut self, from: &mut Self, len_max: usize) -> Option<usize> {
        let Some(Entry::Own(buffer)) = from.entries.front() else { return None };
        let len = buffer.bytes().len();
        if !buffer.is_full() || len > len_max {
            return None;
        }
        self.push(from.pop()?);
        from.len -= len;
        self.len += len;
        Some(len)
    }

    /// Moves the first entries to `to`: at most `buffers_max`, shared ones counted too.
    pub(crate) fn move_entries(&mut self, to: &mut Self, buffers_max: usize) {
        for _ in 0..buffers_max {
            let Some(entry) = self.pop() else { return };
            let len = entry.bytes().len();
            self.len -= len;
            to.len += len;
            to.push(entry);
        }
    }

    /// Removes the first `len` bytes, and each buffer of which nothing is left.
    pub(crate) fn consume(&mut self, mut len: usize) {
        assert!(len <= self.len, "consumed more than there is");
        self.len -= len;
        while let Some(entry) = self.entries.front_mut() {
            let here = entry.bytes().len();
            if here > len {
                entry.consume(len);
                return;
            }
            len -= here;
            self.pop();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        (self.len, self.buffer_count) = (0, 0);
    }

    fn push(&mut self, entry: Entry) {
        self.buffer_count += usize::from(entry.is_own());
        self.entries.push_back(entry);
    }

    fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.buffer_count -= usize::from(entry.is_own());
        Some(entry)
    }

    /// Copies its bytes together if it holds more buffers than [`chain_buffers_max`] or `allowed`.
    pub(crate) fn merge_above(&mut self, allowed: usize) {
        let held = self.buffer_count();
        if held <= allowed && held <= chain_buffers_max(self.len, self.pool.buffer_size_bytes()) {
            return;
        }
        // Shared bytes stay where they are; runs of own ones become dense.
        let (mut entries, mut len) = (std::mem::take(&mut self.entries), 0);
        self.buffer_count = 0;
        while let Some(entry) = entries.pop_front() {
            len += entry.bytes().len();
            match entry {
                Entry::Own(buffer) => {
                    let bytes = buffer.bytes().to_vec();
                    drop(buffer);
                    self.append(&bytes);
                }
                Entry::Shared { .. } => self.push(entry),
            }
        }
        self.len = len;
    }

    /// The bytes from `at` on, as they lie in memory: to the end of one buffer.
    pub(crate) fn chunk(&self, at: usize) -> &[u8] {
        self.chunks(at).next().unwrap_or_default()
    }

    /// All bytes from `at` on, buffer by buffer.
    pub(crate) fn chunks(&self, at: usize) -> impl Iterator<Item = &[u8]> {
        let mut skip = at;
        self.entries.iter().filter_map(move |entry| {
            let bytes = entry.bytes();
            let from = skip.min(bytes.len());
            skip -= from;
            Some(&bytes[from..]).filter(|rest| !rest.is_empty())
        })
    }

    /// Copies `len` bytes from `at` on into `into`, which is emptied before.
    pub(crate) fn copy_to(&self, at: usize, len: usize, into: &mut Vec<u8>) {
        into.clear();
        for chunk in self.chunks(at) {
            let left = len - into.len();
            into.extend_from_slice(&chunk[..chunk.len().min(left)]);
            if into.len() == len {
                return;
            }
        }
    }

    /// The position of the first `needle`, counted from `at`.
    pub(crate) fn find(&self, at: usize, needle: &[u8]) -> Option<usize> {
        let first = needle.first()?;
        let mut before = 0;
        for chunk in self.chunks(at) {
            for here in
                chunk.iter().enumerate().filter_map(|(n, byte)| (byte == first).then_some(n))
            {
                let found = before + here;
                if self.starts_with(at + found, needle) {
                    return Some(found);
                }
            }
            before += chunk.len();
        }
        None
    }

    fn starts_with(&self, at: usize, mut needle: &[u8]) -> bool {
        for chunk in self.chunks(at) {
            let len = chunk.len().min(needle.len());
            if chunk[..len] != needle[..len] {
                return false;
            }
            needle = &needle[len..];
            if needle.is_empty() {
                return true;
            }
        }
        needle.is_empty()
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain")
            .field("len", &self.len)
            .field("buffers", &self.buffer_count())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumed_head_and_a_part_filled_tail_count_as_whole_buffers() {
        let pool = Pool::new(64, 4);
        let mut chain = Chain::new(&pool);
        chain.append(&[7; 130]);
        assert_eq!((chain.len(), chain.buffer_count(), chain.tail_capacity()), (130, 3, 62));
        chain.consume(63);
        assert_eq!((chain.len(), chain.buffer_count(), pool.free_count()), (67, 3, 1));
        chain.consume(1);
        assert_eq!((chain.len(), chain.buffer_count(), pool.free_count()), (66, 2, 2));
        chain.clear();
        assert_eq!(pool.free_count(), 4);
    }

    #[test]
    fn small_pieces_are_merged_before_they_pin_many_buffers() {
        let pool = Pool::new(64, 8);
        let mut chain = Chain::new(&pool);
        for n in 0..40_u8 {
            chain.append_received(&[n; 3]);
            chain.merge_above(usize::MAX);
            assert!(chain.buffer_count() <= chain_buffers_max(chain.len(), 64));
        }
        let mut all = Vec::new();
        chain.copy_to(0, chain.len(), &mut all);
        assert_eq!(all, (0..40).flat_map(|n| [n; 3]).collect::<Vec<u8>>());
        chain.merge_above(2);
        assert_eq!(chain.buffer_count(), 2);
    }

    #[test]
    fn a_needle_across_buffers_is_found() {
        let pool = Pool::new(64, 8);
        let mut chain = Chain::new(&pool);
        for piece in [&b"aab"[..], b"a", b"ab", b"c"] {
            chain.append_received(piece);
        }
        assert_eq!(chain.find(0, b"abc"), Some(4));
        assert_eq!(chain.find(2, b"aa"), Some(1));
        assert_eq!(chain.find(5, b"abc"), None);
        assert_eq!(chain.chunk(3), b"a");
    }
}
