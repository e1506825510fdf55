//! Errors of the system, with the call that gave them.

use std::fmt;
use std::io;

/// What the system answered to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OsError {
    call: &'static str,
    code: i32,
}

impl OsError {
    /// The answer `code` (an `errno`, or a Windows error code) to `call`.
    #[must_use]
    pub const fn new(call: &'static str, code: i32) -> Self {
        Self { call, code }
    }

    /// The answer in `error` to `call`; code 0 if the error did not come from the system.
    #[must_use]
    pub fn from_io(call: &'static str, error: &io::Error) -> Self {
        Self { call, code: error.raw_os_error().unwrap_or(0) }
    }

    /// The system call.
    #[must_use]
    pub const fn call(&self) -> &'static str {
        self.call
    }

    /// The system's code.
    #[must_use]
    pub const fn code(&self) -> i32 {
        self.code
    }

    /// Whether the system, and not this one connection, has run out of something: descriptors or
    /// memory. Trying again at once would fail again.
    #[must_use]
    pub fn is_exhaustion(&self) -> bool {
        EXHAUSTION.contains(&self.code)
    }

    /// The kind of error, in the terms of std.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        io::Error::from_raw_os_error(self.code).kind()
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            0 => f.write_str(self.call),
            code => write!(f, "{}: {}", self.call, io::Error::from_raw_os_error(code)),
        }
    }
}

impl std::error::Error for OsError {}

impl From<OsError> for io::Error {
    fn from(error: OsError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// ENOMEM, ENFILE, EMFILE, ENOBUFS (errno(3)).
#[cfg(not(windows))]
const EXHAUSTION: [i32; 4] = [12, 23, 24, 105];
/// ERROR_TOO_MANY_OPEN_FILES, ERROR_NOT_ENOUGH_MEMORY, WSAEMFILE, WSAENOBUFS.
#[cfg(windows)]
const EXHAUSTION: [i32; 4] = [4, 8, 10024, 10055];

/// A port could not be made, or cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortError {
    os: OsError,
    hint: Option<&'static str>,
}

impl PortError {
    pub(crate) fn new(os: OsError, hint: Option<&'static str>) -> Self {
        Self { os, hint }
    }

    /// The call that failed, and its code.
    #[must_use]
    pub fn os(&self) -> OsError {
        self.os
    }

    /// What usually causes this, and what helps.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        self.hint
    }
}

impl From<OsError> for PortError {
    fn from(os: OsError) -> Self {
        Self { os, hint: None }
    }
}

impl From<crate::memory::InUse> for PortError {
    fn from(_: crate::memory::InUse) -> Self {
        Self::new(OsError::new("BufferPool", 0), Some("a pool serves one port; make another pool"))
    }
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.os)?;
        self.hint.map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

impl std::error::Error for PortError {}
