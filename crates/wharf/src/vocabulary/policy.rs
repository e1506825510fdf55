//! What happens where something is full.

/// What happens to a post that finds no capacity on a link. Always to a whole message, never to one
/// that has begun to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenSlow {
    /// It is skipped, and counted in [`Totals::missed`](crate::Totals::missed).
    Skip,
    /// The link is closed as a slow reader.
    Disconnect,
}

/// What to do with connections while the table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// Leave them in the system's backlog until there is room.
    Wait,
    /// Accept them and close them at once.
    Refuse,
}
