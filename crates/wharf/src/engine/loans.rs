//! Grants loans in the order of the requests, and revokes those without progress. The rules and their
//! arithmetic are in `shares.rs`.

pub(super) mod lending;

use crate::engine::close::CloseMode;
use crate::engine::timeout::timers::CHECKS_PER_STALL;
use crate::engine::worker::Worker;
use crate::link::slot::{LoanRequest, Phase, Receiving};
use crate::service::Service;
use crate::shared::ShardPort;
use crate::shares::{Borrower, Change, Loan, Standing, choose_victims};
use crate::vocabulary::reason::DisconnectReason;
use std::time::Duration;
use wharf_port::port::Time;

/// Maximum interval of the checks for loans to revoke, while a link waits.
const LOOK_EVERY_MAX: Duration = Duration::from_millis(100);

impl<P: ShardPort, V: Service> Worker<P, V> {
    /// Grants and revokes loans, and sets the number of the port's buffers.
    pub(super) fn update_loans(&mut self) {
        self.grant_loans();
        self.revoke_loans();
        self.revoke_messages();
        match self.core.shares.update_tight() {
            Change::None => {}
            Change::Tight => self.cancel_unlent_receives(),
            Change::Ended => self.end_input_waits(),
        }
        let count = self.receive_buffers();
        self.port.set_receive_buffers(count);
    }

    /// Buffers that the port may have. While receives are being cancelled because loans have become
    /// tight, only as many as can be lent, because these receives still complete without a request.
    fn receive_buffers(&mut self) -> u32 {
        let count = self.core.shares.receive_buffers();
        if !self.lending.stops_receives {
            return count;
        }
        let slots = &self.core.slots;
        self.lending.stops_receives = (0..slots.live_count())
            .any(|n| slots[slots.live_index(n)].flight.receiving == Receiving::Cancelling);
        count.min(self.core.shares.lendable_input(0))
    }

    /// Loans have become tight: cancels receives that take more than the guaranteed buffer without a
    /// loan.
    fn cancel_unlent_receives(&mut self) {
        self.lending.stops_receives = true;
        self.for_each_live(|worker, index| {
            let slot = &worker.core.slots[index];
            let borrows = slot.flight.receiving == Receiving::One
                && !slot.input.unread.is_empty()
                && slot.loans.promised == 0;
            if slot.runs_callbacks() && (slot.flight.receiving == Receiving::Many || borrows) {
                worker.stop_receiving(index);
            }
        });
    }

    /// Loans have ceased to be tight: links that wait for a loan of input receive without one.
    fn end_input_waits(&mut self) {
        for _ in 0..self.core.waiters.len() {
            let Some(index) = self.core.waiters.pop() else { return };
            // The loop moves every link once, so the order stays.
            self.core.waiters.push(index);
            if matches!(
                self.core.slots[index].loans.request,
                Some(LoanRequest::Input(_) | LoanRequest::Part)
            ) {
                self.core.end_request(index);
                self.update_receiving(index);
            }
        }
    }

    /// Grants loans to the waiters in their order, until one cannot be granted.
    pub(super) fn grant_loans(&mut self) {
        for _ in 0..self.core.waiters.len() {
            let Some(index) = self.core.waiters.first() else { return };
            let request = self.core.slots[index].loans.request;
            if !self.core.can_grant(index) {
                if !self.core.yields(index) {
                    return;
                }
                self.core.waiters.remove(index);
                self.core.waiters.push(index);
                continue;
            }
            self.core.end_request(index);
            match request {
                Some(LoanRequest::Input(buffers)) => self.grant_input_loan(index, buffers),
                Some(LoanRequest::Part) => self.grant_input_loan(index, 1),
                Some(LoanRequest::Output(_)) => self.grant_output_loan(index),
                None => unreachable!("who waits has a request"),
            }
        }
    }

    /// Lends a link `buffers` to receive into.
    fn grant_input_loan(&mut self, index: u32, buffers: u32) {
        let slot = &mut self.core.slots[index];
        // The time without progress starts now.
        slot.loans.input_progress_at = self.core.now;
        slot.loans.promised = buffers;
        self.core.settle(index);
        self.update_receiving(index);
    }

    /// Calls the handler of a link that waited for buffers of output.
    fn grant_output_loan(&mut self, index: u32) {
        self.core.granting = Some(index);
        if self.core.slots[index].runs_callbacks() {
            // Without a due `on_writable`, the handler has got what it asked for.
            if self.core.slots[index].output.writable_due {
                self.capacity_has_grown(index);
            } else {
                self.serve(index);
                self.close_after_replies(index);
            }
        }
        self.core.granting = None;
        self.core.settle(index);
        self.update_receiving(index);
    }

    /// Closes the links with the greatest loan × time without progress, if a link has waited for
    /// `loan_wait`.
    fn revoke_loans(&mut self) {
        let now = self.core.now;
        let wait = self.core.shared.settings.loan_wait;
        let Some(first) = self.core.waiters.first() else {
            self.lending.due = None;
            return;
        };
        let every = (wait / 4).clamp(Duration::from_millis(1), LOOK_EVERY_MAX);
        match self.lending.due {
            Some(due) if due > now => return,
            // The check stays due, so that the next turn looks without waiting.
            Some(_) if !self.clock.may_time_out() => return,
            _ => {}
        }
        self.lending.due = Some(now.saturating_add(every));
        // A link that was moved to the front may have waited less than others.
        let since = |index| self.core.slots[index].loans.requested_at;
        let oldest = self.core.waiters.iter().map(since).min().unwrap_or(now);
        let waited = now.duration_since(oldest);
        if waited < wait / CHECKS_PER_STALL || !self.clock.may_time_out() {
            return;
        }
        // The first read of the acknowledged bytes is only the base for the next.
        self.list_borrowers(wait);
        if self.lending.borrowers.len() > 1 {
            // The first waiter is not closed for its own loan.
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
        self.close(index, reason, CloseMode::Immediate);
    }

    /// Whether a post has failed for lack of buffers since the last check, and the next check is due.
    pub(super) fn must_check_posts(&self, now: Time) -> bool {
        self.core.shared.posts_refused() != self.lending.posts_refused
            && now >= self.lending.posts_due
    }

    /// If a post has failed for lack of buffers, closes the link that shares posted messages and has
    /// made no progress for longest. At most one in each `loan_wait`, because the pool of its messages
    /// is not known.
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
            let index = self.core.slots.live_index(n);
            let slot = &self.core.slots[index];
            let may_stall = self.core.now.duration_since(slot.time.output_progress_at) >= wait;
            if slot.messages() == 0 || slot.phase == Phase::Closing || !may_stall {
                continue;
            }
            let stalled = self.core.now.duration_since(self.read_progress(index));
            if stalled >= wait && longest.is_none_or(|(_, other)| stalled > other) {
                longest = Some((index, stalled));
            }
        }
        if let Some((index, _)) = longest {
            self.lending.posts_due = self.core.now.saturating_add(wait);
            self.revoke(index, DisconnectReason::SlowReader);
        }
    }

    /// The sum of the loans of the links that have waited for `loan_wait`.
    fn overdue_needs(&self, wait: Duration) -> Loan {
        let now = self.core.now;
        let overdue =
            |index: &u32| now.duration_since(self.core.slots[*index].loans.requested_at) >= wait;
        self.core.waiters.iter().filter(overdue).fold(Loan::default(), |sum, index| {
            let need = self.core.need(index);
            Loan {
                input: sum.input.saturating_add(need.input),
                output: sum.output.saturating_add(need.output),
            }
        })
    }

    /// Lists the links that hold a loan and have made no progress for `wait`. Those that wait for their
    /// own reply are left out, unless all that hold loans do.
    fn list_borrowers(&mut self, wait: Duration) {
        self.lending.borrowers.clear();
        let mut all_wait_to_answer = true;
        for n in 0..self.core.slots.live_count() {
            let index = self.core.slots.live_index(n);
            let slot = &self.core.slots[index];
            let loan = self.core.shares.loan(slot.loans.held);
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

    /// The link's entry, if it has made no progress with its loan for `wait`.
    fn stalled_borrower(&mut self, index: u32, mut loan: Loan, wait: Duration) -> Option<Borrower> {
        let output_stalled = if self.core.slots[index].has_output() {
            let moved = self.read_progress(index);
            Some(self.core.now.duration_since(moved))
        } else {
            None
        };
        let slot = &self.core.slots[index];
        if output_stalled.is_some_and(|stalled| stalled < wait) {
            // The output makes progress, and the input will when the output is sent, unless the handler
            // waits for the rest of a message.
            if !slot.is_incomplete() {
                return None;
            }
            loan.output = 0;
        }
        let standing = match slot.loans.request {
            // It releases its loan with the deferred reply, which the handler must send.
            _ if slot.deferral.is_some() => Standing::WaitsToAnswer,
            // Only the loan is lacking for its reply.
            Some(LoanRequest::Output(_)) if output_stalled.is_none() => Standing::WaitsToAnswer,
            Some(LoanRequest::Input(_) | LoanRequest::Part) => Standing::WaitsForInput,
            Some(LoanRequest::Output(_)) | None => Standing::Holds,
        };
        let input_stalled = self.core.now.duration_since(slot.loans.input_progress_at);
        if input_stalled < wait {
            loan.input = 0;
        }
        let output_stalled = output_stalled.unwrap_or_default();
        let stalled =
            if loan.input > 0 { input_stalled.max(output_stalled) } else { output_stalled };
        let is_stalled = loan.total() > 0 && stalled >= wait;
        is_stalled.then_some(Borrower { index, loan, stalled, standing })
    }

    /// Reads how many bytes the peer has acknowledged; returns when the output last made progress.
    ///
    /// Where the port does not report acknowledged bytes, completed sends are the progress.
    pub(super) fn read_progress(&mut self, index: u32) -> Time {
        let now = self.core.now;
        let slot = &mut self.core.slots[index];
        let acknowledged = slot.socket.and_then(|socket| self.port.acknowledged_bytes(socket));
        if let Some(acknowledged) = acknowledged
            && (!slot.time.acknowledged_read || acknowledged != slot.time.acknowledged)
        {
            slot.time.acknowledged = acknowledged;
            slot.time.output_progress_at = now;
        }
        slot.time.acknowledged_read = true;
        slot.time.output_progress_at
    }
}
