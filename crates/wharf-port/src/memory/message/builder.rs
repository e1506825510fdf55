//! A message that is written in parts.

use super::{Message, NoBuffers, Run};
use std::fmt;

/// A message that is being written, by one thread at a time.
///
/// It takes further buffers as bytes are written, so the length need not be known in advance: for
/// formatted text, or a reply of several parts. It can move to another thread between two writes.
/// Dropping it releases its buffers.
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
    /// The only handle; shows `len` bytes. Each write updates its header, so that dropping it
    /// releases all buffers of the builder.
    pub(super) message: Message,
    /// The message's buffers. All but the last are full.
    pub(super) run: Run,
    /// Bytes in the last one.
    pub(super) last_len: u32,
}

impl MessageBuilder {
    /// Appends a copy of `data`: to the last buffer's spare capacity, then to further buffers.
    ///
    /// # Errors
    ///
    /// [`NoBuffers`] if too few buffers are free, or the message would have 4 GiB or more; then the
    /// message is unchanged.
    ///
    /// # Cost
    ///
    /// Copies `data.len()` bytes; two locked instructions if it takes buffers; allocates nothing.
    pub fn write(&mut self, data: &[u8]) -> Result<(), NoBuffers> {
        let added = u32::try_from(data.len()).map_err(|_| NoBuffers)?;
        let len = self.message.len.checked_add(added).ok_or(NoBuffers)?;
        let inner = self.message.inner();
        let size_bytes = inner.slots.size_bytes();
        let spare = size_bytes - self.last_len;
        let (here, rest) = data.split_at(data.len().min(spare as usize));
        // First the step that can fail.
        let more = match (added - added.min(spare)).div_ceil(size_bytes) {
            0 => None,
            needed => Some(inner.free.acquire(needed).ok_or(NoBuffers)?),
        };
        // SAFETY: the buffer is this builder's message's (INV-MESSAGE-1), whose only handle is in
        // `self`, which is borrowed uniquely (INV-MESSAGE-2); `here` fits its spare capacity.
        unsafe { inner.write(self.run.last, self.last_len, here) };
        #[expect(clippy::cast_possible_truncation, reason = "at most `spare`, which is a u32")]
        {
            self.last_len += here.len() as u32;
        }
        if let Some(more) = more {
            let mut index = more.first;
            for piece in rest.chunks(size_bytes as usize) {
                // SAFETY: the buffer was just acquired, so no message has it (INV-MESSAGE-1), and
                // the piece is not longer than a buffer.
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

    /// Bytes written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.message.len()
    }

    /// Whether no bytes were written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.message.is_empty()
    }

    /// The message. An empty message has one buffer, too.
    #[must_use]
    pub fn finish(self) -> Message {
        self.message
    }
}

/// Writes formatted text. On an error the parts of the text that were written before it remain.
impl fmt::Write for MessageBuilder {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes()).map_err(|NoBuffers| fmt::Error)
    }
}

impl fmt::Debug for MessageBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageBuilder").field("message", &self.message).finish()
    }
}
