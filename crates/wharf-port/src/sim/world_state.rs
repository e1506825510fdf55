//! The state of a world, behind its lock: the clock, the random numbers, the network, and the steps
//! of each port.

use super::config::WorldConfig;
use super::connection::{CLIENT, ConnId, SERVER};
use super::events::{EventKind, Events, SocketStep, Step};
use super::faults::{FaultCounts, FaultKind, Faults, PortBug};
use super::pipe::Pipe;
use super::rng::Rng;
use super::traffic::{Clocks, TrafficWatch};
use crate::memory::error::MemoryError;
use crate::port::operation::{Key, Socket};
use crate::port::table::SocketTable;
use crate::sync::{AtomicU8, Ordering};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct WorldState {
    pub(super) now_ns: u64,
    /// The sum of the clock's jumps.
    pub(super) jumped_ns: u64,
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    pub(super) counts: FaultCounts,
    pub(super) bug: Option<PortBug>,
    pub(super) events: Events,
    pub(super) conns: SocketTable<Conn>,
    pub(super) listeners: SocketTable<Backlog>,
    pub(super) ports: Vec<PortState>,
    /// Tags of clients that may be able to read or write.
    pub(super) clients_ready: VecDeque<u64>,
    pub(super) conns_live: u32,
    pub(super) connected: u32,
    backlog_max: usize,
    /// The longest time that bytes are in transit from one program to the other.
    lately_ns: u64,
    steps: u64,
    pub(super) trace: u64,
}

/// A connection: two sides, each with the pipe that it reads from.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) sides: [Side; 2],
    pub(super) peer: SocketAddr,
    /// Nothing arrives any more, on either side.
    pub(super) lost: bool,
    /// A fault was injected after which bytes may be missing.
    pub(super) faulted: bool,
    pub(super) never_reads: bool,
    pub(super) traffic: TrafficWatch,
}

#[derive(Debug)]
pub(super) struct Side {
    pub(super) owner: SideOwner,
    pub(super) inbox: Pipe,
    pub(super) reset: bool,
    pub(super) shut: bool,
    /// Its close is abortive.
    pub(super) resets: bool,
    pub(super) waits_to_write: bool,
    /// The kinds ([`READ`], [`WRITE`]) of which the owner is notified and has not acted yet.
    pub(super) notified: u8,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum SideOwner {
    Client(u64),
    /// In a backlog, or accepted and not associated.
    Unowned,
    Port {
        port: u32,
        socket: Socket,
    },
    Gone,
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct Backlog {
    pub(super) address: SocketAddr,
    pub(super) owner: Option<(u32, Socket)>,
    pub(super) waiting: VecDeque<ConnId>,
    pub(super) notified: bool,
}

/// The state of a port.
#[derive(Debug)]
pub(super) struct PortState {
    pub(super) due: VecDeque<SocketStep>,
    pub(super) asleep: bool,
    pub(super) wakes_at_ns: Option<u64>,
    /// The deadline of its last dequeue.
    pub(super) asked_until_ns: u64,
    /// The part of the clock's jumps that its program may count as time.
    pub(super) counted_jumps_ns: u64,
    /// The part of the pauses of its process that its program may not count.
    pub(super) uncounted_pauses_ns: u64,
    pub(super) wake_flag: Arc<WakeFlag>,
    pub(super) alive: bool,
}

/// A flag that ends a port's simulated sleep; set without the world's lock, from any thread.
#[derive(Debug)]
pub(super) struct WakeFlag(AtomicU8);

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readable {
    Nothing,
    Bytes(usize),
    AtEnd,
    Reset,
}

pub(super) const READ: u8 = 1;
pub(super) const WRITE: u8 = 2;
pub(super) const ECONNRESET: i32 = 104;
pub(super) const EPIPE: i32 = 32;

impl WorldState {
    pub(super) fn new(config: &WorldConfig) -> Result<Self, MemoryError> {
        Ok(Self {
            now_ns: 0,
            jumped_ns: 0,
            rng: Rng::new(config.seed),
            faults: config.faults.clone(),
            counts: FaultCounts::default(),
            bug: config.bug,
            events: Events::default(),
            conns: SocketTable::new(config.connections_max)?,
            listeners: SocketTable::new(config.listeners_max)?,
            ports: Vec::new(),
            clients_ready: VecDeque::new(),
            conns_live: 0,
            connected: 0,
            backlog_max: config.backlog_max as usize,
            lately_ns: config.faults.way_max_ns(),
            steps: 0,
            trace: config.seed,
        })
    }

    /// Draws whether a fault of this kind is injected now; counts it.
    pub(super) fn draw_fault(&mut self, kind: FaultKind) -> bool {
        if !self.rng.chance_ppm(self.faults.ppm(kind)) {
            return false;
        }
        self.counts.add(kind);
        self.mix_trace(kind as u64);
        true
    }

    /// Draws whether a planted bug acts now.
    pub(super) fn bug_triggers(&mut self, bug: PortBug) -> bool {
        self.bug == Some(bug) && self.rng.chance_ppm(BUG_PPM)
    }

    /// Mixes a number into the trace, a hash by which runs are compared.
    pub(super) fn mix_trace(&mut self, number: u64) {
        self.trace = (self.trace.rotate_left(7) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    /// The delay of one step of an operation: 0, or one that [`FaultKind::Delay`] injects.
    pub(super) fn delay_ns(&mut self) -> u64 {
        if !self.draw_fault(FaultKind::Delay) {
            return 0;
        }
        let most = self.faults.delay_max_ns;
        let most = if self.rng.below(16) == 0 { most.saturating_mul(16) } else { most };
        1 + self.rng.below(most)
    }

    pub(super) fn latency_ns(&mut self) -> u64 {
        self.faults.latency_ns + self.delay_ns()
    }

    pub(super) fn schedule(&mut self, after_ns: u64, kind: EventKind) {
        self.events.push(self.now_ns.saturating_add(after_ns), kind);
    }

    /// Makes a step of a port's kernel due, now or after a delay.
    pub(super) fn step_later(&mut self, port: u32, step: SocketStep) {
        match self.delay_ns() {
            0 => self.step_now(port, step),
            delay_ns => self.schedule(delay_ns, EventKind::Step { port, step }),
        }
    }

    pub(super) fn step_now(&mut self, port: u32, step: SocketStep) {
        let port = &mut self.ports[port as usize];
        if port.alive {
            port.due.push_back(step);
        }
    }

    /// Called before each step of an operation on a connection: may reset the connection or lose
    /// its bytes.
    pub(super) fn inject_connection_fault(&mut self, conn: ConnId) {
        let is_this_one = self.faults.reset_at_step == Some(self.steps);
        self.steps += 1;
        if is_this_one {
            self.counts.add(FaultKind::Reset);
        }
        if is_this_one || self.draw_fault(FaultKind::Reset) {
            self.set_faulted(conn);
            self.reset_side(conn, CLIENT);
            self.reset_side(conn, SERVER);
        } else if self.draw_fault(FaultKind::BlackHole) {
            self.set_faulted(conn);
            self.conn(conn, |conn| conn.lost = true);
        }
    }

    /// Marks a connection whose bytes may be missing because of a fault.
    pub(super) fn set_faulted(&mut self, conn: ConnId) {
        self.conn(conn, |conn| {
            conn.faulted = true;
            conn.traffic.note(|traffic| traffic.faulted = true);
        });
    }

    pub(super) fn steady_ns(&self) -> u64 {
        self.now_ns.saturating_sub(self.jumped_ns)
    }

    /// The clocks for a connection; without a port as its owner no jump counts.
    pub(super) fn clocks_of(&mut self, conn: ConnId) -> Clocks {
        let owner = self.conn(conn, |conn| conn.sides[SERVER].owner);
        let link_ns = match owner {
            Some(SideOwner::Port { port, .. }) => self.link_ns(port),
            _ => self.steady_ns(),
        };
        Clocks {
            now_ns: self.now_ns,
            steady_ns: self.steady_ns(),
            link_ns,
            lately_ns: self.lately_ns,
        }
    }

    pub(super) fn link_ns(&self, port: u32) -> u64 {
        let port = &self.ports[port as usize];
        self.steady_ns() + port.counted_jumps_ns - port.uncounted_pauses_ns
    }

    /// Notes that the ports' process was paused since these times. Of a pause a port's program counts
    /// as much as of a jump.
    pub(super) fn note_pause(&mut self, since_ns: u64, since_steady_ns: u64) {
        let pause_ns = self.steady_ns() - since_steady_ns;
        for port in &mut self.ports {
            let counted_ns = port.asked_until_ns.saturating_add(LAG_NS).saturating_sub(since_ns);
            port.uncounted_pauses_ns += pause_ns.saturating_sub(counted_ns);
        }
    }

    /// Moves the clock by a jump. A port's program counts of it the rest of the wait that it
    /// requested, plus [`LAG_NS`].
    pub(super) fn jump(&mut self, jump_ns: u64) {
        for port in &mut self.ports {
            let asked_ns = port.asked_until_ns.saturating_sub(self.now_ns);
            port.counted_jumps_ns += jump_ns.min(asked_ns.saturating_add(LAG_NS));
        }
        self.now_ns = self.now_ns.saturating_add(jump_ns);
        self.jumped_ns = self.jumped_ns.saturating_add(jump_ns);
    }

    pub(super) fn conn<R>(&mut self, conn: ConnId, f: impl FnOnce(&mut Conn) -> R) -> Option<R> {
        self.conns.get_mut(conn).map(|entry| f(&mut entry.state))
    }

    /// Executes the events that are due.
    pub(super) fn run_events(&mut self) {
        while let Some(kind) = self.events.pop_due(self.now_ns) {
            match kind {
                EventKind::Arrive { conn, to } => self.arrive(conn, usize::from(to)),
                EventKind::Reset { conn, to } => self.reset_side(conn, usize::from(to)),
                EventKind::Connect { conn, listener } => self.enqueue(conn, listener),
                EventKind::Step { port, step } => self.step_now(port, step),
                EventKind::Wake { port } => self.ports[port as usize].wake_flag.set(),
            }
        }
    }

    /// The time of the next event, or of the first deadline of a sleeping port if that is earlier.
    pub(super) fn next_ns(&self) -> Option<u64> {
        let deadlines = self.ports.iter().filter(|port| port.alive && port.asleep);
        deadlines.filter_map(|port| port.wakes_at_ns).chain(self.events.next_ns()).min()
    }

    pub(super) fn is_runnable(&self, port: u32) -> bool {
        self.ports.get(port as usize).is_some_and(|port| {
            port.alive
                && (!port.asleep
                    || !port.due.is_empty()
                    || port.wake_flag.is_set()
                    || port.wakes_at_ns.is_some_and(|at_ns| at_ns <= self.now_ns))
        })
    }

    pub(super) fn notify(&mut self, conn: ConnId, side: usize, kind: u8) {
        let Some(entry) = self.conns.get_mut(conn) else { return };
        let side = &mut entry.state.sides[side];
        if side.notified & kind != 0 {
            return;
        }
        match side.owner {
            SideOwner::Client(tag) => {
                if side.notified == 0 {
                    self.clients_ready.push_back(tag);
                }
                side.notified |= kind;
            }
            SideOwner::Port { port, socket } => {
                side.notified |= kind;
                let step = if kind == READ { Step::Readable } else { Step::Writable };
                self.step_now(port, SocketStep { socket, step });
            }
            SideOwner::Unowned | SideOwner::Gone => {}
        }
    }

    /// Appends a new connection to its listener's backlog, or resets it if that is full.
    fn enqueue(&mut self, conn: ConnId, listener: Socket) {
        let Some(entry) = self.listeners.get_mut(listener) else {
            return self.refuse(conn);
        };
        let backlog = &mut entry.state;
        if backlog.waiting.len() >= self.backlog_max {
            return self.refuse(conn);
        }
        backlog.waiting.push_back(conn);
        if let Some((port, socket)) = backlog.owner
            && !std::mem::replace(&mut backlog.notified, true)
        {
            self.step_now(port, SocketStep { socket, step: Step::Acceptable });
        }
    }

    /// Resets a connection that will not be accepted.
    pub(super) fn refuse(&mut self, conn: ConnId) {
        self.conn(conn, |conn| conn.traffic.note(|traffic| traffic.turned_away = true));
        self.reset_side(conn, CLIENT);
        self.close(conn, SERVER);
    }
}

impl WakeFlag {
    pub(super) fn new() -> Self {
        Self(AtomicU8::new(0))
    }

    pub(super) fn set(&self) {
        // Release: pairs with the acquire in `clear`.
        self.0.store(1, Ordering::Release);
    }

    pub(super) fn clear(&self) {
        self.0.swap(0, Ordering::AcqRel);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }
}

impl Side {
    pub(super) fn new(owner: SideOwner, capacity: usize) -> Self {
        Self {
            owner,
            inbox: Pipe::new(capacity),
            reset: false,
            shut: false,
            resets: false,
            waits_to_write: false,
            notified: 0,
        }
    }
}

impl WorldState {
    /// Opens a connection to a listener at `address`.
    pub(super) fn connect(&mut self, address: SocketAddr, tag: u64) -> Result<ConnId, NoConn> {
        let matching = |world: &mut Self, socket| {
            world.listeners.get_mut(socket).is_some_and(|entry| entry.state.address == address)
        };
        let all: Vec<Socket> = self.listeners.sockets().collect();
        let open: Vec<Socket> = all.into_iter().filter(|s| matching(self, *s)).collect();
        if open.is_empty() {
            return Err(NoConn::Refused);
        }
        let listener = self.rng.pick(&open);
        let capacity = self.faults.socket_buffer_bytes as usize;
        let [_, a, b, c] = self.connected.to_be_bytes();
        let never_reads = self.draw_fault(FaultKind::PeerNeverReads);
        let traffic = TrafficWatch::default();
        traffic.opened(self.steady_ns());
        traffic.note(|traffic| traffic.faulted = never_reads);
        let state = Conn {
            sides: [
                Side::new(SideOwner::Client(tag), capacity),
                Side::new(SideOwner::Unowned, capacity),
            ],
            peer: SocketAddr::from(([10, a, b, c], 40_000)),
            lost: false,
            faulted: never_reads,
            never_reads,
            traffic,
        };
        let conn = self.conns.insert(Key(tag), state).ok_or(NoConn::Full)?;
        self.conns_live += 1;
        self.connected = self.connected.wrapping_add(1);
        match self.latency_ns() {
            0 => self.enqueue(conn, listener),
            latency_ns => self.schedule(latency_ns, EventKind::Connect { conn, listener }),
        }
        Ok(conn)
    }
}

/// Why a connection could not be opened: no listener has the address, or the table is full.
#[derive(Clone, Copy, Debug)]
pub(super) enum NoConn {
    Refused,
    Full,
}

/// The most of a jump that a program counts beyond the wait that it requested: 100 ms.
const LAG_NS: u64 = 100_000_000;
/// The probability that a planted bug acts, 1 in 16.
const BUG_PPM: u32 = 62_500;
