//! The state of a shard that callbacks can change: links, queues and buffers, but not the port.

use crate::link::fifo::Fifo;
use crate::link::posts::Sharing;
use crate::link::slot::{LoanRequest, Slots};
use crate::shared::Shared;
use crate::shared::marks::Marks;
use crate::shared::quota::Quotas;
use crate::shared::reply::Cancelled;
use crate::shared::running::RunningCallback;
use crate::shares::{Loan, Shares};
use crate::stats::ShardStats;
use crate::vocabulary::id::{LinkId, LinkKey};
use std::sync::Arc;
use std::time::Instant;
use wharf_port::memory::{BufferPool, MemoryError, try_with_capacity};
use wharf_port::port::Time;

/// One shard's links, loans and buffers.
#[derive(Debug)]
pub(crate) struct ShardState {
    pub(crate) shard: u8,
    /// The links' clock, as of this turn: see `Worker::link_time`.
    pub(crate) now: Time,
    /// The port's clock, as of this turn.
    pub(crate) clock: Time,
    /// An instant, and the port's time at that instant.
    zero: (Instant, Time),
    /// The number of the turn, for the links' budgets of calls and posts; wraps.
    pub(crate) turn: u32,
    pub(crate) slots: Slots,
    pub(crate) shares: Shares,
    /// Counts the links that share messages.
    pub(super) sharing: Sharing,
    /// Buffers that posts of one link's callbacks may take in one turn.
    pub(super) post_budget_max: u32,
    /// Sum of the links' `accepted_entries`.
    pub(super) accepted_entries: u32,
    /// Number of deferred replies so far; wraps.
    pub(super) deferrals: u32,
    /// Declared after everything that holds buffers, so that it is dropped after them.
    pub(crate) pool: BufferPool,
    /// Maximum of unread bytes of a link.
    pub(crate) input_bytes: usize,
    pub(crate) shared: Arc<Shared>,
    stats: Arc<ShardStats>,
    /// Links for the next flush; each is here at most once.
    pub(crate) dirty: Vec<u32>,
    /// Links that wait for a loan, in the order in which loans are granted.
    pub(crate) waiters: Fifo,
    /// Number of waiters with `LoanRequest::Part`.
    parts: u32,
    /// The link whose loan is being granted; it may take what is reserved for the first waiter.
    pub(crate) granting: Option<u32>,
}

impl ShardState {
    /// Makes the state of a shard. `zero` is an instant, and the time of the port's clock just after
    /// it.
    pub(crate) fn new(
        shard: u8,
        capacity: u32,
        pool: BufferPool,
        shared: Arc<Shared>,
        zero: (Instant, Time),
    ) -> Result<Self, MemoryError> {
        let now = zero.1;
        Ok(Self {
            zero,
            shard,
            now,
            clock: now,
            turn: 0,
            slots: Slots::new(capacity, &shared.settings)?,
            shares: Shares::new(shared.settings.division()),
            sharing: Sharing::new(capacity),
            post_budget_max: shared.settings.post_budget(),
            accepted_entries: 0,
            deferrals: 0,
            pool,
            input_bytes: shared.settings.input_bytes as usize,
            dirty: try_with_capacity("the links to flush", capacity as usize)?,
            waiters: Fifo::new(capacity)?,
            parts: 0,
            granting: None,
            stats: Arc::clone(&shared.shards[usize::from(shard)].stats),
            shared,
        })
    }

    #[inline]
    pub(crate) fn stats(&self) -> &ShardStats {
        &self.stats
    }

    /// The callback that runs, for the service thread.
    pub(crate) fn running(&self) -> &RunningCallback {
        &self.shared.shards[usize::from(self.shard)].running
    }

    /// Whether there are packets for the worker.
    #[inline]
    pub(crate) fn has_packets(&self) -> bool {
        self.shared.shards[usize::from(self.shard)].has_packets()
    }

    /// As [`has_packets`](Self::has_packets), and forgets it.
    #[inline]
    pub(crate) fn takes_packets(&self) -> bool {
        self.shared.shards[usize::from(self.shard)].takes_packets()
    }

    /// Packets are left for the next turn.
    pub(crate) fn note_packets(&self) {
        self.shared.note_packets(usize::from(self.shard));
    }

    /// The port's clock, as of this turn, as an `Instant`.
    pub(crate) fn instant(&self) -> Instant {
        let (instant, zero) = self.zero;
        instant + self.clock.duration_since(zero)
    }

    /// The requests of other threads to this shard's links.
    pub(crate) fn marks(&self) -> &Marks {
        &self.shared.shards[usize::from(self.shard)].marks
    }

    /// The capacity for posts of this shard's links.
    pub(crate) fn quotas(&self) -> &Quotas {
        &self.shared.shards[usize::from(self.shard)].quotas
    }

    pub(crate) fn key(&self, index: u32) -> LinkKey {
        LinkKey::new(self.shard, index, self.slots[index].generation)
    }

    /// The key of the link that opens next.
    pub(crate) fn next_key(&self) -> LinkKey {
        let (index, generation) = self.slots.next();
        LinkKey::new(self.shard, index, generation)
    }

    pub(crate) fn id(&self, index: u32) -> LinkId {
        LinkId::new(self.shared.id, self.key(index))
    }

    /// Adds the link to the next flush, unless a send is in flight.
    pub(crate) fn mark_dirty(&mut self, index: u32) {
        let slot = &mut self.slots[index];
        if !slot.flight.sending && !slot.output.dirty {
            slot.output.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Updates the loans and the published capacity after a change of what a link holds.
    pub(crate) fn settle(&mut self, index: u32) {
        let slot = &mut self.slots[index];
        self.sharing.note(slot);
        if slot.has_posts() {
            self.settle_posts(index);
        }
        let slot = &mut self.slots[index];
        let (before, after) = (slot.loans.held, slot.count_held());
        if before == after {
            return;
        }
        if before.input <= 1 {
            // The loan of input begins now.
            slot.loans.input_progress_at = self.now;
        }
        slot.loans.held = after;
        self.shares.settle(before, after);
    }

    /// Whether `on_receive` may be called: the output is not above its high-water mark and has the
    /// grant, or nothing more will be queued.
    #[inline]
    pub(crate) fn has_capacity(&self, index: u32) -> bool {
        let slot = &self.slots[index];
        // Fast path: most links have nothing unsent.
        slot.holds_no_output() || self.has_capacity_with_output(index)
    }

    fn has_capacity_with_output(&self, index: u32) -> bool {
        let slot = &self.slots[index];
        let is_below = slot.used() <= slot.high_water_bytes();
        is_below && self.has_grant(index)
    }

    /// Whether a message of the size of the grant can be queued, or nothing more will be queued.
    pub(crate) fn has_grant(&self, index: u32) -> bool {
        let slot = &self.slots[index];
        let grant = self.shared.settings.grant_bytes() as usize;
        slot.holds_no_output()
            || (slot.used() + self.quotas().accepted(index) + grant <= slot.output.limit as usize
                && self.shares.has_grant(slot.loans.held, self.reserved_beside(index)))
    }

    /// Whether the `on_writable` that is due can be called.
    pub(crate) fn can_call_writable(&self, index: u32) -> bool {
        let ensured = self.slots[index].output.ensured as usize;
        self.has_grant(index) && (ensured == 0 || self.spare_capacity(index) >= ensured)
    }

    /// Has the link wait for a loan. A link that waits already keeps its position in the queue.
    pub(crate) fn request_loan(&mut self, index: u32, request: LoanRequest) {
        if !self.waiters.contains(index) {
            self.slots[index].loans.requested_at = self.now;
            self.waiters.push(index);
        }
        // The link releases its borrowed input with its reply. Behind a link that waits for these
        // buffers it would wait without end, so it goes to the front.
        let held = self.slots[index].count_held();
        if matches!(request, LoanRequest::Output(_)) && self.shares.loan(held).input > 0 {
            self.waiters.push_first(index);
        }
        let slot = &mut self.slots[index];
        slot.loans.requested = true;
        self.parts += u32::from(request == LoanRequest::Part);
        self.parts -= u32::from(slot.loans.request.replace(request) == Some(LoanRequest::Part));
    }

    /// After a callback: ends the wait for a loan for output if the callback did not ask for it again
    /// and no `on_writable` is due.
    #[cold]
    pub(crate) fn end_stale_request(&mut self, index: u32) {
        let slot = &self.slots[index];
        let is_stale =
            matches!(slot.loans.request, Some(LoanRequest::Output(_))) && !slot.loans.requested;
        if is_stale && !slot.output.writable_due {
            self.end_request(index);
        }
    }

    pub(crate) fn end_request(&mut self, index: u32) {
        let slot = &mut self.slots[index];
        if let Some(request) = slot.loans.request.take() {
            self.parts -= u32::from(request == LoanRequest::Part);
            self.waiters.remove(index);
            // The idle timeout does not count the wait.
            slot.note_activity(self.now);
        }
    }

    /// Ends the wait for a loan for input, and releases a granted one that no receive has filled.
    pub(crate) fn forget_input_loan(&mut self, index: u32) {
        if matches!(
            self.slots[index].loans.request,
            Some(LoanRequest::Input(_) | LoanRequest::Part)
        ) {
            self.end_request(index);
        }
        if self.slots[index].loans.promised > 0 {
            self.slots[index].loans.promised = 0;
            self.settle(index);
        }
    }

    /// The loan that a link waits for.
    pub(crate) fn need(&self, index: u32) -> Loan {
        let slot = &self.slots[index];
        match slot.loans.request {
            None => Loan::default(),
            Some(LoanRequest::Part) => Loan { input: 1, output: 0 },
            Some(LoanRequest::Input(buffers)) => Loan { input: buffers, output: 0 },
            Some(LoanRequest::Output(buffers)) => {
                Loan { input: 0, output: self.shares.output_need(slot.loans.held, buffers) }
            }
        }
    }

    /// Buffers reserved for the first waiter, as seen by link `index`: none for the waiter itself.
    pub(crate) fn reserved_beside(&self, index: u32) -> u32 {
        match self.waiters.first() {
            None => 0,
            Some(_) if self.granting == Some(index) => 0,
            Some(first) if first == index => 0,
            Some(first) => self.need(first).total(),
        }
    }

    /// Whether the loan that the link waits for can be granted now.
    pub(crate) fn can_grant(&self, index: u32) -> bool {
        if self.yields(index) && self.shares.lendable_unasked(0) == 0 {
            return false;
        }
        let need = self.need(index);
        need.output <= self.shares.lendable(0) && need.input <= self.shares.lendable_input(0)
    }

    /// Whether the link leaves the buffers that the longest message needs to others: while it waits for
    /// `LoanRequest::Part`, for less than `loan_wait`, and other waiters have other requests.
    pub(crate) fn yields(&self, index: u32) -> bool {
        let slot = &self.slots[index];
        let waited = self.now.duration_since(slot.loans.requested_at);
        slot.loans.request == Some(LoanRequest::Part)
            && self.parts < self.waiters.len()
            && waited < self.shared.settings.loan_wait
    }

    /// Drops the unread input and ends the wait for a loan, of a link whose callbacks have ended.
    pub(crate) fn drop_input(&mut self, index: u32) {
        self.end_request(index);
        let slot = &mut self.slots[index];
        slot.input.unread = wharf_port::memory::Chain::new();
        (slot.loans.promised, slot.output.writable_due) = (0, false);
        self.settle(index);
    }

    /// Cancels the deferred reply of a link that ends: its `send` will fail with `Closed`.
    pub(crate) fn cancel_reply(&mut self, index: u32) {
        if self.slots[index].deferral.is_none() {
            return;
        }
        let replies = &self.shared.shards[usize::from(self.shard)].replies;
        match replies[index as usize].cancel() {
            Some(Cancelled::Returned(parcel)) => {
                drop(parcel.into_chain(&self.pool));
                self.slots[index].deferral = None;
            }
            // The writing thread returns the buffers, and sets `Mark::RETURNED`.
            Some(Cancelled::Writing) => {
                if let Some(deferral) = &mut self.slots[index].deferral {
                    deferral.is_cancelled = true;
                }
            }
            None => self.slots[index].deferral = None,
        }
        self.settle(index);
    }

    /// Frees the slot of a link that has ended.
    pub(crate) fn release(&mut self, index: u32) {
        self.quotas().close(index);
        self.drop_input(index);
        self.slots.release(index);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::limits::Settings;
    use crate::link::slot::Phase;
    use crate::vocabulary::error::SendError;
    use std::net::SocketAddr;
    use std::time::Duration;
    use wharf_port::memory::Chain;

    /// A shard of so many links, all open, and of so many buffers.
    fn core(links: u32, buffers: u32) -> ShardState {
        core_with(Settings {
            links,
            buffers: Some(buffers),
            input_bytes: 1_024,
            send_queue_bytes: 2_048,
            ..Settings::default()
        })
    }

    /// A shard whose links are all open, of buffers of 64 bytes.
    #[expect(clippy::disallowed_methods, reason = "a test has no port whose clock it could ask")]
    pub(crate) fn core_with(settings: Settings) -> ShardState {
        let settings = Settings { shards: 1, buffer_size_bytes: 64, ..settings };
        settings.check().unwrap();
        let links = settings.links;
        let pool = BufferPool::new(settings.shard_pool()).unwrap();
        let mut core = ShardState::new(
            0,
            links,
            pool,
            Arc::new(Shared::new(settings).unwrap()),
            (Instant::now(), Time(0)),
        )
        .unwrap();
        for _ in 0..links {
            core.slots.open(Phase::Open, SocketAddr::from(([127, 0, 0, 1], 1)), 0, Time(0));
        }
        core
    }

    /// All that a link had queued has been sent.
    fn send_all(core: &mut ShardState, index: u32) {
        core.slots[index].output.queue = Chain::new();
        core.settle(index);
    }

    #[test]
    fn who_was_refused_buffers_and_then_has_queued_as_much_waits_no_more() {
        // As few as can be: one link can have full input and full output.
        let mut core = core(4, 90);
        let [holder, refused, next] = [0, 1, 2];
        core.queue(holder, &[1; 2_048]).unwrap();
        assert_eq!(core.queue(refused, &[2; 2_048]), Err(SendError::Full));
        assert_eq!(core.queue(next, &[3; 2_000]), Err(SendError::Full));
        assert_eq!(core.waiters.iter().collect::<Vec<_>>(), [refused, next]);
        // What the first one waits for is kept for it.
        send_all(&mut core, holder);
        assert_eq!(core.queue(next, &[3; 2_000]), Err(SendError::Full));
        // A part of it is not what it has waited for.
        core.queue(refused, &[2; 64]).unwrap();
        assert_eq!(core.waiters.first(), Some(refused));
        send_all(&mut core, refused);
        // Its handler did not wait to be called.
        core.queue(refused, &[2; 2_048]).unwrap();
        assert_eq!(core.slots[refused].loans.request, None);
        assert_eq!(core.waiters.iter().collect::<Vec<_>>(), [next]);
        // So nothing is kept for it any more.
        assert_eq!(core.reserved_beside(holder), core.need(next).total());
        send_all(&mut core, refused);
        core.queue(next, &[3; 2_000]).unwrap();
        assert_eq!(core.waiters.first(), None);
        assert_eq!(core.reserved_beside(holder), 0);
    }

    #[test]
    fn links_that_wait_for_loans_and_have_output_are_closed_in_linear_time() {
        // A search from either end would find one of the two in its first step.
        for last_goes_first in [false, true] {
            let least =
                |links| (0..3).map(|_| time_to_close(links, last_goes_first)).min().unwrap();
            let (few, many) = (least(1_000), least(16_000));
            // Sixteen times as many take about sixteen times as long; 256 times if each step scans all
            // others.
            let most = few * 64 + Duration::from_millis(5);
            assert!(many < most, "{few:?}, sixteen times as many: {many:?}");
        }
    }

    /// The processor time of this thread, which others on a busy machine do not prolong.
    #[cfg(unix)]
    fn time() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let [seconds, nanoseconds] =
            [time.tv_sec, time.tv_nsec].map(|part| u64::try_from(part).unwrap());
        Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds)
    }

    #[cfg(not(unix))]
    #[expect(clippy::disallowed_methods, reason = "a test has no port whose clock it could ask")]
    fn time() -> Duration {
        static ZERO: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        ZERO.get_or_init(Instant::now).elapsed()
    }

    fn time_to_close(links: u32, last_goes_first: bool) -> Duration {
        let mut core = core(links, 3 * links);
        for index in 0..links {
            core.queue(index, b"unsent").unwrap();
            core.request_loan(index, LoanRequest::Input(1));
        }
        let start = time();
        for n in 0..links {
            let index = if last_goes_first { links - 1 - n } else { n };
            core.slots[index].phase = Phase::Closing;
            core.slots[index].output.queue = Chain::new();
            core.drop_input(index);
        }
        while let Some(index) = core.dirty.pop() {
            core.slots[index].output.dirty = false;
        }
        for n in 0..links {
            core.release(if last_goes_first { links - 1 - n } else { n });
        }
        let time = time() - start;
        assert_eq!(core.waiters.first(), None);
        assert_eq!((core.slots.live_count(), core.shares.lendable(0) > 0), (0, true));
        time
    }
}
