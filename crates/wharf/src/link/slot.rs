//! The table of links: places taken at start, used again with a new generation.
//!
//! ```text
//!           adopt                 close, queue empty          end of input, or time
//!   Free ──────────► Open ──► Flushing ──────────► Lingering ──────────┐
//!    ▲               │ ▲ ╲       │ time                                ▼
//!    │      stopping ▼ │ kept ───┴──────── reset, error, cut ──────► Closing
//!    │             Draining ── input dry ──► Flushing                  │
//!    └────────────────────────── the port says Closed ─────────────────┘
//! ```
//!
//! A link that closes in good order first sends what is queued, then tells the peer that nothing
//! follows, and then reads and throws away what the peer still sends: closing a socket with unread
//! bytes would reset the connection, and the peer's system would drop the last answers.

use crate::limits::Settings;
use crate::link::peek::Search;
use crate::shares::Held;
use crate::vocabulary::policy::WhenSlow;
use crate::vocabulary::reason::{DisconnectReason, Verdict};
use crate::vocabulary::totals::Totals;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
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

impl Phase {
    /// Whether the drawing has an arrow from this phase to the other. (A place is taken and given back as
    /// a whole.)
    fn leads_to(self, next: Self) -> bool {
        match self {
            Self::Open => matches!(next, Self::Draining | Self::Flushing | Self::Closing),
            Self::Draining => matches!(next, Self::Open | Self::Flushing | Self::Closing),
            Self::Flushing => matches!(next, Self::Lingering | Self::Closing),
            Self::Lingering => next == Self::Closing,
            Self::Free | Self::Closing => false,
        }
    }
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
    /// To receive the message that its handler waits for.
    Input(u32),
    /// To receive one buffer of what its handler has not asked for.
    Part,
    /// To queue a message of so many buffers.
    Output(u32),
}

/// A reply that comes later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deferral {
    /// What is set aside for it.
    pub(crate) bytes: u32,
    pub(crate) buffers: u32,
    pub(crate) since: Time,
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
    pub(crate) abort_asked: bool,
    /// The peer has sent its last byte.
    pub(crate) input_over: bool,
    /// The handler is not to be called with input.
    pub(crate) paused: bool,
    /// The next call with input comes whatever the last one has taken or asked for.
    pub(crate) woken: bool,
    /// `on_writable` is owed.
    pub(crate) owes_writable: bool,
    /// What `on_end` and `on_drain` have said, once they have been called.
    pub(crate) end: Option<Verdict>,
    pub(crate) drain: Option<Verdict>,
    /// The handler has finished the output, and the peer has been told.
    pub(crate) finished: bool,
    pub(crate) shut: bool,
    /// What it does with posts that find no capacity.
    pub(crate) when_slow: WhenSlow,
    /// A post of its callback found its receiver full: it is to be told that it can try again.
    pub(crate) post_refused: bool,
    /// The place stands among those that are to be told; the link of which it was so may have ended.
    pub(crate) awaits_retry: bool,
    /// The link has ended while its reply was being written: the place waits for the buffers.
    pub(crate) cancelled: bool,
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
    /// The most of which the message consists that the handler waits for.
    pub(crate) message: u32,
    /// How far a search in the input has come.
    pub(crate) search: Search,
    /// The most bytes that may be unsent.
    pub(crate) limit: u32,
    /// Buffers that posts of its callbacks may still take, and the turn for which that holds.
    pub(crate) post_budget: u32,
    pub(crate) budget_turn: u32,
    /// Bytes of posts that may come to it, as others have been told.
    pub(crate) room: u32,
    /// Entries of posts in its queue that were accepted beforehand.
    pub(crate) accepted_entries: u32,
    /// Bytes that the handler has asked to be free when `on_writable` comes.
    pub(crate) ensured: u32,
    /// The reply that comes later.
    pub(crate) deferral: Option<Deferral>,
    /// Its idle time-out in milliseconds; 0: none.
    pub(crate) idle_ms: u32,
    /// The listener that accepted it.
    pub(crate) listener: u16,
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
    /// The loan that it waits for, and whether the callback that runs has asked for it.
    pub(crate) wish: Option<Wish>,
    pub(crate) wished: bool,
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
    pub(crate) local: SocketAddr,
    /// Its place in the list of live links.
    pub(crate) live_at: u32,
    /// When its time-outs are looked at next.
    pub(crate) due: Time,
    /// Its neighbours in its bucket of the timer wheel, and the bucket.
    pub(crate) timer: super::wheel::Hook,
}

// With what the port keeps for its socket an idle link is half a kilobyte.
const _: () = assert!(size_of::<Slot>() <= 424);

impl Slot {
    /// The link goes on to another phase of its life.
    ///
    /// # Panics
    ///
    /// If the drawing has no such arrow.
    pub(crate) fn enter(&mut self, phase: Phase) {
        assert!(self.phase.leads_to(phase), "a link goes from {:?} to {phase:?}", self.phase);
        self.phase = phase;
    }

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
            abort_asked: false,
            input_over: false,
            paused: false,
            woken: false,
            owes_writable: false,
            end: None,
            drain: None,
            finished: false,
            shut: false,
            when_slow: WhenSlow::Skip,
            post_refused: false,
            awaits_retry: false,
            cancelled: false,
            search: Search::default(),
            limit: 0,
            post_budget: 0,
            budget_turn: u32::MAX,
            room: 0,
            accepted_entries: 0,
            ensured: 0,
            deferral: None,
            idle_ms: 0,
            listener: 0,
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
            message: 0,
            in_flight: 0,
            in_flight_buffers: 0,
            in_flight_messages: 0,
            in_call: 0,
            promised: 0,
            held: Held::default(),
            wish: None,
            wished: false,
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
            peer: NOWHERE,
            local: NOWHERE,
            live_at: 0,
            due: NEVER,
            timer: super::wheel::Hook::default(),
        }
    }

    /// Bytes that the peer has not taken yet, as far as the server knows.
    pub(crate) fn backlog(&self) -> usize {
        self.queue.len() + self.in_flight as usize
    }

    /// Bytes of the limit that are taken: those, and what is set aside for a deferred reply.
    pub(crate) fn used(&self) -> usize {
        self.backlog() + self.deferral.map_or(0, |deferral| deferral.bytes as usize)
    }

    /// Bytes of unsent output above which it is not called with input, and takes no posts.
    pub(crate) fn high_water_bytes(&self) -> usize {
        (self.limit / 2).max(1) as usize
    }

    /// Bytes of its output that posts may have together: the upper half is the handler's, or as much
    /// as it has asked for.
    pub(crate) fn post_room_max(&self) -> u32 {
        self.limit - self.limit.div_ceil(2)
    }

    /// What of it is left.
    pub(crate) fn post_room(&self) -> u32 {
        let kept = self.limit.div_ceil(2).max(self.ensured.min(self.limit));
        let used = u32::try_from(self.used()).unwrap_or(u32::MAX);
        (self.limit - kept).saturating_sub(used)
    }

    /// Whether posts are a part of what it holds, or its own output leaves them less room.
    #[inline]
    pub(crate) fn has_posts(&self) -> bool {
        self.room != self.post_room_max() || self.accepted_entries > 0
    }

    /// Whether nothing of its output is taken, or nothing more will ever be queued there.
    #[inline]
    pub(crate) fn holds_no_output(&self) -> bool {
        !(self.has_output() || self.deferral.is_some()) || self.is_output_over()
    }

    /// Whether what the handler sends is thrown away, or refused.
    #[inline]
    pub(crate) fn is_output_over(&self) -> bool {
        self.broken.is_some() || self.finished
    }

    /// The peer was heard.
    pub(crate) fn hear(&mut self, now: Time) {
        self.heard = if self.owes { Time::default() } else { now };
    }

    /// Something is owed to the peer: its silence does not count until that is over.
    pub(crate) fn owe(&mut self, now: Time) {
        if !self.owes {
            (self.owes, self.heard) = (true, Time(now.0.saturating_sub(self.heard.0)));
        }
    }

    /// If nothing is owed to the peer any more, its silence goes on from where it was.
    pub(crate) fn owe_no_more(&mut self, now: Time) {
        if self.owes && !self.has_output() && self.deferral.is_none() && !self.paused {
            (self.owes, self.heard) = (false, Time(now.0.saturating_sub(self.heard.0)));
        }
    }

    /// A pause ends, if there is one, and a call comes for what is unread.
    pub(crate) fn resume(&mut self, now: Time) {
        (self.paused, self.woken) = (false, true);
        self.owe_no_more(now);
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
            output: self.queue.buffers()
                + self.in_flight_buffers
                + self.deferral.map_or(0, |deferral| deferral.buffers),
        }
    }

    /// Whether there is no cause for a call with input: nothing is unread, or the last call took
    /// nothing and nothing has changed since.
    pub(crate) fn is_handled(&self) -> bool {
        self.input.is_empty() || (self.handled && !self.woken)
    }

    /// Whether all that came is handled for good, if nothing more comes: a call that took nothing asked
    /// for bytes that are not there, or had nothing queued that could make room.
    pub(crate) fn has_handled_all(&self) -> bool {
        let waits_for_room = !self.is_incomplete() && self.has_output();
        self.input.is_empty() || (self.is_handled() && !waits_for_room)
    }

    /// Whether calls with input are held off.
    pub(crate) fn is_held(&self) -> bool {
        self.paused || self.deferral.is_some()
    }

    /// Whether no more input is waited for.
    pub(crate) fn has_all_input(&self) -> bool {
        self.input_over || (self.drained && self.phase == Phase::Draining)
    }

    /// Whether a callback is owed that is not about input.
    #[inline]
    pub(crate) fn owes_call(&self) -> bool {
        self.owes_writable || self.owes_drain()
    }

    /// Whether its handler is to be told that the server stops.
    pub(crate) fn owes_drain(&self) -> bool {
        self.phase == Phase::Draining && self.drain.is_none()
    }

    /// Whether the handler is still called for it.
    pub(crate) fn is_served(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Draining)
    }
}

/// A time-out in milliseconds, rounded up: what is not zero stays so.
pub(crate) fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

/// Of a place that no link has.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// No time-out is to be looked at.
pub(crate) const NEVER: Time = Time(u64::MAX);

/// All places of one shard.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    free: Vec<u32>,
    /// The places that are not free, in no order.
    live: Vec<u32>,
    /// What each link begins with.
    limit: u32,
    when_slow: WhenSlow,
    idle_ms: u32,
}

impl Slots {
    pub(crate) fn new(capacity: u32, settings: &Settings) -> Self {
        Self {
            limit: settings.send_queue_bytes,
            when_slow: settings.when_slow,
            idle_ms: millis(settings.idle),
            slots: (0..capacity).map(|_| Slot::free()).collect(),
            free: (0..capacity).rev().collect(),
            live: Vec::with_capacity(capacity as usize),
        }
    }

    /// Takes a place, with a generation that it never had before.
    #[expect(clippy::cast_possible_truncation, reason = "there are at most 2^24 places")]
    pub(crate) fn open(&mut self, peer: SocketAddr, listener: u16, now: Time) -> Option<u32> {
        let index = self.free.pop()?;
        let live_at = self.live.len() as u32;
        let Self { limit, when_slow, idle_ms, .. } = *self;
        self.live.push(index);
        let slot = &mut self[index];
        let generation = slot.generation.wrapping_add(1).max(1);
        let Slot { goes_on, awaits_retry, .. } = *slot;
        *slot = Slot {
            generation,
            phase: Phase::Open,
            peer,
            heard: now,
            live_at,
            goes_on,
            awaits_retry,
            listener,
            limit,
            room: limit - limit.div_ceil(2),
            when_slow,
            idle_ms,
            ..Slot::free()
        };
        Some(index)
    }

    /// Gives a place back.
    pub(crate) fn release(&mut self, index: u32) {
        let Slot { generation, live_at, goes_on, awaits_retry, .. } = self[index];
        self.live.swap_remove(live_at as usize);
        if let Some(moved) = self.live.get(live_at as usize).copied() {
            self[moved].live_at = live_at;
        }
        self[index] = Slot { generation, goes_on, awaits_retry, ..Slot::free() };
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
        let mut slots = Slots::new(2, &Settings::default());
        let a = slots.open(peer, 0, Time(1)).unwrap();
        let b = slots.open(peer, 0, Time(1)).unwrap();
        assert_eq!(slots.open(peer, 0, Time(1)), None);
        let old = slots[a].generation;
        slots.release(a);
        assert!(slots.find(a, old).is_none());
        assert_eq!((slots.live_count(), slots.live(0)), (1, b));
        let again = slots.open(peer, 0, Time(2)).unwrap();
        assert_eq!((again, slots.live_count()), (a, 2));
        assert!(slots.find(a, old).is_none());
        assert!(slots.find(a, slots[a].generation).is_some());
        slots.release(b);
        assert_eq!(slots[again].live_at, 0);
    }

    #[test]
    fn what_stands_in_a_queue_stays_there_though_its_link_ends_and_the_place_is_used_again() {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut slots = Slots::new(1, &Settings::default());
        for at in 1..4 {
            let index = slots.open(peer, 0, Time(at)).unwrap();
            assert_eq!((slots[index].goes_on, slots[index].awaits_retry), (at > 1, at > 1));
            (slots[index].goes_on, slots[index].awaits_retry) = (true, true);
            slots[index].post_refused = true;
            slots.release(index);
            assert!(!slots[index].post_refused);
        }
    }

    #[test]
    fn phases_follow_the_drawing() {
        use Phase::{Closing, Draining, Flushing, Free, Lingering, Open};
        let all = [Free, Open, Draining, Flushing, Lingering, Closing];
        let arrows = |from: Phase| all.into_iter().filter(move |to| from.leads_to(*to));
        assert!(arrows(Open).eq([Draining, Flushing, Closing]));
        assert!(arrows(Draining).eq([Open, Flushing, Closing]));
        assert!(arrows(Flushing).eq([Lingering, Closing]));
        assert!(arrows(Lingering).eq([Closing]));
        assert!(arrows(Closing).chain(arrows(Free)).eq([]));
    }

    #[test]
    #[should_panic(expected = "goes from Lingering to Open")]
    fn a_phase_that_the_drawing_does_not_have_ends_the_worker() {
        let mut slot = Slot { phase: Phase::Lingering, ..Slot::free() };
        slot.enter(Phase::Open);
    }
}
