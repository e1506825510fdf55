//! Received bytes to a link's input; starts and stops receiving.

use crate::engine::close::CloseMode;
use crate::engine::close::limits::{exceeds_linger, note_drained};
use crate::engine::worker::{Worker, submit};
use crate::link::slot::{LoanRequest, Phase, Receiving};
use crate::service::Service;
use crate::shared::ShardPort;
use crate::vocabulary::reason::DisconnectReason;
use wharf_port::memory::Buffer;
use wharf_port::port::{CompletionMode, EndReason, Operation, OperationKind, Socket};

impl<P: ShardPort, V: Service> Worker<P, V> {
    /// Handles received bytes: appends them to the unread input, and calls the handler if the output
    /// has capacity.
    pub(super) fn received(&mut self, index: u32, buffer: Buffer, last: bool) {
        let len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let now = self.core.now;
        let slot = &mut self.core.slots[index];
        if last {
            slot.flight.receiving = Receiving::Off;
        }
        slot.totals.received_bytes += u64::from(len);
        if slot.phase != Phase::Open {
            slot.ending.phase_bytes = slot.ending.phase_bytes.saturating_add(len);
        }
        if !slot.runs_callbacks() {
            if slot.phase == Phase::Header {
                return self.header_received(index, buffer);
            }
            drop(buffer);
            if exceeds_linger(slot) {
                self.close(index, DisconnectReason::ServerStopping, CloseMode::Immediate);
            }
            return self.update_receiving(index);
        }
        slot.note_activity(now);
        if slot.phase == Phase::Draining {
            note_drained(slot, len);
        }
        let is_of_use = slot.input.unread.len() + buffer.len() >= slot.input.wanted as usize;
        slot.input.handled &= !is_of_use;
        self.core.stats().received_bytes.add(u64::from(len));
        if is_of_use {
            self.serve_received(index, buffer);
        } else {
            self.keep(index, buffer);
        }
        self.core.settle(index);
        self.close_after_replies(index);
        self.update_receiving(index);
    }

    pub(super) fn receive_ended(&mut self, index: u32, end: EndReason) {
        let slot = &mut self.core.slots[index];
        let looked = slot.flight.receiving == Receiving::Look;
        slot.flight.receiving = Receiving::Off;
        match end {
            EndReason::PeerClosed | EndReason::Failed(_) if slot.phase == Phase::Header => {
                self.refuse_header(index, "the connection has ended before it");
            }
            EndReason::PeerClosed => {
                slot.input.end_of_stream = true;
                slot.note_activity(self.core.now);
                if slot.phase == Phase::Lingering {
                    self.close(index, DisconnectReason::PeerClosed, CloseMode::Immediate);
                } else {
                    self.finish_input(index);
                }
            }
            EndReason::Failed(error) => {
                let reason = self.disconnect_reason(index, error);
                if self.core.slots[index].runs_callbacks() {
                    // The handler gets the input that arrived before the reset.
                    self.break_output(index, reason);
                    self.core.slots[index].input.end_of_stream = true;
                    self.finish_input(index);
                } else {
                    self.close(index, reason, CloseMode::Immediate);
                }
            }
            // Draining: all that had arrived is received.
            EndReason::NotReady => {
                slot.ending.drain_received = true;
                slot.input.end_of_stream |= slot.output.broken.is_some();
                self.finish_input(index);
                // The link may be lingering by now, and then needs a receive.
                self.update_receiving(index);
            }
            // The peer has sent more than the guaranteed buffer holds, so the link asks for a loan.
            EndReason::Readable if looked => {
                let slot = &self.core.slots[index];
                if slot.runs_callbacks()
                    && slot.loans.request.is_none()
                    && !slot.input.unread.is_empty()
                {
                    let request = self.lacking_input(index);
                    self.core.request_loan(index, request);
                }
                self.grant_loans();
                self.update_receiving(index);
            }
            _ => self.update_receiving(index),
        }
    }

    /// The loan for the rest of the message that the handler waits for, within the input credit: a
    /// larger loan could never be granted and would block all waiters behind it.
    fn lacking_input(&self, index: u32) -> LoanRequest {
        let slot = &self.core.slots[index];
        if !slot.is_incomplete() {
            return LoanRequest::Part;
        }
        let size = self.core.pool.buffer_size_bytes();
        let credit = self.core.shared.settings.input_bytes;
        let fit = slot.input.unread.len() + slot.input.unread.spare_capacity();
        let fit = u32::try_from(fit).unwrap_or(u32::MAX);
        let lacking = slot.input.message.max(slot.input.wanted).min(credit).saturating_sub(fit);
        let most = self.core.shares.input_loan_max(slot.loans.held);
        LoanRequest::Input(lacking.div_ceil(size).min(most).max(1))
    }

    /// Handles the end of the input: calls the handler for the rest, and closes the link if it is done.
    fn finish_input(&mut self, index: u32) {
        self.start_timeout(index);
        self.serve(index);
        self.close_after_replies(index);
    }

    /// Submits or cancels the link's receive, depending on its phase, its unread input and the loans.
    ///
    /// While loans are not tight, a multishot receive takes up to the input credit. While they are
    /// tight, a receive takes one buffer: the first without a request, further ones against a loan. The
    /// link asks for the loan when its peer has sent more and its output does not hold back the
    /// handler.
    #[inline]
    pub(super) fn update_receiving(&mut self, index: u32) {
        let slot = &self.core.slots[index];
        // Fast path: a multishot receive is armed, and the input is consumed.
        if slot.flight.receiving != Receiving::Many || !slot.input.unread.is_empty() {
            self.choose_receive(index);
        }
    }

    fn choose_receive(&mut self, index: u32) {
        let slot = &self.core.slots[index];
        let Some(socket) = slot.socket else { return };
        let credit = self.core.shared.settings.input_bytes;
        let unread = u32::try_from(slot.input.unread.len()).unwrap_or(u32::MAX);
        let size = self.core.pool.buffer_size_bytes();
        let free = credit.saturating_sub(unread);
        let tight = self.core.shares.is_tight();
        if slot.flight.receiving == Receiving::Many && slot.runs_callbacks() && free == 0 {
            return self.stop_receiving(index);
        }
        if slot.flight.receiving != Receiving::Off || slot.has_all_input() {
            return;
        }
        if slot.phase == Phase::Draining && slot.ending.owed.is_none() {
            return self.measure_drain(index, socket);
        }
        if slot.phase == Phase::Draining && free == 0 && slot.has_handled_all() && !slot.is_held() {
            // The rest cannot be received, because the handler takes nothing of a full input.
            self.core.slots[index].ending.drain_received = true;
            return self.close_after_replies(index);
        }
        let slot = &self.core.slots[index];
        let owed = slot.ending.owed.unwrap_or(u32::MAX);
        let spare = u32::try_from(slot.input.unread.spare_capacity()).unwrap_or(u32::MAX);
        // Receive what has arrived; `NotReady` then ends the input.
        let ends_when_dry = slot.phase == Phase::Draining || slot.output.broken.is_some();
        let mode = if ends_when_dry { CompletionMode::IfReady } else { CompletionMode::Oneshot };
        let (mode, bytes_max, receiving) = match slot.phase {
            // A header fits in the buffer that is guaranteed.
            Phase::Header => (CompletionMode::Oneshot, size.saturating_sub(unread), Receiving::One),
            Phase::Lingering => (CompletionMode::Multishot, u32::MAX, Receiving::Many),
            Phase::Open | Phase::Draining if free == 0 => return,
            Phase::Open if !tight && !ends_when_dry => {
                (CompletionMode::Multishot, free, Receiving::Many)
            }
            Phase::Open | Phase::Draining if unread == 0 || slot.loans.promised > 0 || !tight => {
                (mode, free.min(size).min(owed), Receiving::One)
            }
            // Bytes that fit the spare capacity of the last buffer need no loan.
            Phase::Open | Phase::Draining if spare > 0 => {
                (mode, free.min(spare).min(owed), Receiving::One)
            }
            Phase::Open | Phase::Draining
                if slot.loans.request.is_some()
                    || slot.is_held()
                    || !self.core.has_capacity(index) =>
            {
                return;
            }
            Phase::Open | Phase::Draining => (mode, 0, Receiving::Look),
            Phase::Free | Phase::Flushing | Phase::Closing => return,
        };
        if receiving == Receiving::Many {
            // Without tight loans a link receives without a request.
            self.core.forget_input_loan(index);
        }
        submit(&mut self.port, socket, Operation::Receive { mode, bytes_max });
        self.core.slots[index].flight.receiving = receiving;
    }

    /// Begins to drain: asks the port how many bytes have arrived, and receives no more than these, so
    /// that a peer that continues to send does not prolong the drain.
    fn measure_drain(&mut self, index: u32, socket: Socket) {
        let unread = self.port.unread_bytes(socket).unwrap_or(u64::MAX);
        let slot = &mut self.core.slots[index];
        slot.ending.owed = Some(u32::try_from(unread).unwrap_or(u32::MAX));
        slot.ending.drain_received = unread == 0;
        if slot.ending.drain_received {
            self.finish_input(index);
        } else {
            self.choose_receive(index);
        }
    }

    /// Cancels the receive in flight; its last completion follows.
    pub(super) fn stop_receiving(&mut self, index: u32) {
        let slot = &mut self.core.slots[index];
        if matches!(slot.flight.receiving, Receiving::Many | Receiving::One | Receiving::Look)
            && let Some(socket) = slot.socket
        {
            slot.flight.receiving = Receiving::Cancelling;
            self.port.cancel(socket, OperationKind::Receive);
        }
    }
}
