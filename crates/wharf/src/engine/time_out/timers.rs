//! The timers of a shard's links.

use crate::limits::Settings;
use crate::link::slot::Slots;
use crate::link::wheel::Wheel;
use std::time::Duration;
use wharf_port::port::Time;

/// The timer wheel, and how often it has an open link's progress looked at.
pub(in crate::engine) struct Timers {
    pub(super) wheel: Wheel,
    /// In nanoseconds; `None` if it never is.
    pub(super) look_every_ns: Option<u64>,
}

/// Progress is what is acknowledged between two looks. One is taken each time that this part of the
/// time-out has passed, so who takes nothing is cut after 1 ⅛ of it at most, and nobody before.
pub(in crate::engine) const LOOKS: u32 = 8;

impl Timers {
    pub(in crate::engine) fn new(settings: &Settings, scale: Duration, now: Time) -> Self {
        let every = settings.stall / LOOKS;
        let every_ns = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX >> 2);
        Self {
            wheel: Wheel::new(scale, now),
            look_every_ns: (!every.is_zero()).then_some(every_ns),
        }
    }

    /// How long until the next one is due; `None` if there is none.
    pub(in crate::engine) fn wait(&mut self, now: Time) -> Option<Duration> {
        self.wheel.wait(now)
    }

    /// The link has none any more.
    pub(in crate::engine) fn clear(&mut self, slots: &mut Slots, index: u32) {
        self.wheel.clear(slots, index);
    }
}
