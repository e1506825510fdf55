//! The simulation: its parts, and the execution of a step.

use crate::engine::inspect::SlotCounts;
use crate::engine::packets::Packets;
use crate::engine::service_thread::ServiceThread;
use crate::engine::worker::{Turn, Worker};
use crate::handler::Handler;
use crate::limits::Settings;
use crate::server::builder::{Builder, Server};
use crate::service::ServiceOf;
use crate::shared::Shared;
use crate::shared::handle::Handle;
use crate::sim::bug::EngineBug;
use crate::sim::buggy_handler::{Buggy, Kept};
use crate::sim::buggy_port::BuggyPort;
use crate::sim::checked::{CheckedHandler, CheckedState, panic_text};
use crate::sim::checker::CallbackChecker;
use crate::sim::client::{Client, Next};
use crate::sim::early_end::StopRecord;
use crate::sim::failure::SimFailure;
use crate::sim::rules::Limits;
use crate::sim::{FaultCounts, Faults, PortBug, Rng, SimClient, Time, TrafficWatch};
use crate::stats::Stats;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use wharf_port::memory::BufferPool;
use wharf_port::port::Poster;
use wharf_port::sim::{SimPort, World, WorldConfig};

/// The parameters of a simulation beside the server's settings.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SimConfig {
    /// The seed of all random decisions.
    pub seed: u64,
    /// Number of listeners, all at one address.
    pub listeners: u32,
    /// The faults that can be injected.
    pub faults: Faults,
    /// Ports acquire receive buffers in advance, as io_uring, and not when bytes are there, as epoll.
    pub provides_buffers: bool,
    /// Maximum of a port's receive buffers, if less than the server's setting.
    pub receive_buffers_max: Option<u32>,
    /// Capacity of a port's inbox, if not the server's setting.
    pub inbox_capacity: Option<u32>,
    /// The handler leaves input unread until more has arrived, so that each link of a shard can hold
    /// buffers for which the next one waits.
    pub holds_input: bool,
    /// Maximum time for which the handler defers replies, which hold buffers for which other links
    /// wait.
    pub replies_take: Duration,
    /// Maximum length of a pause of the server's process, at random times; zero: never. Clients and the
    /// network continue meanwhile.
    pub pause_max: Duration,
    /// The planted bug of the port.
    pub port_bug: Option<PortBug>,
    /// The planted bug of the engine.
    pub engine_bug: Option<EngineBug>,
    /// The command that replays this run, for the text of a failure.
    pub replay: Option<String>,
}

impl SimConfig {
    /// A world without faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            listeners: 1,
            faults: Faults::none(),
            provides_buffers: false,
            receive_buffers_max: None,
            inbox_capacity: None,
            holds_input: false,
            replies_take: Duration::ZERO,
            pause_max: Duration::ZERO,
            port_bug: None,
            engine_bug: None,
            replay: None,
        }
    }
}

/// Whether these settings are valid.
#[must_use]
pub fn fits<H, S, W>(builder: &Builder<H, S, W>) -> bool
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    builder.settings.checked().is_ok()
}

/// A client's number, counted from 0. The server sees the address 10.0.0.0 plus the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub(super) u32);

impl ClientId {
    /// The number as an index.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A simulation: a server with a handler under test, its clients, and the simulated world.
pub struct Simulation<H, S = (), W = ()>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    pub(super) seed: u64,
    pub(super) replay: Option<String>,
    pub(super) world: World,
    pub(super) rng: Rng,
    /// The settings of the server.
    pub(super) settings: Settings,
    pub(super) shared: Arc<Shared>,
    pub(super) checker: Arc<CallbackChecker>,
    pub(super) handler: Arc<Buggy<CheckedHandler<H>>>,
    bug: Option<EngineBug>,
    pub(super) shards: Vec<Shard<H, S, W>>,
    /// `None` when it is done.
    pub(super) service: Option<ServiceThread<BuggyPort>>,
    /// The next pass of the service thread is due now.
    service_again: bool,
    pub(super) clients: Vec<Peer>,
    pub(super) clients_open: u32,
    woken: VecDeque<u32>,
    /// The threads of the server that are runnable in this step: shards, and behind them the service
    /// thread.
    runnable: Vec<usize>,
    alarms: BinaryHeap<Reverse<(Time, u32)>>,
    pub(super) steps: u64,
    /// Whether a jump of the clock can expire a timeout.
    pub(super) jumps: bool,
    /// Since when there has been a free slot, on the steady clock.
    pub(super) free_slot_since_ns: Option<u64>,
    pub(super) holds_input: bool,
    pub(super) replies_take: Duration,
    /// The faults at the begin of the run.
    pub(super) faults: Faults,
    pub(super) pauses: Pauses,
    /// The state at the stop, after it was requested.
    pub(super) stop_record: Option<StopRecord>,
    /// A simulated thread of the program, and when it runs next.
    beside: Option<Thread>,
    beside_at: Option<Time>,
    tracer: Option<Tracer>,
    failed: Option<SimFailure>,
}

type Tracer = Box<dyn FnMut(&str)>;
type Thread = Box<dyn FnMut(Time) -> Option<Time>>;
pub(super) type SimWorker<H, S, W> =
    Worker<BuggyPort, ServiceOf<Buggy<CheckedHandler<H>>, Kept<CheckedState<S>>, W>>;

pub(super) struct Shard<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// `None` when it is done.
    pub(super) worker: Option<SimWorker<H, S, W>>,
    pub(super) pool: BufferPool,
    pub(super) entries: u32,
    pub(super) slot_counts: SlotCounts,
    /// Its next turn is due now.
    again: bool,
}

/// The simulation's record of a client.
#[derive(Default)]
pub(super) struct Peer {
    /// Both are `None` after its end.
    pub(super) client: Option<Box<dyn Client>>,
    pub(super) connection: Option<SimClient>,
    /// How it ended early; the check looks for the cause.
    pub(super) ended_early: Option<String>,
    /// A fault was injected into its connection.
    pub(super) faulted: bool,
    /// The workload has closed its link.
    pub(super) kicked: bool,
    /// Bytes that it lacked at its end: of all replies,
    pub(super) lacks: u64,
    /// of the replies to what had arrived before the server's stop,
    pub(super) lacks_of_stop: u64,
    /// and of the replies to what the handler was called with.
    pub(super) lacks_of_handled: u64,
    pub(super) traffic: TrafficWatch,
    /// When it connected, on the steady clock.
    pub(super) connected_ns: u64,
    /// The time of its current alarm; other alarms are stale.
    alarm: Option<Time>,
}

impl<H, S, W> Simulation<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// A small server with `handler`: two shards, 64 links.
    ///
    /// # Panics
    ///
    /// As [`with_config`](Self::with_config).
    pub fn new(seed: u64, handler: H, faults: Faults) -> Self {
        let builder = Server::builder(handler)
            .shards(2)
            .links_max(64)
            .buffer_count(1_024)
            .buffer_size_bytes(512)
            .output_bytes(64 * 1024);
        Self::with_config(SimConfig { faults, ..SimConfig::new(seed) }, builder)
    }

    /// A server with the settings of `builder`, in a world with the parameters `config`.
    ///
    /// Set the number of shards: its default is the machine's number of cores, so a seed would be
    /// another run on another machine. The builder's addresses are ignored.
    ///
    /// # Panics
    ///
    /// If the settings are invalid, or `on_start` or `on_worker_start` fails.
    pub fn with_config(config: SimConfig, builder: Builder<H, S, W>) -> Self {
        match Self::start(config, builder) {
            Ok(simulation) => simulation,
            Err(reason) => panic!("the simulated server does not start: {reason}"),
        }
    }

    fn start(config: SimConfig, builder: Builder<H, S, W>) -> Result<Self, String> {
        let Builder { handler, settings, packets, .. } = builder;
        let handler = Arc::new(handler);
        let mut settings = settings.checked().map_err(|error| error.to_string())?;
        // Callbacks take no simulated time, and a watch without end would let no run end.
        settings.report_callbacks_after = Duration::ZERO;
        let jumps = config.faults.clock_jump_max_ns >= JUMP_THAT_MATTERS_NS
            && config.faults.ppm(super::FaultKind::ClockJump) > 0;
        let mut world_config = WorldConfig::new(config.seed);
        world_config.connections_max = CONNECTIONS_MAX;
        (world_config.faults, world_config.bug) = (config.faults.clone(), config.port_bug);
        world_config.provides_buffers = config.provides_buffers;
        world_config.backlog_max = CONNECTIONS_MAX;
        let world = World::new(world_config);
        let (shards, slots) = (settings.shards, settings.links_per_shard());
        let checker = CallbackChecker::new(world.clone(), shards, slots, limits(&settings));
        let checker = Arc::new(checker);
        let bug = config.engine_bug;
        let engines = EngineBug::settings_of_engine(bug, &settings);
        let shared = Arc::new(Shared::new(engines).map_err(|error| error.to_string())?);
        let packets =
            Packets::open(&packets, &handler, &shared).map_err(|error| error.to_string())?;
        let checked = CheckedHandler {
            inner: handler,
            checker: Arc::clone(&checker),
            shared: Arc::clone(&shared),
        };
        let handler = Arc::new(Buggy::new(checked, bug, Arc::clone(&shared)));
        let mut simulation = Self {
            seed: config.seed,
            replay: config.replay,
            world,
            rng: Rng::new(config.seed ^ 0x57E9_57E9),
            settings,
            shared,
            checker,
            handler,
            bug,
            shards: Vec::new(),
            service: None,
            service_again: false,
            clients: Vec::new(),
            clients_open: 0,
            woken: VecDeque::new(),
            runnable: Vec::new(),
            alarms: BinaryHeap::new(),
            steps: 0,
            jumps,
            free_slot_since_ns: None,
            holds_input: config.holds_input,
            replies_take: config.replies_take,
            faults: config.faults,
            pauses: Pauses::new(config.seed, config.pause_max),
            stop_record: None,
            beside: None,
            beside_at: None,
            tracer: None,
            failed: None,
        };
        let handle = simulation.handle();
        simulation.handler.on_start(&handle).map_err(|error| error.to_string())?;
        let limits = (config.receive_buffers_max, config.inbox_capacity);
        simulation.start_shards(config.listeners, limits, packets)?;
        Ok(simulation)
    }

    /// Does what `server::running` does with threads.
    fn start_shards(
        &mut self,
        listener_count: u32,
        (receive_buffers, inbox): (Option<u32>, Option<u32>),
        packets: Packets<W>,
    ) -> Result<(), String> {
        let mut posters: Vec<Poster<_>> = Vec::new();
        for (number, packets) in packets.workers.into_iter().enumerate() {
            let config = self.shared.settings.shard_pool();
            let pool = BufferPool::new(config).map_err(|error| error.to_string())?;
            let mut ports = self.shared.settings.port();
            ports.receive_buffers_max =
                receive_buffers.unwrap_or(u32::MAX).clamp(1, ports.receive_buffers_max);
            ports.inbox_capacity = inbox.unwrap_or(ports.inbox_capacity).max(1);
            let entries = pool.free_entry_count();
            let port = SimPort::new(&self.world, ports, pool.clone())
                .map_err(|error| error.to_string())?;
            let shard = u8::try_from(number).map_err(|error| error.to_string())?;
            let port = BuggyPort::new(port, self.bug);
            let (handler, shared) = (Arc::clone(&self.handler), Arc::clone(&self.shared));
            let worker = Worker::new(shard, port, handler, shared, packets)
                .map_err(|error| error.to_string())?;
            let (poster, buffers) = worker.poster_and_ledger();
            self.shared.register_shard(number, Box::new(poster.clone()), buffers);
            posters.push(poster);
            let slot_counts = SlotCounts::default();
            self.shards.push(Shard {
                worker: Some(worker),
                pool,
                entries,
                slot_counts,
                again: false,
            });
        }
        let mut listeners = Vec::new();
        for _ in 0..listener_count {
            listeners.push(self.world.listen(address()).map_err(|error| error.to_string())?);
        }
        let pool = BufferPool::new(Settings::service_pool()).map_err(|error| error.to_string())?;
        let port = SimPort::new(&self.world, Settings::service_port(listener_count), pool)
            .map_err(|error| error.to_string())?;
        let port = BuggyPort::new(port, self.bug);
        let shared = Arc::clone(&self.shared);
        let mut service = ServiceThread::new(port, listener_count, shared, packets.tickers)
            .map_err(|error| error.to_string())?;
        let poster = service.poster();
        self.shared.service.register(move || poster.wake());
        service.listen(listeners, posters.into_boxed_slice())?;
        self.service = Some(service);
        Ok(())
    }

    /// Connects a client.
    ///
    /// # Panics
    ///
    /// If the server has stopped listening, or 4,096 connections are open.
    pub fn connect(&mut self, client: impl Client + 'static) -> ClientId {
        let number = u32::try_from(self.clients.len()).unwrap_or(u32::MAX);
        let connection = match self.world.connect(address(), number.into()) {
            Ok(connection) => connection,
            Err(error) => panic!("client {number} cannot connect: {error}"),
        };
        let traffic = connection.traffic();
        self.checker.watch(traffic.clone());
        self.clients.push(Peer {
            traffic,
            connected_ns: self.world.steady_ns(),
            client: Some(Box::new(client)),
            connection: Some(connection),
            ..Peer::default()
        });
        self.clients_open += 1;
        self.woken.push_back(number);
        ClientId(number)
    }

    /// Runs one shard, client or thread that is runnable, or advances the time; then checks the
    /// invariants. `false` if nothing is left to happen.
    ///
    /// # Errors
    ///
    /// What failed. The simulation has ended then, and each further step returns the same failure.
    pub fn step(&mut self) -> Result<bool, SimFailure> {
        if let Some(failure) = &self.failed {
            return Err(failure.clone());
        }
        self.steps += 1;
        self.note_stop();
        let went_on = self.act().and_then(|went_on| self.check().map(|()| went_on));
        went_on.map_err(|what| self.fail(what))
    }

    /// Steps until `condition` holds. `false` if nothing is left to happen before that.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step).
    pub fn run_until(
        &mut self,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> Result<bool, SimFailure> {
        while !condition(self) {
            if !self.step()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sets a simulated thread of the program. The simulation calls it between steps, at random and
    /// before it advances the time. It returns the latest time of its next call, or the current time if
    /// it did something.
    pub fn run_beside(&mut self, thread: impl FnMut(Time) -> Option<Time> + 'static) {
        self.beside = Some(Box::new(thread));
    }

    /// Has `tracer` called with a text for each step.
    pub fn trace(&mut self, tracer: impl FnMut(&str) + 'static) {
        self.checker.keep_log();
        self.tracer = Some(Box::new(tracer));
    }

    /// Replaces the faults that can be injected from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.world.set_faults(faults);
    }

    /// The handle of the server.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    /// The simulated time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.world.now()
    }

    /// Number of clients that have not ended.
    #[must_use]
    pub fn clients_open(&self) -> u32 {
        self.clients_open
    }

    /// Notes that the server owes this client bytes that it did not ask for, such as a post.
    pub fn owe(&self, client: ClientId) {
        self.clients[client.index()].traffic.asked(self.world.steady_ns());
    }

    /// Whether the client has ended.
    #[must_use]
    pub fn has_ended(&self, client: ClientId) -> bool {
        self.clients[client.index()].client.is_none()
    }

    /// Whether a fault was injected into the client's connection that a server cannot repair.
    #[must_use]
    pub fn may_lose_bytes(&self, client: ClientId) -> bool {
        self.clients[client.index()].traffic.get().faulted
    }

    /// Number of steps so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The server's counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// The faults that took effect so far.
    #[must_use]
    pub fn fault_counts(&self) -> FaultCounts {
        self.world.fault_counts()
    }

    /// Runs one step. `Ok(false)`: nothing is runnable, and no event is left.
    fn act(&mut self) -> Result<bool, String> {
        self.wake_clients();
        let was_paused = self.pauses.until.is_some();
        let is_paused = self.pauses.is_paused(self.world.now(), self.world.steady_ns());
        if was_paused && !is_paused && self.bug == Some(EngineBug::CountPauses) {
            self.shards
                .iter_mut()
                .filter_map(|shard| shard.worker.as_mut())
                .for_each(Worker::count_pause);
        }
        if !self.pauses.spans.is_empty() {
            self.checker.note_pauses(self.pauses.within(0, u64::MAX));
        }
        let mut runnable = std::mem::take(&mut self.runnable);
        runnable.clear();
        if !is_paused {
            runnable.extend((0..=self.shards.len()).filter(|thread| self.is_runnable(*thread)));
        }
        self.runnable = runnable;
        let choices = self.runnable.len() + usize::from(!self.woken.is_empty());
        if let Some(beside) = &mut self.beside
            && (choices == 0 || self.rng.below(BESIDE_EACH) == 0)
        {
            let now = self.world.now();
            self.beside_at = beside(now);
            if self.beside_at.is_some_and(|time| time <= now) {
                return Ok(true);
            }
        }
        if choices == 0 {
            return Ok(self.pass_time());
        }
        let choice = self.rng.below_len(choices);
        match self.runnable.get(choice).copied() {
            Some(thread) if thread == self.shards.len() => self.pass()?,
            Some(shard) => self.turn(shard)?,
            None => {
                for _ in 0..=self.rng.below(CLIENTS_A_STEP) {
                    let Some(number) = self.woken.pop_front() else { break };
                    self.call_client(number)?;
                }
            }
        }
        Ok(true)
    }

    /// Whether a shard, or behind all shards the service thread, has something to do.
    pub(super) fn is_runnable(&self, number: usize) -> bool {
        let Some(shard) = self.shards.get(number) else {
            let runs = |service: &ServiceThread<BuggyPort>| service.port().inner.is_runnable();
            return self
                .service
                .as_ref()
                .is_some_and(|service| self.service_again || runs(service));
        };
        shard.worker.as_ref().is_some_and(|worker| shard.again || worker.port().inner.is_runnable())
    }

    /// Notes what had arrived when the stop was requested.
    pub(super) fn note_stop(&mut self) {
        let Some(drain) = self.shared.stopping() else { return };
        let now = self.world.now();
        let stop = self.stop_record.get_or_insert_with(|| {
            let delivered = self.clients.iter().map(|peer| peer.traffic.get().to_server).collect();
            StopRecord { at: now, drain, delivered }
        });
        // A later call may have shortened the timeout.
        let until = stop.at.saturating_add(stop.drain).min(now.saturating_add(drain));
        stop.drain = until.duration_since(stop.at);
        self.checker.note_stop(until);
    }

    fn wake_clients(&mut self) {
        while let Some(tag) = self.world.next_ready_client() {
            self.woken.extend(u32::try_from(tag));
        }
        while let Some(Reverse((time, number))) = self.alarms.peek().copied() {
            let peer = &mut self.clients[number as usize];
            let counts = peer.alarm == Some(time) && peer.client.is_some();
            if counts && time > self.world.now() {
                break;
            }
            self.alarms.pop();
            if counts {
                peer.alarm = None;
                self.woken.push_back(number);
            }
        }
    }

    fn pass_time(&mut self) -> bool {
        let alarm = self.alarms.peek().map(|Reverse((time, _))| *time);
        let alarm = alarm.into_iter().chain(self.beside_at).min();
        if let Some(until) = self.pauses.until {
            // The deadlines of sleeping ports are no events of a pause.
            let step = self.world.now().saturating_add(PAUSE_STEP);
            self.world.pause_to(alarm.unwrap_or(until).min(until).min(step));
            return true;
        }
        match (alarm, self.world.next_event()) {
            (Some(alarm), event) if event.is_none_or(|event| alarm < event) => {
                self.world.advance_to(alarm);
                true
            }
            _ => self.world.advance(),
        }
    }

    fn turn(&mut self, shard: usize) -> Result<(), String> {
        let Some(worker) = &mut self.shards[shard].worker else { return Ok(()) };
        let before = worker.wakes_at();
        self.checker.note_turn(Some(shard));
        let turn = catch_unwind(AssertUnwindSafe(|| worker.turn()))
            .map_err(|payload| format!("shard {shard} panicked: {}", panic_text(&*payload)))?
            .map_err(|error| format!("shard {shard}'s port failed: {error}"))?;
        self.checker.note_turn(None);
        if let Some(tracer) = &mut self.tracer {
            self.checker.take_log().iter().for_each(|line| tracer(&format!("           {line}")));
            tracer(&format!("{:>8} shard {shard}: {}", self.steps, worker.describe()));
        }
        if let Some(reason) = worker.failure() {
            return Err(format!("shard {shard} has no worker context: {reason}"));
        }
        // A wake-up ends the wait of a real port, and the next wait has a new timeout.
        let now = self.world.now();
        let again = worker
            .wakes_at()
            .is_some_and(|after| after <= now || before.is_none_or(|before| after < before));
        let slot_counts =
            worker.check_invariants().map_err(|what| format!("shard {shard}: {what}"))?;
        (self.shards[shard].slot_counts, self.shards[shard].again) = (slot_counts, again);
        if turn == Turn::Done {
            self.shard_done(shard)?;
        }
        // A turn takes time; at random more, as if another program used the core.
        let hiccup = self.rng.below(HICCUP_EACH) == 0;
        let cost_ns = 1_000 + self.rng.below(if hiccup { 1_000_000 } else { 4_000 });
        self.world.advance_to(self.world.now().saturating_add(Duration::from_nanos(cost_ns)));
        Ok(())
    }

    /// Runs a pass of the service thread.
    fn pass(&mut self) -> Result<(), String> {
        let Some(service) = &mut self.service else { return Ok(()) };
        let before = service.wakes_at();
        let turn = catch_unwind(AssertUnwindSafe(|| service.turn()))
            .map_err(|payload| format!("the service thread panicked: {}", panic_text(&*payload)))?
            .map_err(|error| format!("the service thread's port failed: {error}"))?;
        let now = self.world.now();
        self.service_again = service
            .wakes_at()
            .is_some_and(|after| after <= now || before.is_none_or(|before| after < before));
        if turn == Turn::Done {
            self.service = None;
        }
        let cost_ns = 1_000 + self.rng.below(4_000);
        self.world.advance_to(now.saturating_add(Duration::from_nanos(cost_ns)));
        Ok(())
    }

    fn call_client(&mut self, number: u32) -> Result<(), String> {
        let now = self.world.now();
        let Some(peer) = self.clients.get_mut(number as usize) else { return Ok(()) };
        let (Some(client), Some(connection)) = (&mut peer.client, &mut peer.connection) else {
            return Ok(());
        };
        let next =
            client.ready(connection, now).map_err(|what| format!("client {number}: {what}"))?;
        self.tell(|| format!("client {number}: {next:?}"));
        match next {
            Next::Wait => return Ok(()),
            Next::Sleep(until) => {
                // A client that never sleeps would stop the clock.
                let until = until.max(now.saturating_add(Duration::from_nanos(1)));
                let alarm = &mut self.clients[number as usize].alarm;
                if alarm.is_none_or(|time| until < time) {
                    *alarm = Some(until);
                    self.alarms.push(Reverse((until, number)));
                }
                return Ok(());
            }
            Next::Close => self.end_client(number, None, false),
            Next::Reset => self.end_client(number, None, true),
            Next::EndedEarly(how) => self.end_client(number, Some(how), false),
        }
        Ok(())
    }

    pub(super) fn end_client(&mut self, number: u32, ended_early: Option<String>, reset: bool) {
        let handled = self.checker.history(number as usize).received;
        let peer = &mut self.clients[number as usize];
        let Some(connection) = peer.connection.take() else { return };
        peer.faulted |= connection.may_lose_bytes();
        if let Some(client) = &peer.client {
            peer.kicked = client.is_kicked();
            let before = self.stop_record.as_ref().map(|stop| stop.delivered_by(number as usize));
            peer.lacks = client.lacks(u64::MAX);
            peer.lacks_of_stop = before.map_or(0, |delivered| client.lacks(delivered));
            peer.lacks_of_handled = client.lacks(handled);
        }
        peer.client = None;
        peer.ended_early = ended_early;
        self.clients_open -= 1;
        if reset {
            connection.reset();
        }
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(tracer) = &mut self.tracer {
            let (steps, time) = (self.steps, self.world.now().0);
            tracer(&format!("{steps:>8} {:>14.6} ms  {}", time as f64 / 1e6, what()));
        }
    }

    pub(super) fn fail(&mut self, what: String) -> SimFailure {
        let failure = SimFailure {
            seed: self.seed,
            step: self.steps,
            time: self.world.now(),
            what,
            replay: self.replay.clone(),
        };
        self.failed.get_or_insert(failure).clone()
    }
}

impl<H, S, W> fmt::Debug for Simulation<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("seed", &self.seed)
            .field("steps", &self.steps)
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}

/// The pauses of the server's process.
pub(super) struct Pauses {
    rng: Rng,
    pub(super) max: Duration,
    /// The end of the pause.
    until: Option<Time>,
    /// The begin and the end of each pause on the steady clock, as far as it has lasted.
    spans: Vec<(u64, u64)>,
}

impl Pauses {
    fn new(seed: u64, max: Duration) -> Self {
        Self { rng: Rng::new(seed ^ 0x9A5E), max, until: None, spans: Vec::new() }
    }

    /// Whether the process is paused in this step; at random a pause begins.
    fn is_paused(&mut self, now: Time, steady_ns: u64) -> bool {
        if let (Some(_), Some(span)) = (self.until, self.spans.last_mut()) {
            span.1 = steady_ns;
        }
        self.until = self.until.filter(|until| *until > now);
        if self.until.is_none() && !self.max.is_zero() && self.rng.below(PAUSE_EACH) == 0 {
            let max_ns = u64::try_from(self.max.as_nanos()).unwrap_or(u64::MAX);
            let pause = Duration::from_nanos(1 + self.rng.below(max_ns));
            self.until = Some(now.saturating_add(pause));
            self.spans.push((steady_ns, steady_ns));
        }
        self.until.is_some()
    }

    /// For how long the process was paused from `from_ns` to `until_ns` on the steady clock.
    pub(super) fn within(&self, from_ns: u64, until_ns: u64) -> u64 {
        let part =
            |(begin, end): &(u64, u64)| (*end).min(until_ns).saturating_sub((*begin).max(from_ns));
        self.spans.iter().map(part).sum()
    }
}

/// The settings that the promises depend on.
fn limits(settings: &Settings) -> Limits {
    Limits {
        grant_bytes: settings.grant_bytes() as usize,
        output_bytes: settings.send_queue_bytes as usize,
        idle: settings.idle,
    }
}

fn address() -> SocketAddr {
    SocketAddr::from(([10, 255, 255, 255], 9527))
}

/// Maximum of open connections of a world, half-closed ones included.
const CONNECTIONS_MAX: u32 = 4_096;
/// Maximum of clients that run in one step.
const CLIENTS_A_STEP: u64 = 4;
/// The simulated thread runs before one of so many steps, at random.
const BESIDE_EACH: u64 = 16;
/// One of so many turns takes up to 1 ms.
const HICCUP_EACH: u64 = 512;
/// During a pause, clients look so often for what has arrived.
const PAUSE_STEP: Duration = Duration::from_millis(1);
/// A pause begins before one of so many steps, at random.
const PAUSE_EACH: u64 = 1_024;
/// A shorter jump of the clock expires no timeout: the shortest is 2 s.
const JUMP_THAT_MATTERS_NS: u64 = 100_000_000;
