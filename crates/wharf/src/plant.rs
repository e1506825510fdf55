//! Faults of the engine that can be planted, to prove that the simulation finds them.
//!
//! Each is a line where it strikes. Without the feature `sim` the question is answered with no at
//! compile time, and the lines are gone.

#[cfg(feature = "sim")]
use std::sync::atomic::{AtomicU32, Ordering};

/// A fault of the engine that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(not(feature = "sim"), expect(unreachable_pub, reason = "public as sim::EnginePlant"))]
pub enum EnginePlant {
    /// A closed link's place in the table is not given back.
    LeakSlot,
    /// A closed link's place is not subtracted from those that count for the limit.
    LosePlace,
    /// Who waits for room in the table is not told that there is some.
    ForgetRoomWake,
    /// More connections are taken than there is room for.
    AcceptPastLimit,
    /// A posted message is sent to whoever has the link's place now.
    SkipGeneration,
    /// The rest of a short send goes behind what was queued later.
    RestBehind,
    /// A receive that was paused is not resumed.
    NeverResume,
    /// A receive that is over is not followed by the next.
    ForgetRearm,
    /// A link with queued bytes is left out by the flush.
    LoseDirty,
    /// A link takes buffers that are kept for others.
    IgnoreAllowance,
    /// A link queues more than its limit.
    IgnoreQueueLimit,
    /// The count of links that hold buffers is wrong.
    Miscount,
    /// `on_disconnect` is called twice.
    DisconnectTwice,
    /// What a handler asked to be closed stays open.
    ForgetClose,
    /// Closing in good order drops what is queued.
    DropQueueAtClose,
    /// Closing does not wait for the peer's end, so that unread bytes reset the connection.
    SkipLinger,
    /// A link is not hung up for its time-out.
    ForgetTimeOut,
    /// A drain does not end by force when its time is over.
    NeverCut,
    /// A broadcast reaches the link that it should leave out.
    BroadcastToSender,
    /// The handler is called with input though its answer has no room.
    CallWithoutRoom,
    /// A broadcast costs each receiver an entry for each buffer.
    EntryPerBuffer,
    /// A drain begins before what was posted earlier has been handed out.
    StopBeforePosts,
    /// A send that fails throws away what had been received and not handled.
    DropInputAtSendFailure,
    /// A link's guaranteed buffers are lent to others.
    NoGuarantee,
    /// Input that waited for room is not given to the handler when there is some.
    ForgetRoom,
    /// Loans are never taken back.
    NeverRevoke,
    /// A link that does not read takes the entries that others need for messages.
    TakeOthersEntries,
    /// The links' clock is the port's, so that a pause of the process counts as the links' silence.
    LinkClockIsPorts,
    /// Posts are refused as if there were no buffers for them.
    RefusePosts,
    /// The handler is called with input while its link is paused.
    CallWhilePaused,
    /// The handler is called with input while a reply is deferred.
    CallWhileDeferred,
    /// `on_writable` does not come when it is owed.
    NeverWritable,
    /// `on_end` comes twice.
    EndTwice,
    /// The handler is called again before the bytes that it asked for have come.
    IgnoresTake,
    /// A handler that queues more than there is room for has its peer called slow.
    FullBlamesPeer,
    /// The state of a link that has ended is not dropped with it.
    KeepState,
    /// The handler is called with input while its output is above its high-water mark.
    CallAboveHighWater,
    /// A call that took something is not followed by another for what is left.
    NoCallAfterTaking,
    /// A deferred reply does not wake the calls that it has held off.
    ReplyCallsNobody,
    /// A deferred reply that was dropped counts as none.
    DroppedReplyIsNone,
    /// A link that closes in good order does not wait for its deferred reply.
    CloseDropsDeferred,
    /// A deferred reply may be out for ever.
    NeverAnswerTimeout,
    /// The handler is not told that the server stops.
    SkipDrain,
    /// A message that is too long counts as the handler's error.
    TooLongIsHandlers,
    /// An error of a callback keeps its link.
    ErrorKeeps,
    /// A post that was accepted is not queued.
    ForgetAccepted,
}

#[cfg(feature = "sim")]
impl EnginePlant {
    /// Every fault that can be planted.
    pub const ALL: [Self; 46] = [
        Self::LeakSlot,
        Self::LosePlace,
        Self::ForgetRoomWake,
        Self::AcceptPastLimit,
        Self::SkipGeneration,
        Self::RestBehind,
        Self::NeverResume,
        Self::ForgetRearm,
        Self::LoseDirty,
        Self::IgnoreAllowance,
        Self::IgnoreQueueLimit,
        Self::Miscount,
        Self::DisconnectTwice,
        Self::ForgetClose,
        Self::DropQueueAtClose,
        Self::SkipLinger,
        Self::ForgetTimeOut,
        Self::NeverCut,
        Self::BroadcastToSender,
        Self::CallWithoutRoom,
        Self::EntryPerBuffer,
        Self::StopBeforePosts,
        Self::DropInputAtSendFailure,
        Self::NoGuarantee,
        Self::ForgetRoom,
        Self::NeverRevoke,
        Self::TakeOthersEntries,
        Self::LinkClockIsPorts,
        Self::RefusePosts,
        Self::CallWhilePaused,
        Self::CallWhileDeferred,
        Self::NeverWritable,
        Self::EndTwice,
        Self::IgnoresTake,
        Self::FullBlamesPeer,
        Self::KeepState,
        Self::CallAboveHighWater,
        Self::NoCallAfterTaking,
        Self::ReplyCallsNobody,
        Self::DroppedReplyIsNone,
        Self::CloseDropsDeferred,
        Self::NeverAnswerTimeout,
        Self::SkipDrain,
        Self::TooLongIsHandlers,
        Self::ErrorKeeps,
        Self::ForgetAccepted,
    ];
}

/// The fault that is planted in one server, if any.
#[derive(Debug, Default)]
pub(crate) struct Planted {
    #[cfg(feature = "sim")]
    plant: Option<EnginePlant>,
    #[cfg(feature = "sim")]
    asked: AtomicU32,
}

#[cfg(feature = "sim")]
impl Planted {
    pub(crate) fn new(plant: Option<EnginePlant>) -> Self {
        Self { plant, asked: AtomicU32::new(0) }
    }

    /// Whether `plant` is planted and shows itself always.
    pub(crate) fn is(&self, plant: EnginePlant) -> bool {
        self.plant == Some(plant)
    }

    /// Whether `plant` is planted and shows itself now: each eighth time, because a server that
    /// never does its work shows less than one that mostly does.
    pub(crate) fn strikes(&self, plant: EnginePlant) -> bool {
        self.is(plant) && self.asked.fetch_add(1, Ordering::Relaxed) % 8 == 7
    }
}

#[cfg(not(feature = "sim"))]
#[expect(clippy::unused_self, reason = "as with the feature")]
impl Planted {
    pub(crate) const fn is(&self, _: EnginePlant) -> bool {
        false
    }

    pub(crate) const fn strikes(&self, _: EnginePlant) -> bool {
        false
    }
}
