//! The handle to a world, which the driver, ports and clients share.

use super::config::WorldConfig;
use super::faults::{FaultCounts, Faults, PortBug};
use super::peer::{SimClient, SimListener};
use super::world_state::{Backlog, NoConn, PortState, WakeFlag, WorldState};
use crate::port::contract::Time;
use crate::port::operation::Key;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

/// A simulated network with its clock. A clone is another handle to the same world.
///
/// # Cost
///
/// A method takes the world's lock once. Opening a connection allocates, as do queues that grow.
#[derive(Clone)]
pub struct World {
    shared: Arc<Shared>,
}

struct Shared {
    state: Lock<WorldState>,
    /// A copy of the state's clock, which is read without the lock.
    clock_ns: AtomicU64,
    /// Wake-ups so far, for [`PortBug::LoseWake`].
    wakes: AtomicU32,
    bug: Option<PortBug>,
    provides_buffers: bool,
}

#[expect(
    clippy::disallowed_types,
    reason = "shards share a world and pass streams to each other; not used by a real server"
)]
type Lock<T> = std::sync::Mutex<T>;
pub(super) type Guard<'a> = std::sync::MutexGuard<'a, WorldState>;

impl World {
    /// A world at time 0, without ports, listeners and clients.
    ///
    /// # Panics
    ///
    /// If there is too little memory.
    #[must_use]
    #[expect(clippy::expect_used, reason = "only tests make worlds")]
    pub fn new(config: WorldConfig) -> Self {
        let state = Lock::new(WorldState::new(&config).expect("memory for a world"));
        Self {
            shared: Arc::new(Shared {
                state,
                clock_ns: AtomicU64::new(0),
                wakes: AtomicU32::new(0),
                bug: config.bug,
                provides_buffers: config.provides_buffers,
            }),
        }
    }

    /// Opens a listening socket. Several may have the same `address`: each connection gets a random
    /// one of them.
    ///
    /// # Errors
    ///
    /// `OutOfMemory` if there are [`WorldConfig::listeners_max`] listeners.
    pub fn listen(&self, address: SocketAddr) -> io::Result<SimListener> {
        let backlog = Backlog { address, owner: None, waiting: VecDeque::new(), notified: false };
        let id = self.lock().listeners.insert(Key(0), backlog);
        id.map_or(Err(io::ErrorKind::OutOfMemory.into()), |id| {
            Ok(SimListener::new(self.clone(), id, address))
        })
    }

    /// Connects to `address`; does not wait. [`next_ready_client`](Self::next_ready_client) returns `tag` for
    /// the client.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` if no listener has the address, `OutOfMemory` if there are
    /// [`WorldConfig::connections_max`] connections.
    pub fn connect(&self, address: SocketAddr, tag: u64) -> io::Result<SimClient> {
        let connected = self.lock().connect(address, tag);
        match connected {
            Ok(conn) => Ok(SimClient::new(self.clone(), conn)),
            Err(NoConn::Refused) => Err(io::ErrorKind::ConnectionRefused.into()),
            Err(NoConn::Full) => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }

    /// Moves the clock to the next event, or to the first deadline of a sleeping port, and executes
    /// the events that are due. `false` if there are none; then the clock does not move.
    ///
    /// May be called while ports are runnable; they then run late, as under load.
    #[expect(clippy::must_use_candidate, reason = "called for kind it does")]
    pub fn advance(&self) -> bool {
        let mut state = self.lock();
        let next_ns = state.next_ns();
        next_ns.is_some_and(|next_ns| {
            self.move_clock(&mut state, next_ns);
            true
        })
    }

    /// The time of the next event, or of the first deadline of a sleeping port; `None` without
    /// both.
    #[must_use]
    pub fn next_event(&self) -> Option<Time> {
        self.lock().next_ns().map(Time)
    }

    /// Moves the clock at least to `time`, and executes the events until then.
    pub fn advance_to(&self, time: Time) {
        let mut state = self.lock();
        while let Some(next_ns) = state.events.next_ns().filter(|next_ns| *next_ns <= time.0) {
            self.move_clock(&mut state, next_ns);
        }
        self.move_clock(&mut state, time.0);
    }

    /// As [`advance_to`](Self::advance_to), while the process of the ports is paused.
    pub fn pause_to(&self, time: Time) {
        let (since, since_steady_ns) = (self.now(), self.steady_ns());
        self.advance_to(time);
        self.lock().note_pause(since.0, since_steady_ns);
    }

    /// The tag of a client that may be able to read or write: bytes, an end or a reset have
    /// arrived, or its pipe has spare capacity.
    ///
    /// A client's tag is not returned again before it has tried to read or write; so it should read
    /// and write until both would block. The tag of a dropped client may be returned.
    #[must_use]
    pub fn next_ready_client(&self) -> Option<u64> {
        self.lock().clients_ready.pop_front()
    }

    /// Replaces the faults that are injected.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Mixes a number of the driver into the [trace](Self::trace).
    pub fn mix_trace(&self, number: u64) {
        self.lock().mix_trace(number);
    }

    /// Simulated time since the world was created.
    #[must_use]
    pub fn now(&self) -> Time {
        // Relaxed: the driver's thread is the one that moves it.
        Time(self.shared.clock_ns.load(Ordering::Relaxed))
    }

    /// Simulated time without the clock's jumps.
    #[must_use]
    pub fn steady_ns(&self) -> u64 {
        self.lock().steady_ns()
    }

    /// The most time that a program on the port with this number may count for its links: the
    /// [steady clock](Self::steady_ns), and of each jump and each [pause](Self::pause_to) the rest of
    /// the wait that its dequeue had requested, plus 100 ms.
    #[must_use]
    pub fn link_ns(&self, port: u32) -> u64 {
        self.lock().link_ns(port)
    }

    /// Whether the port with this number does not sleep, or something would end its sleep.
    pub(crate) fn is_runnable(&self, port: u32) -> bool {
        self.lock().is_runnable(port)
    }

    /// The faults that are injected.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.lock().faults.clone()
    }

    /// How often faults were injected so far.
    #[must_use]
    pub fn fault_counts(&self) -> FaultCounts {
        self.lock().counts
    }

    /// A hash of the run: equal runs have equal traces, and different runs different ones with high
    /// probability.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.lock().trace
    }

    /// Connections that are open on at least one side.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.lock().conns_live
    }

    pub(super) fn provides_buffers(&self) -> bool {
        self.shared.provides_buffers
    }

    pub(super) fn lock(&self) -> Guard<'_> {
        // Ignores poisoning: after a panic in a test the state is only reported and dropped.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn move_clock(&self, state: &mut WorldState, to_ns: u64) {
        let jumps = state.draw_fault(super::FaultKind::ClockJump);
        let jump_ns = if jumps { state.rng.below(state.faults.clock_jump_max_ns) } else { 0 };
        state.now_ns = state.now_ns.max(to_ns);
        state.jump(jump_ns);
        self.shared.clock_ns.store(state.now_ns, Ordering::Relaxed);
        state.run_events();
    }

    /// Adds a port, and returns its number.
    pub(super) fn register(&self, wake_flag: Arc<WakeFlag>) -> u32 {
        let mut state = self.lock();
        let number = u32::try_from(state.ports.len()).unwrap_or(u32::MAX);
        state.ports.push(PortState {
            due: VecDeque::new(),
            asleep: false,
            wakes_at_ns: None,
            asked_until_ns: 0,
            counted_jumps_ns: 0,
            uncounted_pauses_ns: 0,
            wake_flag,
            alive: true,
        });
        number
    }

    /// Whether [`PortBug::LoseWake`] loses this wake-up: every fourth.
    pub(super) fn loses_wake(&self) -> bool {
        self.shared.bug == Some(PortBug::LoseWake)
            && self.shared.wakes.fetch_add(1, Ordering::Relaxed) % 4 == 3
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.now()).finish_non_exhaustive()
    }
}
