//! What a link has carried.

/// What a link has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes handed to the system to be sent.
    pub sent_bytes: u64,
    /// Posts that were skipped because the link had no capacity for them.
    pub missed: u64,
}
