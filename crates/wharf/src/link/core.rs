//! What a shard's callbacks may touch: links, queues, buffers; never the port.

use super::fifo::Fifo;
use super::id::LinkId;
use super::slot::{Phase, Slot, Slots, Wish};
use crate::error::SendError;
use crate::limits::MESSAGES_PER_LINK;
use crate::plant::EnginePlant;
use crate::server::shared::Shared;
use crate::shares::{Loan, Shares};
use crate::stats::ShardStats;
use std::sync::Arc;
use wharf_port::memory::{BufferPool, Message, Owner};
use wharf_port::port::Time;

/// One shard's links and what they send.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) shard: u8,
    /// The links' clock: see `Worker::link_time`.
    pub(crate) now: Time,
    /// Counts the turns, so that each link has a budget of calls in each.
    pub(crate) turn: u32,
    pub(crate) slots: Slots,
    pub(crate) shares: Shares,
    /// Which links share messages.
    sharing: Sharing,
    /// Behind everything that holds buffers.
    pub(crate) pool: BufferPool,
    pub(crate) shared: Arc<Shared>,
    stats: Arc<ShardStats>,
    /// Links with queued bytes and no send in flight; each is here at most once.
    pub(crate) dirty: Vec<u32>,
    /// Links that wait for a loan, in order of asking.
    pub(crate) waiters: Fifo,
    /// The link whose wish is being granted: what is reserved is for itself.
    pub(crate) granting: Option<u32>,
}

impl Core {
    pub(crate) fn new(shard: u8, capacity: u32, pool: BufferPool, shared: Arc<Shared>) -> Self {
        Self {
            shard,
            now: Time::default(),
            turn: 0,
            slots: Slots::new(capacity),
            shares: Shares::new(shared.settings.division()),
            sharing: Sharing { links: capacity, with: 0 },
            pool,
            dirty: Vec::with_capacity(capacity as usize),
            waiters: Fifo::new(capacity),
            granting: None,
            stats: Arc::clone(&shared.shards[usize::from(shard)].stats),
            shared,
        }
    }

    #[inline]
    pub(crate) fn stats(&self) -> &ShardStats {
        &self.stats
    }

    pub(crate) fn id(&self, index: u32) -> LinkId {
        LinkId::new(self.shard, index, self.slots[index].generation)
    }

    /// Queues a copy of `data` on a link.
    pub(crate) fn queue(&mut self, index: u32, data: &[u8]) -> Result<(), SendError> {
        if data.is_empty() {
            return Ok(());
        }
        let result = self.room_for(index, data.len()).and_then(|()| {
            if self.slots[index].broken.is_some() {
                return Ok(());
            }
            let reserved = self.reserved_beside(index);
            let slot = &mut self.slots[index];
            let ignored = self.shared.planted.is(EnginePlant::IgnoreAllowance);
            let allowance = self.shares.output_allowance(slot.held, reserved);
            let no_guarantee = self.shared.planted.is(EnginePlant::NoGuarantee);
            let allowance = if ignored {
                u32::MAX
            } else if no_guarantee {
                self.shares.lendable(reserved)
            } else {
                allowance
            };
            match slot.queue.append(&self.pool, data, Owner::SendQueue, allowance) {
                Ok(()) => {
                    self.end_output_wish(index, data.len());
                    Ok(())
                }
                Err(_) => Err(self.wish_for_output(index, data.len())),
            }
        });
        self.queued(index, result)
    }

    /// Queues a message that came from another thread, or goes to many links.
    ///
    /// It has the lower half of the output, and leaves the grant free. A link with no message
    /// waiting shares it, for one entry. One that has some gets a copy in buffers of its own, so
    /// that a link which does not read keeps one message from coming home, and not all that come
    /// after it; if it can borrow none, it shares as many as each link has entries for.
    pub(crate) fn queue_message(&mut self, index: u32, message: &Message) -> Result<(), SendError> {
        let result = self.room_for(index, message.len());
        let result = result.and_then(|()| self.push_message(index, message));
        self.queued(index, result)
    }

    fn push_message(&mut self, index: u32, message: &Message) -> Result<(), SendError> {
        let high_water = self.shared.settings.high_water_bytes() as usize;
        let is_above = self.slots[index].backlog() + message.len() > high_water;
        if is_above && !self.shared.planted.is(EnginePlant::IgnoreQueueLimit) {
            return Err(SendError::QueueFull);
        }
        let reserved = self.reserved_beside(index);
        let slot = &mut self.slots[index];
        if slot.broken.is_some() {
            return Ok(());
        }
        if slot.has_output() {
            let allowance = self.shares.post_allowance(slot.held, reserved);
            let owner = Owner::SendQueue;
            if slot.queue.append_copy_of(&self.pool, message, owner, allowance).is_ok() {
                return Ok(());
            }
        }
        if self.shared.planted.is(EnginePlant::EntryPerBuffer) {
            let each = message.len().div_ceil(self.pool.buffer_size_bytes() as usize);
            let entries = self.shared.settings.shard_pool().shared_entries as usize;
            let used = entries - self.pool.free_message_entries() as usize;
            if (used + 1) * each > entries {
                return Err(SendError::NoBuffers);
            }
        }
        // One more would be an entry of others, who read.
        let messages = slot.messages();
        let is_others = messages >= MESSAGES_PER_LINK
            || (messages > 0 && self.pool.free_message_entries() <= self.sharing.reserved());
        if is_others && !self.shared.planted.is(EnginePlant::TakeOthersEntries) {
            return Err(SendError::NoBuffers);
        }
        slot.queue.push_message(&self.pool, message.clone()).map_err(|_| SendError::NoBuffers)
    }

    /// Queues `message` on every open link of this shard but `except`; those without room are left
    /// out and counted.
    pub(crate) fn broadcast(&mut self, message: &Message, except: Option<u32>) {
        for n in 0..self.slots.live_count() {
            let index = self.slots.live(n);
            let except = except.filter(|_| !self.shared.planted.is(EnginePlant::BroadcastToSender));
            if Some(index) == except || !self.slots[index].is_served() {
                continue;
            }
            if self.queue_message(index, message).is_err() {
                self.stats().broadcast_skips.add(1);
            }
        }
    }

    fn room_for(&self, index: u32, len: usize) -> Result<(), SendError> {
        let slot = &self.slots[index];
        let limit = self.shared.settings.send_queue_bytes as usize;
        if !slot.is_served() || slot.close_asked {
            Err(SendError::Gone)
        } else if len > limit {
            Err(SendError::TooLarge)
        } else if slot.broken.is_some() || self.shared.planted.is(EnginePlant::IgnoreQueueLimit) {
            // What is sent on a broken link is thrown away.
            Ok(())
        } else if slot.backlog() + len > limit {
            Err(SendError::QueueFull)
        } else {
            Ok(())
        }
    }

    fn queued(&mut self, index: u32, result: Result<(), SendError>) -> Result<(), SendError> {
        if result.is_err() {
            self.stats().send_refusals.add(1);
            return result;
        }
        self.stats().sent_messages.add(1);
        let slot = &mut self.slots[index];
        if slot.broken.is_some() {
            return Ok(());
        }
        if !slot.sending && !slot.dirty {
            (slot.moved, slot.looked) = (self.now, false);
            slot.output_begins(self.now);
            slot.dirty = true;
            self.dirty.push(index);
        }
        self.settle(index);
        Ok(())
    }

    /// Lets the next flush look at the link.
    pub(crate) fn mark_dirty(&mut self, index: u32) {
        let slot = &mut self.slots[index];
        if !slot.sending && !slot.dirty {
            slot.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Keeps the account of loans, after what a link holds has changed.
    pub(crate) fn settle(&mut self, index: u32) {
        let slot = &mut self.slots[index];
        self.sharing.note(slot);
        let (before, after) = (slot.held, slot.holds());
        if before == after || self.shared.planted.strikes(EnginePlant::Miscount) {
            return;
        }
        if before.input <= 1 {
            // A loan begins.
            slot.eased = self.now;
        }
        slot.held = after;
        self.shares.settle(before, after);
    }

    /// Whether a callback with input may come: the output is not above its high-water mark, and
    /// has the grant.
    pub(crate) fn has_room(&self, index: u32) -> bool {
        if self.shared.planted.is(EnginePlant::CallWithoutRoom) {
            return true;
        }
        let slot = &self.slots[index];
        // Most links that are called hold nothing.
        !slot.has_output()
            || slot.broken.is_some()
            || (slot.backlog() <= self.shared.settings.high_water_bytes() as usize
                && self.shares.has_grant(slot.held, self.reserved_beside(index)))
    }

    /// The buffers that `len` bytes take.
    fn buffers_of(&self, len: usize) -> u32 {
        let buffers = len.div_ceil(self.pool.buffer_size_bytes() as usize);
        u32::try_from(buffers).unwrap_or(u32::MAX)
    }

    /// A link has queued `len` bytes: if it has waited for a loan for as many, it waits no more.
    #[inline]
    fn end_output_wish(&mut self, index: u32, len: usize) {
        if let Some(Wish::Output(buffers)) = self.slots[index].wish
            && self.buffers_of(len) >= buffers
        {
            self.end_wish(index);
        }
    }

    /// Notes that a link could not get the buffers for `len` bytes, and says what its handler is
    /// told. Where the buffers of its own send will do, it waits for that and for no loan.
    fn wish_for_output(&mut self, index: u32, len: usize) -> SendError {
        let needed = self.buffers_of(len);
        if needed > self.shares.grant() || !self.slots[index].has_output() {
            self.wish(index, Wish::Output(needed));
        }
        SendError::NoBuffers
    }

    /// Has the link wait for a loan; it keeps its place if it waits already.
    pub(crate) fn wish(&mut self, index: u32, wish: Wish) {
        if !self.waiters.contains(index) {
            self.slots[index].wishes_since = self.now;
            self.waiters.push(index);
        }
        // What it holds comes back with its answer: it must not wait for one that waits for that.
        let held = self.slots[index].holds();
        if matches!(wish, Wish::Output(_)) && self.shares.loan(held).input > 0 {
            self.waiters.push_first(index);
        }
        self.slots[index].wish = Some(wish);
    }

    pub(crate) fn end_wish(&mut self, index: u32) {
        let slot = &mut self.slots[index];
        if slot.wish.take().is_some() {
            self.waiters.remove(index);
            // The peer owed nothing meanwhile.
            slot.hear(self.now);
        }
    }

    /// The link waits for no loan to receive into any more, and is promised none.
    pub(crate) fn forget_input_loan(&mut self, index: u32) {
        if matches!(self.slots[index].wish, Some(Wish::Input(_))) {
            self.end_wish(index);
        }
        if self.slots[index].promised > 0 {
            self.slots[index].promised = 0;
            self.settle(index);
        }
    }

    /// What a link lacks, as loans.
    pub(crate) fn need(&self, index: u32) -> Loan {
        let slot = &self.slots[index];
        match slot.wish {
            None => Loan::default(),
            Some(Wish::Input(buffers)) => Loan { input: buffers, output: 0 },
            Some(Wish::Output(buffers)) => {
                Loan { input: 0, output: self.shares.output_need(slot.held, buffers) }
            }
        }
    }

    /// What is set aside for the link that has waited longest; nothing for that link itself.
    pub(crate) fn reserved_beside(&self, index: u32) -> u32 {
        match self.waiters.first() {
            None => 0,
            Some(_) if self.granting == Some(index) => 0,
            Some(first) if first == index => 0,
            Some(first) => self.need(first).total(),
        }
    }

    /// Whether what the link waits for can be lent now.
    pub(crate) fn can_grant(&self, index: u32) -> bool {
        let need = self.need(index);
        need.output <= self.shares.lendable(0) && need.input <= self.shares.lendable_input(0)
    }

    /// Drops what is unread, and ends what it waits for: the link is not served any more.
    pub(crate) fn drop_input(&mut self, index: u32) {
        self.end_wish(index);
        let slot = &mut self.slots[index];
        slot.input = wharf_port::memory::Chain::new();
        slot.promised = 0;
        self.settle(index);
    }

    /// Gives a place back.
    pub(crate) fn release(&mut self, index: u32) {
        let slot = &self.slots[index];
        // A flush came between the close and here.
        assert!(!slot.dirty && slot.phase == Phase::Closing, "{slot:?} is given back too early");
        self.drop_input(index);
        self.slots.release(index);
    }
}

/// How many links share a message, so that each of the others has an entry for its first one.
#[derive(Debug)]
struct Sharing {
    links: u32,
    /// Those that share one.
    with: u32,
}

impl Sharing {
    /// A link may have begun to share, or to share nothing any more.
    #[inline]
    fn note(&mut self, slot: &mut Slot) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Settings;
    use std::net::SocketAddr;
    use std::time::{Duration, Instant};
    use wharf_port::memory::Chain;

    /// A shard of so many links, all open, and of so many buffers of 64 bytes.
    fn core(links: u32, buffers: u32) -> Core {
        let settings = Settings {
            shards: 1,
            links,
            buffers: Some(buffers),
            buffer_size_bytes: 64,
            input_bytes: 1_024,
            send_queue_bytes: 2_048,
            ..Settings::default()
        };
        settings.check().unwrap();
        let pool = BufferPool::new(settings.shard_pool()).unwrap();
        let mut core = Core::new(0, links, pool, Arc::new(Shared::new(settings).unwrap()));
        for _ in 0..links {
            core.slots.open(SocketAddr::from(([127, 0, 0, 1], 1)), Time(0)).unwrap();
        }
        core
    }

    /// All that a link had queued has been sent.
    fn send_all(core: &mut Core, index: u32) {
        core.slots[index].queue = Chain::new();
        core.settle(index);
    }

    #[test]
    fn who_was_refused_buffers_and_then_has_queued_as_much_waits_no_more() {
        // As few as can be: one link can have full input and full output.
        let mut core = core(4, 87);
        let [holder, refused, next] = [0, 1, 2];
        core.queue(holder, &[1; 2_048]).unwrap();
        assert_eq!(core.queue(refused, &[2; 2_048]), Err(SendError::NoBuffers));
        assert_eq!(core.queue(next, &[3; 2_000]), Err(SendError::NoBuffers));
        assert_eq!(core.waiters.iter().collect::<Vec<_>>(), [refused, next]);
        // What the first one waits for is kept for it.
        send_all(&mut core, holder);
        assert_eq!(core.queue(next, &[3; 2_000]), Err(SendError::NoBuffers));
        // A part of it is not what it has waited for.
        core.queue(refused, &[2; 64]).unwrap();
        assert_eq!(core.waiters.first(), Some(refused));
        send_all(&mut core, refused);
        // Its handler did not wait to be called.
        core.queue(refused, &[2; 2_048]).unwrap();
        assert_eq!(core.slots[refused].wish, None);
        assert_eq!(core.waiters.iter().collect::<Vec<_>>(), [next]);
        // So nothing is kept for it any more.
        assert_eq!(core.reserved_beside(holder), core.need(next).total());
        send_all(&mut core, refused);
        core.queue(next, &[3; 2_000]).unwrap();
        assert_eq!(core.waiters.first(), None);
        assert_eq!(core.reserved_beside(holder), 0);
    }

    #[test]
    fn links_that_wait_for_loans_and_have_output_are_closed_in_linear_time() {
        // A search, from either end, would find one of the two at once.
        for last_goes_first in [false, true] {
            let least =
                |links| (0..3).map(|_| time_to_close(links, last_goes_first)).min().unwrap();
            let (few, many) = (least(1_000), least(16_000));
            // Sixteen times as many take about sixteen times as long; 256 times if each looks at
            // all others.
            let most = few * 64 + Duration::from_millis(5);
            assert!(many < most, "{few:?}, sixteen times as many: {many:?}");
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a test has no port whose clock it could ask")]
    fn time_to_close(links: u32, last_goes_first: bool) -> Duration {
        let mut core = core(links, 3 * links);
        for index in 0..links {
            core.queue(index, b"unsent").unwrap();
            core.wish(index, Wish::Input(1));
        }
        let start = Instant::now();
        for n in 0..links {
            let index = if last_goes_first { links - 1 - n } else { n };
            core.slots[index].phase = Phase::Closing;
            core.slots[index].queue = Chain::new();
            core.drop_input(index);
        }
        while let Some(index) = core.dirty.pop() {
            core.slots[index].dirty = false;
        }
        for n in 0..links {
            core.release(if last_goes_first { links - 1 - n } else { n });
        }
        let time = start.elapsed();
        assert_eq!(core.waiters.first(), None);
        assert_eq!((core.slots.live_count(), core.shares.lendable(0) > 0), (0, true));
        time
    }
}
