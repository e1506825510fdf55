//! The state of a shard's drain.

use std::time::Duration;
use wharf_port::port::Time;

/// The drain of a shard.
#[derive(Default)]
pub(in crate::engine) struct Drain {
    /// The drain timeout's end; `None` until the shard has seen the stop.
    pub(super) until: Option<Time>,
    /// Whether the links have begun to drain: posts from before the stop are handled.
    pub(super) has_begun: bool,
    /// Turns since the shard saw the stop.
    pub(super) turns: u32,
}

impl Drain {
    /// Whether the shard has seen the stop.
    #[inline]
    pub(in crate::engine) fn is_due(&self) -> bool {
        self.until.is_some()
    }

    /// Whether the drain timeout is over.
    #[inline]
    pub(in crate::engine) fn is_over(&self, now: Time) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Extends the timeout by a pause of the process.
    pub(in crate::engine) fn extend(&mut self, pause: Duration) {
        self.until = self.until.map(|until| until.saturating_add(pause));
    }

    /// When the shard force-closes its links.
    #[inline]
    pub(in crate::engine) fn until(&self) -> Option<Time> {
        self.until
    }
}
