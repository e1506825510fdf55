//! A link of the model.

use crate::interface::{Asked, DisconnectReason, Facts, Queue, Unread};

/// How far a link has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkEnd {
    /// It is open.
    Open,
    /// It sends what is queued and deferred, and then ends for this reason.
    Flushing(DisconnectReason),
    /// It has ended for this reason.
    Over(DisconnectReason),
}

/// A link, its state `S`, and what the rules must remember of it.
pub(super) struct Slot<S> {
    pub(super) input: Unread,
    pub(super) out: Queue,
    /// `None` before `on_connect` has succeeded and after `on_disconnect`.
    pub(super) state: Option<S>,
    pub(super) end: LinkEnd,
    pub(super) partner: Option<usize>,
    pub(super) is_paused: bool,
    /// Calls of `on_receive`.
    pub(super) receives: u64,
    /// Calls of all callbacks.
    pub(super) calls: u64,
    /// Calls of `on_writable`.
    pub(super) writables: u64,
    /// The most bytes that were unread.
    pub(super) unread_max: usize,
    pub(super) facts: Facts,
    pub(super) asked: Asked,
    pub(super) last: LastCall,
    /// A wake-up: resume, the end of a deferral, `on_writable`, the end of the partner.
    pub(super) wakes: bool,
    /// Turns for which the pool still has the link.
    pub(super) pool_turns: u32,
    pub(super) drain_called: bool,
    pub(super) end_called: bool,
    /// `Close` was returned: the link ends when all is handled and sent.
    pub(super) ending: Option<DisconnectReason>,
    pub(super) is_reset: bool,
    pub(super) times: Times,
}

/// What the last `on_receive` did, and saw.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LastCall {
    /// It took something.
    pub(super) took: bool,
    /// It took nothing and was not handed to the pool.
    pub(super) took_nothing: bool,
    /// Nothing was queued before it and after it.
    pub(super) outputs_idle: bool,
    /// What had been received then.
    pub(super) received_bytes: u64,
    /// What the peers had taken of its own and of its partner's output then.
    pub(super) taken_bytes: [u64; 2],
}

/// When something last happened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// The peer sent something, or owed nothing.
    pub(super) active_ms: u64,
    /// The peer took something, or nothing was unsent.
    pub(super) taken_ms: u64,
    /// A reply was deferred.
    pub(super) deferred_ms: u64,
}

/// The state of a link, for tests.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LinkView {
    /// How far it has ended.
    pub end: LinkEnd,
    /// The partner's index.
    pub partner: Option<usize>,
    /// Bytes that are unread.
    pub unread_bytes: usize,
    /// The most bytes that were unread.
    pub unread_max: usize,
    /// Bytes that are queued or in flight.
    pub unsent_bytes: usize,
    /// Bytes that are reserved for a deferred reply.
    pub reserved_bytes: usize,
    /// The most bytes that may be queued.
    pub output_limit: usize,
    /// Sends that were refused for lack of capacity.
    pub refused: u32,
    /// Posts that it missed.
    pub missed: u64,
    /// Calls of `on_receive`.
    pub receives: u64,
    /// Calls of `on_writable`.
    pub writables: u64,
    /// The peer has ended its stream.
    pub is_ended: bool,
    /// A reply is deferred.
    pub is_deferred: bool,
    /// It waits for a loan.
    pub waits_for_loan: bool,
}

impl<S> Slot<S> {
    pub(super) fn is_over(&self) -> bool {
        matches!(self.end, LinkEnd::Over(_))
    }

    pub(super) fn is_open(&self) -> bool {
        self.end == LinkEnd::Open
    }

    pub(super) fn view(&self) -> LinkView {
        LinkView {
            end: self.end,
            partner: self.partner,
            unread_bytes: self.input.len(),
            unread_max: self.unread_max,
            unsent_bytes: self.out.unsent_bytes(),
            reserved_bytes: self.out.reserved_bytes(),
            output_limit: self.out.limit,
            refused: self.out.refused,
            missed: self.out.missed,
            receives: self.receives,
            writables: self.writables,
            is_ended: self.input.is_ended,
            is_deferred: self.input.claim.is_some(),
            waits_for_loan: self.input.account.is_waiting() || self.out.account.is_waiting(),
        }
    }
}
