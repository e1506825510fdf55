//! Posts and requests that a shard has not handled yet.

use crate::shared::marks::Mark;
use crate::vocabulary::id::LinkKey;
use crate::vocabulary::policy::WhenSlow;
use std::collections::VecDeque;
use wharf_port::memory::{MemoryError, Message, try_with_capacity};
use wharf_port::port::Time;

/// Requests and posts that wait.
pub(in crate::engine) struct Pending {
    /// Marks that wait until earlier packets of the inbox are handled: slot, generation, mark.
    pub(super) marked: Vec<(u32, u32, Mark)>,
    /// Turns since these marks were taken.
    pub(super) turns_to_marks: u32,
    /// A broadcast that is not in every inbox yet.
    pub(super) held: Option<Broadcast>,
    /// Links whose `try_post` failed with `Full`, and the time of their `on_writable`.
    pub(super) refused: VecDeque<u32>,
    pub(super) retry_at: Option<Time>,
}

/// A message for every link.
#[derive(Debug)]
pub(super) struct Broadcast {
    pub(super) message: Message,
    pub(super) except: Option<LinkKey>,
    pub(super) when_slow: Option<WhenSlow>,
    pub(super) number: u64,
}

impl Pending {
    /// For a shard with `slots` slots.
    pub(in crate::engine) fn new(slots: u32) -> Result<Self, MemoryError> {
        Ok(Self {
            marked: try_with_capacity("the requests to links", slots as usize)?,
            turns_to_marks: 0,
            held: None,
            refused: try_with_capacity("the links that post again", slots as usize)?.into(),
            retry_at: None,
        })
    }

    /// Whether marks wait.
    pub(in crate::engine) fn has_marks(&self) -> bool {
        !self.marked.is_empty()
    }

    /// When `on_writable` of the refused links is called.
    pub(in crate::engine) fn retry_at(&self) -> Option<Time> {
        self.retry_at
    }
}
