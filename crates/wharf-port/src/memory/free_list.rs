//! A lock-free stack of free indexes.
//!
//! LIFO, because the buffer that was used last is the one most likely in the cache. One
//! compare-and-swap acquires or releases a run of any number of indexes: the links of the stack are
//! the links of the run.

use super::error::MemoryError;
use super::table::try_table;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The stack of free indexes below a capacity that never changes.
///
/// The head has a tag that every change increments, against the ABA problem: a thread that read the
/// head, was delayed, and finds the same index again would install an outdated successor. That
/// still happens after exactly 2³² changes while one thread acquires a run.
#[derive(Debug)]
pub(super) struct FreeList {
    /// Tag in the upper half, index in the lower; `NIL` when empty.
    head: AtomicU64,
    /// The next index of each, in the stack or in its run.
    next: Box<[AtomicU32]>,
    /// Indexes that are acquired.
    taken: AtomicU32,
}

/// Indexes that were acquired together or joined, linked in the list. Their owner may follow the
/// links from `first` to `last`, and changes them only by [`FreeList::join`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) count: u32,
}

const NIL: u32 = u32::MAX;

impl FreeList {
    /// A list in which all of `0..capacity` are free; 0 is acquired first.
    pub(super) fn full(capacity: u32) -> Result<Self, MemoryError> {
        assert!(capacity < NIL, "the last index is the end mark");
        let next =
            (0..capacity).map(|i| AtomicU32::new(if i + 1 == capacity { NIL } else { i + 1 }));
        let next = try_table("the free list of messages", next)?;
        let first = if capacity == 0 { NIL } else { 0 };
        Ok(Self { head: AtomicU64::new(u64::from(first)), next, taken: AtomicU32::new(0) })
    }

    /// Acquires `count` (at least 1) free indexes; `None` if fewer are free.
    pub(super) fn acquire(&self, count: u32) -> Option<Run> {
        // Acquire pairs with the release in `release`: writes of the former owners are visible.
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let Some(run) = self.run_below(head, count) else {
                // Too few, unless the links changed while they were followed.
                let now = self.head.load(Ordering::Acquire);
                if now == head {
                    return None;
                }
                head = now;
                continue;
            };
            let successor = self.next[run.last as usize].load(Ordering::Relaxed);
            match self.head.compare_exchange_weak(
                head,
                retagged(head, successor),
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    self.taken.fetch_add(count, Ordering::Relaxed);
                    return Some(run);
                }
                Err(now) => head = now,
            }
        }
    }

    /// The first `count` indexes of the stack with this head.
    ///
    /// Another thread may acquire and release indexes of it meanwhile. Then the links lead to any
    /// index or the end, and the exchange of the head fails because its tag differs.
    fn run_below(&self, head: u64, count: u32) -> Option<Run> {
        let first = index_of(head);
        let mut last = first;
        for _ in 1..count {
            last = self.next.get(last as usize)?.load(Ordering::Relaxed);
        }
        (last != NIL).then_some(Run { first, last, count })
    }

    /// Joins two acquired runs, `behind` after `run`.
    ///
    /// A thread that acquires may still follow the links of either. The exchange of its head then
    /// fails because the tag differs.
    pub(super) fn join(&self, run: Run, behind: Run) -> Run {
        // Relaxed: the owner passes the run to another thread by a synchronising operation.
        self.next[run.last as usize].store(behind.first, Ordering::Relaxed);
        Run { first: run.first, last: behind.last, count: run.count + behind.count }
    }

    /// Releases a run from [`acquire`](Self::acquire) or [`join`](Self::join), which is released
    /// once.
    pub(super) fn release(&self, run: Run) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            self.next[run.last as usize].store(index_of(head), Ordering::Relaxed);
            // Release pairs with the acquire in `acquire`: the next owner sees our writes.
            match self.head.compare_exchange_weak(
                head,
                retagged(head, run.first),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        self.taken.fetch_sub(run.count, Ordering::Relaxed);
    }

    /// The next index in an acquired run; unspecified for the run's last.
    pub(super) fn behind(&self, index: u32) -> u32 {
        // Relaxed: the thread that has the run acquired it, or received it from the thread that
        // did.
        self.next[index as usize].load(Ordering::Relaxed)
    }

    /// Free indexes; exact while no other thread acquires or releases.
    pub(super) fn free_count(&self) -> u32 {
        self.capacity().saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    #[expect(clippy::cast_possible_truncation, reason = "`full` made the list from a u32")]
    pub(super) fn capacity(&self) -> u32 {
        self.next.len() as u32
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is wanted")]
fn index_of(head: u64) -> u32 {
    head as u32
}

/// `index` as the new head, with the tag of `head` plus one.
fn retagged(head: u64, index: u32) -> u64 {
    ((head >> 32).wrapping_add(1) << 32) | u64::from(index)
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn indexes(list: &FreeList, run: Run) -> Vec<u32> {
        let next = |index: &u32| (*index != run.last).then(|| list.behind(*index));
        std::iter::successors(Some(run.first), next).collect()
    }

    #[test]
    fn hands_out_each_index_once_and_the_last_released_first() {
        let list = FreeList::full(5).unwrap();
        let (one, three) = (list.acquire(1).unwrap(), list.acquire(3).unwrap());
        assert_eq!((indexes(&list, one), indexes(&list, three)), (vec![0], vec![1, 2, 3]));
        assert_eq!((list.acquire(2), list.free_count()), (None, 1));
        let last = list.acquire(1).unwrap();
        assert_eq!((indexes(&list, last), list.acquire(1)), (vec![4], None));
        list.release(three);
        list.release(one);
        assert_eq!(list.free_count(), 4);
        assert_eq!(list.acquire(5), None);
        assert_eq!(indexes(&list, list.acquire(4).unwrap()), [0, 1, 2, 3]);
        assert_eq!(list.free_count(), 0);
    }

    #[test]
    fn runs_that_are_joined_are_released_as_one() {
        let list = FreeList::full(6).unwrap();
        let [one, two, three] = [1, 2, 3].map(|count| list.acquire(count).unwrap());
        let run = list.join(list.join(three, one), two);
        assert_eq!((run.count, indexes(&list, run)), (6, vec![3, 4, 5, 0, 1, 2]));
        list.release(run);
        assert_eq!(list.free_count(), 6);
        assert_eq!(indexes(&list, list.acquire(6).unwrap()), [3, 4, 5, 0, 1, 2]);
    }

    #[test]
    fn four_threads_never_hold_the_same_index() {
        let list = FreeList::full(8).unwrap();
        let held: Vec<AtomicU32> = (0..8).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (list, held) = (&list, &held);
                scope.spawn(move || {
                    for round in 0..20_000 {
                        let Some(run) = list.acquire(1 + (round + thread) % 4) else { continue };
                        for index in indexes(list, run) {
                            assert_eq!(held[index as usize].swap(1, Ordering::Relaxed), 0);
                        }
                        for index in indexes(list, run) {
                            held[index as usize].store(0, Ordering::Relaxed);
                        }
                        list.release(run);
                    }
                });
            }
        });
        assert_eq!(list.free_count(), 8);
        assert_eq!(indexes(&list, list.acquire(8).unwrap()).len(), 8);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;

    #[test]
    fn a_run_that_grows_while_another_thread_acquires_loses_nothing() {
        loom::model(|| {
            let list = Arc::new(FreeList::full(3).unwrap());
            let other = Arc::clone(&list);
            let thread = loom::thread::spawn(move || {
                if let Some(run) = other.acquire(2) {
                    other.release(run);
                }
            });
            let mut held = list.acquire(1).unwrap();
            while let Some(more) = list.acquire(1) {
                held = list.join(held, more);
            }
            assert!(held.count == 1 || held.count == 3);
            list.release(held);
            thread.join().unwrap();
            assert_eq!(list.free_count(), 3);
            assert!(list.acquire(3).is_some() && list.acquire(1).is_none());
        });
    }

    #[test]
    fn no_index_is_held_twice_and_none_is_lost() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let list = Arc::new(FreeList::full(3).unwrap());
            let held = Arc::new([0; 3].map(AtomicU32::new));
            let threads: Vec<_> = [[1, 2], [2, 1]]
                .map(|counts| {
                    let (list, held) = (Arc::clone(&list), Arc::clone(&held));
                    loom::thread::spawn(move || {
                        for count in counts {
                            let Some(run) = list.acquire(count) else { continue };
                            let mut index = run.first;
                            for number in 1..=count {
                                let held = &held[index as usize];
                                assert_eq!(held.swap(1, Ordering::Relaxed), 0);
                                held.store(0, Ordering::Relaxed);
                                assert_eq!(index == run.last, number == count);
                                index = list.behind(index);
                            }
                            list.release(run);
                        }
                    })
                })
                .into_iter()
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(list.free_count(), 3);
            assert!(list.acquire(3).is_some() && list.acquire(1).is_none());
        });
    }
}
