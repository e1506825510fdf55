//! What a handler still owes a link: bytes that found no capacity.

use wharf::{Output, Result, SendError};

/// Bytes that wait for capacity of the link's output.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    owed: Vec<u8>,
}

impl Outbox {
    /// Sends `data` after all that is owed. A patient handler sends it in pieces of `piece` bytes if it
    /// says so, and keeps what finds no capacity until `on_writable` comes: the engine promises that it
    /// does.
    pub(crate) fn send(
        &mut self,
        out: &mut Output<'_>,
        data: &[u8],
        piece: Option<usize>,
    ) -> Result {
        let Some(piece) = piece else { return Ok(out.send(data)?) };
        let owes = !self.owed.is_empty();
        self.owed.extend_from_slice(data);
        if owes { Ok(()) } else { self.flush(out, piece) }
    }

    /// Sends what is owed, as far as there is capacity, in pieces of `piece` bytes.
    pub(crate) fn flush(&mut self, out: &mut Output<'_>, piece: usize) -> Result {
        let mut sent = 0;
        while sent < self.owed.len() {
            let rest = &self.owed[sent..];
            match out.send(&rest[..piece.min(rest.len())]) {
                Ok(()) => sent += piece.min(rest.len()),
                Err(SendError::Full) => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.owed.drain(..sent);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }
}
