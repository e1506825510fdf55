//! What other threads ask of single links, as bits: asking cannot fail, and nothing is queued.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What is asked; several may be at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark(u8);

impl Mark {
    /// Close in good order.
    pub(crate) const CLOSE: Self = Self(1);
    /// Close at once.
    pub(crate) const ABORT: Self = Self(2);
    /// End the pause.
    pub(crate) const RESUME: Self = Self(4);
    /// A deferred reply is there.
    pub(crate) const REPLY: Self = Self(8);
    /// The buffers of a reply are back whose link had ended while it was written.
    pub(crate) const RETURNED: Self = Self(16);

    /// A post found no room, and the link is to be closed for that.
    pub(crate) const TOO_SLOW: Self = Self(32);

    const ALL: u64 = 63;

    /// The link ends: only an abort can be asked of it any more. Not taken with the marks.
    const ENDING: u64 = 64;

    /// Whether the link is to be closed.
    pub(crate) fn closes(self) -> bool {
        self.has(Self::CLOSE) || self.has(Self::ABORT)
    }

    pub(crate) fn has(self, mark: Self) -> bool {
        self.0 & mark.0 != 0
    }
}

/// The marks of one shard's places, and which generation of link each place has.
///
/// A mark is set together with a look at the generation, so it never strikes the place's next owner.
#[derive(Debug)]
pub(crate) struct Marks {
    /// The generation in the upper half, 0 if there is no link; `ENDING` and marks in the lower.
    places: Box<[AtomicU64]>,
    /// Which places have marks, a bit for each.
    marked: Box<[AtomicU64]>,
    /// Whether any has.
    any: AtomicBool,
}

impl Marks {
    pub(crate) fn new(places: u32) -> Self {
        let zeros = |count: u32| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            places: zeros(places),
            marked: zeros(places.div_ceil(64)),
            any: AtomicBool::new(false),
        }
    }

    /// A place has a link of this generation.
    pub(crate) fn open(&self, index: u32, generation: u32) {
        self.places[index as usize].store(u64::from(generation) << 32, Ordering::Release);
    }

    /// The link of a place is closing in good order, which an abort cuts short.
    pub(crate) fn end(&self, index: u32) {
        self.places[index as usize].fetch_or(Mark::ENDING, Ordering::AcqRel);
    }

    /// The link of a place has ended: it takes no marks any more.
    pub(crate) fn close(&self, index: u32) {
        // What came back after the link's end is not forgotten.
        self.places[index as usize].fetch_and(u64::from(Mark::RETURNED.0), Ordering::AcqRel);
    }

    /// Whether a place has the link of this generation, and it is not closing, as far as another
    /// thread can know.
    pub(crate) fn is_alive(&self, index: u32, generation: u32) -> bool {
        let place = self.places.get(index as usize);
        place.is_some_and(|place| is_alive(place.load(Ordering::Acquire), generation))
    }

    /// Marks the link of a place; says whether it is still there.
    pub(crate) fn set(&self, index: u32, generation: u32, mark: Mark) -> bool {
        let Some(place) = self.places.get(index as usize) else { return false };
        let with_mark = |word: u64| {
            let is_it = generation_of(word) == generation;
            let takes_it = is_it && (word & Mark::ENDING == 0 || mark.has(Mark::ABORT));
            takes_it.then_some(word | u64::from(mark.0))
        };
        let is_there = place.fetch_update(Ordering::AcqRel, Ordering::Acquire, with_mark).is_ok();
        if is_there {
            self.note(index);
        }
        is_there
    }

    /// Marks a place, whichever link it has.
    pub(crate) fn set_place(&self, index: u32, mark: Mark) {
        self.places[index as usize].fetch_or(u64::from(mark.0), Ordering::AcqRel);
        self.note(index);
    }

    /// Marks every link but the one of this place and generation.
    pub(crate) fn set_all(&self, except: Option<(u32, u32)>, mark: Mark) {
        for (index, place) in (0..).zip(&*self.places) {
            let generation = generation_of(place.load(Ordering::Acquire));
            if generation != 0 && except != Some((index, generation)) {
                self.set(index, generation, mark);
            }
        }
    }

    fn note(&self, index: u32) {
        self.marked[index as usize / 64].fetch_or(1 << (index % 64), Ordering::AcqRel);
        // Release: who sees this sees the marks.
        self.any.store(true, Ordering::Release);
    }

    /// Whether something is marked.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Takes all marks, with the places and the generations that they were set for.
    pub(crate) fn take(&self, mut each: impl FnMut(u32, u32, Mark)) {
        self.any.store(false, Ordering::SeqCst);
        for (word, marked) in (0_u32..).zip(&*self.marked) {
            let mut bits = marked.swap(0, Ordering::AcqRel);
            while bits != 0 {
                let index = word * 64 + bits.trailing_zeros();
                bits &= bits - 1;
                let word = self.places[index as usize].fetch_and(!Mark::ALL, Ordering::AcqRel);
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
        let marks = Marks::new(200);
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
        marks.set_place(130, Mark::RETURNED);
        marks.close(130);
        assert_eq!(taken(&marks), [(130, 0, Mark::RETURNED)]);
    }

    #[test]
    fn all_links_but_one_are_marked() {
        let marks = Marks::new(70);
        (0..70).step_by(3).for_each(|index| marks.open(index, 2));
        marks.set_all(Some((66, 2)), Mark::ABORT);
        let expected: Vec<_> =
            (0..66).step_by(3).chain([69]).map(|index| (index, 2, Mark::ABORT)).collect();
        assert_eq!(taken(&marks), expected);
        // Another link has its place now, so nobody is left out.
        marks.set_all(Some((66, 1)), Mark::ABORT);
        assert_eq!(taken(&marks).len(), 24);
    }
}
