//! The links' clock. It follows the port's clock, without the shard's own delays: long callbacks, and
//! pauses of the process.

use crate::engine::worker::BATCH;
use std::time::Duration;
use wharf_port::port::Time;

/// The links' clock counts at most 100 ms of a turn, and of a wait that took 100 ms longer than its
/// timeout.
const LAG_MAX: Duration = Duration::from_millis(100);

/// The state of the links' clock since the last dequeue.
pub(in crate::engine) struct Clock {
    /// When the dequeue returned, by the port's clock.
    turn_start: Time,
    /// The rest of the timeout when the dequeue returned without completions; `None`: it had none.
    unused_wait: Option<Duration>,
    /// The dequeue returned fewer completions than its maximum, so none are left.
    is_short: bool,
    /// Number of consecutive full dequeues.
    full_turns: u32,
    /// Turns since a delay of the shard, a pause or a long callback, until all that waits is dequeued.
    delayed_turns: Option<usize>,
    /// Number of consecutive dequeues that did not wait and returned nothing. After the second one all
    /// is dequeued: one alone may be of a port that has not looked at its sockets.
    empty_looks: u32,
    /// All completions that were there have been dequeued.
    may_time_out: bool,
}

/// The data of a dequeue that has returned.
pub(super) struct Dequeued {
    pub(super) began: Time,
    pub(super) asked: Option<Duration>,
    pub(super) turn_start: Time,
    pub(super) is_empty: bool,
    pub(super) is_short: bool,
    /// Number of live links.
    pub(super) links: usize,
}

/// The time of a dequeue.
pub(super) struct Waited {
    /// What the links' clock counts of it.
    pub(super) counted: Duration,
    /// The rest, if the process was paused.
    pub(super) paused: Duration,
}

impl Clock {
    pub(super) fn new(now: Time) -> Self {
        Self {
            turn_start: now,
            unused_wait: Some(Duration::ZERO),
            is_short: true,
            full_turns: 0,
            delayed_turns: None,
            empty_looks: 0,
            may_time_out: true,
        }
    }

    /// When the last dequeue returned, by the port's clock.
    pub(super) fn turn_start(&self) -> Time {
        self.turn_start
    }

    pub(super) fn is_short(&self) -> bool {
        self.is_short
    }

    /// Whether timeouts may close links now. Not while completions may be left that a long callback or a
    /// pause of the process has delayed; but again after so many turns that each link's is dequeued.
    pub(in crate::engine) fn may_time_out(&self) -> bool {
        self.may_time_out
    }

    /// The links' time since the last dequeue, at `now`.
    pub(super) fn passed(&self, now: Time) -> Duration {
        let passed = now.duration_since(self.turn_start);
        self.unused_wait.map_or(passed, |unused_wait| passed.min(unused_wait + LAG_MAX))
    }

    /// The turn has work without a completion, whose time counts as that of a callback.
    pub(super) fn note_work(&mut self) {
        self.unused_wait = Some(Duration::ZERO);
    }

    /// Notes a dequeue.
    pub(super) fn dequeued(&mut self, dequeued: &Dequeued) -> Waited {
        let Dequeued { began, asked, turn_start, is_empty, is_short, links } = *dequeued;
        let waited = turn_start.duration_since(began);
        let since_last = began.duration_since(self.turn_start);
        let is_delayed = since_last > self.passed(began);
        (self.turn_start, self.is_short) = (turn_start, is_short);
        self.unused_wait = if is_empty {
            asked.map(|asked| asked.saturating_sub(waited))
        } else {
            Some(Duration::ZERO)
        };
        self.full_turns = if is_short { 0 } else { self.full_turns + 1 };
        // A wait far beyond its timeout was a pause of the process. How much of it was before the pause
        // is unknown.
        let pause = asked.filter(|asked| waited > *asked + LAG_MAX);
        let counted = pause.map_or(waited, |asked| asked.min(LAG_MAX));
        // A wait that returned empty may have been ended by a signal, a wake-up or a pause, and then
        // has not collected what waits: timeouts that are due make the next turn look without waiting.
        let has_looked = asked == Some(Duration::ZERO);
        self.empty_looks = if is_empty && has_looked { self.empty_looks + 1 } else { 0 };
        // Not counted anew after each long turn, or in a shard of which each turn is long no link would
        // time out.
        self.delayed_turns = match self.delayed_turns {
            _ if pause.is_some() => Some(0),
            None => is_delayed.then_some(0),
            Some(_) if self.empty_looks > 1 => None,
            Some(turns) => Some(turns + 1).filter(|turns| *turns <= turns_to_collect(links)),
        };
        let has_collected = is_short && (!is_empty || has_looked) && self.delayed_turns.is_none();
        let has_heard_all = self.full_turns as usize > 2 * links / BATCH + 2;
        self.may_time_out = has_collected || has_heard_all;
        Waited { counted, paused: if pause.is_some() { waited - counted } else { Duration::ZERO } }
    }
}

/// Turns after which the completions of so many links are dequeued. Linux may hand over as few as 20 of
/// those that wait in one system call (io_uring with deferred task work), and a simulated port one.
fn turns_to_collect(links: usize) -> usize {
    links.min(64) + links / 16 + 2
}
