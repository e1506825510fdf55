//! A message that grows until it is finished.

use super::{Message, NoRoom, Run};
use std::fmt;

/// A message that is being written, by one thread at a time; nobody can read it yet.
///
/// It takes a buffer when the bytes reach it, so the length need not be known before: for formatted
/// text, or an answer of several parts. It can go to another thread between two writes. Dropping it
/// releases its buffers.
///
/// # Examples
///
/// ```
/// use std::fmt::Write;
/// use wharf_port::memory::{MessagePool, MessagePoolConfig};
///
/// let pool = MessagePool::new(MessagePoolConfig::new(8))?;
/// let mut builder = pool.builder()?;
/// builder.write(b"length: ")?;
/// write!(builder, "{}\r\n", 17)?;
/// let message = builder.finish();
/// assert_eq!(message.slices().next(), Some(&b"length: 17\r\n"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MessageBuilder {
    /// The only handle; shows `len` bytes. Its header is kept up to date, so that dropping it
    /// releases whatever the builder has.
    pub(super) message: Message,
    /// The message's buffers. All but the last are full.
    pub(super) run: Run,
    /// Bytes in the last one.
    pub(super) last_len: u32,
}

impl MessageBuilder {
    /// Copies `data` behind what was written: into the room of the last buffer, then into as many
    /// buffers more as it needs.
    ///
    /// # Errors
    ///
    /// [`NoRoom`] if too few buffers are free, or the message would be 4 GiB long or longer; then
    /// nothing of `data` was written, and what was before stays.
    ///
    /// # Cost
    ///
    /// Copies `data.len()` bytes; a few locked instructions if it takes buffers; allocates nothing.
    pub fn write(&mut self, data: &[u8]) -> Result<(), NoRoom> {
        let added = u32::try_from(data.len()).map_err(|_| NoRoom)?;
        let len = self.message.len.checked_add(added).ok_or(NoRoom)?;
        let inner = self.message.inner();
        let size_bytes = inner.slots.size_bytes();
        let room = size_bytes - self.last_len;
        let (here, rest) = data.split_at(data.len().min(room as usize));
        // First what can fail.
        let more = match (added - added.min(room)).div_ceil(size_bytes) {
            0 => None,
            needed => Some(inner.free.acquire(needed).ok_or(NoRoom)?),
        };
        // SAFETY: the buffer is this builder's message's (INV-MESSAGE-1), whose only handle is in
        // `self`, which is borrowed uniquely (INV-MESSAGE-2); `here` fits its room.
        unsafe { inner.write(self.run.last, self.last_len, here) };
        #[expect(clippy::cast_possible_truncation, reason = "at most `room`, which is a u32")]
        {
            self.last_len += here.len() as u32;
        }
        if let Some(more) = more {
            let mut index = more.first;
            for piece in rest.chunks(size_bytes as usize) {
                // SAFETY: the buffer was just acquired, so no message has it (INV-MESSAGE-1), and
                // the piece is no longer than a buffer.
                unsafe { inner.write(index, 0, piece) };
                index = inner.free.behind(index);
                #[expect(clippy::cast_possible_truncation, reason = "at most a buffer's size")]
                {
                    self.last_len = piece.len() as u32;
                }
            }
            self.run = inner.free.join(self.run, more);
            self.message.header().set_run(self.run);
        }
        self.message.len = len;
        Ok(())
    }

    /// How many bytes were written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.message.len()
    }

    /// Whether no byte was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.message.is_empty()
    }

    /// The message, with what was written. One without a byte has a buffer all the same.
    #[must_use]
    pub fn finish(self) -> Message {
        self.message
    }
}

/// Writes formatted text. When that fails, the pieces of the text before the one that had no room
/// stay written.
impl fmt::Write for MessageBuilder {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes()).map_err(|NoRoom| fmt::Error)
    }
}

impl fmt::Debug for MessageBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageBuilder").field("message", &self.message).finish()
    }
}
