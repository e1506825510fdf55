//! Posts to a link, from other links and other threads.

use crate::limits::MESSAGES_PER_LINK;
use crate::link::core::ShardState;
use crate::link::slot::Slot;
use crate::vocabulary::policy::WhenSlow;
use wharf_port::memory::{Message, Owner};

/// The result of a post to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Posted {
    Queued,
    /// The link had no capacity; the post is counted as missed.
    Missed,
    /// The same, and the policy is to close the link.
    TooSlow,
}

impl ShardState {
    /// Queues a post to one link that `Quotas::accept` accepted, which reserved capacity and an entry
    /// for it.
    pub(crate) fn post_accepted(&mut self, index: u32, message: Message) {
        let slot = &mut self.slots[index];
        let takes = slot.runs_callbacks() && !slot.is_output_over() && !message.is_empty();
        if !takes || self.copy_post(index, &message) {
            self.quotas().release_entries(1);
            if takes {
                self.note_post(index);
            }
            return;
        }
        let pushed = self.slots[index].output.queue.push_message(&self.pool, message);
        assert!(pushed.is_ok(), "there is an entry for each post that is accepted");
        self.slots[index].posts.accepted_entries += 1;
        self.accepted_entries += 1;
        self.note_post(index);
    }

    /// Notes a queued post, and publishes the exact capacity for posts.
    fn note_post(&mut self, index: u32) {
        self.note_queued(index);
        self.publish_capacity(index);
    }

    /// Queues a message that goes to many links.
    ///
    /// Posts take the lower half of the output and leave the grant free. A link with nothing unsent
    /// shares the message, for one entry. A link with unsent bytes gets a copy in borrowed buffers, so
    /// that a link that does not read holds one shared message and not all later ones. If it cannot
    /// borrow, it shares the message while it has entries.
    pub(crate) fn post(
        &mut self,
        index: u32,
        message: &Message,
        when_slow: Option<WhenSlow>,
    ) -> Posted {
        if self.check_capacity(index, message.len()).is_ok() && self.push_post(index, message) {
            self.note_post(index);
            return Posted::Queued;
        }
        self.stats().missed.add(1);
        let slot = &mut self.slots[index];
        slot.totals.missed += 1;
        match when_slow.unwrap_or(slot.posts.when_slow) {
            WhenSlow::Skip => Posted::Missed,
            WhenSlow::Disconnect => Posted::TooSlow,
        }
    }

    /// Buffers that posts of the link's callbacks may still take in this turn. The budget is a part of
    /// the shard's buffers for posts, so that one link leaves the rest to the others.
    #[inline]
    pub(crate) fn post_budget(&mut self, index: u32) -> u32 {
        let slot = &mut self.slots[index];
        if slot.posts.budget_turn != self.turn {
            (slot.posts.budget_turn, slot.posts.budget) = (self.turn, self.post_budget_max);
        }
        slot.posts.budget
    }

    /// Publishes how many bytes posts may take of the link's output, if that has changed.
    pub(crate) fn publish_capacity(&mut self, index: u32) {
        let slot = &mut self.slots[index];
        let capacity = slot.post_capacity();
        if capacity != slot.posts.published_capacity {
            slot.posts.published_capacity = capacity;
            self.quotas().set_capacity(index, capacity);
        }
    }

    /// Releases the entries of posts that were sent, and publishes the capacity for posts.
    pub(super) fn settle_posts(&mut self, index: u32) {
        let slot = &mut self.slots[index];
        let gone = slot.posts.accepted_entries.saturating_sub(slot.messages());
        slot.posts.accepted_entries -= gone;
        self.accepted_entries -= gone;
        self.quotas().release_entries(gone);
        self.publish_capacity(index);
    }

    /// Copies a post behind unsent bytes, if the link can borrow the buffers; returns whether it did.
    fn copy_post(&mut self, index: u32, message: &Message) -> bool {
        let reserved = self.reserved_beside(index);
        let slot = &mut self.slots[index];
        let buffers_allowed = self.shares.post_buffers_allowed(slot.loans.held, reserved);
        let owner = Owner::SendQueue;
        slot.has_output()
            && slot.output.queue.append_copy_of(&self.pool, message, owner, buffers_allowed).is_ok()
    }

    fn push_post(&mut self, index: u32, message: &Message) -> bool {
        let slot = &self.slots[index];
        let capacity =
            (slot.post_capacity() as usize).saturating_sub(self.quotas().accepted(index));
        if message.len() > capacity {
            return false;
        }
        if self.slots[index].output.broken.is_some() || self.copy_post(index, message) {
            return true;
        }
        self.has_entry_for(index)
            && self.slots[index].output.queue.push_message(&self.pool, message.clone()).is_ok()
    }

    /// Free entries beyond those reserved for accepted posts.
    fn free_entry_count(&self) -> u32 {
        let kept = self.shared.settings.post_entries() - self.accepted_entries;
        self.pool.free_message_entry_count().saturating_sub(kept)
    }

    /// Whether the link may share one more message: at most `MESSAGES_PER_LINK`, and beyond the first
    /// only if each link without one keeps an entry.
    pub(super) fn has_entry_for(&self, index: u32) -> bool {
        let (messages, free) = (self.slots[index].messages(), self.free_entry_count());
        let is_others = messages >= MESSAGES_PER_LINK
            || free == 0
            || (messages > 0 && free <= self.sharing.reserved());
        !is_others
    }
}

/// Counts the links that share a message, to reserve an entry for the first message of each other link.
#[derive(Debug)]
pub(super) struct Sharing {
    links: u32,
    /// Links that share at least one message.
    with: u32,
}

impl Sharing {
    pub(super) fn new(links: u32) -> Self {
        Self { links, with: 0 }
    }

    /// Updates the count after a change of the link's messages.
    #[inline]
    pub(super) fn note(&mut self, slot: &mut Slot) {
        let shares = slot.messages() > 0;
        if shares != slot.posts.shares {
            slot.posts.shares = shares;
            self.with = if shares { self.with + 1 } else { self.with - 1 };
        }
    }

    /// Entries reserved for links that share no message.
    fn reserved(&self) -> u32 {
        self.links - self.with
    }
}
