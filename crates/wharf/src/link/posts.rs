//! Posts to links: what comes from other links and other threads.

use crate::limits::MESSAGES_PER_LINK;
use crate::link::core::Core;
use crate::link::slot::Slot;
use crate::vocabulary::policy::WhenSlow;
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
    /// Queues a post that was accepted for one link. There is room for it, and an entry.
    pub(crate) fn post_accepted(&mut self, index: u32, message: Message) {
        let slot = &mut self.slots[index];
        let takes = slot.is_served() && !slot.is_output_over() && !message.is_empty();
        if !takes || self.copy_post(index, &message) {
            self.quotas().free_entries(1);
            if takes {
                self.note_post(index);
            }
            return;
        }
        let pushed = self.slots[index].queue.push_message(&self.pool, message);
        assert!(pushed.is_ok(), "there is an entry for each post that is accepted");
        self.slots[index].accepted_entries += 1;
        self.accepted_entries += 1;
        self.note_post(index);
    }

    /// A post was queued: from now on it is said exactly what others may have.
    fn note_post(&mut self, index: u32) {
        self.note_queued(index);
        self.publish_room(index);
    }

    /// Queues a message that goes to many links.
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
            self.note_post(index);
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

    /// Buffers that posts of a link's callbacks may still take in this turn: not all that the shard has
    /// for posts, so that one link leaves some to the others.
    #[inline]
    pub(crate) fn post_budget(&mut self, index: u32) -> u32 {
        let slot = &mut self.slots[index];
        if slot.budget_turn != self.turn {
            (slot.budget_turn, slot.post_budget) = (self.turn, self.post_budget_max);
        }
        slot.post_budget
    }

    /// Says how many bytes posts may take of a link's output, now that this has changed.
    pub(crate) fn publish_room(&mut self, index: u32) {
        let slot = &mut self.slots[index];
        let room = slot.post_room();
        if room != slot.room {
            slot.room = room;
            self.quotas().set_room(index, room);
        }
    }

    /// What a link holds has changed, and posts are a part of it.
    pub(super) fn settle_posts(&mut self, index: u32) {
        let slot = &mut self.slots[index];
        let gone = slot.accepted_entries.saturating_sub(slot.messages());
        slot.accepted_entries -= gone;
        self.accepted_entries -= gone;
        self.quotas().free_entries(gone);
        self.publish_room(index);
    }

    /// Copies a post behind what is queued already, if the link can borrow the buffers.
    fn copy_post(&mut self, index: u32, message: &Message) -> bool {
        let reserved = self.reserved_beside(index);
        let slot = &mut self.slots[index];
        let allowance = self.shares.post_allowance(slot.held, reserved);
        let owner = Owner::SendQueue;
        slot.has_output()
            && slot.queue.append_copy_of(&self.pool, message, owner, allowance).is_ok()
    }

    fn push_post(&mut self, index: u32, message: &Message) -> bool {
        let slot = &self.slots[index];
        let room = (slot.post_room() as usize).saturating_sub(self.quotas().accepted(index));
        if message.len() > room {
            return false;
        }
        if self.slots[index].broken.is_some() || self.copy_post(index, message) {
            return true;
        }
        self.has_entry_for(index)
            && self.slots[index].queue.push_message(&self.pool, message.clone()).is_ok()
    }

    /// Entries that no accepted post will need.
    fn free_entries(&self) -> u32 {
        let kept = self.shared.settings.post_entries() - self.accepted_entries;
        self.pool.free_message_entries().saturating_sub(kept)
    }

    /// Whether the link may share a message more: beyond its own entries it would take those of
    /// others, who read.
    pub(super) fn has_entry_for(&self, index: u32) -> bool {
        let (messages, free) = (self.slots[index].messages(), self.free_entries());
        let is_others = messages >= MESSAGES_PER_LINK
            || free == 0
            || (messages > 0 && free <= self.sharing.reserved());
        !is_others
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
