//! What a decoder sees of the input, and a search that resumes where it stopped.

use crate::link::unread::Unread;
use std::cell::Cell;
use std::fmt;

/// A view of the unread bytes for a [`Decoder`](crate::Decoder), by position from the first unread
/// byte.
pub struct Peek<'a> {
    unread: &'a Unread,
    /// The position in `unread` of the first byte.
    at: usize,
    search: &'a Cell<Search>,
}

/// The progress of a search that has found nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Search {
    /// What was searched for, as a number: see [`number_of`].
    needle: u64,
    /// The position in the link's stream where the search began; wraps.
    from: u32,
    /// No occurrence begins at the first `passed` positions from there.
    passed: u32,
}

impl<'a> Peek<'a> {
    pub(crate) fn new(unread: &'a Unread, at: usize, search: &'a Cell<Search>) -> Self {
        Self { unread, at, search }
    }

    /// The number of unread bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.unread.len() - self.at
    }

    /// Whether nothing is unread.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The byte at a position; `None` if it has not arrived.
    #[must_use]
    pub fn byte(&self, at: usize) -> Option<u8> {
        self.unread.slices_from(self.at.checked_add(at)?).next()?.first().copied()
    }

    /// A copy of the `N` bytes from a position on; `None` if they have not all arrived:
    /// `peek.array(4).map(u32::from_be_bytes)`.
    #[must_use]
    pub fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let mut filled = 0;
        for slice in self.unread.slices_from(self.at.checked_add(at)?) {
            let len = slice.len().min(N - filled);
            bytes[filled..filled + len].copy_from_slice(&slice[..len]);
            filled += len;
            if filled == N {
                break;
            }
        }
        (filled == N).then_some(bytes)
    }

    /// The position of the first `needle`. A repeated search for the same frame resumes where the last
    /// one stopped.
    ///
    /// # Panics
    ///
    /// If `needle` is empty.
    #[must_use]
    pub fn find(&self, needle: &[u8]) -> Option<usize> {
        assert!(!needle.is_empty(), "a search for no bytes");
        let from = self.unread.position(self.at);
        let number = number_of(needle);
        let mut search = self.search.get();
        if search.needle != number || search.from != from {
            search = Search { needle: number, from, passed: 0 };
        }
        let passed = search.passed as usize;
        let found = find(self.unread, self.at + passed, needle).map(|at| at - self.at);
        let without = found.unwrap_or_else(|| (self.len() + 1).saturating_sub(needle.len()));
        // A link's unread bytes are less than 4 GiB.
        search.passed = u32::try_from(without.max(passed)).unwrap_or(u32::MAX);
        self.search.set(search);
        found
    }
}

impl fmt::Debug for Peek<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peek").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// A number for `needle`: unique for up to seven bytes, a hash (FNV-1a, 64 bits) for longer ones.
fn number_of(needle: &[u8]) -> u64 {
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    if needle.len() > 7 {
        return needle.iter().fold(0xcbf2_9ce4_8422_2325, hash) | 1 << 63;
    }
    needle.iter().fold(needle.len() as u64, |number, byte| number << 8 | u64::from(*byte))
        & !(1 << 63)
}

/// The position of the first `needle` that begins at `from` or later.
fn find(unread: &Unread, from: usize, needle: &[u8]) -> Option<usize> {
    let mut begin = from;
    for slice in unread.slices_from(from) {
        for at in memchr::memchr_iter(needle[0], slice) {
            let is_here = match slice[at..].get(..needle.len()) {
                Some(here) => here == needle,
                None => lies_at(unread, begin + at, needle),
            };
            if is_here {
                return Some(begin + at);
            }
        }
        begin += slice.len();
    }
    None
}

/// Whether `needle` is at a position, also across slices.
fn lies_at(unread: &Unread, at: usize, needle: &[u8]) -> bool {
    let mut rest = needle;
    for slice in unread.slices_from(at) {
        let len = slice.len().min(rest.len());
        if slice[..len] != rest[..len] {
            return false;
        }
        rest = &rest[len..];
        if rest.is_empty() {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_port::memory::{BufferPool, Owner, PoolConfig};

    fn pool() -> BufferPool {
        let mut config = PoolConfig::new(64);
        config.buffer_size_bytes = 64;
        BufferPool::new(config).unwrap()
    }

    #[test]
    fn a_search_goes_on_where_it_stopped_and_finds_what_a_fresh_one_finds() {
        let pool = pool();
        for needle in [&b"\n"[..], b"ab", b"aab", b"abcdefghij"] {
            for begin in 0..140 {
                let text = [vec![b'a'; begin], needle.to_vec(), b"aaaa".to_vec()].concat();
                let fresh = text.windows(needle.len()).position(|window| window == needle);
                let search = Cell::new(Search::default());
                for len in (0..=text.len()).step_by(7).chain([text.len()]) {
                    let chain = pool.chain_of(&text[..len], Owner::Application).unwrap();
                    let unread = Unread::kept(chain, 5);
                    let here = fresh.filter(|at| at + needle.len() <= len);
                    let peek = Peek::new(&unread, 0, &search);
                    assert_eq!(peek.find(needle), here, "{needle:?} at {begin}, {len} bytes");
                    if here.is_none() {
                        // No byte at which it cannot begin is searched again.
                        let passed = (len + 1).saturating_sub(needle.len());
                        assert_eq!(search.get().passed as usize, passed);
                    }
                }
            }
        }
    }

    #[test]
    fn another_needle_or_another_frame_is_searched_from_its_beginning() {
        let pool = pool();
        let chain = pool.chain_of(b"a;b;c\n", Owner::Application).unwrap();
        let unread = Unread::kept(chain, u32::MAX);
        let search = Cell::new(Search::default());
        assert_eq!(Peek::new(&unread, 0, &search).find(b"x"), None);
        assert_eq!(Peek::new(&unread, 0, &search).find(b";"), Some(1));
        assert_eq!(Peek::new(&unread, 0, &search).find(b";"), Some(1));
        assert_eq!(Peek::new(&unread, 2, &search).find(b";"), Some(1));
        assert_eq!(Peek::new(&unread, 0, &search).find(b";"), Some(1));
        assert_eq!(Peek::new(&unread, 4, &search).find(b";"), None);
    }

    #[test]
    fn short_needles_have_numbers_of_their_own() {
        let needles = [&b"a"[..], b"\0a", b"a\0", b"\0\0a", b"abcdefg", b"\0bcdefg"];
        let numbers: std::collections::HashSet<u64> =
            needles.iter().map(|needle| number_of(needle)).collect();
        assert_eq!(numbers.len(), needles.len());
    }

    #[test]
    fn bytes_are_found_by_their_position_across_buffers() {
        let pool = pool();
        let data: Vec<u8> = (0..150).collect();
        let unread = Unread::kept(pool.chain_of(&data, Owner::Application).unwrap(), 0);
        let search = Cell::new(Search::default());
        let peek = Peek::new(&unread, 3, &search);
        assert_eq!((peek.len(), peek.byte(0), peek.byte(146)), (147, Some(3), Some(149)));
        assert_eq!((peek.byte(147), peek.byte(usize::MAX)), (None, None));
        assert_eq!(peek.array(59), Some([62, 63, 64, 65]));
        assert_eq!(peek.array::<4>(144), None);
        assert_eq!(peek.array::<0>(0), Some([]));
    }
}
