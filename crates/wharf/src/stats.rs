//! Live counters: each shard writes its own, anybody reads the sum.

use crate::vocabulary::reason::DisconnectReason;
use std::sync::atomic::{AtomicU64, Ordering};
use wharf_port::memory::Ledger;

/// One shard's counters, on cache lines that no other shard writes to.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ShardStats {
    pub(crate) accepted: Counter,
    pub(crate) refused_full: Counter,
    pub(crate) refused_stopping: Counter,
    pub(crate) accept_failures: Counter,
    pub(crate) connects: Counter,
    pub(crate) rejects: Counter,
    pub(crate) closes: [Counter; DisconnectReason::ALL.len()],
    pub(crate) cut: Counter,
    pub(crate) received_messages: Counter,
    pub(crate) received_bytes: Counter,
    pub(crate) sent_messages: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) send_refusals: Counter,
    pub(crate) missed: Counter,
    pub(crate) loans_revoked: Counter,
    pub(crate) handler_panics: Counter,
    pub(crate) turns: Counter,
    pub(crate) completions: Counter,
    pub(crate) calls: Counter,
    pub(crate) busy_ns: Counter,
    pub(crate) receive_pauses: Counter,
    pub(crate) accept_aborts: Counter,
    pub(crate) waits: Counter,
}

/// A number that one thread raises and all may read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Raises the count; only the owner thread calls this, so a plain load and store do.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a server has counted since it started. Counts only rise; a reader who wants a rate
/// subtracts two readings.
///
/// The figures are read one after another while the shards go on, so they may be a moment apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Links that are open or closing now.
    pub links: u32,
    /// The most links there can be.
    pub links_limit: u32,
    /// Who holds the shards' buffers now; large ones, to receive bulk into, are not among them.
    pub buffers: Ledger,
    /// Who holds the buffers for posted and broadcast messages now.
    pub post_buffers: Ledger,
    /// Connections taken from the system.
    pub accepted: u64,
    /// Connections closed at once because the table was full, or a shard too far behind.
    pub refused_full: u64,
    /// Connections closed at once because the server was stopping.
    pub refused_stopping: u64,
    /// Accepts that the system refused, for want of descriptors for example.
    pub accept_failures: u64,
    /// Connections that were gone before they were accepted.
    pub accept_aborts: u64,
    /// Connections for which `on_connect` succeeded.
    pub connects: u64,
    /// Connections that `on_connect` refused.
    pub rejects: u64,
    /// Links closed, by reason, in the order of [`DisconnectReason::ALL`].
    pub(crate) closes: [u64; DisconnectReason::ALL.len()],
    /// Links closed by force because a drain ran out of time.
    pub cut: u64,
    /// Calls of `on_receive`.
    pub received_messages: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Messages queued to links, one for each receiver of a broadcast.
    pub sent_messages: u64,
    /// Bytes handed to the system to be sent.
    pub sent_bytes: u64,
    /// Messages of handlers to their own links that found no capacity.
    pub send_refusals: u64,
    /// Posts that links missed for want of capacity, each counted for each link.
    pub missed: u64,
    /// Links closed because they held buffers beyond their guarantee without progress, while
    /// others waited for some: see [`Builder::loan_wait`](crate::Builder::loan_wait).
    pub loans_revoked: u64,
    /// Panics in the handler.
    pub handler_panics: u64,
    /// Receives that waited because no buffer was free.
    pub receive_pauses: u64,
    /// One entry for each worker.
    pub workers: Vec<WorkerStats>,
}

/// What one worker has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Links it has now.
    pub links: u32,
    /// Turns: batches of completions.
    pub turns: u64,
    /// Completions that they brought.
    pub completions: u64,
    /// Handler calls.
    pub calls: u64,
    /// Nanoseconds of wall time outside of the port's dequeue. What the kernel does for sends and
    /// receives is in it on epoll and mostly not on io_uring, so compare it with itself only.
    pub busy_ns: u64,
    /// System calls that waited for or looked for completions.
    pub waits: u64,
}

impl Stats {
    /// Links closed for `reason`.
    #[must_use]
    pub fn closed(&self, reason: DisconnectReason) -> u64 {
        self.closes[reason as usize]
    }

    /// Adds one shard's counters.
    pub(crate) fn add(&mut self, shard: &ShardStats, links: u32) {
        self.links += links;
        self.accepted += shard.accepted.get();
        self.refused_full += shard.refused_full.get();
        self.refused_stopping += shard.refused_stopping.get();
        self.accept_failures += shard.accept_failures.get();
        self.accept_aborts += shard.accept_aborts.get();
        self.connects += shard.connects.get();
        self.rejects += shard.rejects.get();
        for (sum, count) in self.closes.iter_mut().zip(&shard.closes) {
            *sum += count.get();
        }
        self.cut += shard.cut.get();
        self.received_messages += shard.received_messages.get();
        self.received_bytes += shard.received_bytes.get();
        self.sent_messages += shard.sent_messages.get();
        self.sent_bytes += shard.sent_bytes.get();
        self.send_refusals += shard.send_refusals.get();
        self.missed += shard.missed.get();
        self.loans_revoked += shard.loans_revoked.get();
        self.handler_panics += shard.handler_panics.get();
        self.receive_pauses += shard.receive_pauses.get();
        self.workers.push(WorkerStats {
            links,
            turns: shard.turns.get(),
            completions: shard.completions.get(),
            calls: shard.calls.get(),
            busy_ns: shard.busy_ns.get(),
            waits: shard.waits.get(),
        });
    }
}

/// The sum of two ledgers.
pub(crate) fn sum(a: Ledger, b: Ledger) -> Ledger {
    let mut sum = a;
    sum.free += b.free;
    sum.kernel_receive += b.kernel_receive;
    sum.application += b.application;
    sum.send_queue += b.send_queue;
    sum.kernel_send += b.kernel_send;
    sum.shared += b.shared;
    sum
}
