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
}

impl Workload {
    /// Every workload.
    pub const ALL: [Self; 3] = [Self::Echo, Self::Chat, Self::Big];

    /// Its name in flags and in the file of regression seeds.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Chat => "chat",
            Self::Big => "big",
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
        found.ok_or_else(|| format!("{name:?} is no workload; there are echo, chat and big"))
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
    /// Bytes that a client sends, at most.
    pub text_max: usize,
    /// Bytes of a message, at most ([`Workload::Big`]).
    pub message_max: usize,
    /// The handler waits for room, rather than let the link go.
    pub patient: bool,
    /// Links have an idle time-out, which ends those that are not read from, too.
    pub idles: bool,
    /// How often a callback panics, in millionths.
    pub panic_ppm: u32,
    /// The server is stopped amid all this after so many steps.
    pub stop_after: Option<u64>,
}

impl Plan {
    /// The run that belongs to `seed`.
    #[must_use]
    pub fn drawn(seed: u64, workload: Workload) -> Self {
        let mut rng = Rng::new(seed.wrapping_mul(3) + workload as u64);
        let mut config = SimConfig::new(seed);
        config.faults = Faults::drawn(&mut rng);
        if rng.below(8) > 0 {
            // Else links end so fast by time-outs that nothing else is seen.
            config.faults.clock_jump_max_ns = config.faults.clock_jump_max_ns.min(1_000_000);
        }
        if config.faults.socket_buffer_bytes < 100 {
            // A closing link has 10 s for what is queued, and byte by byte that is a lot of time.
            config.faults.latency_ns = config.faults.latency_ns.min(10_000);
            config.faults.delay_max_ns = config.faults.delay_max_ns.min(100_000);
        }
        let shards = rng.one_of(&[1, 1, 2, 3]);
        let places = rng.one_of(&[2, 4, 8, 24]);
        let links = shards * places - rng.one_of(&[0, 0, 1]);
        let at_once = (links * rng.one_of(&[1, 4, 8, 16]) / 8).clamp(1, 96);
        let clients = at_once * rng.one_of(&[1, 2, 6]);
        let buffer_size = rng.one_of(&[64, 64, 100, 512]);
        // Each link can have one message on its way if there are two buffers for each place.
        let shard_buffers = places * rng.one_of(&[2, 3, 8]) + rng.one_of(&[2, 8]);
        let queue_buffers = rng.one_of(&[4, 16, 64]);
        let send_queue = buffer_size * queue_buffers;
        let idle = rng.one_of(&[0, 0, 3, 60]);
        let when_full = if rng.below(4) == 0 { WhenFull::Refuse } else { WhenFull::Wait };
        config.listeners = rng.one_of(&[1, 1, 2]);
        config.builder = config
            .builder
            .shards(shards)
            .links(links.max(shards))
            .buffers(shards * shard_buffers * 8 / 7 + 2)
            .buffer_size(buffer_size)
            .send_queue(send_queue)
            .idle(Duration::from_secs(idle))
            .when_full(when_full)
            // With room for two backlogs an accept takes all that come; so that may not be more.
            .backlog(rng.one_of(&[clients / 2 + 1, clients, 1_000]));
        // Small sockets take a round trip for every few bytes, and closing links have 10 s.
        let socket = config.faults.socket_buffer_bytes as usize;
        let text_max = rng.one_of(&[64, 1_000, 20_000]).min(socket * 128);
        // A quarter of the buffers is neither for receiving nor kept for links that hold none.
        let message_max = (send_queue / 2).min(shard_buffers / 4 * buffer_size) as usize;
        let message_max = message_max.min(text_max).max(1);
        Self {
            workload,
            config,
            clients,
            at_once,
            text_max,
            message_max,
            patient: rng.below(2) == 0,
            idles: idle > 0,
            panic_ppm: 0,
            stop_after: (rng.below(4) == 0).then(|| rng.below(20_000)),
        }
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

    /// Whether nothing that ends or stalls a connection is in the plan.
    #[must_use]
    pub fn is_gentle(&self) -> bool {
        let fatal = [FaultKind::Reset, FaultKind::BlackHole, FaultKind::DeafPeer];
        fatal.into_iter().all(|kind| self.config.faults.ppm(kind) == 0)
    }
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
    /// Does not read for a while after so many bytes.
    Sleeps(usize, Duration),
    /// Says nothing for a while at first.
    Mute(Duration),
}

impl ClientPlan {
    /// What the client with this number does in this plan.
    #[must_use]
    pub fn of(plan: &Plan, client: usize) -> Self {
        let mut rng = Rng::new(plan.config.seed ^ (client as u64 + 1).wrapping_mul(0x9E37_79B9));
        let len = 1 + rng.below_len(plan.text_max);
        let text: Vec<u8> = match plan.workload {
            Workload::Echo | Workload::Chat => {
                (0..len).map(|place| letter(client, place)).collect()
            }
            Workload::Big => messages(&mut rng, client, len, plan.message_max),
        };
        let len = text.len();
        let manner = match rng.below(12) {
            0..4 => Manner::Plain,
            // Who waits for room is not told of it any more when the peer has finished.
            4..8 if !plan.patient => Manner::FinishEarly,
            4..8 => Manner::Plain,
            8 => Manner::Leaves(rng.below_len(len), rng.below(2) == 0),
            9..11 => {
                Manner::Sleeps(rng.below_len(len), Duration::from_micros(1 + rng.below(50_000)))
            }
            _ => Manner::Mute(Duration::from_millis(rng.one_of(&[1, 900, 5_000]))),
        };
        let quits = plan.workload == Workload::Echo && rng.below(6) == 0;
        Self {
            quit_at: quits.then(|| 1 + rng.below_len(len)),
            text,
            manner,
            chunk: rng.one_of(&[1, 50, 64, 1_000, 100_000]),
            pace: Duration::from_nanos(rng.one_of(&[0, 0, 1_000, 500_000])),
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
