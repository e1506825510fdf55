//! The loan rule: which links wait for buffers, and which are closed for them.

use super::Model;
use super::slot::Slot;
use crate::bug::{ModelBug, planted};
use crate::interface::{DisconnectReason, Handler};
use crate::shares::{Holder, Loans, loan_patience_ms};

impl<H, S, W> Model<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// Joins or leaves the queue for a loan; the output joins if it lacks only buffers.
    pub(super) fn wait_for_output(&mut self, at: usize) {
        let slot = &self.slots[at];
        let below = slot.out.used_bytes() <= slot.out.limit / 2;
        let replies_here = slot.partner.is_none() && below;
        let wanted = slot.out.own_debt.is_owed
            || slot.out.partner_debt.is_owed
            || (replies_here && self.is_due(at) && !self.is_ready(at));
        let slot = &mut self.slots[at];
        let need = if wanted { slot.out.lacking_buffers() } else { 0 };
        slot.out.account.wait_for(need);
        slot.input.update_need();
    }

    /// If links have waited for a loan for `loan_wait`, closes those that hold loans without progress,
    /// as many as it takes.
    pub(super) fn revoke_loans(&mut self) {
        let wait_ms = self.settings.loan_wait_ms;
        if wait_ms == 0 || planted(ModelBug::NeverRevokes) {
            return;
        }
        let mut needs = Loans::default();
        for slot in &self.slots {
            needs.input += slot.input.account.late_need(wait_ms);
            needs.output += slot.out.account.late_need(wait_ms);
        }
        if needs.sum() == 0 {
            return;
        }
        let patience_ms = loan_patience_ms(wait_ms);
        let slots = self.slots.iter().enumerate();
        let holders: Vec<Holder> = slots
            .filter(|(_, slot)| !is_spared(slot))
            .filter_map(|(at, slot)| holder(at, slot, patience_ms))
            .collect();
        let mut victims = self.ledger.shares.victims(self.ledger.lent(), needs, &holders);
        if planted(ModelBug::ClosesOneAtATime) {
            victims.truncate(1);
        }
        for victim in victims {
            self.server.lock().stats.loans_revoked += 1;
            let unread = victim.loans.input >= victim.loans.output;
            let reason =
                if unread { DisconnectReason::Limit } else { DisconnectReason::SlowReader };
            self.close_now(victim.link, reason);
        }
    }
}

/// It waits only for a loan for its own reply, which is not caused by its peer.
fn is_spared<S>(slot: &Slot<S>) -> bool {
    let waits = slot.out.account.is_waiting() && slot.out.unsent_bytes() == 0;
    waits && !slot.input.account.is_waiting() && !planted(ModelBug::ClosesWaitingReply)
}

fn holder<S>(at: usize, slot: &Slot<S>, patience_ms: u64) -> Option<Holder> {
    let (input, input_weight) = slot.input.account.stuck_loan(patience_ms);
    let (output, output_weight) = slot.out.account.stuck_loan(patience_ms);
    // A link that waits for the rest of its message gets its loan in order, and is closed only for its output.
    if output == 0 && slot.input.account.is_waiting() {
        return None;
    }
    let weight = input_weight + output_weight;
    (weight > 0).then(|| Holder::new(at, Loans::new(input, output), weight))
}
