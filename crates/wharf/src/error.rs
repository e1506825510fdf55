//! What can go wrong, and what to do about it.

use std::fmt;
use std::io;

/// What handlers and programs return: `Ok`, or an [`Error`].
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Any error of this crate, and whatever a handler wants to report.
///
/// A handler that returns one closes the link it was called for.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Bytes could not be queued.
    Send(SendError),
    /// The server did not start.
    Start(StartError),
    /// An error of the system.
    Io(io::Error),
    /// The handler's own error.
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
            Self::Other(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Send(error) => Some(error),
            Self::Start(error) => Some(error),
            Self::Io(error) => Some(error),
            Self::Other(error) => Some(&**error),
        }
    }
}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

impl From<StartError> for Error {
    fn from(error: StartError) -> Self {
        Self::Start(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Box<dyn std::error::Error + Send + Sync>> for Error {
    fn from(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self::Other(error)
    }
}

impl From<&str> for Error {
    fn from(text: &str) -> Self {
        Self::Other(text.into())
    }
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Self::Other(text.into())
    }
}

/// Bytes were not queued. Nothing changed, so the same call may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The link's send queue has no room for all of it: the peer reads too slowly. There is room
    /// again when the peer has read.
    QueueFull,
    /// The message is larger than a send queue can ever hold, or than half of one if it was posted;
    /// see [`Builder::send_queue`](crate::Builder::send_queue).
    TooLarge,
    /// No buffer is free, or the link has taken its share of them.
    NoBuffers,
    /// The shard is behind with what other threads post to it. For a broadcast: some links may
    /// have got it.
    Busy,
    /// The link is closed or closing, or the server has stopped.
    Gone,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QueueFull => "the link's send queue is full: its peer reads too slowly",
            Self::TooLarge => {
                "the message is larger than a send queue takes, or, posted, than half of one"
            }
            Self::NoBuffers => "no buffer is free for the message",
            Self::Busy => "the link's shard has no room for another posted message",
            Self::Gone => "the link is closed",
        })
    }
}

impl std::error::Error for SendError {}

/// The server did not start. Nothing is left behind: no thread, no socket, no memory.
///
/// The text ends with what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is out of its range, or does not fit another one. All such faults at once.
    Settings(Vec<String>),
    /// An address could not be understood or found.
    Address {
        /// What was given.
        given: String,
        /// Why not.
        source: io::Error,
    },
    /// Another program, or another server in this one, listens there.
    AddressInUse(std::net::SocketAddr),
    /// The address is not one of this machine's.
    AddressNotHere(std::net::SocketAddr),
    /// The system lets only privileged programs listen on this port.
    NoPermission(std::net::SocketAddr),
    /// The hard limit for open files is below what the link table needs.
    OpenFiles {
        /// Descriptors needed.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// The machine, or the control group, has less memory than the settings add up to.
    Memory {
        /// Bytes needed.
        needed: u64,
        /// Bytes that are there.
        available: u64,
    },
    /// The system refused memory for the buffers.
    Buffers(wharf_port::memory::MemoryError),
    /// The back end that was asked for is not to be had here.
    BackEnd {
        /// Its name.
        name: String,
        /// Why, with the usual cause.
        reason: String,
    },
    /// A thread could not be started.
    Thread(io::Error),
    /// `on_worker_start` failed.
    Worker(String),
    /// Another system call failed.
    System {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(faults) => write!(f, "settings: {}", faults.join("; ")),
            Self::Address { given, source } => {
                write!(
                    f,
                    "cannot listen on {given:?}: {source}; write it as 127.0.0.1:9527 or [::1]:9527"
                )
            }
            Self::AddressInUse(address) => write!(
                f,
                "{address} is in use by another program; stop that one (ss -ltnp shows it), or \
                 listen on another port"
            ),
            Self::AddressNotHere(address) => write!(
                f,
                "{address} is not an address of this machine; `ip addr` shows those, 0.0.0.0 and \
                 [::] mean all of them"
            ),
            Self::NoPermission(address) => write!(
                f,
                "no permission to listen on {address}; use a port above 1023, or give the program \
                 the capability CAP_NET_BIND_SERVICE"
            ),
            Self::OpenFiles { needed, limit } => write!(
                f,
                "the links need {needed} open files, but the hard limit is {limit}; raise it \
                 (ulimit -Hn, LimitNOFILE=) or ask for fewer links"
            ),
            Self::Memory { needed, available } => write!(
                f,
                "the settings need {needed} bytes of memory, but {available} are available; ask \
                 for fewer links, or fewer or smaller buffers"
            ),
            Self::Buffers(error) => error.fmt(f),
            Self::BackEnd { name, reason } => {
                write!(
                    f,
                    "back end {name} does not work here: {reason}; `auto` takes one that does"
                )
            }
            Self::Thread(source) => write!(
                f,
                "cannot start a thread: {source}; ask for fewer shards, or raise the limit for \
                 processes (ulimit -u, pids.max)"
            ),
            Self::Worker(reason) => write!(f, "on_worker_start failed: {reason}"),
            Self::System { doing, source } => write!(f, "{doing}: {source}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Address { source, .. } | Self::Thread(source) | Self::System { source, .. } => {
                Some(source)
            }
            Self::Buffers(error) => Some(error),
            _ => None,
        }
    }
}
