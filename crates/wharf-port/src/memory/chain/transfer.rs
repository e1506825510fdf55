//! Moving bytes from the front of one chain to the end of another.

use super::Chain;
use super::slices::front_of;
use crate::memory::ledger::Owner;
use crate::memory::pool::{BufferPool, Entry};

impl Chain {
    /// Moves the first bytes of this chain behind what is in `to`, at most `len_max` of them, and
    /// says how many. At most `buffers_max` buffers more are in `to` afterwards, marked with
    /// `owner`; messages that move are not counted among them.
    ///
    /// - A buffer of which half is filled with bytes that are left, and all of these may move,
    ///   moves itself. So does one with fewer bytes, unless `to` ends with a buffer that has room
    ///   for all of them; then they are copied there. So are those of a large buffer while such are
    ///   scarce: what is queued may stay for long.
    /// - A message moves itself if all of it is left and may move.
    /// - The bytes are copied where only a part of a buffer or of a message may move, where the
    ///   first message was partly [consumed](Self::advance), and where `buffers_max` is reached:
    ///   into the room of the last buffer of `to`, then into buffers from `pool`.
    ///
    /// It stops before `len_max` bytes when this chain is empty, `buffers_max` is reached, or
    /// `pool` has no buffer for bytes that are to be copied; then it has moved all that was
    /// possible in this order, and copied as much as fits.
    ///
    /// # Panics
    ///
    /// If the entries of one of the chains are in the table of another pool than `pool`.
    ///
    /// # Cost
    ///
    /// A few instructions for each buffer and message that moves itself, and a copy of the bytes
    /// that do not: less than half a buffer for each buffer of this chain, less than one more where
    /// it ends inside one and where the first was partly consumed, and the bytes of messages that
    /// cannot move themselves. Allocates nothing.
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

    /// Whether the first entry, all of whose bytes may move, is to move itself to the end of `to`.
    fn can_move_first(&self, pool: &BufferPool, to: &Self, buffers_left: u32) -> bool {
        let len = self.first_len();
        match self.first() {
            Some(Entry::Buffer(buffer)) => {
                let may_be_kept = !buffer.is_large(pool) || !buffer.is_scarce();
                let is_half_full = len >= buffer.capacity() as usize / 2;
                buffers_left > 0 && may_be_kept && (is_half_full || len > to.room())
            }
            Some(Entry::Message(_)) => self.skipped == 0,
            Some(Entry::Free) | None => false,
        }
    }

    /// Moves the first entry, with what of it is left; if it is a message, that is all.
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

    /// Moves the first `len` bytes by a copy, or fewer if there is no room for more, and says how
    /// many.
    fn copy_front(
        &mut self,
        pool: &BufferPool,
        to: &mut Self,
        len: usize,
        owner: Owner,
        buffers_left: u32,
    ) -> usize {
        let buffers = buffers_left.min(pool.free()) as usize;
        let fits = to.room().saturating_add(buffers * pool.buffer_size_bytes() as usize);
        let len = len.min(fits);
        let front = front_of(self.slices(), len);
        if to.append_slices(pool, front, len, owner, buffers_left).is_err() {
            return 0;
        }
        self.advance(len);
        len
    }
}
