//! The links' clock. It follows the port's clock, without the shard's own delays: long callbacks, and
//! pauses of the process.

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
    /// After so many consecutive full turns each link's completion has been dequeued.
    pub(super) full_turns_max: usize,
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

    /// Whether timeouts may close links now. Not while completions are left, which a long callback or a
    /// pause of the process may have delayed; but again after `full_turns_max` full turns.
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
        let Dequeued { began, asked, turn_start, is_empty, is_short, full_turns_max } = *dequeued;
        let waited = turn_start.duration_since(began);
        (self.turn_start, self.is_short) = (turn_start, is_short);
        self.unused_wait = if is_empty {
            asked.map(|asked| asked.saturating_sub(waited))
        } else {
            Some(Duration::ZERO)
        };
        self.full_turns = if is_short { 0 } else { self.full_turns + 1 };
        let has_heard_all = self.full_turns as usize > full_turns_max;
        // A wait far beyond its timeout was a pause of the process. How much of it was before the pause
        // is unknown.
        let pause = asked.filter(|asked| waited > *asked + LAG_MAX);
        let counted = pause.map_or(waited, |asked| asked.min(LAG_MAX));
        // A wait that returned empty may have been ended by a signal, a wake-up or a pause, and then
        // has not collected what waits: timeouts that are due make the next turn look without waiting.
        let has_collected = is_short && (!is_empty || asked == Some(Duration::ZERO));
        self.may_time_out = (has_collected && pause.is_none()) || has_heard_all;
        Waited { counted, paused: if pause.is_some() { waited - counted } else { Duration::ZERO } }
    }
}
