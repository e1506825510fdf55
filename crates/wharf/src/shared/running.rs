//! The callback that a shard runs, for the service thread to watch.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// In place of a slot, which has 24 bits.
const NO_LINK: u32 = u32::MAX - 1;

/// The running callback of a shard, on a cache line that only the shard writes to.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct RunningCallback {
    /// The number of the callback in the upper half; in the lower the slot of its link plus 1, or 0 if
    /// none runs.
    word: AtomicU64,
    /// The unread bytes of its link at its begin.
    unread: AtomicU32,
}

/// A callback as the service thread sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SeenCallback {
    word: u64,
    pub(crate) unread: u32,
}

impl RunningCallback {
    /// A callback of this link begins.
    #[inline]
    pub(crate) fn begin(&self, index: u32, unread: usize) {
        self.unread.store(u32::try_from(unread).unwrap_or(u32::MAX), Ordering::Relaxed);
        let number = (self.word.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        // Release: who sees the word sees the unread bytes.
        self.word.store(number << 32 | (u64::from(index) + 1), Ordering::Release);
    }

    /// A callback begins that has no link.
    pub(crate) fn begin_packet(&self) {
        self.begin(NO_LINK, 0);
    }

    /// No callback runs: the shard is about to wait.
    #[inline]
    pub(crate) fn end(&self) {
        let word = self.word.load(Ordering::Relaxed);
        if word & u64::from(u32::MAX) != 0 {
            self.word.store(word >> 32 << 32, Ordering::Relaxed);
        }
    }

    pub(crate) fn see(&self) -> SeenCallback {
        let word = self.word.load(Ordering::Acquire);
        SeenCallback { word, unread: self.unread.load(Ordering::Relaxed) }
    }
}

impl SeenCallback {
    /// Whether a callback runs.
    pub(crate) fn runs(self) -> bool {
        self.word & u64::from(u32::MAX) != 0
    }

    /// The slot of the callback's link; `None` if it has none.
    pub(crate) fn index(self) -> Option<u32> {
        let index = u32::try_from((self.word & u64::from(u32::MAX)).checked_sub(1)?).ok()?;
        (index != NO_LINK).then_some(index)
    }

    pub(crate) fn is_same(self, other: Self) -> bool {
        self.word == other.word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_callback_is_another_and_none_runs_after_its_end() {
        let running = RunningCallback::default();
        assert_eq!(running.see().index(), None);
        running.begin(7, 100);
        let first = running.see();
        assert_eq!((first.index(), first.unread), (Some(7), 100));
        assert!(running.see().is_same(first));
        running.end();
        assert!(!running.see().runs());
        running.begin_packet();
        assert_eq!((running.see().runs(), running.see().index()), (true, None));
        running.begin(7, 100);
        assert!(!running.see().is_same(first));
    }
}
