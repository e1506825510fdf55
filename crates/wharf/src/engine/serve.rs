//! Decides which callback of a link is next. `on_receive` is called only while the output has capacity
//! for a reply.
//!
//! The order of a link's callbacks: `on_drain` once, `on_writable` if it is due, `on_receive` for
//! unread input, `on_end` when that is handled.

pub(super) mod again;

use crate::engine::worker::Worker;
use crate::handler::Handler;
use crate::link::input::Wanted;
use crate::link::slot::{LoanRequest, Phase};
use crate::link::unread::Unread;
use crate::service::Service;
use crate::shared::ShardPort;
use crate::vocabulary::reason::Verdict;
use std::mem;
use wharf_port::memory::Buffer;

/// Maximum of calls of `on_receive` and `on_writable` for one link in one turn; other links are then
/// called before it.
const CALLS_MAX: u8 = 64;

impl<P: ShardPort, V: Service> Worker<P, V> {
    /// Calls the handler with a received buffer, if nothing is unread before it and the output has
    /// capacity; the rest stays unread.
    pub(super) fn serve_received(&mut self, index: u32, buffer: Buffer) {
        let slot = &self.core.slots[index];
        let waits = !slot.input.unread.is_empty() || slot.is_held() || slot.has_due_call();
        if waits || !self.core.has_capacity(index) || !self.counts_call(index) {
            self.keep(index, buffer);
            return self.serve(index);
        }
        let before = self.core.slots[index].totals.received_bytes - buffer.len() as u64;
        let mut unread = Unread::fresh(buffer, wrapped(before));
        self.call_with_input(index, &mut unread);
        self.serve(index);
    }

    /// Appends a received buffer to the unread input, and counts the buffers that fulfil a loan.
    pub(super) fn keep(&mut self, index: u32, buffer: Buffer) {
        let before = self.core.slots[index].input.unread.buffers();
        self.core.keep(index, buffer);
        let slot = &mut self.core.slots[index];
        let more = slot.input.unread.buffers() - before;
        slot.loans.promised = slot.loans.promised.saturating_sub(more);
    }

    /// Makes all calls that are due for a link, until the handler takes nothing, the output has no
    /// capacity, or the calls of this turn are used up.
    #[inline]
    pub(super) fn serve(&mut self, index: u32) {
        let slot = &self.core.slots[index];
        if !slot.input.unread.is_empty() || slot.has_due_call() {
            self.serve_in_order(index);
        }
    }

    fn serve_in_order(&mut self, index: u32) {
        // Buffers that a call has released may be those that the next call needs.
        self.core.settle(index);
        while self.core.slots[index].runs_callbacks() && self.serve_once(index) {
            self.core.settle(index);
        }
        if self.core.slots[index].output.writable_due {
            self.core.request_if_short(index);
        }
    }

    /// Makes the next call; returns whether there was one.
    fn serve_once(&mut self, index: u32) -> bool {
        let slot = &self.core.slots[index];
        // Before the others, because a handler that uses up the capacity would leave no grant for it.
        if slot.is_drain_call_due() && self.core.has_grant(index) {
            return self.call_on_drain(index);
        }
        if slot.output.writable_due && self.core.can_call_writable(index) {
            return self.counts_call(index) && self.call_on_writable(index);
        }
        let slot = &self.core.slots[index];
        let is_due = !slot.input.unread.is_empty() && !slot.is_handled() && !slot.is_held();
        if !is_due || !self.core.has_capacity(index) || !self.counts_call(index) {
            return false;
        }
        let slot = &mut self.core.slots[index];
        let chain = mem::take(&mut slot.input.unread);
        let before = slot.totals.received_bytes - chain.len() as u64;
        self.call_with_input(index, &mut Unread::kept(chain, wrapped(before)));
        true
    }

    /// Counts a call if the link has one left in this turn; else has the next turn continue with the
    /// link.
    fn counts_call(&mut self, index: u32) -> bool {
        let turn = self.core.turn;
        let slot = &mut self.core.slots[index];
        if slot.calls.turn != turn {
            (slot.calls.turn, slot.calls.count) = (turn, 0);
        }
        if slot.calls.count == CALLS_MAX {
            if !slot.calls.awaits_turn {
                slot.calls.awaits_turn = true;
                self.again.links.push_back(index);
            }
            return false;
        }
        slot.calls.count += 1;
        true
    }

    /// Calls `on_receive` with the unread input, and stores what it leaves.
    fn call_with_input(&mut self, index: u32, unread: &mut Unread) {
        let slot = &mut self.core.slots[index];
        (slot.input.receive_due, slot.loans.requested) = (false, false);
        let (answer, asked) = self.run_input_callback(index, unread, |handler, link, input| {
            handler.on_receive(link, input)
        });
        self.keep_unread(index, unread);
        self.note_receive(index, asked.took, asked.wanted);
        self.apply_result(index, answer);
        if self.core.slots[index].loans.request.is_some() {
            self.core.end_stale_request(index);
        }
        if self.core.slots[index].deferral.is_some() {
            self.start_timeout(index);
        }
    }

    /// Stores what a callback has left unread.
    #[inline]
    fn keep_unread(&mut self, index: u32, unread: &mut Unread) {
        if !unread.is_empty() {
            self.core.keep_all(index, mem::take(unread));
        }
    }

    /// Notes the result of an `on_receive`.
    fn note_receive(&mut self, index: u32, took: bool, wanted: Wanted) {
        self.core.stats().receives.add(1);
        let slot = &mut self.core.slots[index];
        (slot.input.wanted, slot.input.message) =
            if took { (0, 0) } else { (wanted.least, wanted.most) };
        slot.input.handled = !took;
        if took {
            // Progress with borrowed input.
            slot.loans.input_progress_at = self.core.now;
        }
        // A link that waited for one buffer now waits for a message.
        let asks = slot.loans.request == Some(LoanRequest::Part) && slot.input.wanted > 0;
        if took || asks || slot.input.unread.is_empty() {
            // The rest of the loan for the message is not needed.
            slot.loans.promised = 0;
            if slot.loans.request.is_some() {
                self.core.forget_input_loan(index);
            }
        }
    }

    /// Calls the `on_writable` that is due.
    fn call_on_writable(&mut self, index: u32) -> bool {
        let slot = &mut self.core.slots[index];
        (slot.output.writable_due, slot.input.receive_due, slot.loans.requested) =
            (false, true, false);
        if mem::take(&mut slot.output.ensured) > 0 {
            self.core.publish_capacity(index);
        }
        let answer = self.run_callback(index, |handler, link| handler.on_writable(link));
        self.apply_result(index, answer);
        // Buffers that were lent for this call are also for the `on_receive` that it makes due.
        let slot = &self.core.slots[index];
        if slot.loans.request.is_some() && (slot.input.unread.is_empty() || slot.is_held()) {
            self.core.end_stale_request(index);
        }
        true
    }

    /// Calls `on_drain`.
    fn call_on_drain(&mut self, index: u32) -> bool {
        self.core.slots[index].ending.drain = Some(Verdict::Close);
        let answer = self.run_callback(index, |handler, link| handler.on_drain(link));
        if self.apply_verdict(index, answer) == Some(Verdict::Keep) {
            let slot = &mut self.core.slots[index];
            // The link stays open until its handler closes it or the drain timeout.
            slot.enter(Phase::Open);
            slot.ending.drain = Some(Verdict::Keep);
            (slot.ending.owed, slot.ending.drain_received) = (None, false);
            self.start_timeout(index);
            // The drain has stopped receiving, and all that had arrived may have come.
            self.update_receiving(index);
        }
        true
    }

    /// Calls `on_end`.
    pub(super) fn call_on_end(&mut self, index: u32) {
        let slot = &mut self.core.slots[index];
        slot.ending.end = Some(Verdict::Close);
        let chain = mem::take(&mut slot.input.unread);
        let before = slot.totals.received_bytes - chain.len() as u64;
        let mut unread = Unread::kept(chain, wrapped(before));
        let (answer, asked) =
            self.run_input_callback(index, &mut unread, |handler, link, input| {
                handler.on_end(link, input)
            });
        self.keep_unread(index, &mut unread);
        if asked.took {
            self.core.slots[index].input.handled = false;
        }
        if let Some(verdict) = self.apply_verdict(index, answer) {
            self.core.slots[index].ending.end = Some(verdict);
            let now = self.core.now;
            self.core.slots[index].note_activity(now);
            self.start_timeout(index);
            self.serve(index);
        }
    }

    /// Continues with the links that used up their calls in an earlier turn.
    pub(super) fn serve_again(&mut self) {
        for _ in 0..self.again.links.len() {
            let Some(index) = self.again.links.pop_front() else { return };
            self.core.slots[index].calls.awaits_turn = false;
            self.serve(index);
            self.close_after_replies(index);
            self.update_receiving(index);
        }
    }

    /// Calls the handler after the output's capacity has grown, or a loan was granted.
    #[inline]
    pub(super) fn capacity_has_grown(&mut self, index: u32) {
        let slot = &self.core.slots[index];
        // A handler that asked for bytes or capacity is called only when these are there.
        let waits = slot.is_incomplete()
            || (slot.output.writable_due
                && slot.output.ensured > 0
                && !self.core.can_call_writable(index));
        if !waits {
            self.core.slots[index].input.handled = false;
        }
        self.serve(index);
        self.close_after_replies(index);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "counts of a stream wrap")]
fn wrapped(count: u64) -> u32 {
    count as u32
}
