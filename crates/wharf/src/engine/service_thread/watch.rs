//! Watches for callbacks that do not return.

use crate::shared::running::SeenCallback;
use crate::shared::{Shared, StalledCallback};
use crate::vocabulary::id::{LinkId, LinkKey};
use crate::vocabulary::origin::WorkerId;
use std::time::Duration;
use wharf_port::memory::{MemoryError, try_table};
use wharf_port::port::Time;

/// The looks at each shard's callback. Four in the time after which a callback is reported, so that a
/// report is at most a quarter of it late.
pub(super) struct Watch {
    /// After which time a callback is reported; zero: never.
    report_after: Duration,
    /// When it looks next.
    look_at: Time,
    shards: Box<[Seen]>,
}

/// The callback that a shard ran at the last look.
#[derive(Clone, Copy)]
struct Seen {
    callback: SeenCallback,
    since: Time,
    is_reported: bool,
}

impl Watch {
    pub(super) fn new(
        report_after: Duration,
        shards: usize,
        now: Time,
    ) -> Result<Self, MemoryError> {
        let none = Seen { callback: SeenCallback::default(), since: now, is_reported: false };
        let shards = try_table("the watched shards", std::iter::repeat_n(none, shards))?;
        Ok(Self { report_after, look_at: now, shards })
    }

    /// When the next look is due.
    pub(super) fn due(&self) -> Option<Time> {
        (!self.report_after.is_zero()).then_some(self.look_at)
    }

    /// Looks at each shard, if a look is due.
    pub(super) fn look(&mut self, shared: &Shared, now: Time) {
        if self.due().is_none_or(|due| due > now) {
            return;
        }
        self.look_at = now.saturating_add(self.report_after / 4);
        for (number, (seen, shard)) in self.shards.iter_mut().zip(&shared.shards).enumerate() {
            let callback = shard.running.see();
            if !callback.is_same(seen.callback) {
                if seen.is_reported {
                    shared.note_stall(number, None);
                }
                *seen = Seen { callback, since: now, is_reported: false };
            }
            let elapsed = now.duration_since(seen.since);
            if !callback.runs() || elapsed < self.report_after {
                continue;
            }
            // There are at most 256 shards.
            let shard_number = u8::try_from(number).unwrap_or(u8::MAX);
            let generation = |index| Some((index, shard.marks.generation(index)?));
            let link = match callback.index().map(generation) {
                None => None,
                Some(Some((index, generation))) => {
                    Some(LinkId::new(shared.id, LinkKey::new(shard_number, index, generation)))
                }
                // The slot is free: the callback has ended, and its shard has no other.
                Some(None) => continue,
            };
            let stalled = StalledCallback {
                worker: WorkerId::of_shard(shard_number),
                link,
                unread_bytes: callback.unread,
                elapsed,
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
