//! A lock-free stack of indexes: what is free, last in first out.
//!
//! Last in, first out, because the buffer that was used last is the one that is still in the cache.
//! Taking and giving back are one compare-and-swap each; neither walks the list.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The stack of free indexes below a capacity that never changes.
///
/// The head carries a tag that every change raises. A thread that read the head, was delayed, and
/// finds the same index there again would otherwise install an outdated successor (the ABA
/// problem). A wrong success needs exactly 2³² changes between two instructions of one thread.
#[derive(Debug)]
pub(crate) struct FreeList {
    /// Tag in the upper half, index in the lower; `NIL` when empty.
    head: AtomicU64,
    next: Box<[AtomicU32]>,
    /// How many indexes are out. Lowered as the *last* step of giving back, so that whoever sees
    /// 0 knows that no other thread is still inside this list.
    taken: AtomicU32,
}

const NIL: u32 = u32::MAX;

impl FreeList {
    /// A list in which all of `0..capacity` is free; 0 is handed out first.
    pub(crate) fn full(capacity: u32) -> Self {
        assert!(capacity < NIL, "the last index is the end mark");
        let next =
            (1..=capacity).map(|i| AtomicU32::new(if i == capacity { NIL } else { i })).collect();
        let first = if capacity == 0 { NIL } else { 0 };
        Self { head: AtomicU64::new(u64::from(first)), next, taken: AtomicU32::new(0) }
    }

    /// Takes a free index, or `None` if all are out.
    pub(crate) fn take(&self) -> Option<u32> {
        // Acquire pairs with the release in `give_back`: what the former owner wrote is visible.
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let index = index_of(head);
            if index == NIL {
                return None;
            }
            // This may read the successor of an index that another thread has just taken; the tag
            // then makes the exchange below fail.
            let successor = self.next[index as usize].load(Ordering::Relaxed);
            match self.head.compare_exchange_weak(
                head,
                retagged(head, successor),
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    self.taken.fetch_add(1, Ordering::Relaxed);
                    return Some(index);
                }
                Err(now) => head = now,
            }
        }
    }

    /// Puts `index` back and calls `after` before this list is touched for the last time.
    ///
    /// The caller owns `index`: it came from [`take`](Self::take) and is given back once.
    pub(crate) fn give_back(&self, index: u32, after: impl FnOnce()) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            self.next[index as usize].store(index_of(head), Ordering::Relaxed);
            // SeqCst (a release at least, which pairs with `take`): the waiting mark that `after`
            // reads is ordered against this exchange, see `BufferPool::set_waiting`.
            match self.head.compare_exchange_weak(
                head,
                retagged(head, index),
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        after();
        // Release pairs with the acquire in `all_home`.
        self.taken.fetch_sub(1, Ordering::Release);
    }

    /// How many are free; exact when no other thread is taking or giving back.
    pub(crate) fn free(&self) -> u32 {
        self.capacity().saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    /// Whether the stack is empty; ordered with `give_back` for the sleep protocol.
    pub(crate) fn is_empty(&self) -> bool {
        index_of(self.head.load(Ordering::SeqCst)) == NIL
    }

    /// Whether every index is free and no thread is inside this list.
    pub(crate) fn all_home(&self) -> bool {
        self.taken.load(Ordering::Acquire) == 0
    }

    #[expect(clippy::cast_possible_truncation, reason = "`full` made the list from a u32")]
    pub(crate) fn capacity(&self) -> u32 {
        self.next.len() as u32
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is wanted")]
fn index_of(head: u64) -> u32 {
    head as u32
}

/// `index` as the new head, with the tag of `head` raised by one.
fn retagged(head: u64, index: u32) -> u64 {
    ((head >> 32).wrapping_add(1) << 32) | u64::from(index)
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn hands_out_each_index_once_and_the_last_returned_first() {
        let list = FreeList::full(3);
        assert_eq!([list.take(), list.take(), list.take()], [Some(0), Some(1), Some(2)]);
        assert_eq!(list.take(), None);
        assert_eq!(list.free(), 0);
        list.give_back(1, || ());
        list.give_back(0, || ());
        assert_eq!(list.free(), 2);
        assert!(!list.all_home());
        assert_eq!([list.take(), list.take(), list.take()], [Some(0), Some(1), None]);
    }

    #[test]
    fn four_threads_never_hold_the_same_index() {
        let list = FreeList::full(8);
        let held: Vec<AtomicU32> = (0..8).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let Some(index) = list.take() else { continue };
                        assert_eq!(held[index as usize].swap(1, Ordering::Relaxed), 0);
                        held[index as usize].store(0, Ordering::Relaxed);
                        list.give_back(index, || ());
                    }
                });
            }
        });
        assert!(list.all_home());
        assert_eq!(std::iter::from_fn(|| list.take()).count(), 8);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;

    #[test]
    fn no_index_is_held_twice_and_none_is_lost() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let list = Arc::new(FreeList::full(2));
            let held = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let (list, held) = (Arc::clone(&list), Arc::clone(&held));
                    loom::thread::spawn(move || {
                        for _ in 0..2 {
                            let Some(index) = list.take() else { continue };
                            assert_eq!(held[index as usize].swap(1, Ordering::Relaxed), 0);
                            held[index as usize].store(0, Ordering::Relaxed);
                            list.give_back(index, || ());
                        }
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            assert!(list.all_home());
            assert!(list.take().is_some() && list.take().is_some() && list.take().is_none());
        });
    }
}
