//! The port on io_uring: the kernel executes the operations, in one system call per dequeue.
//!
//! ```text
//!   submit ──► submission queue ─┐                       ┌─► completion queue ──► dequeue
//!                                ├─ io_uring_enter, once ┤
//!   pool ────► buffer rings ─────┘    per dequeue        └─► filled buffers of a ring
//! ```
//!
//! - A multishot receive is armed once and takes a buffer only when bytes are there, from the
//!   *buffer ring*: a ring of provided buffers for all sockets together.
//! - A second ring has large buffers. A receive of a stream that fills buffers is armed as a
//!   oneshot receive into these, so that it ends at its limit to the byte; while none is free it
//!   uses the first ring.
//! - A close cancels the operations in flight and waits for their last completions; then it closes
//!   the descriptor and frees the slot.
//! - A cancelled operation may still succeed; the port reports whichever completion the kernel
//!   makes.
//! - A socket whose receive found no buffer waits in a queue. Each dequeue arms an *attempt*, a
//!   nonblocking oneshot receive, for as many waiting sockets as there are provided buffers. The
//!   socket keeps its position in the queue until it is served, so an attempt whose buffer another
//!   receive took does not set it back.
//! - While others wait for a buffer, a receive that is armed anew only *polls*: the kernel executes
//!   a receive at once if bytes are there, so it would take a buffer before the waiting ones.
//!
//! # Invariants
//!
//! - **INV-URING-1** `in_kernel` of a socket counts its operations whose last completion has not
//!   been processed. Its descriptor, chain and slot exist until that is 0.
//! - **INV-URING-2** The memory that a submission entry points to (bytes, message headers) is of
//!   the chain that the socket's slot owns, or of the vector table, whose headers are reused only
//!   after the kernel has consumed the entry: a header is taken only if its entry fits into the
//!   queue at once.

mod buffer_ring;
mod dequeue;
mod setup;
mod submit;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
mod vectors;

pub use setup::probe;

use crate::linux::{self, EventFd};
use crate::memory::chain::Chain;
use crate::memory::pool::BufferPool;
use crate::memory::table::try_with_capacity;
use crate::port::admission::SocketUse;
use crate::port::bulk::Bulk;
use crate::port::clock::Clock;
use crate::port::contract::{Completions, Counters, Port, PortConfig, Time};
use crate::port::demand::Demand;
use crate::port::error::{OsError, PortError};
use crate::port::inbox::{Inbox, Poster};
use crate::port::operation::{AssociateError, Key, Operation, OperationKind, Socket, SubmitError};
use crate::port::seat::{MovablePort, SeatPort};
use crate::port::socket_queue::SocketQueue;
use crate::port::table::SocketTable;
use buffer_ring::BufferRing;
use io_uring::IoUring;
use io_uring::squeue;
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use setup::Submitters;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use vectors::Vectors;

/// A completion port on io_uring; `T` is the type of posted packets.
///
/// It stays on the thread that created it: the ring is set up for one submitting thread
/// (IORING_SETUP_SINGLE_ISSUER).
///
/// # Platforms
///
/// Linux. [`probe`] returns the reason if this machine does not support it.
///
/// ```compile_fail
/// fn elsewhere<T: Send>() {}
/// elsewhere::<wharf_port::uring::UringPort<u64>>();
/// ```
pub struct UringPort<T: Send> {
    /// The first field, so that it is dropped before the memory that operations use.
    ring: IoUring,
    buffer_ring: BufferRing,
    /// The ring of large buffers, if the pool has any.
    large_ring: Option<BufferRing>,
    vectors: Vectors,
    sockets: SocketTable<SocketState>,
    /// Submission entries that did not fit the queue. Empty unless `io_uring_enter` fails.
    overflow: VecDeque<squeue::Entry>,
    /// Sockets for which [`report_pending`](Self::report_pending) may make a completion; each is
    /// here at most once.
    unreported: VecDeque<Socket>,
    /// Sockets that wait for a buffer, in FIFO order, including those whose attempt is in the
    /// kernel. Not a `Supply`: the kernel chooses the buffers, and the number of provided ones
    /// limits how many a dequeue fills.
    waiting: SocketQueue,
    /// Attempts in the kernel; at most as many as there are provided buffers.
    attempts: u32,
    /// Operations in the kernel whose last completion has not been processed.
    in_kernel: u32,
    /// Counts calls of `io_uring_enter`, so that a cancel is not repeated before it was submitted.
    /// If it wraps to the same value, the next completion repeats the cancel.
    enters: u8,
    /// Failed `io_uring_enter` calls in a row.
    failures: u32,
    inbox: Inbox<T>,
    wake: Arc<EventFd>,
    pool: BufferPool,
    clock: Clock,
    counters: Counters,
    /// The ring takes submissions of any thread.
    is_movable: bool,
    one_thread: PhantomData<*const ()>,
}

/// The state of a socket.
#[derive(Debug)]
struct SocketState {
    fd: OwnedFd,
    listener: bool,
    /// The kernel has rejected a multishot accept on this listener: it has none (before Linux 5.19),
    /// or accepts fail on it.
    accepts_once: bool,
    /// Accepts in a row that have failed with an error of a single connection.
    accept_aborts: u32,
    /// The receive, or a listener's accept.
    input: Option<InputOperation>,
    send: Option<SendOperation>,
    /// The last receive filled its buffer, so there may be more bytes.
    fills: bool,
    bulk: Bulk,
    /// INV-URING-1
    in_kernel: u8,
    closing: bool,
    /// The socket is in `unreported`.
    queued: bool,
}

/// A receive or an accept in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InputOperation {
    demand: Demand,
    stage: Stage,
    /// A cancel was requested, by the program or because the receive is at its limit.
    cancelled: bool,
    /// The value of `enters` when the last cancel was queued.
    cancelled_at: u8,
}

/// What a receive or an accept waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Armed in the kernel, oneshot, multishot or nonblocking as its `CompletionMode`.
    Armed,
    /// A oneshot receive into a large buffer, in the kernel.
    ArmedLarge,
    /// A receive in `waiting` with a nonblocking oneshot receive in the kernel.
    Attempt,
    /// A receive in `waiting`, not in the kernel.
    WaitingForBuffer,
    /// A poll in the kernel, for a zero-byte receive or while others wait for a buffer.
    Poll,
    /// A `CompletionMode::IfReady` receive, of 0 bytes or while others wait for a buffer: the next dequeue
    /// peeks.
    PeekPending,
    /// Cancelled while it was not in the kernel; the next dequeue completes it.
    CancelPending,
}

#[derive(Debug)]
struct SendOperation {
    chain: Chain,
    /// Bytes that were sent.
    sent: usize,
    /// It completes when it has sent as many.
    goal: usize,
    cancelled: bool,
}

impl SocketState {
    fn usage(&self) -> SocketUse {
        SocketUse {
            is_listener: self.listener,
            is_closing: self.closing,
            accept_in_flight: self.listener && self.input.is_some(),
            receive_in_flight: !self.listener && self.input.is_some(),
            send_in_flight: self.send.is_some(),
        }
    }
}

/// An estimate of the bytes that a port with this configuration allocates: slots, queues, rings and
/// message headers.
pub(crate) fn table_size_bytes(config: &PortConfig) -> u64 {
    let (submissions, completions) = setup::queue_sizes(config.sockets_max);
    let slot = size_of::<SocketState>() + 24 + size_of::<Socket>() + SocketQueue::NODE_SIZE_BYTES;
    u64::from(config.sockets_max) * slot as u64
        + u64::from(submissions) * size_of::<squeue::Entry>() as u64
        + u64::from(completions) * 16
        + u64::from(config.receive_buffers_max) * 40
        + Vectors::SIZE_BYTES as u64
}

impl<T: Send> UringPort<T> {
    /// Creates a port that receives into buffers of `pool`, which no other port uses.
    ///
    /// # Errors
    ///
    /// [`PortError`] if io_uring is not available, or the system has too little memory or too few
    /// descriptors; its text names the usual cause.
    ///
    /// # Panics
    ///
    /// If a value of `config` is outside the range stated there.
    pub fn new(config: PortConfig, pool: BufferPool) -> Result<Self, PortError> {
        config.validate();
        let ring = setup::ring_for(config.sockets_max, Submitters::One)?;
        Self::on_ring(ring, config, pool)
    }

    /// As [`new`](Self::new), but the port may move to other threads, and costs up to 10 % more.
    pub(crate) fn movable(config: PortConfig, pool: BufferPool) -> Result<Self, PortError> {
        config.validate();
        let ring = setup::ring_for(config.sockets_max, Submitters::OneAfterTheOther)?;
        let mut port = Self::on_ring(ring, config, pool)?;
        port.is_movable = true;
        Ok(port)
    }

    fn on_ring(ring: IoUring, config: PortConfig, pool: BufferPool) -> Result<Self, PortError> {
        let wake = Arc::new(EventFd::new()?);
        let inbox = Inbox::new(config.inbox_capacity, Arc::<EventFd>::clone(&wake))?;
        let slots = config.sockets_max as usize;
        let large = pool.large().cloned();
        let large =
            large.map(|pool| BufferRing::new(&ring, buffer_ring::LARGE_GROUP, pool, u32::MAX));
        let mut port = Self {
            buffer_ring: BufferRing::new(
                &ring,
                buffer_ring::SMALL_GROUP,
                pool.clone(),
                config.receive_buffers_max,
            )?,
            large_ring: large.transpose()?,
            ring,
            vectors: Vectors::new()?,
            sockets: SocketTable::new(config.sockets_max)?,
            overflow: VecDeque::new(),
            unreported: try_with_capacity("the sockets to report", slots)?.into(),
            waiting: SocketQueue::new(config.sockets_max)?,
            attempts: 0,
            in_kernel: 0,
            enters: 0,
            failures: 0,
            inbox,
            wake,
            pool,
            clock: Clock::new(),
            counters: Counters::default(),
            is_movable: false,
            one_thread: PhantomData,
        };
        port.watch_wake();
        Ok(port)
    }

    fn insert_socket<S: Into<OwnedFd>>(
        &mut self,
        socket: S,
        listener: bool,
        key: Key,
    ) -> Result<Socket, AssociateError<S>> {
        if self.sockets.is_full() {
            return Err(AssociateError { socket, error: None });
        }
        let state = SocketState {
            fd: socket.into(),
            listener,
            accepts_once: false,
            accept_aborts: 0,
            input: None,
            send: None,
            fills: false,
            bulk: Bulk::default(),
            in_kernel: 0,
            closing: false,
            queued: false,
        };
        let Some(socket) = self.sockets.insert(key, state) else {
            unreachable!("a table that is not full has a free slot");
        };
        Ok(socket)
    }
}

impl<T: Send> Port for UringPort<T> {
    type Packet = T;
    type Stream = TcpStream;
    type Listener = TcpListener;

    fn associate(
        &mut self,
        stream: TcpStream,
        key: Key,
    ) -> Result<Socket, AssociateError<TcpStream>> {
        self.insert_socket(stream, false, key)
    }

    fn associate_listener(
        &mut self,
        listener: TcpListener,
        key: Key,
    ) -> Result<Socket, AssociateError<TcpListener>> {
        match linux::check_listening(&listener) {
            Ok(()) => self.insert_socket(listener, true, key),
            Err(error) => Err(AssociateError { socket: listener, error: Some(error) }),
        }
    }

    fn submit(&mut self, socket: Socket, operation: Operation) -> Result<(), SubmitError> {
        self.submit_operation(socket, operation)
    }

    fn cancel(&mut self, socket: Socket, kind: OperationKind) {
        self.cancel_operation(socket, kind);
    }

    fn shutdown(&mut self, socket: Socket) {
        self.shutdown_socket(socket);
    }

    fn reset_on_close(&mut self, socket: Socket) {
        if let Some(entry) = self.sockets.get_mut(socket) {
            linux::reset_on_close(&entry.state.fd);
        }
    }

    fn dequeue(
        &mut self,
        completions: &mut Completions<Self>,
        timeout: Option<Duration>,
    ) -> Result<(), PortError> {
        self.dequeue_completions(completions, timeout)
    }

    fn poster(&self) -> Poster<T> {
        self.inbox.poster()
    }

    fn pool(&self) -> &BufferPool {
        &self.pool
    }

    fn refill_count(&self) -> u32 {
        self.buffer_ring.refill_count()
    }

    fn set_receive_buffers(&mut self, buffers: u32) {
        self.buffer_ring.set_target_count(buffers);
    }

    fn acknowledged_bytes(&mut self, socket: Socket) -> Option<u64> {
        linux::acknowledged_bytes(&self.sockets.get_mut(socket)?.state.fd)
    }

    fn unread_bytes(&mut self, socket: Socket) -> Option<u64> {
        rustix::io::ioctl_fionread(&self.sockets.get_mut(socket)?.state.fd).ok()
    }

    fn local_address(&mut self, socket: Socket) -> Option<SocketAddr> {
        linux::local_address(&self.sockets.get_mut(socket)?.state.fd)
    }

    fn now(&self) -> Time {
        self.clock.now()
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl<T: Send> SeatPort for UringPort<T> {
    fn prepare_wait(&mut self) -> Result<bool, PortError> {
        self.prepare_sleep()
    }

    fn end_wait(&mut self) {
        self.inbox.wake_up();
    }
}

// SAFETY: only a port on a ring that takes submissions of any thread has a watch, and so only such a
// port is part of a shared port. It owns its ring, its mappings and its descriptors; all pointers of
// it are into those, into its pool or its own boxes, none is into a thread. The kernel as another
// thread knows the addresses of buffers, headers and rings, which do not change, and no thread: an
// operation belongs to the ring, and what the kernel keeps for the thread that submitted it
// (task work, the cancel at the thread's end) ends in a completion on the ring. Head and tail of
// both queues are read and written by the thread that owns the port, with the kernel's atomics.
unsafe impl<T: Send> MovablePort for UringPort<T> {
    /// The ring: readable while it has completions, that of the eventfd's poll included.
    fn watch(&self) -> Result<OwnedFd, OsError> {
        assert!(self.is_movable, "a ring for one submitting thread stays on it");
        // SAFETY: the ring is open as long as the port.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        linux::duplicate(&ring)
    }
}

impl<T: Send> std::fmt::Debug for UringPort<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringPort")
            .field("in_kernel", &self.in_kernel)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}
