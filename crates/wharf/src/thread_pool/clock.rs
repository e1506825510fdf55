//! The clock of a pool.

use std::time::{Duration, Instant};

/// The system's monotonic clock, with the start of the pool as its zero.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { start: now() }
    }

    pub(super) fn now_ns(&self) -> u64 {
        nanos(now().duration_since(self.start))
    }
}

/// Nanoseconds, up to 584 years.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "the only call for real time in the thread pool")]
fn now() -> Instant {
    Instant::now()
}
