//! The back end on epoll: the port makes the system calls of ready sockets, and reports their
//! results as completions.
//!
//! Every socket is nonblocking and registered edge-triggered from its association to its close, so
//! an echo costs one `epoll_wait`, one `recv` and one `send`, and no `epoll_ctl`. A slot of the
//! table records which events occurred (`socket.rs`). Sockets with work are in a queue, the ready
//! queue, and `dequeue` processes each of them once.
//!
//! ```text
//!   submit ──► operation kept in the slot, a send tried at once ───┐
//!   epoll_wait ──► readable, writable, read_to_eagain ─────────────┤ work?
//!                                                                  ▼
//!   waiting ◄── no buffer ──────── process_socket ◄── first ── ready queue ◄─┐
//!      └──────── a buffer is free ───────►  │ up to 32 receives or 64 accepts │ more work
//!                                           ▼ a send, ended operations        │
//!                                     completions ────────────────────────────┘
//! ```
//!
//! # How the contract is kept
//!
//! - INV-PORT-1: an operation stays in its slot until its last completion is dequeued; until then
//!   another of its kind is an error. So a socket has at most one undelivered completion of a kind,
//!   and the slot stores it.
//! - INV-PORT-2: the kernel accesses a buffer only during a system call.
//! - INV-PORT-4: `process_socket` makes [`Outcome::Closed`](crate::port::Outcome::Closed) when no
//!   operation is left in the slot, and frees the slot. The queues and the events of epoll carry
//!   the socket's generation.
//! - INV-PORT-5: a buffer is acquired when the socket is readable, and not before.
//! - INV-PORT-6: a socket that finds no free buffer is appended to a second queue, which is served
//!   before the ready queue.
//! - INV-PORT-7: an eventfd is registered beside the sockets.
//! - INV-PORT-8: the length of a receive call is at most what the receive may still take.
//! - INV-PORT-9: a zero-byte receive peeks when an event or an earlier receive says that there may
//!   be bytes. An event alone is not proof: its bytes may have been received since.

#[expect(unsafe_code, reason = "recv(2) writes into a buffer of the pool")]
mod calls;
mod dequeue;
mod socket;
mod submit;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use self::socket::{Role, SocketState};
use crate::linux::{self, EventFd};
use crate::memory::pool::BufferPool;
use crate::memory::table::try_with_capacity;
use crate::port::clock::Clock;
use crate::port::contract::{Completions, Counters, Port, PortConfig, Time};
use crate::port::error::{OsError, PortError};
use crate::port::inbox::{Inbox, Poster};
use crate::port::operation::{AssociateError, Key, Operation, OperationKind, Socket, SubmitError};
use crate::port::seat::{MovablePort, SeatPort};
use crate::port::supply::Supply;
use crate::port::table::{Entry, SocketTable};
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::io::ioctl_fionbio;
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// A completion port on epoll, for Linux without io_uring.
///
/// It stays on the thread that created it and is not `Send`. A pool serves one port.
///
/// Dropping a port closes its sockets and does not wait: no operation is in the kernel.
///
/// # Cost
///
/// [`new`](Self::new) allocates all tables; nothing is allocated afterwards.
///
/// # Platforms
///
/// Timeouts are rounded up to milliseconds; zero does not wait.
pub struct EpollPort<T: Send> {
    epoll: OwnedFd,
    inbox: Inbox<T>,
    supply: Supply,
    sockets: SocketTable<SocketState>,
    /// Sockets with work, each at most once.
    ready: VecDeque<Socket>,
    events: Vec<epoll::Event>,
    /// The last dequeue did not call `epoll_wait`, so the next one does.
    poll_is_due: bool,
    counters: Counters,
    clock: Clock,
    /// Not `Send`, as the io_uring back end, so that a program can use either.
    not_send: PhantomData<*const ()>,
}

impl<T: Send> EpollPort<T> {
    /// Creates a port that receives into buffers of `pool`, which no other port uses.
    ///
    /// # Errors
    ///
    /// [`PortError`] if `epoll_create1`, `eventfd` or `epoll_ctl` fails.
    ///
    /// # Panics
    ///
    /// If a value is outside the range that [`PortConfig`] states.
    pub fn new(config: PortConfig, pool: BufferPool) -> Result<Self, PortError> {
        config.validate();
        let sockets_max = config.sockets_max;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|errno| calls::error("epoll_create1", errno))?;
        let wake = Arc::new(EventFd::new()?);
        let edges = epoll::EventFlags::IN | epoll::EventFlags::ET;
        wake.with_fd(|fd| epoll::add(&epoll, fd, epoll::EventData::new_u64(WAKE), edges))
            .unwrap_or_else(|| unreachable!("the eventfd was just made"))
            .map_err(|errno| calls::error("epoll_ctl", errno))?;
        Ok(Self {
            epoll,
            inbox: Inbox::new(config.inbox_capacity, wake)?,
            supply: Supply::new(pool, sockets_max, config.receive_buffers_max)?,
            sockets: SocketTable::new(sockets_max)?,
            ready: try_with_capacity("the ready sockets", sockets_max as usize)?.into(),
            events: try_with_capacity("the events of a wait", EVENTS_MAX)?,
            poll_is_due: true,
            counters: Counters::default(),
            clock: Clock::new(),
            not_send: PhantomData,
        })
    }

    /// Puts a socket into the table and registers it with epoll.
    fn insert_socket<S: Into<OwnedFd> + From<OwnedFd>>(
        &mut self,
        socket: S,
        role: Role,
        key: Key,
    ) -> Result<Socket, AssociateError<S>> {
        if self.sockets.is_full() {
            return Err(AssociateError { socket, error: None });
        }
        let Some(socket) = self.sockets.insert(key, SocketState::new(socket.into(), role)) else {
            unreachable!("a table that is not full has a free slot");
        };
        let watched =
            self.sockets.get_mut(socket).map(|entry| watch(&self.epoll, socket, &entry.state));
        if let Some(Err(error)) = watched
            && let Some(Entry { state, .. }) = self.sockets.remove(socket)
        {
            return Err(AssociateError { socket: state.fd.into(), error: Some(error) });
        }
        Ok(socket)
    }
}

impl<T: Send> Port for EpollPort<T> {
    type Packet = T;
    type Stream = TcpStream;
    type Listener = TcpListener;

    fn associate(
        &mut self,
        stream: TcpStream,
        key: Key,
    ) -> Result<Socket, AssociateError<TcpStream>> {
        self.insert_socket(stream, Role::Connection, key)
    }

    fn associate_listener(
        &mut self,
        listener: TcpListener,
        key: Key,
    ) -> Result<Socket, AssociateError<TcpListener>> {
        match linux::check_listening(&listener) {
            Ok(()) => self.insert_socket(listener, Role::Listener, key),
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
        self.supply.pool()
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

impl<T: Send> SeatPort for EpollPort<T> {
    fn prepare_wait(&mut self) -> Result<bool, PortError> {
        Ok(!self.has_work() && self.inbox.fall_asleep())
    }

    fn end_wait(&mut self) {
        self.inbox.wake_up();
    }
}

#[expect(unsafe_code, reason = "states that a port may move")]
// SAFETY: the port owns its descriptors and tables, its buffers are those of its pool, and the
// kernel accesses memory of it only during a system call.
unsafe impl<T: Send> MovablePort for EpollPort<T> {
    /// The epoll instance: readable while it has an event, that of the eventfd included.
    fn watch(&self) -> Result<OwnedFd, OsError> {
        linux::duplicate(&self.epoll)
    }
}

impl<T: Send> fmt::Debug for EpollPort<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EpollPort")
            .field("epoll", &self.epoll)
            .field("ready", &self.ready.len())
            .field("waiting", &self.supply.waiting_count())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// Registers a socket with epoll and makes it nonblocking. The step that can fail is the first, so
/// that a socket that is refused is unchanged.
fn watch(epoll: &OwnedFd, socket: Socket, state: &SocketState) -> Result<(), OsError> {
    let events = state.role.watched_events();
    epoll::add(epoll, &state.fd, event_data(socket), events)
        .map_err(|errno| calls::error("epoll_ctl", errno))?;
    ioctl_fionbio(&state.fd, true).map_err(|errno| {
        let _registered_above = epoll::delete(epoll, &state.fd);
        calls::error("ioctl FIONBIO", errno)
    })
}

/// The data of a socket's events: the slot's index in the lower half, the generation in the upper.
fn event_data(socket: Socket) -> epoll::EventData {
    epoll::EventData::new_u64(u64::from(socket.generation) << 32 | u64::from(socket.index))
}

#[expect(clippy::cast_possible_truncation, reason = "each half is taken by itself")]
fn socket_of(data: u64) -> Socket {
    Socket { index: data as u32, generation: (data >> 32) as u32 }
}

/// The data of the eventfd's events. No slot has this index ([`PortConfig::sockets_max`]).
const WAKE: u64 = u64::MAX;

/// Events per `epoll_wait`, 3 KiB. The next call returns further events.
const EVENTS_MAX: usize = 256;

/// Fails to compile if the port is `Send`: then both impls apply, and `_` is ambiguous.
const _: () = {
    trait AmbiguousIfSend<A> {
        fn check() {}
    }
    struct Sendable;
    impl<P> AmbiguousIfSend<()> for P {}
    impl<P: Send> AmbiguousIfSend<Sendable> for P {}
    let _ = <EpollPort<()> as AmbiguousIfSend<_>>::check;
};
