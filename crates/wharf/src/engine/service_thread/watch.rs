//! Watches for callbacks that do not return.

use crate::shared::Shared;
use crate::shared::running::SeenCallback;
use crate::shared::service_thread::StalledCallback;
use crate::vocabulary::id::LinkId;
use crate::vocabulary::origin::WorkerId;
use std::time::Duration;
use wharf_port::memory::{MemoryError, try_table};
use wharf_port::port::Time;

/// Looks at each shard's callback, four times in the time after which one is reported, so that a report
/// is at most a quarter of it late.
pub(super) struct Watch {
    /// After which time a callback is reported; zero: never.
    report_after: Duration,
    every: Duration,
    looked_at: Time,
    shards: Box<[Seen]>,
}

/// The callback that a shard ran at the last look.
#[derive(Clone, Copy, Default)]
struct Seen {
    callback: SeenCallback,
    elapsed: Duration,
    is_reported: bool,
}

/// The least time between two looks.
const EVERY_MIN: Duration = Duration::from_millis(1);

impl Watch {
    pub(super) fn new(
        report_after: Duration,
        shards: usize,
        now: Time,
    ) -> Result<Self, MemoryError> {
        let every = (report_after / 4).max(EVERY_MIN);
        let seen = std::iter::repeat_n(Seen::default(), shards);
        let shards = try_table("the watched shards", seen)?;
        Ok(Self { report_after, every, looked_at: now, shards })
    }

    /// When the next look is due.
    pub(super) fn due(&self) -> Option<Time> {
        (!self.report_after.is_zero()).then(|| self.looked_at.saturating_add(self.every))
    }

    /// Looks at each shard, if a look is due.
    pub(super) fn look(&mut self, shared: &Shared, now: Time) {
        if self.due().is_none_or(|due| due > now) {
            return;
        }
        // A longer time is a pause of the process, in which no callback runs either.
        let passed = now.duration_since(self.looked_at).min(2 * self.every);
        self.looked_at = now;
        for (number, (seen, shard)) in self.shards.iter_mut().zip(&shared.shards).enumerate() {
            let callback = shard.running.see();
            if callback != seen.callback {
                if seen.is_reported {
                    shared.note_stall(number, None);
                }
                *seen = Seen { callback, ..Seen::default() };
                continue;
            }
            seen.elapsed += passed;
            if !callback.runs() || seen.elapsed < self.report_after {
                continue;
            }
            // There are at most 256 shards.
            let shard = u8::try_from(number).unwrap_or(u8::MAX);
            let stalled = StalledCallback {
                worker: WorkerId::of_shard(shard),
                link: callback.link(shard).map(|key| LinkId::new(shared.id, key)),
                unread_bytes: callback.unread_bytes(),
                elapsed: seen.elapsed,
            };
            if !seen.is_reported {
                seen.is_reported = true;
                shared.service.stats.stalls.add(1);
                tracing::warn!("a callback has not returned: {stalled}");
            }
            shared.note_stall(number, Some(stalled));
        }
    }
}
