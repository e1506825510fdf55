//! Whose callback this thread runs: a handle knows no link, but posts of a callback are made out of its
//! shard's buffers, one link takes no more than its part of these in a turn, and one whose post is refused
//! is owed a call.

use crate::vocabulary::id::ServerId;
use std::cell::Cell;

#[derive(Clone, Copy)]
struct Current {
    server: ServerId,
    shard: u8,
    /// Buffers that posts of this callback's link may still take in this turn.
    left: u32,
    /// A post of this callback found its receiver full.
    refused: bool,
}

/// What a callback has posted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// Buffers that are left of what it could take.
    pub(crate) left: u32,
    /// A post was refused as full.
    pub(crate) refused: bool,
}

thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

/// A callback of this shard begins on this thread, whose posts may take so many buffers.
#[inline]
pub(crate) fn begin(server: ServerId, shard: u8, left: u32) {
    CURRENT.set(Some(Current { server, shard, left, refused: false }));
}

/// It is over.
#[inline]
pub(crate) fn end() -> Ended {
    match CURRENT.take() {
        Some(Current { left, refused, .. }) => Ended { left, refused },
        None => Ended { left: 0, refused: false },
    }
}

/// The shard of this server whose callback this thread runs.
pub(crate) fn shard_of(server: ServerId) -> Option<usize> {
    Some(of(server)?.shard.into())
}

/// Takes so many buffers of what a callback's posts may take; says whether there were as many, or this
/// is no callback.
pub(crate) fn take(server: ServerId, buffers: u32) -> bool {
    let Some(current) = of(server) else { return true };
    let left = current.left.checked_sub(buffers);
    if let Some(left) = left {
        CURRENT.set(Some(Current { left, ..current }));
    }
    left.is_some()
}

/// A post to one link was refused as full.
pub(crate) fn note_refusal(server: ServerId) {
    if let Some(current) = of(server) {
        CURRENT.set(Some(Current { refused: true, ..current }));
    }
}

fn of(server: ServerId) -> Option<Current> {
    CURRENT.get().filter(|current| current.server == server)
}
