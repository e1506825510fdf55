//! Requests of other threads to single links, as bits: a request cannot fail and takes no memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use wharf_port::memory::{MemoryError, try_table};

/// A set of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark(u8);

impl Mark {
    /// Close gracefully.
    pub(crate) const CLOSE: Self = Self(1);
    /// Reset the link.
    pub(crate) const ABORT: Self = Self(2);
    /// End the pause.
    pub(crate) const RESUME: Self = Self(4);
    /// A deferred reply is done.
    pub(crate) const REPLY: Self = Self(8);
    /// The buffers of a reply are returned, whose link ended during the write.
    pub(crate) const RETURNED: Self = Self(16);

    /// A post exceeded the capacity, and the policy is to close the link.
    pub(crate) const TOO_SLOW: Self = Self(32);

    const ALL: u64 = 63;

    /// The link is closing: it takes only `ABORT`. `take` leaves this bit.
    const ENDING: u64 = 64;

    /// Whether it includes a close or an abort.
    pub(crate) fn closes(self) -> bool {
        self.has(Self::CLOSE) || self.has(Self::ABORT)
    }

    pub(crate) fn has(self, mark: Self) -> bool {
        self.0 & mark.0 != 0
    }
}

/// The marks of one shard's slots, and the generation of the live link in each.
///
/// One atomic operation compares the generation and sets a mark, so a mark never reaches a later link
/// of the slot.
#[derive(Debug)]
pub(crate) struct Marks {
    /// The generation in the upper half, 0 without a link; `ENDING` and marks in the lower half.
    slots: Box<[AtomicU64]>,
    /// One bit for each slot: whether it has marks.
    marked: Box<[AtomicU64]>,
    /// Whether any slot has marks.
    any: AtomicBool,
}

impl Marks {
    pub(crate) fn new(slots: u32) -> Result<Self, MemoryError> {
        let zeros =
            |count: u32| try_table("the requests to links", (0..count).map(|_| AtomicU64::new(0)));
        let (slots, marked) = (zeros(slots)?, zeros(slots.div_ceil(64))?);
        Ok(Self { slots, marked, any: AtomicBool::new(false) })
    }

    /// A link of this generation opens in a slot.
    pub(crate) fn open(&self, index: u32, generation: u32) {
        self.slots[index as usize].store(u64::from(generation) << 32, Ordering::Release);
    }

    /// The link of a slot closes gracefully; only an abort is taken from now on.
    pub(crate) fn end(&self, index: u32) {
        self.slots[index as usize].fetch_or(Mark::ENDING, Ordering::AcqRel);
    }

    /// The link of a slot has ended: it takes no marks any more.
    pub(crate) fn close(&self, index: u32) {
        // `RETURNED` belongs to the slot and stays set.
        self.slots[index as usize].fetch_and(u64::from(Mark::RETURNED.0), Ordering::AcqRel);
    }

    /// Whether the link of this generation is in the slot and not closing; that may change at any time.
    pub(crate) fn is_alive(&self, index: u32, generation: u32) -> bool {
        let slot = self.slots.get(index as usize);
        slot.is_some_and(|slot| is_alive(slot.load(Ordering::Acquire), generation))
    }

    /// Sets a mark of a link; returns whether the link takes it.
    pub(crate) fn set(&self, index: u32, generation: u32, mark: Mark) -> bool {
        let Some(slot) = self.slots.get(index as usize) else { return false };
        let with_mark = |word: u64| {
            let aborts = generation_of(word) == generation && mark.has(Mark::ABORT);
            (aborts || is_alive(word, generation)).then_some(word | u64::from(mark.0))
        };
        let is_there = slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, with_mark).is_ok();
        if is_there {
            self.note(index);
        }
        is_there
    }

    /// Sets a mark of a slot, independent of its link.
    pub(crate) fn set_slot_mark(&self, index: u32, mark: Mark) {
        self.slots[index as usize].fetch_or(u64::from(mark.0), Ordering::AcqRel);
        self.note(index);
    }

    /// Sets a mark of every link but the one of this slot and generation.
    pub(crate) fn set_all(&self, except: Option<(u32, u32)>, mark: Mark) {
        for (index, slot) in (0..).zip(&*self.slots) {
            let generation = generation_of(slot.load(Ordering::Acquire));
            if generation != 0 && except != Some((index, generation)) {
                self.set(index, generation, mark);
            }
        }
    }

    fn note(&self, index: u32) {
        self.marked[index as usize / 64].fetch_or(1 << (index % 64), Ordering::AcqRel);
        // Release: a thread that loads `true` sees the marks.
        self.any.store(true, Ordering::Release);
    }

    /// Whether any slot has marks.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Takes all marks, with their slots and the generations of the links.
    pub(crate) fn take(&self, mut each: impl FnMut(u32, u32, Mark)) {
        self.any.store(false, Ordering::SeqCst);
        for (word, marked) in (0_u32..).zip(&*self.marked) {
            let mut bits = marked.swap(0, Ordering::AcqRel);
            while bits != 0 {
                let index = word * 64 + bits.trailing_zeros();
                bits &= bits - 1;
                let word = self.slots[index as usize].fetch_and(!Mark::ALL, Ordering::AcqRel);
                each(index, generation_of(word), Mark(u8::try_from(word & Mark::ALL).unwrap_or(0)));
            }
        }
    }
}

fn generation_of(word: u64) -> u32 {
    (word >> 32) as u32
}

fn is_alive(word: u64, generation: u32) -> bool {
    generation_of(word) == generation && word & Mark::ENDING == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(marks: &Marks) -> Vec<(u32, u32, Mark)> {
        let mut all = Vec::new();
        marks.take(|index, generation, mark| all.push((index, generation, mark)));
        all
    }

    #[test]
    fn a_mark_reaches_the_link_that_was_meant_or_none() {
        let marks = Marks::new(200).unwrap();
        marks.open(130, 7);
        assert!(marks.is_alive(130, 7) && !marks.is_alive(130, 6) && !marks.is_alive(500, 1));
        assert!(!marks.set(130, 6, Mark::CLOSE));
        assert!(!marks.set(500, 1, Mark::CLOSE));
        assert!(taken(&marks).is_empty() && !marks.any());
        assert!(marks.set(130, 7, Mark::CLOSE) && marks.set(130, 7, Mark::RESUME));
        assert!(marks.any());
        assert_eq!(taken(&marks), [(130, 7, Mark(5))]);
        assert!(!marks.any() && taken(&marks).is_empty());
        marks.end(130);
        assert!(!marks.is_alive(130, 7) && !marks.set(130, 7, Mark::CLOSE));
        assert!(!marks.set(130, 6, Mark::ABORT) && marks.set(130, 7, Mark::ABORT));
        assert_eq!(taken(&marks), [(130, 7, Mark::ABORT)]);
        assert!(!marks.is_alive(130, 7), "taking the marks does not revive it");
        marks.close(130);
        assert!(!marks.set(130, 7, Mark::ABORT) && !marks.is_alive(130, 7));
        marks.set_slot_mark(130, Mark::RETURNED);
        marks.close(130);
        assert_eq!(taken(&marks), [(130, 0, Mark::RETURNED)]);
    }

    #[test]
    fn all_links_but_one_are_marked() {
        let marks = Marks::new(70).unwrap();
        (0..70).step_by(3).for_each(|index| marks.open(index, 2));
        marks.set_all(Some((66, 2)), Mark::ABORT);
        let expected: Vec<_> =
            (0..66).step_by(3).chain([69]).map(|index| (index, 2, Mark::ABORT)).collect();
        assert_eq!(taken(&marks), expected);
        // Another link is in its slot, so no link is excluded.
        marks.set_all(Some((66, 1)), Mark::ABORT);
        assert_eq!(taken(&marks).len(), 24);
    }
}
