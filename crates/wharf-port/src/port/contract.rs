//! The trait that every back end implements, its configuration, clock and counters.

use super::completion::Completion;
use super::error::PortError;
use super::inbox::Poster;
use super::operation::{AssociateError, Key, Operation, OperationKind, Socket, SubmitError};
use crate::memory::pool::BufferPool;
use crate::range;
use std::net::SocketAddr;
use std::time::Duration;

/// A completion port, owned by one thread.
///
/// The documentation of the module [`port`](super) states what every implementation promises
/// (INV-PORT-1 to INV-PORT-10). The order of completions of different sockets or kinds is not
/// defined.
pub trait Port: Sized {
    /// What other threads post to this port.
    type Packet: Send;
    /// A connection that is not associated yet; any thread may hold it.
    type Stream: Send;
    /// A listening socket that is not associated yet.
    type Listener: Send;

    /// Associates a connection with the port, and returns its handle.
    ///
    /// # Errors
    ///
    /// [`AssociateError`] with the unchanged stream, if the port has no free slot or a system call
    /// fails.
    ///
    /// # Platforms
    ///
    /// On IOCP a socket is bound to the first port that it was associated with; another port
    /// returns an error.
    fn associate(
        &mut self,
        stream: Self::Stream,
        key: Key,
    ) -> Result<Socket, AssociateError<Self::Stream>>;

    /// Associates a listening socket with the port.
    ///
    /// # Errors
    ///
    /// As [`associate`](Self::associate), and if the socket does not listen.
    fn associate_listener(
        &mut self,
        listener: Self::Listener,
        key: Key,
    ) -> Result<Socket, AssociateError<Self::Listener>>;

    /// Starts an operation; its completion comes from a later [`dequeue`](Self::dequeue).
    ///
    /// A socket has at most one operation of a kind in flight: from here until its last completion
    /// has been dequeued, cancelled or not.
    ///
    /// # Errors
    ///
    /// [`SubmitError`] with the operation, unchanged. Of several reasons the first in the order of
    /// [`SubmitErrorKind`](super::SubmitErrorKind) is given.
    ///
    /// # Cost
    ///
    /// Never blocks. Allocates nothing, except the simulated port, and io_uring while the kernel
    /// has no memory for its queue. System calls: on io_uring none unless the submission queue is
    /// full, because the next dequeue submits the batch; on epoll a send is tried at once; on IOCP
    /// a receive and a send are one call each, and an accept two for each accept that is posted.
    fn submit(&mut self, socket: Socket, operation: Operation) -> Result<(), SubmitError>;

    /// Cancels the operation of this kind. It still completes exactly once, as cancelled or with
    /// its result. Does nothing if none is in flight, or for [`OperationKind::Close`].
    fn cancel(&mut self, socket: Socket, kind: OperationKind);

    /// Shuts down the sending side: the peer receives the end of the stream after the bytes that
    /// were sent. Does nothing on a stale socket.
    ///
    /// A send that is in flight may then be short or fail. A failed `shutdown` is not reported
    /// here; it means that the connection is gone, and the receive in flight reports that.
    fn shutdown(&mut self, socket: Socket);

    /// Makes the later close of the socket abortive (RST), so that the peer does not take a
    /// truncated stream for the whole one. The connection may be reset at once. Does nothing on a
    /// stale socket.
    fn reset_on_close(&mut self, socket: Socket) {
        let _ = socket;
    }

    /// Starts the submitted operations, and appends completions to `completions`, up to its
    /// capacity.
    ///
    /// Waits until an operation completes, a packet is posted, or `timeout` has passed; `None`
    /// waits indefinitely. May return early with nothing, but not twice in a row without waiting
    /// while something has completed. Does not wait if there is a completion or a packet already, or
    /// if `completions` is full. If it does not fill `completions`, no packet is left that was
    /// [posted](Poster::post) before the call.
    ///
    /// After a reset by the peer the receive may end with
    /// [`EndReason::PeerClosed`](super::EndReason::PeerClosed) and only the send fail, or the other way round:
    /// the system reports the reset to one call.
    ///
    /// # Errors
    ///
    /// [`PortError`] if the port cannot be used any more; drop it.
    fn dequeue(
        &mut self,
        completions: &mut Completions<Self>,
        timeout: Option<Duration>,
    ) -> Result<(), PortError>;

    /// A handle by which any thread posts packets to this port.
    fn poster(&self) -> Poster<Self::Packet>;

    /// The pool whose buffers receives use.
    fn pool(&self) -> &BufferPool;

    /// Buffers that the next dequeue takes to refill the ring of provided buffers; leave that many
    /// free, or receives wait. 0 on epoll and IOCP, which have no such ring.
    fn refill_count(&self) -> u32 {
        0
    }

    /// Sets how many provided buffers the ring has at most: 0 to [`PortConfig::receive_buffers_max`],
    /// the initial value; greater values mean the same as that.
    ///
    /// Provided buffers stay in the ring until the kernel fills them, so a lower value takes effect
    /// as they are filled. [`refill_count`](Self::refill_count) is the difference to this
    /// value. After 0 receives wait when the provided buffers are filled, and continue when the
    /// value is raised.
    ///
    /// # Platforms
    ///
    /// io_uring and the simulated port; no effect on epoll and IOCP.
    fn set_receive_buffers(&mut self, buffers: u32) {
        let _ = buffers;
    }

    /// Bytes that the peer's system has acknowledged on this connection, counted from an
    /// unspecified zero: only the difference of two results has a meaning. `None` on a stale
    /// socket, or where the system does not report it.
    ///
    /// # Cost
    ///
    /// A system call: for an expired timeout, not for each message.
    ///
    /// # Platforms
    ///
    /// Linux: `tcpi_bytes_acked` of `TCP_INFO` (Linux 4.1). Windows: `None`.
    fn acknowledged_bytes(&mut self, socket: Socket) -> Option<u64> {
        let _ = socket;
        None
    }

    /// Bytes that the system has received and no receive has taken. `None` on a stale socket, or if
    /// the call fails. On Linux it does not count bytes after an unread urgent byte.
    ///
    /// # Cost
    ///
    /// A system call: for the end of a connection, not for each message.
    fn unread_bytes(&mut self, socket: Socket) -> Option<u64>;

    /// The local address of a connection. `None` on a stale socket, and on the simulated port,
    /// which has none.
    ///
    /// # Cost
    ///
    /// A system call.
    fn local_address(&mut self, socket: Socket) -> Option<SocketAddr> {
        let _ = socket;
        None
    }

    /// The time of the port's clock: monotonic real time, or the simulated world's time.
    fn now(&self) -> Time;

    /// The port's counters.
    fn counters(&self) -> Counters;
}

/// The vector to which [`Port::dequeue`] appends completions, up to its capacity.
pub type Completions<P> = Vec<Completion<<P as Port>::Stream, <P as Port>::Packet>>;

/// Whether `completions` has no spare capacity.
pub(crate) fn is_full<C>(completions: &Vec<C>) -> bool {
    completions.len() == completions.capacity()
}

/// The sizes of a port's tables, which the port allocates when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortConfig {
    /// Sockets that can be associated at once, listeners included; 1 to 268,435,454.
    pub sockets_max: u32,
    /// Buffers that one dequeue fills, at most; 1 to 32,768. On io_uring also the size of the ring
    /// of provided buffers, which is at most half of the pool. Large buffers are apart from it on
    /// io_uring. On epoll and IOCP one counts as many as it has the size of; on the simulated port
    /// as one, and a receive takes it also when the dequeue has filled as many as it may.
    pub receive_buffers_max: u32,
    /// Packets that the port's inbox can hold; 1 to 16,777,216.
    pub inbox_capacity: u32,
}

impl PortConfig {
    /// A port for `sockets_max` sockets, with a `receive_buffers_max` of 512 buffers (1 MiB in buffers
    /// of 2 KiB) and an inbox of 1,024 packets.
    #[must_use]
    pub fn new(sockets_max: u32) -> Self {
        Self { sockets_max, receive_buffers_max: 512, inbox_capacity: 1024 }
    }

    /// Panics if a value is outside its range.
    pub(crate) fn validate(&self) {
        let Self { sockets_max, receive_buffers_max, inbox_capacity } = *self;
        range::check("sockets_max", sockets_max, &(1..=SOCKETS_MAX));
        range::check("receive_buffers_max", receive_buffers_max, &(1..=RECEIVE_BUFFERS_MAX));
        range::check("inbox_capacity", inbox_capacity, &(1..=INBOX_CAPACITY_MAX));
    }
}

/// 2²⁸ − 2: a slot's index has 28 bits in the user data of an io_uring operation.
const SOCKETS_MAX: u32 = 268_435_454;
/// The most entries that a ring of provided buffers can have (io_uring_register_buf_ring(3)).
const RECEIVE_BUFFERS_MAX: u32 = 32_768;
/// The inbox allocates its slots when it is created.
const INBOX_CAPACITY_MAX: u32 = 1 << 24;

/// The longest wait of a port's drop for operations in flight, whose memory it then leaks. Cancelled
/// operations on sockets end within microseconds; only a bug of the kernel makes one last longer.
#[cfg(any(target_os = "linux", windows))]
pub(crate) const DROP_WAIT_MAX: Duration = Duration::from_secs(5);

/// Accepts in a row that may fail with an error of a single connection; the next such error ends the
/// accept. The errors may have a cause that lasts (a seccomp filter, a network that is down), and
/// accepts that are repeated at once would take up the thread.
#[cfg(any(target_os = "linux", windows))]
pub(crate) const ACCEPT_ABORTS_MAX: u32 = 63;

/// A time on a port's clock: nanoseconds since the clock's zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a time is 64 bits of nanoseconds")]
pub struct Time(pub u64);

impl Time {
    /// The time that has passed since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This time plus `duration`; the greatest time if that overflows.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Counts since a port was created. They never fall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Receives that began to wait for a buffer, because none was free or other sockets waited. On
    /// io_uring a receive that had a buffer and waits again behind others is not counted.
    pub buffer_waits: u64,
    /// Connections that ended before they were accepted, and that the system did not hand over.
    /// Linux hands over also those that the peer has reset: they are accepted, and their receive
    /// ends with the reset.
    pub accept_aborts: u64,
    /// Calls of `io_uring_enter`, `epoll_wait` or `GetQueuedCompletionStatusEx`; simulated ones on
    /// the simulated port.
    pub waits: u64,
    /// Waits that a [`Poster`] ended.
    pub wakeups: u64,
    /// Completions that named no operation in flight and were dropped. Not 0 only after a bug: tests
    /// of every back end and of simulated servers check that it is 0.
    pub stale_completions: u64,
}
