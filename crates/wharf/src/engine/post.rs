//! What other threads, and the callbacks of other links, have for links: posts, and marks.

pub(super) mod pending;

use crate::engine::callbacks::guarded;
use crate::engine::close::How;
use crate::engine::post::pending::Broadcast;
use crate::engine::worker::Worker;
use crate::link::posts::Posted;
use crate::link::slot::Phase;
use crate::service::Service;
use crate::shared::marks::Mark;
use crate::shared::reply::Outcome;
use crate::shared::{Command, ShardPort};
use crate::vocabulary::id::LinkKey;
use crate::vocabulary::policy::WhenSlow;
use crate::vocabulary::reason::DisconnectReason;
use std::time::Duration;
use wharf_port::memory::Message;

/// When a link whose post was refused may try again: nobody tells that the receiver has room.
const RETRY_AFTER: Duration = Duration::from_millis(5);

impl<P: ShardPort, V: Service> Worker<P, V> {
    /// Does what another thread asked for.
    pub(super) fn obey(&mut self, command: Command<P::Stream>) {
        self.deliver_held();
        match command {
            Command::Adopt { stream, peer, listener } => self.adopt(stream, peer, listener),
            Command::Post { link, message } => {
                let found = self.core.slots.find(link.index(), link.generation()).is_some();
                let quotas = self.core.quotas();
                quotas.forget(link.index(), link.generation(), message.len());
                if found {
                    self.core.post_accepted(link.index(), message);
                } else {
                    quotas.free_entries(1);
                }
            }
            Command::Broadcast { message, except, when_slow, number } => {
                let broadcast = Broadcast { message, except, when_slow, number };
                // Whoever reads it could post an answer that overtakes it elsewhere.
                if self.core.shared.is_broadcast(number) {
                    self.broadcast(&broadcast);
                } else {
                    self.pending.held = Some(broadcast);
                }
            }
        }
    }

    /// Delivers the broadcast that was held until it is in every inbox, if that is so.
    pub(super) fn deliver_held(&mut self) {
        let published =
            self.pending.held.take_if(|held| self.core.shared.is_broadcast(held.number));
        if let Some(broadcast) = published {
            self.broadcast(&broadcast);
        }
    }

    fn broadcast(&mut self, broadcast: &Broadcast) {
        let Broadcast { message, except, when_slow, .. } = broadcast;
        let except = except.filter(|link| {
            link.shard() == usize::from(self.core.shard)
                && self.core.slots.find(link.index(), link.generation()).is_some()
        });
        let except = except.map(LinkKey::index);
        self.for_each_live(|worker, index| {
            if Some(index) != except && worker.core.slots[index].is_served() {
                worker.deliver(index, message, *when_slow);
            }
        });
    }

    fn deliver(&mut self, index: u32, message: &Message, when_slow: Option<WhenSlow>) {
        if self.core.post(index, message, when_slow) == Posted::TooSlow {
            self.close(index, DisconnectReason::SlowReader, How::Now);
        }
    }

    /// Does what other threads have asked of single links. Replies come at once; all else comes after
    /// what was in the inbox before, because who closes a link may have posted to it.
    pub(super) fn obey_marks(&mut self) {
        self.deliver_held();
        if !self.pending.marked.is_empty() {
            self.pending.turns_to_marks = self.pending.turns_to_marks.saturating_add(1);
            let is_handed_out = self.has_handed_out(self.pending.turns_to_marks);
            if !is_handed_out || self.pending.held.is_some() {
                return;
            }
            let mut marked = std::mem::take(&mut self.pending.marked);
            for (index, generation, mark) in marked.drain(..) {
                if self.core.slots.find(index, generation).is_some() {
                    self.obey_mark(index, mark);
                }
            }
            self.pending.marked = marked;
        }
        if self.core.marks().any() {
            self.collect_marks();
        }
    }

    fn collect_marks(&mut self) {
        self.pending.turns_to_marks = 0;
        let mut marked = std::mem::take(&mut self.pending.marked);
        let shared = std::sync::Arc::clone(&self.core.shared);
        let marks = &shared.shards[usize::from(self.core.shard)].marks;
        marks.take(|index, generation, mark| {
            // One that comes with a close finds the link closing.
            if !mark.closes() && (mark.has(Mark::REPLY) || mark.has(Mark::RETURNED)) {
                self.reply_came(index);
            }
            marked.push((index, generation, mark));
        });
        self.pending.marked = marked;
    }

    fn obey_mark(&mut self, index: u32, mark: Mark) {
        if mark.has(Mark::ABORT) {
            self.close(index, DisconnectReason::Kicked, How::Reset);
        } else if mark.has(Mark::CLOSE) {
            self.close(index, DisconnectReason::Kicked, How::Flush);
        }
        if mark.closes() && mark.has(Mark::REPLY) {
            self.reply_came(index);
        }
        if !self.core.slots[index].is_served() {
            return;
        }
        if mark.has(Mark::TOO_SLOW) {
            self.close(index, DisconnectReason::SlowReader, How::Now);
        } else if mark.has(Mark::RESUME) {
            let now = self.core.now;
            self.core.slots[index].resume(now);
            self.go_on(index);
        }
    }

    /// A deferred reply was sent, or given up; or its buffers come back to a link that has ended.
    fn reply_came(&mut self, index: u32) {
        let shard = &self.core.shared.shards[usize::from(self.core.shard)];
        let Some((parcel, outcome)) = shard.replies[index as usize].take() else { return };
        let chain = parcel.into_chain(&self.core.pool);
        let now = self.core.now;
        let slot = &mut self.core.slots[index];
        slot.deferral = None;
        if std::mem::take(&mut slot.cancelled) {
            drop(chain);
            self.core.settle(index);
            let slot = &self.core.slots[index];
            if slot.phase == Phase::Closing && slot.socket.is_none() {
                self.free_place(index);
            } else if slot.phase == Phase::Flushing && !slot.has_output() {
                self.flushed(index);
            }
            return;
        }
        let takes = matches!(slot.phase, Phase::Open | Phase::Draining | Phase::Flushing)
            && slot.broken.is_none();
        if takes && outcome != Outcome::Failed && !chain.is_empty() {
            self.core.queue_reply(index, chain);
        } else {
            drop(chain);
            slot.owe_no_more(now);
            self.core.settle(index);
            // A finished output may have waited for this.
            self.core.mark_dirty(index);
        }
        let slot = &mut self.core.slots[index];
        slot.woken = true;
        match (slot.phase, outcome) {
            (Phase::Open | Phase::Draining, Outcome::Send) => self.go_on(index),
            (Phase::Open | Phase::Draining, Outcome::Close) => {
                self.close(index, DisconnectReason::HandlerClosed, How::Flush);
            }
            (Phase::Open | Phase::Draining, Outcome::Failed) => {
                self.close(index, DisconnectReason::HandlerError, How::Flush);
            }
            (Phase::Flushing, outcome) => {
                if outcome == Outcome::Failed {
                    slot.reason = Some(DisconnectReason::HandlerError);
                }
                if slot.has_output() {
                    self.start_time_out(index);
                } else {
                    self.flushed(index);
                }
            }
            (Phase::Free | Phase::Lingering | Phase::Closing, _) => {}
        }
    }

    /// The link's handler may go on; and if it is at its end, it ends.
    pub(super) fn go_on(&mut self, index: u32) {
        self.serve(index);
        self.end_if_answered(index);
        self.start_time_out(index);
        self.steer(index);
    }

    /// A post of the link's callback found its receiver full.
    #[cold]
    pub(super) fn note_refused_post(&mut self, index: u32) {
        let slot = &mut self.core.slots[index];
        slot.post_refused = true;
        if !std::mem::replace(&mut slot.awaits_retry, true) {
            self.pending.refused.push_back(index);
            let at = self.core.now.after(RETRY_AFTER);
            self.pending.retry_at = self.pending.retry_at.or(Some(at));
        }
    }

    /// Tells those whose posts were refused that they can try again.
    pub(super) fn retry_posts(&mut self) {
        if self.pending.retry_at.is_none_or(|at| at > self.core.now) {
            return;
        }
        self.pending.retry_at = None;
        for _ in 0..self.pending.refused.len() {
            // What is refused again comes behind those.
            let Some(index) = self.pending.refused.pop_front() else { return };
            let slot = &mut self.core.slots[index];
            slot.awaits_retry = false;
            if std::mem::take(&mut slot.post_refused) && slot.is_served() {
                slot.owes_writable = true;
                self.go_on(index);
            }
        }
    }

    /// Drops a link's state; that is the user's code.
    pub(super) fn drop_state(&mut self, index: u32) {
        let state = self.callbacks.states[index as usize].take();
        if !guarded(|| drop(state)) {
            self.core.stats().handler_panics.add(1);
        }
    }
}
