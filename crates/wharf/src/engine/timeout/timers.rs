//! The timers of a shard's links.

use crate::engine::close::limits::FLUSH_MAX;
use crate::limits::Settings;
use crate::link::slot::Slots;
use crate::link::wheel::Wheel;
use std::time::Duration;
use wharf_port::port::Time;

/// The timer wheel, and the interval of the checks of an open link's progress.
pub(in crate::engine) struct Timers {
    pub(super) wheel: Wheel,
    /// In nanoseconds; `None` without a stall timeout.
    pub(super) progress_interval_ns: Option<u64>,
}

/// Checks of a link's progress in one stall timeout. Progress is that the acknowledged bytes have
/// changed since the last check, so a peer that takes nothing is closed after 1 to 1 ⅛ of the timeout.
pub(in crate::engine) const CHECKS_PER_STALL: u32 = 8;

/// The shortest timeout that can be set, from which the timer wheel derives its tick.
fn timeout_scale(settings: &Settings) -> Duration {
    let spans = [settings.idle, settings.stall, settings.answer, FLUSH_MAX];
    spans.into_iter().filter(|span| !span.is_zero()).min().unwrap_or(FLUSH_MAX)
}

impl Timers {
    pub(in crate::engine) fn new(settings: &Settings, now: Time) -> Self {
        let every = settings.stall / CHECKS_PER_STALL;
        let every_ns = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX >> 2);
        Self {
            wheel: Wheel::new(timeout_scale(settings), now),
            progress_interval_ns: (!every.is_zero()).then_some(every_ns),
        }
    }

    /// Time until the next timer expires; `None` if none is scheduled.
    pub(in crate::engine) fn time_to_next(&mut self, now: Time) -> Option<Duration> {
        self.wheel.time_to_next(now)
    }

    /// Cancels the link's timer.
    pub(in crate::engine) fn cancel(&mut self, slots: &mut Slots, index: u32) {
        self.wheel.cancel(slots, index);
    }
}
