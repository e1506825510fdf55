//! Errors of the system, each with the call that failed.

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

    /// The usual cause, or a remedy.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        self.hint
    }
}

impl From<OsError> for PortError {
    fn from(os: OsError) -> Self {
        Self { os, hint: os.hint() }
    }
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
}
