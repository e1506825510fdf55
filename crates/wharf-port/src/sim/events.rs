//! Future events: a heap by time, and by order of insertion among those of the same time.

use super::connection::ConnId;
use crate::port::operation::{OperationKind, Socket};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// The kind of an event.
#[derive(Clone, Copy, Debug)]
pub(super) enum EventKind {
    /// Bytes reach the side `to` of a connection.
    Arrive { conn: ConnId, to: u8 },
    /// A reset reaches the side `to` of a connection.
    Reset { conn: ConnId, to: u8 },
    /// A connection reaches its listener.
    Connect { conn: ConnId, listener: Socket },
    /// A step of a port's kernel is due.
    Step { port: u32, step: SocketStep },
    /// A port's wait ends.
    Wake { port: u32 },
}

/// A step of a port's kernel on one socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketStep {
    pub(super) socket: Socket,
    pub(super) step: Step,
}

/// A step of an operation. Each means "try now", so a superfluous one has no effect.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// There may be a connection to accept.
    Acceptable,
    /// There may be bytes or an end to receive.
    Readable,
    /// The kernel writes into the buffer that a receive has acquired.
    Fill,
    /// The pipe may have spare capacity.
    Writable,
    /// A send whose result is decided completes.
    SendDone,
    /// A cancel reaches its operation.
    Cancel(OperationKind),
    /// The sending side is shut down.
    Shutdown,
    /// A close begins: cancels all operations.
    Close,
    /// A close ends: no operation is in flight any more.
    Finish,
}

/// The events in the order of their time.
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

    /// Removes the next event, if it is due.
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
        // Reversed: `BinaryHeap` has the greatest element on top.
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
