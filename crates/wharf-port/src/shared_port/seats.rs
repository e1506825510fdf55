//! Which thread has which seat, and which thread waits for one.
//!
//! ```text
//!               claim                         grant, last in, first out
//!   a thread ──────────► free seats    waiting ◄───────────────┐
//!      │  ▲                            returning ◄─ first ─────┤
//!      │  └──────────── a seat ◄───────────────────────────────┘
//!      └─ release: to a returning thread, else to a waiting one, else to the free seats
//! ```
//!
//! A thread with a seat sleeps in the seat's port; a thread without one is parked. Two things must
//! end a sleep: a thread that returns from blocking and finds no free seat, and a seat that becomes
//! free, because a sleeping thread must cover it. Both raise `epoch` and then notify ports, and a
//! thread compares `epoch` before each dequeue and after it. So it has seen the change, or its port
//! was notified after it looked, and then the dequeue does not sleep.
//!
//! # Invariants
//!
//! - **INV-SEATS-1** A seat is free, being probed, granted to one thread, or held by one.
//! - **INV-SEATS-2** While a thread waits or returns, no seat is free.
//! - **INV-SEATS-3** Each sleeping thread has looked at the state after the last seat became free,
//!   or its port is notified. A thread that has seen free seats sleeps on their ports, too.
//! - **INV-SEATS-4** While threads return, at least as many sleeping threads are notified, or all
//!   are, and each that is running looks at the state before it sleeps.

use crate::port::error::PortError;
use crate::sync::{AtomicU32, Condvar, Mutex, MutexGuard, Ordering};
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// One seat, as far as this file knows it.
pub(super) trait Content {
    /// The seat's number.
    fn index(&self) -> usize;

    /// Whether completions were dequeued and not taken.
    fn has_completions(&self) -> bool;

    /// Dequeues without waiting; whether there are completions then.
    fn poll(&mut self) -> Result<bool, PortError>;

    /// See [`SeatPort`](crate::port::seat::SeatPort).
    fn prepare_wait(&mut self) -> Result<bool, PortError>;

    /// See [`SeatPort`](crate::port::seat::SeatPort).
    fn end_wait(&mut self);
}

/// Notifies the holder of one seat.
pub(super) trait Notify {
    /// Ends the holder's wait, or its next one; whether it slept.
    fn notify(&self) -> bool;
}

/// All seats of a shared port.
pub(super) struct Seats<C, W> {
    state: Mutex<State<C>>,
    /// Counts the changes for which a thread must look at the state before it sleeps.
    epoch: AtomicU32,
    /// By seat.
    holders: Box<[W]>,
}

struct State<C> {
    /// The one that was free or probed the longest is the first.
    free: VecDeque<C>,
    /// By seat: whether it is in `free` or being probed.
    is_free: Box<[bool]>,
    /// Threads that wait in dequeue; the last one is the first to get a seat.
    waiting: Vec<Arc<Waiter<C>>>,
    /// Threads that return from blocking.
    returning: VecDeque<Arc<Waiter<C>>>,
    is_closed: bool,
}

/// Where a parked thread gets its seat.
struct Waiter<C> {
    grant: Mutex<Grant<C>>,
    granted: Condvar,
}

enum Grant<C> {
    None,
    Seat(C),
    Closed,
}

/// The queue in which a thread waits for a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    Waiting,
    Returning,
}

/// The result of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    Seat,
    Queued,
    Closed,
}

/// What a thread does next in its dequeue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Its seat has completions.
    Completions,
    /// The shared port is closed.
    Closed,
    /// [`Thread::park`]: it waits for a seat.
    Park,
    /// Dequeues on its seat.
    Wait,
    /// Waits on its seat and on [`Seats::watched`], then calls [`Thread::end_wait`].
    WaitAny,
}

impl<C: Content, W: Notify> Seats<C, W> {
    /// All seats are free.
    pub(super) fn new(seats: Vec<C>, holders: Vec<W>) -> Self {
        let state = State {
            is_free: vec![true; seats.len()].into(),
            free: seats.into(),
            waiting: Vec::new(),
            returning: VecDeque::new(),
            is_closed: false,
        };
        Self { state: Mutex::new(state), epoch: AtomicU32::new(0), holders: holders.into() }
    }

    /// Ends every wait of a thread without a seat, and lets those with one look.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        for waiter in state.take_waiters() {
            waiter.put(Grant::Closed);
        }
        self.notify_all();
    }

    /// The seats that a thread without work has to cover.
    pub(super) fn watched(&self) -> Box<[bool]> {
        self.lock().is_free.clone()
    }

    /// Threads that wait, and threads that return.
    #[cfg(test)]
    #[cfg(not(loom))]
    pub(super) fn queue_lengths(&self) -> (usize, usize) {
        let state = self.lock();
        (state.waiting.len(), state.returning.len())
    }

    /// INV-SEATS-2.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let state = self.lock();
        let is_queued = !state.waiting.is_empty() || !state.returning.is_empty();
        assert!(!is_queued || state.free.is_empty(), "a seat is free, and a thread waits for one");
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets every thread with a seat look at the state. Called with the state locked.
    fn notify_all(&self) {
        self.raise_epoch();
        for holder in &self.holders {
            holder.notify();
        }
    }

    /// Wakes one thread that sleeps on its seat; without one, all look before they sleep. Called
    /// with the state locked, so that no seat changes hands meanwhile.
    fn notify_one(&self) {
        self.raise_epoch();
        let _slept = self.holders.iter().any(Notify::notify);
    }

    fn raise_epoch(&self) {
        // Release: who reads the new value and then locks the state sees the change anyway; who is
        // notified afterwards reads the new value.
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Passes a seat on. `was_free`: it was probed, so every sleeping thread covers it already.
    fn release(&self, state: &mut State<C>, mut seat: C, was_free: bool) {
        let index = seat.index();
        match state.next_waiter() {
            Some(waiter) => {
                state.is_free[index] = false;
                seat.end_wait();
                waiter.put(Grant::Seat(seat));
            }
            None => {
                state.is_free[index] = true;
                state.free.push_back(seat);
                if !was_free {
                    self.notify_all();
                }
            }
        }
    }
}

impl<C> State<C> {
    fn next_waiter(&mut self) -> Option<Arc<Waiter<C>>> {
        if self.is_closed {
            return None;
        }
        self.returning.pop_front().or_else(|| self.waiting.pop())
    }

    fn take_waiters(&mut self) -> impl Iterator<Item = Arc<Waiter<C>>> + use<C> {
        let returning = std::mem::take(&mut self.returning);
        std::mem::take(&mut self.waiting).into_iter().chain(returning)
    }
}

impl<C> Waiter<C> {
    fn put(&self, grant: Grant<C>) {
        *self.lock() = grant;
        self.granted.notify_one();
    }

    fn take(&self) -> Grant<C> {
        std::mem::replace(&mut *self.lock(), Grant::None)
    }

    fn lock(&self) -> MutexGuard<'_, Grant<C>> {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread of a shared port, with its seat if it has one.
pub(super) struct Thread<C: Content, W: Notify> {
    seats: Arc<Seats<C, W>>,
    pub(super) seat: Option<C>,
    waiter: Arc<Waiter<C>>,
    /// It is in a queue, or was granted a seat that it has not taken.
    is_queued: bool,
    /// The epoch before the last look at the state; `None` after it got its seat.
    seen: Option<u32>,
    /// Seats were free then.
    covers_free: bool,
}

impl<C: Content, W: Notify> Thread<C, W> {
    pub(super) fn new(seats: Arc<Seats<C, W>>) -> Self {
        let waiter = Waiter { grant: Mutex::new(Grant::None), granted: Condvar::new() };
        Self {
            seats,
            seat: None,
            waiter: Arc::new(waiter),
            is_queued: false,
            seen: None,
            covers_free: false,
        }
    }

    /// Takes a seat, or queues for one; called again after [`park`](Self::park).
    pub(super) fn claim(&mut self, queue: Queue) -> Claim {
        if self.is_queued {
            return match self.waiter.take() {
                Grant::None => Claim::Queued,
                Grant::Seat(seat) => self.take(seat),
                Grant::Closed => {
                    self.is_queued = false;
                    Claim::Closed
                }
            };
        }
        let seats = Arc::clone(&self.seats);
        let mut state = seats.lock();
        if state.is_closed {
            return Claim::Closed;
        }
        if let Some(mut seat) = state.free.pop_front() {
            state.is_free[seat.index()] = false;
            // While the state is locked, so that a later notification reaches one that sleeps.
            seat.end_wait();
            return self.take(seat);
        }
        self.is_queued = true;
        match queue {
            Queue::Waiting => state.waiting.push(Arc::clone(&self.waiter)),
            Queue::Returning => {
                state.returning.push_back(Arc::clone(&self.waiter));
                seats.notify_one();
            }
        }
        Claim::Queued
    }

    fn take(&mut self, seat: C) -> Claim {
        self.seat = Some(seat);
        (self.is_queued, self.seen) = (false, None);
        Claim::Seat
    }

    /// Whether a claim would not find the thread queued.
    #[cfg(test)]
    #[cfg(not(loom))]
    pub(super) fn is_granted(&self) -> bool {
        !matches!(*self.waiter.lock(), Grant::None)
    }

    /// Passes its seat on, if it has one; whether it had.
    pub(super) fn release(&mut self) -> bool {
        let Some(seat) = self.seat.take() else { return false };
        self.seats.release(&mut self.seats.lock(), seat, false);
        true
    }

    /// Leaves the queue after a timeout. It has a seat afterwards if one was granted meanwhile.
    pub(super) fn leave_queue(&mut self) {
        let mut state = self.seats.lock();
        let is_other = |waiter: &Arc<Waiter<C>>| !Arc::ptr_eq(waiter, &self.waiter);
        state.waiting.retain(is_other);
        state.returning.retain(is_other);
        drop(state);
        // A grant is made with the state locked, so there is one, or there will be none.
        if self.is_queued && self.claim(Queue::Waiting) == Claim::Queued {
            self.is_queued = false;
        }
    }

    /// Waits until a seat is granted, the shared port is closed, or `timeout` has passed.
    pub(super) fn park(&self, timeout: Option<Duration>) {
        let mut grant = self.waiter.lock();
        while matches!(*grant, Grant::None) {
            let granted = &self.waiter.granted;
            if let Some(timeout) = timeout {
                // The caller knows how much time is left after an early return.
                drop(granted.wait_timeout(grant, timeout).unwrap_or_else(PoisonError::into_inner));
                return;
            }
            grant = granted.wait(grant).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next step of a dequeue; after anything but `Completions` and `Closed` the caller waits
    /// as the step says and calls again.
    ///
    /// # Errors
    ///
    /// A port's. The shared port is closed then.
    pub(super) fn step(&mut self) -> Result<Step, PortError> {
        self.try_step().inspect_err(|_| self.seats.close())
    }

    fn try_step(&mut self) -> Result<Step, PortError> {
        loop {
            if self.seat.is_none() {
                match self.claim(Queue::Waiting) {
                    Claim::Seat => {}
                    Claim::Queued => return Ok(Step::Park),
                    Claim::Closed => return Ok(Step::Closed),
                }
            }
            let epoch = self.seats.epoch.load(Ordering::Acquire);
            if self.seen != Some(epoch)
                && let Some(step) = self.look(epoch)
            {
                return Ok(step);
            }
            if self.seat().has_completions() {
                return Ok(Step::Completions);
            }
            if !self.covers_free {
                return Ok(Step::Wait);
            }
            let Some(are_prepared) = self.probe()? else { return Ok(Step::Completions) };
            if !self.covers_free {
                // Without another poll, which could take the notification of a later change.
                return Ok(Step::Wait);
            }
            if self.seat().poll()? {
                return Ok(Step::Completions);
            }
            if !are_prepared || !self.seat().prepare_wait()? {
                continue;
            }
            // The poll may have taken the notification of a change.
            if self.seats.epoch.load(Ordering::Acquire) == epoch {
                return Ok(Step::WaitAny);
            }
            self.end_wait();
        }
    }

    /// Looks at the state, and gives its seat to a thread that returns. The step, if it has none
    /// then or the shared port is closed.
    #[cold]
    fn look(&mut self, epoch: u32) -> Option<Step> {
        let mut state = self.seats.lock();
        if state.is_closed {
            return Some(Step::Closed);
        }
        if let Some(waiter) = state.returning.pop_front()
            && let Some(seat) = self.seat.take()
        {
            waiter.put(Grant::Seat(seat));
            state.waiting.push(Arc::clone(&self.waiter));
            self.is_queued = true;
            return Some(Step::Park);
        }
        self.seen = Some(epoch);
        self.covers_free = state.is_free.contains(&true);
        None
    }

    /// Polls the free seats, and exchanges its own for one with completions: then `None`, else
    /// whether all of them are prepared for a wait.
    fn probe(&mut self) -> Result<Option<bool>, PortError> {
        let state = self.seats.lock();
        let count = state.free.len();
        self.covers_free = state.is_free.contains(&true);
        drop(state);
        let mut are_prepared = true;
        for _ in 0..count {
            let Some(mut other) = self.seats.lock().free.pop_front() else { break };
            other.end_wait();
            if other.poll()? {
                let mut state = self.seats.lock();
                state.is_free[other.index()] = false;
                if let Some(own) = self.seat.replace(other) {
                    self.seats.release(&mut state, own, false);
                }
                self.seen = None;
                return Ok(None);
            }
            are_prepared &= other.prepare_wait()?;
            self.seats.release(&mut self.seats.lock(), other, true);
        }
        Ok(Some(are_prepared))
    }

    /// The wait of [`Step::WaitAny`] is over.
    pub(super) fn end_wait(&mut self) {
        if let Some(seat) = &mut self.seat {
            seat.end_wait();
        }
    }

    fn seat(&mut self) -> &mut C {
        self.seat.as_mut().unwrap_or_else(|| unreachable!("checked by the caller"))
    }
}

impl<C: Content, W: Notify> Drop for Thread<C, W> {
    fn drop(&mut self) {
        if self.is_queued {
            self.leave_queue();
        }
        self.release();
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
