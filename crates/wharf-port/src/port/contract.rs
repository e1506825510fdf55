//! The trait that every back end implements: one entrance, one exit, and posts from outside.

use super::completion::Completion;

use super::operation::{Key, Operation, OperationKind, Refused, Socket, SubmitError};

use super::error::PortError;

use super::inbox::Poster;
use crate::memory::BufferPool;
use std::net::SocketAddr;
use std::time::Duration;

/// A completion port, owned by one thread.
///
/// The module above states what every implementation promises (INV-PORT-1 to INV-PORT-10). Beyond
/// that nothing is promised about the order of completions of different sockets or kinds.
pub trait Port: Sized {
    /// What other threads post to this one.
    type Packet: Send;
    /// A connection that is not associated yet; any thread may hold it.
    type Stream: Send;
    /// A listening socket that is not associated yet.
    type Listener: Send;

    /// Gives a connection to the port; from now on it is reached through the returned handle.
    ///
    /// # Errors
    ///
    /// [`Refused`] with the stream, if the table is full or the system refuses it.
    ///
    /// # Platforms
    ///
    /// On IOCP a socket stays with the first port that it was given to.
    fn associate(
        &mut self,
        stream: Self::Stream,
        key: Key,
    ) -> Result<Socket, Refused<Self::Stream>>;

    /// Gives a listening socket to the port.
    ///
    /// # Errors
    ///
    /// As [`associate`](Self::associate).
    fn associate_listener(
        &mut self,
        listener: Self::Listener,
        key: Key,
    ) -> Result<Socket, Refused<Self::Listener>>;

    /// Starts an operation; its completion comes from a later [`dequeue`](Self::dequeue).
    ///
    /// A socket has at most one operation of a kind in flight: from here until its last completion
    /// has been dequeued, cancelled or not.
    ///
    /// # Errors
    ///
    /// [`SubmitError`] with the operation, if it does not fit; then nothing happened. Of several
    /// reasons the one that stands first in [`SubmitErrorKind`](super::SubmitErrorKind) is given.
    ///
    /// # Cost
    ///
    /// Allocates and blocks never. System calls: none on io_uring, where the next dequeue hands
    /// over the whole batch; on epoll a send is tried at once.
    fn submit(&mut self, socket: Socket, operation: Operation) -> Result<(), SubmitError>;

    /// Asks for the end of the operation of this kind; it still completes exactly once, cancelled
    /// or with what it had done. Does nothing if there is none, or for [`OperationKind::Close`].
    fn cancel(&mut self, socket: Socket, kind: OperationKind);

    /// Tells the peer that no more bytes will follow those sent. Does nothing on a stale socket.
    ///
    /// Meant for when no send is in flight; one that is may be cut short. An error of the system is not reported here: the receive that is in flight reports it.
    fn shutdown(&mut self, socket: Socket);

    /// Makes the close of the socket, when it comes, a reset: the peer then learns that bytes are
    /// missing, and does not take what it has for all. Does nothing on a stale socket.
    fn abandon(&mut self, socket: Socket) {
        let _ = socket;
    }

    /// Hands over what was submitted and appends what has completed to `completions`, up to its
    /// capacity.
    ///
    /// Waits until something completes or is posted, or until `timeout` is over; `None` waits
    /// without end. May return early with nothing. Returns at once if anything is there already,
    /// or if there is no room in `completions`.
    ///
    /// A connection that the peer has reset may show as an end of input in the receive and as a
    /// failure in the send, or the other way round: the system tells it to one of them.
    ///
    /// # Errors
    ///
    /// [`PortError`] if the port itself is broken; it should then be dropped.
    fn dequeue(
        &mut self,
        completions: &mut Completions<Self>,
        timeout: Option<Duration>,
    ) -> Result<(), PortError>;

    /// A handle with which any thread posts packets to this port.
    fn poster(&self) -> Poster<Self::Packet>;

    /// The pool that receives are filled from.
    fn pool(&self) -> &BufferPool;

    /// How many buffers the next dequeue will take from the pool to lend them to the kernel: what
    /// is missing to the figure of [`set_window`](Self::set_window).
    ///
    /// Who hands out buffers to others leaves that many free, else receiving pauses.
    fn buffers_wanted(&self) -> u32 {
        0
    }

    /// Sets how many buffers the port keeps lent to the kernel, at most; from 0 up to
    /// [`PortConfig::receive_window`], which it is at first and which is meant by anything above.
    ///
    /// Buffers that are lent stay lent until they are filled: a smaller figure takes effect as they
    /// come back. [`buffers_wanted`](Self::buffers_wanted) is what is missing to this figure. With
    /// 0 nothing is received once the lent buffers are used up; the receives wait, and go on when
    /// the figure is raised.
    ///
    /// # Platforms
    ///
    /// io_uring and, if its world is set so, the simulated port; does nothing where no buffers are lent, because there none is kept.
    fn set_window(&mut self, buffers: u32) {
        let _ = buffers;
    }

    /// Bytes that the peer's system has acknowledged on this connection, counted from some fixed
    /// point: only the difference of two answers means something. `None` where the system does not
    /// tell, or on a stale socket.
    ///
    /// # Cost
    ///
    /// A system call, so it is for a time-out that is about to end a link, not for each message.
    ///
    /// # Platforms
    ///
    /// Linux: `tcpi_bytes_acked` of `TCP_INFO` (Linux 4.1). Windows: `None`.
    fn acknowledged_bytes(&mut self, socket: Socket) -> Option<u64> {
        let _ = socket;
        None
    }

    /// Bytes that have come and that no receive has taken yet. `None` where the system does not tell,
    /// or on a stale socket. On Linux bytes behind an urgent one that is unread are not among them.
    ///
    /// # Cost
    ///
    /// A system call, so it is for the end of a link, not for each message.
    fn unread_bytes(&mut self, socket: Socket) -> Option<u64>;

    /// The address of this end of a connection. `None` where there is none to tell, as in the simulated
    /// port, or on a stale socket.
    ///
    /// # Cost
    ///
    /// A system call.
    fn local_address(&mut self, socket: Socket) -> Option<SocketAddr> {
        let _ = socket;
        None
    }

    /// The port's clock; the simulated port has its own.
    fn now(&self) -> Time;

    /// What the port has counted since it was made.
    fn counters(&self) -> Counters;
}

/// Where [`Port::dequeue`] puts completions: it fills the vector up to its capacity.
pub type Completions<P> = Vec<Completion<<P as Port>::Stream, <P as Port>::Packet>>;

/// Whether there is no room for another completion.
pub(crate) fn is_full<C>(completions: &Vec<C>) -> bool {
    completions.len() == completions.capacity()
}

/// How large a port's tables are. They are taken when the port is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortConfig {
    /// Sockets that can be associated at once, listeners included; 1 to 268,435,454.
    pub sockets_max: u32,
    /// The most buffers that one dequeue brings received bytes in; 1 to 32,768. Where the back end
    /// lends buffers to the kernel it is also how many, but at most half of the pool.
    pub receive_window: u32,
    /// Packets that can wait in the port's inbox; at least 1.
    pub inbox_capacity: u32,
}

impl PortConfig {
    /// A port for `sockets_max` sockets, with 512 buffers at most to receive into.
    ///
    /// A window of some hundred buffers is enough to keep a core busy, and small enough to stay
    /// in its cache.
    #[must_use]
    pub fn new(sockets_max: u32) -> Self {
        Self { sockets_max, receive_window: 512, inbox_capacity: 1024 }
    }

    /// Panics if a figure is outside the range that is stated there.
    pub(crate) fn validate(&self) {
        let Self { sockets_max, receive_window, inbox_capacity } = *self;
        assert!((1..=SOCKETS_MAX).contains(&sockets_max), "sockets_max: {sockets_max}");
        assert!((1..=WINDOW_MAX).contains(&receive_window), "receive_window: {receive_window}");
        assert!(inbox_capacity > 0, "inbox_capacity: 0");
    }
}

/// A slot's index is 28 bits of what io_uring is given to name an operation.
const SOCKETS_MAX: u32 = 268_435_454;
/// The most entries of a ring of provided buffers.
const WINDOW_MAX: u32 = 32_768;

/// A moment on a port's clock: nanoseconds since some fixed point in the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a moment is 64 bits of nanoseconds")]
pub struct Time(pub u64);

impl Time {
    /// How long after `earlier` this is; zero if it is not after.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `duration` later, or the last moment there is.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// What a port has counted since it was made. The counts only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Receives that paused because no buffer was free, or others had waited for one before.
    pub receive_pauses: u64,
    /// Connections that ended before they were accepted.
    pub accept_aborts: u64,
    /// System calls that waited for or looked for completions.
    pub waits: u64,
    /// Waits that another thread's post ended.
    pub wakeups: u64,
    /// Completions that named no live operation and were dropped. Always 0, or there is a fault.
    pub stale: u64,
}
