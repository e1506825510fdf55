//! What of a link's input is unread, as a callback sees it.

use wharf_port::memory::Chain;

/// The unread bytes of a link, for the length of one callback. What is not consumed stays, and
/// the link is read on up to its credit.
///
/// Hidden: [`on_receive`](crate::Handler::on_receive) consumes all that it is given, and nothing
/// else is promised yet.
#[derive(Debug)]
pub struct Input<'a> {
    unread: Unread<'a>,
    wanted: usize,
}

#[derive(Debug)]
enum Unread<'a> {
    /// A buffer that has just come, behind nothing: most of them are consumed at once, and never
    /// become a part of a chain.
    Fresh(&'a [u8]),
    Kept(&'a mut Chain),
}

impl<'a> Input<'a> {
    pub(crate) fn fresh(bytes: &'a [u8]) -> Self {
        Self { unread: Unread::Fresh(bytes), wanted: 0 }
    }

    pub(crate) fn kept(unread: &'a mut Chain) -> Self {
        Self { unread: Unread::Kept(unread), wanted: 0 }
    }

    /// How many bytes are unread.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.unread {
            Unread::Fresh(bytes) => bytes.len(),
            Unread::Kept(chain) => chain.len(),
        }
    }

    /// Whether nothing is unread.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first unread bytes that lie together; empty only if nothing is unread.
    #[must_use]
    pub fn chunk(&self) -> &[u8] {
        match &self.unread {
            Unread::Fresh(bytes) => bytes,
            Unread::Kept(chain) => chain.front(),
        }
    }

    /// All unread bytes, in pieces.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let (fresh, kept) = match &self.unread {
            Unread::Fresh(bytes) => (Some(*bytes), None),
            Unread::Kept(chain) => (None, Some(chain.slices())),
        };
        fresh.into_iter().chain(kept.into_iter().flatten())
    }

    /// Consumes the first `len` bytes.
    ///
    /// # Panics
    ///
    /// If fewer are unread.
    pub fn consume(&mut self, len: usize) {
        match &mut self.unread {
            Unread::Fresh(bytes) => *bytes = &bytes[len..],
            Unread::Kept(chain) => chain.advance(len),
        }
    }

    /// Says that the next call is of use only when this many bytes are unread, from the first one
    /// that is unread now.
    pub fn want(&mut self, len: usize) {
        self.wanted = len;
    }

    pub(crate) fn wanted(&self) -> usize {
        self.wanted
    }
}
