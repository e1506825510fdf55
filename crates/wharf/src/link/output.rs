//! A link's output, as a callback sees it: queue bytes, ask for the capacity.

use crate::link::core::ShardState;
use crate::link::queue::Writer;
use crate::link::unread::Unread;
use crate::shared::payload::Payload;
use crate::shared::reply::Reply;
use crate::vocabulary::error::{Error, Result, SendError};
use crate::vocabulary::policy::WhenSlow;
use std::fmt;
use std::io::{self, Read, Write};

/// A view of a link's send queue during one callback.
///
/// What is queued is sent in order, at the end of the worker's turn. Nothing here blocks, allocates or
/// makes a system call. After a reset by the peer `send` succeeds and discards the bytes, so that the
/// handler can handle the input that arrived before.
pub struct Output<'a> {
    pub(crate) core: &'a mut ShardState,
    pub(crate) index: u32,
}

impl Output<'_> {
    /// Queues all of `payload`, or nothing. An empty payload succeeds.
    ///
    /// `Ok` means that the bytes are queued, not that the peer has received them.
    ///
    /// # Errors
    ///
    /// - [`SendError::Full`]: the [`spare_capacity`](Self::spare_capacity) is less than its length now.
    /// - [`SendError::TooLarge`]: it is longer than the output limit, or its body does not fit its
    ///   frame.
    /// - [`SendError::Closed`]: the link is closing, or the output is finished.
    ///
    /// # Panics
    ///
    /// If a `Display` in the payload returns an error, as `format!` does. Nothing of it is queued then.
    ///
    /// # Cost
    ///
    /// One copy of the bytes. A [`Message`](crate::Message) takes one entry without a copy; it is
    /// copied if the link shares four unsent messages already, or the entries are used up.
    #[inline]
    pub fn send(&mut self, payload: impl Payload) -> Result<(), SendError> {
        match payload.piece() {
            Some(piece) => self.core.queue(self.index, piece),
            None => self.core.queue_payload(self.index, &payload),
        }
    }

    /// `write!(link.out, …)` calls this. Queues all of the text or nothing, as [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> Result<(), SendError> {
        self.send(text)
    }

    /// Queues all that `write` writes, or, if it fails, nothing: `out.build(|w|
    /// serde_json::to_writer(w, &x))?`.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), if the written bytes exceed the capacity; else the error of `write`.
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

    /// Queues the first bytes of `data`, within the [`spare_capacity`](Self::spare_capacity), and
    /// returns how many. If these are not all, [`on_writable`](crate::Handler::on_writable) will be
    /// called.
    pub fn send_some(&mut self, data: &[u8]) -> usize {
        let len = data.len().min(self.spare_capacity());
        // `len` is within the spare capacity, so `queue` fails only on a closed output.
        let queued = if self.core.queue(self.index, &data[..len]).is_ok() { len } else { 0 };
        if queued < data.len() {
            self.core.request_writable(self.index, 0);
        }
        queued
    }

    /// Reads from `source` into the buffers of the queue: at most `max` bytes, within the
    /// [`spare_capacity`](Self::spare_capacity). If the capacity ends the read,
    /// [`on_writable`](crate::Handler::on_writable) will be called.
    ///
    /// # Errors
    ///
    /// Those of `source`; what was read before is queued.
    pub fn read_from(&mut self, mut source: impl Read, max: u64) -> io::Result<Copied> {
        self.core.queue_from(self.index, max, &mut |into| source.read(into))
    }

    /// Bytes that can be queued now. They stay available until the callback returns, less what it
    /// queues itself.
    #[must_use]
    pub fn spare_capacity(&self) -> usize {
        self.core.spare_capacity(self.index)
    }

    /// Whether the output is not above its high-water mark and has the grant, as at the begin of each
    /// `on_receive`. Check it before each further message that one call takes.
    #[must_use]
    pub fn has_grant(&self) -> bool {
        self.core.has_capacity(self.index)
    }

    /// Whether `bytes` can be queued now, as [`Input::take`](crate::Input::take) for the output. If
    /// not, `on_writable` is called when they can, then `on_receive` for what was left or rewound, and
    /// until then posts leave that much free.
    ///
    /// # Errors
    ///
    /// [`SendError::TooLarge`] if `bytes` exceed the output limit; [`SendError::Closed`] as for
    /// [`send`](Self::send).
    pub fn ensure(&mut self, bytes: usize) -> Result<bool, SendError> {
        self.core.ensure(self.index, bytes)
    }

    /// Asks for one call of [`on_writable`](crate::Handler::on_writable), after this callback if the
    /// output has the grant: for a handler that streams without input.
    pub fn notify(&mut self) {
        self.core.request_writable(self.index, 0);
    }

    /// Bytes that are queued or in flight.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.core.slots[self.index].unsent_bytes()
    }

    /// Ends the server's stream: when all that is queued and deferred is sent, the sending side is shut
    /// down. A later `send` fails with [`SendError::Closed`].
    pub fn finish(&mut self) {
        self.core.finish(self.index);
    }

    /// Sets the output limit: at most [`Builder::output_bytes`](crate::Builder::output_bytes), the
    /// default, and at least two grants; other values are clamped. Returns the value that is set.
    pub fn set_limit_bytes(&mut self, bytes: usize) -> usize {
        self.core.set_limit(self.index, bytes)
    }

    /// Sets what the server does with posts that exceed the capacity; it never drops what the link's
    /// own handler has queued for them. Default: [`Builder::when_slow`](crate::Builder::when_slow).
    pub fn set_when_slow(&mut self, policy: WhenSlow) {
        self.core.slots[self.index].posts.when_slow = policy;
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

/// As [`Output::send_some`]; [`WouldBlock`](io::ErrorKind::WouldBlock) if there is no capacity.
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

/// The result of [`Output::read_from`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the two answers of a copy")]
pub struct Copied {
    /// Bytes that were queued.
    pub bytes: u64,
    /// Whether the source is at its end. If not, `max` is reached, the output is full, or the source
    /// would block.
    pub ended: bool,
}
