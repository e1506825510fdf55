//! Names of links that can be copied, kept, and never hit the wrong link.

use std::fmt;
use wharf_port::port::Key;

/// The name of one link for as long as it lives, and of no other link afterwards.
///
/// It holds the link's shard, its place in that shard's table, and a generation that rises each
/// time the place is used again. A name that has outlived its link finds nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(u64);

/// Links in one shard: the place has 24 bits.
pub(crate) const LINKS_PER_SHARD_MAX: u32 = (1 << 24) - 1;

impl LinkId {
    pub(crate) fn new(shard: u8, index: u32, generation: u32) -> Self {
        debug_assert!(index <= LINKS_PER_SHARD_MAX && generation > 0);
        Self((u64::from(generation) << 32) | (u64::from(shard) << 24) | u64::from(index))
    }

    /// The link that a completion's key names; `None` if it names a listener.
    pub(crate) fn from_key(key: Key) -> Option<Self> {
        // Generations begin with 1, and listeners have generation 0.
        (key.0 >> 32 != 0).then_some(Self(key.0))
    }

    pub(crate) fn key(self) -> Key {
        Key(self.0)
    }

    pub(crate) fn shard(self) -> usize {
        (self.0 >> 24) as usize & 0xFF
    }

    #[expect(clippy::cast_possible_truncation, reason = "masked to 24 bits")]
    pub(crate) fn index(self) -> u32 {
        self.0 as u32 & LINKS_PER_SHARD_MAX
    }

    #[expect(clippy::cast_possible_truncation, reason = "the upper half")]
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.shard(), self.index(), self.generation())
    }
}

impl fmt::Debug for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_keeps_its_parts_and_is_told_from_a_listener() {
        let id = LinkId::new(255, LINKS_PER_SHARD_MAX, u32::MAX);
        assert_eq!((id.shard(), id.index(), id.generation()), (255, LINKS_PER_SHARD_MAX, u32::MAX));
        assert_eq!(LinkId::from_key(id.key()), Some(id));
        assert_eq!(LinkId::from_key(Key(7)), None);
        assert_eq!(LinkId::new(1, 2, 3).to_string(), "1.2.3");
    }
}
