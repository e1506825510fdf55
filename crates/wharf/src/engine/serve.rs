//! From a link's input to its handler: a call comes only when its answer has room.

use super::worker::Worker;
use crate::handler::Handler;
use crate::link::input::Input;
use crate::plant::EnginePlant;
use crate::server::shared::Command;
use std::mem;
use wharf_port::memory::Buffer;
use wharf_port::port::Port;

/// Calls that one link gets in a turn; then others have theirs.
const CALLS_MAX: u8 = 64;

impl<P: Port<Packet = Command<<P as Port>::Stream>>, H: Handler> Worker<P, H> {
    /// Gives the handler what has just come, if nothing is unread before it and the answer has room.
    /// What is not consumed stays with the link.
    pub(super) fn serve_fresh(&mut self, index: u32, buffer: Buffer) {
        if !self.core.slots[index].input.is_empty() || !self.may_call(index) {
            self.keep(index, buffer, 0);
            return self.serve(index);
        }
        self.core.slots[index].in_call = 1;
        let mut input = Input::fresh(&buffer);
        let answer =
            self.call(index, |handler, worker, link| handler.on_input(worker, link, &mut input));
        let (left, wanted) = (input.len(), input.wanted());
        let took = buffer.len() - left;
        self.core.slots[index].in_call = 0;
        if left == 0 {
            drop(buffer);
            self.called(index, true, 0);
            self.after_callback(index, answer);
        } else {
            self.keep(index, buffer, took);
            self.called(index, took > 0, wanted);
            self.after_callback(index, answer);
            self.serve(index);
        }
    }

    /// Puts a buffer behind what is unread, without its first bytes. The last buffer is filled up
    /// first: a message that comes in pieces pins one buffer more than it needs, at most.
    pub(super) fn keep(&mut self, index: u32, buffer: Buffer, consumed: usize) {
        let (slots, pool) = (&mut self.core.slots, &self.core.pool);
        let slot = &mut slots[index];
        let before = slot.input.buffers();
        debug_assert!(consumed == 0 || before == 0, "only the first bytes are consumed");
        let pushed = slot.input.push_packed(pool, buffer);
        assert!(pushed.is_ok(), "there is an entry for each buffer of the pool");
        slot.input.advance(consumed);
        if slot.input.buffers() > before {
            slot.promised = slot.promised.saturating_sub(1);
        }
    }

    /// Calls the handler with what is unread, again and again, while it takes something and its
    /// answers have room. What is left waits for room, or for the next turn.
    #[inline]
    pub(super) fn serve(&mut self, index: u32) {
        if !self.core.slots[index].input.is_empty() {
            self.serve_unread(index);
        }
    }

    fn serve_unread(&mut self, index: u32) {
        while self.core.slots[index].is_served()
            && !self.core.slots[index].is_handled()
            && self.may_call(index)
        {
            self.call_with_input(index);
        }
        self.core.settle(index);
    }

    /// Whether a callback with input may come now; counts it. One whose calls are used up goes on in
    /// the next turn.
    fn may_call(&mut self, index: u32) -> bool {
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
        let may = self.core.has_room(index);
        self.core.slots[index].calls += u8::from(may);
        may
    }

    fn call_with_input(&mut self, index: u32) {
        let slot = &mut self.core.slots[index];
        let mut unread = mem::take(&mut slot.input);
        let before = unread.len();
        slot.in_call = unread.buffers();
        let mut input = Input::kept(&mut unread);
        let answer =
            self.call(index, |handler, worker, link| handler.on_input(worker, link, &mut input));
        let wanted = input.wanted();
        let took = unread.len() < before;
        let slot = &mut self.core.slots[index];
        slot.in_call = 0;
        slot.input = unread;
        self.called(index, took, wanted);
        self.after_callback(index, answer);
    }

    /// Notes what a call with input has done.
    fn called(&mut self, index: u32, took: bool, wanted: usize) {
        self.core.stats().received_messages.add(1);
        let slot = &mut self.core.slots[index];
        slot.totals.received_count += 1;
        slot.wanted = if took { 0 } else { u32::try_from(wanted).unwrap_or(u32::MAX) };
        slot.handled = !took;
        if took {
            // Progress with what it was lent.
            slot.eased = self.core.now;
        }
        if slot.input.is_empty() {
            // What was promised for the rest of a message is not needed: it has come.
            slot.promised = 0;
            if slot.wish.is_some() {
                self.core.forget_input_loan(index);
            }
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
    pub(super) fn room_has_grown(&mut self, index: u32) {
        if self.core.shared.planted.strikes(EnginePlant::ForgetRoom) {
            return;
        }
        self.core.slots[index].handled = false;
        self.serve(index);
        self.end_if_answered(index);
    }
}
