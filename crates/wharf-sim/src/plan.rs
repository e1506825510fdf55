//! What a seed means.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use wharf::WhenFull;
use wharf::sim::{EnginePlant, FaultKind, Faults, Plant, Rng, SimConfig};

/// What handler and clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "of this program only")]
pub enum Workload {
    /// Everything that comes in goes out again.
    Echo,
    /// Lines go to all others; some go to one, posted from other shards; some throw one out.
    Chat,
    /// Messages of many buffers come back reversed.
    Big,
    /// Messages are posted from outside, to one link or to all, and read.
    Post,
    /// Frames stay unread until they are whole, and come back.
    Framed,
}

impl Workload {
    /// Every workload.
    pub const ALL: [Self; 5] = [Self::Echo, Self::Chat, Self::Big, Self::Post, Self::Framed];

    /// Its name in flags and in the file of regression seeds.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Chat => "chat",
            Self::Big => "big",
            Self::Post => "post",
            Self::Framed => "framed",
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
            format!("{name:?} is no workload; there are echo, chat, big, post and framed")
        })
    }
}

/// A fault that is planted, in the port or in the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "of this program only")]
pub enum Planted {
    /// In the port.
    Port(Plant),
    /// In the engine.
    Engine(EnginePlant),
}

impl Planted {
    /// Every fault that can be planted.
    pub fn all() -> impl Iterator<Item = Self> {
        let port = Plant::ALL.into_iter().map(Self::Port);
        port.chain(EnginePlant::ALL.into_iter().map(Self::Engine))
    }
}

impl fmt::Display for Planted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(plant) => write!(f, "port:{plant:?}"),
            Self::Engine(plant) => write!(f, "engine:{plant:?}"),
        }
    }
}

impl FromStr for Planted {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::all().find(|plant| {
            plant.to_string().ends_with(&format!(":{name}")) || plant.to_string() == name
        });
        found.ok_or_else(|| {
            let all: Vec<_> = Self::all().map(|plant| plant.to_string()).collect();
            format!("{name:?} is no fault that can be planted; there are {}", all.join(", "))
        })
    }
}

/// A run, drawn from its seed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// What handler and clients do.
    pub workload: Workload,
    /// The server, the world, and what goes wrong.
    pub config: SimConfig,
    /// How many clients come in all, and how many at once at most.
    pub clients: u32,
    /// How many of them are there at once.
    pub at_once: u32,
    /// Bytes that a client sends, at most; or of a broadcast ([`Workload::Post`]).
    pub text_max: usize,
    /// Bytes of a message, at most ([`Workload::Big`], [`Workload::Framed`]), or that a client may have before it
    /// ([`Workload::Post`]).
    pub message_max: usize,
    /// The handler sends in pieces of so many bytes and waits for room, rather than let the link go.
    pub piece: Option<usize>,
    /// Posts and broadcasts until the server is stopped ([`Workload::Post`]).
    pub posts: u32,
    /// Posts right before the stop ([`Workload::Post`]).
    pub burst: u32,
    /// How often a callback panics, in millionths.
    pub panic_ppm: u32,
    /// The server is stopped amid all this after so many steps.
    pub stop_after: Option<u64>,
}

impl Plan {
    /// The run that belongs to `seed`.
    #[must_use]
    pub fn drawn(seed: u64, workload: Workload) -> Self {
        let mut rng = Rng::new(seed.wrapping_mul(4) + workload as u64);
        let mut config = SimConfig::new(seed);
        config.faults = Faults::drawn(&mut rng);
        if rng.below(8) > 0 {
            // Else links end so fast by time-outs that nothing else is seen.
            config.faults.clock_jump_max_ns = config.faults.clock_jump_max_ns.min(1_000_000);
        }
        if config.faults.socket_buffer_bytes < 100 {
            // Byte by byte each step takes its time.
            config.faults.latency_ns = config.faults.latency_ns.min(10_000);
            config.faults.delay_max_ns = config.faults.delay_max_ns.min(100_000);
        }
        config.listeners = rng.one_of(&[1, 1, 2]);
        config.lends_window = rng.below(2) == 0;
        if rng.below(2) == 0 {
            config.receive_window = Some(rng.one_of(&[1, 2, 4, 16]));
        }
        if rng.below(4) == 0 {
            config.inbox_capacity = Some(rng.one_of(&[1, 2, 4]));
        }
        let shards = rng.one_of(&[1, 1, 1, 1, 2, 2, 2, 3, 4, 8, 16]);
        let places = rng.one_of(if shards < 8 { &[2, 4, 8, 24] } else { &[1, 2, 3, 4] });
        let links = (shards * places - rng.one_of(&[0, 0, 1])).max(shards);
        let at_once = (links * rng.one_of(&[1, 4, 8, 16]) / 8).clamp(1, 48);
        let sizes = Sizes::drawn(&mut rng, places);
        let clients = (at_once * rng.one_of(&[1, 2, 6])).min(150);
        let idle = rng.one_of(&[0, 0, 3, 60]);
        let when_full = if rng.below(8) == 0 { WhenFull::Refuse } else { WhenFull::Wait };
        // Most are to find a place.
        let at_once = if when_full == WhenFull::Refuse { at_once.min(links) } else { at_once };
        config.builder = config
            .builder
            .shards(shards)
            .links(links)
            .idle(Duration::from_secs(idle))
            .loan_wait(Duration::from_millis(rng.one_of(&[100, 1_000, 1_000])))
            .stall_timeout(Duration::from_secs(rng.one_of(&[0, 2, 10, 30])))
            .when_full(when_full)
            // With room for two backlogs an accept takes all that come; so that may not be more.
            .backlog(rng.one_of(&[clients / 2 + 1, clients, 1_000]));
        sizes.apply(&mut config, shards);
        // Small sockets take a round trip for every few bytes.
        let socket = config.faults.socket_buffer_bytes as usize;
        let text_max = rng.one_of(&[64, 1_000, 20_000]).min(socket * 128);
        // Also more than a buffer, the window and the queue can hold.
        let queue = sizes.queue_bytes as usize;
        let message_max = rng.one_of(&[queue / 2, 3 * queue, 10_000]).min(text_max).max(1);
        let piece = sizes.buffer_bytes.min(sizes.queue_bytes / 2).clamp(1, 256) as usize;
        let patient = workload == Workload::Big || rng.below(2) == 0;
        let mut plan = Self {
            workload,
            config,
            clients,
            at_once,
            text_max,
            message_max,
            piece: patient.then_some(piece),
            posts: 0,
            burst: 0,
            panic_ppm: 0,
            stop_after: (rng.below(4) == 0).then(|| rng.below(20_000)),
        };
        if workload == Workload::Post {
            plan.draw_posts(&mut rng, links, sizes);
        }
        if workload == Workload::Framed {
            plan.draw_frames(&mut rng, sizes);
        }
        plan
    }

    /// Frames up to what a link may have unread; and, if they are sent at once, may queue.
    fn draw_frames(&mut self, rng: &mut Rng, sizes: Sizes) {
        let sizes = if sizes.is_default { Sizes::DEFAULT } else { sizes };
        let [input, queue, buffer] =
            [sizes.input_bytes, sizes.queue_bytes, sizes.buffer_bytes].map(|bytes| bytes as usize);
        let sent_at_once = if self.piece.is_none() { queue } else { usize::MAX };
        let most = rng.one_of(&[input, input, input / 2, 3 * buffer]);
        self.message_max = most.min(input).min(sent_at_once).min(self.text_max.max(8)).max(4);
        self.config.holds_input = true;
    }

    /// Everybody is there all the time, nobody is silent too long, and buffers can be had.
    fn draw_posts(&mut self, rng: &mut Rng, links: u32, sizes: Sizes) {
        self.clients = (links * rng.one_of(&[1, 2, 4]) / 4).clamp(1, 64);
        self.at_once = self.clients;
        self.stop_after = None;
        self.posts = rng.one_of(&[4, 20, 100]);
        self.burst = rng.one_of(&[0, 30, 400, 2_000]);
        let post_buffers = rng.one_of(&[64, 500, 1_200]);
        let queue_bytes = sizes.queue_bytes.max(rng.one_of(&[4_096, 16_384]));
        let builder = self.config.builder.clone();
        self.config.builder = builder
            .idle(Duration::ZERO)
            .when_full(WhenFull::Wait)
            .backlog(1_000)
            .buffer_size(sizes.buffer_bytes.min(512))
            .send_queue(queue_bytes);
        fit(&mut self.config, post_buffers * 8);
        let mut faults = self.config.faults.clone().with(FaultKind::TakeFail, 0);
        faults.socket_buffer_bytes = faults.socket_buffer_bytes.max(1_000);
        self.config.faults = faults;
        // A send in flight counts until it is done, though its bytes may have been read.
        self.message_max = queue_bytes as usize / 4;
        self.text_max = rng.one_of(&[100, 2_000, 6_000]);
    }

    /// The same run with a planted fault.
    #[must_use]
    pub fn with(mut self, planted: Option<Planted>) -> Self {
        match planted {
            Some(Planted::Port(plant)) => self.config.plant = Some(plant),
            Some(Planted::Engine(plant)) => self.config.engine_plant = Some(plant),
            None => {}
        }
        self
    }

    /// The same run, but callbacks panic by chance.
    #[must_use]
    pub fn with_panics(mut self) -> Self {
        self.panic_ppm = 2_000;
        self
    }
}

/// Buffers, their size, and how much may be queued.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    buffer_bytes: u32,
    queue_bytes: u32,
    /// `None`: as few as a server can have.
    shard_buffers: Option<u32>,
    input_bytes: u32,
    grant_bytes: Option<u32>,
    /// The server's own default.
    is_default: bool,
}

impl Sizes {
    /// Those of [`SimConfig::new`], and the server's own.
    const DEFAULT: Self = Self {
        buffer_bytes: 512,
        queue_bytes: 64 * 1024,
        shard_buffers: None,
        input_bytes: 64 * 1024,
        grant_bytes: None,
        is_default: true,
    };

    fn drawn(rng: &mut Rng, places: u32) -> Self {
        let buffer_bytes = rng.one_of(&[64, 64, 100, 512, 512, 2_048, 4_096]);
        let queue_buffers = rng.one_of(&[2, 4, 4, 16, 64]);
        let few = rng.below(6) == 0;
        let plenty = places * rng.one_of(&[1, 2, 3, 8]) + rng.one_of(&[2, 8]);
        let two_granted = queue_buffers >= 4 && rng.below(6) == 0;
        Self {
            buffer_bytes,
            queue_bytes: buffer_bytes * queue_buffers,
            shard_buffers: (!few).then_some(plenty),
            input_bytes: buffer_bytes * rng.one_of(&[1, 4, 32]),
            grant_bytes: two_granted.then_some(2 * buffer_bytes),
            is_default: rng.below(40) == 0,
        }
    }

    fn apply(self, config: &mut SimConfig, shards: u32) {
        if self.is_default {
            return fit(config, 1);
        }
        let mut builder = config
            .builder
            .clone()
            .buffer_size(self.buffer_bytes)
            .send_queue(self.queue_bytes)
            .input_bytes(self.input_bytes);
        if let Some(grant_bytes) = self.grant_bytes {
            builder = builder.grant_bytes(grant_bytes);
        }
        let wanted = self.shard_buffers.map_or(1, |buffers| shards * buffers * 8 / 7 + 2);
        config.builder = builder;
        fit(config, wanted);
    }
}

/// Gives a server the least number of buffers, from `wanted` on, with which it starts.
fn fit(config: &mut SimConfig, wanted: u32) {
    let builder = config.builder.clone();
    let mut fits = |buffers| {
        config.builder = builder.clone().buffers(buffers);
        config.fits()
    };
    let (mut too_few, mut enough) = (wanted - 1, wanted);
    while !fits(enough) && enough < BUFFERS_MAX {
        (too_few, enough) = (enough, enough * 2);
    }
    while enough - too_few > 1 {
        let middle = too_few + (enough - too_few) / 2;
        if fits(middle) { enough = middle } else { too_few = middle }
    }
    config.builder = builder.buffers(enough);
}

/// What one client of [`Workload::Echo`] or [`Workload::Big`] does; its handler knows it, too.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientPlan {
    /// What it sends.
    pub text: Vec<u8>,
    /// The server closes after so many bytes.
    pub quit_at: Option<usize>,
    /// How it behaves.
    pub manner: Manner,
    /// Bytes that it writes at once.
    pub chunk: usize,
    /// How long it waits between two writes.
    pub pace: Duration,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "of this program only")]
pub enum Manner {
    /// Reads all, then closes.
    Plain,
    /// Closes its half when it has written all, and reads to the server's end.
    FinishEarly,
    /// Is gone after it has read so many bytes, by a reset or not.
    Leaves(usize, bool),
    /// Is gone when it has written all, whatever it has read, by a reset or not.
    Vanishes(bool),
    /// Does not read for a while after so many bytes.
    Sleeps(usize, Duration),
    /// Says nothing for a while at first.
    Mute(Duration),
    /// Stops for a while when it has written so many bytes.
    Pauses(usize, Duration),
    /// Stays for a while when it has written and read all.
    Holds(Duration),
}

impl ClientPlan {
    /// What the client with this number does in this plan.
    #[must_use]
    pub fn of(plan: &Plan, client: usize) -> Self {
        let mut rng = Rng::new(plan.config.seed ^ (client as u64 + 1).wrapping_mul(0x9E37_79B9));
        let len = 1 + rng.below_len(plan.text_max);
        let text: Vec<u8> = match plan.workload {
            Workload::Echo | Workload::Chat | Workload::Post => {
                (0..len).map(|place| letter(client, place)).collect()
            }
            Workload::Big | Workload::Framed => messages(&mut rng, client, len, plan.message_max),
        };
        let len = text.len();
        let manner = match rng.below(13) {
            0..4 => Manner::Plain,
            4..8 => Manner::FinishEarly,
            8 => Manner::Leaves(rng.below_len(len), rng.below(2) == 0),
            9 => Manner::Vanishes(rng.below(2) == 0),
            10..12 => {
                let most_us = rng.one_of(&[50_000, 50_000, 50_000, 5_000_000]);
                Manner::Sleeps(rng.below_len(len), Duration::from_micros(1 + rng.below(most_us)))
            }
            _ => Manner::Mute(Duration::from_millis(rng.one_of(&[1, 900, 5_000]))),
        };
        let quits = plan.workload == Workload::Echo && rng.below(6) == 0;
        let mut client = Self {
            quit_at: quits.then(|| 1 + rng.below_len(len)),
            text,
            manner,
            chunk: rng.one_of(&[1, 50, 64, 1_000, 100_000]),
            pace: Duration::from_nanos(rng.one_of(&[0, 0, 1_000, 500_000])),
        };
        if plan.workload == Workload::Framed {
            client.draw_breaks(&mut rng);
        }
        client
    }

    /// Some stop amid a frame for a while, or say no more than a part of their last frame: those
    /// wait, leave, or close their half.
    fn draw_breaks(&mut self, rng: &mut Rng) {
        let len = self.text.len();
        let time = Duration::from_millis(rng.one_of(&[1, 50, 1_500, 6_000]));
        match rng.below(6) {
            0 | 1 => self.manner = Manner::Pauses(1 + rng.below_len(len), time),
            2 => self.manner = Manner::Holds(time),
            _ => {}
        }
        if rng.below(3) == 0 {
            self.text.truncate(1 + rng.below_len(len));
        }
    }
}

/// The byte at `place` of a client's text.
#[must_use]
pub fn letter(client: usize, place: usize) -> u8 {
    #[expect(clippy::cast_possible_truncation, reason = "taken modulo 256")]
    let byte = (client * 131 + place * 7 + place / 251) as u8;
    byte
}

/// Messages with their lengths in front, of about `len` bytes together.
fn messages(rng: &mut Rng, client: usize, len: usize, message_max: usize) -> Vec<u8> {
    let mut text = Vec::new();
    while text.len() < len {
        let size = rng.below_len(message_max.saturating_sub(4) + 1);
        text.extend(u32::try_from(size).unwrap_or(0).to_be_bytes());
        let start = text.len();
        text.extend((start..start + size).map(|place| letter(client, place)));
    }
    text
}

/// More than any drawn server needs.
const BUFFERS_MAX: u32 = 1 << 20;
