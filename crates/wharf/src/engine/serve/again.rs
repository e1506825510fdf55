//! The links that used up their calls of a turn.

use std::collections::VecDeque;

/// Links with which the next turn continues, in this order.
pub(in crate::engine) struct Again {
    pub(super) links: VecDeque<u32>,
}

impl Again {
    /// For a shard with `slots` slots.
    pub(in crate::engine) fn new(slots: u32) -> Self {
        Self { links: VecDeque::with_capacity(slots as usize) }
    }

    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }
}
