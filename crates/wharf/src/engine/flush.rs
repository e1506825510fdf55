//! From send queues to the port: one send in flight a link, with all that was queued behind it.

use super::close::How;
use super::dispatch::reason_of;
use super::worker::Worker;
use crate::handler::{DisconnectReason, Handler};
use crate::link::slot::{Phase, Receiving};
use crate::plant::EnginePlant;
use crate::server::shared::Command;
use wharf_port::memory::Chain;
use wharf_port::port::{End, Operation, Port};

/// Bytes of one send. A peer that takes as many before a time-out ends shows that it reads; it is
/// about what a socket's send buffer takes at once.
const SEND_BYTES_MAX: usize = 128 * 1024;

impl<P: Port<Packet = Command<<P as Port>::Stream>>, H: Handler> Worker<P, H> {
    /// Submits what this turn has queued.
    pub(super) fn flush(&mut self) {
        while let Some(index) = self.core.dirty.pop() {
            let slot = &mut self.core.slots[index];
            slot.dirty = false;
            let Some(socket) = slot.socket else { continue };
            if self.core.shared.planted.strikes(EnginePlant::LoseDirty) {
                continue;
            }
            if slot.sending || slot.queue.is_empty() || slot.phase == Phase::Closing {
                continue;
            }
            let chain = slot.queue.take_front(SEND_BYTES_MAX);
            slot.in_flight = u32::try_from(chain.len()).unwrap_or(u32::MAX);
            slot.sending = true;
            if let Err(error) = self.port.submit(socket, Operation::Send(chain)) {
                debug_assert!(false, "{error}");
                (slot.sending, slot.in_flight) = (false, 0);
                self.core.recount(index);
                self.close(index, DisconnectReason::SystemError, How::Now);
            }
        }
    }

    /// Looks whether buffers have become short, or plenty, and tells links that wait for some.
    pub(super) fn share_buffers(&mut self) {
        // Once for each: a handler may ask for more than there is, again and again.
        for _ in 0..self.core.short.len() {
            let Some(index) = self.core.next_relieved() else { break };
            if self.core.slots[index].is_served() && !self.core.slots[index].holds() {
                self.drained(index);
            }
        }
        let pressed = self.core.is_pressed(self.pressed);
        if pressed && !self.pressed {
            // Links that receive again and again take turns from now on.
            self.for_each_live(|worker, index| {
                if worker.core.slots[index].phase == Phase::Open {
                    worker.stop_receiving(index);
                }
            });
        }
        self.pressed = pressed;
    }

    /// Tells the handler that a link has nothing left to send.
    fn drained(&mut self, index: u32) {
        let answer = self.call(index, |handler, worker, link| handler.on_sent(worker, link));
        self.after_callback(index, answer);
        self.end_if_answered(index);
    }

    /// Closes a link whose peer has sent its last byte, once all answers are out: those that are
    /// queued, and those that the handler still owes and queues when there is room.
    pub(super) fn end_if_answered(&mut self, index: u32) {
        let slot = &self.core.slots[index];
        if slot.is_served() && slot.input_over && !slot.holds() && slot.wants == 0 {
            self.close(index, DisconnectReason::PeerClosed, How::Flush);
        }
    }

    pub(super) fn sent(&mut self, index: u32, mut chain: Chain, sent: usize, end: Option<End>) {
        let now = self.core.now;
        let slot = &mut self.core.slots[index];
        (slot.sending, slot.in_flight) = (false, 0);
        slot.totals.sent_bytes += sent as u64;
        // While a link is not read from, its peer shows by reading that it is there.
        let is_paused = slot.phase == Phase::Open && slot.receiving != Receiving::Armed;
        if sent > 0 && (is_paused || slot.phase == Phase::Flushing) {
            slot.touched = now;
        }
        chain.advance(sent);
        if slot.phase != Phase::Closing {
            // A short send: the rest goes before what was queued behind it.
            if self.core.shared.planted.is(EnginePlant::RestBehind) {
                std::mem::swap(&mut chain, &mut slot.queue);
            }
            chain.append_chain(std::mem::take(&mut slot.queue));
            slot.queue = chain;
        }
        self.core.stats().sent_bytes.add(sent as u64);
        if let Some(End::Failed(error)) = end {
            let reason = reason_of(error);
            // A reset can show as an end of input first; what then fails to be sent tells.
            let known = &mut self.core.slots[index].reason;
            if *known == Some(DisconnectReason::PeerClosed) {
                *known = Some(reason);
            }
            self.close(index, reason, How::Now);
        }
        self.core.recount(index);
        let slot = &self.core.slots[index];
        if slot.phase == Phase::Closing {
            return;
        }
        if !slot.queue.is_empty() {
            self.core.mark_dirty(index);
        } else if slot.is_served() {
            self.drained(index);
        } else if slot.phase == Phase::Flushing {
            self.flushed(index);
        }
        self.steer(index);
    }
}
