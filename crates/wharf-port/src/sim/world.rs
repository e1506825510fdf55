//! The world's handle: what a driver steps, and what ports and peers share.

use super::config::WorldConfig;
use super::faults::{FaultCounts, Faults, Plant};
use super::peer::{SimClient, SimListener};
use super::world_state::{Backlog, NoConn, PortState, WakeFlag, WorldState};
use crate::port::{Key, Time};
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
/// A method takes the world's lock once. Opening a connection allocates; nothing else does, once
/// queues have grown to their size.
#[derive(Clone)]
pub struct World {
    shared: Arc<Shared>,
}

struct Shared {
    state: Lock<WorldState>,
    /// A copy of the core's clock, to be read without the lock.
    clock_ns: AtomicU64,
    /// Wake-ups so far, for [`Plant::LoseWake`].
    wakes: AtomicU32,
    plant: Option<Plant>,
    lends_window: bool,
}

#[expect(
    clippy::disallowed_types,
    reason = "shards share a world and streams travel between them; not in a server's path"
)]
type Lock<T> = std::sync::Mutex<T>;
pub(super) type Guard<'a> = std::sync::MutexGuard<'a, WorldState>;

impl World {
    /// A world at time 0 with nobody in it.
    #[must_use]
    pub fn new(config: WorldConfig) -> Self {
        let state = Lock::new(WorldState::new(&config));
        Self {
            shared: Arc::new(Shared {
                state,
                clock_ns: AtomicU64::new(0),
                wakes: AtomicU32::new(0),
                plant: config.plant,
                lends_window: config.lends_window,
            }),
        }
    }

    /// Opens a listening socket. Several may have one `address`: connections are then spread over
    /// them by chance.
    ///
    /// # Errors
    ///
    /// `OutOfMemory` if there are as many as the configuration allows.
    pub fn listen(&self, address: SocketAddr) -> io::Result<SimListener> {
        let backlog = Backlog { address, owner: None, waiting: VecDeque::new(), notified: false };
        let id = self.lock().listeners.insert(Key(0), backlog);
        id.map_or(Err(io::ErrorKind::OutOfMemory.into()), |id| {
            Ok(SimListener::new(self.clone(), id, address))
        })
    }

    /// Connects to `address`; does not wait. `tag` is what [`ready_client`](Self::ready_client)
    /// calls the client.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` if nobody listens there, `OutOfMemory` if the world is full.
    pub fn connect(&self, address: SocketAddr, tag: u64) -> io::Result<SimClient> {
        let connected = self.lock().connect(address, tag);
        match connected {
            Ok(conn) => Ok(SimClient::new(self.clone(), conn)),
            Err(NoConn::Refused) => Err(io::ErrorKind::ConnectionRefused.into()),
            Err(NoConn::Full) => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }

    /// Moves the clock to the next event or to the end of the next port's wait, and makes happen
    /// what is due then. `false` if there is nothing to wait for: time stands still.
    ///
    /// May be called while ports are runnable; they are then late, as under load.
    #[expect(clippy::must_use_candidate, reason = "called for kind it does")]
    pub fn advance(&self) -> bool {
        let mut state = self.lock();
        let next_ns = state.next_ns();
        next_ns.is_some_and(|next_ns| {
            self.move_clock(&mut state, next_ns);
            true
        })
    }

    /// When the next thing happens or the next port's wait is over; `None` if nothing is waited for.
    #[must_use]
    pub fn next_event(&self) -> Option<Time> {
        self.lock().next_ns().map(Time)
    }

    /// Moves the clock to `time` at least, with all that happens on the way.
    pub fn advance_to(&self, time: Time) {
        let mut state = self.lock();
        while let Some(next_ns) = state.events.next_ns().filter(|next_ns| *next_ns <= time.0) {
            self.move_clock(&mut state, next_ns);
        }
        self.move_clock(&mut state, time.0);
    }

    /// The tag of a client that may be able to go on: bytes, an end, a reset or room came.
    ///
    /// It is not named again before it has tried to read or write; it goes on until both would
    /// block. A client that was dropped may still be named.
    #[must_use]
    pub fn ready_client(&self) -> Option<u64> {
        self.lock().clients_ready.pop_front()
    }

    /// From now on other faults can strike.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Mixes a number into the trace: what a driver wants to be part of "the same run".
    pub fn note(&self, number: u64) {
        self.lock().note(number);
    }

    /// The clock.
    #[must_use]
    pub fn now(&self) -> Time {
        // Relaxed: the driver's thread is the one that moves it.
        Time(self.shared.clock_ns.load(Ordering::Relaxed))
    }

    /// The clock without its jumps, in nanoseconds.
    #[must_use]
    pub fn steady_ns(&self) -> u64 {
        self.lock().steady_ns()
    }

    /// The clock by which a program behind the port with this number may measure its links, at
    /// most: the [steady one](Self::steady_ns), and of each jump what was left of the wait that
    /// the port had been asked for, plus 100 ms.
    #[must_use]
    pub fn link_ns(&self, port: u32) -> u64 {
        self.lock().link_ns(port)
    }

    /// Whether the port with this number does not sleep, or something would end its sleep.
    pub(super) fn is_runnable(&self, port: u32) -> bool {
        self.lock().is_runnable(port)
    }

    /// What can go wrong now.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.lock().faults.clone()
    }

    /// What did go wrong so far.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        self.lock().counts
    }

    /// A number that two runs share if, in all likelihood, they were the same.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.lock().trace
    }

    /// Whether `plant` is planted in this world; for faults that live above the port.
    #[must_use]
    pub fn planted(&self, plant: Plant) -> bool {
        self.shared.plant == Some(plant)
    }

    /// Connections that are open on one side at least.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.lock().conns_live
    }

    pub(super) fn lends_window(&self) -> bool {
        self.shared.lends_window
    }

    pub(super) fn lock(&self) -> Guard<'_> {
        // A panic in a test leaves the world behind; whoever looks at it then looks at a ruin.
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

    /// Takes a new port in and says which number it has.
    pub(super) fn register(&self, wake_flag: Arc<WakeFlag>) -> u32 {
        let mut state = self.lock();
        let number = u32::try_from(state.ports.len()).unwrap_or(u32::MAX);
        state.ports.push(PortState {
            due: VecDeque::new(),
            asleep: false,
            wakes_at_ns: None,
            asked_until_ns: 0,
            counted_jumps_ns: 0,
            wake_flag,
            alive: true,
        });
        number
    }

    /// Whether the planted fault swallows this wake-up: each fourth.
    pub(super) fn loses_wake(&self) -> bool {
        self.shared.plant == Some(Plant::LoseWake)
            && self.shared.wakes.fetch_add(1, Ordering::Relaxed) % 4 == 3
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.now()).finish_non_exhaustive()
    }
}
