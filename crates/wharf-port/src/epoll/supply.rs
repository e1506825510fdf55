//! Which receive gets a buffer: at most so many in a dequeue, and nobody before those that wait.

use crate::memory::{Buffer, BufferPool, Owner};
use crate::port::{Bulk, Demand, Socket, SocketQueue};

/// The buffers for receives, and the sockets that found none.
pub(super) struct Supply {
    pub(super) pool: BufferPool,
    /// Sockets that found no buffer, in the order in which they ran out.
    pub(super) waiting: SocketQueue,
    /// Receives that this dequeue may still do, and that each may.
    left: u32,
    max: u32,
}

impl Supply {
    pub(super) fn new(pool: BufferPool, sockets_max: u32, receives_max: u32) -> Self {
        Self { pool, waiting: SocketQueue::new(sockets_max), left: 0, max: receives_max }
    }

    /// A dequeue begins.
    pub(super) fn renew(&mut self) {
        self.left = self.max;
    }

    /// Whether this dequeue has done all the receives that it may.
    pub(super) fn is_used_up(&self) -> bool {
        self.left == 0
    }

    /// Whether the next receive would wait for a buffer.
    pub(super) fn is_short(&self) -> bool {
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
        self.left = self.left.saturating_sub(receives);
    }

    /// The socket that has waited longest, with a buffer for it.
    pub(super) fn next_waiter(&mut self) -> Option<(Socket, Buffer)> {
        if self.left == 0 || self.waiting.is_empty() {
            return None;
        }
        let buffer = self.pool.acquire(Owner::Application)?;
        let socket = self.waiting.pop_front()?;
        self.left -= 1;
        Some((socket, buffer))
    }
}
