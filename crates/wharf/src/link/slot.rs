//! The table of links: slots allocated at start, each reused under a new generation.
//!
//! ```text
//!    ┌──► Header ──────────── no header ────────────────────────────┐
//!    │ of a │ header                                                │
//!    │ proxy▼         close, queue empty        end of stream,      │
//!   Free ─► Open ──► Flushing ──────────► Lingering ── timeout ─────┤
//!    ▲       │ ▲ ╲       │ timeout                                  ▼
//!    │  stop ▼ │ Keep ───┴────── failure, force-close ────────► Closing
//!    │     Draining ── input handled ──► Flushing                   │
//!    └────────────────────── Outcome::Closed ───────────────────────┘
//! ```
//!
//! A graceful close first sends the queue, then shuts down the sending side, and then reads and
//! discards what the peer still sends (lingering close): closing a socket with unread bytes would reset
//! the connection, and the peer's system would discard replies that the peer has not read.

use crate::limits::Settings;
use crate::link::peek::Search;
use crate::link::wheel::TimerNode;
use crate::shares::Held;
use crate::vocabulary::policy::WhenSlow;
use crate::vocabulary::reason::{DisconnectReason, Verdict};
use crate::vocabulary::totals::Totals;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use wharf_port::memory::{Chain, MemoryError, try_table, try_with_capacity};
use wharf_port::port::{Socket, Time};

/// The phase of a link; see the drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Free,
    /// The peer is a proxy, and its header is to come. The handler does not know the link.
    Header,
    Open,
    /// The server is stopping; the link still handles the input that has arrived.
    Draining,
    Flushing,
    Lingering,
    Closing,
}

impl Phase {
    /// Whether the drawing has an arrow from this phase to `next`. ([`Slots::open`] sets a whole slot,
    /// and [`Slots::release`] resets one.)
    fn leads_to(self, next: Self) -> bool {
        match self {
            Self::Header => matches!(next, Self::Open | Self::Closing),
            Self::Open => matches!(next, Self::Draining | Self::Flushing | Self::Closing),
            Self::Draining => matches!(next, Self::Open | Self::Flushing | Self::Closing),
            Self::Flushing => matches!(next, Self::Lingering | Self::Closing),
            Self::Lingering => next == Self::Closing,
            Self::Free | Self::Closing => false,
        }
    }
}

/// The receive operation of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Receiving {
    #[default]
    Off,
    /// Multishot, for as many bytes as the link's input credit allows; or while lingering without
    /// limit.
    Many,
    /// Of one buffer at most.
    One,
    /// Of no bytes: completes when bytes are there.
    Look,
    /// Cancelled; its last completion is still to come.
    Cancelling,
}

/// The loan for which a link waits, in buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoanRequest {
    /// To receive the rest of the message that the handler waits for.
    Input(u32),
    /// To receive one buffer, although the handler asked for no bytes.
    Part,
    /// To queue that many buffers.
    Output(u32),
}

/// A deferred reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deferral {
    /// Bytes of the output limit, and buffers, that are reserved for it.
    pub(crate) bytes: u32,
    pub(crate) buffers: u32,
    pub(crate) since: Time,
    /// The link has ended while another thread wrote the reply: the slot waits for its buffers.
    pub(crate) is_cancelled: bool,
}

/// A slot of the table. The fields stand in groups, each with the files whose rules they belong to.
/// Other files of `engine/` and `link/` set single flags of a group, where what happened there is what
/// the flag says; `open` and `release` set all.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) generation: u32,
    pub(crate) phase: Phase,
    /// Whether `on_connect` succeeded, so that `on_disconnect` is due.
    pub(crate) connected: bool,
    /// The id of the listener that accepted the link.
    pub(crate) listener: u16,
    pub(crate) socket: Option<Socket>,
    pub(crate) input: InputState,
    pub(crate) output: OutputState,
    pub(crate) flight: Flight,
    pub(crate) calls: Calls,
    pub(crate) loans: Loans,
    pub(crate) time: Times,
    pub(crate) posts: Posts,
    /// The deferred reply: `link/queue.rs`, `engine/post.rs`.
    pub(crate) deferral: Option<Deferral>,
    pub(crate) ending: Ending,
    pub(crate) totals: Totals,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Index in `Slots::live`.
    live_position: u32,
}

/// The input: `engine/receive.rs`, `engine/serve.rs`, `link/keep.rs`.
#[derive(Debug, Default)]
pub(crate) struct InputState {
    /// Unread input.
    pub(crate) unread: Chain,
    /// Unread bytes that the handler asked for; 0 if it asked for none.
    pub(crate) wanted: u32,
    /// The maximum length of the message that the handler waits for.
    pub(crate) message: u32,
    /// The progress of a search in the input.
    pub(crate) search: Search,
    /// Input buffers that the running callback holds.
    pub(crate) in_call: u32,
    /// The last call with input took nothing: the next one needs more bytes or more capacity.
    pub(crate) handled: bool,
    /// `on_receive` is called for unread input, whatever the last call took or asked for.
    pub(crate) receive_due: bool,
    /// The link is paused: `on_receive` is not called.
    pub(crate) paused: bool,
    /// The peer has ended its stream, or receiving has failed.
    pub(crate) end_of_stream: bool,
}

/// The output: `link/queue.rs` queues, `engine/flush.rs` sends.
#[derive(Debug, Default)]
pub(crate) struct OutputState {
    /// The send queue, behind the send in flight.
    pub(crate) queue: Chain,
    /// The output limit: maximum of unsent and reserved bytes.
    pub(crate) limit: u32,
    /// Bytes that `Output::ensure` asked for.
    pub(crate) ensured: u32,
    /// Whether the link is in `ShardState::dirty`.
    pub(crate) dirty: bool,
    /// A call of `on_writable` is due.
    pub(crate) writable_due: bool,
    /// The handler has finished the output (`finished`), and the engine has shut down the sending side
    /// (`is_shut_down`).
    pub(crate) finished: bool,
    pub(crate) is_shut_down: bool,
    /// The reason with which sending has failed: input that had arrived is still handled, output is
    /// discarded.
    pub(crate) broken: Option<DisconnectReason>,
}

/// The operations in flight: `engine/receive.rs`, `engine/flush.rs`.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    pub(crate) receiving: Receiving,
    /// Whether a send is in flight.
    pub(crate) sending: bool,
    /// Bytes of the send, and buffers of the link in it.
    pub(crate) bytes: u32,
    pub(crate) buffers: u32,
    /// Shared messages in the send.
    pub(crate) messages: u32,
}

/// The calls of one turn: `engine/serve.rs`.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// The last turn with a call of `on_receive` or `on_writable`, and the number of these calls in it.
    pub(crate) turn: u32,
    pub(crate) count: u8,
    /// The slot is in `Again`, perhaps for an earlier link of the slot.
    pub(crate) awaits_turn: bool,
}

/// The loans: `link/core.rs`, `engine/loans.rs`.
#[derive(Debug, Default)]
pub(crate) struct Loans {
    /// The buffers of the link, as counted in `ShardState::shares`.
    pub(crate) held: Held,
    /// Buffers lent for input that no receive has filled yet.
    pub(crate) promised: u32,
    /// The loan that the link waits for, and whether the running callback asked for it.
    pub(crate) request: Option<LoanRequest>,
    pub(crate) requested: bool,
    /// The time of the request for the loan.
    pub(crate) requested_at: Time,
    /// The last progress with borrowed input buffers.
    pub(crate) input_progress_at: Time,
}

/// The timeouts: `engine/timeout.rs`, `link/wheel.rs`. Who sees an activity or a progress notes it.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// The time of the peer's last activity. While `idle_suspended` is set, time does not count: how
    /// long the peer had been silent when that began, as a time since zero.
    pub(crate) active_at: Time,
    /// The last progress of the output: queued to an idle link, sent, or acknowledged.
    pub(crate) output_progress_at: Time,
    /// Bytes that the peer had acknowledged when the engine last asked the port.
    pub(crate) acknowledged: u64,
    /// `acknowledged` was read since the send in flight began.
    pub(crate) acknowledged_read: bool,
    /// The idle timeout stands still: see `active_at`.
    pub(crate) idle_suspended: bool,
    /// The idle timeout in milliseconds; 0: none.
    pub(crate) idle_ms: u32,
    /// When the timer wheel expires the link.
    pub(crate) due: Time,
    /// The link's node in the timer wheel.
    pub(crate) timer: TimerNode,
}

/// Posts, of this link and to it: `link/posts.rs`, `engine/post.rs`.
#[derive(Debug)]
pub(crate) struct Posts {
    /// Buffers that posts of the link's callbacks may still take in turn `budget_turn`.
    pub(crate) budget: u32,
    pub(crate) budget_turn: u32,
    /// Capacity for posts in bytes, as published in [`Quotas`](crate::shared::quota::Quotas).
    pub(crate) published_capacity: u32,
    /// Message entries in the queue for which posts were accepted by `Quotas::accept`.
    pub(crate) accepted_entries: u32,
    /// The policy for posts that exceed the capacity.
    pub(crate) when_slow: WhenSlow,
    /// A `try_post` of the link's callback failed with `Full`: `on_writable` is due after a delay.
    pub(crate) refused: bool,
    /// The slot is in `Pending::refused`, perhaps for an earlier link of the slot.
    pub(crate) awaits_retry: bool,
    /// Whether `Sharing` counts the link as one that shares a posted message.
    pub(crate) shares: bool,
}

/// The end of the link: `engine/close.rs`, and `engine/call.rs` for what a callback asked for.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// The first reason to close the link.
    pub(crate) reason: Option<DisconnectReason>,
    /// The running callback has called `close` or `abort`.
    pub(crate) close_requested: bool,
    pub(crate) abort_requested: bool,
    /// The results of `on_end` and `on_drain`; `None` before the call.
    pub(crate) end: Option<Verdict>,
    pub(crate) drain: Option<Verdict>,
    /// The drain has received all that had arrived when it began.
    pub(crate) drain_received: bool,
    /// Bytes that had arrived when the drain began and are not received yet; `None` before the engine
    /// has asked the port.
    pub(crate) owed: Option<u32>,
    /// Bytes received since the link entered `Draining` or `Flushing`, plus bytes sent while draining.
    pub(crate) phase_bytes: u32,
}

// A slot and the port's entry for its socket take about 512 bytes.
const _: () = assert!(size_of::<Slot>() <= 440);

impl Slot {
    /// Changes the phase.
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
            connected: false,
            listener: 0,
            socket: None,
            input: InputState::default(),
            output: OutputState::default(),
            calls: Calls::default(),
            loans: Loans::default(),
            time: Times { due: NEVER, ..Times::default() },
            posts: Posts {
                budget: 0,
                budget_turn: u32::MAX,
                published_capacity: 0,
                accepted_entries: 0,
                when_slow: WhenSlow::Skip,
                refused: false,
                awaits_retry: false,
                shares: false,
            },
            deferral: None,
            flight: Flight::default(),
            ending: Ending::default(),
            totals: Totals::default(),
            peer: NOWHERE,
            local: NOWHERE,
            live_position: 0,
        }
    }

    /// A slot without a link. The lists in which the slot stands, perhaps for an earlier link, keep it.
    fn empty(&self) -> Self {
        let mut slot = Self { generation: self.generation, ..Self::free() };
        slot.calls.awaits_turn = self.calls.awaits_turn;
        slot.posts.awaits_retry = self.posts.awaits_retry;
        slot
    }

    /// Bytes that are queued or in flight.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.output.queue.len() + self.flight.bytes as usize
    }

    /// Used bytes of the output limit: unsent ones, and those reserved for a deferred reply.
    pub(crate) fn used(&self) -> usize {
        self.unsent_bytes() + self.deferral.map_or(0, |deferral| deferral.bytes as usize)
    }

    /// The high-water mark: above so many used bytes `on_receive` is not called, and no post is queued.
    pub(crate) fn high_water_bytes(&self) -> usize {
        (self.output.limit / 2).max(1) as usize
    }

    /// Maximum bytes of posts in the output: half of the limit, rounded down. The rest is for the
    /// handler.
    pub(crate) fn post_capacity_max(&self) -> u32 {
        self.output.limit - self.output.limit.div_ceil(2)
    }

    /// Bytes that posts may still take; less if the handler asked for more than half of the limit.
    pub(crate) fn post_capacity(&self) -> u32 {
        let kept = self.output.limit.div_ceil(2).max(self.output.ensured.min(self.output.limit));
        let used = u32::try_from(self.used()).unwrap_or(u32::MAX);
        (self.output.limit - kept).saturating_sub(used)
    }

    /// Whether the published capacity for posts is less than its maximum, or accepted posts are queued.
    #[inline]
    pub(crate) fn has_posts(&self) -> bool {
        self.posts.published_capacity != self.post_capacity_max() || self.posts.accepted_entries > 0
    }

    /// Whether nothing is unsent or deferred, or nothing more will be queued.
    #[inline]
    pub(crate) fn holds_no_output(&self) -> bool {
        !(self.has_output() || self.deferral.is_some()) || self.is_output_over()
    }

    /// Whether what the handler sends is discarded or refused.
    #[inline]
    pub(crate) fn is_output_over(&self) -> bool {
        self.output.broken.is_some() || self.output.finished
    }

    /// Notes an activity of the peer.
    pub(crate) fn note_activity(&mut self, now: Time) {
        self.time.active_at = if self.time.idle_suspended { Time::default() } else { now };
    }

    /// Stops the idle timeout: from now on the peer's silence does not count.
    pub(crate) fn suspend_idle_time(&mut self, now: Time) {
        if !self.time.idle_suspended {
            (self.time.idle_suspended, self.time.active_at) =
                (true, Time(now.0.saturating_sub(self.time.active_at.0)));
        }
    }

    /// If nothing is unsent, deferred or paused, the peer's silence counts on from where it stopped.
    pub(crate) fn resume_idle_time(&mut self, now: Time) {
        if self.time.idle_suspended
            && !self.has_output()
            && self.deferral.is_none()
            && !self.input.paused
        {
            (self.time.idle_suspended, self.time.active_at) =
                (false, Time(now.0.saturating_sub(self.time.active_at.0)));
        }
    }

    /// Ends a pause and has `on_receive` called for unread input.
    pub(crate) fn resume(&mut self, now: Time) {
        (self.input.paused, self.input.receive_due) = (false, true);
        self.resume_idle_time(now);
    }

    /// Clears the counts of the send in flight.
    pub(crate) fn end_send(&mut self) {
        self.flight.sending = false;
        (self.flight.bytes, self.flight.buffers, self.flight.messages) = (0, 0, 0);
    }

    /// Unsent posted messages that the link shares with others.
    pub(crate) fn messages(&self) -> u32 {
        self.output.queue.messages() + self.flight.messages
    }

    /// Whether the handler asked for more bytes than are unread.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.input.wanted as usize > self.input.unread.len()
    }

    /// Whether bytes are queued or in flight.
    pub(crate) fn has_output(&self) -> bool {
        self.flight.sending || !self.output.queue.is_empty()
    }

    /// Counts the buffers that the link holds.
    pub(crate) fn count_held(&self) -> Held {
        Held {
            input: self.input.unread.buffers() + self.input.in_call + self.loans.promised,
            output: self.output.queue.buffers()
                + self.flight.buffers
                + self.deferral.map_or(0, |deferral| deferral.buffers),
        }
    }

    /// Whether no call with input is due: nothing is unread, or the last call took nothing and nothing
    /// has changed since.
    pub(crate) fn is_handled(&self) -> bool {
        self.input.unread.is_empty() || (self.input.handled && !self.input.receive_due)
    }

    /// Whether no call with input will follow if no more bytes arrive: nothing is unread, or the last
    /// call took nothing, no `on_writable` is due, and it asked for bytes that are not there or no
    /// unsent bytes can free capacity.
    pub(crate) fn has_handled_all(&self) -> bool {
        let frees_capacity = !self.is_incomplete() && self.has_output();
        let waits_for_capacity = self.output.writable_due || frees_capacity;
        self.input.unread.is_empty() || (self.is_handled() && !waits_for_capacity)
    }

    /// Whether a pause or a deferred reply holds back calls with input.
    pub(crate) fn is_held(&self) -> bool {
        self.input.paused || self.deferral.is_some()
    }

    /// Whether the slot waits for the buffers of a reply that was cancelled during its write.
    pub(crate) fn has_cancelled_reply(&self) -> bool {
        self.deferral.is_some_and(|deferral| deferral.is_cancelled)
    }

    /// Whether the engine receives no more input for the handler.
    pub(crate) fn has_all_input(&self) -> bool {
        self.input.end_of_stream || (self.ending.drain_received && self.phase == Phase::Draining)
    }

    /// Whether a call of `on_writable` or `on_drain` is due.
    #[inline]
    pub(crate) fn has_due_call(&self) -> bool {
        self.output.writable_due || self.is_drain_call_due()
    }

    /// Whether the call of `on_drain` is due.
    pub(crate) fn is_drain_call_due(&self) -> bool {
        self.phase == Phase::Draining && self.ending.drain.is_none()
    }

    /// Whether callbacks other than `on_disconnect` are still called for the link.
    pub(crate) fn runs_callbacks(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Draining)
    }
}

/// A timeout in milliseconds, rounded up, so that a nonzero timeout stays nonzero.
pub(crate) fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

/// The addresses of a free slot.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// `due` of a link without a timer.
pub(crate) const NEVER: Time = Time(u64::MAX);

/// All slots of one shard.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    free: Vec<u32>,
    /// The slots that are not free, in no order.
    live: Vec<u32>,
    /// The settings with which each link begins.
    limit: u32,
    when_slow: WhenSlow,
    idle_ms: u32,
}

impl Slots {
    pub(crate) fn new(capacity: u32, settings: &Settings) -> Result<Self, MemoryError> {
        let what = "the table of links";
        Ok(Self {
            limit: settings.send_queue_bytes,
            when_slow: settings.when_slow,
            idle_ms: millis(settings.idle),
            slots: try_table(what, (0..capacity).map(|_| Slot::free()))?,
            free: try_table(what, (0..capacity).rev())?.into_vec(),
            live: try_with_capacity(what, capacity as usize)?,
        })
    }

    /// The slot that [`open`](Self::open) takes next, and its next generation, which wraps after
    /// 2^32 - 1 to 1.
    ///
    /// # Panics
    ///
    /// If no slot is free: the server reserves one for each connection (`Shared::reserve_slot`).
    pub(crate) fn next(&self) -> (u32, u32) {
        let Some(index) = self.free.last().copied() else {
            unreachable!("no slot is free, though one is reserved")
        };
        (index, self[index].generation.wrapping_add(1).max(1))
    }

    /// Opens a link in a free slot, in `phase`.
    ///
    /// # Panics
    ///
    /// If the slot is not free, or the drawing has no arrow from `Free` to `phase`.
    #[expect(clippy::cast_possible_truncation, reason = "there are at most 2^24 slots")]
    pub(crate) fn open(&mut self, phase: Phase, peer: SocketAddr, listener: u16, now: Time) -> u32 {
        let (index, generation) = self.next();
        self.free.pop();
        let live_position = self.live.len() as u32;
        let Self { limit, when_slow, idle_ms, .. } = *self;
        self.live.push(index);
        let slot = &mut self[index];
        let is_begin = matches!(phase, Phase::Header | Phase::Open);
        assert!(
            slot.phase == Phase::Free && is_begin,
            "a link opens in {:?} as {phase:?}",
            slot.phase
        );
        *slot = slot.empty();
        (slot.generation, slot.phase, slot.live_position) = (generation, phase, live_position);
        (slot.peer, slot.listener) = (peer, listener);
        (slot.time.active_at, slot.time.idle_ms) = (now, idle_ms);
        (slot.output.limit, slot.posts.when_slow) = (limit, when_slow);
        slot.posts.published_capacity = slot.post_capacity_max();
        index
    }

    /// Frees the slot of a link that is closed.
    ///
    /// # Panics
    ///
    /// If it is not, or waits for a flush.
    pub(crate) fn release(&mut self, index: u32) {
        let slot = &self[index];
        assert!(
            slot.phase == Phase::Closing && !slot.output.dirty,
            "{slot:?} is released too early"
        );
        let live_position = slot.live_position;
        self.live.swap_remove(live_position as usize);
        if let Some(moved) = self.live.get(live_position as usize).copied() {
            self[moved].live_position = live_position;
        }
        self[index] = self[index].empty();
        self.free.push(index);
    }

    /// The slot, if a link of this generation has it.
    pub(crate) fn find(&self, index: u32, generation: u32) -> Option<&Slot> {
        let slot = self.slots.get(index as usize)?;
        (slot.generation == generation && slot.phase != Phase::Free).then_some(slot)
    }

    /// The index of the `n`th live slot, `n` below [`live_count`](Self::live_count).
    pub(crate) fn live_index(&self, n: usize) -> u32 {
        self.live[n]
    }

    /// The list of free slots.
    #[cfg(feature = "sim")]
    pub(crate) fn free(&self) -> &[u32] {
        &self.free
    }

    pub(crate) fn live_count(&self) -> usize {
        self.live.len()
    }

    #[cfg(feature = "sim")]
    #[expect(clippy::cast_possible_truncation, reason = "there are at most 2^24 slots")]
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

    fn release(slots: &mut Slots, index: u32) {
        slots[index].enter(Phase::Closing);
        slots.release(index);
    }

    #[test]
    fn a_place_is_used_again_with_another_generation() {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut slots = Slots::new(2, &Settings::default()).unwrap();
        let first = slots.next();
        let [a, b] = [(); 2].map(|()| slots.open(Phase::Open, peer, 0, Time(1)));
        let old = slots[a].generation;
        assert_eq!(first, (a, old));
        release(&mut slots, a);
        assert!(slots.find(a, old).is_none());
        assert_eq!((slots.live_count(), slots.live_index(0)), (1, b));
        let again = slots.open(Phase::Open, peer, 0, Time(2));
        assert_eq!((again, slots.live_count()), (a, 2));
        assert!(slots.find(a, old).is_none());
        assert!(slots.find(a, slots[a].generation).is_some());
        release(&mut slots, b);
        assert_eq!(slots[again].live_position, 0);
    }

    #[test]
    fn what_stands_in_a_queue_stays_there_though_its_link_ends_and_the_place_is_used_again() {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut slots = Slots::new(1, &Settings::default()).unwrap();
        for at in 1..4 {
            let index = slots.open(Phase::Open, peer, 0, Time(at));
            assert_eq!(
                (slots[index].calls.awaits_turn, slots[index].posts.awaits_retry),
                (at > 1, at > 1)
            );
            (slots[index].calls.awaits_turn, slots[index].posts.awaits_retry) = (true, true);
            slots[index].posts.refused = true;
            release(&mut slots, index);
            assert!(!slots[index].posts.refused);
        }
    }

    #[test]
    fn phases_follow_the_drawing() {
        use Phase::{Closing, Draining, Flushing, Free, Header, Lingering, Open};
        let all = [Free, Header, Open, Draining, Flushing, Lingering, Closing];
        let arrows = |from: Phase| all.into_iter().filter(move |to| from.leads_to(*to));
        assert!(arrows(Header).eq([Open, Closing]));
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

    #[test]
    #[should_panic(expected = "opens in Free as Draining")]
    fn a_link_that_opens_in_a_later_phase_ends_the_worker() {
        Slots::new(1, &Settings::default()).unwrap().open(Phase::Draining, NOWHERE, 0, Time(0));
    }

    #[test]
    #[should_panic(expected = "is released too early")]
    fn a_slot_that_is_released_before_its_link_is_closed_ends_the_worker() {
        let mut slots = Slots::new(1, &Settings::default()).unwrap();
        let index = slots.open(Phase::Open, NOWHERE, 0, Time(0));
        slots.release(index);
    }
}
