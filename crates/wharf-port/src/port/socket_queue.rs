//! A FIFO queue of sockets that contains each slot of the table at most once.

use super::operation::Socket;
use crate::memory::error::MemoryError;
use crate::memory::table::try_table;

/// FIFO, with removal from the middle: a doubly linked list through an array that is indexed by
/// slot. Every method but `new` takes constant time and allocates nothing.
///
/// Each back end queues the sockets that wait for a buffer in one of these, so that all serve them
/// in the same order (INV-PORT-6). A back end must [remove](Self::remove) a socket when it closes
/// it, or the slot's next socket cannot be queued.
#[derive(Debug)]
pub(crate) struct SocketQueue {
    nodes: Box<[Node]>,
    head: u32,
    tail: u32,
    len: u32,
}

#[derive(Clone, Debug)]
struct Node {
    /// The queued socket's; meaningless if none is queued.
    generation: u32,
    /// The slot before this one in the queue; [`OUT`] if this one is not queued.
    before: u32,
    after: u32,
}

/// No slot.
const NIL: u32 = u32::MAX;
/// Not in the queue. No slot has this index ([`PortConfig::sockets_max`](super::PortConfig)).
const OUT: u32 = u32::MAX - 1;

impl SocketQueue {
    /// Bytes that the queue allocates for each slot of the table.
    #[cfg(target_os = "linux")]
    pub(crate) const NODE_SIZE_BYTES: usize = size_of::<Node>();

    /// A queue for the sockets of a table of `capacity` slots.
    pub(crate) fn new(capacity: u32) -> Result<Self, MemoryError> {
        let nodes = (0..capacity).map(|_| Node { generation: 0, before: OUT, after: OUT });
        let nodes = try_table("a queue of sockets", nodes)?;
        Ok(Self { nodes, head: NIL, tail: NIL, len: 0 })
    }

    /// Appends `socket`, unless it is in the queue already.
    pub(crate) fn push_back(&mut self, Socket { index, generation }: Socket) {
        let tail = self.tail;
        let node = &mut self.nodes[index as usize];
        if node.before != OUT {
            assert_eq!(node.generation, generation, "a closed socket was left in the queue");
            return;
        }
        *node = Node { generation, before: tail, after: NIL };
        *(if tail == NIL { &mut self.head } else { &mut self.nodes[tail as usize].after }) = index;
        self.tail = index;
        self.len += 1;
    }

    /// Removes the first socket.
    pub(crate) fn pop_front(&mut self) -> Option<Socket> {
        let first = self.first()?;
        self.remove(first);
        Some(first)
    }

    /// Removes `socket`; returns whether it was in the queue.
    pub(crate) fn remove(&mut self, socket: Socket) -> bool {
        if !self.contains(socket) {
            return false;
        }
        let node = &mut self.nodes[socket.index as usize];
        let Node { before, after, .. } = *node;
        (node.before, node.after) = (OUT, OUT);
        *(if before == NIL { &mut self.head } else { &mut self.nodes[before as usize].after }) =
            after;
        *(if after == NIL { &mut self.tail } else { &mut self.nodes[after as usize].before }) =
            before;
        self.len -= 1;
        true
    }

    pub(crate) fn contains(&self, socket: Socket) -> bool {
        let node = &self.nodes[socket.index as usize];
        node.before != OUT && node.generation == socket.generation
    }

    /// The first socket.
    pub(crate) fn first(&self) -> Option<Socket> {
        self.at(self.head)
    }

    /// The socket after `socket`, which is in the queue.
    #[cfg(any(test, target_os = "linux"))]
    pub(crate) fn after(&self, socket: Socket) -> Option<Socket> {
        assert!(self.contains(socket), "{socket:?} is not in the queue");
        self.at(self.nodes[socket.index as usize].after)
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn at(&self, index: u32) -> Option<Socket> {
        let generation = self.nodes.get(index as usize)?.generation;
        Some(Socket { index, generation })
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::port::clock::Clock;
    use std::time::Duration;

    fn socket(index: u32) -> Socket {
        Socket { index, generation: index + 7 }
    }

    #[test]
    fn sockets_leave_in_fifo_order_and_are_queued_once() {
        let mut queue = SocketQueue::new(4).unwrap();
        for index in [2, 0, 3, 0, 2, 1] {
            queue.push_back(socket(index));
        }
        assert_eq!((queue.len(), queue.first()), (4, Some(socket(2))));
        assert_eq!(queue.after(socket(0)), Some(socket(3)));
        assert!(queue.remove(socket(3)));
        assert!(!queue.remove(socket(3)));
        queue.push_back(socket(3));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop_front()).map(|s| s.index).collect();
        assert_eq!(order, [2, 0, 1, 3]);
        assert!(queue.is_empty());
    }

    #[test]
    fn the_first_the_last_and_the_only_one_can_be_removed() {
        let mut queue = SocketQueue::new(3).unwrap();
        (0..3).for_each(|index| queue.push_back(socket(index)));
        queue.remove(socket(0));
        queue.remove(socket(2));
        assert_eq!((queue.first(), queue.after(socket(1))), (Some(socket(1)), None));
        queue.remove(socket(1));
        assert_eq!((queue.first(), queue.pop_front(), queue.len()), (None, None, 0));
        queue.push_back(socket(2));
        assert_eq!(queue.pop_front(), Some(socket(2)));
    }

    #[test]
    fn a_stale_socket_does_not_take_the_next_owner_of_its_slot_out() {
        let mut queue = SocketQueue::new(1).unwrap();
        let (stale, live) =
            (Socket { index: 0, generation: 1 }, Socket { index: 0, generation: 2 });
        assert!(!queue.contains(Socket { index: 0, generation: 0 }));
        queue.push_back(live);
        assert!(!queue.remove(stale) && !queue.contains(stale));
        assert_eq!(queue.pop_front(), Some(live));
    }

    /// Compares the queue with a `VecDeque` under 20,000 random operations.
    #[test]
    fn it_does_what_a_plain_list_does() {
        let mut queue = SocketQueue::new(8).unwrap();
        let mut plain = std::collections::VecDeque::new();
        let mut random = 1_u64;
        for _ in 0..20_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let other = socket(u32::try_from(random >> 32 & 7).unwrap());
            match random >> 8 & 3 {
                0 | 1 if !plain.contains(&other) => {
                    queue.push_back(other);
                    plain.push_back(other);
                }
                2 => assert_eq!(queue.pop_front(), plain.pop_front()),
                _ => {
                    assert_eq!(queue.remove(other), plain.contains(&other));
                    plain.retain(|waits| *waits != other);
                }
            }
            assert_eq!(queue.len() as usize, plain.len());
            let order = std::iter::successors(queue.first(), |socket| queue.after(*socket));
            assert!(order.eq(plain.iter().copied()));
        }
    }

    #[test]
    fn ten_thousand_are_removed_in_linear_time() {
        let time = |count: u32| {
            let mut queue = SocketQueue::new(count).unwrap();
            (0..count).for_each(|index| queue.push_back(socket(index)));
            let clock = Clock::new();
            let start = clock.now();
            (0..count).rev().for_each(|index| assert!(queue.remove(socket(index))));
            clock.now().duration_since(start)
        };
        let least = |count| (0..5).map(|_| time(count)).min().unwrap();
        let (few, many) = (least(10_000), least(40_000));
        // Linear time gives a factor of 4, quadratic 16; 9 and 1 ms allow for a busy machine.
        assert!(many < few * 9 + Duration::from_millis(1), "{few:?}, four times: {many:?}");
    }
}
