//! Bytes that a handler could not queue, because the output lacked capacity.

use wharf::{Output, Result, SendError};

/// Bytes that wait for spare capacity of the link's output.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: Vec<u8>,
}

impl Outbox {
    /// Sends `data` after the bytes that wait. With `piece` it sends pieces of so many bytes, and keeps
    /// the rest if the output is full: the engine then calls `on_writable`.
    pub(crate) fn send(
        &mut self,
        out: &mut Output<'_>,
        data: &[u8],
        piece: Option<usize>,
    ) -> Result {
        let Some(piece) = piece else { return Ok(out.send(data)?) };
        let has_waiting = !self.waiting.is_empty();
        self.waiting.extend_from_slice(data);
        if has_waiting { Ok(()) } else { self.flush(out, piece) }
    }

    /// Sends the bytes that wait, as far as there is capacity, in pieces of `piece` bytes.
    pub(crate) fn flush(&mut self, out: &mut Output<'_>, piece: usize) -> Result {
        let mut sent = 0;
        while sent < self.waiting.len() {
            let rest = &self.waiting[sent..];
            match out.send(&rest[..piece.min(rest.len())]) {
                Ok(()) => sent += piece.min(rest.len()),
                Err(SendError::Full) => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.waiting.drain(..sent);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
