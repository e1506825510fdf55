//! Bugs of the engine that can be planted, to prove that the simulation finds them.
//!
//! None is in the engine's own code. A bug shows where the engine meets something else: at its port
//! (`buggy_port.rs`), at its handler (`buggy_handler.rs`), or in settings that are not those that the
//! checks know.

use crate::limits::Settings;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineBug {
    /// A closed link's slot is not released.
    LeakSlot,
    /// A closed link's slot still counts for the limit of links.
    KeepSlotCount,
    /// The shard that waits for a free slot is not woken when there is one.
    LoseSlotWake,
    /// A listener that is to accept one connection accepts all that come.
    AcceptPastLimit,
    /// A post reaches whichever link has the slot when it is handed out.
    SkipGeneration,
    /// What a short send leaves over is not sent.
    LoseRest,
    /// Now and then a receive is not submitted.
    ForgetReceive,
    /// Now and then a send is not submitted.
    ForgetSend,
    /// A link queues more than its limit.
    IgnoreQueueLimit,
    /// The number of buffers that a link holds is wrong.
    Miscount,
    /// `on_disconnect` is called twice.
    DisconnectTwice,
    /// A link that the handler closes stays open.
    ForgetClose,
    /// A graceful close discards what is queued.
    DropQueueAtClose,
    /// A broadcast reaches the link that it is to leave out.
    BroadcastToSender,
    /// The handler is called with input though its reply has no room.
    CallWithoutRoom,
    /// The handler is called with input though its output is above the high-water mark.
    CallAboveHighWater,
    /// The handler is called with input while its link is paused.
    CallWhilePaused,
    /// The handler is called with input while a reply is deferred.
    CallWhileDeferred,
    /// The handler is called again before the bytes that it asked for have come.
    IgnoresTake,
    /// Posts are handed out late, after the drain has begun.
    LatePosts,
    /// Now and then a post that was accepted is lost.
    ForgetAccepted,
    /// After a failed send what arrives is discarded.
    DropInputAtSendFailure,
    /// Others hold the buffers that are guaranteed to a link.
    NoGuarantee,
    /// The handler is not called again for input that it has left unread.
    ForgetUnread,
    /// Loans are never revoked.
    NeverRevoke,
    /// The clock of the time-outs is twice as fast.
    FastClock,
    /// The clock of the time-outs is far too slow.
    SlowClock,
    /// Posts find no buffers.
    HoldPostBuffers,
    /// `on_writable` does not come when it is owed.
    NeverWritable,
    /// `on_end` comes twice.
    EndTwice,
    /// The peer of a handler that queues more than there is room for counts as a slow reader.
    FullBlamesPeer,
    /// A link's state is not dropped with it.
    KeepState,
    /// A graceful close does not wait for the deferred reply.
    CloseDropsDeferred,
    /// A deferred reply may be out for ever.
    NeverAnswerTimeout,
    /// The handler is not told that the server stops.
    SkipDrain,
    /// A message that is too long counts as an error of the handler.
    TooLongIsHandlers,
    /// An error of a callback does not close its link.
    ErrorKeeps,
}

impl EngineBug {
    /// Every bug that can be planted.
    pub const ALL: [Self; 37] = [
        Self::LeakSlot,
        Self::KeepSlotCount,
        Self::LoseSlotWake,
        Self::AcceptPastLimit,
        Self::SkipGeneration,
        Self::LoseRest,
        Self::ForgetReceive,
        Self::ForgetSend,
        Self::IgnoreQueueLimit,
        Self::Miscount,
        Self::DisconnectTwice,
        Self::ForgetClose,
        Self::DropQueueAtClose,
        Self::BroadcastToSender,
        Self::CallWithoutRoom,
        Self::CallAboveHighWater,
        Self::CallWhilePaused,
        Self::CallWhileDeferred,
        Self::IgnoresTake,
        Self::LatePosts,
        Self::ForgetAccepted,
        Self::DropInputAtSendFailure,
        Self::NoGuarantee,
        Self::ForgetUnread,
        Self::NeverRevoke,
        Self::FastClock,
        Self::SlowClock,
        Self::HoldPostBuffers,
        Self::NeverWritable,
        Self::EndTwice,
        Self::FullBlamesPeer,
        Self::KeepState,
        Self::CloseDropsDeferred,
        Self::NeverAnswerTimeout,
        Self::SkipDrain,
        Self::TooLongIsHandlers,
        Self::ErrorKeeps,
    ];

    /// The settings that the engine gets; the checks know others.
    pub(super) fn settings_of_engine(bug: Option<Self>, settings: &Settings) -> Settings {
        let mut changed = settings.clone();
        match bug {
            Some(Self::IgnoreQueueLimit) => {
                changed.send_queue_bytes = settings.send_queue_bytes.saturating_mul(2);
            }
            Some(Self::NeverRevoke) => changed.loan_wait = Duration::from_secs(3_600),
            Some(Self::NeverAnswerTimeout) => changed.answer = Duration::ZERO,
            _ => {}
        }
        // One that needs more than there is cannot be planted here.
        if changed.check().is_ok() { changed } else { settings.clone() }
    }
}

/// The bug of a run, if any.
#[derive(Debug)]
pub(super) struct ActiveBug {
    bug: Option<EngineBug>,
    asked: AtomicU32,
}

impl ActiveBug {
    pub(super) fn new(bug: Option<EngineBug>) -> Self {
        Self { bug, asked: AtomicU32::new(0) }
    }

    pub(super) fn is_planted(&self) -> bool {
        self.bug.is_some()
    }

    pub(super) fn is(&self, bug: EngineBug) -> bool {
        self.bug == Some(bug)
    }

    /// Whether `bug` is planted and shows now: each eighth time, because a server that never does its
    /// work shows less than one that mostly does.
    pub(super) fn strikes(&self, bug: EngineBug) -> bool {
        self.is(bug) && self.asked.fetch_add(1, Ordering::Relaxed) % 8 == 7
    }
}
