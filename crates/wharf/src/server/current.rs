//! Whose callback this thread runs: a handle knows no link, but posts of a callback are made out of its
//! shard's buffers, and one that is refused owes its link a call.

use crate::link::ServerId;
use std::cell::Cell;

#[derive(Clone, Copy)]
struct Current {
    server: ServerId,
    shard: u8,
    /// A post of this callback found its receiver full.
    refused: bool,
}

thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

/// A callback of this shard begins on this thread.
#[inline]
pub(crate) fn begin(server: ServerId, shard: u8) {
    CURRENT.set(Some(Current { server, shard, refused: false }));
}

/// It is over; says whether a post of it was refused as full.
#[inline]
pub(crate) fn end() -> bool {
    CURRENT.take().is_some_and(|current| current.refused)
}

/// The shard of this server whose callback this thread runs.
pub(crate) fn shard_of(server: ServerId) -> Option<usize> {
    let current = CURRENT.get().filter(|current| current.server == server)?;
    Some(current.shard.into())
}

/// A post to one link was refused as full.
pub(crate) fn note_refusal(server: ServerId) {
    if let Some(current) = CURRENT.get().filter(|current| current.server == server) {
        CURRENT.set(Some(Current { refused: true, ..current }));
    }
}
