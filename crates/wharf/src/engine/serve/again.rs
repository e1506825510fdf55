//! The links that used up their calls of a turn.

use std::collections::VecDeque;
use wharf_port::memory::{MemoryError, try_with_capacity};

/// Links with which the next turn continues, in this order.
pub(in crate::engine) struct Again {
    pub(super) links: VecDeque<u32>,
}

impl Again {
    /// For a shard with `slots` slots.
    pub(in crate::engine) fn new(slots: u32) -> Result<Self, MemoryError> {
        Ok(Self { links: try_with_capacity("the links to serve", slots as usize)?.into() })
    }

    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }
}
