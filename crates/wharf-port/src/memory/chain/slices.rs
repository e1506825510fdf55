//! The bytes of a chain, piece by piece.

use super::Chain;
use crate::memory::entries::Entry;
use crate::memory::message::Pieces;

/// The unconsumed bytes of a chain, one slice for each buffer of its own and of its messages.
#[derive(Clone)]
pub(super) struct Slices<'a> {
    chain: &'a Chain,
    /// The next entry, if any are left.
    index: u32,
    entries_left: u32,
    /// What is left of the message that was begun.
    pieces: Pieces<'a>,
}

impl<'a> Slices<'a> {
    #[inline]
    pub(super) fn new(chain: &'a Chain) -> Self {
        let (index, entries_left) = (chain.head, chain.entries);
        Self { chain, index, entries_left, pieces: Pieces::none() }
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
        let (chain, index) = (self.chain, self.index);
        let skipped = if self.entries_left == chain.entries { chain.skipped } else { 0 };
        self.entries_left -= 1;
        self.index = super::table_of(chain.pool).next(index);
        match chain.entry(index) {
            Entry::Buffer(buffer) => Some(&buffer[skipped as usize..]),
            Entry::Message(message) => {
                let from = if skipped == 0 { message.start() } else { chain.skipped_to };
                self.pieces = message.pieces(from, message.len_u32() - skipped);
                self.pieces.next()
            }
            Entry::Free => None,
        }
    }
}

/// What of `slices` is behind their first `skip` bytes.
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
