//! Checks a shard's invariants between two turns, and plants a bug in its clock, for simulations.

use crate::engine::worker::Worker;
use crate::link::slot::{Phase, Receiving, Slot};
use crate::service::Service;
use crate::shared::ShardPort;
use crate::shares::Loan;
use wharf_port::port::Time;

/// The counts of a shard's slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotCounts {
    /// Slots that are not free.
    pub(crate) live: u32,
    /// Slots whose `on_disconnect` is due at the end.
    pub(crate) connected: u32,
}

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}
pub(crate) use ensure;

impl<P: ShardPort, V: Service> Worker<P, V> {
    /// Checks every live slot, and the loans.
    ///
    /// # Errors
    ///
    /// The invariant that does not hold.
    pub(crate) fn check_invariants(&self) -> Result<SlotCounts, String> {
        let slots = &self.core.slots;
        let (live, free) = (slots.live_count(), slots.free().len());
        ensure!(live + free == slots.capacity() as usize, "{live} slots live, {free} free");
        ensure!(self.core.dirty.is_empty(), "links are left dirty after the flush");
        let (mut lent, mut unused) = (Loan::default(), 0);
        let mut connected = 0;
        for n in 0..live {
            let index = slots.live_index(n);
            let slot = &slots[index];
            self.check_slot(index)
                .map_err(|fault| format!("link {}: {fault}", self.core.id(index)))?;
            let loan = self.core.shares.loan(slot.loans.held);
            lent.input += loan.input;
            lent.output += loan.output;
            unused += self.core.shares.grant().saturating_sub(slot.loans.held.output);
            connected += u32::from(slot.connected);
        }
        let known = self.core.shares.lent();
        ensure!(lent == known, "{lent:?} is lent, but counted {known:?}");
        // Free slots have their grants as well.
        let free = u32::try_from(free).unwrap_or(u32::MAX);
        self.check_guarantees(unused + free * self.core.shares.grant())?;
        Ok(SlotCounts { live: u32::try_from(live).unwrap_or(u32::MAX), connected })
    }

    fn check_slot(&self, index: u32) -> Result<(), String> {
        let slot = &self.core.slots[index];
        let phase = slot.phase;
        ensure!(phase != Phase::Free, "live and free");
        // A slot whose link has ended may wait for the buffers of its reply.
        ensure!(slot.socket.is_some() || slot.has_cancelled_reply(), "has no socket");
        let limit = self.core.shared.settings.send_queue_bytes as usize;
        // The send in flight of a broken link does not count.
        ensure!(
            slot.output.broken.is_some() || slot.used() <= limit,
            "{} bytes are used, of {limit}",
            slot.used()
        );
        let (held, holds) = (slot.loans.held, slot.count_held());
        ensure!(held == holds, "holds {holds:?}, counted {held:?}");
        let shares = slot.messages() > 0;
        ensure!(
            slot.posts.shares == shares,
            "shares a message: {shares}, counted: {}",
            slot.posts.shares
        );
        ensure!(slot.input.in_call == 0, "has input in a callback");
        let waits = self.core.waiters.contains(index);
        ensure!(
            waits == slot.loans.request.is_some(),
            "requests {:?}, in the queue: {waits}",
            slot.loans.request
        );
        ensure!(slot.flight.sending || slot.flight.bytes == 0, "in flight without a send");
        if phase == Phase::Closing {
            return Ok(());
        }
        ensure!(
            slot.flight.sending || slot.output.queue.is_empty(),
            "bytes are queued, and nothing is sent"
        );
        let is_due = slot.runs_callbacks() && !slot.is_handled() && !slot.is_held();
        ensure!(!is_due || self.may_wait(index), "is not called");
        let is_owed =
            slot.runs_callbacks() && slot.output.writable_due && self.core.can_call_writable(index);
        let waits = slot.calls.awaits_turn || slot.has_output() || slot.loans.request.is_some();
        ensure!(!is_owed || waits, "on_writable is due, and not called: {slot:?}");
        let credit = self.core.shared.settings.input_bytes as usize;
        let reads = slot.flight.receiving != Receiving::Off || slot.has_all_input();
        let is_read = matches!(phase, Phase::Header | Phase::Lingering)
            || (slot.runs_callbacks() && slot.input.unread.is_empty());
        ensure!(!is_read || reads, "{phase:?}, but waits for nothing");
        let blocked = slot.input.unread.len() >= credit
            || slot.loans.request.is_some()
            || slot.has_output()
            || slot.is_held();
        let tight = self.core.shares.is_tight();
        let waits = reads || blocked || tight;
        ensure!(
            !slot.runs_callbacks() || waits,
            "{phase:?} with unread input, but waits for nothing"
        );
        let flushes = slot.flight.sending || slot.deferral.is_some();
        ensure!(phase != Phase::Flushing || flushes, "is to flush, but nothing is sent");
        self.check_timeout(slot)
    }

    /// Checks that a link's timer is scheduled, if a timeout applies to it.
    fn check_timeout(&self, slot: &Slot) -> Result<(), String> {
        let phase = slot.phase;
        let answer = self.core.shared.settings.answer;
        let stall = self.core.shared.settings.stall;
        let timed = match phase {
            Phase::Open if slot.has_output() => !stall.is_zero(),
            _ if slot.deferral.is_some() && phase != Phase::Closing => {
                !answer.is_zero() && !slot.has_cancelled_reply()
            }
            Phase::Open => {
                slot.time.idle_ms != 0 && !slot.input.end_of_stream && !slot.input.paused
            }
            Phase::Header | Phase::Lingering => true,
            Phase::Flushing => !self.drain.is_due(),
            Phase::Free | Phase::Draining | Phase::Closing => false,
        };
        ensure!(!timed || slot.time.timer.is_scheduled(), "{phase:?} without a timeout");
        Ok(())
    }

    /// Whether unread input need not be handled now: the output has no capacity, or the calls of the
    /// turn are used up.
    fn may_wait(&self, index: u32) -> bool {
        // A link with unsent output is called when its send completes.
        self.core.slots[index].calls.awaits_turn
            || !self.core.has_capacity(index)
            || self.core.slots[index].has_output()
    }

    /// Checks that the unused grants of all links are free.
    fn check_guarantees(&self, unused: u32) -> Result<(), String> {
        let pool = &self.core.pool;
        ensure!(
            pool.ledger().free == pool.free_count(),
            "{:?}, {} free",
            pool.ledger(),
            pool.free_count()
        );
        let free = pool.free_count();
        ensure!(free >= unused, "{free} buffers free, but {unused} are guaranteed: {pool:?}");
        Ok(())
    }

    /// When the shard's next turn is due without a completion.
    pub(crate) fn wakes_at(&mut self) -> Option<Time> {
        let now = self.port.now();
        if self.has_work() {
            Some(now)
        } else {
            self.wait(now).map(|wait| now.saturating_add(wait))
        }
    }

    /// A planted bug: the links' clock counts all time since the last turn, which was a pause.
    pub(crate) fn count_pause(&mut self) {
        let now = self.port.now();
        let all = now.duration_since(self.clock.turn_start());
        let uncounted = all.saturating_sub(self.clock.passed(now));
        self.core.now = self.core.now.saturating_add(uncounted);
    }

    /// The shard's counters and links as text, for a trace.
    pub(crate) fn describe(&self) -> String {
        use std::fmt::Write;
        let stats = self.core.stats();
        let mut text = format!(
            "at {} ns, {} completions, {} calls in all; {} links, drain until {:?}, {:?}",
            self.core.now.0,
            stats.completions.get(),
            stats.calls.get(),
            self.core.slots.live_count(),
            self.drain.until(),
            self.core.pool.ledger(),
        );
        for n in 0..self.core.slots.live_count() {
            let index = self.core.slots.live_index(n);
            let Slot { phase, flight, output, totals, .. } = &self.core.slots[index];
            let (receiving, sending, in_flight) = (flight.receiving, flight.sending, flight.bytes);
            let (queued, received, sent) =
                (output.queue.len(), totals.received_bytes, totals.sent_bytes);
            let _cannot_fail = write!(
                text,
                "\n           {} {phase:?}, receiving {receiving:?}, sending {sending} \
                 {in_flight}, queued {queued}, received {received}, sent {sent}",
                self.core.id(index)
            );
        }
        text
    }

    pub(crate) fn port(&self) -> &P {
        &self.port
    }

    /// Completions that matched no operation in flight.
    pub(crate) fn stale(&self) -> u64 {
        self.port.counters().stale_completions
    }

    /// Checks that every slot is in exactly one of the lists of live and free slots.
    pub(crate) fn check_slot_lists(&self) -> Result<(), String> {
        let slots = &self.core.slots;
        let mut seen = vec![false; slots.capacity() as usize];
        let live = (0..slots.live_count()).map(|n| (slots.live_index(n), false));
        let free = slots.free().iter().map(|index| (*index, true));
        for (index, is_free) in live.chain(free) {
            let twice = std::mem::replace(&mut seen[index as usize], true);
            ensure!(!twice, "slot {index} is in two lists");
            ensure!(
                (slots[index].phase == Phase::Free) == is_free,
                "slot {index} is in the wrong list"
            );
        }
        Ok(())
    }
}
