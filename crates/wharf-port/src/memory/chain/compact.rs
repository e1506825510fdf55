//! Fewer buffers for the same bytes: for a link whose small messages each came in a buffer.

use super::{Chain, table_of};
use crate::memory::buffer::Buffer;
use crate::memory::entries::Entry;
use crate::memory::pool::BufferPool;

impl Chain {
    /// Moves the bytes of part-filled buffers forward, in place, and releases the buffers that
    /// become empty. Says how many those are.
    ///
    /// Afterwards the chain has at most one buffer more than its bytes need in buffers of `pool`'s
    /// size (or larger ones), and one more for each message with buffers on both sides: bytes keep
    /// their order, and are not moved past a message. Nothing happens if it has no more than that
    /// already.
    ///
    /// # Cost
    ///
    /// Copies each byte once at most, those of full buffers at the front not at all. Needs no free
    /// buffer or entry.
    pub fn compact(&mut self, pool: &BufferPool) -> u32 {
        let own_len = self.len - self.message_len;
        let needed = own_len.div_ceil(pool.buffer_size_bytes() as usize);
        if self.buffers as usize <= needed + 1 {
            return 0;
        }
        let before = self.buffers;
        let mut index = self.head;
        let mut entries_left = self.entries;
        while entries_left > 0 {
            let run = self.buffers_from(index, entries_left);
            let kept = if run == 0 { 1 } else { self.compact_run(index, run) };
            let last = self.behind(index, kept - 1);
            let mut next = table_of(self.pool).next(last);
            for _ in kept..run {
                let behind = table_of(self.pool).next(next);
                // SAFETY: the entry is this chain's, and `&mut self` is the only way to it
                // (INV-CHAIN-1). Below, the chain leads past it.
                drop(unsafe { table_of(self.pool).remove(next) });
                self.entries -= 1;
                self.buffers -= 1;
                next = behind;
            }
            self.tail = last;
            entries_left -= run.max(1);
            if entries_left > 0 {
                table_of(self.pool).set_next(last, next);
            }
            index = next;
        }
        before - self.buffers
    }

    /// Moves the bytes of `count` buffers, which begin at the entry `first`, as far forward as they
    /// go. Says how many of the buffers hold all of them now.
    fn compact_run(&mut self, first: u32, count: u32) -> u32 {
        let mut offset = if first == self.head { std::mem::take(&mut self.skipped) } else { 0 };
        let (mut to, mut kept) = (first, 1);
        let mut from = first;
        for _ in 0..count {
            while to != from {
                let moved = self.copy(from, offset as usize, to);
                offset += moved;
                if offset == self.buffer(from).len_u32() {
                    break;
                }
                // `to` is full. Before `from` every buffer has been copied forward.
                to = self.behind(to, 1);
                kept += 1;
                if to != from {
                    self.buffer_mut(to).set_len(0);
                }
            }
            if to == from {
                self.buffer_mut(from).remove_front(offset);
            }
            offset = 0;
            from = self.behind(from, 1);
        }
        kept
    }

    /// Appends what is behind the first `offset` bytes of one buffer to another one, as much as
    /// fits, and says how much that was.
    fn copy(&mut self, from: u32, offset: usize, to: u32) -> u32 {
        assert!(from != to, "entry {from} is copied to itself");
        let (from, to) = (table_of(self.pool).content(from), table_of(self.pool).content(to));
        // SAFETY: the entry is this chain's, and nothing changes it before the end of this call
        // (INV-CHAIN-1).
        let from = own_buffer(unsafe { &*from });
        // SAFETY: as above, and it is another entry.
        let to = own_buffer_mut(unsafe { &mut *to });
        let copied = to.append(&from[offset..]);
        #[expect(clippy::cast_possible_truncation, reason = "a buffer has at most 1 MiB")]
        {
            copied as u32
        }
    }

    /// How many of `entries_max` entries, from this one on, are buffers without a message between.
    fn buffers_from(&self, index: u32, entries_max: u32) -> u32 {
        let mut index = index;
        for count in 0..entries_max {
            if !matches!(self.entry(index), Entry::Buffer(_)) {
                return count;
            }
            index = self.behind(index, 1);
        }
        entries_max
    }

    /// The entry that many entries behind this one.
    fn behind(&self, index: u32, count: u32) -> u32 {
        (0..count).fold(index, |index, _| table_of(self.pool).next(index))
    }

    fn buffer(&self, index: u32) -> &Buffer {
        own_buffer(self.entry(index))
    }

    fn buffer_mut(&mut self, index: u32) -> &mut Buffer {
        let content = table_of(self.pool).content(index);
        // SAFETY: the entry is this chain's, and `&mut self` is the only way to it (INV-CHAIN-1).
        own_buffer_mut(unsafe { &mut *content })
    }
}

fn own_buffer(entry: &Entry) -> &Buffer {
    let Entry::Buffer(buffer) = entry else { unreachable!("{entry:?} in a run of buffers") };
    buffer
}

fn own_buffer_mut(entry: &mut Entry) -> &mut Buffer {
    let Entry::Buffer(buffer) = entry else { unreachable!("{entry:?} in a run of buffers") };
    buffer
}
