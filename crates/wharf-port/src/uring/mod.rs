//! The port on io_uring: the kernel does the operations, in one system call a turn.
//!
//! ```text
//!   submit ──► submission queue ─┐                       ┌─► completion queue ──► dequeue
//!                                ├─ io_uring_enter, once ┤
//!   pool ────► receive windows ──┘      a dequeue        └─► buffers of a window, filled
//! ```
//!
//! - A receive with `Shots::Many` is armed once and takes a buffer from the *window*, a ring of
//!   buffers that are lent to the kernel for all sockets together, only when bytes are there.
//! - A second window has large buffers. A receive of a stream that fills buffers is armed for one shot
//!   into these, so that it ends at the byte where it shall, and goes back to the first while all are in use.
//! - `close` ends nothing by itself: what is in flight is cancelled, its last completions
//!   are waited for, and only then the descriptor is closed and the place given back.
//! - A cancelled operation may still succeed; whichever completion the kernel sends is the one.
//! - A socket whose receive found no buffer stands in a queue, and gets its *turn*: a receive that
//!   does not wait, one for each lent buffer. It keeps its slot in the queue until it was served,
//!   so a turn that fails, because others took its buffer, costs it nothing.
//! - While others wait for a buffer, a receive that is armed anew only *polls*: it would take a
//!   buffer before them, as the kernel does at once what can be done.
//!
//! # Invariants
//!
//! - **INV-URING-1** `in_kernel` of a socket counts its operations whose last completion has not
//!   been seen. Its descriptor, chain and place live until that is 0.
//! - **INV-URING-2** What a submission entry points to (bytes, message headers) is memory of the
//!   chain that the socket's place owns, or of the vector table, which is reused only after the
//!   kernel has consumed the entry: a header is taken when its entry can go into the queue at once.

mod buffer_ring;
mod dequeue;
mod setup;
mod submit;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
mod vectors;

pub use setup::probe;

use crate::linux::{self, Clock, EventFd};
use crate::memory::{BufferPool, Chain};
use crate::port::{
    Bulk, Completions, Counters, Demand, Inbox, Key, Operation, OperationKind, Port, PortConfig,
    PortError, Poster, Refused, Socket, SocketQueue, SocketTable, SocketUse, SubmitError, Time,
};
use buffer_ring::BufferRing;
use io_uring::IoUring;
use io_uring::squeue;
use rustix::fd::OwnedFd;
use setup::Ring;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use vectors::Vectors;

/// A completion port on io_uring; `T` is what other threads post to it.
///
/// It stays on the thread that made it: the ring is told that only one thread submits.
///
/// # Platforms
///
/// Linux. [`probe`] says whether this machine allows it, and if not why.
///
/// ```compile_fail
/// fn elsewhere<T: Send>() {}
/// elsewhere::<wharf_port::uring::UringPort<u64>>();
/// ```
pub struct UringPort<T: Send> {
    /// First, so that it is dropped first: no operation outlives the memory below.
    ring: IoUring,
    buffer_ring: BufferRing,
    /// The same of the large buffers, if there are any.
    large_ring: Option<BufferRing>,
    vectors: Vectors,
    sockets: SocketTable<SocketState>,
    /// Submission entries that found the queue full. Empty unless the kernel is out of memory.
    overflow: VecDeque<squeue::Entry>,
    /// Sockets with something to report that the kernel does not; each is here at most once.
    unreported: VecDeque<Socket>,
    /// Sockets that wait for a buffer, in the order in which they ran out, with those whose turn is
    /// in the kernel.
    waiting: SocketQueue,
    /// Receives in the kernel that took their turn; no more than there are lent buffers.
    attempts: u32,
    /// Operations in the kernel whose last completion has not been seen.
    in_kernel: u32,
    packets_first: bool,
    /// Counts calls of `io_uring_enter`, so that a cancel is not repeated before it was handed over.
    /// It may wrap: then a repetition comes with the next completion.
    enters: u8,
    /// Failed `io_uring_enter` calls in a row.
    failures: u32,
    multishot_accept: bool,
    inbox: Inbox<T>,
    wake: Arc<EventFd>,
    pool: BufferPool,
    clock: Clock,
    counters: Counters,
    one_thread: PhantomData<*const ()>,
}

/// What the port keeps for a socket.
#[derive(Debug)]
struct SocketState {
    fd: OwnedFd,
    listener: bool,
    /// The receive, or a listener's accept.
    input: Option<InputOperation>,
    send: Option<SendOperation>,
    /// The last receive filled its buffer: more is there, or was.
    fills: bool,
    bulk: Bulk,
    /// INV-URING-1
    in_kernel: u8,
    closing: bool,
    /// In `unreported`.
    queued: bool,
}

/// A receive or an accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InputOperation {
    demand: Demand,
    stage: Stage,
    /// It was asked to end: by the user, or because a receive has brought all that it may.
    cancelled: bool,
    /// `enters` when the last cancel was pushed.
    cancelled_at: u8,
}

/// Where a receive or an accept is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// In the kernel, to complete as often as its shots say.
    Armed,
    /// A receive in the kernel, for one shot into a large buffer.
    ArmedLarge,
    /// A receive in `waiting` that is in the kernel for one shot, without waiting there.
    Attempt,
    /// A receive in `waiting`.
    WaitingForBuffer,
    /// A receive that polls: it is of no bytes, or others wait for a buffer.
    Poll,
    /// A receive that must not wait but may not overtake, or is of no bytes: the next dequeue looks.
    PeekPending,
    /// Cancelled while it was not in the kernel; to be reported.
    CancelPending,
}

#[derive(Debug)]
struct SendOperation {
    chain: Chain,
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

/// Bytes that a port of this shape takes, about: places and queues, rings, and message headers.
pub(crate) fn table_size_bytes(config: &PortConfig) -> u64 {
    let (submissions, completions) = setup::queue_sizes(config.sockets_max);
    let place = size_of::<SocketState>() + 24 + size_of::<Socket>() + SocketQueue::NODE_SIZE_BYTES;
    u64::from(config.sockets_max) * place as u64
        + u64::from(submissions) * size_of::<squeue::Entry>() as u64
        + u64::from(completions) * 16
        + u64::from(config.receive_window) * 40
        + Vectors::SIZE_BYTES as u64
}

impl<T: Send> UringPort<T> {
    /// Makes a port that receives into buffers of `pool`, which no other port uses.
    ///
    /// # Errors
    ///
    /// [`PortError`] if the system refuses io_uring, or memory or descriptors for it; its text says
    /// what usually is the cause.
    ///
    /// # Panics
    ///
    /// If a figure of `config` is outside the range stated there.
    pub fn new(config: PortConfig, pool: BufferPool) -> Result<Self, PortError> {
        config.validate();
        let Ring { ring, multishot_accept } = Ring::for_sockets(config.sockets_max)?;
        let wake = Arc::new(EventFd::new()?);
        let inbox = Inbox::new(config.inbox_capacity, Arc::<EventFd>::clone(&wake));
        let places = config.sockets_max as usize;
        let large = pool.large().cloned();
        let large =
            large.map(|pool| BufferRing::new(&ring, buffer_ring::LARGE_GROUP, pool, u32::MAX));
        let mut port = Self {
            buffer_ring: BufferRing::new(
                &ring,
                buffer_ring::SMALL_GROUP,
                pool.clone(),
                config.receive_window,
            )?,
            large_ring: large.transpose()?,
            ring,
            vectors: Vectors::new(),
            sockets: SocketTable::new(config.sockets_max),
            overflow: VecDeque::new(),
            unreported: VecDeque::with_capacity(places),
            waiting: SocketQueue::new(config.sockets_max),
            attempts: 0,
            in_kernel: 0,
            packets_first: false,
            enters: 0,
            failures: 0,
            multishot_accept,
            inbox,
            wake,
            pool,
            clock: Clock::new(),
            counters: Counters::default(),
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
    ) -> Result<Socket, Refused<S>> {
        if self.sockets.is_full() {
            return Err(Refused { socket, error: None });
        }
        let state = SocketState {
            fd: socket.into(),
            listener,
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

    fn associate(&mut self, stream: TcpStream, key: Key) -> Result<Socket, Refused<TcpStream>> {
        self.insert_socket(stream, false, key)
    }

    fn associate_listener(
        &mut self,
        listener: TcpListener,
        key: Key,
    ) -> Result<Socket, Refused<TcpListener>> {
        self.insert_socket(listener, true, key)
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

    fn abandon(&mut self, socket: Socket) {
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

    fn buffers_wanted(&self) -> u32 {
        self.buffer_ring.refill_count()
    }

    fn set_window(&mut self, buffers: u32) {
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

impl<T: Send> std::fmt::Debug for UringPort<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringPort")
            .field("in_kernel", &self.in_kernel)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}
