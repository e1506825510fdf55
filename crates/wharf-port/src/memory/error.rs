//! What memory can fail with: at startup the system's answer, afterwards only a full pool.

use std::fmt;
use std::io;

/// The system refused memory at startup.
#[derive(Debug)]
pub struct MemoryError {
    pub(super) size_bytes: usize,
    pub(super) source: io::Error,
}

impl MemoryError {
    /// How many bytes were asked for.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the system refused {} bytes of buffer memory: {}; ask for fewer or smaller buffers",
            self.size_bytes, self.source
        )
    }
}

impl std::error::Error for MemoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A pool has too few buffers or chain entries left, or the caller's allowance is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NoRoom;

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no buffer is free for these bytes")
    }
}

impl std::error::Error for NoRoom {}
