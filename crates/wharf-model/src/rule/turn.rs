//! One turn of the worker.

use super::{LinkEnd, Model};
use crate::bug::{ModelBug, planted};
use crate::interface::{DisconnectReason, Handler};

impl<H, S, W> Model<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// One turn of the worker: posts and bits, then each link, then what is to be sent. Whether anything
    /// happened.
    pub fn turn(&mut self) -> bool {
        let mut moved = self.deliver();
        for at in 0..self.slots.len() {
            moved |= self.step(at);
            self.slots[at].input.update_claim();
            self.slots[at].out.start_send(self.settings.send_buffers_max);
        }
        moved
    }

    /// The turn of one link. Whether anything happened.
    fn step(&mut self, at: usize) -> bool {
        if self.slots[at].is_over() {
            return false;
        }
        let mut moved = self.take_reply(at);
        if self.slots[at].is_reset {
            self.slots[at].out.discard_unsent();
        }
        let slot = &mut self.slots[at];
        if let LinkEnd::Flushing(reason) = slot.end {
            if slot.out.unsent_bytes() == 0 && slot.input.claim.is_none() {
                self.close_now(at, reason);
                return true;
            }
            return moved;
        }
        if slot.pool_turns > 0 {
            slot.pool_turns -= 1;
            if slot.pool_turns == 0 {
                self.receive(at, true);
            }
            return true;
        }
        if planted(ModelBug::WritableBeforeDrain) {
            moved |= self.call_writable(at);
        }
        // First: a handler that fills its output in each `on_writable` would leave no grant for it.
        moved |= self.call_drain(at);
        moved |= self.call_writable(at);
        moved |= self.call_receive(at);
        let slot = &self.slots[at];
        if !slot.is_open() || slot.pool_turns > 0 || slot.input.claim.is_some() {
            return moved;
        }
        self.end_if_handled(at) || moved
    }

    fn call_drain(&mut self, at: usize) -> bool {
        let slot = &self.slots[at];
        let due = slot.is_open() && !slot.drain_called && self.server.is_stopping();
        if !due || !slot.out.has_grant() {
            return false;
        }
        self.slots[at].drain_called = true;
        let verdict = self.call(at, false, |handler, link, _| handler.on_drain(link));
        self.apply_verdict(at, verdict, |model| {
            model.slots[at].ending.get_or_insert(DisconnectReason::ServerStopping);
        });
        true
    }

    fn call_receive(&mut self, at: usize) -> bool {
        let calls_max = if planted(ModelBug::NoCallBudget) {
            usize::MAX
        } else {
            self.settings.calls_per_turn_max
        };
        for call in 0..calls_max {
            self.wait_for_output(at);
            if !self.is_due(at) || !self.is_ready(at) {
                return call > 0;
            }
            self.receive(at, false);
        }
        true
    }

    /// Calls `on_end`, or ends the link, if everything unread is handled. Whether anything happened.
    fn end_if_handled(&mut self, at: usize) -> bool {
        let slot = &self.slots[at];
        let partner_owes =
            slot.partner.is_some_and(|partner| self.slots[partner].out.partner_debt.is_owed);
        let is_owed = slot.out.own_debt.is_owed || partner_owes;
        let is_handled = self.is_handled(at);
        if slot.is_reset {
            if is_handled {
                self.close_now(at, DisconnectReason::PeerReset);
            }
            return is_handled;
        }
        let end_is_due = slot.input.is_ended && !slot.end_called && !slot.is_paused;
        if end_is_due && is_handled && !is_owed && self.has_grant(at) {
            self.slots[at].end_called = true;
            let verdict = self.call(at, false, |handler, link, input| handler.on_end(link, input));
            self.apply_verdict(at, verdict, |model| {
                model.slots[at].ending.get_or_insert(DisconnectReason::PeerClosed);
            });
            return true;
        }
        let is_sent = slot.out.unsent_bytes() == 0;
        if let Some(reason) = slot.ending {
            let is_handled = is_handled || slot.end_called || planted(ModelBug::DrainDropsInput);
            let is_sent =
                (is_sent && !slot.out.own_debt.is_owed) || planted(ModelBug::CloseDropsQueued);
            if is_handled && is_sent {
                self.close_now(at, reason);
                return true;
            }
        } else if slot.end_called && slot.out.is_finished && is_sent {
            self.close_now(at, DisconnectReason::PeerClosed);
            return true;
        }
        false
    }
}
