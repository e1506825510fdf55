//! Errors of the system, each with the call that failed.

use crate::memory::error::MemoryError;
use std::fmt;
use std::io;

/// A system call that failed, and its error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OsError {
    call: &'static str,
    code: i32,
}

impl OsError {
    /// The failure of `call` with `code`: an `errno`, or a Windows error code.
    #[must_use]
    pub const fn new(call: &'static str, code: i32) -> Self {
        Self { call, code }
    }

    /// The failure of `call` with the code of `error`; 0 if the error has no system code.
    #[must_use]
    pub fn from_io(call: &'static str, error: &io::Error) -> Self {
        Self { call, code: error.raw_os_error().unwrap_or(0) }
    }

    /// The call that failed.
    #[must_use]
    pub const fn call(&self) -> &'static str {
        self.call
    }

    /// The system's error code.
    #[must_use]
    pub const fn code(&self) -> i32 {
        self.code
    }

    /// Whether the process or the system has no free descriptor or memory, so that an immediate
    /// retry would fail too.
    #[must_use]
    pub fn is_exhaustion(&self) -> bool {
        EXHAUSTION.contains(&self.code)
    }

    /// The usual cause of this code, or a remedy; `None` if the code has no usual cause.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        HINTS.iter().find(|(codes, _)| codes.contains(&self.code)).map(|(_, hint)| *hint)
    }

    /// The error's [`io::ErrorKind`].
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

/// ENOMEM.
#[cfg(not(windows))]
const OUT_OF_MEMORY: i32 = 12;
/// ERROR_NOT_ENOUGH_MEMORY.
#[cfg(windows)]
const OUT_OF_MEMORY: i32 = 8;

#[cfg(not(windows))]
const FILES: &str = "raise the limit for open files (ulimit -n), or use fewer sockets";
#[cfg(windows)]
const FILES: &str = "use fewer sockets";
const MEMORY: &str = "use fewer sockets or buffers, or add memory";
#[cfg(not(windows))]
const FORBIDDEN: &str = "check the seccomp profile and the process's capabilities";
#[cfg(windows)]
const FORBIDDEN: &str = "check the rights of the account, the firewall and the reserved ports";

/// By code: EMFILE and ENFILE, ENOMEM and ENOBUFS, EPERM and EACCES, ENOSYS and EINVAL.
#[cfg(not(windows))]
const HINTS: [(&[i32], &str); 4] = [
    (&[24, 23], FILES),
    (&[12, 105], MEMORY),
    (&[1, 13], FORBIDDEN),
    (&[38, 22], "the kernel lacks the call or one of its options; use another back end"),
];
/// By code: ERROR_TOO_MANY_OPEN_FILES and WSAEMFILE; ERROR_NOT_ENOUGH_MEMORY, ERROR_OUTOFMEMORY and
/// WSAENOBUFS; ERROR_ACCESS_DENIED and WSAEACCES.
#[cfg(windows)]
const HINTS: [(&[i32], &str); 3] =
    [(&[4, 10024], FILES), (&[8, 14, 10055], MEMORY), (&[5, 10013], FORBIDDEN)];

/// A port could not be created, or can no longer be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortError {
    os: OsError,
    hint: Option<&'static str>,
    lacking_bytes: Option<u64>,
}

impl PortError {
    pub(crate) fn new(os: OsError, hint: Option<&'static str>) -> Self {
        Self { os, hint, lacking_bytes: None }
    }

    /// The call that failed, and its code.
    #[must_use]
    pub fn os(&self) -> OsError {
        self.os
    }

    /// The usual cause, or a remedy.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        self.hint
    }

    /// Bytes of a table of the port for which there was no memory; [`os`](Self::os) names the table
    /// then. `None` if a call failed.
    #[must_use]
    pub fn lacking_bytes(&self) -> Option<u64> {
        self.lacking_bytes
    }
}

impl From<MemoryError> for PortError {
    fn from(error: MemoryError) -> Self {
        let os = OsError::new(error.what(), OUT_OF_MEMORY);
        Self { os, hint: os.hint(), lacking_bytes: Some(error.size_bytes()) }
    }
}

impl From<OsError> for PortError {
    fn from(os: OsError) -> Self {
        Self::new(os, os.hint())
    }
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(bytes) = self.lacking_bytes {
            write!(f, "cannot allocate {bytes} bytes for ")?;
        }
        write!(f, "{}", self.os)?;
        self.hint.map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

impl std::error::Error for PortError {}

#[cfg(test)]
#[cfg(target_os = "linux")] // The codes are Linux's.
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_call_the_code_and_what_helps() {
        let text = PortError::from(OsError::new("eventfd", 24)).to_string();
        assert!(text.starts_with("eventfd: ") && text.contains("(os error 24)"), "{text}");
        assert!(text.ends_with(FILES), "{text}");
        assert_eq!(OsError::new("recv", 104).hint(), None);
    }

    #[test]
    fn a_table_that_finds_no_memory_is_named_with_its_size() {
        let error =
            crate::memory::table::try_with_capacity::<u8>("the table of sockets", usize::MAX);
        let error = PortError::from(error.unwrap_err());
        assert_eq!(error.lacking_bytes(), Some(u64::MAX));
        let text = error.to_string();
        assert!(text.starts_with("cannot allocate 18446744073709551615 bytes for the table of"));
        assert!(
            text.contains("sockets: Cannot allocate memory") && text.ends_with(MEMORY),
            "{text}"
        );
    }
}
