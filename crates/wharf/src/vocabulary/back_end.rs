//! The kinds of completion ports.

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
            _ => Err(format!("unknown back end {name:?}; use uring, epoll or iocp")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_ends_have_two_spellings_and_others_are_refused() {
        assert_eq!("uring".parse(), Ok(BackEnd::Uring));
        assert_eq!("io_uring".parse(), Ok(BackEnd::Uring));
        assert_eq!("epoll".parse(), Ok(BackEnd::Epoll));
        assert!("kqueue".parse::<BackEnd>().unwrap_err().contains("uring, epoll or iocp"));
    }
}
