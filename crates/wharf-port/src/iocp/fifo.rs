//! A queue of sockets in which each place of the table stands at most once.

use crate::port::Socket;

/// First in, first out, with removal from the middle; all of it is taken when it is made.
///
/// A socket that is closed must be [removed](Self::remove), so that its place is free for the
/// next one.
#[derive(Debug)]
pub(super) struct Fifo {
    nodes: Box<[Node]>,
    head: u32,
    tail: u32,
    len: u32,
}

#[derive(Clone, Debug)]
struct Node {
    /// Who stands here, if anyone.
    socket: Option<Socket>,
    before: u32,
    after: u32,
}

/// No place.
const NIL: u32 = u32::MAX;

impl Fifo {
    /// A queue for sockets of `capacity` places.
    pub(super) fn new(capacity: u32) -> Self {
        let node = Node { socket: None, before: NIL, after: NIL };
        Self { nodes: vec![node; capacity as usize].into(), head: NIL, tail: NIL, len: 0 }
    }

    /// Puts `socket` at the end, unless it is in the queue already.
    pub(super) fn push(&mut self, socket: Socket) {
        let (index, tail) = (socket.index, self.tail);
        let node = &mut self.nodes[index as usize];
        if let Some(there) = node.socket {
            debug_assert_eq!(there, socket, "a closed socket was left in the queue");
            return;
        }
        *node = Node { socket: Some(socket), before: tail, after: NIL };
        self.tail = index;
        *(if tail == NIL { &mut self.head } else { &mut self.nodes[tail as usize].after }) = index;
        self.len += 1;
    }

    /// Takes the first socket out.
    pub(super) fn pop(&mut self) -> Option<Socket> {
        let first = self.first()?;
        self.remove(first);
        Some(first)
    }

    /// Takes `socket` out, if it is in the queue.
    pub(super) fn remove(&mut self, socket: Socket) {
        let node = &mut self.nodes[socket.index as usize];
        if node.socket != Some(socket) {
            return;
        }
        let Node { before, after, .. } = *node;
        *node = Node { socket: None, before: NIL, after: NIL };
        *(if before == NIL { &mut self.head } else { &mut self.nodes[before as usize].after }) =
            after;
        *(if after == NIL { &mut self.tail } else { &mut self.nodes[after as usize].before }) =
            before;
        self.len -= 1;
    }

    pub(super) fn first(&self) -> Option<Socket> {
        self.nodes.get(self.head as usize)?.socket
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(index: u32) -> Socket {
        Socket { index, generation: index + 7 }
    }

    #[test]
    fn sockets_leave_in_the_order_they_came_and_stand_there_once() {
        let mut fifo = Fifo::new(4);
        for index in [2, 0, 3, 0, 2, 1] {
            fifo.push(socket(index));
        }
        assert_eq!((fifo.len(), fifo.first()), (4, Some(socket(2))));
        fifo.remove(socket(3));
        fifo.remove(socket(3));
        fifo.push(socket(3));
        let order: Vec<_> = std::iter::from_fn(|| fifo.pop()).map(|s| s.index).collect();
        assert_eq!(order, [2, 0, 1, 3]);
        assert!(fifo.is_empty());
    }

    #[test]
    fn the_first_the_last_and_the_only_one_can_be_removed() {
        let mut fifo = Fifo::new(3);
        (0..3).for_each(|index| fifo.push(socket(index)));
        fifo.remove(socket(0));
        fifo.remove(socket(2));
        assert_eq!(fifo.first(), Some(socket(1)));
        fifo.remove(socket(1));
        assert_eq!((fifo.first(), fifo.pop(), fifo.len()), (None, None, 0));
        fifo.push(socket(2));
        assert_eq!(fifo.pop(), Some(socket(2)));
    }
}
