//! The timer wheel: finds the links whose timeout may have expired, without a scan of all links.
//!
//! A link is in the bucket of the tick of its earliest expiry. A receive only stores the time. When the
//! tick of a bucket has come, the engine checks each of its links and reschedules those that were
//! active, so that the cost is one check for each link and timeout, independent of the traffic. (Hashed
//! timing wheels: G. Varghese and T. Lauck, 1987, scheme 6.)

use crate::link::slot::{NEVER, Slots};
use std::time::Duration;
use wharf_port::port::Time;

/// Number of buckets. A link whose deadline is further away than a revolution of 256 ticks expires once
/// per revolution.
const BUCKETS: u32 = 256;
const NONE: u32 = u32::MAX;

/// A link's bucket and its neighbours in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimerNode {
    bucket: u32,
    next: u32,
    previous: u32,
}

impl Default for TimerNode {
    fn default() -> Self {
        Self { bucket: NONE, next: NONE, previous: NONE }
    }
}

#[cfg(feature = "sim")]
impl TimerNode {
    /// Whether the link is in the wheel.
    pub(crate) fn is_scheduled(&self) -> bool {
        self.bucket != NONE
    }
}

/// The wheel of one shard.
#[derive(Debug)]
pub(crate) struct Wheel {
    heads: [u32; BUCKETS as usize],
    tick: Duration,
    /// The tick of the next bucket to check.
    current: u64,
    /// All buckets before this tick's are empty.
    earliest: u64,
    /// Number of scheduled links.
    count: u32,
}

impl Wheel {
    /// A wheel whose tick is a hundredth of `timeout`, clamped to 1 ms to 1 s. A link expires at its
    /// deadline or up to two ticks later, never before, unless its deadline is further away than a
    /// revolution.
    pub(crate) fn new(timeout: Duration, now: Time) -> Self {
        let tick = (timeout / 100).clamp(Duration::from_millis(1), Duration::from_secs(1));
        let mut wheel =
            Self { heads: [NONE; BUCKETS as usize], tick, current: 0, earliest: 0, count: 0 };
        wheel.current = wheel.tick_of(now);
        wheel
    }

    /// Schedules the link for `deadline`, in place of an earlier one.
    pub(crate) fn schedule(&mut self, slots: &mut Slots, index: u32, deadline: Time) {
        self.cancel(slots, index);
        slots[index].time.due = deadline;
        // The tick after the deadline: when it has begun, the deadline has passed.
        let due = (self.tick_of(deadline) + 1).max(self.current);
        let due = due.min(self.current + u64::from(BUCKETS) - 1);
        let bucket = bucket_of(due);
        let head = self.heads[bucket as usize];
        slots[index].time.timer = TimerNode { bucket, next: head, previous: NONE };
        if head != NONE {
            slots[head].time.timer.previous = index;
        }
        self.heads[bucket as usize] = index;
        self.earliest = if self.count == 0 { due } else { self.earliest.min(due) };
        self.count += 1;
    }

    /// Removes the link from the wheel, if it is scheduled.
    pub(crate) fn cancel(&mut self, slots: &mut Slots, index: u32) {
        let TimerNode { bucket, next, previous } = slots[index].time.timer;
        if bucket == NONE {
            return;
        }
        if previous == NONE {
            self.heads[bucket as usize] = next;
        } else {
            slots[previous].time.timer.next = next;
        }
        if next != NONE {
            slots[next].time.timer.previous = previous;
        }
        slots[index].time.timer = TimerNode::default();
        slots[index].time.due = NEVER;
        self.count -= 1;
    }

    /// Removes and returns a link whose bucket's tick has come; `None` if there is none.
    pub(crate) fn pop_expired(&mut self, slots: &mut Slots, now: Time) -> Option<u32> {
        let now = self.tick_of(now);
        if now.saturating_sub(self.current) > u64::from(BUCKETS) {
            // Time has jumped by more than a revolution: one revolution checks all buckets.
            self.current = now - u64::from(BUCKETS);
        }
        while self.current <= now {
            let head = self.heads[bucket_of(self.current) as usize];
            if head != NONE {
                self.cancel(slots, head);
                return Some(head);
            }
            if self.current == now {
                return None;
            }
            self.current += 1;
        }
        None
    }

    /// Time until the tick of the next bucket with links; `None` if no link is scheduled.
    pub(crate) fn time_to_next(&mut self, now: Time) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let from = self.current.max(self.earliest);
        let due = (from..self.current + u64::from(BUCKETS))
            .find(|tick| self.heads[bucket_of(*tick) as usize] != NONE)?;
        self.earliest = due;
        let tick_ns = u64::try_from(self.tick.as_nanos()).unwrap_or(u64::MAX);
        Some(Time(due.saturating_mul(tick_ns)).duration_since(now))
    }

    fn tick_of(&self, time: Time) -> u64 {
        time.0 / u64::try_from(self.tick.as_nanos()).unwrap_or(u64::MAX).max(1)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is below 256")]
fn bucket_of(tick: u64) -> u32 {
    (tick % u64::from(BUCKETS)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::slot::Phase;
    use std::net::SocketAddr;

    const MS: u64 = 1_000_000;

    fn slots(count: u32) -> Slots {
        let mut slots = Slots::new(count, &crate::limits::Settings::default()).unwrap();
        for _ in 0..count {
            slots.open(Phase::Open, SocketAddr::from(([127, 0, 0, 1], 1)), 0, Time(0));
        }
        slots
    }

    fn due(wheel: &mut Wheel, slots: &mut Slots, now: u64) -> Vec<u32> {
        let mut due: Vec<_> =
            std::iter::from_fn(|| wheel.pop_expired(slots, Time(now * MS))).collect();
        due.sort_unstable();
        due
    }

    #[test]
    fn a_link_is_due_after_its_deadline_and_at_most_two_ticks_late() {
        let mut slots = slots(3);
        let mut wheel = Wheel::new(Duration::from_millis(1000), Time(0));
        wheel.schedule(&mut slots, 0, Time(100 * MS));
        wheel.schedule(&mut slots, 1, Time(105 * MS));
        wheel.schedule(&mut slots, 2, Time(1500 * MS));
        assert_eq!(wheel.time_to_next(Time(0)), Some(Duration::from_millis(110)));
        assert_eq!(due(&mut wheel, &mut slots, 105), []);
        assert_eq!(due(&mut wheel, &mut slots, 120), [0, 1]);
        assert_eq!(due(&mut wheel, &mut slots, 1500), []);
        assert_eq!(due(&mut wheel, &mut slots, 1515), [2]);
        assert_eq!(wheel.time_to_next(Time(0)), None);
    }

    #[test]
    fn a_link_can_be_taken_down_and_moved() {
        let mut slots = slots(3);
        let mut wheel = Wheel::new(Duration::from_millis(1000), Time(0));
        (0..3).for_each(|i| wheel.schedule(&mut slots, i, Time(50 * MS)));
        wheel.cancel(&mut slots, 1);
        wheel.schedule(&mut slots, 2, Time(500 * MS));
        assert_eq!(due(&mut wheel, &mut slots, 70), [0]);
        assert_eq!(due(&mut wheel, &mut slots, 520), [2]);
    }

    #[test]
    fn a_jump_of_the_clock_finds_every_link_once() {
        let mut slots = slots(3);
        let mut wheel = Wheel::new(Duration::from_millis(1000), Time(0));
        (0..3).for_each(|i| wheel.schedule(&mut slots, i, Time(u64::from(i) * 900 * MS)));
        assert_eq!(due(&mut wheel, &mut slots, 3_600_000), [0, 1, 2]);
    }
}
