//! Handles posts and requests of other threads and of other links' callbacks.

pub(super) mod pending;

use crate::engine::close::CloseMode;
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

/// Delay before the `on_writable` of a link whose `try_post` failed: the receiver does not report new
/// capacity.
const RETRY_AFTER: Duration = Duration::from_millis(5);

/// Maximum of packets from one source in one turn; links are then called before the next.
const PACKETS_MAX: usize = 64;

impl<P: ShardPort, V: Service> Worker<P, V> {
    /// Handles a command of another thread.
    pub(super) fn handle_command(&mut self, command: Command<P::Stream>) {
        self.deliver_held();
        match command {
            Command::OpenLink(accepted) => self.open_link(accepted),
            Command::Post { link, message } => {
                let found = self.core.slots.find(link.index(), link.generation()).is_some();
                let quotas = self.core.quotas();
                quotas.forget(link.index(), link.generation(), message.len());
                if found {
                    self.core.post_accepted(link.index(), message);
                } else {
                    quotas.release_entries(1);
                }
            }
            Command::Broadcast { message, except, when_slow, number } => {
                let broadcast = Broadcast { message, except, when_slow, number };
                // Held until it is in every inbox: a post in response could otherwise overtake it in
                // another inbox.
                if self.core.shared.is_broadcast(number) {
                    self.broadcast(&broadcast);
                } else {
                    self.pending.held = Some(broadcast);
                }
            }
        }
    }

    /// Delivers the held broadcast, if it is in every inbox by now.
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
            if Some(index) != except && worker.core.slots[index].runs_callbacks() {
                worker.deliver(index, message, *when_slow);
            }
        });
    }

    fn deliver(&mut self, index: u32, message: &Message, when_slow: Option<WhenSlow>) {
        if self.core.post(index, message, when_slow) == Posted::TooSlow {
            self.close(index, DisconnectReason::SlowReader, CloseMode::Immediate);
        }
    }

    /// Whether there are packets for the worker, which it gets until the drain timeout.
    pub(super) fn delivers_packets(&self) -> bool {
        self.core.has_packets() && !self.drain.is_over(self.core.clock)
    }

    /// Calls `on_post` for the packets that were posted.
    pub(super) fn deliver_packets(&mut self) {
        if !self.delivers_packets() || !self.core.takes_packets() {
            return;
        }
        for source in 0..self.callbacks.source_count() {
            let mut left = PACKETS_MAX;
            while left > 0 && self.callbacks.deliver_packet(&self.core, source) {
                left -= 1;
            }
            if left == 0 {
                self.core.note_packets();
            }
        }
    }

    /// Handles the marks of links. Replies are handled at once; other marks after the packets that were
    /// in the inbox before, because a thread may have posted to a link before it closed it.
    pub(super) fn handle_marks(&mut self) {
        self.deliver_held();
        if !self.pending.marked.is_empty() {
            self.pending.turns_to_marks = self.pending.turns_to_marks.saturating_add(1);
            let inbox_is_handled = self.has_handled_inbox(self.pending.turns_to_marks);
            if !inbox_is_handled || self.pending.held.is_some() {
                return;
            }
            let mut marked = std::mem::take(&mut self.pending.marked);
            for (index, generation, mark) in marked.drain(..) {
                if self.core.slots.find(index, generation).is_some() {
                    self.handle_mark(index, mark);
                }
            }
            self.pending.marked = marked;
        }
        if self.core.marks().any() {
            self.take_marks();
        }
    }

    fn take_marks(&mut self) {
        self.pending.turns_to_marks = 0;
        let mut marked = std::mem::take(&mut self.pending.marked);
        let shared = std::sync::Arc::clone(&self.core.shared);
        let marks = &shared.shards[usize::from(self.core.shard)].marks;
        marks.take(|index, generation, mark| {
            // A reply together with a close is handled after the close, in `handle_mark`.
            if !mark.closes() && (mark.has(Mark::REPLY) || mark.has(Mark::RETURNED)) {
                self.finish_deferral(index);
            }
            marked.push((index, generation, mark));
        });
        self.pending.marked = marked;
    }

    fn handle_mark(&mut self, index: u32, mark: Mark) {
        if mark.has(Mark::ABORT) {
            self.close(index, DisconnectReason::Kicked, CloseMode::Abortive);
        } else if mark.has(Mark::CLOSE) {
            self.close(index, DisconnectReason::Kicked, CloseMode::Graceful);
        }
        if mark.closes() && mark.has(Mark::REPLY) {
            self.finish_deferral(index);
        }
        if !self.core.slots[index].runs_callbacks() {
            return;
        }
        if mark.has(Mark::TOO_SLOW) {
            self.close(index, DisconnectReason::SlowReader, CloseMode::Immediate);
        } else if mark.has(Mark::RESUME) {
            let now = self.core.now;
            self.core.slots[index].resume(now);
            self.resume_link(index);
        }
    }

    /// Handles the end of a deferral: queues the reply, or releases the buffers of a cancelled one.
    fn finish_deferral(&mut self, index: u32) {
        let shard = &self.core.shared.shards[usize::from(self.core.shard)];
        let Some((parcel, outcome)) = shard.replies[index as usize].take() else { return };
        let chain = parcel.into_chain(&self.core.pool);
        let now = self.core.now;
        let slot = &mut self.core.slots[index];
        if slot.deferral.take().is_some_and(|deferral| deferral.is_cancelled) {
            drop(chain);
            self.core.settle(index);
            let slot = &self.core.slots[index];
            if slot.phase == Phase::Closing && slot.socket.is_none() {
                self.release_slot(index);
            } else if slot.phase == Phase::Flushing && !slot.has_output() {
                self.start_lingering_close(index);
            }
            return;
        }
        let takes = matches!(slot.phase, Phase::Open | Phase::Draining | Phase::Flushing)
            && slot.output.broken.is_none();
        if takes && outcome != Outcome::Failed && !chain.is_empty() {
            self.core.queue_reply(index, chain);
        } else {
            drop(chain);
            slot.resume_idle_time(now);
            self.core.settle(index);
            // A finished output may now shut down.
            self.core.mark_dirty(index);
        }
        let slot = &mut self.core.slots[index];
        slot.input.receive_due = true;
        match (slot.phase, outcome) {
            (Phase::Open | Phase::Draining, Outcome::Send) => self.resume_link(index),
            (Phase::Open | Phase::Draining, Outcome::Close) => {
                self.close(index, DisconnectReason::HandlerClosed, CloseMode::Graceful);
            }
            (Phase::Open | Phase::Draining, Outcome::Failed) => {
                self.close(index, DisconnectReason::HandlerError, CloseMode::Graceful);
            }
            (Phase::Flushing, outcome) => {
                if outcome == Outcome::Failed {
                    slot.ending.reason = Some(DisconnectReason::HandlerError);
                }
                if slot.has_output() {
                    self.start_timeout(index);
                } else {
                    self.start_lingering_close(index);
                }
            }
            (Phase::Free | Phase::Header | Phase::Lingering | Phase::Closing, _) => {}
        }
    }

    /// Makes the calls that are due, closes the link if it is done, and updates its timeout and its
    /// receive.
    pub(super) fn resume_link(&mut self, index: u32) {
        self.serve(index);
        self.close_after_replies(index);
        self.start_timeout(index);
        self.update_receiving(index);
    }

    /// Notes that a `try_post` of the link's callback failed with `Full`.
    #[cold]
    pub(super) fn note_refused_post(&mut self, index: u32) {
        let slot = &mut self.core.slots[index];
        slot.posts.refused = true;
        if !std::mem::replace(&mut slot.posts.awaits_retry, true) {
            self.pending.refused.push_back(index);
            let at = self.core.now.saturating_add(RETRY_AFTER);
            self.pending.retry_at = self.pending.retry_at.or(Some(at));
        }
    }

    /// Calls `on_writable` of the links whose `try_post` failed, after the delay.
    pub(super) fn retry_posts(&mut self) {
        if self.pending.retry_at.is_none_or(|at| at > self.core.now) {
            return;
        }
        self.pending.retry_at = None;
        for _ in 0..self.pending.refused.len() {
            // A link whose post fails again is appended and not handled in this loop.
            let Some(index) = self.pending.refused.pop_front() else { return };
            let slot = &mut self.core.slots[index];
            slot.posts.awaits_retry = false;
            if std::mem::take(&mut slot.posts.refused) && slot.runs_callbacks() {
                slot.output.writable_due = true;
                self.resume_link(index);
            }
        }
    }
}
