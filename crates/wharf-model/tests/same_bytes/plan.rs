//! The plan that a seed determines: sizes, and what each client does.

use crate::talks::{self, PEER_CLOSED, Talk};
use wharf_model::Rng;

/// The programs that run on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Echo,
    Messages,
    Keyvalue,
    Frames,
    Http,
    Redis,
    Download,
    Stream,
    Patient,
    Paused,
    Deferred,
    Push,
    Room,
}

/// How many buffers a shard has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Buffers {
    /// So many: enough for all links' full inputs and outputs, so that no link waits for a loan.
    Plenty(usize),
    /// As few as the settings allow, and so many more. No link is closed for holding them.
    Scarce(usize),
}

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) program: Program,
    pub(crate) seed: u64,
    pub(crate) buffer_size_bytes: usize,
    pub(crate) grant_bytes: usize,
    pub(crate) input_bytes: usize,
    pub(crate) output_bytes: usize,
    /// Buffers of a shard.
    pub(crate) buffers: Buffers,
    /// Pushes that each user gets, and the milliseconds between two of them.
    pub(crate) pushes: usize,
    pub(crate) push_pause_ms: u64,
    /// The server stops after the pushes; otherwise each link is closed.
    pub(crate) stops: bool,
    pub(crate) clients: Vec<ClientPlan>,
}

/// A client.
#[derive(Clone, Debug)]
pub(crate) struct ClientPlan {
    /// What it sends.
    pub(crate) text: Vec<u8>,
    /// What it must read.
    pub(crate) expected: Vec<u8>,
    /// Why its link must end.
    pub(crate) reason: &'static str,
    /// Bytes that it writes at once.
    pub(crate) chunk: usize,
    /// Milliseconds between two writes.
    pub(crate) write_pause_ms: u64,
    /// It stops reading at these counts of bytes, for so many milliseconds. Ascending.
    pub(crate) read_pauses: Vec<(usize, u64)>,
    /// It ends its half of the stream when all is written, and hears the end of the other half. Otherwise
    /// it closes when it has heard all; where the server ends the link, after the end of that half.
    pub(crate) finishes: bool,
    /// It says nothing before all clients have heard so many bytes.
    pub(crate) greeting_bytes: usize,
    /// What it waits for may have been skipped. It closes when it has heard nothing for a while.
    pub(crate) may_miss: bool,
}

impl Plan {
    pub(crate) fn new(program: Program, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let buffer_size_bytes = rng.pick(&[64, 100, 512, 2_048]);
        let grant_bytes = 100 + rng.below(100);
        let message_max = match program {
            Program::Messages => 4 + talks::MESSAGE_MAX,
            _ => 410,
        };
        let tight = message_max.max(2 * grant_bytes).max(2 * buffer_size_bytes) + rng.below(300);
        // Twice what all posts of a room take, where none is to be skipped.
        let is_roomy = rng.once_in(if program == Program::Room { 2 } else { 3 });
        let output_bytes = if is_roomy { tight + 20_000 } else { tight };
        let input_bytes = message_max + rng.below(300);
        let link_buffers = 8 + 3 * (input_bytes + output_bytes).div_ceil(buffer_size_bytes);
        let count = 1 + rng.below(NAMES.len());
        // Posts would be skipped.
        let has_plenty = matches!(program, Program::Push | Program::Room);
        let buffers = if rng.once_in(3) && !has_plenty {
            Buffers::Scarce(rng.below(4))
        } else {
            Buffers::Plenty(256 + 2 * link_buffers * count)
        };
        let mut plan = Self {
            program,
            seed,
            buffer_size_bytes,
            grant_bytes,
            input_bytes,
            output_bytes,
            buffers,
            pushes: rng.pick(&[3, 30, 300]),
            push_pause_ms: rng.pick(&[0, 1, 30]),
            stops: rng.once_in(2),
            clients: Vec::new(),
        };
        let talks = plan.talks(&NAMES[..count], &mut rng);
        plan.clients =
            talks.into_iter().map(|talk| ClientPlan::new(program, talk, &mut rng)).collect();
        plan
    }

    fn talks(&self, names: &[&str], rng: &mut Rng) -> Vec<Talk> {
        if self.program == Program::Room {
            return room(names, rng);
        }
        let files = talks::files();
        let talk = |name: &&str| match self.program {
            Program::Echo => talks::echo(rng, name),
            Program::Messages => talks::messages(rng, name),
            Program::Keyvalue => talks::keyvalue(rng, name),
            Program::Frames => talks::frames(rng, name),
            Program::Http => talks::http(rng, name),
            Program::Redis => talks::redis(rng, name),
            Program::Download => talks::download(rng, &files),
            Program::Stream => talks::stream(rng, name),
            Program::Patient | Program::Paused => talks::lines(rng, name),
            Program::Deferred => talks::deferred(rng, name),
            Program::Push | Program::Room => talks::push(rng, name, self.pushes, self.stops),
        };
        names.iter().map(talk).collect()
    }

    /// What a client has heard, as far as the program determines it: in a room the lines of each speaker
    /// keep their order, whatever comes between them.
    pub(crate) fn determined(&self, heard: &[u8]) -> Vec<u8> {
        if self.program == Program::Room { by_speaker(heard) } else { heard.to_vec() }
    }
}

/// Each hears what all others say.
fn room(names: &[&str], rng: &mut Rng) -> Vec<Talk> {
    let texts: Vec<String> = names.iter().map(|name| talks::room(rng, name)).collect();
    let talk = |(at, text): (usize, &String)| {
        let others = texts.iter().enumerate().filter(|(other, _)| *other != at);
        let heard: String = others.map(|(_, text)| text.as_str()).collect();
        Talk {
            text: text.clone().into_bytes(),
            expected: (talks::GREETING.to_owned() + &heard).into_bytes(),
            reason: PEER_CLOSED,
            must_finish: false,
        }
    };
    texts.iter().enumerate().map(talk).collect()
}

fn by_speaker(heard: &[u8]) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = heard.split_inclusive(|byte| *byte == b'\n').collect();
    if let Some((_greeting, lines)) = lines.split_first_mut() {
        lines.sort_by_key(|line| line.first().copied());
    }
    lines.concat()
}

impl ClientPlan {
    fn new(program: Program, talk: Talk, rng: &mut Rng) -> Self {
        let Talk { text, expected, mut reason, must_finish } = talk;
        let (is_room, is_push) = (program == Program::Room, program == Program::Push);
        if reason == PEER_CLOSED && !must_finish && !is_room && rng.once_in(8) {
            reason = "idle";
        }
        // Before a link that the program has ended is reset, its client has two seconds to read.
        let pause_max_ms = if reason == PEER_CLOSED { 3_000 } else { 400 };
        let mut read_pauses: Vec<(usize, u64)> = (0..rng.below(4))
            .map(|_| (rng.below(expected.len() + 1), 1 + rng.below(pause_max_ms) as u64))
            .collect();
        read_pauses.sort_unstable();
        let few = 1 + rng.below(30) + text.len() / WRITES_MAX;
        let stays = is_room || is_push || reason == "idle";
        Self {
            chunk: rng.pick(&[few, 700, text.len() + 1]),
            write_pause_ms: rng.pick(&[0, 0, 1, 5]),
            finishes: (rng.once_in(2) && !stays) || must_finish,
            text,
            expected,
            reason,
            read_pauses,
            greeting_bytes: if is_room { talks::GREETING.len() } else { 0 },
            may_miss: is_room || is_push,
        }
    }

    /// Whether it hears the end of what the program says.
    pub(crate) fn hears_end(&self) -> bool {
        self.finishes || self.reason != PEER_CLOSED
    }

    /// For how long it does not read now, if it has read so much. Each pause is once.
    pub(crate) fn next_pause(&self, pauses: &mut usize, read: usize) -> Option<u64> {
        let (at, time_ms) = *self.read_pauses.get(*pauses)?;
        if at > read {
            return None;
        }
        *pauses += 1;
        Some(time_ms)
    }

    /// How much it may read before its next pause.
    pub(crate) fn readable(&self, pauses: usize, read: usize) -> usize {
        self.read_pauses.get(pauses).map_or(usize::MAX, |(at, _)| at - read)
    }
}

/// How long links may be idle: longer than any client reads nothing.
pub(crate) const IDLE_MS: u64 = 12_000;
/// How long links may wait for a loan before others are closed for it: longer than any run waits.
pub(crate) const LOAN_WAIT_MS: u64 = 600_000;
/// How long replies may be deferred.
pub(crate) const ANSWER_MS: u64 = 5_000;
/// The clients' names.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// How often a client writes, at most.
const WRITES_MAX: usize = 1_000;
