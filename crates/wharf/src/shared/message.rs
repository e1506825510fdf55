//! Messages that many links share.

use std::fmt;
use wharf_port::memory;

/// Bytes in shared buffers, made by [`Handle::message`](crate::Handle::message). The buffers are
/// released with the last clone, and when the last link has sent them.
#[derive(Clone)]
pub struct Message {
    pub(crate) inner: memory::Message,
}

impl Message {
    /// The length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an empty one is of no use")]
    pub fn len(&self) -> usize {
        self.inner.len()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("len", &self.len()).finish_non_exhaustive()
    }
}
