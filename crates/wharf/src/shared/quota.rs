//! The capacity for posts of each link. A posting thread reserves it before it posts, so that an
//! accepted post can be queued.
//!
//! A post to one link is counted here from its acceptance, in bytes until the shard has queued it, and
//! as one entry of the shard's table until it is sent. The shard publishes how many bytes posts may
//! take of a link: the exact number while posts are unsent or more than a quarter of the limit is
//! queued, else the maximum, so that a link without posts costs no updates.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use wharf_port::memory::{MemoryError, try_table};

/// Why a post was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The link has ended.
    Ended,
    /// The capacity is used up; `disconnects`: the link's policy is to be closed then.
    Full { disconnects: bool },
}

/// The capacities of one shard's links.
#[derive(Debug)]
pub(crate) struct Quotas {
    slots: Box<[Quota]>,
    /// Entries of the shard's table that accepted posts take, and their maximum.
    entries: AtomicU32,
    entries_max: u32,
}

#[derive(Debug)]
struct Quota {
    /// The generation of the link in the upper half; in the lower the bytes that are accepted and not
    /// queued yet.
    accepted: AtomicU64,
    /// Maximum of these bytes.
    capacity: AtomicU32,
    /// Posts that the link missed because they were not accepted.
    missed: AtomicU32,
    /// The link's policy is [`WhenSlow::Disconnect`](crate::WhenSlow::Disconnect).
    disconnects: AtomicBool,
}

impl Quotas {
    pub(crate) fn new(slots: u32, entries_max: u32) -> Result<Self, MemoryError> {
        let quota = |_| Quota {
            accepted: AtomicU64::new(0),
            capacity: AtomicU32::new(0),
            missed: AtomicU32::new(0),
            disconnects: AtomicBool::new(false),
        };
        let slots = try_table("the quotas of links", (0..slots).map(quota))?;
        Ok(Self { slots, entries: AtomicU32::new(0), entries_max })
    }

    /// A link of this generation opens in a slot.
    pub(crate) fn open(&self, index: u32, generation: u32, capacity: u32) {
        let slot = &self.slots[index as usize];
        slot.missed.store(0, Ordering::Relaxed);
        slot.capacity.store(capacity, Ordering::Relaxed);
        // Release: a thread that loads the generation sees the capacity.
        slot.accepted.store(u64::from(generation) << 32, Ordering::Release);
    }

    /// The link of a slot has ended.
    pub(crate) fn close(&self, index: u32) {
        self.slots[index as usize].accepted.store(0, Ordering::Release);
    }

    pub(crate) fn set_capacity(&self, index: u32, capacity: u32) {
        self.slots[index as usize].capacity.store(capacity, Ordering::Relaxed);
    }

    pub(crate) fn set_disconnects(&self, index: u32, disconnects: bool) {
        self.slots[index as usize].disconnects.store(disconnects, Ordering::Relaxed);
    }

    /// Posts that the link of a slot missed because they were not accepted.
    pub(crate) fn missed(&self, index: u32) -> u64 {
        self.slots[index as usize].missed.load(Ordering::Relaxed).into()
    }

    /// Bytes of posts that are accepted for a link and not queued yet.
    pub(crate) fn accepted(&self, index: u32) -> usize {
        bytes_of(self.slots[index as usize].accepted.load(Ordering::Relaxed))
    }

    /// Reserves `len` bytes and an entry for a post.
    pub(crate) fn accept(&self, index: u32, generation: u32, len: usize) -> Result<(), Refusal> {
        let Some(slot) = self.slots.get(index as usize) else { return Err(Refusal::Ended) };
        let full = || Refusal::Full { disconnects: slot.disconnects.load(Ordering::Relaxed) };
        let mut word = slot.accepted.load(Ordering::Acquire);
        loop {
            if word >> 32 != u64::from(generation) {
                return Err(Refusal::Ended);
            }
            if bytes_of(word) + len > slot.capacity.load(Ordering::Relaxed) as usize {
                return Err(full());
            }
            let more = word + len as u64;
            match slot.accepted.compare_exchange_weak(
                word,
                more,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        let one_more = |used: u32| (used < self.entries_max).then_some(used + 1);
        if self.entries.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok() {
            return Ok(());
        }
        self.forget(index, generation, len);
        Err(Refusal::Full { disconnects: false })
    }

    /// Counts a post that a link missed.
    pub(crate) fn note_missed(&self, index: u32, generation: u32) {
        if let Some(slot) = self.slots.get(index as usize)
            && slot.accepted.load(Ordering::Acquire) >> 32 == u64::from(generation)
        {
            slot.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a post that all links missed but the one of this slot and generation; returns their
    /// number.
    pub(crate) fn note_all_missed(&self, except: Option<(u32, u32)>) -> u64 {
        let mut count = 0;
        for (index, slot) in (0..).zip(&self.slots) {
            let generation = generation_of(slot.accepted.load(Ordering::Acquire));
            if generation != 0 && except != Some((index, generation)) {
                slot.missed.fetch_add(1, Ordering::Relaxed);
                count += 1;
            }
        }
        count
    }

    /// Releases the reserved bytes of a post that is queued or dropped. `release_entries` releases its
    /// entry.
    pub(crate) fn forget(&self, index: u32, generation: u32, len: usize) {
        let less = |word: u64| {
            // A later link of the slot has its own count.
            (word >> 32 == u64::from(generation)).then(|| word.saturating_sub(len as u64))
        };
        let accepted = &self.slots[index as usize].accepted;
        let _ended = accepted.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// Releases entries.
    pub(crate) fn release_entries(&self, count: u32) {
        if count > 0 {
            self.entries.fetch_sub(count, Ordering::AcqRel);
        }
    }
}

/// 0: no link is in the slot.
fn generation_of(word: u64) -> u32 {
    u32::try_from(word >> 32).unwrap_or_default()
}

fn bytes_of(word: u64) -> usize {
    usize::try_from(word & u64::from(u32::MAX)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Refusal = Refusal::Full { disconnects: false };

    #[test]
    fn no_more_is_accepted_than_there_is_room_for() {
        let quotas = Quotas::new(2, 8).unwrap();
        quotas.open(1, 5, 100);
        assert_eq!(quotas.accept(1, 4, 1), Err(Refusal::Ended));
        assert_eq!(quotas.accept(7, 1, 1), Err(Refusal::Ended));
        quotas.accept(1, 5, 60).unwrap();
        assert_eq!(quotas.accept(1, 5, 41), Err(FULL));
        quotas.accept(1, 5, 40).unwrap();
        quotas.note_missed(1, 5);
        quotas.note_missed(1, 4);
        assert_eq!((quotas.accepted(1), quotas.missed(1)), (100, 1));
        quotas.forget(1, 5, 60);
        quotas.set_capacity(1, 50);
        assert_eq!(quotas.accept(1, 5, 11), Err(FULL));
        quotas.accept(1, 5, 10).unwrap();
        quotas.set_disconnects(1, true);
        assert_eq!(quotas.accept(1, 5, 1), Err(Refusal::Full { disconnects: true }));
        // Another link is in the slot: its count does not change.
        quotas.close(1);
        quotas.open(1, 6, 10);
        quotas.accept(1, 6, 10).unwrap();
        quotas.forget(1, 5, 10);
        assert_eq!(quotas.accepted(1), 10);
    }

    #[test]
    fn no_more_posts_are_accepted_than_there_are_entries() {
        let quotas = Quotas::new(1, 3).unwrap();
        quotas.open(0, 1, 1_000);
        (0..3).for_each(|_| quotas.accept(0, 1, 1).unwrap());
        assert_eq!((quotas.accept(0, 1, 1), quotas.accepted(0)), (Err(FULL), 3));
        quotas.release_entries(2);
        (0..2).for_each(|_| quotas.accept(0, 1, 1).unwrap());
        assert_eq!(quotas.accept(0, 1, 1), Err(FULL));
    }

    #[test]
    fn threads_together_take_what_there_is_and_no_more() {
        let quotas = Quotas::new(1, 1_000).unwrap();
        quotas.open(0, 1, 500);
        let taken: usize = std::thread::scope(|scope| {
            let post = || (0..400).filter(|_| quotas.accept(0, 1, 1).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(post)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((taken, quotas.accepted(0)), (500, 500));
    }
}
