//! Moving bytes from the front of one chain to the end of another.

use super::Chain;
use super::slices::front_of;
use crate::memory::ledger::Owner;
use crate::memory::pool::{BufferPool, Entry};

impl Chain {
    /// Moves the first bytes of this chain, at most `len_max`, to the end of `to`, and returns how
    /// many. `to` gets at most `buffers_max` more buffers, counted under `owner`; messages that
    /// move do not count.
    ///
    /// - A buffer moves without a copy if all its unconsumed bytes may move and they are at least
    ///   half of its capacity, or do not fit the spare capacity of the last buffer of `to`. Bytes
    ///   of a large buffer are copied while large buffers are [scarce](super::Buffer::is_scarce):
    ///   `to` may stay queued for long.
    /// - A message moves without a copy if none of it is consumed and all of it may move.
    /// - Other bytes are copied: to the spare capacity of the last buffer of `to`, then to buffers
    ///   of `pool`.
    ///
    /// It stops before `len_max` bytes when this chain is empty, `buffers_max` is reached, or
    /// `pool` has no buffer for bytes that must be copied; then it has copied as many bytes as fit.
    ///
    /// # Panics
    ///
    /// If the entries of one of the chains are in the table of another pool than `pool`.
    ///
    /// # Cost
    ///
    /// Constant time for each buffer and message that moves without a copy. Copies less than half a
    /// buffer for each buffer of this chain, up to one buffer where the moved bytes end inside one,
    /// the rest of a partly consumed first buffer, large buffers while they are scarce, and
    /// messages that cannot move. Allocates nothing.
    pub fn move_front(
        &mut self,
        pool: &BufferPool,
        to: &mut Self,
        len_max: usize,
        owner: Owner,
        buffers_max: u32,
    ) -> usize {
        self.assert_of(pool);
        to.assert_of(pool);
        let before = self.len;
        let buffers_end = to.buffers.saturating_add(buffers_max);
        loop {
            let left = len_max - (before - self.len);
            let buffers_left = buffers_end - to.buffers;
            let whole_len = self.first_len();
            let wanted = whole_len.min(left);
            if wanted == 0 {
                break;
            }
            if wanted == whole_len && self.can_move_first(pool, to, buffers_left) {
                self.move_first(pool, to, owner);
            } else if self.copy_front(pool, to, wanted, owner, buffers_left) < wanted {
                break;
            }
        }
        before - self.len
    }

    /// Whether the first entry, whose bytes may all move, moves to the end of `to` without a copy.
    fn can_move_first(&self, pool: &BufferPool, to: &Self, buffers_left: u32) -> bool {
        let len = self.first_len();
        match self.first() {
            Some(Entry::Buffer(buffer)) => {
                let may_be_kept = !buffer.is_large(pool) || !buffer.is_scarce();
                let is_half_full = len >= buffer.capacity() as usize / 2;
                buffers_left > 0 && may_be_kept && (is_half_full || len > to.spare_capacity())
            }
            Some(Entry::Message(_)) => self.skipped == 0,
            Some(Entry::Free) | None => false,
        }
    }

    /// Moves the first entry without a copy, except of the bytes after consumed ones in a buffer. A
    /// message has no consumed bytes.
    fn move_first(&mut self, pool: &BufferPool, to: &mut Self, owner: Owner) {
        let skipped = self.skipped;
        match self.pop() {
            Some(Entry::Buffer(mut buffer)) => {
                buffer.remove_front(skipped);
                buffer.set_owner(owner);
                to.push_own(pool, buffer);
            }
            Some(Entry::Message(message)) => {
                let pushed = to.push_message(pool, message);
                assert!(pushed.is_ok(), "the entry that the message had is free");
            }
            Some(Entry::Free) | None => {}
        }
    }

    /// Copies the first `len` bytes, or as many as fit, and drops them here; returns how many.
    fn copy_front(
        &mut self,
        pool: &BufferPool,
        to: &mut Self,
        len: usize,
        owner: Owner,
        buffers_left: u32,
    ) -> usize {
        let buffers = buffers_left.min(pool.free_count()) as usize;
        let fits = to.spare_capacity().saturating_add(buffers * pool.buffer_size_bytes() as usize);
        let len = len.min(fits);
        let front = front_of(self.slices(), len);
        if to.append_slices(pool, front, len, owner, buffers_left).is_err() {
            return 0;
        }
        self.advance(len);
        len
    }
}
