//! The callback that a shard runs, for the service thread to watch.

use crate::vocabulary::id::LinkKey;
use std::sync::atomic::{AtomicU64, Ordering};

/// The running callback of a shard, on a cache line that only the shard writes to.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct RunningCallback {
    /// The number of the callback in the upper half; in the lower the slot of its link plus 1, or 0 if
    /// none runs.
    word: AtomicU64,
    /// The generation of its link in the upper half; in the lower the link's unread bytes at its begin.
    link: AtomicU64,
}

/// In place of a slot, which has 24 bits.
const NO_LINK: u32 = u32::MAX - 1;

/// A callback as the service thread sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SeenCallback {
    word: u64,
    link: u64,
}

impl RunningCallback {
    /// A callback of this link begins.
    #[inline]
    pub(crate) fn begin(&self, index: u32, generation: u32, unread: usize) {
        let unread = u32::try_from(unread).unwrap_or(u32::MAX);
        self.link.store(u64::from(generation) << 32 | u64::from(unread), Ordering::Relaxed);
        let number = (self.word.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        // Release: who sees the word sees its link.
        self.word.store(number << 32 | (u64::from(index) + 1), Ordering::Release);
    }

    /// A callback begins that has no link.
    pub(crate) fn begin_packet(&self) {
        self.begin(NO_LINK, 0, 0);
    }

    /// No callback runs: the shard is about to wait.
    #[inline]
    pub(crate) fn end(&self) {
        let word = self.word.load(Ordering::Relaxed);
        if word & u64::from(u32::MAX) != 0 {
            self.word.store(word >> 32 << 32, Ordering::Relaxed);
        }
    }

    /// The callback. While the next one begins, the word can still be the last one's; so only a callback
    /// that two looks see alike is one that runs.
    pub(crate) fn see(&self) -> SeenCallback {
        let word = self.word.load(Ordering::Acquire);
        SeenCallback { word, link: self.link.load(Ordering::Relaxed) }
    }
}

impl SeenCallback {
    /// Whether a callback runs.
    pub(crate) fn runs(self) -> bool {
        self.word & u64::from(u32::MAX) != 0
    }

    /// The callback's link; `None` if it has none.
    #[expect(clippy::cast_possible_truncation, reason = "the halves of a word")]
    pub(crate) fn link(self, shard: u8) -> Option<LinkKey> {
        let index = (self.word as u32).checked_sub(1)?;
        (index != NO_LINK).then(|| LinkKey::new(shard, index, (self.link >> 32) as u32))
    }

    /// The unread bytes of its link at its begin.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half of a word")]
    pub(crate) fn unread_bytes(self) -> u32 {
        self.link as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_callback_is_another_and_none_runs_after_its_end() {
        let running = RunningCallback::default();
        assert!(!running.see().runs());
        running.begin(7, 3, 100);
        let first = running.see();
        assert!(first.runs() && running.see() == first);
        assert_eq!(first.link(2), Some(LinkKey::new(2, 7, 3)));
        assert_eq!(first.unread_bytes(), 100);
        running.end();
        assert!(!running.see().runs());
        running.begin_packet();
        assert_eq!((running.see().runs(), running.see().link(2)), (true, None));
        running.begin(7, 3, 100);
        assert_ne!(running.see(), first);
    }
}
