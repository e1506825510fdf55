//! Submits the links' send queues: one send in flight for each link.

use crate::engine::close::CloseMode;
use crate::engine::worker::{Worker, submit};
use crate::link::slot::{LoanRequest, Phase};
use crate::service::Service;
use crate::shared::ShardPort;
use crate::vocabulary::reason::{DisconnectReason, Verdict};
use wharf_port::memory::Chain;
use wharf_port::port::{EndReason, Operation};

/// Maximum bytes of one send. Where the port does not report acknowledged bytes, only completed sends
/// are progress, so a peer must take these bytes within the stall timeout. About the size of a socket's
/// send buffer.
const SEND_BYTES_MAX: usize = 128 * 1024;
/// The same while loans are tight: a send releases its buffers only when it completes, which takes long
/// with a slow reader.
const SEND_BYTES_TIGHT: usize = 16 * 1024;

impl<P: ShardPort, V: Service> Worker<P, V> {
    /// Submits what this turn has queued.
    pub(super) fn flush(&mut self) {
        let tight = self.core.shares.is_tight();
        let send_bytes_max = if tight { SEND_BYTES_TIGHT } else { SEND_BYTES_MAX };
        while let Some(index) = self.core.dirty.pop() {
            let slot = &mut self.core.slots[index];
            slot.output.dirty = false;
            let Some(socket) = slot.socket else { continue };
            if slot.flight.sending || slot.phase == Phase::Closing {
                continue;
            }
            if slot.output.queue.is_empty() {
                self.shut_down_output(index);
                continue;
            }
            let chain = slot.output.queue.take_front(send_bytes_max);
            slot.flight.bytes = u32::try_from(chain.len()).unwrap_or(u32::MAX);
            slot.flight.buffers = chain.buffers();
            slot.flight.messages = chain.messages();
            slot.flight.sending = true;
            self.schedule_progress_check(index);
            submit(&mut self.port, socket, Operation::Send(chain));
        }
    }

    /// Shuts down the sending side, if the handler has finished the output and all of it is sent.
    #[inline]
    fn shut_down_output(&mut self, index: u32) {
        let slot = &mut self.core.slots[index];
        let is_over = slot.output.finished && slot.deferral.is_none();
        if !is_over || slot.output.is_shut_down || !slot.runs_callbacks() {
            return;
        }
        slot.output.is_shut_down = true;
        if let Some(socket) = slot.socket {
            self.port.shutdown(socket);
        }
        self.close_after_replies(index);
    }

    /// Closes a link that gets no more input, when all of it is handled, no reply is deferred, and the
    /// handler waits for no capacity.
    #[inline]
    pub(super) fn close_after_replies(&mut self, index: u32) {
        if self.core.slots[index].has_all_input() {
            self.close_if_handled(index);
        }
    }

    #[inline(never)]
    fn close_if_handled(&mut self, index: u32) {
        let slot = &self.core.slots[index];
        if !slot.runs_callbacks() || !slot.has_handled_all() {
            return;
        }
        if let Some(reason) = slot.output.broken {
            if slot.input.unread.is_empty() || !slot.is_held() {
                self.close(index, reason, CloseMode::Immediate);
            }
            return;
        }
        let waits_to_answer =
            slot.output.writable_due || matches!(slot.loans.request, Some(LoanRequest::Output(_)));
        // A pause holds back calls for unread input.
        let is_held =
            slot.deferral.is_some() || (slot.input.paused && !slot.input.unread.is_empty());
        if is_held || waits_to_answer || slot.is_drain_call_due() {
            return;
        }
        if slot.input.paused && slot.phase == Phase::Open {
            return;
        }
        if slot.input.end_of_stream && slot.ending.end.is_none() && !slot.input.paused {
            if self.core.has_grant(index) {
                self.call_on_end(index);
                self.close_after_replies(index);
            }
            return;
        }
        let is_over = match (slot.phase, slot.ending.end) {
            (Phase::Draining, _) | (_, Some(Verdict::Close)) => true,
            // `Keep`: open until the handler has finished the output and all is sent.
            (_, Some(Verdict::Keep)) => slot.output.is_shut_down && !slot.has_output(),
            (_, None) => false,
        };
        if is_over {
            let reason = if slot.phase == Phase::Draining {
                DisconnectReason::ServerStopping
            } else {
                DisconnectReason::PeerClosed
            };
            self.close(index, reason, CloseMode::Graceful);
        }
    }

    /// Sending has failed. The input that has arrived is still handled, output is discarded, and the
    /// link closes when the input is handled.
    pub(super) fn break_output(&mut self, index: u32, reason: DisconnectReason) {
        let slot = &mut self.core.slots[index];
        slot.output.broken.get_or_insert(reason);
        slot.output.queue = Chain::new();
        // A handler that waited for capacity has it now. The timeout for the rest of the input starts
        // now.
        slot.input.handled &= slot.is_incomplete();
        (slot.time.idle_suspended, slot.time.active_at) = (false, self.core.now);
        (slot.output.writable_due, slot.output.ensured) = (false, 0);
        self.core.end_request(index);
        self.core.settle(index);
        // The receive in flight need not fail as well, so it is cancelled; an if-ready receive then
        // takes what has arrived, and `NotReady` ends the input.
        self.stop_receiving(index);
        self.start_timeout(index);
    }

    pub(super) fn sent(
        &mut self,
        index: u32,
        mut chain: Chain,
        sent: usize,
        end: Option<EndReason>,
    ) {
        let slot = &mut self.core.slots[index];
        slot.end_send();
        slot.totals.sent_bytes += sent as u64;
        if slot.phase == Phase::Draining {
            let sent = u32::try_from(sent).unwrap_or(u32::MAX);
            slot.ending.phase_bytes = slot.ending.phase_bytes.saturating_add(sent);
        }
        if sent > 0 {
            (slot.time.output_progress_at, slot.time.acknowledged_read) = (self.core.now, false);
        }
        if sent == chain.len() {
            // The queue holds only what was queued meanwhile.
            drop(chain);
        } else if slot.phase != Phase::Closing && slot.output.broken.is_none() {
            chain.advance(sent);
            // A short send: the rest goes to the front of the queue.
            chain.append_chain(std::mem::take(&mut slot.output.queue));
            slot.output.queue = chain;
        } else {
            drop(chain);
        }
        self.core.stats().sent_bytes.add(sent as u64);
        if let Some(EndReason::Failed(error)) = end {
            let reason = self.disconnect_reason(index, error);
            self.send_failed(index, reason);
        }
        self.core.settle(index);
        let slot = &mut self.core.slots[index];
        if slot.phase == Phase::Closing {
            return;
        }
        if !slot.output.queue.is_empty() {
            self.core.mark_dirty(index);
        } else if slot.runs_callbacks() && slot.output.broken.is_none() {
            slot.resume_idle_time(self.core.now);
            self.shut_down_output(index);
            self.schedule_idle(index);
        } else if slot.phase == Phase::Flushing {
            self.start_lingering_close(index);
        }
        self.capacity_has_grown(index);
        self.update_receiving(index);
    }

    fn send_failed(&mut self, index: u32, reason: DisconnectReason) {
        let slot = &mut self.core.slots[index];
        if slot.runs_callbacks() {
            self.break_output(index, reason);
        } else {
            // A reset can complete the receive as an end of stream first; the failed send then shows
            // it.
            let closes = slot.phase == Phase::Closing;
            if slot.ending.reason == Some(DisconnectReason::PeerClosed) && !closes {
                slot.ending.reason = Some(reason);
            }
            self.close(index, reason, CloseMode::Immediate);
        }
    }
}
