//! Loans, as the engine wires them: who waits is served in order, and who holds too long is closed.
//! The rules and their arithmetic are in `shares.rs`.

pub(super) mod lending;

use crate::engine::close::How;
use crate::engine::time_out::timers::LOOKS;
use crate::engine::worker::Worker;
use crate::link::slot::{Phase, Receiving, Wish};
use crate::service::Service;
use crate::shared::ShardPort;
use crate::shares::{Borrower, Change, Loan, Standing, choose_victims};
use crate::vocabulary::reason::DisconnectReason;
use std::time::Duration;
use wharf_port::port::Time;

/// How often loans are looked at while somebody waits for one, at least.
const LOOK_EVERY_MAX: Duration = Duration::from_millis(100);

impl<P: ShardPort, V: Service> Worker<P, V> {
    /// Grants what can be granted, and lets the port have what buffers are left for it.
    pub(super) fn share_buffers(&mut self) {
        self.grant_loans();
        self.revoke_loans();
        self.revoke_messages();
        match self.core.shares.look() {
            Change::None => {}
            Change::Tight => self.let_all_take_turns(),
            Change::Plenty => self.let_all_receive(),
        }
        let window = self.window();
        self.port.set_window(window);
    }

    /// How many buffers the port may have: while receives are being cancelled, because loans have
    /// become tight, no more than can be lent, since what still comes was not asked for.
    fn window(&mut self) -> u32 {
        let window = self.core.shares.window();
        if !self.lending.stops_receives {
            return window;
        }
        let slots = &self.core.slots;
        self.lending.stops_receives = (0..slots.live_count())
            .any(|n| slots[slots.live(n)].receiving == Receiving::Cancelling);
        window.min(self.core.shares.lendable_input(0))
    }

    /// Loans have become tight: links that receive without having asked take turns from now on.
    fn let_all_take_turns(&mut self) {
        self.lending.stops_receives = true;
        self.for_each_live(|worker, index| {
            let slot = &worker.core.slots[index];
            let borrows =
                slot.receiving == Receiving::One && !slot.input.is_empty() && slot.promised == 0;
            if slot.is_served() && (slot.receiving == Receiving::Many || borrows) {
                worker.stop_receiving(index);
            }
        });
    }

    /// Loans are plenty again: who waits for one to receive into goes on without.
    fn let_all_receive(&mut self) {
        for _ in 0..self.core.waiters.len() {
            let Some(index) = self.core.waiters.pop() else { return };
            // Behind those that were behind it, so that all keep their order.
            self.core.waiters.push(index);
            if matches!(self.core.slots[index].wish, Some(Wish::Input(_) | Wish::Part)) {
                self.core.end_wish(index);
                self.steer(index);
            }
        }
    }

    /// Lends to those that wait, the first one first, as far as it goes.
    pub(super) fn grant_loans(&mut self) {
        for _ in 0..self.core.waiters.len() {
            let Some(index) = self.core.waiters.first() else { return };
            let wish = self.core.slots[index].wish;
            if !self.core.can_grant(index) {
                if !self.core.yields(index) {
                    return;
                }
                self.core.waiters.remove(index);
                self.core.waiters.push(index);
                continue;
            }
            self.core.end_wish(index);
            match wish {
                Some(Wish::Input(buffers)) => self.lend_for_input(index, buffers),
                Some(Wish::Part) => self.lend_for_input(index, 1),
                Some(Wish::Output(_)) => self.offer_room(index),
                None => unreachable!("who waits has a wish"),
            }
        }
    }

    /// Has a link receive so many buffers more.
    fn lend_for_input(&mut self, index: u32, buffers: u32) {
        let slot = &mut self.core.slots[index];
        // It has had no chance yet to make progress with it.
        slot.eased = self.core.now;
        slot.promised = buffers;
        self.core.settle(index);
        self.steer(index);
    }

    /// Tells a handler that was refused buffers that it can have them.
    fn offer_room(&mut self, index: u32) {
        self.core.granting = Some(index);
        if self.core.slots[index].is_served() {
            // One whose call was paid meanwhile has what it asked for.
            if self.core.slots[index].owes_writable {
                self.room_has_grown(index);
            } else {
                self.serve(index);
                self.end_if_answered(index);
            }
        }
        self.core.granting = None;
        self.core.settle(index);
        self.steer(index);
    }

    /// Closes links that have held most for the longest, if others have waited too long.
    fn revoke_loans(&mut self) {
        let now = self.core.now;
        let wait = self.core.shared.settings.loan_wait;
        let Some(first) = self.core.waiters.first() else {
            self.lending.due = None;
            return;
        };
        let every = (wait / 4).clamp(Duration::from_millis(1), LOOK_EVERY_MAX);
        if self.lending.due.is_some_and(|due| due > now) {
            return;
        }
        self.lending.due = Some(now.after(every));
        // The first one may have come before others that have waited longer.
        let since = |index| self.core.slots[index].wishes_since;
        let oldest = self.core.waiters.iter().map(since).min().unwrap_or(now);
        let waited = now.since(oldest);
        if waited < wait / LOOKS || !self.clock.may_time_out() {
            return;
        }
        // The first look at what a link's peer has acknowledged is only to compare with.
        self.list_borrowers(wait);
        if self.lending.borrowers.len() > 1 {
            // It is not closed for itself.
            self.lending
                .borrowers
                .retain(|borrower| borrower.index != first || borrower.standing == Standing::Holds);
        }
        if waited < wait {
            return;
        }
        let lack = self.core.shares.lack(self.overdue_needs(wait));
        let lack_of_first = self.core.shares.lack(self.core.need(first));
        let chosen = choose_victims(&mut self.lending.borrowers, lack, lack_of_first);
        for at in 0..chosen {
            let Borrower { index, loan, .. } = self.lending.borrowers[at];
            let reason = if loan.input > loan.output {
                DisconnectReason::Limit
            } else {
                DisconnectReason::SlowReader
            };
            self.revoke(index, reason);
        }
        if chosen > 0 {
            self.grant_loans();
        }
    }

    fn revoke(&mut self, index: u32, reason: DisconnectReason) {
        self.core.stats().loans_revoked.add(1);
        #[cfg(feature = "sim")]
        self.core.shared.revoked.note(self.core.id(index));
        self.close(index, reason, How::Now);
    }

    /// Whether a post was refused since messages were last looked at, and it is time again, by the
    /// links' clock.
    pub(super) fn is_to_look_at_posts(&self, now: Time) -> bool {
        self.core.shared.posts_refused() != self.lending.posts_refused
            && now >= self.lending.posts_due
    }

    /// Closes the link that has taken nothing for longest of those that keep posted messages from
    /// coming home, if a post was refused for want of buffers: one in each `loan_wait`, because it
    /// is not known whose messages they are.
    fn revoke_messages(&mut self) {
        let refused = self.core.shared.posts_refused();
        let is_due =
            refused != self.lending.posts_refused && self.core.now >= self.lending.posts_due;
        if !is_due || !self.clock.may_time_out() {
            return;
        }
        let wait = self.core.shared.settings.loan_wait;
        self.lending.posts_refused = refused;
        let mut longest = None;
        for n in 0..self.core.slots.live_count() {
            let index = self.core.slots.live(n);
            let slot = &self.core.slots[index];
            let may_stall = self.core.now.since(slot.moved) >= wait;
            if slot.messages() == 0 || slot.phase == Phase::Closing || !may_stall {
                continue;
            }
            let stalled = self.core.now.since(self.look_at_progress(index));
            if stalled >= wait && longest.is_none_or(|(_, other)| stalled > other) {
                longest = Some((index, stalled));
            }
        }
        if let Some((index, _)) = longest {
            self.lending.posts_due = self.core.now.after(wait);
            self.revoke(index, DisconnectReason::SlowReader);
        }
    }

    /// What those lack that have waited for `loan_wait`.
    fn overdue_needs(&self, wait: Duration) -> Loan {
        let now = self.core.now;
        let overdue = |index: &u32| now.since(self.core.slots[*index].wishes_since) >= wait;
        self.core.waiters.iter().filter(overdue).fold(Loan::default(), |sum, index| {
            let need = self.core.need(index);
            Loan {
                input: sum.input.saturating_add(need.input),
                output: sum.output.saturating_add(need.output),
            }
        })
    }

    /// Lists the links that hold a loan and have made no progress for `wait`. Those that wait for
    /// nothing but a loan for their own answer are spared, unless all that is lent is held so.
    fn list_borrowers(&mut self, wait: Duration) {
        self.lending.borrowers.clear();
        let mut all_wait_to_answer = true;
        for n in 0..self.core.slots.live_count() {
            let index = self.core.slots.live(n);
            let slot = &self.core.slots[index];
            let loan = self.core.shares.loan(slot.held);
            if loan.total() > 0 && slot.phase != Phase::Closing {
                let borrower = self.stalled_borrower(index, loan, wait);
                all_wait_to_answer &=
                    borrower.is_some_and(|borrower| borrower.standing == Standing::WaitsToAnswer);
                self.lending.borrowers.extend(borrower);
            }
        }
        if !all_wait_to_answer {
            self.lending.borrowers.retain(|borrower| borrower.standing != Standing::WaitsToAnswer);
        }
    }

    /// The link, if it makes no progress with what it was lent.
    fn stalled_borrower(&mut self, index: u32, mut loan: Loan, wait: Duration) -> Option<Borrower> {
        let output_stalled = if self.core.slots[index].has_output() {
            let moved = self.look_at_progress(index);
            Some(self.core.now.since(moved))
        } else {
            None
        };
        let slot = &self.core.slots[index];
        if output_stalled.is_some_and(|stalled| stalled < wait) {
            // Input waits for output that goes on, and will then go on, too; but not where the
            // handler waits for the rest of a message.
            if !slot.is_incomplete() {
                return None;
            }
            loan.output = 0;
        }
        let standing = match slot.wish {
            // What it holds it gives back with a reply that is the handler's to send.
            _ if slot.deferral.is_some() => Standing::WaitsToAnswer,
            // Nothing but a loan is in the way of its own answer.
            Some(Wish::Output(_)) if output_stalled.is_none() => Standing::WaitsToAnswer,
            Some(Wish::Input(_) | Wish::Part) => Standing::WaitsForInput,
            Some(Wish::Output(_)) | None => Standing::Holds,
        };
        let input_stalled = self.core.now.since(slot.eased);
        if input_stalled < wait {
            loan.input = 0;
        }
        let output_stalled = output_stalled.unwrap_or_default();
        let stalled =
            if loan.input > 0 { input_stalled.max(output_stalled) } else { output_stalled };
        let is_stalled = loan.total() > 0 && stalled >= wait;
        is_stalled.then_some(Borrower { index, loan, stalled, standing })
    }

    /// Looks at what the peer has acknowledged; says when output last made progress.
    ///
    /// Where the system does not tell, sends that complete are the progress.
    pub(super) fn look_at_progress(&mut self, index: u32) -> Time {
        let now = self.core.now;
        let slot = &mut self.core.slots[index];
        let acknowledged = slot.socket.and_then(|socket| self.port.acknowledged_bytes(socket));
        if let Some(acknowledged) = acknowledged
            && (!slot.looked || acknowledged != slot.acknowledged)
        {
            slot.acknowledged = acknowledged;
            slot.moved = now;
        }
        slot.looked = true;
        slot.moved
    }
}
