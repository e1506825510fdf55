//! The callback that this thread runs. A handle names no sender, but a post of a callback takes buffers
//! of its shard and of its link's budget for the turn, and a refused `try_post` makes an `on_writable`
//! due.

use crate::vocabulary::id::ServerId;
use std::cell::Cell;

#[derive(Clone, Copy)]
struct Current {
    server: ServerId,
    shard: u8,
    /// The rest of the link's budget of buffers for posts in this turn.
    left: u32,
    /// A `try_post` of this callback failed with `Full`.
    refused: bool,
}

/// What a callback's posts have used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// The rest of the budget.
    pub(crate) left: u32,
    /// A `try_post` failed with `Full`.
    pub(crate) refused: bool,
}

thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

/// Begins a callback of a shard on this thread, whose posts may take `left` buffers.
#[inline]
pub(crate) fn begin(server: ServerId, shard: u8, left: u32) {
    CURRENT.set(Some(Current { server, shard, left, refused: false }));
}

/// Ends the callback.
#[inline]
pub(crate) fn end() -> Ended {
    match CURRENT.take() {
        Some(Current { left, refused, .. }) => Ended { left, refused },
        None => Ended { left: 0, refused: false },
    }
}

/// The shard whose callback this thread runs, if it is one of this server.
pub(crate) fn shard_of(server: ServerId) -> Option<usize> {
    Some(of(server)?.shard.into())
}

/// Takes buffers of the callback's budget; returns whether it sufficed. Outside of callbacks always
/// `true`.
pub(crate) fn take(server: ServerId, buffers: u32) -> bool {
    let Some(current) = of(server) else { return true };
    let left = current.left.checked_sub(buffers);
    if let Some(left) = left {
        CURRENT.set(Some(Current { left, ..current }));
    }
    left.is_some()
}

/// Notes a `try_post` that failed with `Full`.
pub(crate) fn note_refusal(server: ServerId) {
    if let Some(current) = of(server) {
        CURRENT.set(Some(Current { refused: true, ..current }));
    }
}

fn of(server: ServerId) -> Option<Current> {
    CURRENT.get().filter(|current| current.server == server)
}
