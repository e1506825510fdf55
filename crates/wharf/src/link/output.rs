//! What is to be sent, and how much more may be queued, as a callback sees it.

use crate::link::core::Core;
use crate::link::queue::Writer;
use crate::link::unread::Unread;
use crate::shared::payload::Payload;
use crate::shared::reply::Reply;
use crate::vocabulary::error::{Error, Result, SendError};
use crate::vocabulary::policy::WhenSlow;
use std::fmt;
use std::io::{self, Read, Write};

/// A link's send queue. A view, for one callback.
///
/// What is queued leaves after the callback, in order, in one system call with what others queued.
/// Nothing here blocks, allocates or makes a system call. After a reset by the peer it takes what is
/// sent and discards it, so that what came before is handled.
pub struct Output<'a> {
    pub(crate) core: &'a mut Core,
    pub(crate) index: u32,
}

impl Output<'_> {
    /// Queues all of `payload`, or nothing. An empty one queues nothing and succeeds.
    ///
    /// `Ok` means *queued here*, not *received there*.
    ///
    /// # Errors
    ///
    /// - [`SendError::Full`]: the [`spare_capacity`](Self::spare_capacity) is less than that now.
    /// - [`SendError::TooLarge`]: it always is.
    /// - [`SendError::Closed`]: the link is closing, or the output is finished.
    ///
    /// # Panics
    ///
    /// If a `Display` in it returns an error, as `format!` does. Nothing of it is queued then.
    ///
    /// # Cost
    ///
    /// A copy of the bytes; of a [`Message`](crate::Message), one entry, whatever its length.
    #[inline]
    pub fn send(&mut self, payload: impl Payload) -> Result<(), SendError> {
        match payload.piece() {
            Some(piece) => self.core.queue(self.index, piece),
            None => self.core.queue_payload(self.index, &payload),
        }
    }

    /// What `write!(link.out, …)` calls: all of the text, or nothing, as [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> Result<(), SendError> {
        self.send(text)
    }

    /// Queues all that `write` writes, or nothing: `out.build(|w| serde_json::to_writer(w, &x))?`.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), if what was written found no capacity; else the error of `write`.
    pub fn build<E: Into<Error>>(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result {
        let mut writer = Writer::new(self.core, self.index)?;
        let written = write(&mut writer);
        let is_over = writer.is_over();
        if written.is_err() && !is_over {
            writer.discard();
            return written.map_err(Into::into);
        }
        Ok(writer.finish()?)
    }

    /// Queues as much of `data` as there is capacity for, and returns how many bytes. If that is not
    /// all, [`on_writable`](crate::Handler::on_writable) will be called.
    pub fn send_some(&mut self, data: &[u8]) -> usize {
        let len = data.len().min(self.spare_capacity());
        // What is spare can be queued.
        let queued = if self.core.queue(self.index, &data[..len]).is_ok() { len } else { 0 };
        if queued < data.len() {
            self.core.owe_writable(self.index, 0);
        }
        queued
    }

    /// Reads from `source` straight into buffers: at most `max` bytes, and as much as there is
    /// capacity for. If the capacity was used up before the source,
    /// [`on_writable`](crate::Handler::on_writable) will be called.
    ///
    /// # Errors
    ///
    /// Those of `source`; what came before is queued.
    pub fn read_from(&mut self, mut source: impl Read, max: u64) -> io::Result<Copied> {
        self.core.queue_from(self.index, max, &mut |into| source.read(into))
    }

    /// How many bytes may be queued now. They are promised until the callback returns: the limit is
    /// not passed, and the buffers are there.
    #[must_use]
    pub fn spare_capacity(&self) -> usize {
        self.core.spare_capacity(self.index)
    }

    /// Whether the output is not above its high-water mark and has the grant, with which each
    /// `on_receive` begins. To be asked before each further message that one call takes.
    #[must_use]
    pub fn has_grant(&self) -> bool {
        self.core.has_room(self.index)
    }

    /// The twin of [`Input::take`](crate::Input::take): whether `bytes` may be queued now. If not, the
    /// callback is called again when they may (`on_receive` for what was left or rewound, `on_writable`
    /// else), and until then posts leave that much free.
    ///
    /// # Errors
    ///
    /// [`SendError::TooLarge`] if the output can never hold so many; [`SendError::Closed`].
    pub fn ensure(&mut self, bytes: usize) -> Result<bool, SendError> {
        self.core.ensure(self.index, bytes)
    }

    /// Asks for one [`on_writable`](crate::Handler::on_writable), at once if there is a grant: for a
    /// stream that goes on by itself.
    pub fn notify(&mut self) {
        self.core.owe_writable(self.index, 0);
    }

    /// Bytes that are queued or in flight.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.core.slots[self.index].backlog()
    }

    /// Ends this half: when all that is queued and deferred is sent, the peer sees the end of the stream.
    /// More is [`SendError::Closed`].
    pub fn finish(&mut self) {
        self.core.finish(self.index);
    }

    /// Sets the most that may be queued: at most [`Builder::output_bytes`](crate::Builder::output_bytes),
    /// the default, and at least two grants; other values are raised or lowered to that. Returns what
    /// is set.
    pub fn set_limit_bytes(&mut self, bytes: usize) -> usize {
        self.core.set_limit(self.index, bytes)
    }

    /// What happens to posts that find no capacity. What the link's own handler sends is never
    /// dropped. Default: [`Builder::when_slow`](crate::Builder::when_slow).
    pub fn set_when_slow(&mut self, policy: WhenSlow) {
        self.core.slots[self.index].when_slow = policy;
        let disconnects = policy == WhenSlow::Disconnect;
        self.core.quotas().set_disconnects(self.index, disconnects);
    }

    pub(crate) fn defer(&mut self, max: usize) -> Result<Reply, SendError> {
        self.core.defer(self.index, max)
    }

    pub(crate) fn forward(&mut self, unread: &mut Unread, max: usize) -> usize {
        self.core.forward(self.index, unread, max)
    }

    pub(crate) fn reborrow(&mut self) -> Output<'_> {
        Output { core: self.core, index: self.index }
    }
}

/// Takes what there is capacity for; [`WouldBlock`](io::ErrorKind::WouldBlock) if that is nothing.
impl Write for Output<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self.send_some(data) {
            0 if !data.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Output<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("unsent_bytes", &self.unsent_bytes()).finish_non_exhaustive()
    }
}

/// What [`Output::read_from`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the two answers of a copy")]
pub struct Copied {
    /// Bytes that were queued.
    pub bytes: u64,
    /// Whether the source is at its end. Otherwise `max` is reached, the output is full, or the source
    /// would block.
    pub ended: bool,
}
