//! The table of links: places taken at start, used again with a new generation.
//!
//! ```text
//!           adopt                 close, queue empty          end of input, or time
//!   Free ──────────► Open ──► Flushing ──────────► Lingering ──────────┐
//!    ▲                │  ╲       │ time                                ▼
//!    │       stopping ▼   ╲──────┴──────── reset, error, cut ──────► Closing
//!    │             Draining ── input dry ──► Flushing                  │
//!    └────────────────────────── the port says Closed ─────────────────┘
//! ```
//!
//! A link that closes in good order first sends what is queued, then tells the peer that nothing
//! follows, and then reads and throws away what the peer still sends: closing a socket with unread
//! bytes would reset the connection, and the peer's system would drop the last answers.

use crate::handler::{DisconnectReason, Totals};
use crate::shares::Held;
use std::net::SocketAddr;
use wharf_port::memory::Chain;
use wharf_port::port::{Socket, Time};

/// Where a link is in its life; see the drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Free,
    Open,
    /// The server stops: what has arrived is still handled.
    Draining,
    Flushing,
    Lingering,
    Closing,
}

/// The receive of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receiving {
    Off,
    /// For as many bytes as the link's credit allows.
    Many,
    /// For one buffer.
    One,
    /// For no bytes: whether there are any.
    Look,
    /// Its last completion is awaited.
    Cancelling,
}

/// What a link that waits for a loan asked for, in buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To receive into.
    Input(u32),
    /// To queue a message of so many buffers.
    Output(u32),
}

/// One place of the table.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) generation: u32,
    pub(crate) phase: Phase,
    pub(crate) receiving: Receiving,
    /// A send is in flight.
    pub(crate) sending: bool,
    /// In the list of links with something to flush.
    pub(crate) dirty: bool,
    /// `on_connect` succeeded, so `on_disconnect` will come.
    pub(crate) connected: bool,
    /// Why it ends, once that is known.
    pub(crate) reason: Option<DisconnectReason>,
    /// What the callback that runs asked for.
    pub(crate) close_asked: bool,
    /// The peer has sent its last byte.
    pub(crate) input_over: bool,
    /// A drain has read all that had arrived.
    pub(crate) drained: bool,
    /// The last call with what is unread took nothing: it waits for more bytes, or for more room.
    pub(crate) handled: bool,
    /// Sending has failed, and why: what had come before is still handled, what is sent is thrown away.
    pub(crate) broken: Option<DisconnectReason>,
    /// The place is in the list of those that go on in the next turn, whoever has it then.
    pub(crate) goes_on: bool,
    /// Something is owed to the peer: see `heard`.
    pub(crate) owes: bool,
    /// It shares a posted message, as its shard's count knows it.
    pub(crate) shares: bool,
    /// What the peer has acknowledged was looked at since the send in flight began.
    pub(crate) looked: bool,
    pub(crate) socket: Option<Socket>,
    /// Received and not consumed.
    pub(crate) input: Chain,
    /// What waits behind the send in flight.
    pub(crate) queue: Chain,
    /// Bytes that must be unread before the next call is of use; 0 if any number is.
    pub(crate) wanted: u32,
    /// Bytes of the send in flight, and buffers of this link that it holds.
    pub(crate) in_flight: u32,
    pub(crate) in_flight_buffers: u32,
    /// Messages of the send in flight.
    pub(crate) in_flight_messages: u32,
    /// Buffers of input that a callback has in its hands.
    pub(crate) in_call: u32,
    /// Buffers lent for input that a receive has not filled yet.
    pub(crate) promised: u32,
    /// What the link holds, as its shard's account knows it.
    pub(crate) held: Held,
    /// The loan that it waits for.
    pub(crate) wish: Option<Wish>,
    /// Since when.
    pub(crate) wishes_since: Time,
    /// The turn in which it was called last, and how often.
    pub(crate) turn: u32,
    pub(crate) calls: u8,
    /// Bytes that had come when the link began to drain and are still to be received, once that is
    /// known.
    pub(crate) owed: Option<u32>,
    /// Bytes taken in since the link began to drain or linger, and sent since it began to drain.
    pub(crate) late_bytes: u32,
    /// When the peer was last heard. While something is owed to it, which does not count: how long it
    /// had been silent when that began, as a time since zero.
    pub(crate) heard: Time,
    /// When the system or the peer last took some of the output.
    pub(crate) moved: Time,
    /// Bytes that the peer had acknowledged when that was last looked at.
    pub(crate) acknowledged: u64,
    /// When what it holds of input last became less than its loan.
    pub(crate) eased: Time,
    pub(crate) totals: Totals,
    pub(crate) peer: SocketAddr,
    /// Its place in the list of live links.
    pub(crate) live_at: u32,
    /// When its time-outs are looked at next.
    pub(crate) due: Time,
    /// Its neighbours in its bucket of the timer wheel, and the bucket.
    pub(crate) timer: super::wheel::Hook,
}

// With what the port keeps for its socket an idle link is half a kilobyte.
const _: () = assert!(size_of::<Slot>() <= 304);

impl Slot {
    fn free() -> Self {
        Self {
            generation: 0,
            phase: Phase::Free,
            receiving: Receiving::Off,
            sending: false,
            dirty: false,
            connected: false,
            reason: None,
            close_asked: false,
            input_over: false,
            drained: false,
            handled: false,
            broken: None,
            looked: false,
            goes_on: false,
            owes: false,
            shares: false,
            socket: None,
            input: Chain::new(),
            queue: Chain::new(),
            wanted: 0,
            in_flight: 0,
            in_flight_buffers: 0,
            in_flight_messages: 0,
            in_call: 0,
            promised: 0,
            held: Held::default(),
            wish: None,
            wishes_since: Time::default(),
            turn: 0,
            calls: 0,
            owed: None,
            late_bytes: 0,
            heard: Time::default(),
            moved: Time::default(),
            acknowledged: 0,
            eased: Time::default(),
            totals: Totals::default(),
            peer: SocketAddr::from(([0, 0, 0, 0], 0)),
            live_at: 0,
            due: NEVER,
            timer: super::wheel::Hook::default(),
        }
    }

    /// Bytes that the peer has not taken yet, as far as the server knows.
    pub(crate) fn backlog(&self) -> usize {
        self.queue.len() + self.in_flight as usize
    }

    /// The peer was heard.
    pub(crate) fn hear(&mut self, now: Time) {
        self.heard = if self.owes { Time::default() } else { now };
    }

    /// Output begins: its peer's silence does not count until all of it is out.
    pub(crate) fn output_begins(&mut self, now: Time) {
        if !self.owes {
            (self.owes, self.heard) = (true, Time(now.0.saturating_sub(self.heard.0)));
        }
    }

    /// Nothing is owed to the peer any more, whose silence goes on from where it was.
    pub(crate) fn output_ends(&mut self, now: Time) {
        if self.owes {
            (self.owes, self.heard) = (false, Time(now.0.saturating_sub(self.heard.0)));
        }
    }

    /// The send in flight is over.
    pub(crate) fn end_send(&mut self) {
        self.sending = false;
        (self.in_flight, self.in_flight_buffers, self.in_flight_messages) = (0, 0, 0);
    }

    /// Posted messages that it shares with others and has not sent.
    pub(crate) fn messages(&self) -> u32 {
        self.queue.messages() + self.in_flight_messages
    }

    /// Whether its handler waits for more bytes than have come.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.wanted as usize > self.input.len()
    }

    /// Whether something is to be sent.
    pub(crate) fn has_output(&self) -> bool {
        self.sending || !self.queue.is_empty()
    }

    /// The buffers that it holds.
    pub(crate) fn holds(&self) -> Held {
        Held {
            input: self.input.buffers() + self.in_call + self.promised,
            output: self.queue.buffers() + self.in_flight_buffers,
        }
    }

    /// Whether all that came is handled: nothing is unread, or nobody will take it.
    pub(crate) fn is_handled(&self) -> bool {
        self.input.is_empty() || self.handled
    }

    /// Whether no more input is waited for.
    pub(crate) fn has_all_input(&self) -> bool {
        self.input_over || (self.drained && self.phase == Phase::Draining)
    }

    /// Whether the handler is still called for it.
    pub(crate) fn is_served(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Draining)
    }
}

/// No time-out is to be looked at.
pub(crate) const NEVER: Time = Time(u64::MAX);

/// All places of one shard.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    free: Vec<u32>,
    /// The places that are not free, in no order.
    live: Vec<u32>,
}

impl Slots {
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            slots: (0..capacity).map(|_| Slot::free()).collect(),
            free: (0..capacity).rev().collect(),
            live: Vec::with_capacity(capacity as usize),
        }
    }

    /// Takes a place, with a generation that it never had before.
    #[expect(clippy::cast_possible_truncation, reason = "there are at most 2^24 places")]
    pub(crate) fn open(&mut self, peer: SocketAddr, now: Time) -> Option<u32> {
        let index = self.free.pop()?;
        let live_at = self.live.len() as u32;
        self.live.push(index);
        let slot = &mut self[index];
        let generation = slot.generation.wrapping_add(1).max(1);
        let goes_on = slot.goes_on;
        *slot = Slot {
            generation,
            phase: Phase::Open,
            peer,
            heard: now,
            live_at,
            goes_on,
            ..Slot::free()
        };
        Some(index)
    }

    /// Gives a place back.
    pub(crate) fn release(&mut self, index: u32) {
        let Slot { generation, live_at, goes_on, .. } = self[index];
        self.live.swap_remove(live_at as usize);
        if let Some(moved) = self.live.get(live_at as usize).copied() {
            self[moved].live_at = live_at;
        }
        self[index] = Slot { generation, goes_on, ..Slot::free() };
        self.free.push(index);
    }

    /// The place of the link that has this generation now.
    pub(crate) fn find(&self, index: u32, generation: u32) -> Option<&Slot> {
        let slot = self.slots.get(index as usize)?;
        (slot.generation == generation && slot.phase != Phase::Free).then_some(slot)
    }

    /// The `n`th live place; each has a number below [`live_count`](Self::live_count).
    pub(crate) fn live(&self, n: usize) -> u32 {
        self.live[n]
    }

    /// Places that are free, as the list of them says.
    #[cfg(feature = "sim")]
    pub(crate) fn free(&self) -> &[u32] {
        &self.free
    }

    pub(crate) fn live_count(&self) -> usize {
        self.live.len()
    }

    #[cfg(feature = "sim")]
    #[expect(clippy::cast_possible_truncation, reason = "there are at most 2^24 places")]
    pub(crate) fn capacity(&self) -> u32 {
        self.slots.len() as u32
    }
}

impl std::ops::Index<u32> for Slots {
    type Output = Slot;

    fn index(&self, index: u32) -> &Slot {
        &self.slots[index as usize]
    }
}

impl std::ops::IndexMut<u32> for Slots {
    fn index_mut(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_used_again_with_another_generation() {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut slots = Slots::new(2);
        let a = slots.open(peer, Time(1)).unwrap();
        let b = slots.open(peer, Time(1)).unwrap();
        assert_eq!(slots.open(peer, Time(1)), None);
        let old = slots[a].generation;
        slots.release(a);
        assert!(slots.find(a, old).is_none());
        assert_eq!((slots.live_count(), slots.live(0)), (1, b));
        let again = slots.open(peer, Time(2)).unwrap();
        assert_eq!((again, slots.live_count()), (a, 2));
        assert!(slots.find(a, old).is_none());
        assert!(slots.find(a, slots[a].generation).is_some());
        slots.release(b);
        assert_eq!(slots[again].live_at, 0);
    }
}
