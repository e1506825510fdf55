//! Typed packets for workers: who posts them, and the workers' ends of the queues.

use crate::shared::Shared;
use crate::vocabulary::error::PostError;
use crate::vocabulary::origin::WorkerId;
use std::fmt;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use wharf_port::memory::{MemoryError, try_with_capacity};

/// Makes a queue of packets of type `P` for each worker of a server: the completion port's
/// `PostQueuedCompletionStatus`, with a type. The [`Poster`] goes to where packets come from, also into
/// the handler; the [`Inbox`] to [`Builder::inbox`](crate::Builder::inbox).
///
/// Each worker has space for `capacity` packets, 1 to 1,048,576; other values are clamped.
///
/// # Examples
///
/// ```
/// use wharf::{Handler, Input, Link, OnPost, Result, Server, Worker};
///
/// struct Prices;
///
/// /// What a feed of another thread says.
/// struct Price(u64);
///
/// impl Handler<(), u64> for Prices {
///     fn on_worker_start(&self, _: &mut Worker<'_>) -> Result<u64> {
///         Ok(0)
///     }
///
///     fn on_receive(&self, link: &mut Link<'_, (), u64>, input: &mut Input<'_>) -> Result {
///         while input.line(100)?.is_some() {
///             link.out.send(format_args!("{}\n", link.worker))?;
///         }
///         Ok(())
///     }
/// }
///
/// impl OnPost<Price, u64> for Prices {
///     fn on_post(&self, worker: &mut Worker<'_, u64>, Price(price): Price) {
///         *worker.context = price;
///     }
/// }
///
/// let (poster, inbox) = wharf::inbox(64);
/// let server = Server::builder(Prices).inbox(inbox).listen("127.0.0.1:0").start()?;
/// for worker in server.handle().workers() {
///     poster.try_post(worker, Price(17))?;
/// }
/// server.handle().stop(std::time::Duration::ZERO);
/// server.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Cost
///
/// The queues are allocated at the start; a post moves the packet and allocates nothing.
#[must_use]
pub fn inbox<P: Send + 'static>(capacity: u32) -> (Poster<P>, Inbox<P>) {
    let queues: Arc<Lock<P>> = Arc::default();
    let inbox = Inbox { capacity: capacity.clamp(1, CAPACITY_MAX), queues: Arc::clone(&queues) };
    (Poster { queues }, inbox)
}

const CAPACITY_MAX: u32 = 1 << 20;

/// About what std's channel has for each packet.
type Slot<P> = (AtomicUsize, MaybeUninit<P>);

/// `None` while no server runs with the inbox.
type Lock<P> = RwLock<Option<Queues<P>>>;

/// The senders of a server's workers.
struct Queues<P> {
    senders: Box<[SyncSender<P>]>,
    server: Arc<Shared>,
}

/// Posts packets to the workers of the server that has its [`Inbox`]; from [`inbox`].
pub struct Poster<P> {
    queues: Arc<Lock<P>>,
}

impl<P: Send + 'static> Poster<P> {
    /// Posts a packet to a worker, and wakes it if it sleeps. Packets of one thread to one worker keep
    /// their order. What a worker has not received when it ends is dropped.
    ///
    /// # Errors
    ///
    /// The packet is returned: [`PostError::Full`] if the worker's queue has no space,
    /// [`PostError::Stopping`] if the server is stopping, [`PostError::Closed`] if it does not run or has
    /// no such worker.
    ///
    /// # Cost
    ///
    /// A lock that only the start and the end of the server hold against it, and a lock-free queue; a
    /// system call if the worker sleeps.
    pub fn try_post(&self, worker: WorkerId, packet: P) -> Result<(), Undelivered<P>> {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        let refused = |packet, reason| Err(Undelivered { packet, reason });
        let Some(Queues { senders, server }) = &*queues else {
            return refused(packet, PostError::Closed);
        };
        if server.stopping().is_some() {
            return refused(packet, PostError::Stopping);
        }
        let Some(sender) = senders.get(worker.index()) else {
            return refused(packet, PostError::Closed);
        };
        match sender.try_send(packet) {
            Ok(()) => {
                server.note_packets(worker.index());
                Ok(())
            }
            Err(TrySendError::Full(packet)) => refused(packet, PostError::Full),
            Err(TrySendError::Disconnected(packet)) => refused(packet, PostError::Closed),
        }
    }
}

impl<P> Clone for Poster<P> {
    fn clone(&self) -> Self {
        Self { queues: Arc::clone(&self.queues) }
    }
}

impl<P> fmt::Debug for Poster<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poster").finish_non_exhaustive()
    }
}

/// The receiving side of a [`Poster`], for [`Builder::inbox`](crate::Builder::inbox).
pub struct Inbox<P> {
    capacity: u32,
    queues: Arc<Lock<P>>,
}

impl<P: Send + 'static> Inbox<P> {
    /// Memory of one worker's queue.
    pub(crate) fn size_bytes(&self) -> u64 {
        u64::from(self.capacity) * size_of::<Slot<P>>() as u64
    }

    /// Makes the queues of a server, one for each worker.
    pub(crate) fn open(&self, server: &Arc<Shared>) -> Result<Vec<WorkerQueue<P>>, MemoryError> {
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for _ in &server.shards {
            // The channel's own allocation cannot fail: one of its size is tried before.
            drop(try_with_capacity::<Slot<P>>("the packets of a worker", self.capacity as usize)?);
            let (sender, receiver) = sync_channel(self.capacity as usize);
            senders.push(sender);
            receivers.push(receiver);
        }
        let closes = Arc::new(CloseOnDrop { queues: Arc::clone(&self.queues) });
        let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        *queues = Some(Queues { senders: senders.into(), server: Arc::clone(server) });
        let queue = |packets| WorkerQueue { packets, _closes: Arc::clone(&closes) };
        Ok(receivers.into_iter().map(queue).collect())
    }
}

impl<P> fmt::Debug for Inbox<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

/// The queue of one worker.
pub(crate) struct WorkerQueue<P> {
    packets: Receiver<P>,
    _closes: Arc<CloseOnDrop<P>>,
}

impl<P> WorkerQueue<P> {
    pub(crate) fn take(&self) -> Option<P> {
        self.packets.try_recv().ok()
    }
}

/// Releases the queues when the last worker has ended, also while posters are kept.
struct CloseOnDrop<P> {
    queues: Arc<Lock<P>>,
}

impl<P> Drop for CloseOnDrop<P> {
    fn drop(&mut self) {
        *self.queues.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A packet that was not posted.
#[non_exhaustive]
pub struct Undelivered<P> {
    /// The packet.
    pub packet: P,
    /// Why it was not posted.
    pub reason: PostError,
}

impl<P> fmt::Debug for Undelivered<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Undelivered").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<P> fmt::Display for Undelivered<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<P> std::error::Error for Undelivered<P> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.reason)
    }
}

/// The ticks of [`Builder::every`](crate::Builder::every): for each worker, whether one is due. Ticks
/// that a busy worker has missed are one.
#[derive(Debug)]
pub(crate) struct Ticks(Box<[AtomicBool]>);

impl Ticks {
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| AtomicBool::new(false)).collect())
    }

    /// A tick of all workers.
    pub(crate) fn tick(&self, server: &Shared) {
        for (worker, is_due) in self.0.iter().enumerate() {
            is_due.store(true, Ordering::Release);
            server.note_packets(worker);
        }
    }

    /// Takes the tick of a worker.
    pub(crate) fn take(&self, worker: usize) -> bool {
        self.0[worker].swap(false, Ordering::AcqRel)
    }
}
