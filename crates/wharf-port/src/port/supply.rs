//! Which receive gets a buffer: sockets that wait for one come first, and a dequeue fills a limited
//! number.
//!
//! epoll and IOCP acquire a buffer here when a socket is readable. The simulated port counts and
//! queues here, but its kernel may fill a buffer later than it acquires it. io_uring has only the
//! queue, because there the kernel chooses a provided buffer when bytes arrive; its rule is
//! `serve_waiters` in `uring/dequeue.rs`.

use super::bulk::Bulk;
use super::contract::Counters;
use super::demand::Demand;
use super::operation::Socket;
use super::socket_queue::SocketQueue;
use crate::memory::buffer::Buffer;
use crate::memory::error::MemoryError;
use crate::memory::ledger::Owner;
use crate::memory::pool::BufferPool;

/// The buffers for receives, and the sockets that wait for one.
#[derive(Debug)]
pub(crate) struct Supply {
    pool: BufferPool,
    /// Sockets that wait for a buffer, in FIFO order.
    waiting: SocketQueue,
    /// Buffers that this dequeue has filled.
    filled: u32,
    /// The most that a dequeue fills.
    filled_max: u32,
}

impl Supply {
    pub(crate) fn new(
        pool: BufferPool,
        sockets_max: u32,
        filled_max: u32,
    ) -> Result<Self, MemoryError> {
        Ok(Self { pool, waiting: SocketQueue::new(sockets_max)?, filled: 0, filled_max })
    }

    pub(crate) fn pool(&self) -> &BufferPool {
        &self.pool
    }

    /// Queues a socket whose receive has found no buffer, unless it waits already.
    pub(crate) fn wait(&mut self, socket: Socket, counters: &mut Counters) {
        counters.buffer_waits += 1;
        self.waiting.push_back(socket);
    }

    /// Removes a socket that is to wait no longer, if it waits.
    pub(crate) fn forget(&mut self, socket: Socket) {
        self.waiting.remove(socket);
    }

    /// The number of sockets that wait for a buffer.
    pub(crate) fn waiting_count(&self) -> u32 {
        self.waiting.len()
    }

    /// Resets the count of filled buffers at the start of a dequeue.
    pub(crate) fn begin_dequeue(&mut self) {
        self.filled = 0;
    }

    /// Whether this dequeue has filled as many buffers as it may.
    pub(crate) fn is_used_up(&self) -> bool {
        self.filled >= self.filled_max
    }

    /// Counts a filled buffer as `buffers`: a large one as many as it has the size of, but as one on
    /// the simulated port.
    pub(crate) fn count_filled(&mut self, buffers: u32) {
        self.filled = self.filled.saturating_add(buffers);
    }

    /// Whether a receive that needs a buffer must queue behind others, whether one is free or not.
    pub(crate) fn has_waiters(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether a socket waits for a buffer, and one is free.
    pub(crate) fn can_serve_waiters(&self) -> bool {
        self.has_waiters() && self.pool.free_count() > 0
    }

    /// Whether a socket that has received `received` times in this dequeue may receive once more in
    /// it. After the first time it may only if it need not wait, so that it does not queue for a
    /// buffer before sockets that have received nothing.
    #[cfg(any(target_os = "linux", windows))]
    pub(crate) fn may_receive(&self, received: u32) -> bool {
        let must_wait = || self.has_waiters() || self.pool.free_count() == 0;
        !self.is_used_up() && (received == 0 || !must_wait())
    }

    /// A buffer for a readable socket; `None` if its receive must wait for one.
    #[cfg(any(target_os = "linux", windows))]
    pub(crate) fn buffer_for(&mut self, bulk: Bulk, demand: Demand) -> Option<Buffer> {
        if self.has_waiters() {
            return None;
        }
        let owner = Owner::Application;
        let large = bulk.acquire_large(demand, &self.pool, owner);
        let buffer = large.or_else(|| self.pool.acquire(owner))?;
        self.count_filled(buffer.capacity() / self.pool.buffer_size_bytes());
        Some(buffer)
    }

    /// Removes the first waiting socket, for which the simulated kernel has a buffer.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn pop_waiter(&mut self) -> Option<Socket> {
        self.waiting.pop_front()
    }

    /// The most buffers that a dequeue fills.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn filled_max(&self) -> u32 {
        self.filled_max
    }

    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn set_filled_max(&mut self, filled_max: u32) {
        self.filled_max = filled_max;
    }

    /// Removes the first waiting socket, with a buffer for it, if this dequeue may fill one more and
    /// one is free.
    #[cfg(any(target_os = "linux", windows))]
    pub(crate) fn next_waiter(&mut self) -> Option<(Socket, Buffer)> {
        if self.is_used_up() || !self.has_waiters() {
            return None;
        }
        let buffer = self.pool.acquire(Owner::Application)?;
        let socket = self.waiting.pop_front()?;
        self.count_filled(1);
        Some((socket, buffer))
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[cfg(any(target_os = "linux", windows))]
mod tests {
    use super::*;
    use crate::memory::pool::PoolConfig;
    use crate::port::operation::CompletionMode;

    fn socket(index: u32) -> Socket {
        Socket { index, generation: 1 }
    }

    #[test]
    fn a_receive_queues_behind_those_that_wait_although_a_buffer_is_free() {
        let pool = BufferPool::new(PoolConfig::new(2)).unwrap();
        let mut supply = Supply::new(pool, 4, 8).unwrap();
        let demand = Demand::new(CompletionMode::Multishot, u32::MAX);
        let held = [(); 2].map(|()| supply.buffer_for(Bulk::default(), demand).unwrap());
        assert!(supply.buffer_for(Bulk::default(), demand).is_none());
        let mut counters = Counters::default();
        supply.wait(socket(3), &mut counters);
        assert_eq!((supply.waiting_count(), counters.buffer_waits), (1, 1));
        assert!(!supply.can_serve_waiters() && supply.next_waiter().is_none());
        drop(held);
        assert!(supply.can_serve_waiters() && supply.may_receive(0) && !supply.may_receive(1));
        assert!(supply.buffer_for(Bulk::default(), demand).is_none(), "it would overtake");
        assert_eq!(supply.next_waiter().unwrap().0, socket(3));
        assert!(supply.buffer_for(Bulk::default(), demand).is_some());
    }

    #[test]
    fn a_dequeue_fills_as_many_buffers_as_it_may_and_a_large_one_counts_by_its_size() {
        let config =
            PoolConfig { large_buffers: 1, large_size_bytes: 4 * 2048, ..PoolConfig::new(16) };
        let mut supply = Supply::new(BufferPool::new(config).unwrap(), 4, 5).unwrap();
        let demand = Demand::new(CompletionMode::Multishot, u32::MAX);
        let mut bulk = Bulk::default();
        bulk.record(2048, &supply.pool);
        let large = supply.buffer_for(bulk, demand).unwrap();
        assert!(large.is_large(&supply.pool) && supply.may_receive(1));
        let small = supply.buffer_for(bulk, demand).unwrap();
        assert!(supply.is_used_up() && !supply.may_receive(0));
        supply.wait(socket(0), &mut Counters::default());
        drop((large, small));
        assert!(supply.can_serve_waiters() && supply.next_waiter().is_none());
        supply.begin_dequeue();
        assert!(supply.next_waiter().is_some());
    }
}
