//! How far a shard has come with the stop of its server.

use wharf_port::port::Time;

/// The drain of a shard.
#[derive(Default)]
pub(in crate::engine) struct Drain {
    /// When it ends by force; `None` until the shard has seen that the server stops.
    pub(super) until: Option<Time>,
    /// Links have begun to drain: what was posted before the stop has been handed out.
    pub(super) has_begun: bool,
    /// Turns from the one that saw the stop to the one that drains.
    pub(super) turns: u32,
}

impl Drain {
    /// Whether the shard has seen that the server stops.
    #[inline]
    pub(in crate::engine) fn is_due(&self) -> bool {
        self.until.is_some()
    }

    /// When it ends by force.
    #[inline]
    pub(in crate::engine) fn until(&self) -> Option<Time> {
        self.until
    }
}
