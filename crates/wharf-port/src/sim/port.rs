//! The simulated port: its parts, and its implementation of [`Port`].

use super::connection::{CLIENT, SERVER};
use super::kernel::{BugState, Kernel};
use super::peer::{SimListener, SimStream};
use super::state::{SocketEnd, SocketState};
use super::world::World;
use super::world_state::WakeFlag;
use crate::memory::pool::BufferPool;
use crate::memory::table::try_with_capacity;
use crate::port::contract::{Completions, Counters, Port, PortConfig, Time};
use crate::port::error::PortError;
use crate::port::inbox::{Inbox, Poster};
use crate::port::operation::{AssociateError, Key, Operation, OperationKind, Socket, SubmitError};
#[cfg(all(test, target_os = "linux"))]
use crate::port::seat::SeatPort;
use crate::port::supply::Supply;
use crate::port::table::SocketTable;
use crate::port::wake::Wake;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A port of a [`World`].
///
/// [`dequeue`](Port::dequeue) never waits in real time: it returns the completions that are ready.
/// If there are none, the port is asleep until an event, its deadline on the world's clock, a
/// notification, or a released buffer for which a socket waits; then
/// [`is_runnable`](Self::is_runnable) returns true.
///
/// A timeout of zero counts as 1 µs, so that an engine that never waits does not stop the clock.
pub struct SimPort<T: Send> {
    pub(super) world: World,
    pub(super) kernel: Kernel,
    pub(super) inbox: Inbox<T>,
    pub(super) wake_flag: Arc<WakeFlag>,
    /// Whether dequeue moves the world's clock.
    pub(super) moves_clock: bool,
    /// The last dequeue ended early, without looking at its sockets.
    pub(super) woke_early: bool,
}

struct SimWake {
    world: World,
    wake_flag: Arc<WakeFlag>,
}

impl Wake for SimWake {
    fn wake(&self) {
        if !self.world.loses_wake() {
            self.wake_flag.set();
        }
    }
}

impl<T: Send> SimPort<T> {
    /// Creates a port that receives into buffers of `pool`. The driver moves the world's clock.
    ///
    /// # Errors
    ///
    /// [`PortError`] if there is too little memory.
    ///
    /// # Panics
    ///
    /// If a value is outside the range that [`PortConfig`] states.
    pub fn new(world: &World, config: PortConfig, pool: BufferPool) -> Result<Self, PortError> {
        config.validate();
        let wake_flag = Arc::new(WakeFlag::new());
        let wake = SimWake { world: world.clone(), wake_flag: Arc::clone(&wake_flag) };
        let receive_buffers_max = config.receive_buffers_max.min(pool.capacity() / 2).max(1);
        let kernel = Kernel {
            port: world.register(Arc::clone(&wake_flag)),
            sockets: SocketTable::new(config.sockets_max)?,
            provides_buffers: world.provides_buffers(),
            receive_buffers_max,
            provided: try_with_capacity("the provided buffers", receive_buffers_max as usize)?,
            filling_count: 0,
            ready: VecDeque::new(),
            submitted: Vec::new(),
            counters: Counters::default(),
            bug_state: BugState::default(),
            supply: Supply::new(pool, config.sockets_max, receive_buffers_max)?,
        };
        let inbox = Inbox::new(config.inbox_capacity, Arc::new(wake))?;
        Ok(Self {
            world: world.clone(),
            kernel,
            inbox,
            wake_flag,
            moves_clock: false,
            woke_early: false,
        })
    }

    /// Creates the only port of its world: [`dequeue`](Port::dequeue) moves the clock until a
    /// completion is ready or the timeout has passed, by at least 1 µs. It returns early with
    /// nothing if there is no event and no timeout.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn with_own_clock(
        world: &World,
        config: PortConfig,
        pool: BufferPool,
    ) -> Result<Self, PortError> {
        let mut port = Self::new(world, config, pool)?;
        port.moves_clock = true;
        Ok(port)
    }

    /// The port's number, in the order in which the world's ports were created.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.kernel.port
    }

    /// Whether a dequeue would make progress: the port does not sleep, its sleep has ended, or
    /// sockets wait for buffers that are free now.
    #[must_use]
    pub fn is_runnable(&self) -> bool {
        self.world.is_runnable(self.kernel.port) || self.kernel.can_serve_waiters()
    }

    /// Buffers of the pool that are provided or being filled.
    #[must_use]
    pub fn provided_buffers(&self) -> u32 {
        self.kernel.provided_count()
    }

    /// The most buffers that may be provided or being filled.
    #[must_use]
    pub fn provided_buffers_max(&self) -> u32 {
        self.kernel.supply.filled_max()
    }

    /// The port's world.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    fn insert_stream(
        &mut self,
        mut stream: SimStream,
        key: Key,
    ) -> Result<Socket, AssociateError<SimStream>> {
        if self.kernel.sockets.is_full() {
            return Err(AssociateError { socket: stream, error: None });
        }
        let Some(conn) = stream.take() else {
            return Err(AssociateError { socket: stream, error: None });
        };
        let state = SocketState::new(SocketEnd::Conn(conn));
        let Some(socket) = self.kernel.sockets.insert(key, state) else {
            unreachable!("a table that is not full has a free slot");
        };
        let mut world = self.world.lock();
        world.assign_to_port(conn, self.kernel.port, socket);
        world.inject_connection_fault(conn);
        Ok(socket)
    }

    fn insert_listener(
        &mut self,
        mut listener: SimListener,
        key: Key,
    ) -> Result<Socket, AssociateError<SimListener>> {
        if self.kernel.sockets.is_full() {
            return Err(AssociateError { socket: listener, error: None });
        }
        let Some(id) = listener.take() else {
            return Err(AssociateError { socket: listener, error: None });
        };
        let state = SocketState::new(SocketEnd::Listener(id));
        let Some(socket) = self.kernel.sockets.insert(key, state) else {
            unreachable!("a table that is not full has a free slot");
        };
        let mut world = self.world.lock();
        if let Some(entry) = world.listeners.get_mut(id) {
            entry.state.owner = Some((self.kernel.port, socket));
        }
        Ok(socket)
    }
}

impl<T: Send> Port for SimPort<T> {
    type Packet = T;
    type Stream = SimStream;
    type Listener = SimListener;

    fn associate(
        &mut self,
        stream: SimStream,
        key: Key,
    ) -> Result<Socket, AssociateError<SimStream>> {
        self.insert_stream(stream, key)
    }

    fn associate_listener(
        &mut self,
        listener: SimListener,
        key: Key,
    ) -> Result<Socket, AssociateError<SimListener>> {
        self.insert_listener(listener, key)
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
        let Some(conn) = self.kernel.conn_of(socket) else { return };
        self.world.lock().conn(conn, |conn| conn.sides[SERVER].resets = true);
    }

    fn set_receive_buffers(&mut self, buffers: u32) {
        self.kernel.supply.set_filled_max(buffers.min(self.kernel.receive_buffers_max));
    }

    fn unread_bytes(&mut self, socket: Socket) -> Option<u64> {
        let conn = self.kernel.conn_of(socket)?;
        self.world.lock().conn(conn, |conn| conn.sides[SERVER].inbox.arrived() as u64)
    }

    fn acknowledged_bytes(&mut self, socket: Socket) -> Option<u64> {
        let conn = self.kernel.conn_of(socket)?;
        self.world.lock().conn(conn, |conn| conn.sides[CLIENT].inbox.arrived_total())
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
        self.kernel.supply.pool()
    }

    fn refill_count(&self) -> u32 {
        let kernel = &self.kernel;
        if kernel.provides_buffers {
            return kernel.supply.filled_max().saturating_sub(kernel.provided_count());
        }
        kernel.supply.waiting_count().min(kernel.supply.filled_max())
    }

    fn now(&self) -> Time {
        self.world.now()
    }

    fn counters(&self) -> Counters {
        self.kernel.counters
    }
}

#[cfg(all(test, target_os = "linux"))]
impl<T: Send> SeatPort for SimPort<T> {
    /// A dequeue puts the port to sleep; this makes the sleep one without a deadline.
    fn prepare_wait(&mut self) -> Result<bool, PortError> {
        Ok(!self.kernel.can_serve_waiters() && self.sleep_on())
    }

    fn end_wait(&mut self) {
        self.inbox.wake_up();
    }
}

impl<T: Send> fmt::Debug for SimPort<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimPort")
            .field("number", &self.kernel.port)
            .field("now", &self.world.now())
            .field("counters", &self.kernel.counters)
            .finish_non_exhaustive()
    }
}
