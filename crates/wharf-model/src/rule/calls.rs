//! When `on_receive` and `on_writable` are called, and how any callback is.

use super::Model;
use super::slot::{LastCall, Slot};
use crate::bug::{ModelBug, planted};
use crate::interface::{Handler, Input, Link, Output, Queue, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};

impl<H, S, W> Model<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// Whether there is a cause to call `on_receive` for what is unread.
    pub(super) fn is_due(&self, at: usize) -> bool {
        let slot = &self.slots[at];
        let callable = slot.is_open() && !slot.is_paused && slot.pool_turns == 0;
        if !callable || slot.input.is_empty() {
            return false;
        }
        if slot.input.claim.is_some() && !planted(ModelBug::DeferralLeavesInput) {
            return false;
        }
        if slot.wakes || (slot.last.took && !planted(ModelBug::NoCallAfterTaking)) {
            return true;
        }
        let want = slot.input.wanted_bytes();
        if want > 0 && !planted(ModelBug::IgnoresTake) {
            return slot.input.len() >= want;
        }
        let LastCall { received_bytes, taken_bytes, .. } = slot.last;
        let more_may_be_queued = if planted(ModelBug::CapacityCausesNoCall) {
            false
        } else {
            let [own, partner] = self.taken_bytes(slot);
            (slot.partner.is_none() && own > taken_bytes[0]) || partner > taken_bytes[1]
        };
        slot.input.received_bytes > received_bytes || more_may_be_queued
    }

    /// Whether the output into which replies go is ready for one, or never again will be.
    pub(super) fn is_ready(&self, at: usize) -> bool {
        let replies = self.replies(at);
        replies.is_ready() || replies.is_over()
    }

    /// Whether it has a grant, for a last message.
    pub(super) fn has_grant(&self, at: usize) -> bool {
        let replies = self.replies(at);
        replies.has_grant() || replies.is_over()
    }

    /// Whether everything unread has been handled: nothing is there, or a call took nothing and waits
    /// for nothing.
    pub(super) fn is_handled(&self, at: usize) -> bool {
        let slot = &self.slots[at];
        if slot.input.is_empty() {
            return true;
        }
        if self.is_due(at) || slot.last.took || !slot.last.took_nothing {
            return false;
        }
        slot.input.wanted_bytes() > 0 || slot.last.outputs_idle
    }

    pub(super) fn receive(&mut self, at: usize, in_pool: bool) {
        let taken_bytes = self.taken_bytes(&self.slots[at]);
        let idle_before = self.has_idle_outputs(at);
        let slot = &mut self.slots[at];
        slot.wakes = false;
        slot.input.forget_want();
        slot.receives += 1;
        let received_bytes = slot.input.received_bytes;
        let before = slot.input.taken_bytes;
        let was_deferred = slot.input.claim.is_some();
        let result = self.call(at, in_pool, |handler, link, input| handler.on_receive(link, input));
        let outputs_idle = idle_before && self.has_idle_outputs(at);
        let slot = &mut self.slots[at];
        let took = slot.input.taken_bytes > before;
        let took_nothing = !took && slot.pool_turns == 0;
        slot.last = LastCall { took, took_nothing, outputs_idle, received_bytes, taken_bytes };
        if slot.input.claim.is_some() && !was_deferred {
            slot.times.deferred_ms = self.now_ms;
        }
        self.apply_result(at, result);
    }

    /// Calls `on_writable`, if it is owed and there is what was asked for. Whether it was called.
    pub(super) fn call_writable(&mut self, at: usize) -> bool {
        let is_payable = |queue: &Queue, bytes: usize| {
            queue.is_over() || queue.spare_bytes() >= queue.grant.max(bytes)
        };
        self.wait_for_output(at);
        let slot = &self.slots[at];
        let debt = slot.out.own_debt;
        let own = debt.is_owed && is_payable(&slot.out, debt.bytes);
        let partner = slot.partner.filter(|partner| {
            let out = &self.slots[*partner].out;
            out.partner_debt.is_owed && is_payable(out, out.partner_debt.bytes)
        });
        let inbox_is_full = self.server.lock().inbox.len() >= self.settings.posts_max;
        if !(own || partner.is_some()) || inbox_is_full || planted(ModelBug::NeverWritable) {
            return false;
        }
        if own {
            self.slots[at].out.own_debt = crate::interface::Debt::default();
        }
        if let Some(partner) = partner {
            self.slots[partner].out.partner_debt = crate::interface::Debt::default();
        }
        self.slots[at].wakes = true;
        self.slots[at].writables += 1;
        let result = self.call(at, false, |handler, link, _| handler.on_writable(link));
        self.apply_result(at, result);
        true
    }

    /// Runs a callback of a link; `None`: it panicked.
    pub(super) fn call<R>(
        &mut self,
        at: usize,
        in_pool: bool,
        act: impl FnOnce(&H, &mut Link<'_, S, W>, &mut Input<'_>) -> Result<R>,
    ) -> Option<Result<R>> {
        // The call has the partner's output.
        let partner = self.slots[at].partner;
        if let Some(partner) = partner {
            let empty = self.no_output();
            let output = std::mem::replace(&mut self.slots[partner].out, empty);
            self.slots[at].asked.partner = output;
        }
        let result = self.call_slot(at, in_pool, act);
        self.slots[at].input.settle();
        self.slots[at].out.settle();
        if let Some(partner) = partner {
            let empty = self.no_output();
            let output = std::mem::replace(&mut self.slots[at].asked.partner, empty);
            self.slots[partner].out = output;
            self.slots[partner].out.settle();
        }
        let was_refused = std::mem::take(&mut self.server.lock().refused);
        self.slots[at].out.own_debt.is_owed |= was_refused;
        if result.is_none() {
            self.note_panic();
        }
        result
    }

    fn call_slot<R>(
        &mut self,
        at: usize,
        in_pool: bool,
        act: impl FnOnce(&H, &mut Link<'_, S, W>, &mut Input<'_>) -> Result<R>,
    ) -> Option<Result<R>> {
        let Self { handler, worker, pool_worker, slots, server, .. } = self;
        let slot = &mut slots[at];
        slot.calls += 1;
        slot.facts.in_pool = in_pool;
        let Some(state) = slot.state.as_mut() else {
            unreachable!("a callback of a link without a state")
        };
        let mut link = Link {
            out: Output { queue: &mut slot.out, is_partner: false },
            state,
            worker: if in_pool { pool_worker } else { worker },
            server,
            facts: &slot.facts,
            asked: &mut slot.asked,
        };
        let mut input = Input { unread: &mut slot.input };
        catch_unwind(AssertUnwindSafe(|| act(handler, &mut link, &mut input))).ok()
    }

    /// What the peers have taken of its own and of its partner's output.
    fn taken_bytes(&self, slot: &Slot<S>) -> [u64; 2] {
        let partner = slot.partner.map(|partner| self.slots[partner].out.taken_bytes);
        [slot.out.taken_bytes, partner.unwrap_or(slot.last.taken_bytes[1])]
    }

    fn has_idle_outputs(&self, at: usize) -> bool {
        let slot = &self.slots[at];
        let partner = slot.partner.map_or(0, |partner| self.slots[partner].out.unsent_bytes());
        slot.out.unsent_bytes() == 0 && partner == 0
    }

    /// The output into which replies go: the partner's, or its own.
    fn replies(&self, at: usize) -> &Queue {
        match self.slots[at].partner {
            Some(partner) if !planted(ModelBug::WaitsForOwnOutput) => &self.slots[partner].out,
            _ => &self.slots[at].out,
        }
    }
}
