//! The state of the checks of loans.

use crate::shares::Borrower;
use wharf_port::memory::{MemoryError, try_with_capacity};
use wharf_port::port::Time;

/// The state of a shard's checks of loans.
pub(in crate::engine) struct Lending {
    /// Memory for the list of links that hold loans without progress.
    pub(super) borrowers: Vec<Borrower>,
    /// When loans are checked next, while a link waits for one.
    pub(super) due: Option<Time>,
    /// Receives are being cancelled because loans have become tight.
    pub(super) stops_receives: bool,
    /// The count of refused posts at the last check, and the earliest time of the next.
    pub(super) posts_refused: u64,
    pub(super) posts_due: Time,
}

impl Lending {
    /// For a shard with `slots` slots.
    pub(in crate::engine) fn new(slots: u32) -> Result<Self, MemoryError> {
        Ok(Self {
            borrowers: try_with_capacity("the links with loans", slots as usize)?,
            due: None,
            stops_receives: false,
            posts_refused: 0,
            posts_due: Time::default(),
        })
    }

    /// When loans are checked next, while a link waits for one.
    pub(in crate::engine) fn due(&self) -> Option<Time> {
        self.due
    }
}
