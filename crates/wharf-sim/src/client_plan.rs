//! The plan of one client: what it sends, and how it behaves.

use crate::plan::{Plan, Workload};
use crate::{deferred, lines, stream};
use std::time::Duration;
use wharf::sim::Rng;

/// The plan of one client of any workload but [`Workload::Chat`] and [`Workload::Post`]; its handler has it,
/// too.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientPlan {
    /// What it sends.
    pub text: Vec<u8>,
    /// The server closes after so many bytes ([`Workload::Echo`]).
    pub quit_at: Option<usize>,
    /// Its requests and their replies, in the workloads of requests.
    pub requests: Requests,
    /// By which methods the handler serves it.
    pub way: u32,
    /// How it behaves.
    pub behavior: ClientBehavior,
    /// Bytes that it writes at once.
    pub chunk: usize,
    /// Time between two writes.
    pub pace: Duration,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "of this program only")]
pub enum ClientBehavior {
    /// Reads all, then closes.
    ReadAll,
    /// Ends its stream when it has written all, and reads to the end of the server's.
    ShutdownEarly,
    /// Closes after it has read so many bytes, by a reset or not.
    LeaveAfter(usize, bool),
    /// Closes when it has written all, whatever it has read, by a reset or not.
    Vanishes(bool),
    /// Does not read for this time after so many bytes.
    PauseReading(usize, Duration),
    /// Writes nothing for this time at first.
    DelayWriting(Duration),
    /// Stops writing for this time when it has written so many bytes.
    Pauses(usize, Duration),
    /// Stays connected for this time when it has written and read all.
    Holds(Duration),
}

impl ClientPlan {
    /// What the client with this number does in this plan.
    #[must_use]
    pub fn for_client(plan: &Plan, client: usize) -> Self {
        let mut rng = Rng::new(plan.config.seed ^ (client as u64 + 1).wrapping_mul(0x9E37_79B9));
        let len = 1 + rng.below_len(plan.text_max);
        let text: Vec<u8> = match plan.workload {
            Workload::Echo | Workload::Chat | Workload::Post => {
                (0..len).map(|offset| pattern_byte(client, offset)).collect()
            }
            Workload::Big | Workload::Framed => messages(&mut rng, client, len, plan.message_max),
            Workload::Deferred | Workload::Lines | Workload::Stream => Vec::new(),
        };
        let requests = match plan.workload {
            Workload::Deferred => deferred::requests(&mut rng, plan, len),
            Workload::Lines => lines::requests(&mut rng, plan, len),
            Workload::Stream => stream::requests(&mut rng, plan, len),
            _ => Requests::default(),
        };
        let text = if requests.text.is_empty() { text } else { requests.text.clone() };
        let len = text.len();
        let behavior = match rng.below(13) {
            0..4 => ClientBehavior::ReadAll,
            4..8 => ClientBehavior::ShutdownEarly,
            8 => ClientBehavior::LeaveAfter(rng.below_len(len), rng.below(2) == 0),
            9 => ClientBehavior::Vanishes(rng.below(2) == 0),
            10..12 => {
                let most_us = rng.pick(&[50_000, 50_000, 50_000, 5_000_000]);
                ClientBehavior::PauseReading(
                    rng.below_len(len),
                    Duration::from_micros(1 + rng.below(most_us)),
                )
            }
            _ => ClientBehavior::DelayWriting(Duration::from_millis(rng.pick(&[1, 900, 5_000]))),
        };
        let quits = plan.workload == Workload::Echo && rng.below(6) == 0;
        let mut client = Self {
            quit_at: quits.then(|| 1 + rng.below_len(len)),
            text,
            requests,
            behavior,
            chunk: rng.pick(&[1, 50, 64, 1_000, 100_000]),
            pace: Duration::from_nanos(rng.pick(&[0, 0, 1_000, 500_000])),
            way: 0,
        };
        if plan.workload == Workload::Framed {
            client.draw_breaks(&mut rng);
        }
        client.way = u32::try_from(rng.below(60)).unwrap_or(0);
        client
    }

    /// Draws clients that stop amid a frame for some time, and those that send only a part of their last
    /// frame: these wait, leave, or end their stream.
    fn draw_breaks(&mut self, rng: &mut Rng) {
        let len = self.text.len();
        let time = Duration::from_millis(rng.pick(&[1, 50, 1_500, 6_000]));
        match rng.below(6) {
            0 | 1 => self.behavior = ClientBehavior::Pauses(1 + rng.below_len(len), time),
            2 => self.behavior = ClientBehavior::Holds(time),
            _ => {}
        }
        if rng.below(3) == 0 {
            self.text.truncate(1 + rng.below_len(len));
        }
    }
}

/// The requests of a client, and the replies that it must get.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Requests {
    /// All requests.
    pub text: Vec<u8>,
    /// All replies.
    pub replies: Vec<u8>,
    /// Where each request ends in `text`, and its reply in `replies`.
    pub ends: Vec<(usize, usize)>,
    /// The server closes after the last of them, and discards what follows it in `text`.
    pub closes: bool,
}

impl Requests {
    /// Adds a request and its reply.
    pub(crate) fn add(&mut self, request: &[u8], reply: &[u8]) {
        self.text.extend_from_slice(request);
        self.replies.extend_from_slice(reply);
        self.ends.push((self.text.len(), self.replies.len()));
    }

    /// Bytes of the replies to the first `count` requests, as far as these are within the first
    /// `delivered` bytes.
    pub(crate) fn replies_to(&self, count: usize, delivered: usize) -> usize {
        let whole = self.ends.partition_point(|(end, _)| *end <= delivered).min(count);
        whole.checked_sub(1).map_or(0, |last| self.ends[last].1)
    }
}

/// `len` small letters.
pub(crate) fn letters(seed: usize, len: usize) -> impl Iterator<Item = u8> {
    (0..len).map(move |offset| b'a' + pattern_byte(seed, offset) % 26)
}

/// The byte at `offset` of a client's text.
#[must_use]
pub fn pattern_byte(client: usize, offset: usize) -> u8 {
    #[expect(clippy::cast_possible_truncation, reason = "taken modulo 256")]
    let byte = (client * 131 + offset * 7 + offset / 251) as u8;
    byte
}

/// Messages, each after its length, of about `len` bytes together.
fn messages(rng: &mut Rng, client: usize, len: usize, message_max: usize) -> Vec<u8> {
    let mut text = Vec::new();
    while text.len() < len {
        let size = rng.below_len(message_max.saturating_sub(4) + 1);
        text.extend(u32::try_from(size).unwrap_or(0).to_be_bytes());
        let start = text.len();
        text.extend((start..start + size).map(|offset| pattern_byte(client, offset)));
    }
    text
}
