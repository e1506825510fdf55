//! One direction of a connection: bytes in transit, and arrived bytes that are not read.

use std::collections::VecDeque;

/// A bounded queue of bytes, of which the first `arrived` have arrived.
#[derive(Debug)]
pub(super) struct Pipe {
    bytes: VecDeque<u8>,
    arrived: usize,
    /// Bytes that have arrived since the pipe was made.
    arrived_total: u64,
    capacity: usize,
    /// An event of their arrival is scheduled.
    pub(super) arrival_scheduled: bool,
    /// The writer has shut down.
    pub(super) fin_sent: bool,
    /// The end of the stream has arrived.
    pub(super) fin_arrived: bool,
}

impl Pipe {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            arrived: 0,
            arrived_total: 0,
            capacity: capacity.max(1),
            arrival_scheduled: false,
            fin_sent: false,
            fin_arrived: false,
        }
    }

    pub(super) fn spare_capacity(&self) -> usize {
        self.capacity - self.bytes.len()
    }

    /// Bytes that can be read.
    pub(super) fn arrived(&self) -> usize {
        self.arrived
    }

    /// Bytes that were written and have not arrived.
    pub(super) fn in_transit(&self) -> usize {
        self.bytes.len() - self.arrived
    }

    /// Appends as much of `data` as fits, and returns how many bytes.
    pub(super) fn write(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(self.spare_capacity());
        self.bytes.extend(&data[..taken]);
        taken
    }

    pub(super) fn arrive(&mut self, count: usize) {
        let count = count.min(self.in_transit());
        self.arrived += count;
        self.arrived_total += count as u64;
    }

    /// Bytes that have ever arrived, read or not.
    pub(super) fn arrived_total(&self) -> u64 {
        self.arrived_total
    }

    /// Drops the bytes in transit.
    pub(super) fn lose_transit(&mut self) {
        self.bytes.truncate(self.arrived);
    }

    /// Removes at most `max` arrived bytes and passes them to `sink`, in one or two slices.
    pub(super) fn read(&mut self, max: usize, mut sink: impl FnMut(&[u8])) -> usize {
        let count = max.min(self.arrived);
        let (front, back) = self.bytes.as_slices();
        let in_front = count.min(front.len());
        sink(&front[..in_front]);
        if count > in_front {
            sink(&back[..count - in_front]);
        }
        self.bytes.drain(..count);
        self.arrived -= count;
        count
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.fin_arrived && self.bytes.is_empty()
    }

    /// Drops the arrived bytes.
    pub(super) fn lose_arrived(&mut self) {
        self.bytes.drain(..self.arrived);
        self.arrived = 0;
    }
}
