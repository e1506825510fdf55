//! The monotonic clock of the back ends on real sockets.

use super::contract::Time;
use std::time::Instant;

/// The system's monotonic clock, with the creation of the port as its zero.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { start: now() }
    }

    pub(crate) fn now(&self) -> Time {
        Time::default().saturating_add(now().duration_since(self.start))
    }
}

#[expect(clippy::disallowed_methods, reason = "the only call for real time in this crate")]
fn now() -> Instant {
    Instant::now()
}
