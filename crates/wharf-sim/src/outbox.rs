//! What a handler still owes a link: bytes that found no room.

use wharf::{Link, Result, SendError};

/// Bytes that wait for room in the link's queue.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    owed: Vec<u8>,
}

impl Outbox {
    /// Sends `data` after all that is owed. A patient handler sends it in pieces of `piece` bytes if it
    /// says so, and keeps what finds no room until `on_sent` comes: the engine promises that it does.
    pub(crate) fn send<S>(
        link: &mut Link<'_, S>,
        data: &[u8],
        piece: Option<usize>,
        outbox: impl Fn(&mut S) -> &mut Self,
    ) -> Result {
        let Some(piece) = piece else { return Ok(link.send(data)?) };
        let owes = !outbox(link.state()).owed.is_empty();
        outbox(link.state()).owed.extend_from_slice(data);
        if owes { Ok(()) } else { Self::flush(link, piece, outbox) }
    }

    /// Sends what is owed, as far as there is room, in pieces of `piece` bytes.
    pub(crate) fn flush<S>(
        link: &mut Link<'_, S>,
        piece: usize,
        outbox: impl Fn(&mut S) -> &mut Self,
    ) -> Result {
        let owed = std::mem::take(&mut outbox(link.state()).owed);
        let mut rest = owed.as_slice();
        while !rest.is_empty() {
            let (first, after) = rest.split_at(piece.min(rest.len()));
            match link.send(first) {
                Ok(()) => rest = after,
                Err(SendError::QueueFull | SendError::NoBuffers) => break,
                Err(error) => return Err(error.into()),
            }
        }
        outbox(link.state()).owed.extend_from_slice(rest);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }
}
