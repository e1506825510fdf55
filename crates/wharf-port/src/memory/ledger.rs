//! Who holds how many buffers: a tag for each buffer, and their sum.

use crate::sync::{AtomicU8, Ordering};
use std::fmt;
use std::sync::Arc;

/// Who holds a buffer now. A leak thus has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Owner {
    /// Nobody: it is in the pool.
    Free = 0,
    /// The kernel may write received bytes to it.
    KernelReceive = 1,
    /// The program: a handler reads it or fills it.
    Application = 2,
    /// It waits in a link's send queue.
    SendQueue = 3,
    /// The kernel may read bytes to be sent from it.
    KernelSend = 4,
}

impl Owner {
    const COUNT: usize = 5;

    /// The tag of a buffer that is out: it becomes free by being dropped, and not by saying so.
    fn of_one_out(self) -> Self {
        if self == Self::Free { Self::Application } else { self }
    }
}

/// How many buffers each owner holds. The sum is the pool's capacity, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ledger {
    /// In the pool.
    pub free: u32,
    /// With the kernel, to receive into.
    pub kernel_receive: u32,
    /// With the program.
    pub application: u32,
    /// In send queues.
    pub send_queue: u32,
    /// With the kernel, to send from.
    pub kernel_send: u32,
    /// In messages, which a [`MessagePool`](super::MessagePool) has and a
    /// [`BufferPool`](super::BufferPool) has not.
    pub shared: u32,
}

impl Ledger {
    /// The sum over all owners.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.free
            + self.kernel_receive
            + self.application
            + self.send_queue
            + self.kernel_send
            + self.shared
    }
}

/// The ledger of a [`BufferPool`](super::BufferPool) for other threads, to be kept as long as
/// they like.
///
/// After the pool has gone it shows every buffer as free, but for those that a port gave up
/// because the kernel may still write to them.
#[derive(Clone)]
pub struct LedgerView {
    /// One [`Owner`] for each buffer. Only the pool's thread stores; nothing else is published by
    /// a tag, so every access is relaxed.
    tags: Arc<[AtomicU8]>,
}

impl LedgerView {
    /// The view of a pool of which every buffer is free.
    pub(super) fn all_free(buffers: u32) -> Self {
        Self { tags: (0..buffers).map(|_| AtomicU8::new(Owner::Free as u8)).collect() }
    }

    /// Counts the buffers by owner.
    ///
    /// # Cost
    ///
    /// Looks at every buffer's tag, a byte each: for statistics and tests, not for the message
    /// path. While the pool's thread works, the counts may be a moment apart from each other;
    /// their sum is right all the same.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let mut counts = [0_u32; Owner::COUNT];
        for tag in &*self.tags {
            counts[usize::from(tag.load(Ordering::Relaxed))] += 1;
        }
        let [free, kernel_receive, application, send_queue, kernel_send] = counts;
        Ledger { free, kernel_receive, application, send_queue, kernel_send, shared: 0 }
    }

    /// Notes who holds a buffer that is out.
    #[inline]
    pub(super) fn set_out(&self, index: u32, owner: Owner) {
        self.tags[index as usize].store(owner.of_one_out() as u8, Ordering::Relaxed);
    }

    /// Notes that a buffer is in the pool.
    #[inline]
    pub(super) fn set_free(&self, index: u32) {
        debug_assert!(!self.is_free(index), "buffer {index} was released twice");
        self.tags[index as usize].store(Owner::Free as u8, Ordering::Relaxed);
    }

    /// Whether this is the last view, and the pool is gone.
    #[cfg(test)]
    #[cfg(not(loom))]
    pub(super) fn is_last(&self) -> bool {
        Arc::strong_count(&self.tags) == 1
    }

    pub(super) fn is_free(&self, index: u32) -> bool {
        self.tags[index as usize].load(Ordering::Relaxed) == Owner::Free as u8
    }
}

impl fmt::Debug for LedgerView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LedgerView").field(&self.ledger()).finish()
    }
}
