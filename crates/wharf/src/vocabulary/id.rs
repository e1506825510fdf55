//! Ids of links and servers.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use wharf_port::port::Key;

/// The id of a link. After the link's end it reaches no link, neither a later link of the slot nor a
/// link of another server, until the slot's generation wraps after 2^32 - 1 links.
///
/// Opaque, 16 bytes. `{}` shows shard, slot and generation, which are unique among the links of one
/// server.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkId {
    /// The link's server.
    server: ServerId,
    key: LinkKey,
}

impl LinkId {
    pub(crate) fn new(server: ServerId, key: LinkKey) -> Self {
        Self { server, key }
    }

    /// The key of the link in this server; `None` if it is a link of another server.
    pub(crate) fn key_in(self, server: ServerId) -> Option<LinkKey> {
        (self.server == server).then_some(self.key)
    }

    /// The key of the link in its server.
    #[cfg(feature = "sim")]
    pub(crate) fn key(self) -> LinkKey {
        self.key
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(f)
    }
}

impl fmt::Debug for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkId({self})")
    }
}

/// The id of a server: unique in this process, and random between processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ServerId(u64);

impl ServerId {
    /// A new id.
    pub(crate) fn next() -> Self {
        static FIRST: OnceLock<u64> = OnceLock::new();
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // std draws the keys of its hash maps from the system's random numbers.
        let first = *FIRST.get_or_init(|| RandomState::new().build_hasher().finish());
        Self(first.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed)))
    }
}

/// The key of a link in its server: the generation (32 bits), the shard (8) and the slot (24). The
/// generation rises with each use of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LinkKey(u64);

/// Maximum of links in one shard: a slot has 24 bits.
pub(crate) const LINKS_PER_SHARD_MAX: u32 = (1 << 24) - 1;

impl LinkKey {
    pub(crate) fn new(shard: u8, index: u32, generation: u32) -> Self {
        assert!(index <= LINKS_PER_SHARD_MAX && generation > 0, "slot {index}, {generation}");
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

    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl fmt::Display for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.shard(), self.index(), self.generation())
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reaches_its_own_server_only() {
        let key = LinkKey::new(1, 2, 3);
        let (one, other) = (ServerId::next(), ServerId::next());
        assert_eq!(LinkId::new(one, key).key_in(one), Some(key));
        assert_eq!(LinkId::new(one, key).key_in(other), None);
        assert_ne!(LinkId::new(one, key), LinkId::new(other, key));
        assert_eq!(LinkId::new(one, key).to_string(), "1.2.3");
        assert_eq!(size_of::<LinkId>(), 16);
    }

    #[test]
    fn an_id_keeps_its_parts_and_is_told_from_a_listener() {
        let id = LinkKey::new(255, LINKS_PER_SHARD_MAX, u32::MAX);
        assert_eq!((id.shard(), id.index(), id.generation()), (255, LINKS_PER_SHARD_MAX, u32::MAX));
        assert_eq!(LinkKey::from_key(id.key()), Some(id));
        assert_eq!(LinkKey::from_key(Key(7)), None);
        assert_eq!(LinkKey::new(1, 2, 3).to_string(), "1.2.3");
    }
}
