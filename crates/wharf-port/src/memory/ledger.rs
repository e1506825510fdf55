//! The owner of each buffer, as a tag, and the counts by owner.

use super::error::MemoryError;
use super::table::try_table;
use crate::sync::{AtomicU8, Ordering};
use std::fmt;
use std::sync::Arc;

/// What holds a buffer. It names the part of the program that leaks one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Owner {
    /// It is free, in the pool.
    Free = 0,
    /// The kernel may write received bytes to it.
    KernelReceive = 1,
    /// The program reads it or writes it.
    Application = 2,
    /// It is in a send queue.
    SendQueue = 3,
    /// The kernel may read the bytes of a send from it.
    KernelSend = 4,
}

impl Owner {
    const COUNT: usize = 5;

    /// The tag of a buffer in use: only its release makes it free, so `Free` becomes `Application`.
    fn of_one_out(self) -> Self {
        if self == Self::Free { Self::Application } else { self }
    }
}

/// Buffers by owner. Their sum is the pool's capacity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BufferCounts {
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
    /// In messages; 0 for a [`BufferPool`](super::BufferPool), only a
    /// [`MessagePool`](super::MessagePool) has them.
    pub shared: u32,
}

impl BufferCounts {
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

/// The ledger of a [`BufferPool`](super::BufferPool), for other threads and beyond the pool's end.
///
/// After the pool was dropped it counts every buffer as free, except those that were leaked, by a
/// port because the kernel may still write to them, or with a [`Parcel`](super::Parcel).
#[derive(Clone)]
pub struct LedgerView {
    /// One [`Owner`] for each buffer. Only the pool's thread stores, and no other data depends on a
    /// tag, so every access is relaxed.
    tags: Arc<Tags>,
}

/// In a box of its own, because std allocates the slice of an `Arc` infallibly.
struct Tags(Box<[AtomicU8]>);

impl LedgerView {
    /// The view of a pool whose buffers are all free.
    pub(super) fn all_free(buffers: u32) -> Result<Self, MemoryError> {
        let tags = (0..buffers).map(|_| AtomicU8::new(Owner::Free as u8));
        Ok(Self { tags: Arc::new(Tags(try_table("the owners of buffers", tags)?)) })
    }

    /// Counts the buffers by owner.
    ///
    /// # Cost
    ///
    /// Reads every buffer's tag, a byte each: for statistics and tests, not for each message. While
    /// the pool's thread works, the counts are of slightly different times; their sum is exact.
    #[must_use]
    pub fn ledger(&self) -> BufferCounts {
        let mut counts = [0_u32; Owner::COUNT];
        for tag in &self.tags.0 {
            counts[usize::from(tag.load(Ordering::Relaxed))] += 1;
        }
        let [free, kernel_receive, application, send_queue, kernel_send] = counts;
        BufferCounts { free, kernel_receive, application, send_queue, kernel_send, shared: 0 }
    }

    /// Sets the owner of a buffer in use.
    #[inline]
    pub(super) fn set_out(&self, index: u32, owner: Owner) {
        self.tags.0[index as usize].store(owner.of_one_out() as u8, Ordering::Relaxed);
    }

    /// Sets a buffer's owner to `Free`.
    #[inline]
    pub(super) fn set_free(&self, index: u32) {
        assert!(!self.is_free(index), "buffer {index} was released twice");
        self.tags.0[index as usize].store(Owner::Free as u8, Ordering::Relaxed);
    }

    /// Whether this is the last view, and the pool was freed.
    #[cfg(test)]
    #[cfg(not(loom))]
    pub(crate) fn is_last(&self) -> bool {
        Arc::strong_count(&self.tags) == 1
    }

    pub(super) fn is_free(&self, index: u32) -> bool {
        self.tags.0[index as usize].load(Ordering::Relaxed) == Owner::Free as u8
    }
}

impl fmt::Debug for LedgerView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LedgerView").field(&self.ledger()).finish()
    }
}
