//! What of a link's input is unread, as a callback sees it.

use wharf_port::memory::Chain;

/// The unread bytes of a link, for the length of one callback. What is not consumed stays, and
/// the link is read on up to its credit.
///
/// Hidden: [`on_receive`](crate::Handler::on_receive) consumes all that it is given, and nothing
/// else is promised yet.
#[derive(Debug)]
pub struct Input<'a> {
    unread: &'a mut Chain,
    wanted: usize,
}

impl<'a> Input<'a> {
    pub(crate) fn new(unread: &'a mut Chain) -> Self {
        Self { unread, wanted: 0 }
    }

    /// How many bytes are unread.
    #[must_use]
    pub fn len(&self) -> usize {
        self.unread.len()
    }

    /// Whether nothing is unread.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unread.is_empty()
    }

    /// The first unread bytes that lie together; empty only if nothing is unread.
    #[must_use]
    pub fn chunk(&self) -> &[u8] {
        self.unread.front()
    }

    /// All unread bytes, in pieces.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.unread.slices()
    }

    /// Consumes the first `len` bytes.
    ///
    /// # Panics
    ///
    /// If fewer are unread.
    pub fn consume(&mut self, len: usize) {
        self.unread.advance(len);
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
