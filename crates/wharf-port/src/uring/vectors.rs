//! Message headers for sends of several buffers.
//!
//! The kernel copies a message header and its vectors when it consumes the submission entry
//! (IORING_FEAT_SUBMIT_STABLE), so a header is needed from submit to the next `io_uring_enter` and
//! a small table serves any number of sends.

use crate::memory::error::MemoryError;
use crate::memory::table::try_table;
use std::ptr;

/// Buffers of one send; the send of a longer chain is short.
///
/// 64 buffers of 2 KiB are 128 KiB, about as much as an empty socket buffer takes at once.
pub(super) const VECTORS_MAX: usize = 64;

/// Headers, and so sends of several buffers in one `io_uring_enter`; further ones need another
/// call.
const HEADERS_MAX: usize = 128;

#[derive(Debug)]
pub(super) struct Vectors {
    headers: Box<[Header]>,
    used: usize,
}

#[derive(Debug)]
struct Header {
    message: libc::msghdr,
    vectors: [libc::iovec; VECTORS_MAX],
}

impl Vectors {
    pub(super) const SIZE_BYTES: usize = HEADERS_MAX * size_of::<Header>();

    pub(super) fn new() -> Result<Self, MemoryError> {
        let empty = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: all zeroes is a valid `msghdr`: null pointers with zero lengths.
        let message: libc::msghdr = unsafe { std::mem::zeroed() };
        let header = || Header { message, vectors: [empty; VECTORS_MAX] };
        let headers = try_table("the headers of sends", (0..HEADERS_MAX).map(|_| header()))?;
        Ok(Self { headers, used: 0 })
    }

    /// Whether every header is in use until the next `io_uring_enter`.
    pub(super) fn is_full(&self) -> bool {
        self.used == self.headers.len()
    }

    /// Frees all headers: the kernel has consumed every entry.
    pub(super) fn reset(&mut self) {
        self.used = 0;
    }

    /// A header for the first [`VECTORS_MAX`] of `slices`, valid until [`reset`](Self::reset), and
    /// their length in bytes.
    pub(super) fn header_for<'a>(
        &mut self,
        slices: impl Iterator<Item = &'a [u8]>,
    ) -> (*const libc::msghdr, usize) {
        let header = &mut self.headers[self.used];
        self.used += 1;
        let (mut count, mut len) = (0, 0);
        for (vector, slice) in header.vectors.iter_mut().zip(slices) {
            // The kernel only reads the bytes of a send; `iovec` has no const variant.
            vector.iov_base = slice.as_ptr().cast_mut().cast();
            vector.iov_len = slice.len();
            count += 1;
            len += slice.len();
        }
        header.message.msg_iov = header.vectors.as_mut_ptr();
        header.message.msg_iovlen = count;
        (&raw const header.message, len)
    }
}
