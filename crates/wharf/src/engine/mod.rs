//! The engine: handles the completions of a shard's port. It uses the port's contract and no back end.

mod accept;
mod call;
mod callbacks;
mod close;
mod dispatch;
mod flush;
#[cfg(feature = "sim")]
pub(crate) mod inspect;
mod loans;
mod post;
mod receive;
mod serve;
mod timeout;
pub(crate) mod worker;

/// Bytes of one link in the engine's tables: its slot, state, reply cell and marks, and its entries in
/// the lists of links.
pub(crate) fn link_size_bytes<S>() -> usize {
    size_of::<crate::link::slot::Slot>()
        + size_of::<Option<S>>()
        + size_of::<crate::shares::Borrower>()
        + size_of::<crate::shared::reply::ReplyCell>()
        + size_of::<(u32, u32, crate::shared::marks::Mark)>()
        + 2 * size_of::<u64>()
        + 10 * size_of::<u32>()
}
