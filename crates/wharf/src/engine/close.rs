//! How links end, one by one or all together. The phases are drawn in `link/slot.rs`.

pub(super) mod drain;

use crate::engine::worker::{Worker, submit};
use crate::handler::Handler;
use crate::link::slot::Phase;
use crate::service::Service;
use crate::shared::ShardPort;
use crate::vocabulary::reason::DisconnectReason;
use std::time::Duration;
use wharf_port::memory::Chain;
use wharf_port::port::Operation;

/// How long a closing link waits for its peer to take something, if no stall time-out is set.
pub(super) const FLUSH_MAX: Duration = Duration::from_secs(30);
/// How long a link that has sent its end waits for the peer's.
pub(super) const LINGER_MAX: Duration = Duration::from_secs(2);
/// Bytes that a lingering link throws away before it is closed all the same.
pub(super) const LINGER_BYTES_MAX: u32 = 64 << 20;
/// Bytes that a draining link still handles and still sends, at most: a peer that never stops sending
/// does not hold the server.
pub(super) const DRAIN_BYTES_MAX: u32 = 8 << 20;

/// How a link is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// What is queued is sent first, and the peer hears the end before the socket goes.
    Flush,
    /// At once; the peer sees a reset if something that was queued is lost.
    Now,
    /// At once, with a reset.
    Reset,
}

impl<P: ShardPort, V: Service> Worker<P, V> {
    /// Ends a link; the first reason is the one that counts.
    pub(super) fn close(&mut self, index: u32, reason: DisconnectReason, how: How) {
        if self.core.slots[index].phase == Phase::Free {
            return;
        }
        let slot = &mut self.core.slots[index];
        slot.reason.get_or_insert(reason);
        // Nothing can be sent any more, so nothing is.
        let how = if slot.broken.is_some() && how == How::Flush { How::Now } else { how };
        // From here on other threads are told that it is gone; a reply is still waited for.
        if how != How::Flush {
            self.core.marks().close(index);
        } else if slot.deferral.is_none() {
            self.core.marks().end(index);
        }
        let slot = &mut self.core.slots[index];
        match (slot.phase, how) {
            (Phase::Free | Phase::Closing, _) => {}
            (Phase::Flushing | Phase::Lingering, How::Flush) => {}
            (Phase::Open | Phase::Draining, How::Flush) => {
                slot.enter(Phase::Flushing);
                self.core.drop_input(index);
                let slot = &mut self.core.slots[index];
                slot.late_bytes = 0;
                let has_output = slot.has_output();
                self.start_time_out(index);
                if !has_output {
                    self.flushed(index);
                }
            }
            (_, How::Now | How::Reset) => {
                let resets = slot.has_output() || how == How::Reset;
                slot.enter(Phase::Closing);
                slot.queue = Chain::new();
                let socket = slot.socket;
                self.core.cancel_reply(index);
                self.core.drop_input(index);
                let Some(socket) = socket else { return };
                if resets {
                    self.port.abandon(socket);
                }
                submit(&mut self.port, socket, Operation::Close);
            }
        }
    }

    /// A closing link has nothing left to send.
    pub(super) fn flushed(&mut self, index: u32) {
        if self.core.slots[index].deferral.is_some() {
            return;
        }
        self.core.marks().end(index);
        let slot = &mut self.core.slots[index];
        let reason = slot.reason.unwrap_or(DisconnectReason::HandlerClosed);
        if slot.input_over {
            return self.close(index, reason, How::Now);
        }
        slot.enter(Phase::Lingering);
        (slot.owes, slot.heard) = (false, self.core.now);
        let socket = slot.socket.filter(|_| !slot.shut);
        if let Some(socket) = socket {
            self.port.shutdown(socket);
        }
        self.start_time_out(index);
        self.steer(index);
    }

    /// The port has let go of a link: tells the handler, and gives the place back.
    pub(super) fn closed(&mut self, index: u32) {
        let slot = &mut self.core.slots[index];
        let reason = slot.reason.unwrap_or(DisconnectReason::SystemError);
        slot.socket = None;
        if slot.connected {
            self.core.shared.count_close(self.core.shard, reason);
            self.call(index, |handler, link| handler.on_disconnect(link, reason));
        }
        self.drop_state(index);
        self.timers.clear(&mut self.core.slots, index);
        if !self.core.slots[index].cancelled {
            self.free_place(index);
        }
    }

    /// Gives a place back, to the table and to whoever waits for one.
    pub(super) fn free_place(&mut self, index: u32) {
        self.core.release(index);
        self.core.shared.give_place_back(usize::from(self.core.shard));
    }

    /// Begins to drain when the server is asked to stop, and ends it by force in time.
    ///
    /// Draining, a link still handles what had arrived when it began, then sends all answers and
    /// closes. So nothing that reached the server is left unanswered, and clients that never stop
    /// sending cannot hold the server.
    ///
    /// What was posted before the stop is in the inbox before it, so links begin to drain when
    /// that has been seen empty.
    pub(super) fn check_stop(&mut self) {
        let Some(drain) = self.core.shared.stopping() else { return };
        // The clock itself: a handler may have taken its time before it asked for the stop.
        let deadline = self.port.now().after(drain);
        // A later call may have shortened the time.
        let deadline = self.drain.until.map_or(deadline, |until| until.min(deadline));
        let sees_it_first = self.drain.until.is_none();
        if sees_it_first {
            self.stop_accepting();
        }
        self.drain.until = Some(deadline);
        self.drain.turns = self.drain.turns.saturating_add(1);
        let is_handed_out = self.has_handed_out(self.drain.turns);
        let too_early = sees_it_first || !is_handed_out;
        if !self.drain.has_begun && !too_early {
            self.drain.has_begun = true;
            self.for_each_live(|worker, index| worker.drain(index));
        } else if !self.drain.has_begun {
            // The next turn does not sleep: it looks into the inbox.
            self.port.poster().wake();
        }
        if deadline <= self.core.clock {
            self.for_each_live(|worker, index| {
                let slot = &worker.core.slots[index];
                if slot.phase == Phase::Closing {
                    return;
                }
                // One that only waits for its peer's end has got everything out.
                if slot.phase != Phase::Lingering {
                    worker.core.stats().cut.add(1);
                }
                worker.close(index, DisconnectReason::ServerStopping, How::Now);
            });
        }
    }

    fn drain(&mut self, index: u32) {
        let slot = &mut self.core.slots[index];
        if slot.phase != Phase::Open {
            return;
        }
        slot.enter(Phase::Draining);
        slot.late_bytes = 0;
        self.stop_receiving(index);
        self.serve(index);
        self.steer(index);
        self.end_if_answered(index);
    }

    pub(super) fn for_each_live(&mut self, mut act: impl FnMut(&mut Self, u32)) {
        // None of the acts releases a place: that happens when the port says Closed.
        for n in 0..self.core.slots.live_count() {
            let index = self.core.slots.live(n);
            act(self, index);
        }
    }

    /// Whether the shard has nothing left to do; `saw_all` says that its inbox was empty after the
    /// last connection had been handed over.
    pub(super) fn is_done(&self, saw_all: bool) -> bool {
        if !self.drain.is_due() || !self.acceptor.is_closed() {
            return false;
        }
        if self.core.shard == 0 {
            self.core.shared.end_accepting();
        }
        self.core.slots.live_count() == 0 && (saw_all || self.core.shard == 0)
    }
}
