//! The plan that a seed determines.

pub use crate::client_plan::{ClientBehavior, ClientPlan, Requests, pattern_byte};
pub use crate::server_plan::ServerPlan;

use crate::server_plan::Sizes;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use wharf::WhenFull;
use wharf::sim::{EngineBug, FaultKind, Faults, PortBug, Rng, SimConfig};

/// What handler and clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "of this program only")]
pub enum Workload {
    /// All bytes are sent back.
    Echo,
    /// Lines are posted to all other links; some to one link; some close another link.
    Chat,
    /// Messages of many buffers are sent back reversed.
    Big,
    /// Another thread posts messages, to one link or to all.
    Post,
    /// Frames stay unread until they are complete, and are sent back.
    Framed,
    /// Replies are deferred, and sent by other callbacks or another thread; or never.
    Deferred,
    /// Lines ask for replies of many kinds, several at a time, from small outputs.
    Lines,
    /// Long replies are read from sources, and long requests are taken in parts.
    Stream,
}

impl Workload {
    /// Every workload.
    pub const ALL: [Self; 8] = [
        Self::Echo,
        Self::Chat,
        Self::Big,
        Self::Post,
        Self::Framed,
        Self::Deferred,
        Self::Lines,
        Self::Stream,
    ];

    /// Its name in options and in the file of regression seeds.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Chat => "chat",
            Self::Big => "big",
            Self::Post => "post",
            Self::Framed => "framed",
            Self::Deferred => "deferred",
            Self::Lines => "lines",
            Self::Stream => "stream",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|workload| workload.name() == name);
        found.ok_or_else(|| {
            let all = Self::ALL.map(Self::name).join(", ");
            format!("{name:?} is no workload; use one of {all}")
        })
    }
}

/// A bug that is planted, in the port or in the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "of this program only")]
pub enum PlantedBug {
    /// In the port.
    Port(PortBug),
    /// In the engine.
    Engine(EngineBug),
}

impl PlantedBug {
    /// Every bug that can be planted.
    pub fn all() -> impl Iterator<Item = Self> {
        let port = PortBug::ALL.into_iter().map(Self::Port);
        port.chain(EngineBug::ALL.into_iter().map(Self::Engine))
    }
}

impl fmt::Display for PlantedBug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(bug) => write!(f, "port:{bug:?}"),
            Self::Engine(bug) => write!(f, "engine:{bug:?}"),
        }
    }
}

impl FromStr for PlantedBug {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::all()
            .find(|bug| bug.to_string().ends_with(&format!(":{name}")) || bug.to_string() == name);
        found.ok_or_else(|| {
            let all: Vec<_> = Self::all().map(|bug| bug.to_string()).collect();
            format!("{name:?} is no bug that can be planted; use one of {}", all.join(", "))
        })
    }
}

/// A run, drawn from its seed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// What handler and clients do.
    pub workload: Workload,
    /// The world and its faults.
    pub config: SimConfig,
    /// The server.
    pub server: ServerPlan,
    /// Number of clients.
    pub clients: u32,
    /// Maximum of clients that are connected at once.
    pub at_once: u32,
    /// Maximum of bytes that a client sends; of a broadcast in [`Workload::Post`].
    pub text_max: usize,
    /// Maximum of bytes of a message; of a client's unread bytes in [`Workload::Post`].
    pub message_max: usize,
    /// The handler sends in pieces of so many bytes, and keeps what finds no capacity.
    pub piece: Option<usize>,
    /// Posts and broadcasts before the server is stopped ([`Workload::Post`]).
    pub posts: u32,
    /// Posts right before the stop ([`Workload::Post`]).
    pub burst: u32,
    /// Probability that a callback panics, in millionths.
    pub panic_ppm: u32,
    /// The server is stopped after so many steps.
    pub stop_after: Option<u64>,
}

impl Plan {
    /// The run that belongs to `seed`.
    #[must_use]
    pub fn from_seed(seed: u64, workload: Workload) -> Self {
        let mut rng = Rng::new(seed.wrapping_mul(4) + workload as u64);
        let mut config = SimConfig::new(seed);
        config.faults = Faults::random(&mut rng);
        if rng.below(8) > 0 {
            // Longer jumps expire most timeouts, and end most links.
            config.faults.clock_jump_max_ns = config.faults.clock_jump_max_ns.min(1_000_000);
        }
        if config.faults.socket_buffer_bytes < 100 {
            // A small socket buffer needs many steps.
            config.faults.latency_ns = config.faults.latency_ns.min(10_000);
            config.faults.delay_max_ns = config.faults.delay_max_ns.min(100_000);
        }
        config.listeners = rng.pick(&[1, 1, 2]);
        config.provides_buffers = rng.below(2) == 0;
        if rng.below(2) == 0 {
            config.receive_buffers_max = Some(rng.pick(&[1, 2, 4, 16]));
        }
        if rng.below(4) == 0 {
            config.inbox_capacity = Some(rng.pick(&[1, 2, 4]));
        }
        let shards = rng.pick(&[1, 1, 1, 1, 2, 2, 2, 3, 4, 8, 16]);
        let slots = rng.pick(if shards < 8 { &[2, 4, 8, 24] } else { &[1, 2, 3, 4] });
        let links = (shards * slots - rng.pick(&[0, 0, 1])).max(shards);
        let at_once = (links * rng.pick(&[1, 4, 8, 16]) / 8).clamp(1, 48);
        let sizes = Sizes::random(&mut rng, slots);
        let clients = (at_once * rng.pick(&[1, 2, 6])).min(150);
        let idle = rng.pick(&[0, 0, 3, 60]);
        let when_full = if rng.below(8) == 0 { WhenFull::Refuse } else { WhenFull::Wait };
        // Most clients find a free slot.
        let at_once = if when_full == WhenFull::Refuse { at_once.min(links) } else { at_once };
        let mut server = ServerPlan {
            shards,
            links,
            loan_wait: Duration::from_millis(rng.pick(&[100, 1_000, 1_000])),
            stall: Duration::from_secs(rng.pick(&[0, 2, 10, 30])),
            idle: Duration::from_secs(idle),
            when_full,
            // With more free slots than the listeners' backlogs hold, an accept is multishot and takes all
            // connections: so a backlog is more than half of the clients.
            backlog: rng.pick(&[clients / 2 + 1, clients, 1_000]),
            ..ServerPlan::small()
        };
        sizes.apply(&mut server);
        // A small socket buffer needs a round trip for every few bytes.
        let socket = config.faults.socket_buffer_bytes as usize;
        let text_max = rng.pick(&[64, 1_000, 20_000]).min(socket * 128);
        // Some are longer than a buffer, the receive buffers and the output.
        let queue = sizes.output_bytes as usize;
        let message_max = rng.pick(&[queue / 2, 3 * queue, 10_000]).min(text_max).max(1);
        let piece = sizes.buffer_bytes.min(sizes.output_bytes / 2).clamp(1, 256) as usize;
        let retries_sends = workload == Workload::Big || rng.below(2) == 0;
        let mut plan = Self {
            workload,
            config,
            server,
            clients,
            at_once,
            text_max,
            message_max,
            piece: retries_sends.then_some(piece),
            posts: 0,
            burst: 0,
            panic_ppm: 0,
            stop_after: (rng.below(4) == 0).then(|| rng.below(20_000)),
        };
        match workload {
            Workload::Post => plan.draw_posts(&mut rng, links),
            Workload::Framed => plan.draw_frames(&mut rng),
            Workload::Deferred | Workload::Lines => plan.draw_requests(&mut rng),
            Workload::Stream => plan.draw_streams(&mut rng),
            Workload::Echo | Workload::Chat | Workload::Big => {}
        }
        plan
    }

    /// Some replies are never sent; then the answer timeout ends the link.
    fn draw_requests(&mut self, rng: &mut Rng) {
        self.server.answer = Duration::from_secs(rng.pick(&[0, 10, 60]));
        let output = self.server.output_bytes as usize;
        self.message_max = rng.pick(&[64, output / 2, output]).min(output).min(self.text_max);
        self.config.holds_input = true;
        let is_slow = self.workload == Workload::Deferred && rng.below(3) == 0;
        self.config.replies_take =
            if is_slow { self.server.answer.max(SLOW_REPLY) } else { Duration::from_millis(40) };
    }

    /// Whether replies may be slow, or never sent ([`Workload::Deferred`]).
    #[must_use]
    pub fn has_slow_replies(&self) -> bool {
        self.config.replies_take >= SLOW_REPLY
    }

    /// Replies are much longer than an output.
    fn draw_streams(&mut self, rng: &mut Rng) {
        let socket = self.config.faults.socket_buffer_bytes as usize;
        let longest = rng.pick(&[1_000, 30_000, 300_000, 2_000_000]).min(socket * 256);
        self.message_max = longest.max(1);
        if longest > 100_000 {
            self.clients = self.clients.min(6);
            self.at_once = self.at_once.min(6);
        }
    }

    /// Frames have at most as many bytes as a link may have unread; and, if they are sent at once, may queue.
    fn draw_frames(&mut self, rng: &mut Rng) {
        let ServerPlan { input_bytes, output_bytes, buffer_bytes, .. } = self.server;
        let [input, output, buffer] =
            [input_bytes, output_bytes, buffer_bytes].map(|bytes| bytes as usize);
        let sent_at_once = if self.piece.is_none() { output } else { usize::MAX };
        let most = rng.pick(&[input, input, input / 2, 3 * buffer]);
        self.message_max = most.min(input).min(sent_at_once).min(self.text_max.max(8)).max(4);
        self.config.holds_input = true;
    }

    /// All clients are connected all the time, there is no idle timeout, and there are buffers.
    fn draw_posts(&mut self, rng: &mut Rng, links: u32) {
        self.clients = (links * rng.pick(&[1, 2, 4]) / 4).clamp(1, 64);
        self.at_once = self.clients;
        self.stop_after = None;
        self.posts = rng.pick(&[4, 20, 100]);
        self.burst = rng.pick(&[0, 30, 400, 2_000]);
        let post_buffers = rng.pick(&[64, 500, 1_200]);
        let output_bytes = self.server.output_bytes.max(rng.pick(&[4_096, 16_384]));
        self.server = ServerPlan {
            idle: Duration::ZERO,
            when_full: WhenFull::Wait,
            backlog: 1_000,
            buffer_bytes: self.server.buffer_bytes.min(512),
            output_bytes,
            ..self.server.clone()
        };
        self.server.fit(post_buffers * 8);
        let mut faults = self.config.faults.clone().with(FaultKind::AcquireFails, 0);
        faults.socket_buffer_bytes = faults.socket_buffer_bytes.max(1_000);
        self.config.faults = faults;
        // A send in flight counts until its completion, though its bytes may have been read.
        self.message_max = output_bytes as usize / 4;
        self.text_max = rng.pick(&[100, 2_000, 6_000]);
    }

    /// The longest line that the handler takes ([`Workload::Lines`]).
    #[must_use]
    pub fn line_max(&self) -> usize {
        (self.server.input_bytes as usize - 2).min(120)
    }

    /// The longest line that the handler takes ([`Workload::Chat`]).
    #[must_use]
    pub fn chat_line_max(&self) -> usize {
        // Posts may use half of an output.
        let post_max = self.server.output_bytes as usize / 2;
        (self.server.input_bytes as usize - 2).min(250).min(post_max - 1)
    }

    /// The same run with a planted bug.
    #[must_use]
    pub fn with(mut self, planted: Option<PlantedBug>) -> Self {
        match planted {
            Some(PlantedBug::Port(bug)) => self.config.port_bug = Some(bug),
            Some(PlantedBug::Engine(bug)) => self.config.engine_bug = Some(bug),
            None => {}
        }
        self
    }

    /// The same run, but callbacks panic at random.
    #[must_use]
    pub fn with_panics(mut self) -> Self {
        self.panic_ppm = 2_000;
        self
    }
}

/// Time of a slow reply.
pub(crate) const SLOW_REPLY: Duration = Duration::from_secs(5);
