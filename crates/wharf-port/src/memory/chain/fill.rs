//! Reading from a source into a chain's buffers, without a copy.

use super::Chain;
use crate::memory::buffer::Buffer;
use crate::memory::ledger::Owner;
use crate::memory::pool::{BufferPool, Entry};
use std::io;

/// What [`Chain::append_from`] has read, and why it stopped.
///
/// If the source neither ended nor failed, then it would block, or `len_max`, `buffers_max` or the
/// pool's free buffers were used up.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Filled {
    /// Bytes that were appended.
    pub len: usize,
    /// Whether the source has ended: it read 0 bytes into a slice that was not empty.
    pub ended: bool,
    /// The source's error, after `len` bytes.
    pub error: Option<io::Error>,
}

impl Chain {
    /// Lets `read` append at most `len_max` bytes, without a copy: to the last entry's spare
    /// capacity, if that is a buffer, then to at most `buffers_max` buffers of `pool`, counted
    /// under `owner`.
    ///
    /// It calls `read` as [`io::Read::read`], until `len_max` bytes are read, no buffer is left,
    /// `read` returns 0, or `read` fails. It calls `read` again on
    /// [`Interrupted`](io::ErrorKind::Interrupted); [`WouldBlock`](io::ErrorKind::WouldBlock) is
    /// not an error. The slice is never empty and has none of the bytes that the buffer had before
    /// this call; a result greater than the slice's length counts as that length.
    ///
    /// Bytes that were read before an error or a panic of `read` stay in the chain. A buffer into
    /// which nothing was read is released.
    ///
    /// # Panics
    ///
    /// If the chain's entries are in the table of another pool than `pool`.
    ///
    /// # Cost
    ///
    /// Zeroes the spare capacity that `read` is given, once; allocates nothing. One call of `read`
    /// for each buffer, if it fills them. It blocks if `read` does.
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
        // Whether the last buffer's spare capacity is zeroed, up to `len_max` bytes.
        let mut is_zeroed = false;
        while filled.len < len_max {
            let left = len_max - filled.len;
            let result = if self.spare_capacity() > 0 {
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

    /// Panics if this chain's entries are in the table of another pool. If they are in that of
    /// `pool`, an entry is free for each acquired buffer of `pool`, because the table has one for
    /// each.
    pub(super) fn assert_of(&self, pool: &BufferPool) {
        assert!(self.is_of(pool), "the chain's entries are in another pool's table");
    }

    /// Whether the chain's entries, if it has any, are in the table of `pool`.
    pub(crate) fn is_of(&self, pool: &BufferPool) -> bool {
        self.entries == 0 || self.pool == Some(pool.pointer())
    }

    /// Reads once into the spare capacity of the last entry, which is a buffer.
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

    /// Reads once into an empty buffer, and appends the buffer if it has bytes then.
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

    /// Appends a buffer of `pool`; the chain's entries are [of that pool](Self::assert_of).
    pub(super) fn push_own(&mut self, pool: &BufferPool, buffer: Buffer) {
        let pushed = self.push(pool, buffer);
        assert!(pushed.is_ok(), "the table has an entry for each buffer of its pool");
    }
}
