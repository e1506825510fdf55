//! The histogram of the time that jobs waited in the queue.

use std::time::Duration;

/// Bucket `i` counts times below 2^i ns that are in no lower one; the last counts all others.
pub(super) const BUCKETS: usize = 40;

pub(super) fn bucket_of(waited_ns: u64) -> usize {
    // At most 64.
    let bits = (u64::BITS - waited_ns.leading_zeros()) as usize;
    bits.min(BUCKETS - 1)
}

/// How long jobs waited from their submission until a thread began them: how many waited less than 1
/// ns, 2 ns, 4 ns and so on, to 2^38 ns (275 s) and more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueTimes {
    buckets: [u64; BUCKETS],
}

impl Default for QueueTimes {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS] }
    }
}

impl QueueTimes {
    pub(super) fn add(&mut self, bucket: usize, count: u64) {
        self.buckets[bucket] += count;
    }

    /// Number of jobs that have begun.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Each bucket's upper limit, and the number of jobs that waited less than it and are in no bucket
    /// before. The last has no limit.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(bucket, count)| (limit(bucket), *count))
    }

    /// A time that at least this share of the jobs, of 0 to 1, waited less than: 0.5 is the median, 0.99
    /// the 99th percentile. It is the upper limit of a bucket, so at most twice the exact value; zero if
    /// no job has begun, and [`Duration::MAX`] for more than 275 s.
    #[must_use]
    pub fn percentile(&self, share: f64) -> Duration {
        let count = self.count();
        let mut sum = 0;
        for (limit, jobs) in self.buckets() {
            sum += jobs;
            #[expect(
                clippy::cast_precision_loss,
                reason = "a share of more than 2^53 jobs is rounded"
            )]
            if count > 0 && sum as f64 >= share * count as f64 && sum > 0 {
                return limit;
            }
        }
        if count == 0 { Duration::ZERO } else { Duration::MAX }
    }

    /// The counts since an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let count = |bucket: usize| self.buckets[bucket].saturating_sub(earlier.buckets[bucket]);
        Self { buckets: std::array::from_fn(count) }
    }
}

fn limit(bucket: usize) -> Duration {
    if bucket + 1 < BUCKETS { Duration::from_nanos(1 << bucket) } else { Duration::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: &[u64]) -> QueueTimes {
        let mut all = QueueTimes::default();
        times.iter().for_each(|time| all.add(bucket_of(*time), 1));
        all
    }

    #[test]
    fn a_time_is_counted_below_the_next_power_of_two() {
        for (time, below) in
            [(0, 1), (1, 2), (2, 4), (3, 4), (4, 8), (1_000, 1_024), (1_024, 2_048)]
        {
            assert_eq!(of(&[time]).percentile(1.0), Duration::from_nanos(below), "{time}");
        }
        assert_eq!(of(&[(1 << 38) - 1]).percentile(0.5), Duration::from_nanos(1 << 38));
        assert_eq!(of(&[1 << 38]).percentile(0.5), Duration::MAX);
        assert_eq!(of(&[u64::MAX]).percentile(0.5), Duration::MAX);
    }

    #[test]
    fn a_percentile_is_the_limit_that_enough_times_are_below() {
        let all = of(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 900]);
        assert_eq!(all.count(), 10);
        assert_eq!(all.percentile(0.0), Duration::from_nanos(2));
        assert_eq!(all.percentile(0.9), Duration::from_nanos(2));
        assert_eq!(all.percentile(0.91), Duration::from_nanos(1_024));
        assert_eq!(QueueTimes::default().percentile(0.99), Duration::ZERO);
    }

    #[test]
    fn the_counts_since_a_reading_are_the_difference() {
        let (earlier, now) = (of(&[5]), of(&[5, 5, 70]));
        let counts: Vec<_> =
            now.since(&earlier).buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counts, [(Duration::from_nanos(8), 1), (Duration::from_nanos(128), 1)]);
    }
}
