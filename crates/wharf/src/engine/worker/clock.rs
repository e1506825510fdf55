//! The links' clock. It follows the port's clock, without the shard's own delays: long callbacks, and
//! pauses of the process.

use std::time::Duration;
use wharf_port::port::Time;

/// A wait that took 100 ms longer than its timeout was a pause of the process.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// What the links' clock counts at most of a turn, or of a pause: 100 ms, or a quarter of the shortest
/// timeout, so that no link ends by the server's own delay.
pub(super) fn lag_max(timeouts: &[Duration]) -> Duration {
    let shortest = timeouts.iter().filter(|timeout| !timeout.is_zero()).min();
    shortest.map_or(PAUSE_MIN, |shortest| PAUSE_MIN.min(*shortest / 4))
}

/// What of a wait's timeout the links' clock does not count if the wait ended in a pause of the
/// process: how much of the wait was before the pause is unknown, and the process' other threads were
/// paused as well, so what they owe has that time.
const GRACE: Duration = Duration::from_secs(1);

/// The state of the links' clock since the last dequeue.
pub(in crate::engine) struct Clock {
    /// When the dequeue returned, by the port's clock.
    turn_start: Time,
    /// The rest of the timeout when the dequeue returned without completions; `None`: it had none.
    unused_wait: Option<Duration>,
    /// The dequeue returned fewer completions than its maximum, so none are left.
    is_short: bool,
    /// Number of consecutive dequeues that did not wait and returned nothing, without other work. After
    /// the second one all is handled: one alone may be of a port that has not looked at its sockets.
    empty_looks: u32,
    /// Turns since something became due, or since a pause of the process.
    due_turns: usize,
    /// Turns after which all that waited is handled.
    turns_to_collect: usize,
    lag_max: Duration,
}

/// The data of a dequeue that has returned.
pub(super) struct Dequeued {
    pub(super) began: Time,
    pub(super) asked: Option<Duration>,
    pub(super) turn_start: Time,
    pub(super) is_empty: bool,
    pub(super) is_short: bool,
    /// A timeout was due when it began.
    pub(super) is_due: bool,
    /// Number of live links.
    pub(super) links: usize,
}

/// The time of a dequeue.
pub(super) struct Waited {
    /// What the links' clock counts of it.
    pub(super) counted: Duration,
    /// What exceeds the timeout, if the process was paused.
    pub(super) paused: Duration,
}

impl Clock {
    /// `lag_max`: see [`lag_max`].
    pub(super) fn new(now: Time, lag_max: Duration) -> Self {
        Self {
            turn_start: now,
            unused_wait: Some(Duration::ZERO),
            is_short: true,
            empty_looks: 0,
            due_turns: 0,
            turns_to_collect: 0,
            lag_max,
        }
    }

    /// When the last dequeue returned, by the port's clock.
    pub(in crate::engine) fn turn_start(&self) -> Time {
        self.turn_start
    }

    pub(super) fn is_short(&self) -> bool {
        self.is_short
    }

    /// Whether what is due may close links now. Not while completions may be left that a long callback
    /// or a pause of the process has delayed; but again after so many turns that each link's is handled.
    pub(in crate::engine) fn may_time_out(&self) -> bool {
        self.empty_looks > 1 || self.due_turns > self.turns_to_collect
    }

    /// The links' time since the last dequeue, at `now`.
    pub(in crate::engine) fn passed(&self, now: Time) -> Duration {
        let passed = now.duration_since(self.turn_start);
        self.unused_wait.map_or(passed, |unused_wait| passed.min(unused_wait + self.lag_max))
    }

    /// The turn has work without a completion, whose time counts as that of a callback.
    pub(super) fn note_work(&mut self) {
        (self.unused_wait, self.empty_looks) = (Some(Duration::ZERO), 0);
    }

    /// Notes a dequeue.
    pub(super) fn dequeued(&mut self, dequeued: &Dequeued) -> Waited {
        let Dequeued { began, asked, turn_start, is_empty, is_short, is_due, links } = *dequeued;
        let waited = turn_start.duration_since(began);
        (self.turn_start, self.is_short) = (turn_start, is_short);
        self.unused_wait = if is_empty {
            asked.map(|asked| asked.saturating_sub(waited))
        } else {
            Some(Duration::ZERO)
        };
        let pause = asked.filter(|asked| waited > *asked + PAUSE_MIN);
        let counted =
            pause.map_or(waited, |asked| asked.min(self.lag_max).max(asked.saturating_sub(GRACE)));
        // A wait that returned empty may have been ended by a signal, a wake-up or a pause, and then
        // has not collected what waits: timeouts that are due make the next turn look without waiting.
        let is_look = is_empty && asked == Some(Duration::ZERO) && pause.is_none();
        self.empty_looks = if is_look { self.empty_looks + 1 } else { 0 };
        // Not counted anew after each long turn, or in a shard of which each turn is long no link would
        // time out.
        self.due_turns = if is_due && pause.is_none() { self.due_turns + 1 } else { 0 };
        self.turns_to_collect = turns_to_collect(links);
        Waited { counted, paused: pause.map_or(Duration::ZERO, |asked| waited - asked) }
    }
}

/// Turns after which the completions of so many links are dequeued. Linux may hand over as few as 20 of
/// those that wait in one system call (io_uring with deferred task work), and a simulated port one.
fn turns_to_collect(links: usize) -> usize {
    links.min(64) + links / 16 + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dequeue that did not wait and returned `completions`, for 200 links.
    fn look(clock: &mut Clock, is_due: bool, completions: usize) -> bool {
        let now = clock.turn_start().saturating_add(Duration::from_micros(10));
        clock.dequeued(&Dequeued {
            began: now,
            asked: Some(Duration::ZERO),
            turn_start: now,
            is_empty: completions == 0,
            is_short: true,
            is_due,
            links: 200,
        });
        clock.may_time_out()
    }

    #[test]
    fn a_short_look_lets_nothing_time_out_before_two_empty_ones() {
        let mut clock = Clock::new(Time(0), PAUSE_MIN);
        assert!((0..10).all(|_| !look(&mut clock, true, 20)));
        assert!(!look(&mut clock, true, 0));
        assert!(!look(&mut clock, true, 1));
        assert!(!look(&mut clock, true, 0));
        assert!(look(&mut clock, true, 0));
        clock.note_work();
        assert!(!clock.may_time_out(), "what is left for the next turn is not handled");
    }

    #[test]
    fn a_wait_that_ends_late_counts_but_for_a_grace_and_extends_a_drain_by_what_exceeds_it() {
        let wait = |asked_ms, took_ms| {
            let asked = Some(Duration::from_millis(asked_ms));
            let turn_start = Time(0).saturating_add(Duration::from_millis(took_ms));
            let began = Time(0);
            let (is_empty, is_short, is_due, links) = (true, true, false, 1);
            let dequeued = Dequeued { began, asked, turn_start, is_empty, is_short, is_due, links };
            let Waited { counted, paused } = Clock::new(began, PAUSE_MIN).dequeued(&dequeued);
            (counted.as_millis(), paused.as_millis())
        };
        assert_eq!(wait(9_900, 9_990), (9_990, 0), "not late");
        assert_eq!(wait(9_900, 10_010), (8_900, 110));
        assert_eq!(wait(60_000, 3_600_000), (59_000, 3_540_000));
        assert_eq!(wait(400, 1_500), (100, 1_100));
        assert_eq!(wait(50, 1_500), (50, 1_450));
    }

    #[test]
    fn without_an_empty_look_timeouts_come_after_turns_that_suffice_for_all_links() {
        let mut clock = Clock::new(Time(0), PAUSE_MIN);
        assert!((0..1_000).all(|_| !look(&mut clock, false, 20)), "nothing was due");
        let turns = (1..).find(|_| look(&mut clock, true, 20)).unwrap();
        assert_eq!(turns, turns_to_collect(200) + 1);
        assert!(!look(&mut clock, false, 20));
    }
}
