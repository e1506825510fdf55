//! What one direction of a link holds, what it has borrowed, and what it waits for.

use super::pool::Pool;
use crate::bug::{ModelBug, planted};
use crate::shares::{Direction, Loans, Shares};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// All loans of a shard, and the links that wait for one, in order.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) shares: Shares,
    pub(crate) pool: Rc<Pool>,
    lent: Cell<Loans>,
    waiters: RefCell<BTreeMap<u64, (Direction, usize)>>,
    next_ticket: Cell<u64>,
    now_ms: Cell<u64>,
}

impl Ledger {
    /// The pool has one buffer more than the shares: the one into which is received.
    pub(crate) fn new(shares: Shares, buffer_count: usize) -> Rc<Self> {
        let mut shares = shares;
        if planted(ModelBug::InputTakesAll) {
            shares.input_loans_max = shares.surplus;
        }
        if planted(ModelBug::InputTakesHalf) {
            shares.input_loans_max = shares.surplus / 2;
        }
        Rc::new(Self {
            shares,
            pool: Pool::new(shares.buffer_size_bytes, buffer_count + 1),
            lent: Cell::default(),
            waiters: RefCell::default(),
            next_ticket: Cell::default(),
            now_ms: Cell::default(),
        })
    }

    pub(crate) fn lent(&self) -> Loans {
        self.lent.get()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    pub(crate) fn set_now_ms(&self, now_ms: u64) {
        self.now_ms.set(now_ms);
    }
}

/// An entry of the queue for loans.
#[derive(Clone, Copy, Debug)]
struct Wait {
    ticket: u64,
    since_ms: u64,
    need: usize,
}

/// The account of one direction of a link.
#[derive(Debug)]
pub(crate) struct Account {
    ledger: Rc<Ledger>,
    direction: Direction,
    guarantee: usize,
    held: usize,
    loan: usize,
    /// When the loan began, or its peer last made progress.
    progress_ms: u64,
    wait: Option<Wait>,
}

impl Account {
    pub(crate) fn new(ledger: &Rc<Ledger>, direction: Direction) -> Self {
        let guarantee = match direction {
            Direction::Input => ledger.shares.guarantee.input,
            Direction::Output => ledger.shares.guarantee.output,
        };
        Self {
            ledger: Rc::clone(ledger),
            direction,
            guarantee,
            held: 0,
            loan: 0,
            progress_ms: 0,
            wait: None,
        }
    }

    pub(crate) fn ledger(&self) -> &Rc<Ledger> {
        &self.ledger
    }

    pub(crate) fn guarantee(&self) -> usize {
        self.guarantee
    }

    pub(crate) fn loan(&self) -> usize {
        self.loan
    }

    /// Buffers that it may take now, beyond those that it holds.
    pub(crate) fn buffers_allowed(&self) -> usize {
        self.guarantee.saturating_sub(self.held) + self.loanable()
    }

    /// Buffers that it can borrow now, beyond what it has borrowed.
    pub(crate) fn loanable(&self) -> usize {
        let Ledger { shares, lent, .. } = &*self.ledger;
        if planted(ModelBug::LendsTooMuch) {
            return shares.surplus;
        }
        let waiters = self.ledger.waiters.borrow();
        let first = waiters.first_key_value();
        let first = first.filter(|_| !planted(ModelBug::NothingIsReserved));
        match first {
            Some((ticket, (of, need))) if self.wait.is_none_or(|wait| wait.ticket != *ticket) => {
                let free = shares.free_beside(lent.get(), self.direction, *need, *of);
                // All of what it needs, or nothing.
                if self.wait.is_some_and(|wait| wait.need > free) { 0 } else { free }
            }
            _ => shares.free(lent.get(), self.direction),
        }
    }

    /// Buffers that it can borrow now without saying what it needs.
    pub(crate) fn loanable_parts(&self) -> usize {
        if planted(ModelBug::PartsTakeAll) {
            return self.loanable();
        }
        self.loanable().saturating_sub(self.ledger.shares.message_loans)
    }

    /// Charges it for what it holds: `held` buffers, and `claimed` ones beyond these and its
    /// guarantee that are reserved.
    pub(crate) fn charge(&mut self, held: usize, claimed: usize) {
        let loan = held.saturating_sub(self.guarantee) + claimed;
        if self.loan == 0 {
            self.progress_ms = self.ledger.now_ms();
        }
        let mut lent = self.ledger.lent.get();
        let all = lent.of_mut(self.direction);
        *all = *all + loan - self.loan;
        assert!(lent.sum() <= self.ledger.shares.surplus, "more is lent than the surplus");
        self.ledger.lent.set(lent);
        (self.held, self.loan) = (held, loan);
    }

    /// The handler took something of what is unread, or the peer of what is unsent.
    pub(crate) fn note_progress(&mut self) {
        self.progress_ms = self.ledger.now_ms();
    }

    /// Waits for a loan of `need` buffers, in order; 0: no longer. A later call keeps the order.
    pub(crate) fn wait_for(&mut self, need: usize) {
        let mut waiters = self.ledger.waiters.borrow_mut();
        let Some(wait) = self.wait.filter(|_| need > 0) else {
            if let Some(wait) = self.wait.take() {
                waiters.remove(&wait.ticket);
            } else if need > 0 {
                let ticket = self.ledger.next_ticket.get();
                self.ledger.next_ticket.set(ticket + 1);
                self.wait = Some(Wait { ticket, since_ms: self.ledger.now_ms(), need });
                waiters.insert(ticket, (self.direction, need));
            }
            return;
        };
        self.wait = Some(Wait { need, ..wait });
        waiters.insert(wait.ticket, (self.direction, need));
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.wait.is_some()
    }

    /// What it needs, if it has waited for at least `time_ms`.
    pub(crate) fn late_need(&self, time_ms: u64) -> usize {
        let late = |wait: &Wait| self.ledger.now_ms() - wait.since_ms >= time_ms;
        self.wait.filter(late).map_or(0, |wait| wait.need)
    }

    /// Its loan, and buffers times time, if it made no progress for at least `time_ms`.
    pub(crate) fn stuck_loan(&self, time_ms: u64) -> (usize, u64) {
        let time = self.ledger.now_ms() - self.progress_ms;
        if self.loan == 0 || time < time_ms {
            return (0, 0);
        }
        (self.loan, time.max(1) * self.loan as u64)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.wait_for(0);
        self.charge(0, 0);
    }
}
