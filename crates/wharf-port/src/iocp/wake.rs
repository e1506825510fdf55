//! The system's completion port, and the wake-up by other threads.

use crate::port::error::OsError;
use crate::port::wake::Wake;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use windows_sys::Win32::Foundation::{GetLastError, HANDLE, INVALID_HANDLE_VALUE, WAIT_TIMEOUT};
use windows_sys::Win32::System::IO::{
    CreateIoCompletionPort, GetQueuedCompletionStatusEx, OVERLAPPED_ENTRY,
    PostQueuedCompletionStatus,
};

/// A completion port of the system. Dropping it closes the handle.
#[derive(Debug)]
pub(super) struct CompletionPort {
    handle: OwnedHandle,
}

/// The completion key of every socket; the OVERLAPPED identifies the operation.
pub(super) const SOCKET_KEY: usize = 0;
/// The completion key of a packet that only ends a wait.
pub(super) const WAKE_KEY: usize = 1;

/// Attempts to post a wake-up to a system that has no memory for it. If all fail, the owner's wait
/// ends after [`WAIT_MS_MAX`].
const POST_ATTEMPTS_MAX: u32 = 100;
/// The longest single wait, in milliseconds; a dequeue with a longer timeout returns early.
pub(super) const WAIT_MS_MAX: u32 = 60_000;

impl CompletionPort {
    /// A port on which at most `concurrency` threads run at once.
    pub(super) fn new(concurrency: u32) -> Result<Self, OsError> {
        // SAFETY: INVALID_HANDLE_VALUE with no existing port makes a new one, and the key is
        // ignored (CreateIoCompletionPort page: FileHandle, ExistingCompletionPort).
        let handle = unsafe {
            CreateIoCompletionPort(INVALID_HANDLE_VALUE, std::ptr::null_mut(), 0, concurrency)
        };
        if handle.is_null() {
            return Err(last_error("CreateIoCompletionPort"));
        }
        // SAFETY: the call has just created the handle, so no other code owns it; it is closed with
        // CloseHandle (CreateIoCompletionPort page: Remarks).
        let handle = unsafe { OwnedHandle::from_raw_handle(handle) };
        Ok(Self { handle })
    }

    /// Associates `handle`, a socket's, with this port, which gets the packets of its operations.
    pub(super) fn associate(&self, handle: HANDLE) -> Result<(), OsError> {
        // SAFETY: both handles are open, as the caller holds the socket and `self` the port; no
        // memory is passed.
        let port = unsafe { CreateIoCompletionPort(handle, self.raw(), SOCKET_KEY, 0) };
        if port.is_null() { Err(last_error("CreateIoCompletionPort")) } else { Ok(()) }
    }

    /// Fills `entries` with packets, waiting up to `wait_ms`; returns how many.
    pub(super) fn dequeue(
        &self,
        entries: &mut [OVERLAPPED_ENTRY],
        wait_ms: u32,
    ) -> Result<usize, OsError> {
        let count_max = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let mut removed = 0;
        // SAFETY: `entries` and `removed` are borrowed uniquely during the call, and the count is
        // not above the slice's length (GetQueuedCompletionStatusEx page: lpCompletionPortEntries).
        let done = unsafe {
            GetQueuedCompletionStatusEx(
                self.raw(),
                entries.as_mut_ptr(),
                count_max,
                &raw mut removed,
                wait_ms,
                0,
            )
        };
        if done != 0 {
            return Ok(entries.len().min(removed as usize));
        }
        let error = last_error("GetQueuedCompletionStatusEx");
        if error.code() == WAIT_TIMEOUT.cast_signed() { Ok(0) } else { Err(error) }
    }

    fn raw(&self) -> HANDLE {
        self.handle.as_raw_handle()
    }
}

impl Wake for CompletionPort {
    fn wake(&self) {
        for _ in 0..POST_ATTEMPTS_MAX {
            // SAFETY: the handle is open; the OVERLAPPED is null, and is not dereferenced when the
            // packet is dequeued (PostQueuedCompletionStatus page: lpOverlapped).
            let posted =
                unsafe { PostQueuedCompletionStatus(self.raw(), 0, WAKE_KEY, std::ptr::null()) };
            if posted != 0 {
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// The error of the calling thread's last system call, which was `call`.
pub(super) fn last_error(call: &'static str) -> OsError {
    // SAFETY: reads a value of the calling thread; no condition.
    let code = unsafe { GetLastError() };
    // An operation that has failed is not in flight, so a wrong error would free its memory.
    assert!(code != 0, "{call} failed without a code");
    OsError::new(call, code.cast_signed())
}
