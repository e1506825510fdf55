//! The simulation itself: who is there, and one step after the other.

use crate::engine::{Census, Turn, Worker};
use crate::handler::Handler;
use crate::limits::Settings;
use crate::server::{Builder, Server};
use crate::service::ServiceOf;
use crate::shared::Shared;
use crate::shared::handle::Handle;
use crate::sim::bug::EngineBug;
use crate::sim::buggy_handler::{Buggy, Kept};
use crate::sim::buggy_port::BuggyPort;
use crate::sim::checked::{Checked, CheckedState, panic_text};
use crate::sim::client::{Client, Next};
use crate::sim::contract::Contract;
use crate::sim::excuse::StopNote;
use crate::sim::failure::SimFailure;
use crate::sim::rules::Limits;
use crate::sim::{FaultCounts, Faults, Plant, Rng, SimClient, Time, TrafficWatch};
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

/// What a simulation is made of, beside the server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SimConfig {
    /// What all chance comes from.
    pub seed: u64,
    /// How many sockets listen, all at one address.
    pub listeners: u32,
    /// What can go wrong.
    pub faults: Faults,
    /// Ports take the buffers that they receive into in advance, as io_uring does, and not when
    /// bytes are there, as epoll does.
    pub lends_window: bool,
    /// The most buffers that a port receives into at once, if fewer than the server would have.
    pub receive_window: Option<u32>,
    /// Packets that can wait in a port's inbox, if others than the server would have.
    pub inbox_capacity: Option<u32>,
    /// The handler leaves input unread until there is more of it, so that each link of a shard can
    /// hold for its time what the next one waits for.
    pub holds_input: bool,
    /// How long the handler lets replies wait at most: they hold for their time what others wait for.
    pub replies_take: Duration,
    /// A fault of the port that is planted.
    pub plant: Option<Plant>,
    /// A bug of the engine that is planted.
    pub engine_bug: Option<EngineBug>,
    /// The command that replays this run; failures show it.
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
            lends_window: false,
            receive_window: None,
            inbox_capacity: None,
            holds_input: false,
            replies_take: Duration::ZERO,
            plant: None,
            engine_bug: None,
            replay: None,
        }
    }
}

/// Whether a server can have these settings.
#[must_use]
pub fn fits<H, S, W>(builder: &Builder<H, S, W>) -> bool
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    builder.settings.check().is_ok()
}

/// A client's number: connections are counted from 0, and the server sees the address 10.0.0.0
/// plus the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub(super) u32);

impl ClientId {
    /// The number as an index.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A server with a handler under test, its clients, and the world around them.
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
    /// What the server was asked to be like.
    pub(super) settings: Settings,
    pub(super) shared: Arc<Shared>,
    pub(super) contract: Arc<Contract>,
    pub(super) handler: Arc<Buggy<Checked<H>>>,
    bug: Option<EngineBug>,
    pub(super) shards: Vec<Shard<H, S, W>>,
    pub(super) clients: Vec<Peer>,
    pub(super) clients_open: u32,
    woken: VecDeque<u32>,
    /// Shards that have something to do in this step.
    runnable: Vec<usize>,
    alarms: BinaryHeap<Reverse<(Time, u32)>>,
    pub(super) steps: u64,
    /// Whether a jump of the clock can end what waits.
    pub(super) jumps: bool,
    /// Since when there has been a place for whoever comes, on the steady clock.
    pub(super) room_since_ns: Option<u64>,
    pub(super) holds_input: bool,
    pub(super) replies_take: Duration,
    /// The faults that the run began with.
    pub(super) faults: Faults,
    /// A stop that was asked for, once that is known.
    pub(super) stop_note: Option<StopNote>,
    /// Another thread of the program, and when it wants to go on.
    beside: Option<Thread>,
    beside_at: Option<Time>,
    tracer: Option<Tracer>,
    failed: Option<SimFailure>,
}

type Tracer = Box<dyn FnMut(&str)>;
type Thread = Box<dyn FnMut(Time) -> Option<Time>>;
pub(super) type SimWorker<H, S, W> =
    Worker<BuggyPort, ServiceOf<Buggy<Checked<H>>, Kept<CheckedState<S>>, W>>;

pub(super) struct Shard<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// `None` once it is done.
    pub(super) worker: Option<SimWorker<H, S, W>>,
    pub(super) pool: BufferPool,
    pub(super) entries: u32,
    pub(super) census: Census,
    /// It turns again at once.
    again: bool,
}

/// A client as the simulation sees it.
#[derive(Default)]
pub(super) struct Peer {
    /// Both `None` once it has ended.
    pub(super) client: Option<Box<dyn Client>>,
    pub(super) connection: Option<SimClient>,
    /// How it was cut off, until that is judged.
    pub(super) cut: Option<String>,
    /// A fault of the world has struck its connection.
    pub(super) harmed: bool,
    /// The workload has thrown it out.
    pub(super) kicked: bool,
    /// Bytes that it lacked when it ended: of all answers,
    pub(super) lacks: u64,
    /// of those to what had arrived before the server's stop,
    pub(super) lacks_of_stop: u64,
    /// and of those to what the handler had been given.
    pub(super) lacks_of_handled: u64,
    pub(super) traffic: TrafficWatch,
    /// When it connected, on the steady clock.
    pub(super) connected_ns: u64,
    /// The alarm that counts; earlier and later ones are stale.
    alarm: Option<Time>,
}

impl<H, S, W> Simulation<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// A small server with `handler`, two shards with 64 links.
    ///
    /// # Panics
    ///
    /// As [`with`](Self::with).
    pub fn new(seed: u64, handler: H, faults: Faults) -> Self {
        let builder = Server::builder(handler)
            .shards(2)
            .links_max(64)
            .buffer_count(1_024)
            .buffer_size_bytes(512)
            .output_bytes(64 * 1024);
        Self::with(SimConfig { faults, ..SimConfig::new(seed) }, builder)
    }

    /// A server as `builder` says, in a world as `config` says.
    ///
    /// Set the number of shards: its default is that of the machine's cores, and then one seed would
    /// be another run elsewhere. Addresses are not looked at.
    ///
    /// # Panics
    ///
    /// If the settings do not fit together, or `on_start` or `on_worker_start` fails.
    pub fn with(config: SimConfig, builder: Builder<H, S, W>) -> Self {
        match Self::start(config, builder) {
            Ok(simulation) => simulation,
            Err(reason) => panic!("the simulated server does not start: {reason}"),
        }
    }

    fn start(config: SimConfig, builder: Builder<H, S, W>) -> Result<Self, String> {
        let Builder { handler, settings, .. } = builder;
        settings.check().map_err(|error| error.to_string())?;
        let jumps = config.faults.clock_jump_max_ns >= JUMP_THAT_MATTERS_NS
            && config.faults.ppm(super::FaultKind::ClockJump) > 0;
        let mut world_config = WorldConfig::new(config.seed);
        world_config.connections_max = CONNECTIONS_MAX;
        (world_config.faults, world_config.plant) = (config.faults.clone(), config.plant);
        world_config.lends_window = config.lends_window;
        world_config.backlog_max = CONNECTIONS_MAX;
        let world = World::new(world_config);
        let (shards, places) = (settings.shards, settings.links_per_shard());
        let contract = Contract::new(world.clone(), shards, places, limits(&settings));
        let contract = Arc::new(contract);
        let bug = config.engine_bug;
        let engines = EngineBug::settings_of_engine(bug, &settings);
        let shared = Arc::new(Shared::new(engines).map_err(|error| error.to_string())?);
        let checked = Checked {
            inner: handler,
            contract: Arc::clone(&contract),
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
            contract,
            handler,
            bug,
            shards: Vec::new(),
            clients: Vec::new(),
            clients_open: 0,
            woken: VecDeque::new(),
            runnable: Vec::new(),
            alarms: BinaryHeap::new(),
            steps: 0,
            jumps,
            room_since_ns: None,
            holds_input: config.holds_input,
            replies_take: config.replies_take,
            faults: config.faults,
            stop_note: None,
            beside: None,
            beside_at: None,
            tracer: None,
            failed: None,
        };
        let handle = simulation.handle();
        simulation.handler.on_start(&handle).map_err(|error| error.to_string())?;
        let limits = (config.receive_window, config.inbox_capacity);
        simulation.start_shards(config.listeners, limits)?;
        Ok(simulation)
    }

    /// As `server::running` does with threads.
    fn start_shards(
        &mut self,
        listener_count: u32,
        (window, inbox): (Option<u32>, Option<u32>),
    ) -> Result<(), String> {
        let mut posters: Vec<Poster<_>> = Vec::new();
        for number in 0..self.shared.shards.len() {
            let config = self.shared.settings.shard_pool();
            let pool = BufferPool::new(config).map_err(|error| error.to_string())?;
            let mut ports = self.shared.settings.port(listener_count);
            ports.receive_window = window.unwrap_or(u32::MAX).clamp(1, ports.receive_window);
            ports.inbox_capacity = inbox.unwrap_or(ports.inbox_capacity).max(1);
            let entries = pool.free_entries();
            let port = SimPort::new(&self.world, ports, pool.clone())
                .map_err(|error| error.to_string())?;
            let shard = u8::try_from(number).map_err(|error| error.to_string())?;
            let port = BuggyPort::new(port, self.bug);
            let worker =
                Worker::new(shard, port, Arc::clone(&self.handler), Arc::clone(&self.shared))?;
            let (poster, buffers) = worker.reached_by();
            self.shared.connect(number, Box::new(poster.clone()), buffers);
            posters.push(poster);
            let census = Census::default();
            self.shards.push(Shard { worker: Some(worker), pool, entries, census, again: false });
        }
        let mut listeners = Vec::new();
        for _ in 0..listener_count {
            listeners.push(self.world.listen(address()).map_err(|error| error.to_string())?);
        }
        for shard in &mut self.shards {
            let Some(worker) = &mut shard.worker else { continue };
            worker.listen(std::mem::take(&mut listeners), posters.clone().into_boxed_slice())?;
        }
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
        self.contract.watch(traffic.clone());
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

    /// Lets one of those who can go on do so, or time go by; then looks at everything. `false` if
    /// nothing can happen any more.
    ///
    /// # Errors
    ///
    /// What did not hold. The simulation is over then: each further step gives the same.
    pub fn step(&mut self) -> Result<bool, SimFailure> {
        if let Some(failure) = &self.failed {
            return Err(failure.clone());
        }
        self.steps += 1;
        self.note_stop();
        let went_on = self.act().and_then(|went_on| self.check().map(|()| went_on));
        went_on.map_err(|what| self.fail(what))
    }

    /// Steps until `condition` holds. `false` if nothing can happen any more before that.
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

    /// Another thread of the program. It is called between two steps, now and then and before time
    /// goes by, and says when it wants to be called again at the latest; now, if it did something.
    pub fn run_beside(&mut self, thread: impl FnMut(Time) -> Option<Time> + 'static) {
        self.beside = Some(Box::new(thread));
    }

    /// Has each step told to `tracer`.
    pub fn trace(&mut self, tracer: impl FnMut(&str) + 'static) {
        self.contract.keep_log();
        self.tracer = Some(Box::new(tracer));
    }

    /// From now on other faults can strike.
    pub fn set_faults(&mut self, faults: Faults) {
        self.world.set_faults(faults);
    }

    /// The handle of the server, as another thread would have it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    /// The clock.
    #[must_use]
    pub fn now(&self) -> Time {
        self.world.now()
    }

    /// Clients that have not ended.
    #[must_use]
    pub fn clients_open(&self) -> u32 {
        self.clients_open
    }

    /// The server owes this client something from now on that no bytes of its own asked for: a post,
    /// for example.
    pub fn owe(&self, client: ClientId) {
        self.clients[client.index()].traffic.asked(self.world.steady_ns());
    }

    /// Whether the client has ended.
    #[must_use]
    pub fn has_ended(&self, client: ClientId) -> bool {
        self.clients[client.index()].client.is_none()
    }

    /// Whether something has struck the client's connection that no server could mend.
    #[must_use]
    pub fn is_harmed(&self, client: ClientId) -> bool {
        self.clients[client.index()].traffic.get().harmed
    }

    /// Steps taken.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The server's counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// What went wrong so far.
    #[must_use]
    pub fn faults_struck(&self) -> FaultCounts {
        self.world.counts()
    }

    /// One goes on. `Ok(false)`: nobody could, and time stands still.
    fn act(&mut self) -> Result<bool, String> {
        self.wake_clients();
        let mut runnable = std::mem::take(&mut self.runnable);
        runnable.clear();
        runnable.extend((0..self.shards.len()).filter(|shard| self.is_runnable(*shard)));
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

    /// Whether a shard has something to do.
    pub(super) fn is_runnable(&self, number: usize) -> bool {
        let shard = &self.shards[number];
        shard.worker.as_ref().is_some_and(|worker| shard.again || worker.port().inner.is_runnable())
    }

    /// Notes what had arrived when the server was asked to stop, by whomever.
    pub(super) fn note_stop(&mut self) {
        let Some(drain) = self.shared.stopping() else { return };
        let now = self.world.now();
        let stop = self.stop_note.get_or_insert_with(|| {
            let delivered = self.clients.iter().map(|peer| peer.traffic.get().to_server).collect();
            StopNote { at: now, drain, delivered }
        });
        // A later call may have shortened the time.
        let until = stop.at.after(stop.drain).min(now.after(drain));
        stop.drain = until.since(stop.at);
        self.contract.note_stop(until);
    }

    fn wake_clients(&mut self) {
        while let Some(tag) = self.world.ready_client() {
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
        self.contract.note_turn(Some(shard));
        let turn = catch_unwind(AssertUnwindSafe(|| worker.turn()))
            .map_err(|payload| format!("shard {shard} panicked: {}", panic_text(&*payload)))?
            .map_err(|error| format!("shard {shard}'s port broke: {error}"))?;
        self.contract.note_turn(None);
        if let Some(tracer) = &mut self.tracer {
            self.contract.take_log().iter().for_each(|line| tracer(&format!("           {line}")));
            tracer(&format!("{:>8} shard {shard}: {}", self.steps, worker.describe()));
        }
        if let Some(reason) = worker.failure() {
            return Err(format!("shard {shard} has no worker context: {reason}"));
        }
        // A real port that was merely woken does not wait on with the time-out it had before.
        let now = self.world.now();
        let again = worker
            .wakes_at()
            .is_some_and(|after| after <= now || before.is_none_or(|before| after < before));
        let census = worker.inspect().map_err(|what| format!("shard {shard}: {what}"))?;
        (self.shards[shard].census, self.shards[shard].again) = (census, again);
        if turn == Turn::Done {
            self.shard_done(shard)?;
        }
        // A turn takes time, now and then a lot: another program had the core.
        let hiccup = self.rng.below(HICCUP_EACH) == 0;
        let cost_ns = 1_000 + self.rng.below(if hiccup { 1_000_000 } else { 4_000 });
        self.world.advance_to(self.world.now().after(Duration::from_nanos(cost_ns)));
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
                // One that does not sleep at all would stop the clock.
                let until = until.max(now.after(Duration::from_nanos(1)));
                let alarm = &mut self.clients[number as usize].alarm;
                if alarm.is_none_or(|time| until < time) {
                    *alarm = Some(until);
                    self.alarms.push(Reverse((until, number)));
                }
                return Ok(());
            }
            Next::Close => self.end_client(number, None, false),
            Next::Reset => self.end_client(number, None, true),
            Next::Cut(how) => self.end_client(number, Some(how), false),
        }
        Ok(())
    }

    pub(super) fn end_client(&mut self, number: u32, cut: Option<String>, reset: bool) {
        let handled = self.contract.story(number as usize).received;
        let peer = &mut self.clients[number as usize];
        let Some(connection) = peer.connection.take() else { return };
        peer.harmed |= connection.is_harmed();
        if let Some(client) = &peer.client {
            peer.kicked = client.is_kicked();
            let before = self.stop_note.as_ref().map(|stop| stop.delivered_by(number as usize));
            peer.lacks = client.lacks(u64::MAX);
            peer.lacks_of_stop = before.map_or(0, |delivered| client.lacks(delivered));
            peer.lacks_of_handled = client.lacks(handled);
        }
        peer.client = None;
        peer.cut = cut;
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

/// What the contract's promises depend on.
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

/// Connections of a world at once, those half closed included.
const CONNECTIONS_MAX: u32 = 4_096;
/// Clients that go on in one step, at most.
const CLIENTS_A_STEP: u64 = 4;
/// Before one step of so many the other thread goes on.
const BESIDE_EACH: u64 = 16;
/// One in so many turns takes up to a millisecond.
const HICCUP_EACH: u64 = 512;
/// A jump of the clock that is shorter ends no link: the shortest time-out is two seconds.
const JUMP_THAT_MATTERS_NS: u64 = 100_000_000;
