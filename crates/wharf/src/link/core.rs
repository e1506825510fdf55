//! What a shard's callbacks may touch: links, queues, buffers; never the port.

use super::id::LinkId;
use super::slot::{Phase, Slots};
use crate::error::SendError;
use crate::plant::EnginePlant;
use crate::server::shared::Shared;
use crate::stats::ShardStats;
use std::sync::Arc;
use wharf_port::memory::{BufferPool, Chain, Owner};
use wharf_port::port::Time;

/// One shard's links and what they send.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) shard: u8,
    pub(crate) now: Time,
    pub(crate) slots: Slots,
    pub(crate) pool: BufferPool,
    pub(crate) shared: Arc<Shared>,
    /// Links with queued bytes and no send in flight; each is here at most once.
    pub(crate) dirty: Vec<u32>,
    /// Links that hold buffers.
    pub(crate) holding: u32,
    /// Buffers that the port will take back for receiving.
    pub(crate) wanted: u32,
}

impl Core {
    pub(crate) fn new(shard: u8, capacity: u32, pool: BufferPool, shared: Arc<Shared>) -> Self {
        Self {
            shard,
            now: Time::default(),
            slots: Slots::new(capacity),
            pool,
            shared,
            dirty: Vec::with_capacity(capacity as usize),
            holding: 0,
            wanted: 0,
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
            queue
                .append(&self.pool, data, Owner::SendQueue, allowance)
                .map_err(|_| SendError::NoBuffers)
        });
        self.queued(index, result)
    }

    /// Queues other handles to the buffers of `message` on a link.
    pub(crate) fn queue_shared(&mut self, index: u32, message: &Chain) -> Result<(), SendError> {
        let result = self.room_for(index, message.len()).and_then(|()| {
            let queue = &mut self.slots[index].queue;
            queue.share(&self.pool, message).map_err(|_| SendError::NoBuffers)
        });
        self.queued(index, result)
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
        let free = self.pool.free();
        let reserve = self.slots.capacity().min(self.pool.capacity() / 2);
        let kept = self.wanted + reserve.saturating_sub(self.holding);
        let spare = free.saturating_sub(kept);
        if self.slots[index].holds() { spare } else { spare.max(1).min(free) }
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
