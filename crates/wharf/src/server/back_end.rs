//! Which port carries the server: asked for, or found out.

use crate::error::StartError;
use std::fmt;
use std::str::FromStr;

/// A kind of completion port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackEnd {
    /// io_uring: Linux 6.1 and later, where it is allowed.
    Uring,
    /// epoll: every Linux.
    Epoll,
    /// I/O completion ports: Windows.
    Iocp,
}

impl BackEnd {
    /// Its name in flags, `WHARF_BACKEND` and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "io_uring",
            Self::Epoll => "epoll",
            Self::Iocp => "iocp",
        }
    }

    /// Whether this machine has it.
    ///
    /// # Errors
    ///
    /// Why not, with the usual cause.
    pub fn available(self) -> Result<(), String> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Uring => wharf_port::uring::probe().map_err(|error| error.to_string()),
            #[cfg(target_os = "linux")]
            Self::Epoll => Ok(()),
            #[cfg(windows)]
            Self::Iocp => Ok(()),
            #[expect(clippy::allow_attributes, reason = "each system has others that are left")]
            #[allow(unreachable_patterns, reason = "as above")]
            other => Err(format!("{other} is a back end of another system")),
        }
    }
}

impl fmt::Display for BackEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BackEnd {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "uring" | "io_uring" => Ok(Self::Uring),
            "epoll" => Ok(Self::Epoll),
            "iocp" => Ok(Self::Iocp),
            _ => Err(format!("{name:?} is no back end; there are uring, epoll and iocp")),
        }
    }
}

/// The back end that a server runs on, and why not a better one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chosen {
    /// The back end.
    pub back_end: BackEnd,
    /// Why the best one was not taken, if it was not.
    pub fallback: Option<String>,
}

/// What was asked for, or else what the variable `WHARF_BACKEND` says, or else the best that works.
pub(super) fn choose(asked: Option<BackEnd>) -> Result<Chosen, StartError> {
    let variable = std::env::var("WHARF_BACKEND").unwrap_or_default();
    let asked = match (asked, variable.as_str()) {
        (Some(back_end), _) => Some(back_end),
        (None, "" | "auto") => None,
        (None, name) => Some(name.parse().map_err(|reason: String| {
            StartError::back_end(name, &format!("the variable WHARF_BACKEND: {reason}"))
        })?),
    };
    let back_end = asked.unwrap_or(BEST);
    match (asked, back_end.available()) {
        (_, Ok(())) => Ok(Chosen { back_end, fallback: None }),
        (None, Err(reason)) if NEXT != BEST => {
            Ok(Chosen { back_end: NEXT, fallback: Some(reason) })
        }
        (_, Err(reason)) => Err(StartError::back_end(&back_end.to_string(), &reason)),
    }
}

/// The back end that is taken if it works, and the one that is taken else.
#[cfg(not(windows))]
const BEST: BackEnd = BackEnd::Uring;
#[cfg(not(windows))]
const NEXT: BackEnd = BackEnd::Epoll;
#[cfg(windows)]
const BEST: BackEnd = BackEnd::Iocp;
#[cfg(windows)]
const NEXT: BackEnd = BackEnd::Iocp;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_ends_have_two_spellings_and_others_are_refused() {
        assert_eq!("uring".parse(), Ok(BackEnd::Uring));
        assert_eq!("io_uring".parse(), Ok(BackEnd::Uring));
        assert_eq!("epoll".parse(), Ok(BackEnd::Epoll));
        assert!("kqueue".parse::<BackEnd>().unwrap_err().contains("uring, epoll and iocp"));
    }
}
