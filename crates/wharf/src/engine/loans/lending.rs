//! When loans are looked at, and what of that goes on from turn to turn.

use crate::shares::Borrower;
use wharf_port::port::Time;

/// What a shard notes of its loans.
pub(in crate::engine) struct Lending {
    /// Room to list those that hold loans.
    pub(super) borrowers: Vec<Borrower>,
    /// When loans are looked at next, while somebody waits for one.
    pub(super) due: Option<Time>,
    /// Receives are being cancelled because loans have become tight.
    pub(super) stops_receives: bool,
    /// Refused posts that the shard has looked at, and when it does so again.
    pub(super) posts_refused: u64,
    pub(super) posts_due: Time,
}

impl Lending {
    /// For a shard of so many places.
    pub(in crate::engine) fn new(places: u32) -> Self {
        Self {
            borrowers: Vec::with_capacity(places as usize),
            due: None,
            stops_receives: false,
            posts_refused: 0,
            posts_due: Time::default(),
        }
    }

    /// When loans are looked at next, while somebody waits for one.
    pub(in crate::engine) fn due(&self) -> Option<Time> {
        self.due
    }
}
