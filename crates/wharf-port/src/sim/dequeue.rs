//! The port's exit: what is ready at the world's time, and a note of how long it would have slept.

use super::core::{Bell, CLIENT, Core, SERVER};
use super::kernel::{Done, Kernel, Planted, Ready, SocketEnd};
use super::receive::Starved;
use super::world::Guard;
use super::{FaultKind, SimListener, SimStream, World};
use crate::memory::BufferPool;
use crate::port::{
    Completion, Completions, Counters, Inbox, Key, Operation, OperationKind, Outcome, Port,
    PortConfig, PortError, Poster, Refused, Socket, SocketTable, SubmitError, Time, Wake,
};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A port into a [`World`].
///
/// [`dequeue`](Port::dequeue) never waits in real time: it returns what is ready now. If nothing
/// is, the port counts as asleep until something comes, or its timeout is over on the world's
/// clock, or a packet or a buffer wakes it: [`is_runnable`](Self::is_runnable) says so.
///
/// A timeout of zero counts as a microsecond, so that an engine that spins does not stop the clock.
pub struct SimPort<T: Send> {
    pub(super) world: World,
    pub(super) kernel: Kernel,
    inbox: Inbox<T>,
    pub(super) bell: Arc<Bell>,
    /// Whether dequeue moves the clock itself.
    drives: bool,
}

struct SimWake {
    world: World,
    bell: Arc<Bell>,
}

impl Wake for SimWake {
    fn wake(&self) {
        if !self.world.loses_wake() {
            self.bell.ring();
        }
    }
}

impl<T: Send> SimPort<T> {
    /// A port whose receives are filled from `pool`. The driver moves the world's clock.
    ///
    /// # Errors
    ///
    /// [`PortError`] if the pool serves another port already.
    ///
    /// # Panics
    ///
    /// If `sockets_max` or `receive_window` is outside the range that [`PortConfig`] states.
    pub fn new(world: &World, config: PortConfig, pool: BufferPool) -> Result<Self, PortError> {
        assert!((1..=268_435_454).contains(&config.sockets_max), "{}", config.sockets_max);
        assert!((1..=32_768).contains(&config.receive_window), "{}", config.receive_window);
        let bell = Arc::new(Bell::new());
        let wake = SimWake { world: world.clone(), bell: Arc::clone(&bell) };
        let window = config.receive_window.min(pool.capacity() / 2).max(1);
        let kernel = Kernel {
            port: world.register(Arc::clone(&bell)),
            sockets: SocketTable::new(config.sockets_max),
            lends: world.lends_window(),
            window,
            window_max: window,
            lent: Vec::with_capacity(window as usize),
            filling: 0,
            brought: 0,
            starved: Starved::default(),
            ready: VecDeque::new(),
            submitted: Vec::new(),
            counters: Counters::default(),
            planted: Planted::default(),
            pool,
        };
        let inbox = Inbox::new(config.inbox_capacity, Arc::new(wake));
        Ok(Self { world: world.clone(), kernel, inbox, bell, drives: false })
    }

    /// A port that is alone in its world: [`dequeue`](Port::dequeue) moves the clock until
    /// something is ready or the timeout is over; each dequeue takes a microsecond at least. It
    /// returns early with nothing if there is nothing to wait for.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn alone(world: &World, config: PortConfig, pool: BufferPool) -> Result<Self, PortError> {
        let mut port = Self::new(world, config, pool)?;
        port.drives = true;
        Ok(port)
    }

    /// Which of the world's ports this is, in the order in which they were made.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.kernel.port
    }

    /// Whether it has something to do: it does not sleep, something would end its sleep, or
    /// sockets wait for buffers that are free by now.
    #[must_use]
    pub fn is_runnable(&self) -> bool {
        self.world.is_runnable(self.kernel.port) || self.kernel.can_feed()
    }

    /// Buffers that it has taken from the pool to receive into.
    #[must_use]
    pub fn lent(&self) -> u32 {
        self.kernel.lent()
    }

    /// The most buffers that it keeps for that.
    #[must_use]
    pub fn lent_max(&self) -> u32 {
        self.kernel.window
    }

    /// The world that it is in.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Packets first, but at most half of the room, so that neither side starves the other.
    fn take_packets(&mut self, completions: &mut Completions<Self>, room: usize) {
        if !self.inbox.notified() {
            return;
        }
        for _ in 0..room.div_ceil(2) {
            let Some(packet) = self.inbox.take() else { return };
            completions.push(Completion { key: Key(0), outcome: Outcome::Posted(packet) });
        }
        self.inbox.mark();
    }

    /// Looks once at what is ready.
    fn look(&mut self, completions: &mut Completions<Self>) {
        self.kernel.counters.waits += 1;
        let room = completions.capacity() - completions.len();
        self.bell.hush();
        self.take_packets(completions, room);
        let posted = completions.len();
        let world = self.world.clone();
        let mut core = world.lock();
        let number = self.kernel.port as usize;
        core.ports[number].wakes_at_ns = None;
        let was_asleep = std::mem::replace(&mut core.ports[number].asleep, false);
        self.kernel.counters.wakeups += u64::from(was_asleep && posted > 0);
        if core.injects(FaultKind::SpuriousWake) {
            // What woke the port has not been looked at yet.
            self.bell.ring();
            return;
        }
        if core.injects(FaultKind::TakeFail) {
            let number = 1 + core.rng.below(8);
            self.kernel.pool.fail_take(u32::try_from(number).unwrap_or(1));
        }
        let mut room = completions.capacity() - completions.len();
        self.kernel.run(&mut core, room);
        if self.kernel.ready.len() > 1 && core.injects(FaultKind::ShortDequeue) {
            room = room.min(1 + core.rng.below_len(self.kernel.ready.len()));
        }
        for _ in 0..room {
            let Some(ready) = self.kernel.ready.pop_front() else { break };
            completions.push(self.kernel.hand_out(&mut core, &world, ready));
        }
        drop(core);
        // As the other ports do: who finds room left has seen all packets that were there.
        let room = completions.capacity() - completions.len();
        self.take_packets(completions, 2 * room);
    }

    /// Nothing was there: notes until when the port sleeps, unless something came meanwhile.
    /// `false` if it must look again.
    fn fall_asleep(&mut self, deadline: Option<Time>) -> bool {
        let mut core = self.world.lock();
        let port = &mut core.ports[self.kernel.port as usize];
        let kernel = &self.kernel;
        let idle = port.due.is_empty() && kernel.ready.is_empty() && kernel.submitted.is_empty();
        if !idle || !self.inbox.fall_asleep() {
            return false;
        }
        port.asleep = true;
        port.wakes_at_ns = deadline.map(|time| time.0);
        true
    }

    /// Moves the clock of a world that this port is alone in. `false` if that changes nothing.
    fn drive(&mut self, deadline: Option<Time>) -> bool {
        let mut core = self.world.lock();
        if self.bell.is_rung() || self.kernel.can_feed() {
            return true;
        }
        match (core.events.next_ns(), deadline) {
            (Some(next_ns), deadline) if deadline.is_none_or(|time| next_ns <= time.0) => {
                self.world.move_clock(&mut core, next_ns);
                true
            }
            (_, Some(time)) => {
                self.world.move_clock(&mut core, time.0);
                false
            }
            (_, None) => false,
        }
    }
}

impl Kernel {
    /// A completion leaves; a closed socket's place becomes free.
    fn hand_out<T: Send>(
        &mut self,
        core: &mut Core,
        world: &World,
        ready: Ready,
    ) -> Completion<SimStream, T> {
        let Ready { socket, key, done } = ready;
        core.note(core.now_ns ^ key.0.rotate_left(32) ^ u64::from(self.port));
        match self.sockets.get_mut(socket) {
            Some(entry) if done.is_last() => entry.state.undelivered &= !done.bit(),
            Some(_) => {}
            None => self.counters.stale += 1,
        }
        let outcome = match done {
            Done::Accepted { conn, peer, last } => {
                core.note(1);
                let stream = SimStream::new(world.clone(), conn);
                Outcome::Accepted { stream, peer, last }
            }
            Done::AcceptEnded(end) => Outcome::AcceptEnded(end),
            Done::Received { buffer, last } => {
                core.note(2 + ((buffer.len() as u64) << 8));
                Outcome::Received { buffer, last }
            }
            Done::ReceiveEnded(end) => Outcome::ReceiveEnded(end),
            Done::Sent { chain, sent, end } => {
                core.note(3 + ((sent as u64) << 8));
                Outcome::Sent { chain, sent, end }
            }
            Done::Closed => {
                core.note(4);
                self.sockets.remove(socket);
                Outcome::Closed
            }
        };
        Completion { key, outcome }
    }

    /// Ends all that is in flight: nothing outside this process can write to a buffer, so what is
    /// dropped after this is free at once.
    fn end_all(&mut self, mut core: Guard<'_>) {
        let port = &mut core.ports[self.port as usize];
        port.alive = false;
        port.due.clear();
        for socket in self.sockets.sockets().collect::<Vec<_>>() {
            let Some(entry) = self.sockets.remove(socket) else { continue };
            match entry.state.end {
                SocketEnd::Conn(conn) => core.close(conn, SERVER),
                SocketEnd::Listener(listener) => core.close_listener(listener),
            }
        }
        for ready in self.ready.drain(..) {
            if let Done::Accepted { conn, .. } = ready.done {
                core.close(conn, SERVER);
            }
        }
    }
}

impl<T: Send> Port for SimPort<T> {
    type Packet = T;
    type Stream = SimStream;
    type Listener = SimListener;

    fn associate(&mut self, stream: SimStream, key: Key) -> Result<Socket, Refused<SimStream>> {
        self.associate_stream(stream, key)
    }

    fn associate_listener(
        &mut self,
        listener: SimListener,
        key: Key,
    ) -> Result<Socket, Refused<SimListener>> {
        self.associate_listening(listener, key)
    }

    fn submit(&mut self, socket: Socket, operation: Operation) -> Result<(), SubmitError> {
        self.start(socket, operation)
    }

    fn cancel(&mut self, socket: Socket, kind: OperationKind) {
        self.start_cancel(socket, kind);
    }

    fn shutdown(&mut self, socket: Socket) {
        self.start_shutdown(socket);
    }

    fn abandon(&mut self, socket: Socket) {
        let Some(conn) = self.kernel.conn_of(socket) else { return };
        self.world.lock().conn(conn, |conn| conn.sides[SERVER].resets = true);
    }

    fn set_window(&mut self, buffers: u32) {
        self.kernel.window = buffers.min(self.kernel.window_max);
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
        if completions.len() == completions.capacity() {
            return Ok(());
        }
        let before = completions.len();
        let deadline = timeout.map(|timeout| self.now().after(timeout.max(SPIN)));
        self.world.lock().ports[self.kernel.port as usize].asked_until_ns =
            deadline.map_or(u64::MAX, |time| time.0);
        if self.drives {
            // Else a port that always has something ready would never hear from the network.
            self.world.advance_to(self.now().after(SPIN));
        }
        loop {
            self.look(completions);
            if completions.len() > before || !self.fall_asleep(deadline) {
                return Ok(());
            }
            if !self.drives || timeout == Some(Duration::ZERO) || !self.drive(deadline) {
                return Ok(());
            }
        }
    }

    fn poster(&self) -> Poster<T> {
        self.inbox.poster()
    }

    fn pool(&self) -> &BufferPool {
        &self.kernel.pool
    }

    fn buffers_wanted(&self) -> u32 {
        let kernel = &self.kernel;
        if kernel.lends {
            return kernel.window.saturating_sub(kernel.lent());
        }
        u32::try_from(kernel.starved.count()).unwrap_or(u32::MAX).min(kernel.window)
    }

    fn now(&self) -> Time {
        self.world.now()
    }

    fn counters(&self) -> Counters {
        self.kernel.counters
    }
}

impl<T: Send> Drop for SimPort<T> {
    fn drop(&mut self) {
        self.kernel.end_all(self.world.lock());
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

/// What a dequeue that does not wait costs on the world's clock.
const SPIN: Duration = Duration::from_micros(1);
