//! Which receive gets a buffer: at most so many in a dequeue, and nobody before those that wait.

use crate::memory::{Buffer, BufferPool, Owner};
use crate::port::{Bulk, Demand, Socket, SocketQueue};

/// The buffers for receives, and the sockets that found none.
pub(super) struct Supply {
    pub(super) pool: BufferPool,
    /// Sockets that found no buffer, in the order in which they ran out.
    pub(super) waiting: SocketQueue,
    /// Receives that this dequeue may still do, and that each may.
    receives_left: u32,
    receives_max: u32,
}

impl Supply {
    pub(super) fn new(pool: BufferPool, sockets_max: u32, receives_max: u32) -> Self {
        Self { pool, waiting: SocketQueue::new(sockets_max), receives_left: 0, receives_max }
    }

    /// A dequeue begins.
    pub(super) fn begin_dequeue(&mut self) {
        self.receives_left = self.receives_max;
    }

    /// Whether this dequeue has done all the receives that it may.
    pub(super) fn has_no_receives_left(&self) -> bool {
        self.receives_left == 0
    }

    /// Whether the next receive would wait for a buffer.
    pub(super) fn would_wait(&self) -> bool {
        !self.waiting.is_empty() || self.pool.free() == 0
    }

    /// Whether a socket waits for a buffer, and there is one.
    pub(super) fn can_serve_waiters(&self) -> bool {
        !self.waiting.is_empty() && self.pool.free() > 0
    }

    /// A buffer for a socket that has something to receive; `None` puts it behind the others that
    /// wait for one.
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

    /// Counts a receive: one into a large buffer is as many as that has bytes for.
    fn count(&mut self, buffer: &Buffer) {
        let receives = buffer.capacity() / self.pool.buffer_size_bytes();
        self.receives_left = self.receives_left.saturating_sub(receives);
    }

    /// The socket that has waited longest, with a buffer for it.
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
