//! What happens later: a heap by time, and by order of entry within one moment.

use super::connection::ConnId;
use crate::port::{OperationKind, Socket};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Something that will happen in the world.
#[derive(Clone, Copy, Debug)]
pub(super) enum EventKind {
    /// Bytes reach the side `to` of a connection.
    Arrive { conn: ConnId, to: u8 },
    /// A reset reaches the side `to` of a connection.
    Reset { conn: ConnId, to: u8 },
    /// A connection reaches its listener.
    Connect { conn: ConnId, listener: Socket },
    /// A port's kernel goes on with something.
    Step { port: u32, step: SocketStep },
    /// A port's wait ends.
    Wake { port: u32 },
}

/// What a port's kernel has to look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketStep {
    pub(super) socket: Socket,
    pub(super) step: Step,
}

/// One step of an operation. Each means "try now": one that comes too often does no harm.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// There may be something to accept.
    Acceptable,
    /// There may be something to receive.
    Readable,
    /// The kernel writes into the buffer that a receive has picked.
    Fill,
    /// There may be room to send.
    Writable,
    /// A send whose bytes are all gone completes.
    SendDone,
    /// A cancel reaches its operation.
    Cancel(OperationKind),
    /// No more bytes follow.
    Shutdown,
    /// A close begins: everything is cancelled.
    Close,
    /// A close ends: nothing is in flight any more.
    Finish,
}

/// Events in the order in which they happen.
#[derive(Debug, Default)]
pub(super) struct Events {
    heap: BinaryHeap<Event>,
    entered: u64,
}

#[derive(Debug)]
struct Event {
    at_ns: u64,
    entry: u64,
    kind: EventKind,
}

impl Events {
    pub(super) fn push(&mut self, at_ns: u64, kind: EventKind) {
        self.entered += 1;
        self.heap.push(Event { at_ns, entry: self.entered, kind });
    }

    /// The next event, if its time has come.
    pub(super) fn pop_due(&mut self, now_ns: u64) -> Option<EventKind> {
        if self.next_ns()? > now_ns {
            return None;
        }
        self.heap.pop().map(|event| event.kind)
    }

    pub(super) fn next_ns(&self) -> Option<u64> {
        self.heap.peek().map(|event| event.at_ns)
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        // Turned round: the standard heap has the greatest on top.
        (other.at_ns, other.entry).cmp(&(self.at_ns, self.entry))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.entry == other.entry
    }
}

impl Eq for Event {}
