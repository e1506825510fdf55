//! What a shard's callbacks may touch: links, queues, buffers; never the port.

use super::id::LinkId;
use super::slot::{Phase, Slots};
use crate::error::SendError;
use crate::plant::EnginePlant;
use crate::server::shared::Shared;
use crate::stats::ShardStats;
use std::collections::VecDeque;
use std::sync::Arc;
use wharf_port::memory::{Buffer, BufferPool, Chain, Owner};
use wharf_port::port::Time;

/// One shard's links and what they send.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) shard: u8,
    pub(crate) now: Time,
    pub(crate) slots: Slots,
    /// A buffer set aside for the answer to a received one when no other is free: the received
    /// one comes home right after, and takes its place. So what came in can always be answered.
    set_aside: Option<Buffer>,
    /// Behind everything that holds buffers: what is out when a pool's last handle goes is leaked.
    pub(crate) pool: BufferPool,
    pub(crate) shared: Arc<Shared>,
    /// Links with queued bytes and no send in flight; each is here at most once.
    pub(crate) dirty: Vec<u32>,
    /// Links that hold buffers.
    pub(crate) holding: u32,
    /// Buffers that the port will take back for receiving.
    pub(crate) wanted: u32,
    /// Links that were refused buffers while they held none: nothing of theirs will be sent and
    /// tell them to go on, so they are told when there are some.
    pub(crate) short: VecDeque<u32>,
    /// Buffers that can be received into in one turn.
    window: u32,
    /// A received buffer is being handled.
    answering: bool,
}

impl Core {
    pub(crate) fn new(shard: u8, capacity: u32, pool: BufferPool, shared: Arc<Shared>) -> Self {
        Self {
            shard,
            now: Time::default(),
            slots: Slots::new(capacity),
            pool,
            dirty: Vec::with_capacity(capacity as usize),
            holding: 0,
            wanted: 0,
            short: VecDeque::with_capacity(capacity as usize),
            window: shared.settings.receive_window(),
            set_aside: None,
            answering: false,
            shared,
        }
    }

    pub(crate) fn stats(&self) -> &ShardStats {
        &self.shared.shards[usize::from(self.shard)].stats
    }

    pub(crate) fn id(&self, index: u32) -> LinkId {
        LinkId::new(self.shard, index, self.slots[index].generation)
    }

    /// Queues a copy of `data` on a link.
    pub(crate) fn queue(&mut self, index: u32, data: &[u8]) -> Result<(), SendError> {
        if data.is_empty() {
            return Ok(());
        }
        let ignored = self.shared.planted.is(EnginePlant::IgnoreAllowance);
        let allowance = if ignored { u32::MAX } else { self.allowance(index) };
        let result = self.room_for(index, data.len()).and_then(|()| {
            let queue = &mut self.slots[index].queue;
            match queue.append(&self.pool, data, Owner::SendQueue, allowance) {
                Ok(()) => Ok(()),
                Err(_) if self.answer_with_the_one_set_aside(index, data) => Ok(()),
                Err(_) => Err(self.short_of_buffers(index, data.len())),
            }
        });
        self.queued(index, result)
    }

    /// A received buffer is about to be handled: its answer may use the buffer set aside.
    pub(crate) fn begin_answer(&mut self) {
        self.answering = true;
    }

    /// The received buffer is home again.
    pub(crate) fn end_answer(&mut self) {
        self.answering = false;
        if self.set_aside.is_none() {
            self.set_aside = self.pool.acquire(Owner::Application);
        }
    }

    #[cfg(feature = "sim")]
    pub(crate) fn has_set_aside(&self) -> bool {
        self.set_aside.is_some()
    }

    fn answer_with_the_one_set_aside(&mut self, index: u32, data: &[u8]) -> bool {
        let slot = &mut self.slots[index];
        if !self.answering || slot.holds() || data.len() > self.pool.buffer_size_bytes() as usize {
            return false;
        }
        let Some(mut buffer) = self.set_aside.take() else { return false };
        buffer.append(data);
        buffer.set_owner(Owner::SendQueue);
        slot.queue.push(&self.pool, buffer).is_ok()
    }

    /// Notes that a link could not get the buffers for `len` bytes, and says what its handler is
    /// told.
    fn short_of_buffers(&mut self, index: u32, len: usize) -> SendError {
        let needed = len.div_ceil(self.pool.buffer_size_bytes() as usize);
        let needed = u32::try_from(needed).unwrap_or(u32::MAX);
        if needed > self.pool.capacity().saturating_sub(self.window + self.reserve()).max(1) {
            return SendError::TooLarge;
        }
        let slot = &mut self.slots[index];
        if !slot.holds() {
            if slot.wants == 0 {
                self.short.push_back(index);
            }
            slot.wants = needed;
        }
        SendError::NoBuffers
    }

    /// Takes out the next link that was refused buffers and can have them now.
    pub(crate) fn next_relieved(&mut self) -> Option<u32> {
        for _ in 0..self.short.len() {
            let index = self.short.pop_front()?;
            if self.allowance(index) >= self.slots[index].wants {
                self.slots[index].wants = 0;
                return Some(index);
            }
            self.short.push_back(index);
        }
        None
    }

    /// Gives a place back.
    pub(crate) fn release(&mut self, index: u32) {
        if self.slots[index].dirty {
            self.dirty.retain(|dirty| *dirty != index);
        }
        if self.slots[index].wants > 0 {
            self.short.retain(|short| *short != index);
        }
        self.slots.release(index);
    }

    /// Queues a message that came from another thread, or goes to many links.
    ///
    /// A link with nothing to send shares the message's own buffers. One that has something still
    /// to send gets a copy, in buffers of its own: so a link that does not read keeps one shared
    /// message from coming home, and not all that come after it.
    pub(crate) fn queue_shared(&mut self, index: u32, message: &Chain) -> Result<(), SendError> {
        let result = self.room_for(index, message.len()).and_then(|()| {
            if self.slots[index].holds() {
                return self.queue_copy(index, message);
            }
            let queue = &mut self.slots[index].queue;
            queue.share(&self.pool, message).map_err(|_| SendError::NoBuffers)
        });
        self.queued(index, result)
    }

    fn queue_copy(&mut self, index: u32, message: &Chain) -> Result<(), SendError> {
        let allowance = self.allowance(index);
        let queue = &mut self.slots[index].queue;
        queue
            .append_copy(&self.pool, message, Owner::SendQueue, allowance)
            .map_err(|_| SendError::NoBuffers)
    }

    /// Queues `message` on every open link of this shard but `except`; those without room are left
    /// out and counted.
    pub(crate) fn broadcast(&mut self, message: &Chain, except: Option<u32>) {
        for n in 0..self.slots.live_count() {
            let index = self.slots.live(n);
            let except = except.filter(|_| !self.shared.planted.is(EnginePlant::BroadcastToSender));
            if Some(index) == except || self.slots[index].phase != Phase::Open {
                continue;
            }
            if self.queue_shared(index, message).is_err() {
                self.stats().broadcast_skips.add(1);
            }
        }
    }

    /// How many more buffers the link may take.
    ///
    /// A link that holds none may take any free buffer. One that holds some leaves free what the
    /// port wants for receiving, and one buffer for every link that holds none, up to half of the
    /// pool: so whatever others do, each link can always have one message on its way.
    pub(crate) fn allowance(&self, index: u32) -> u32 {
        let spare = self.spare();
        if self.slots[index].holds() { spare } else { spare.max(1).min(self.pool.free()) }
    }

    /// Whether buffers are so short that what can come in at once, on links that go on receiving
    /// for a moment after they were told not to, could need more than there are: twice the window,
    /// what is being handled and what is on its way.
    pub(crate) fn is_pressed(&self, was_pressed: bool) -> bool {
        // Three times the window ends it, so that it does not come and go.
        self.spare() < self.window * if was_pressed { 3 } else { 2 }
    }

    /// Buffers beyond those that are kept for receiving and for links that hold none.
    fn spare(&self) -> u32 {
        let kept = self.wanted + self.reserve().saturating_sub(self.holding);
        self.pool.free().saturating_sub(kept)
    }

    /// Buffers that are kept for links that hold none.
    fn reserve(&self) -> u32 {
        self.slots.capacity().min(self.pool.capacity() / 2)
    }

    fn room_for(&self, index: u32, len: usize) -> Result<(), SendError> {
        let slot = &self.slots[index];
        let limit = self.shared.settings.send_queue_bytes as usize;
        if !slot.is_served() || slot.close_asked {
            Err(SendError::Gone)
        } else if len > limit {
            Err(SendError::TooLarge)
        } else if self.shared.planted.is(EnginePlant::IgnoreQueueLimit) {
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
        self.mark_dirty(index);
        Ok(())
    }

    /// Lets the next flush look at the link.
    pub(crate) fn mark_dirty(&mut self, index: u32) {
        let slot = &mut self.slots[index];
        if !slot.sending && !slot.dirty {
            slot.dirty = true;
            self.dirty.push(index);
        }
        self.recount(index);
    }

    /// Keeps the count of links that hold buffers, after one's queue or send has changed.
    pub(crate) fn recount(&mut self, index: u32) {
        let slot = &mut self.slots[index];
        if slot.holds() != slot.counted && !self.shared.planted.strikes(EnginePlant::Miscount) {
            slot.counted = slot.holds();
            if slot.counted { self.holding += 1 } else { self.holding -= 1 }
        }
    }
}
