//! The back end for epoll: what is ready is done by us, and reported as if the kernel had done it.
//!
//! Every socket is nonblocking and is watched edge-triggered from its association to its end, so
//! a message costs one `epoll_wait`, one `recv` and one `send`, and no call to change what is
//! watched. A place in the table remembers what the edges said (`socket.rs`); a socket that has
//! something to do stands in one queue, and `dequeue` lets each in it do one thing in turn.
//!
//! ```text
//!   submit ──► operation kept in the place, a send tried at once ──┐
//!   epoll_wait ──► readable, writable, drain ──────────────────────┤ something to do?
//!                                                                  ▼
//!   waiting ◄── no buffer ─────────────── visit ◄── first ──── ready queue ◄─┐
//!      └──────── a buffer is free ───────►  │ some receives or accepts,       │ more to do
//!                                           ▼ a send, what has ended          │
//!                                     completions ────────────────────────────┘
//! ```
//!
//! # How the contract is kept
//!
//! - INV-PORT-1: an operation stays in its place until its last completion is handed over; until
//!   then another of its kind is refused as busy. Hence a socket never has more than one completion
//!   of a kind waiting, and nothing needs room beyond the place itself.
//! - INV-PORT-2: the kernel sees a buffer only during a call that we wait for.
//! - INV-PORT-4: [`Outcome::Closed`](crate::port::Outcome::Closed) is made by the visit that finds
//!   nothing else left in the place, and frees it. The queues and epoll itself name sockets with
//!   their generation.
//! - INV-PORT-5: a buffer is acquired when bytes are there, and not before.
//! - INV-PORT-6: a socket that finds the pool empty goes to the end of a second queue, which
//!   is served before the first one.
//! - INV-PORT-7: an eventfd stands among the sockets.
//! - INV-PORT-8: a receive is given no more room than it may still fill.
//! - INV-PORT-9: a receive of no bytes peeks, when an edge or an earlier receive says that there may
//!   be something; edges alone do not tell, as what they said may have been received since.

#[expect(unsafe_code, reason = "lets recv(2) write into a buffer of the pool")]
mod calls;
mod dequeue;
mod socket;
mod submit;
mod supply;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use self::socket::{Role, SocketState};
use self::supply::Supply;
use crate::linux::{self, Clock, EventFd};
use crate::memory::BufferPool;
use crate::port::{
    Completions, Counters, Entry, Inbox, Key, Operation, OperationKind, Port, PortConfig,
    PortError, Poster, Refused, Socket, SocketTable, SubmitError, Time,
};
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::io::{Errno, ioctl_fionbio};
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// A completion port on epoll, for Linux without io_uring.
///
/// It belongs to the thread that made it and is not `Send`. A pool serves one port.
///
/// Dropping a port closes its sockets. Nothing is ever in flight with the kernel, so there is
/// nothing to wait for.
///
/// # Cost
///
/// All tables are taken by [`new`](Self::new); nothing is allocated afterwards.
///
/// # Platforms
///
/// Waits are measured in milliseconds, rounded up; zero does not wait.
pub struct EpollPort<T: Send> {
    epoll: OwnedFd,
    inbox: Inbox<T>,
    supply: Supply,
    sockets: SocketTable<SocketState>,
    /// Sockets with something to do, each at most once.
    ready: VecDeque<Socket>,
    events: Vec<epoll::Event>,
    /// The last dequeue did not look at epoll, so the next one does.
    poll_is_due: bool,
    /// Packets are handed over before what the sockets have; changes with every dequeue, so that
    /// neither can keep the other out when the room is small.
    packets_first: bool,
    counters: Counters,
    clock: Clock,
    /// One thread's, as the ring of the other Linux back end is, so that they can be exchanged.
    not_send: PhantomData<*const ()>,
}

impl<T: Send> EpollPort<T> {
    /// Makes a port that receives into buffers of `pool`.
    ///
    /// # Errors
    ///
    /// The system's answer to `epoll_create1`, `eventfd` or `epoll_ctl`.
    ///
    /// # Panics
    ///
    /// If a figure is outside the range that [`PortConfig`] states.
    pub fn new(config: PortConfig, pool: BufferPool) -> Result<Self, PortError> {
        config.validate();
        let sockets_max = config.sockets_max;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|errno| calls::error("epoll_create1", errno))?;
        let wake = Arc::new(EventFd::new()?);
        let edges = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), edges)
            .map_err(|errno| calls::error("epoll_ctl", errno))?;
        Ok(Self {
            epoll,
            inbox: Inbox::new(config.inbox_capacity, wake),
            supply: Supply::new(pool, sockets_max, config.receive_window),
            sockets: SocketTable::new(sockets_max),
            ready: VecDeque::with_capacity(sockets_max as usize),
            events: Vec::with_capacity(EVENTS_MAX),
            poll_is_due: true,
            packets_first: true,
            counters: Counters::default(),
            clock: Clock::new(),
            not_send: PhantomData,
        })
    }

    /// Puts a socket into the table and has it watched.
    fn insert_socket<S: Into<OwnedFd> + From<OwnedFd>>(
        &mut self,
        socket: S,
        role: Role,
        key: Key,
    ) -> Result<Socket, Refused<S>> {
        if self.sockets.is_full() {
            return Err(Refused { socket, error: None });
        }
        let fd = socket.into();
        if let Err(errno) = ioctl_fionbio(&fd, true) {
            return Err(refused(fd, "ioctl FIONBIO", errno));
        }
        let Some(socket) = self.sockets.insert(key, SocketState::new(fd, role)) else {
            unreachable!("a table that is not full has a free slot");
        };
        let added = self.sockets.get_mut(socket).map(|Entry { state, .. }| {
            epoll::add(&self.epoll, &state.fd, event_data(socket), role.watched_events())
        });
        if let Some(Err(errno)) = added
            && let Some(Entry { state, .. }) = self.sockets.remove(socket)
        {
            return Err(refused(state.fd, "epoll_ctl", errno));
        }
        Ok(socket)
    }
}

impl<T: Send> Port for EpollPort<T> {
    type Packet = T;
    type Stream = TcpStream;
    type Listener = TcpListener;

    fn associate(&mut self, stream: TcpStream, key: Key) -> Result<Socket, Refused<TcpStream>> {
        self.insert_socket(stream, Role::Connection, key)
    }

    fn associate_listener(
        &mut self,
        listener: TcpListener,
        key: Key,
    ) -> Result<Socket, Refused<TcpListener>> {
        self.insert_socket(listener, Role::Listener, key)
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
        &self.supply.pool
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

impl<T: Send> fmt::Debug for EpollPort<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EpollPort")
            .field("epoll", &self.epoll)
            .field("ready", &self.ready.len())
            .field("waiting", &self.supply.waiting.len())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

fn refused<S: From<OwnedFd>>(fd: OwnedFd, call: &'static str, errno: Errno) -> Refused<S> {
    Refused { socket: fd.into(), error: Some(calls::error(call, errno)) }
}

/// What epoll hands back with an event: the place below, the generation above.
fn event_data(socket: Socket) -> epoll::EventData {
    epoll::EventData::new_u64(u64::from(socket.generation) << 32 | u64::from(socket.index))
}

#[expect(clippy::cast_possible_truncation, reason = "each half is wanted by itself")]
fn socket_of(data: u64) -> Socket {
    Socket { index: data as u32, generation: (data >> 32) as u32 }
}

/// The eventfd's event. No socket has it: places end far below, see [`PortConfig::sockets_max`].
const WAKE: u64 = u64::MAX;

/// Events fetched at once, 3 KiB of them. What is left comes first the next time.
const EVENTS_MAX: usize = 256;

/// Fails to compile when the port becomes `Send`: then both traits fit, and `_` is ambiguous.
const _: () = {
    trait AmbiguousIfSend<A> {
        fn check() {}
    }
    struct Sendable;
    impl<P> AmbiguousIfSend<()> for P {}
    impl<P: Send> AmbiguousIfSend<Sendable> for P {}
    let _ = <EpollPort<()> as AmbiguousIfSend<_>>::check;
};
