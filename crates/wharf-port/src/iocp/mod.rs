//! The back end on Windows: an I/O completion port.
//!
//! ```text
//!   submit  ── WSASend, AcceptEx, WSARecv of no bytes ──►  flight  ──►  kernel
//!   dequeue ◄── states of sockets ◄── GetQueuedCompletionStatusEx ◄──────┘
//!   post    ── inbox, PostQueuedCompletionStatus ─► dequeue
//! ```
//!
//! A receive that waits is a `WSARecv` of no bytes, so an idle link holds no buffer; when it
//! completes, bytes are taken without waiting into a buffer of the pool. Operations that succeed
//! at once leave no packet where that is safe; they are reported by the next dequeue, each socket
//! once a turn, so that a busy one cannot hold up the others. What Wine and Windows do differently
//! is accepted either way.

mod dequeue;
mod operations;
mod socket;
mod state;
mod submit;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
mod wake;

use crate::memory::BufferPool;
use crate::port::{
    Bulk, Clock, Completions, Counters, Inbox, Key, Operation, OperationKind, OsError, Port,
    PortConfig, PortError, Poster, Refused, Socket, SocketQueue, SubmitError, Time,
};
use operations::OperationTable;
use socket::OverlappedSocket;
use state::{Accept, Connection, Listener, Receive, Role, SocketState, Table};
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::windows::io::{AsRawSocket, OwnedSocket};
use std::sync::Arc;
use std::time::Duration;
use wake::CompletionPort;
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::IO::OVERLAPPED_ENTRY;

/// A completion port on Windows.
///
/// # Platforms
///
/// A send that is cancelled, or that fails, may have sent more than its completion says: Windows
/// does not tell. After that only a close makes sense.
pub struct IocpPort<T: Send> {
    // The sockets are closed before what is in flight on them is given up.
    table: Table,
    operations: OperationTable,
    port: Arc<CompletionPort>,
    inbox: Inbox<T>,
    pool: BufferPool,
    /// Sockets to be visited.
    ready: SocketQueue,
    /// Sockets that have bytes to read but no buffer, in the order in which they ran out.
    waiting: SocketQueue,
    /// Accepts of the table that no listener has out.
    accepts_free: Vec<u32>,
    accept_budget: AcceptBudget,
    entries: Box<[OVERLAPPED_ENTRY]>,
    packets_first: bool,
    /// Receives that this dequeue may still do, and that each may.
    receives_left: u32,
    receives_max: u32,
    /// Whether operations that succeed at once may leave no packet, where the system can do that.
    may_skip: bool,
    counters: Counters,
    clock: Clock,
    /// The port belongs to the thread that made it, as on the other systems.
    one_thread: PhantomData<*const ()>,
}

/// How many accepts the listeners may have out.
#[derive(Debug)]
struct AcceptBudget {
    /// Listeners that can still be associated; each has one accept at least.
    listeners_left: u32,
    /// Accepts beyond these.
    surplus: u32,
    /// The most that one listener gets.
    accepts_max: u32,
}

/// Packets taken from the system at once: 32 bytes each, enough that a busy turn is one call.
const BATCH: usize = 256;
/// Listeners that a port can have.
const LISTENERS_MAX: u32 = 1024;
/// Listeners that have a full stock of accepts; those after them make do with one each.
const FULL_LISTENERS: u32 = 4;
/// How long a port that is dropped waits for what is in flight, before it leaks that.
const DROP_WAIT_MAX: Duration = Duration::from_secs(5);
/// Of which this at once.
const DROP_WAIT_STEP_MS: u32 = 100;
const NO_PORT_HINT: &str = "the process has too many handles or the system too little memory";

impl<T: Send> IocpPort<T> {
    /// A port with the tables that `config` asks for, receiving into buffers of `pool`.
    ///
    /// # Errors
    ///
    /// [`PortError`] if the system has no completion port to give.
    ///
    /// # Panics
    ///
    /// If a figure is outside the range that [`PortConfig`] states.
    pub fn new(config: PortConfig, pool: BufferPool) -> Result<Self, PortError> {
        config.validate();
        let sockets_max = config.sockets_max;
        // One thread owns the port, so one is all that runs.
        let port = CompletionPort::new(1).map_err(|os| PortError::new(os, Some(NO_PORT_HINT)))?;
        let port = Arc::new(port);
        let inbox = Inbox::new(config.inbox_capacity, port.clone());
        let accept_budget = AcceptBudget::new(sockets_max);
        let accepts = accept_budget.listeners_left + accept_budget.surplus;
        Ok(Self {
            table: Table::new(sockets_max),
            operations: OperationTable::new(sockets_max, accepts),
            inbox,
            port,
            pool,
            ready: SocketQueue::new(sockets_max),
            waiting: SocketQueue::new(sockets_max),
            accepts_free: (0..accepts).rev().collect(),
            accept_budget,
            entries: vec![OVERLAPPED_ENTRY::default(); BATCH].into(),
            packets_first: false,
            receives_left: 0,
            receives_max: config.receive_window,
            may_skip: true,
            counters: Counters::default(),
            clock: Clock::new(),
            one_thread: PhantomData,
        })
    }

    fn associate_handle<S: AsRawSocket>(&self, socket: &S) -> Result<(), Option<OsError>> {
        if self.table.is_full() {
            return Err(None);
        }
        Ok(self.port.associate(socket::raw_socket(socket) as HANDLE)?)
    }
}

impl<T: Send> Port for IocpPort<T> {
    type Packet = T;
    type Stream = TcpStream;
    type Listener = TcpListener;

    fn associate(&mut self, stream: TcpStream, key: Key) -> Result<Socket, Refused<TcpStream>> {
        let result = self.associate_handle(&stream).and_then(|()| {
            let set = stream.set_nonblocking(true);
            set.map_err(|error| Some(OsError::from_io("ioctlsocket", &error)))
        });
        if let Err(error) = result {
            return Err(Refused { socket: stream, error });
        }
        let connection =
            Connection { receive: Receive::Idle, send: state::Send::Idle, bulk: Bulk::default() };
        let overlapped = OverlappedSocket::new(OwnedSocket::from(stream), self.may_skip);
        let state = SocketState { overlapped, role: Role::Connection(connection), closing: false };
        Ok(self.insert_socket(key, state))
    }

    fn associate_listener(
        &mut self,
        listener: TcpListener,
        key: Key,
    ) -> Result<Socket, Refused<TcpListener>> {
        let refused = |socket, error| Err(Refused { socket, error });
        let is_ipv6 = match listener.local_addr() {
            Ok(address) => address.is_ipv6(),
            Err(error) => {
                return refused(listener, Some(OsError::from_io("getsockname", &error)));
            }
        };
        let calls = match socket::accept_calls(&listener) {
            Ok(calls) => calls,
            Err(error) => return refused(listener, Some(error)),
        };
        if self.accept_budget.listeners_left == 0 {
            return refused(listener, None);
        }
        if let Err(error) = self.associate_handle(&listener) {
            return refused(listener, error);
        }
        let accepts_max = self.accept_budget.acquire();
        let role = Role::Listener(Listener {
            calls,
            is_ipv6,
            accept: Accept::Idle,
            accepts_max,
            posted: 0,
            done: VecDeque::with_capacity(accepts_max as usize),
        });
        let overlapped = OverlappedSocket::new(OwnedSocket::from(listener), self.may_skip);
        Ok(self.insert_socket(key, SocketState { overlapped, role, closing: false }))
    }

    fn submit(&mut self, socket: Socket, operation: Operation) -> Result<(), SubmitError> {
        self.submit_operation(socket, operation)
    }

    fn cancel(&mut self, socket: Socket, kind: OperationKind) {
        self.cancel_operation(socket, kind);
    }

    fn unread_bytes(&mut self, socket: Socket) -> Option<u64> {
        state::connection_mut(&mut self.table, socket)
            .and_then(|(_, overlapped, _)| overlapped.unread_bytes())
    }

    fn local_address(&mut self, socket: Socket) -> Option<SocketAddr> {
        state::connection_mut(&mut self.table, socket)
            .and_then(|(_, overlapped, _)| overlapped.local_address())
    }

    fn shutdown(&mut self, socket: Socket) {
        self.shutdown_socket(socket);
    }

    fn abandon(&mut self, socket: Socket) {
        if let Some((_, overlapped, _)) = state::connection_mut(&mut self.table, socket) {
            overlapped.reset_on_close();
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

    fn now(&self) -> Time {
        self.clock.now()
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl<T: Send> IocpPort<T> {
    /// Puts an admitted socket into the table.
    fn insert_socket(&mut self, key: Key, state: SocketState) -> Socket {
        #[expect(
            clippy::expect_used,
            reason = "`associate_handle` saw a free place, and nobody took it since"
        )]
        self.table.insert(key, state).expect("the table has a free place")
    }
}

impl<T: Send> Drop for IocpPort<T> {
    /// Cancels everything, and waits until the kernel is done with our memory.
    ///
    /// If it is not within five seconds, what is in flight stays allocated for ever.
    fn drop(&mut self) {
        let sockets: Vec<Socket> = self.table.sockets().collect();
        let start = self.clock.now();
        while self.operations.in_flight() > 0 && self.clock.now().since(start) < DROP_WAIT_MAX {
            for socket in &sockets {
                if let Some(entry) = self.table.get_mut(*socket) {
                    entry.state.overlapped.cancel_all();
                }
            }
            if self.dequeue_packets(DROP_WAIT_STEP_MS).is_err() {
                break;
            }
        }
    }
}

impl<T: Send> fmt::Debug for IocpPort<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IocpPort")
            .field("in_flight", &self.operations.in_flight())
            .field("ready", &self.ready.len())
            .field("waiting", &self.waiting.len())
            .field("accept_budget", &self.accept_budget)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl AcceptBudget {
    fn new(sockets_max: u32) -> Self {
        let accepts_max = sockets_max.clamp(16, 64);
        Self {
            listeners_left: sockets_max.min(LISTENERS_MAX),
            surplus: FULL_LISTENERS * (accepts_max - 1),
            accepts_max,
        }
    }

    /// The accepts of one more listener, for which there is room.
    fn acquire(&mut self) -> u32 {
        let more = self.surplus.min(self.accepts_max - 1);
        self.listeners_left -= 1;
        self.surplus -= more;
        1 + more
    }

    fn release(&mut self, accepts: u32) {
        self.listeners_left += 1;
        self.surplus += accepts - 1;
    }
}
