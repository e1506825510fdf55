//! Which receive gets a buffer: at most `receives_max` per dequeue, and waiting sockets first.

use crate::memory::{Buffer, BufferPool, Owner};
use crate::port::{Bulk, Demand, Socket, SocketQueue};

/// The buffers for receives, and the sockets that wait for one.
pub(super) struct Supply {
    pub(super) pool: BufferPool,
    /// Sockets that wait for a buffer, in FIFO order.
    pub(super) waiting: SocketQueue,
    /// Receives that this dequeue may still make, and that each may.
    receives_left: u32,
    receives_max: u32,
}

impl Supply {
    pub(super) fn new(pool: BufferPool, sockets_max: u32, receives_max: u32) -> Self {
        Self { pool, waiting: SocketQueue::new(sockets_max), receives_left: 0, receives_max }
    }

    /// Resets the count of receives at the start of a dequeue.
    pub(super) fn begin_dequeue(&mut self) {
        self.receives_left = self.receives_max;
    }

    /// Whether this dequeue has made `receives_max` receives.
    pub(super) fn has_no_receives_left(&self) -> bool {
        self.receives_left == 0
    }

    /// Whether the next receive would wait for a buffer.
    pub(super) fn would_wait(&self) -> bool {
        !self.waiting.is_empty() || self.pool.free_count() == 0
    }

    /// Whether a socket waits for a buffer, and one is free.
    pub(super) fn can_serve_waiters(&self) -> bool {
        !self.waiting.is_empty() && self.pool.free_count() > 0
    }

    /// A buffer for a readable socket; otherwise `None`, and the socket is appended to `waiting`.
    pub(super) fn buffer_for(
        &mut self,
        socket: Socket,
        bulk: Bulk,
        demand: Demand,
    ) -> Option<Buffer> {
        let may_take = self.waiting.is_empty();
        let acquire = || bulk.acquire(demand, &self.pool, Owner::Application);
        let buffer = may_take.then(acquire).flatten();
        match &buffer {
            Some(buffer) => self.count(buffer),
            None => self.waiting.push_back(socket),
        }
        buffer
    }

    /// Counts a receive; one into a large buffer counts as many as it has the size of.
    fn count(&mut self, buffer: &Buffer) {
        let receives = buffer.capacity() / self.pool.buffer_size_bytes();
        self.receives_left = self.receives_left.saturating_sub(receives);
    }

    /// The first waiting socket, with a buffer for it.
    pub(super) fn next_waiter(&mut self) -> Option<(Socket, Buffer)> {
        if self.receives_left == 0 || self.waiting.is_empty() {
            return None;
        }
        let buffer = self.pool.acquire(Owner::Application)?;
        let socket = self.waiting.pop_front()?;
        self.receives_left -= 1;
        Some((socket, buffer))
    }
}
