//! Posts to links: what comes from other links and other threads.

use super::core::Core;
use super::slot::Slot;
use crate::limits::MESSAGES_PER_LINK;
use crate::link::output::WhenSlow;
use crate::plant::EnginePlant;
use wharf_port::memory::{Message, Owner};

/// What a link does with a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Posted {
    Queued,
    /// It has no capacity for it, and has counted that.
    Missed,
    /// The same, and the link is to be closed for it.
    TooSlow,
}

impl Core {
    /// Queues a message that came from another thread, or goes to many links.
    ///
    /// It has the lower half of the output, and leaves the grant free. A link with no message
    /// waiting shares it, for one entry. One that has some gets a copy in buffers of its own, so
    /// that a link which does not read keeps one message from coming home, and not all that come
    /// after it; if it can borrow none, it shares as many as each link has entries for.
    pub(crate) fn post(
        &mut self,
        index: u32,
        message: &Message,
        when_slow: Option<WhenSlow>,
    ) -> Posted {
        if self.room_for(index, message.len()).is_ok() && self.push_post(index, message) {
            // What is queued is queued.
            let _ok = self.queued(index, Ok(()));
            return Posted::Queued;
        }
        self.stats().missed.add(1);
        let slot = &mut self.slots[index];
        slot.totals.missed += 1;
        match when_slow.unwrap_or(slot.when_slow) {
            WhenSlow::Skip => Posted::Missed,
            WhenSlow::Disconnect => Posted::TooSlow,
        }
    }

    fn push_post(&mut self, index: u32, message: &Message) -> bool {
        let slot = &self.slots[index];
        // The upper half is the handler's, or as much as it has asked for.
        let kept = slot.limit.div_ceil(2).max(slot.ensured) as usize;
        let is_above = slot.used() + message.len() + kept > slot.limit as usize;
        if is_above && !self.shared.planted.is(EnginePlant::IgnoreQueueLimit) {
            return false;
        }
        let reserved = self.reserved_beside(index);
        let slot = &mut self.slots[index];
        if slot.broken.is_some() {
            return true;
        }
        if slot.has_output() {
            let allowance = self.shares.post_allowance(slot.held, reserved);
            let owner = Owner::SendQueue;
            if slot.queue.append_copy_of(&self.pool, message, owner, allowance).is_ok() {
                return true;
            }
        }
        if self.shared.planted.is(EnginePlant::EntryPerBuffer) {
            let each = message.len().div_ceil(self.pool.buffer_size_bytes() as usize);
            let entries = self.shared.settings.shard_pool().shared_entries as usize;
            let used = entries - self.pool.free_message_entries() as usize;
            if (used + 1) * each > entries {
                return false;
            }
        }
        self.has_entry_for(index)
            && self.slots[index].queue.push_message(&self.pool, message.clone()).is_ok()
    }

    /// Whether the link may share a message more: beyond its own entries it would take those of
    /// others, who read.
    pub(super) fn has_entry_for(&self, index: u32) -> bool {
        let messages = self.slots[index].messages();
        let is_others = messages >= MESSAGES_PER_LINK
            || (messages > 0 && self.pool.free_message_entries() <= self.sharing.reserved());
        !is_others || self.shared.planted.is(EnginePlant::TakeOthersEntries)
    }
}

/// How many links share a message, so that each of the others has an entry for its first one.
#[derive(Debug)]
pub(super) struct Sharing {
    links: u32,
    /// Those that share one.
    with: u32,
}

impl Sharing {
    pub(super) fn new(links: u32) -> Self {
        Self { links, with: 0 }
    }

    /// A link may have begun to share, or to share nothing any more.
    #[inline]
    pub(super) fn note(&mut self, slot: &mut Slot) {
        let shares = slot.messages() > 0;
        if shares != slot.shares {
            slot.shares = shares;
            self.with = if shares { self.with + 1 } else { self.with - 1 };
        }
    }

    /// Entries that belong to links which share nothing yet.
    fn reserved(&self) -> u32 {
        self.links - self.with
    }
}
