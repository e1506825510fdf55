//! What the service thread and other threads share.

use crate::stats::AcceptStats;
use crate::vocabulary::id::LinkId;
use crate::vocabulary::origin::WorkerId;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{OnceLock, PoisonError};
use std::time::Duration;

/// The part of the service thread that other threads use.
#[derive(Default)]
pub(crate) struct ServiceShared {
    pub(crate) stats: AcceptStats,
    /// The service thread waits for a free slot.
    pub(crate) slot_wanted: AtomicBool,
    /// It posts no more connections to shards.
    pub(super) has_posted_all: AtomicBool,
    /// Its thread has ended.
    pub(crate) ended: AtomicBool,
    /// Ends its wait.
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// The callbacks that it has reported and that still run, by shard.
    stalled: StalledLock,
}

#[expect(clippy::disallowed_types, reason = "held by the service thread, and by who asks")]
type StalledLock = std::sync::Mutex<BTreeMap<usize, StalledCallback>>;

/// A callback that has not returned for longer than
/// [`Builder::report_callbacks_after`](crate::Builder::report_callbacks_after).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StalledCallback {
    /// The worker that runs it.
    pub worker: WorkerId,
    /// Its link; `None` for [`OnPost::on_post`](crate::OnPost::on_post).
    pub link: Option<LinkId>,
    /// The link's unread bytes when it began.
    pub unread_bytes: u32,
    /// For how long it has been seen to run.
    pub elapsed: Duration,
}

impl fmt::Display for StalledCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worker, link, unread_bytes, elapsed } = self;
        write!(f, "worker {worker} runs ")?;
        match link {
            Some(link) => {
                write!(f, "a callback of link {link} with {unread_bytes} unread bytes")?;
            }
            None => f.write_str("on_post")?,
        }
        write!(f, " for {:.1} s", elapsed.as_secs_f64())
    }
}

impl ServiceShared {
    /// Sets what ends its wait; once, before the first pass.
    pub(crate) fn register(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _set_once = self.wake.set(Box::new(wake));
    }

    /// The callbacks that have not returned.
    pub(super) fn stalled(&self) -> Vec<StalledCallback> {
        self.stalled.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }

    /// Notes the callback of a shard that does not return, or that it has none any more.
    pub(super) fn note_stall(&self, shard: usize, callback: Option<StalledCallback>) {
        let mut stalled = self.stalled.lock().unwrap_or_else(PoisonError::into_inner);
        match callback {
            Some(callback) => stalled.insert(shard, callback),
            None => stalled.remove(&shard),
        };
    }

    pub(crate) fn wake(&self) {
        if let Some(wake) = self.wake.get() {
            wake();
        }
    }
}

impl fmt::Debug for ServiceShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceShared").field("stats", &self.stats).finish_non_exhaustive()
    }
}
