//! From a link's input to its handler: a call comes only when its answer has room.

use super::worker::Worker;
use crate::handler::Handler;
use crate::link::input::Input;
use crate::plant::EnginePlant;
use crate::server::shared::Command;
use std::mem;
use wharf_port::port::Port;

/// Calls that one link gets in a turn; then others have theirs.
const CALLS_MAX: u32 = 64;

impl<P: Port<Packet = Command<<P as Port>::Stream>>, H: Handler> Worker<P, H> {
    /// Calls the handler with what is unread, again and again, while it takes something and its
    /// answers have room. What is left waits for room, or for the next turn.
    pub(super) fn serve(&mut self, index: u32) {
        loop {
            let slot = &mut self.core.slots[index];
            if !slot.is_served() || slot.is_handled() {
                break;
            }
            if slot.turn != self.core.turn {
                (slot.turn, slot.calls) = (self.core.turn, 0);
            }
            if slot.calls == CALLS_MAX {
                self.again.push(index);
                break;
            }
            slot.calls += 1;
            if !self.core.has_room(index) {
                break;
            }
            self.call_with_input(index);
        }
        self.core.settle(index);
    }

    fn call_with_input(&mut self, index: u32) {
        let slot = &mut self.core.slots[index];
        let mut unread = mem::take(&mut slot.input);
        let before = unread.len();
        slot.in_call = unread.buffers();
        slot.totals.received_count += 1;
        self.core.stats().received_messages.add(1);
        let mut input = Input::new(&mut unread);
        let answer =
            self.call(index, |handler, worker, link| handler.on_input(worker, link, &mut input));
        let wanted = input.wanted();
        let took = unread.len() < before;
        let slot = &mut self.core.slots[index];
        slot.in_call = 0;
        slot.input = unread;
        slot.wanted = if took { 0 } else { u32::try_from(wanted).unwrap_or(u32::MAX) };
        slot.handled = !took;
        self.merge_pieces(index);
        self.after_callback(index, answer);
    }

    /// Consumed heads and part-filled tails pin buffers; where they are too many the bytes move.
    fn merge_pieces(&mut self, index: u32) {
        let input = &mut self.core.slots[index].input;
        let needed = input.len().div_ceil(self.core.pool.buffer_size_bytes() as usize);
        if input.buffers() as usize > needed + 1 {
            input.compact(&self.core.pool);
        }
    }

    /// Goes on with links whose budget of calls was used up in an earlier turn.
    pub(super) fn serve_again(&mut self) {
        for _ in 0..self.again.len() {
            let Some(index) = self.again.pop() else { return };
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
