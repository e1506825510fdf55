//! Reading from a source straight into a chain's buffers.

use super::Chain;
use crate::memory::buffer::Buffer;
use crate::memory::ledger::Owner;
use crate::memory::pool::{BufferPool, Entry};
use std::io;

/// What [`Chain::append_from`] has read, and why it stopped.
///
/// If the source has neither ended nor failed, then it would block, or there was no more room for
/// its bytes.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Filled {
    /// How many bytes the chain is longer now.
    pub len: usize,
    /// Whether the source has ended: it read nothing although there was room.
    pub ended: bool,
    /// What the source failed with, after `len` bytes.
    pub error: Option<io::Error>,
}

impl Chain {
    /// Has `read` put bytes behind what is here, without a copy: into the room of the last buffer,
    /// if a buffer is last, then into buffers from `pool`, at most `buffers_max` of them, marked
    /// with `owner`; at most `len_max` bytes.
    ///
    /// `read` is called as [`io::Read::read`] would be, until it has read `len_max` bytes or there
    /// is no more room, it reads nothing, or it fails. It is called again if it was
    /// [interrupted](io::ErrorKind::Interrupted), and that it [would
    /// block](io::ErrorKind::WouldBlock) is no error. The slice it is given is never empty and
    /// shows none of the bytes that the buffer had before this call; of a number that is larger
    /// than the slice, the slice's length counts.
    ///
    /// The bytes that were read before an error, or before a panic of `read`, stay in the chain. A
    /// buffer into which nothing was read goes back to the pool.
    ///
    /// # Panics
    ///
    /// If the chain's entries are in the table of another pool than `pool`.
    ///
    /// # Cost
    ///
    /// Writes zeros to the room that `read` is shown, once; allocates nothing. One call of `read`
    /// for each buffer, if it fills them, and it may block if `read` does.
    pub fn append_from(
        &mut self,
        pool: &BufferPool,
        owner: Owner,
        buffers_max: u32,
        len_max: usize,
        read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> Filled {
        self.assert_of(pool);
        let mut filled = Filled::default();
        let mut buffers_left = buffers_max;
        // Whether the room of the last buffer, as far as `len_max` bytes reach, is zeroed.
        let mut is_zeroed = false;
        while filled.len < len_max {
            let left = len_max - filled.len;
            let result = if self.room() > 0 {
                self.read_into_last(left, !std::mem::replace(&mut is_zeroed, true), read)
            } else {
                if buffers_left == 0 {
                    break;
                }
                let Some(buffer) = pool.acquire(owner) else { break };
                buffers_left -= 1;
                is_zeroed = true;
                self.read_into(pool, buffer, left, read)
            };
            match result {
                Ok(0) => filled.ended = true,
                Ok(len) => {
                    filled.len += len;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => filled.error = Some(error),
            }
            break;
        }
        filled
    }

    /// Panics if this chain's entries are in the table of another pool. If not, a buffer of the
    /// pool that is in hand always has an entry, because the table has one for each.
    pub(super) fn assert_of(&self, pool: &BufferPool) {
        assert!(
            self.entries == 0 || self.pool == Some(pool.pointer()),
            "the chain's entries are in another pool's table"
        );
    }

    /// Reads once into the room of the last entry, which is a buffer.
    fn read_into_last(
        &mut self,
        len_max: usize,
        zero: bool,
        read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let Some(Entry::Buffer(last)) = self.last_mut() else { return Ok(0) };
        let len = last.read_from(len_max, zero, read)?;
        self.len += len;
        Ok(len)
    }

    /// Reads once into an empty buffer, and puts it behind what is here if that brought something.
    fn read_into(
        &mut self,
        pool: &BufferPool,
        mut buffer: Buffer,
        len_max: usize,
        read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let len = buffer.read_from(len_max, true, read)?;
        self.push_own(pool, buffer);
        Ok(len)
    }

    /// Puts a buffer of `pool` behind what is here; the chain is [of that pool](Self::assert_of).
    pub(super) fn push_own(&mut self, pool: &BufferPool, buffer: Buffer) {
        let pushed = self.push(pool, buffer);
        assert!(pushed.is_ok(), "the table has an entry for each buffer of its pool");
    }
}
