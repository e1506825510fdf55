//! The back end on Windows: an I/O completion port.
//!
//! ```text
//!   submit  ── WSASend, AcceptEx, zero-byte WSARecv ──► operations ──►  kernel
//!   dequeue ◄── states of sockets ◄── GetQueuedCompletionStatusEx ◄──────┘
//!   post    ── inbox, PostQueuedCompletionStatus ─► dequeue
//! ```
//!
//! A waiting receive is a zero-byte `WSARecv`, so an idle connection holds no buffer; when it
//! completes, a nonblocking `recv` reads the bytes into a buffer of the pool. Operations that
//! succeed at once make no packet where that is safe (FILE_SKIP_COMPLETION_PORT_ON_SUCCESS); the
//! next dequeue reports them. A dequeue processes each socket once, so that a busy one does not
//! delay the others. The code accepts both where Wine and Windows differ.

mod dequeue;
mod operations;
mod socket;
mod state;
mod submit;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
mod wake;

use crate::memory::pool::BufferPool;
use crate::memory::table::{try_table, try_with_capacity};
use crate::port::bulk::Bulk;
use crate::port::clock::Clock;
use crate::port::contract::{Completions, Counters, DROP_WAIT_MAX, Port, PortConfig, Time};
use crate::port::error::{OsError, PortError};
use crate::port::inbox::{Inbox, Poster};
use crate::port::operation::{AssociateError, Key, Operation, OperationKind, Socket, SubmitError};
use crate::port::socket_queue::SocketQueue;
use crate::port::supply::Supply;
use operations::OperationTable;
use socket::OverlappedSocket;
use state::{Accept, Connection, Listener, Receive, Role, SocketState, Table};
use std::fmt;
use std::iter::repeat_n;
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
/// A send that is cancelled or fails may have sent more than its completion says, because Windows
/// does not report it. Close the socket after that.
pub struct IocpPort<T: Send> {
    // The first field, so that the sockets are closed before the operations' memory is freed or
    // leaked.
    table: Table,
    operations: OperationTable,
    port: Arc<CompletionPort>,
    inbox: Inbox<T>,
    supply: Supply,
    /// Sockets with work.
    ready: SocketQueue,
    /// Accepts of the table that no listener uses.
    accepts_free: Vec<u32>,
    accept_budget: AcceptBudget,
    entries: Box<[OVERLAPPED_ENTRY]>,
    /// Whether operations that succeed at once may make no packet, where the system supports that.
    may_skip: bool,
    counters: Counters,
    clock: Clock,
    /// The port stays on the thread that created it, as the other back ends.
    one_thread: PhantomData<*const ()>,
}

/// The accepts that listeners may have posted.
#[derive(Debug)]
struct AcceptBudget {
    /// Listeners that can still be associated; each has at least one accept.
    listeners_left: u32,
    /// Accepts beyond one per listener.
    surplus: u32,
    /// The most accepts of one listener.
    accepts_max: u32,
}

/// Packets of one GetQueuedCompletionStatusEx, 32 bytes each.
const BATCH: usize = 256;
/// The most listeners of a port.
const LISTENERS_MAX: u32 = 1024;
/// Listeners that get `accepts_max` accepts; further ones get those that are left, at least one
/// each.
const FULL_LISTENERS: u32 = 4;
/// The longest single wait of the drop.
const DROP_WAIT_STEP_MS: u32 = 100;
const NO_PORT_HINT: &str = "the process has too many handles, or the system has too little memory";

impl<T: Send> IocpPort<T> {
    /// Creates a port that receives into buffers of `pool`, which no other port uses.
    ///
    /// # Errors
    ///
    /// [`PortError`] if `CreateIoCompletionPort` fails.
    ///
    /// # Panics
    ///
    /// If a value is outside the range that [`PortConfig`] states.
    pub fn new(config: PortConfig, pool: BufferPool) -> Result<Self, PortError> {
        config.validate();
        let sockets_max = config.sockets_max;
        // One thread owns the port, so the concurrency is 1.
        let port = CompletionPort::new(1).map_err(|os| PortError::new(os, Some(NO_PORT_HINT)))?;
        let port = Arc::new(port);
        let inbox = Inbox::new(config.inbox_capacity, port.clone())?;
        let accept_budget = AcceptBudget::new(sockets_max);
        let accepts = accept_budget.listeners_left + accept_budget.surplus;
        Ok(Self {
            table: Table::new(sockets_max)?,
            operations: OperationTable::new(sockets_max, accepts)?,
            inbox,
            port,
            supply: Supply::new(pool, sockets_max, config.receive_buffers_max)?,
            ready: SocketQueue::new(sockets_max)?,
            accepts_free: try_table("the free accepts", (0..accepts).rev())?.into_vec(),
            accept_budget,
            entries: try_table("packets", repeat_n(OVERLAPPED_ENTRY::default(), BATCH))?,
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

    fn associate(
        &mut self,
        stream: TcpStream,
        key: Key,
    ) -> Result<Socket, AssociateError<TcpStream>> {
        let result = self.associate_handle(&stream).and_then(|()| {
            let set = stream.set_nonblocking(true);
            set.map_err(|error| Some(OsError::from_io("ioctlsocket", &error)))
        });
        if let Err(error) = result {
            return Err(AssociateError { socket: stream, error });
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
    ) -> Result<Socket, AssociateError<TcpListener>> {
        let refused = |socket, error| Err(AssociateError { socket, error });
        let is_ipv6 = match listener.local_addr() {
            Ok(address) => address.is_ipv6(),
            Err(error) => {
                return refused(listener, Some(OsError::from_io("getsockname", &error)));
            }
        };
        if let Err(error) = socket::check_listening(&listener) {
            return refused(listener, Some(error));
        }
        let calls = match socket::accept_calls(&listener) {
            Ok(calls) => calls,
            Err(error) => return refused(listener, Some(error)),
        };
        if self.accept_budget.listeners_left == 0 {
            return refused(listener, None);
        }
        let accepts_max = self.accept_budget.acquire();
        let done = try_with_capacity("the accepts of a listener", accepts_max as usize)
            .map_err(|error| Some(PortError::from(error).os()))
            .and_then(|done| self.associate_handle(&listener).map(|()| done));
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                self.accept_budget.release(accepts_max);
                return refused(listener, error);
            }
        };
        let role = Role::Listener(Listener {
            calls,
            is_ipv6,
            accept: Accept::Idle,
            accepts_max,
            aborts: 0,
            posted: 0,
            done: done.into(),
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

    fn reset_on_close(&mut self, socket: Socket) {
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
        self.supply.pool()
    }

    fn now(&self) -> Time {
        self.clock.now()
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl<T: Send> IocpPort<T> {
    /// Puts a socket that `associate_handle` has checked into the table.
    fn insert_socket(&mut self, key: Key, state: SocketState) -> Socket {
        #[expect(
            clippy::expect_used,
            reason = "`associate_handle` saw a free slot, and no code has taken it since"
        )]
        self.table.insert(key, state).expect("the table has a free slot")
    }
}

impl<T: Send> Drop for IocpPort<T> {
    /// Cancels all operations, and waits until none is in flight, at most `DROP_WAIT_MAX`; then
    /// it leaks the memory of those in flight.
    fn drop(&mut self) {
        let sockets: Vec<Socket> = self.table.sockets().collect();
        let start = self.clock.now();
        while self.operations.in_flight() > 0
            && self.clock.now().duration_since(start) < DROP_WAIT_MAX
        {
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
            .field("waiting", &self.supply.waiting_count())
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

    /// The accepts of a further listener; `listeners_left` > 0.
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
