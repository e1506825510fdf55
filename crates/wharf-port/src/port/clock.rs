//! Real time, for the back ends that talk to a system; the simulated port has a clock of its own.

use super::contract::Time;
use std::time::Instant;

/// The system's monotonic clock, counted from when the port was made.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { start: now() }
    }

    pub(crate) fn now(&self) -> Time {
        Time::default().after(now().duration_since(self.start))
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where real time comes in")]
fn now() -> Instant {
    Instant::now()
}
