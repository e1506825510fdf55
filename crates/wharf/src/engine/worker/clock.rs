//! The links' clock. It runs with the port's, but leaves out what no link is to blame for: callbacks
//! that take long, and pauses of the process.

use std::time::Duration;
use wharf_port::port::Time;

/// A turn that takes longer, or a wait that lasts longer than it was asked to, has been held up.
const LAG_MAX: Duration = Duration::from_millis(100);

/// What a shard knows of its last dequeue.
pub(in crate::engine) struct Clock {
    /// When it came back, by the port's clock.
    woke: Time,
    /// What was left of the wait when it came back with nothing; `None`: it had no end.
    unslept: Option<Duration>,
    /// It came back with less than one turn takes: there was no more.
    is_short: bool,
    /// Full dequeues in a row.
    full_turns: u32,
    /// What there was to hear of links has been heard.
    may_time_out: bool,
}

/// A dequeue that has come back.
pub(super) struct Dequeued {
    pub(super) began: Time,
    pub(super) asked: Option<Duration>,
    pub(super) woke: Time,
    pub(super) is_empty: bool,
    pub(super) is_short: bool,
    /// After so many full turns in a row each link has had its own.
    pub(super) full_turns_max: usize,
}

impl Clock {
    pub(super) fn new(now: Time) -> Self {
        Self {
            woke: now,
            unslept: Some(Duration::ZERO),
            is_short: true,
            full_turns: 0,
            may_time_out: true,
        }
    }

    /// When the last dequeue came back, by the port's clock.
    pub(super) fn woke(&self) -> Time {
        self.woke
    }

    pub(super) fn is_short(&self) -> bool {
        self.is_short
    }

    /// Whether time-outs may end links now: not while more is to be heard of them, because a
    /// callback or a pause of the process may have held it up. Nor for ever: after so many full
    /// turns each link has had its own.
    pub(in crate::engine) fn may_time_out(&self) -> bool {
        self.may_time_out
    }

    /// How far the links' clock has come since the last dequeue, at `now`.
    pub(super) fn passed(&self, now: Time) -> Duration {
        let passed = now.since(self.woke);
        self.unslept.map_or(passed, |unslept| passed.min(unslept + LAG_MAX))
    }

    /// The turn does something of its own, which takes its time, as a callback of a completion does.
    pub(super) fn note_work(&mut self) {
        self.unslept = Some(Duration::ZERO);
    }

    /// The port has waited: for as long as it was asked to, or longer if the process was held up. How
    /// much of it the links' clock counts.
    pub(super) fn dequeued(&mut self, dequeued: &Dequeued) -> Duration {
        let Dequeued { began, asked, woke, is_empty, is_short, full_turns_max } = *dequeued;
        let waited = woke.since(began);
        (self.woke, self.is_short) = (woke, is_short);
        // One that came back early with nothing has not looked: a signal, or a wake-up, ended it. It
        // goes on waiting in the next turn.
        let came_early = is_empty && asked.is_none_or(|asked| waited < asked);
        self.unslept = if is_empty {
            asked.map(|asked| asked.saturating_sub(waited))
        } else {
            Some(Duration::ZERO)
        };
        self.full_turns = if is_short { 0 } else { self.full_turns + 1 };
        let has_heard_all = self.full_turns as usize > full_turns_max;
        self.may_time_out = (is_short && !came_early) || has_heard_all;
        asked.map_or(waited, |asked| waited.min(asked + LAG_MAX))
    }
}
