//! A queue of links, each at most once; any link can be removed in constant time.

use std::iter::repeat_n;
use wharf_port::memory::{MemoryError, try_table};

const NONE: u32 = u32::MAX;
/// The `next` of a link that is not in the queue.
const ABSENT: u32 = u32::MAX - 1;

/// A doubly linked list of slots of one shard, in two tables allocated at start.
#[derive(Debug)]
pub(crate) struct Fifo {
    next: Box<[u32]>,
    previous: Box<[u32]>,
    first: u32,
    last: u32,
    len: u32,
}

impl Fifo {
    /// A queue for the slots below `capacity`.
    pub(crate) fn new(capacity: u32) -> Result<Self, MemoryError> {
        let table = |value| try_table("a queue of links", repeat_n(value, capacity as usize));
        Ok(Self { next: table(ABSENT)?, previous: table(NONE)?, first: NONE, last: NONE, len: 0 })
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn contains(&self, index: u32) -> bool {
        self.next[index as usize] != ABSENT
    }

    pub(crate) fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    /// Appends a link, unless it is in the queue.
    pub(crate) fn push(&mut self, index: u32) {
        if self.contains(index) {
            return;
        }
        self.next[index as usize] = NONE;
        self.previous[index as usize] = self.last;
        match self.last {
            NONE => self.first = index,
            last => self.next[last as usize] = index,
        }
        self.last = index;
        self.len += 1;
    }

    /// Moves or puts a link to the front.
    pub(crate) fn push_first(&mut self, index: u32) {
        self.remove(index);
        self.previous[index as usize] = NONE;
        self.next[index as usize] = self.first;
        match self.first {
            NONE => self.last = index,
            first => self.previous[first as usize] = index,
        }
        self.first = index;
        self.len += 1;
    }

    /// Removes a link, if it is in the queue.
    pub(crate) fn remove(&mut self, index: u32) {
        if !self.contains(index) {
            return;
        }
        let (next, previous) = (self.next[index as usize], self.previous[index as usize]);
        match previous {
            NONE => self.first = next,
            previous => self.next[previous as usize] = next,
        }
        match next {
            NONE => self.last = previous,
            next => self.previous[next as usize] = previous,
        }
        self.next[index as usize] = ABSENT;
        self.len -= 1;
    }

    pub(crate) fn pop(&mut self) -> Option<u32> {
        let first = self.first()?;
        self.remove(first);
        Some(first)
    }

    /// All links, from the front.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        std::iter::successors(self.first(), |index| {
            let next = self.next[*index as usize];
            (next != NONE).then_some(next)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stand_once_in_order_and_leave_from_anywhere() {
        let mut fifo = Fifo::new(5).unwrap();
        for index in [3, 0, 4, 0, 1] {
            fifo.push(index);
        }
        assert_eq!(fifo.iter().collect::<Vec<_>>(), [3, 0, 4, 1]);
        for index in [4, 4, 2] {
            fifo.remove(index);
        }
        assert_eq!((fifo.len(), fifo.contains(4), fifo.first()), (3, false, Some(3)));
        fifo.remove(3);
        fifo.remove(1);
        fifo.push(4);
        fifo.push_first(4);
        fifo.push_first(2);
        assert_eq!(fifo.iter().collect::<Vec<_>>(), [2, 4, 0]);
        assert_eq!([fifo.pop(), fifo.pop(), fifo.pop()], [Some(2), Some(4), Some(0)]);
        assert_eq!(fifo.pop(), None);
        assert_eq!((fifo.len(), fifo.first()), (0, None));
    }
}
