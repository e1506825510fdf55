//! A link's unread bytes, in the buffers into which they were received.

use wharf_port::memory::{Buffer, BufferPool, Chain, Owner};

/// The unread bytes of a link during a callback.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    /// A received buffer, if nothing was unread before it; then the chain is empty. Most of these
    /// buffers are consumed in one callback and need no chain.
    fresh: Option<Buffer>,
    /// Consumed bytes of `fresh`.
    skipped: usize,
    chain: Chain,
    /// Bytes of the link's stream before the unread ones; wraps.
    before: u32,
}

impl Unread {
    /// Of a received buffer behind nothing unread.
    pub(crate) fn fresh(buffer: Buffer, before: u32) -> Self {
        Self { fresh: Some(buffer), before, ..Self::default() }
    }

    /// Of input that was kept.
    pub(crate) fn kept(chain: Chain, before: u32) -> Self {
        Self { chain, before, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.fresh.as_ref().map_or(self.chain.len(), |buffer| buffer.len() - self.skipped)
    }

    /// Number of buffers.
    pub(crate) fn buffers(&self) -> u32 {
        u32::from(self.fresh.is_some()) + self.chain.buffers()
    }

    /// The position in the link's stream of the byte at `at`; wraps.
    #[expect(clippy::cast_possible_truncation, reason = "counts wrap")]
    pub(crate) fn position(&self, at: usize) -> u32 {
        self.before.wrapping_add(at as u32)
    }

    /// The bytes from `at` on, one slice for each buffer.
    pub(crate) fn slices_from(&self, at: usize) -> impl Iterator<Item = &[u8]> {
        let fresh = self.fresh.as_ref().and_then(|buffer| buffer.get(self.skipped + at..));
        let fresh = fresh.filter(|slice| !slice.is_empty());
        fresh.into_iter().chain(self.chain.slices_from(at))
    }

    /// The bytes from `at` to the end of their buffer; empty if there are none.
    #[inline]
    pub(crate) fn front(&self, at: usize) -> &[u8] {
        match &self.fresh {
            Some(buffer) => buffer.get(self.skipped + at..).unwrap_or_default(),
            None if at == 0 => self.chain.front(),
            None => self.chain.slices_from(at).next().unwrap_or_default(),
        }
    }

    /// `len` bytes from `at` on in one slice; if they lie in several buffers, a copy in `scratch`.
    pub(crate) fn slice<'a>(&'a self, at: usize, len: usize, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        if let Some(slice) = self.front(at).get(..len) {
            return slice;
        }
        scratch.clear();
        for slice in self.slices_from(at) {
            scratch.extend_from_slice(&slice[..slice.len().min(len - scratch.len())]);
            if scratch.len() == len {
                break;
            }
        }
        scratch
    }

    /// Drops the first `len` bytes.
    pub(crate) fn consume(&mut self, len: usize) {
        self.note_gone(len);
        match &self.fresh {
            Some(buffer) if self.skipped + len == buffer.len() => self.fresh = None,
            Some(_) => self.skipped += len,
            None => self.chain.advance(len),
        }
    }

    /// Moves the fresh buffer into the chain.
    pub(crate) fn settle(&mut self, pool: &BufferPool) {
        if let Some(buffer) = self.fresh.take() {
            assert!(
                self.chain.push(pool, buffer).is_ok(),
                "there is an entry for each buffer of the pool"
            );
            self.chain.advance(std::mem::take(&mut self.skipped));
        }
    }

    /// Moves the fresh buffer to the end of `to` and returns its length, if all of it is unread, it has
    /// at most `len_max` bytes, and it is not a large buffer while those are scarce.
    #[inline]
    pub(crate) fn move_fresh(
        &mut self,
        pool: &BufferPool,
        to: &mut Chain,
        len_max: usize,
    ) -> Option<usize> {
        let is_whole = self.skipped == 0;
        let buffer = self.fresh.take_if(|buffer| {
            let is_scarce = buffer.is_large(pool) && buffer.is_scarce();
            is_whole && buffer.len() <= len_max && !is_scarce
        })?;
        let len = buffer.len();
        buffer.set_owner(Owner::SendQueue);
        assert!(to.push(pool, buffer).is_ok(), "there is an entry for each buffer of the pool");
        self.note_gone(len);
        Some(len)
    }

    /// Moves the first bytes, at most `len_max` of them and `buffers_max` buffers, to the end of `to`;
    /// returns how many.
    pub(crate) fn move_to(
        &mut self,
        pool: &BufferPool,
        to: &mut Chain,
        len_max: usize,
        buffers_max: u32,
    ) -> usize {
        self.settle(pool);
        let len = self.chain.move_front(pool, to, len_max, Owner::SendQueue, buffers_max);
        self.note_gone(len);
        len
    }

    #[expect(clippy::cast_possible_truncation, reason = "counts wrap")]
    fn note_gone(&mut self, len: usize) {
        self.before = self.before.wrapping_add(len as u32);
    }

    /// Whether nothing is left.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.fresh.is_none() && self.chain.is_empty()
    }

    /// The unread bytes as one chain.
    pub(crate) fn into_chain(mut self, pool: &BufferPool) -> Chain {
        self.settle(pool);
        self.chain
    }
}
