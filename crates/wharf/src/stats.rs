//! Live counters: each shard writes its own, any thread reads the sum.

use crate::vocabulary::reason::DisconnectReason;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wharf_port::memory::BufferCounts;

/// One shard's counters, on cache lines that no other shard writes to.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ShardStats {
    pub(crate) refused_stopping: Counter,
    pub(crate) accept_failures: Counter,
    pub(crate) connects: Counter,
    pub(crate) rejects: Counter,
    pub(crate) proxy_errors: Counter,
    pub(crate) closes: [Counter; DisconnectReason::ALL.len()],
    pub(crate) forced_closes: Counter,
    pub(crate) receives: Counter,
    pub(crate) received_bytes: Counter,
    pub(crate) sends: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) send_errors: Counter,
    pub(crate) missed: Counter,
    pub(crate) loans_revoked: Counter,
    pub(crate) handler_panics: Counter,
    pub(crate) turns: Counter,
    pub(crate) completions: Counter,
    pub(crate) calls: Counter,
    pub(crate) busy_ns: Counter,
    pub(crate) buffer_waits: Counter,
    pub(crate) waits: Counter,
}

/// The service thread's counters.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct AcceptStats {
    pub(crate) accepted: Counter,
    pub(crate) refused_full: Counter,
    pub(crate) refused_stopping: Counter,
    pub(crate) accept_failures: Counter,
    pub(crate) accept_aborts: Counter,
    pub(crate) passes: Counter,
    pub(crate) last_pass_ns: Counter,
    pub(crate) longest_pass_ns: Counter,
    pub(crate) stalls: Counter,
    pub(crate) waits: Counter,
}

/// A counter that one thread writes and all threads may read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Only the owner thread calls this, so a load and a store suffice.
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

/// The counters of a server since its start. They only rise, except the current numbers of links and
/// buffers; for a rate, subtract two readings.
///
/// The counters are read one after another while the shards run, so they are not of the same instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Slots in use now: links that are open or closing, and connections on the way to their shard.
    pub links: u32,
    /// Maximum number of links.
    pub links_max: u32,
    /// The shards' buffers by owner now, without the large receive buffers.
    pub buffers: BufferCounts,
    /// The buffers for posts and broadcasts by owner now.
    pub post_buffers: BufferCounts,
    /// Accepted connections.
    pub accepted: u64,
    /// Connections closed without a link because no slot was free or a shard's inbox was full.
    pub refused_full: u64,
    /// Connections closed without a link because the server was stopping.
    pub refused_stopping: u64,
    /// Accepts that failed, for lack of descriptors for example, and connections that the port could
    /// not take.
    pub accept_failures: u64,
    /// Connections that the peer aborted before they were accepted, if the system reports them so:
    /// Windows does. Linux accepts them, and they count as `accepted`.
    pub accept_aborts: u64,
    /// Connections for which `on_connect` succeeded.
    pub connects: u64,
    /// Connections whose `on_connect` failed or panicked.
    pub rejects: u64,
    /// Connections of proxies whose header was missing, malformed or late: see
    /// [`Builder::proxy_protocol`](crate::Builder::proxy_protocol).
    pub proxy_errors: u64,
    /// Links closed, by reason, in the order of [`DisconnectReason::ALL`].
    pub(crate) closes: [u64; DisconnectReason::ALL.len()],
    /// Links force-closed at the drain timeout.
    pub forced_closes: u64,
    /// Calls of `on_receive`.
    pub receives: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Messages queued on links; a broadcast counts once for each receiver.
    pub sends: u64,
    /// Bytes that sends passed to the kernel.
    pub sent_bytes: u64,
    /// Sends of handlers to their own links that failed, with any [`SendError`](crate::SendError).
    pub send_errors: u64,
    /// Posts that links missed for lack of capacity, counted once for each link.
    pub missed: u64,
    /// Links closed because they held borrowed buffers or posted messages without progress while others
    /// lacked buffers: see [`Builder::loan_wait`](crate::Builder::loan_wait).
    pub loans_revoked: u64,
    /// Panics of callbacks, and of drops of link states, worker contexts and the handler.
    pub handler_panics: u64,
    /// Receives that waited for a free buffer.
    pub buffer_waits: u64,
    /// Callbacks that ran for longer than
    /// [`Builder::report_callbacks_after`](crate::Builder::report_callbacks_after).
    pub stalls: u64,
    /// The service thread.
    pub service: ServiceStats,
    /// One entry for each worker.
    pub workers: Vec<WorkerStats>,
}

/// The counters of the service thread, which accepts for all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceStats {
    /// Passes of its loop; each handles one batch of completions.
    pub passes: u64,
    /// Wall time of the last pass outside of the port's dequeue.
    pub last_pass: Duration,
    /// Wall time of the longest pass.
    pub longest_pass: Duration,
    /// System calls to wait or poll for completions.
    pub waits: u64,
}

/// The counters of one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Slots in use now: see [`Stats::links`].
    pub links: u32,
    /// Turns of the worker's loop; each handles one batch of completions.
    pub turns: u64,
    /// Completions that the port returned.
    pub completions: u64,
    /// Calls of the handler for links.
    pub calls: u64,
    /// Wall time outside of the port's dequeue, in nanoseconds. It includes the kernel's work for sends
    /// and receives on epoll, and mostly not on io_uring, so do not compare it between back ends.
    pub busy_ns: u64,
    /// System calls to wait or poll for completions.
    pub waits: u64,
}

impl Stats {
    /// Links closed for `reason`.
    #[must_use]
    pub fn closed(&self, reason: DisconnectReason) -> u64 {
        self.closes[reason as usize]
    }

    /// Adds the service thread's counters.
    pub(crate) fn add_service(&mut self, service: &AcceptStats) {
        self.accepted += service.accepted.get();
        self.refused_full += service.refused_full.get();
        self.refused_stopping += service.refused_stopping.get();
        self.accept_failures += service.accept_failures.get();
        self.accept_aborts += service.accept_aborts.get();
        self.service = ServiceStats {
            passes: service.passes.get(),
            last_pass: Duration::from_nanos(service.last_pass_ns.get()),
            longest_pass: Duration::from_nanos(service.longest_pass_ns.get()),
            waits: service.waits.get(),
        };
        self.stalls += service.stalls.get();
    }

    /// Adds one shard's counters.
    pub(crate) fn add(&mut self, shard: &ShardStats, links: u32) {
        self.links += links;
        self.refused_stopping += shard.refused_stopping.get();
        self.accept_failures += shard.accept_failures.get();
        self.connects += shard.connects.get();
        self.rejects += shard.rejects.get();
        self.proxy_errors += shard.proxy_errors.get();
        for (sum, count) in self.closes.iter_mut().zip(&shard.closes) {
            *sum += count.get();
        }
        self.forced_closes += shard.forced_closes.get();
        self.receives += shard.receives.get();
        self.received_bytes += shard.received_bytes.get();
        self.sends += shard.sends.get();
        self.sent_bytes += shard.sent_bytes.get();
        self.send_errors += shard.send_errors.get();
        self.missed += shard.missed.get();
        self.loans_revoked += shard.loans_revoked.get();
        self.handler_panics += shard.handler_panics.get();
        self.buffer_waits += shard.buffer_waits.get();
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
pub(crate) fn sum(a: BufferCounts, b: BufferCounts) -> BufferCounts {
    let mut sum = a;
    sum.free += b.free;
    sum.kernel_receive += b.kernel_receive;
    sum.application += b.application;
    sum.send_queue += b.send_queue;
    sum.kernel_send += b.kernel_send;
    sum.shared += b.shared;
    sum
}
