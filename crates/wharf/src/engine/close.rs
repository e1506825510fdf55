//! Closes single links, and drains all of them. The phases are drawn in `link/slot.rs`.

pub(super) mod drain;
pub(super) mod limits;

use crate::engine::worker::{Worker, submit};
use crate::handler::Handler;
use crate::link::slot::Phase;
use crate::service::Service;
use crate::shared::ShardPort;
use crate::vocabulary::reason::DisconnectReason;
use wharf_port::memory::Chain;
use wharf_port::port::Operation;

/// How `close` closes a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseMode {
    /// Flush the queue, shut down the sending side, linger, close.
    Graceful,
    /// Close without sending the queue; with a reset if bytes are unsent.
    Immediate,
    /// Close without sending the queue, with a reset.
    Abortive,
}

impl<P: ShardPort, V: Service> Worker<P, V> {
    /// Closes a link; the first reason is kept.
    pub(super) fn close(&mut self, index: u32, reason: DisconnectReason, mode: CloseMode) {
        if self.core.slots[index].phase == Phase::Free {
            return;
        }
        let slot = &mut self.core.slots[index];
        slot.ending.reason.get_or_insert(reason);
        // A broken link cannot flush, and one in its header has nothing to send.
        let is_bare = slot.output.broken.is_some() || slot.phase == Phase::Header;
        let mode = if is_bare && mode == CloseMode::Graceful { CloseMode::Immediate } else { mode };
        // From here on other threads get `Closed`; a graceful close still takes a deferred reply.
        if mode != CloseMode::Graceful {
            self.core.marks().close(index);
        } else if slot.deferral.is_none() {
            self.core.marks().end(index);
        }
        let slot = &mut self.core.slots[index];
        match (slot.phase, mode) {
            (Phase::Free | Phase::Closing, _) => {}
            (Phase::Header | Phase::Flushing | Phase::Lingering, CloseMode::Graceful) => {}
            (Phase::Open | Phase::Draining, CloseMode::Graceful) => {
                slot.enter(Phase::Flushing);
                self.core.drop_input(index);
                let slot = &mut self.core.slots[index];
                slot.ending.phase_bytes = 0;
                let has_output = slot.has_output();
                self.start_timeout(index);
                if !has_output {
                    self.start_lingering_close(index);
                }
            }
            (phase, CloseMode::Immediate | CloseMode::Abortive) => {
                let resets = slot.has_output() || mode == CloseMode::Abortive;
                let is_shut_down = phase == Phase::Lingering
                    || slot.output.is_shut_down
                    || slot.output.broken.is_some();
                slot.enter(Phase::Closing);
                slot.output.queue = Chain::new();
                let socket = slot.socket;
                self.core.cancel_reply(index);
                self.core.drop_input(index);
                let Some(socket) = socket else { return };
                // The peer hears of the end also while another process holds the socket.
                if resets {
                    self.port.reset_on_close(socket);
                } else if !is_shut_down {
                    self.port.shutdown(socket);
                }
                submit(&mut self.port, socket, Operation::Close);
            }
        }
    }

    /// Ends the streams of a worker that is dropped. Links are left only if its port failed or its
    /// thread panicked: no close completes any more, but the peers hear of the end, also while another
    /// process holds the sockets.
    pub(super) fn end_streams(&mut self) {
        for position in 0..self.core.slots.live_count() {
            let slot = &self.core.slots[self.core.slots.live_index(position)];
            let Some(socket) = slot.socket.filter(|_| slot.phase != Phase::Closing) else {
                continue;
            };
            if slot.has_output() {
                self.port.reset_on_close(socket);
            } else {
                self.port.shutdown(socket);
            }
        }
    }

    /// After the flush, and after a deferred reply: shuts down the sending side and lingers; closes if
    /// the peer has ended its stream.
    pub(super) fn start_lingering_close(&mut self, index: u32) {
        if self.core.slots[index].deferral.is_some() {
            return;
        }
        self.core.marks().end(index);
        let slot = &mut self.core.slots[index];
        let Some(reason) = slot.ending.reason else {
            unreachable!("{slot:?} closes without a reason")
        };
        if slot.input.end_of_stream {
            return self.close(index, reason, CloseMode::Immediate);
        }
        slot.enter(Phase::Lingering);
        (slot.time.idle_suspended, slot.time.active_at) = (false, self.core.now);
        let socket = slot.socket.filter(|_| !slot.output.is_shut_down);
        if let Some(socket) = socket {
            self.port.shutdown(socket);
        }
        self.start_timeout(index);
        self.update_receiving(index);
    }

    /// Handles `Outcome::Closed`, the socket's last completion: calls `on_disconnect` and frees the
    /// slot.
    pub(super) fn finish_close(&mut self, index: u32) {
        let key = self.core.key(index);
        let slot = &mut self.core.slots[index];
        let Some(reason) = slot.ending.reason else {
            unreachable!("{slot:?} is closed without a reason")
        };
        slot.socket = None;
        tracing::debug!(link = %key, peer = %slot.peer, %reason, "link closed");
        if slot.connected {
            self.core.shared.count_close(self.core.shard, reason);
            self.run_callback(index, |handler, link| handler.on_disconnect(link, reason));
        }
        self.callbacks.drop_state(&self.core, index);
        self.timers.cancel(&mut self.core.slots, index);
        if !self.core.slots[index].has_cancelled_reply() {
            self.release_slot(index);
        }
    }

    /// Frees the slot, in the table and in the server's count.
    pub(super) fn release_slot(&mut self, index: u32) {
        self.core.release(index);
        self.core.shared.release_slot(usize::from(self.core.shard));
    }

    /// Drains the shard when the server is stopping, and force-closes the links at the drain timeout.
    ///
    /// A draining link handles the input that had arrived when the drain began, sends all replies and
    /// closes. So requests that had arrived get replies, and a client that continues to send does not
    /// prolong the drain.
    ///
    /// Posts from before the stop are in the inbox by then, so links begin to drain when these are
    /// handled.
    pub(super) fn check_stop(&mut self) {
        let Some(drain) = self.core.shared.stopping() else { return };
        // Read anew: a handler may have run for long before it called `stop`.
        let deadline = self.port.now().saturating_add(drain);
        // A later call can only shorten the timeout.
        let deadline = self.drain.until.map_or(deadline, |until| until.min(deadline));
        let sees_it_first = self.drain.until.is_none();
        self.drain.until = Some(deadline);
        self.drain.turns = self.drain.turns.saturating_add(1);
        let inbox_is_handled = self.has_handled_inbox(self.drain.turns);
        if self.drain.has_begun {
            // The links drain.
        } else if inbox_is_handled && !sees_it_first {
            self.drain.has_begun = true;
            self.for_each_live(|worker, index| worker.drain(index));
        } else {
            // Wakes itself, so that the next turn does not sleep.
            self.port.poster().wake();
        }
        // What came before the timeout is answered, unless there is no time at all.
        let is_late = deadline <= self.core.clock;
        if is_late && (drain.is_zero() || self.clock.may_time_out()) {
            self.for_each_live(|worker, index| {
                let slot = &worker.core.slots[index];
                if slot.phase == Phase::Closing {
                    return;
                }
                // A lingering link has sent everything and is not counted.
                if slot.phase != Phase::Lingering {
                    worker.core.stats().forced_closes.add(1);
                }
                worker.close(index, DisconnectReason::ServerStopping, CloseMode::Immediate);
            });
        }
    }

    fn drain(&mut self, index: u32) {
        let slot = &mut self.core.slots[index];
        if slot.phase == Phase::Header {
            self.core.stats().refused_stopping.add(1);
            return self.close(index, DisconnectReason::ServerStopping, CloseMode::Immediate);
        }
        if slot.phase != Phase::Open {
            return;
        }
        slot.enter(Phase::Draining);
        slot.ending.phase_bytes = 0;
        self.stop_receiving(index);
        self.serve(index);
        self.update_receiving(index);
        self.close_after_replies(index);
    }

    pub(super) fn for_each_live(&mut self, mut act: impl FnMut(&mut Self, u32)) {
        // `act` must not free a slot; only `finish_close` does, on `Outcome::Closed`.
        for n in 0..self.core.slots.live_count() {
            let index = self.core.slots.live_index(n);
            act(self, index);
        }
    }

    /// Whether the shard has ended; `inbox_emptied`: it has handled all connections that the service
    /// thread posted. Packets of its worker are delivered before, until the drain timeout.
    pub(super) fn is_done(&self, inbox_emptied: bool) -> bool {
        let is_empty = self.core.slots.live_count() == 0 && !self.delivers_packets();
        self.drain.is_due() && inbox_emptied && is_empty
    }
}
