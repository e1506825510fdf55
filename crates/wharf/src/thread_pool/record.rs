//! What each thread of a pool does now, and what it has done: written by that thread, read by any.

use crate::thread_pool::queue_times::{BUCKETS, QueueTimes, bucket_of};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The record of one thread, on cache lines that no other thread writes to.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Record {
    /// When the job began that runs now, plus 1; 0 if none runs.
    began: AtomicU64,
    /// The tag of that job.
    tag: AtomicU64,
    /// How many calls of `blocking` the thread is in.
    blocked: AtomicU32,
    pub(super) completed: Counter,
    pub(super) panicked: Counter,
    pub(super) context_failures: Counter,
    queue_times: [Counter; BUCKETS],
}

/// A counter that one thread writes and all threads may read.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Only the thread of the record calls this, so a load and a store suffice.
    pub(super) fn add_one(&self) {
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A job that runs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Current {
    /// When it began, on the pool's clock.
    pub(crate) began_ns: u64,
    /// What [`Work::tag`](super::core::Work::tag) returned for it.
    pub(crate) tag: u64,
}

impl Record {
    pub(super) fn new() -> Self {
        Self {
            began: AtomicU64::new(0),
            tag: AtomicU64::new(0),
            blocked: AtomicU32::new(0),
            completed: Counter::default(),
            panicked: Counter::default(),
            context_failures: Counter::default(),
            queue_times: std::array::from_fn(|_| Counter::default()),
        }
    }

    /// A job begins.
    pub(super) fn begin(&self, now_ns: u64, waited_ns: u64, tag: u64) {
        self.queue_times[bucket_of(waited_ns)].add_one();
        // Release: a reader that sees this tag sees as well that the job before has ended.
        self.tag.store(tag, Ordering::Release);
        // Release: a reader that sees this time sees the tag of the same job, or of a later one.
        self.began.store(now_ns + 1, Ordering::Release);
    }

    /// The job has ended.
    pub(super) fn finish(&self) {
        // `Record::current` relies on the order with the next job's `tag.store`, which is a release.
        self.began.store(0, Ordering::Relaxed);
    }

    /// The job that runs now.
    pub(super) fn current(&self) -> Option<Current> {
        // The time is the same before and after the tag was read, so both are of the same job.
        let began = self.began.load(Ordering::Acquire);
        let tag = self.tag.load(Ordering::Acquire);
        let again = self.began.load(Ordering::Relaxed);
        (began != 0 && began == again).then(|| Current { began_ns: began - 1, tag })
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed) > 0
    }

    pub(super) fn add_queue_times(&self, sum: &mut QueueTimes) {
        for (bucket, count) in self.queue_times.iter().enumerate() {
            sum.add(bucket, count.get());
        }
    }
}

/// The records of the pool that a thread belongs to, and its slot.
type Own = Option<(Arc<[Record]>, usize)>;

thread_local! {
    static OWN: RefCell<Own> = const { RefCell::new(None) };
}

/// This thread belongs to a pool from now on.
pub(super) fn enter(records: &Arc<[Record]>, slot: usize) {
    OWN.set(Some((Arc::clone(records), slot)));
}

/// The slot of this thread, if it belongs to the pool with these records.
pub(super) fn own_slot(records: &Arc<[Record]>) -> Option<usize> {
    with_own(|own, slot| Arc::ptr_eq(own, records).then_some(slot)).flatten()
}

fn with_own<R>(f: impl FnOnce(&Arc<[Record]>, usize) -> R) -> Option<R> {
    // While the thread ends, it belongs to no pool.
    let own = |own: &RefCell<Own>| own.borrow().as_ref().map(|(records, slot)| f(records, *slot));
    OWN.try_with(own).ok().flatten()
}

/// Runs `f`, in which the job may wait for something else than the processor: a lock, a file, a
/// database, another job. Meanwhile the statistics count its thread as
/// [blocked](super::PoolStats::blocked) instead of running; nothing else changes. On a thread of no
/// pool it only runs `f`.
///
/// So the statistics tell what a pool lacks: work that waits while most threads are blocked asks for
/// more threads, while most are running for more cores.
pub fn blocking<R>(f: impl FnOnce() -> R) -> R {
    struct Blocked;
    impl Drop for Blocked {
        fn drop(&mut self) {
            with_own(|records, slot| records[slot].blocked.fetch_sub(1, Ordering::Relaxed));
        }
    }
    with_own(|records, slot| records[slot].blocked.fetch_add(1, Ordering::Relaxed));
    let _until_the_end_or_a_panic = Blocked;
    f()
}
