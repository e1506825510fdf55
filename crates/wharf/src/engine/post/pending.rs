//! What a shard has heard from other threads and not done yet.

use crate::shared::marks::Mark;
use crate::vocabulary::id::LinkKey;
use crate::vocabulary::policy::WhenSlow;
use std::collections::VecDeque;
use wharf_port::memory::Message;
use wharf_port::port::Time;

/// Requests and posts that wait for their time.
pub(in crate::engine) struct Pending {
    /// What other threads have asked of links, until all that they posted before is delivered.
    pub(super) marked: Vec<(u32, u32, Mark)>,
    /// Turns since the first of that was seen.
    pub(super) turns_to_marks: u32,
    /// A broadcast that is not in every inbox yet.
    pub(super) held: Option<Broadcast>,
    /// Links of which a post to others was refused, and when they are told that they can try again.
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
    /// For a shard of so many places.
    pub(in crate::engine) fn new(places: u32) -> Self {
        Self {
            marked: Vec::with_capacity(places as usize),
            turns_to_marks: 0,
            held: None,
            refused: VecDeque::with_capacity(places as usize),
            retry_at: None,
        }
    }

    /// Whether marks were collected that are not obeyed yet.
    pub(in crate::engine) fn has_marks(&self) -> bool {
        !self.marked.is_empty()
    }

    /// When refused posts are tried again.
    pub(in crate::engine) fn retry_at(&self) -> Option<Time> {
        self.retry_at
    }
}
