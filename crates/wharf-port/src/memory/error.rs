//! Errors of memory: at startup the system's, afterwards only that of an empty pool.

use std::fmt;
use std::io;

/// The system could not allocate the memory of a pool or a table.
#[derive(Debug)]
pub struct MemoryError {
    pub(super) what: &'static str,
    pub(super) size_bytes: u64,
    pub(super) source: io::Error,
}

impl MemoryError {
    /// What the memory was for.
    #[must_use]
    pub fn what(&self) -> &'static str {
        self.what
    }

    /// Bytes that were requested.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot allocate {} bytes for {}: {}; use fewer or smaller buffers",
            self.size_bytes, self.what, self.source
        )
    }
}

impl std::error::Error for MemoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A pool has too few free buffers or chain entries, or the bytes exceed the caller's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NoBuffers;

impl fmt::Display for NoBuffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no buffer is free for these bytes")
    }
}

impl std::error::Error for NoBuffers {}
