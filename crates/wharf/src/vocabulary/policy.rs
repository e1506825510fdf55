//! Policies for links and tables that are full.

/// What the server does with a post that exceeds the capacity of a link. It never sends a part of a
/// post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenSlow {
    /// The link misses the post, counted in [`Totals::missed`](crate::Totals::missed).
    Skip,
    /// The link is closed as a slow reader.
    Disconnect,
}

/// What the server does with connections while all links are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// It stops accepting until a link ends; connections wait in the backlog of listen(2), and a few
    /// accepted ones in the server.
    Wait,
    /// It accepts and closes them.
    Refuse,
}
