//! Bugs of the engine that a test plants, to show that the simulation finds them.
//!
//! No bug is in the engine's code. It is between the engine and its port (`buggy_port.rs`), between the
//! engine and its handler (`buggy_handler.rs`), in settings of the engine that differ from those of the
//! checks, or in a clock that the simulation sets.

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
    /// The release of a slot does not wake the shard that waits for one.
    LoseSlotWake,
    /// An accept of one connection is a multishot accept.
    AcceptPastLimit,
    /// A post reaches the link that has the slot when it is delivered, of any generation.
    SkipGeneration,
    /// The rest of a short send is not sent.
    LoseRest,
    /// Every eighth receive is not submitted.
    ForgetReceive,
    /// Every eighth send is not submitted.
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
    /// A broadcast reaches the link that it excludes.
    BroadcastToSender,
    /// The handler is called with input although the output lacks the grant.
    CallWithoutGrant,
    /// The handler is called with input although its output is above the high-water mark.
    CallAboveHighWater,
    /// The handler is called with input while its link is paused.
    CallWhilePaused,
    /// The handler is called with input while a reply is deferred.
    CallWhileDeferred,
    /// The handler is called again before the bytes that it asked for have arrived.
    IgnoresTake,
    /// Posts are delivered late, after the drain has begun.
    LatePosts,
    /// Every eighth accepted post is lost.
    ForgetAccepted,
    /// After a failed send what arrives is discarded.
    DropInputAtSendFailure,
    /// Other links hold the buffers that are guaranteed to a link.
    NoGuarantee,
    /// The handler is not called again for input that it has left unread.
    ForgetUnread,
    /// Loans are never revoked.
    NeverRevoke,
    /// The clock of the timeouts is twice as fast.
    FastClock,
    /// The clock of the timeouts is 1,000 times too slow.
    SlowClock,
    /// Posts find no buffers.
    HoldPostBuffers,
    /// A due `on_writable` is not called.
    NeverWritable,
    /// `on_end` is called twice.
    EndTwice,
    /// A link whose handler returns `Full` is closed as a slow reader.
    FullBlamesPeer,
    /// A link's state is not dropped with it.
    KeepState,
    /// A graceful close does not wait for the deferred reply.
    CloseDropsDeferred,
    /// A deferred reply has no answer timeout.
    NeverAnswerTimeout,
    /// `on_drain` is not called.
    SkipDrain,
    /// A message that is too long counts as an error of the handler.
    TooLongIsHandlers,
    /// An error of a callback does not close its link.
    ErrorKeeps,
    /// A pause of the process counts for the timeouts.
    CountPauses,
}

impl EngineBug {
    /// All bugs.
    pub const ALL: [Self; 38] = [
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
        Self::CallWithoutGrant,
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
        Self::CountPauses,
    ];

    /// The engine's settings, which a bug may change; the checks use the original ones.
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
        // The bug is not planted if the changed settings are invalid.
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

    /// Whether `bug` is planted and takes effect in this call: every eighth one, because more checks
    /// apply to a server that mostly works than to one that never does.
    pub(super) fn triggers(&self, bug: EngineBug) -> bool {
        self.is(bug) && self.asked.fetch_add(1, Ordering::Relaxed) % 8 == 7
    }
}
