//! What a receive or an accept may still complete with.

use super::operation::CompletionMode;

/// How often a receive or an accept completes, and how many bytes a receive may still take.
///
/// Every back end counts bytes here, so that each ends a receive at the same byte (INV-PORT-8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) mode: CompletionMode,
    /// `u32::MAX` is no limit and does not count down.
    bytes_left: u32,
}

impl Demand {
    /// Of a receive of at most `bytes_max` bytes in all.
    pub(crate) fn new(mode: CompletionMode, bytes_max: u32) -> Self {
        Self { mode, bytes_left: bytes_max }
    }

    /// Of an accept. The IOCP back end does not use it: it keeps accepts apart from receives.
    #[cfg(any(test, target_os = "linux"))]
    pub(crate) fn accept(mode: CompletionMode) -> Self {
        Self { mode, bytes_left: u32::MAX }
    }

    /// Whether it has no bytes left: a receive of 0 bytes, which only waits for bytes (INV-PORT-9).
    pub(crate) fn is_zero_byte(&self) -> bool {
        self.bytes_left == 0
    }

    /// The most bytes that the next completion may have in a buffer of this capacity.
    pub(crate) fn len_max(&self, capacity: u32) -> u32 {
        self.bytes_left.min(capacity)
    }

    /// Counts received bytes; returns whether the receive ends with them.
    pub(crate) fn received(&mut self, len: u32) -> bool {
        if self.bytes_left != u32::MAX {
            self.bytes_left = self.bytes_left.saturating_sub(len);
        }
        self.bytes_left == 0 || self.mode != CompletionMode::Multishot
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_receive_is_over_with_its_last_byte_or_its_only_completion() {
        let mut many = Demand::new(CompletionMode::Multishot, 10);
        assert_eq!((many.len_max(8), many.received(8)), (8, false));
        assert_eq!((many.len_max(8), many.received(2)), (2, true));
        assert!(Demand::new(CompletionMode::Oneshot, 10).received(1));
        assert!(Demand::new(CompletionMode::Multishot, 10).received(11), "more than its limit");
        assert!(Demand::new(CompletionMode::Multishot, 0).is_zero_byte());
    }

    #[test]
    fn without_a_limit_it_never_ends() {
        let mut unlimited = Demand::new(CompletionMode::Multishot, u32::MAX);
        for _ in 0..3 {
            assert!(!unlimited.received(u32::MAX));
            assert_eq!(unlimited.len_max(2048), 2048);
        }
        assert!(!Demand::accept(CompletionMode::Multishot).received(1));
    }
}
