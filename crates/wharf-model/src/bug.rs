//! Planted bugs: each breaks one rule, and a test must find it.

use std::cell::Cell;

/// A planted bug: it breaks one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "of this project's tests only")]
pub enum ModelBug {
    /// A call of `on_receive` that took something is not followed by another one.
    NoCallAfterTaking,
    /// More capacity of the output causes no call.
    CapacityCausesNoCall,
    /// `on_writable` is never called.
    NeverWritable,
    /// A link with a partner waits for its own output instead of the partner's.
    WaitsForOwnOutput,
    /// Posts use the half of the output that belongs to the link's own handler.
    PostsUseUpperHalf,
    /// `Verdict::Close` does not wait until queued bytes are sent.
    CloseDropsQueued,
    /// `rewind` returns bytes that have been forwarded.
    RewindsForwarded,
    /// The end of a deferral causes no call.
    ReplyCausesNoCall,
    /// A deferral does not hold the input.
    DeferralLeavesInput,
    /// `resume` causes a call only if the link was paused.
    ResumeNeedsPause,
    /// A link has no maximum of calls in one turn.
    NoCallBudget,
    /// No link is closed for those that wait for a loan.
    NeverRevokes,
    /// Loans exceed the surplus.
    LendsTooMuch,
    /// At a drain, unread input is not waited for.
    DrainDropsInput,
    /// After `Full` the link is closed as a slow reader, and queued bytes are discarded.
    FullBlamesPeer,
    /// A dropped reply counts as one without bytes.
    DroppedReplyIsNone,
    /// Posts use the capacity that `ensure` asked for.
    PostsIgnoreEnsure,
    /// Requests of `take` and its like are ignored.
    IgnoresTake,
    /// A link is idle while its reply is deferred.
    IdleWhileDeferred,
    /// A link's output limit may be less than two grants.
    LimitBelowGrants,
    /// Requests of `take` are counted from the last take, not from the first unread byte.
    CountsFromLastTake,
    /// A link that waits only for a loan for its own reply is closed for others.
    ClosesWaitingReply,
    /// `on_receive` is called while the output is above its high-water mark.
    CallsAboveMark,
    /// Part-filled buffers are never merged.
    NeverMerges,
    /// Buffers of a send in flight are not charged to their link.
    FlightIsFree,
    /// Loans for input may take all of the surplus.
    InputTakesAll,
    /// Loans for input may take half of the surplus, whatever the longest reply needs.
    InputTakesHalf,
    /// Parts of messages do not leave free what a whole message needs.
    PartsTakeAll,
    /// Only a completed send counts as progress, not each byte that the peer takes.
    OnlyDoneSendsCount,
    /// One link is closed at a time, however many buffers are waited for.
    ClosesOneAtATime,
    /// A link whose own send would free enough buffers waits for a loan.
    WaitsForLoanInsteadOfSend,
    /// The need of the first waiter is not reserved for it.
    NothingIsReserved,
    /// `on_drain` is called after an `on_writable` that is owed.
    WritableBeforeDrain,
    /// After a refusal `on_writable` is called at the grant, whatever was refused.
    FullAsksForGrant,
}

thread_local! {
    static PLANTED: Cell<Option<ModelBug>> = const { Cell::new(None) };
}

/// Whether `bug` is planted in this thread.
pub(crate) fn planted(bug: ModelBug) -> bool {
    PLANTED.get() == Some(bug)
}

impl ModelBug {
    /// All bugs.
    pub const ALL: &'static [Self] = &[
        Self::NoCallAfterTaking,
        Self::CapacityCausesNoCall,
        Self::NeverWritable,
        Self::WaitsForOwnOutput,
        Self::PostsUseUpperHalf,
        Self::CloseDropsQueued,
        Self::RewindsForwarded,
        Self::ReplyCausesNoCall,
        Self::DeferralLeavesInput,
        Self::ResumeNeedsPause,
        Self::NoCallBudget,
        Self::NeverRevokes,
        Self::LendsTooMuch,
        Self::DrainDropsInput,
        Self::FullBlamesPeer,
        Self::DroppedReplyIsNone,
        Self::PostsIgnoreEnsure,
        Self::IgnoresTake,
        Self::IdleWhileDeferred,
        Self::LimitBelowGrants,
        Self::CountsFromLastTake,
        Self::ClosesWaitingReply,
        Self::CallsAboveMark,
        Self::NeverMerges,
        Self::FlightIsFree,
        Self::InputTakesAll,
        Self::InputTakesHalf,
        Self::PartsTakeAll,
        Self::OnlyDoneSendsCount,
        Self::ClosesOneAtATime,
        Self::WaitsForLoanInsteadOfSend,
        Self::NothingIsReserved,
        Self::WritableBeforeDrain,
        Self::FullAsksForGrant,
    ];

    /// Runs `act` with this bug planted in this thread.
    pub fn plant<T>(self, act: impl FnOnce() -> T) -> T {
        /// Removes the bug, also after a panic.
        struct Guard;
        impl Drop for Guard {
            fn drop(&mut self) {
                PLANTED.set(None);
            }
        }
        PLANTED.set(Some(self));
        let _guard = Guard;
        act()
    }

    /// The bug that is planted in this thread.
    #[must_use]
    pub fn current() -> Option<Self> {
        PLANTED.get()
    }
}
