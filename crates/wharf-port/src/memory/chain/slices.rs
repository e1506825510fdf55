//! Iterators over the bytes of a chain.

use super::Chain;
use crate::memory::message::{Message, Pieces, Position};
use crate::memory::pool::Entry;

/// The unconsumed bytes of a chain, or those from a position on, one slice for each buffer of the
/// chain and of its messages.
#[derive(Clone)]
pub(super) struct Slices<'a> {
    chain: &'a Chain,
    /// The next entry, if `entries_left` > 0.
    index: u32,
    entries_left: u32,
    /// Bytes of the next entry that are skipped.
    skipped: u32,
    /// The position after them, if the next entry is a message and `skipped` > 0.
    skipped_to: Position,
    /// The remaining slices of the current message.
    pieces: Pieces<'a>,
}

impl<'a> Slices<'a> {
    #[inline]
    pub(super) fn new(chain: &'a Chain) -> Self {
        Self {
            chain,
            index: chain.head,
            entries_left: chain.entries,
            skipped: chain.skipped,
            skipped_to: chain.skipped_to,
            pieces: Pieces::none(),
        }
    }

    /// Skips the first `len` bytes. `next` was not called yet.
    pub(super) fn behind(mut self, len: usize) -> Self {
        if len >= self.chain.len {
            self.entries_left = 0;
            return self;
        }
        let mut len = len;
        loop {
            let entry = self.chain.entry(self.index);
            let left = entry.len() - self.skipped as usize;
            if len < left {
                self.skip_in(entry, len);
                return self;
            }
            len -= left;
            self.pass();
        }
    }

    /// Skips `len` bytes of `entry`, which is the next one and longer.
    fn skip_in(&mut self, entry: &Entry, len: usize) {
        if len == 0 {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "an entry has less than 4 GiB")]
        let by = len as u32;
        if let Entry::Message(message) = entry {
            self.skipped_to = message.position_behind(self.next_start(message), by);
        }
        self.skipped += by;
    }

    /// Skips the next entry.
    #[inline]
    fn pass(&mut self) {
        self.entries_left -= 1;
        self.index = super::table_of(self.chain.pool).next(self.index);
        self.skipped = 0;
    }

    /// The position of the first byte that is not skipped in the next entry, which is `message`.
    #[inline]
    fn next_start(&self, message: &Message) -> Position {
        if self.skipped == 0 { message.start() } else { self.skipped_to }
    }
}

impl<'a> Iterator for Slices<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if let Some(piece) = self.pieces.next() {
            return Some(piece);
        }
        if self.entries_left == 0 {
            return None;
        }
        let (entry, skipped) = (self.chain.entry(self.index), self.skipped);
        match entry {
            Entry::Buffer(buffer) => {
                self.pass();
                Some(&buffer[skipped as usize..])
            }
            Entry::Message(message) => {
                let from = self.next_start(message);
                self.pass();
                self.pieces = message.pieces(from, message.len_u32() - skipped);
                self.pieces.next()
            }
            Entry::Free => None,
        }
    }
}

/// `slices` without their first `skip` bytes.
#[inline]
pub(super) fn behind<'d>(
    slices: impl Iterator<Item = &'d [u8]>,
    skip: usize,
) -> impl Iterator<Item = &'d [u8]> {
    let mut skip = skip;
    slices.map(move |slice| {
        let skipped = skip.min(slice.len());
        skip -= skipped;
        &slice[skipped..]
    })
}

/// The first `len` bytes of `slices`.
#[inline]
pub(super) fn front_of<'d>(
    slices: impl Iterator<Item = &'d [u8]> + Clone,
    len: usize,
) -> impl Iterator<Item = &'d [u8]> + Clone {
    let mut left = len;
    slices.map_while(move |slice| {
        let shown = left.min(slice.len());
        left -= shown;
        (shown > 0).then(|| &slice[..shown])
    })
}
