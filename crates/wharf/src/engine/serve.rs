//! From a link's input to its handler, and from room in its output: a call comes only when its answer
//! has room.
//!
//! The order of a link's callbacks in a turn: `on_drain` once, `on_writable` if it is owed, `on_receive`
//! for what is unread, `on_end` when that is handled.

use crate::engine::worker::Worker;
use crate::handler::Handler;
use crate::link::input::Wanted;
use crate::link::slot::{Phase, Wish};
use crate::link::unread::Unread;
use crate::service::Service;
use crate::shared::ShardPort;
use crate::vocabulary::reason::Verdict;
use std::mem;
use wharf_port::memory::Buffer;

/// Calls that one link gets in a turn; then others have theirs.
const CALLS_MAX: u8 = 64;

impl<P: ShardPort, V: Service> Worker<P, V> {
    /// Gives the handler what has just come, if nothing is unread before it and the answer has room.
    /// What is not consumed stays with the link.
    pub(super) fn serve_fresh(&mut self, index: u32, buffer: Buffer) {
        let slot = &self.core.slots[index];
        let waits = !slot.input.is_empty() || slot.is_held() || slot.owes_call();
        if waits || !self.core.has_room(index) || !self.counts_call(index) {
            self.keep(index, buffer);
            return self.serve(index);
        }
        let before = self.core.slots[index].totals.received_bytes - buffer.len() as u64;
        let mut unread = Unread::fresh(buffer, wrapped(before));
        self.call_with_input(index, &mut unread);
        self.serve(index);
    }

    /// Puts a buffer behind what is unread. The last buffer is filled up first: a message that comes
    /// in pieces pins one buffer more than it needs, at most.
    pub(super) fn keep(&mut self, index: u32, buffer: Buffer) {
        let before = self.core.slots[index].input.buffers();
        self.core.keep(index, buffer);
        let slot = &mut self.core.slots[index];
        let more = slot.input.buffers() - before;
        slot.promised = slot.promised.saturating_sub(more);
    }

    /// Calls the handler for what it is owed and for what is unread, again and again, while it takes
    /// something and its answers have room. What is left waits for room, or for the next turn.
    #[inline]
    pub(super) fn serve(&mut self, index: u32) {
        let slot = &self.core.slots[index];
        if !slot.input.is_empty() || slot.owes_call() {
            self.serve_in_order(index);
        }
    }

    fn serve_in_order(&mut self, index: u32) {
        // What a call has given back may be what the next one needs.
        self.core.settle(index);
        while self.core.slots[index].is_served() && self.serve_once(index) {
            self.core.settle(index);
        }
        if self.core.slots[index].owes_writable {
            self.core.wish_if_short(index);
        }
    }

    /// Makes the call that is next in order; says whether there was one.
    fn serve_once(&mut self, index: u32) -> bool {
        let slot = &self.core.slots[index];
        // First, because a handler that fills what room there is would leave none for it.
        if slot.owes_drain() && self.core.has_grant(index) {
            return self.tell_drain(index);
        }
        if slot.owes_writable && self.core.can_pay_writable(index) {
            return self.counts_call(index) && self.pay_writable(index);
        }
        let slot = &self.core.slots[index];
        let is_due = !slot.input.is_empty() && !slot.is_handled() && !slot.is_held();
        if !is_due || !self.core.has_room(index) || !self.counts_call(index) {
            return false;
        }
        let slot = &mut self.core.slots[index];
        let chain = mem::take(&mut slot.input);
        let before = slot.totals.received_bytes - chain.len() as u64;
        self.call_with_input(index, &mut Unread::kept(chain, wrapped(before)));
        true
    }

    /// Counts a call of this turn, if there is one left; a link whose calls are used up goes on in the
    /// next turn.
    fn counts_call(&mut self, index: u32) -> bool {
        let turn = self.core.turn;
        let slot = &mut self.core.slots[index];
        if slot.turn != turn {
            (slot.turn, slot.calls) = (turn, 0);
        }
        if slot.calls == CALLS_MAX {
            if !slot.goes_on {
                slot.goes_on = true;
                self.again.push_back(index);
            }
            return false;
        }
        slot.calls += 1;
        true
    }

    /// Calls the handler with what is unread, and keeps what it leaves.
    fn call_with_input(&mut self, index: u32, unread: &mut Unread) {
        let slot = &mut self.core.slots[index];
        (slot.woken, slot.wished) = (false, false);
        let (answer, asked) =
            self.call_with(index, unread, |handler, link, input| handler.on_receive(link, input));
        self.keep_unread(index, unread);
        self.called(index, asked.took, asked.wanted);
        self.after_callback(index, answer);
        if self.core.slots[index].wish.is_some() {
            self.core.end_stale_wish(index);
        }
        if self.core.slots[index].deferral.is_some() {
            self.start_time_out(index);
        }
    }

    /// Puts back what a callback has left.
    #[inline]
    fn keep_unread(&mut self, index: u32, unread: &mut Unread) {
        if !unread.is_empty() {
            self.core.keep_all(index, mem::take(unread));
        }
    }

    /// Notes what a call with input has done.
    fn called(&mut self, index: u32, took: bool, wanted: Wanted) {
        self.core.stats().received_messages.add(1);
        let slot = &mut self.core.slots[index];
        (slot.wanted, slot.message) = if took { (0, 0) } else { (wanted.least, wanted.most) };
        slot.handled = !took;
        if took {
            // Progress with what it was lent.
            slot.eased = self.core.now;
        }
        // One that waited for a part now knows what it waits for.
        let asks = slot.wish == Some(Wish::Part) && slot.wanted > 0;
        if took || asks || slot.input.is_empty() {
            // What was promised for the rest of a message is not needed: it has come.
            slot.promised = 0;
            if slot.wish.is_some() {
                self.core.forget_input_loan(index);
            }
        }
    }

    /// Makes the call that is owed for want of room.
    fn pay_writable(&mut self, index: u32) -> bool {
        let slot = &mut self.core.slots[index];
        (slot.owes_writable, slot.woken, slot.wished) = (false, true, false);
        if mem::take(&mut slot.ensured) > 0 {
            self.core.publish_room(index);
        }
        let answer = self.call(index, |handler, link| handler.on_writable(link));
        self.after_callback(index, answer);
        // What was lent for this call is there for the call with input that it wakes, too.
        let slot = &self.core.slots[index];
        if slot.wish.is_some() && (slot.input.is_empty() || slot.is_held()) {
            self.core.end_stale_wish(index);
        }
        true
    }

    /// Tells the handler that the server stops.
    fn tell_drain(&mut self, index: u32) -> bool {
        self.core.slots[index].drain = Some(Verdict::Close);
        let answer = self.call(index, |handler, link| handler.on_drain(link));
        if self.after_verdict(index, answer) == Some(Verdict::Keep) {
            let slot = &mut self.core.slots[index];
            // As before the stop, until its handler closes it, or the drain ends.
            slot.enter(Phase::Open);
            slot.drain = Some(Verdict::Keep);
            (slot.owed, slot.drained) = (None, false);
        }
        true
    }

    /// Tells the handler that nothing more will come, and that all that came is handled.
    pub(super) fn tell_end(&mut self, index: u32) {
        let slot = &mut self.core.slots[index];
        slot.end = Some(Verdict::Close);
        let chain = mem::take(&mut slot.input);
        let before = slot.totals.received_bytes - chain.len() as u64;
        let mut unread = Unread::kept(chain, wrapped(before));
        let (answer, asked) =
            self.call_with(index, &mut unread, |handler, link, input| handler.on_end(link, input));
        self.keep_unread(index, &mut unread);
        if asked.took {
            self.core.slots[index].handled = false;
        }
        if let Some(verdict) = self.after_verdict(index, answer) {
            self.core.slots[index].end = Some(verdict);
            let now = self.core.now;
            self.core.slots[index].hear(now);
            self.start_time_out(index);
            self.serve(index);
        }
    }

    /// Goes on with links whose budget of calls was used up in an earlier turn.
    pub(super) fn serve_again(&mut self) {
        for _ in 0..self.again.len() {
            let Some(index) = self.again.pop_front() else { return };
            self.core.slots[index].goes_on = false;
            self.serve(index);
            self.end_if_answered(index);
            self.steer(index);
        }
    }

    /// The link's output has more room, or it was lent what it waited for: the handler may go on.
    #[inline]
    pub(super) fn room_has_grown(&mut self, index: u32) {
        let slot = &self.core.slots[index];
        // What was asked for, bytes or room, is to be there.
        let waits = slot.is_incomplete()
            || (slot.owes_writable && slot.ensured > 0 && !self.core.can_pay_writable(index));
        if !waits {
            self.core.slots[index].handled = false;
        }
        self.serve(index);
        self.end_if_answered(index);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "counts of a stream wrap")]
fn wrapped(count: u64) -> u32 {
    count as u32
}
