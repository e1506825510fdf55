//! The engine: handles the completions of a shard's port. It uses the port's contract and no back end.

mod call;
pub(crate) mod callbacks;
mod close;
mod dispatch;
mod flush;
#[cfg(feature = "sim")]
pub(crate) mod inspect;
mod loans;
mod open;
pub(crate) mod packets;
mod post;
mod proxy;
mod receive;
mod serve;
pub(crate) mod service_thread;
mod timeout;
pub(crate) mod worker;

use crate::limits::Sizes;

/// The sizes of a handler's types: of one link its slot, state, reply cell and marks, and its entries
/// in the lists of links.
pub(crate) fn sizes<S, W>() -> Sizes {
    let link = size_of::<crate::link::slot::Slot>()
        + size_of::<Option<S>>()
        + size_of::<crate::shares::Borrower>()
        + size_of::<crate::shared::reply::ReplyCell>()
        + size_of::<(u32, u32, crate::shared::marks::Mark)>()
        + 2 * size_of::<u64>()
        + 10 * size_of::<u32>();
    Sizes { link, stack: STACK_COPIES * (size_of::<S>() + size_of::<W>()) }
}

/// Copies of a state and of a context on the stack: a build without optimizations makes one in each
/// call that returns them.
const STACK_COPIES: usize = 16;
