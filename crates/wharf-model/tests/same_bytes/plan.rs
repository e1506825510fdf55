//! What a seed means: sizes, and what each client does.

use crate::program::Program;
use wharf_model::Rng;

/// How much of what its client says an output holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outputs {
    /// All of it, in a quarter of the limit: reading is never paused.
    Roomy,
    /// A part of it. At least two of the longest replies.
    Tight,
}

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) program: Program,
    pub(crate) seed: u64,
    pub(crate) shards: usize,
    pub(crate) buffer_size_bytes: usize,
    /// The most that may be queued on a link. Twice as much as one call can reply, or more.
    pub(crate) output_bytes: usize,
    /// Enough for all links' full inputs and outputs: nothing waits for another link's buffers.
    pub(crate) buffer_count: usize,
    pub(crate) clients: Vec<ClientPlan>,
}

/// A client.
#[derive(Clone, Debug)]
pub(crate) struct ClientPlan {
    /// What it says.
    pub(crate) text: Vec<u8>,
    /// What it must hear.
    pub(crate) expected: Vec<u8>,
    /// Bytes that it writes at once.
    pub(crate) chunk: usize,
    /// Milliseconds between two writes.
    pub(crate) write_pause_ms: u64,
    /// It stops reading at these counts of bytes, for so many milliseconds. Ascending.
    pub(crate) read_pauses: Vec<(usize, u64)>,
    /// It ends its half of the stream when all is written, and hears the end of the other half. Else it
    /// closes when it has heard all.
    pub(crate) finishes: bool,
}

impl Plan {
    pub(crate) fn new(program: Program, outputs: Outputs, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let buffer_size_bytes = rng.pick(&[64, 128, 512, 2_048]);
        let message_max = match program {
            Program::Echo => 0,
            _ => buffer_size_bytes * (1 + rng.below(20)),
        };
        let reply_max = message_max + 4 + buffer_size_bytes;
        let tight_bytes = reply_max * (2 + rng.below(5));
        // Up to four times as much as a tight output holds.
        let text_max = (4 * tight_bytes).min(TEXT_MAX);
        let clients: Vec<ClientPlan> = (0..=rng.below(6))
            .map(|_| ClientPlan::new(program, message_max, text_max, &mut rng))
            .collect();
        let output_bytes = match outputs {
            Outputs::Tight => tight_bytes,
            Outputs::Roomy => 5 * (text_max + reply_max),
        };
        let link_buffers = 4 + 3 * output_bytes.div_ceil(buffer_size_bytes);
        let shards = 1 + rng.below(4);
        Self {
            program,
            seed,
            shards,
            buffer_size_bytes,
            output_bytes,
            buffer_count: shards * (256 + 2 * link_buffers * clients.len()),
            clients,
        }
    }
}

impl ClientPlan {
    fn new(program: Program, message_max: usize, text_max: usize, rng: &mut Rng) -> Self {
        let len = rng.below(text_max);
        let mut text = Vec::new();
        while text.len() < len {
            let mut body = rng.letters(if program == Program::Echo { 2_000 } else { message_max });
            if program != Program::Echo {
                let prefix = u32::try_from(body.len()).unwrap().to_be_bytes();
                body = [&prefix[..], &body].concat();
            }
            text.extend(body);
        }
        let expected = program.replies(&text);
        let mut read_pauses: Vec<(usize, u64)> = (0..rng.below(4))
            .map(|_| (rng.below(expected.len() + 1), 1 + rng.below(3_000) as u64))
            .collect();
        read_pauses.sort_unstable();
        let few = 1 + rng.below(30) + text.len() / WRITES_MAX;
        Self {
            chunk: rng.pick(&[few, 700, text.len() + 1]),
            write_pause_ms: rng.pick(&[0, 0, 1, 5]),
            finishes: rng.once_in(2),
            text,
            expected,
            read_pauses,
        }
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

/// Bytes that a client says, but for the rest of its last message.
const TEXT_MAX: usize = 60_000;
/// How often a client writes, at most.
const WRITES_MAX: usize = 1_000;
