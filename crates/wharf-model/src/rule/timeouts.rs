//! Time passes: idle, stalled, late and draining links.

use super::{LinkEnd, Model};
use crate::bug::{ModelBug, planted};
use crate::interface::{DisconnectReason, Handler};

impl<H, S, W> Model<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// Time passes: timeouts, and then the loan rule.
    pub fn tick(&mut self, ms: u64) {
        self.now_ms += ms;
        self.ledger.set_now_ms(self.now_ms);
        for at in 0..self.slots.len() {
            self.expire(at);
        }
        self.revoke_loans();
    }

    fn expire(&mut self, at: usize) {
        let (now, slot) = (self.now_ms, &mut self.slots[at]);
        if slot.is_over() {
            return;
        }
        if self.drain_until_ms.is_some_and(|until| now >= until) {
            return self.close_now(at, DisconnectReason::ServerStopping);
        }
        let passed = |since: u64, timeout: u64| timeout > 0 && now - since >= timeout;
        let is_deferred = slot.input.claim.is_some();
        if is_deferred && passed(slot.times.deferred_ms, self.settings.answer_timeout_ms) {
            self.cancel_reply(at);
            return self.close_after_sending(at, DisconnectReason::HandlerError);
        }
        let stall = match (slot.end, self.settings.stall_timeout_ms) {
            (LinkEnd::Flushing(_), 0) => CLOSING_TIMEOUT_MS,
            (_, timeout) => timeout,
        };
        let unsent = slot.out.unsent_bytes() > 0;
        if !unsent {
            slot.times.taken_ms = now;
        } else if passed(slot.times.taken_ms, stall) {
            return self.close_now(at, DisconnectReason::SlowReader);
        }
        let peer_owes_nothing = unsent
            || (is_deferred && !planted(ModelBug::IdleWhileDeferred))
            || slot.is_paused
            || slot.pool_turns > 0
            || !slot.is_open()
            || slot.input.account.is_waiting()
            || slot.out.account.is_waiting();
        if peer_owes_nothing {
            slot.times.active_ms = now;
        } else if passed(slot.times.active_ms, self.settings.idle_timeout_ms)
            && slot.out.has_grant()
        {
            slot.times.active_ms = now;
            let verdict = self.call(at, false, |handler, link, _| handler.on_idle(link));
            self.apply_verdict(at, verdict, |model| {
                model.close_after_sending(at, DisconnectReason::Idle);
            });
        }
    }
}

/// How long the peer of a closing link may take nothing, if there is no stall timeout.
const CLOSING_TIMEOUT_MS: u64 = 30_000;
