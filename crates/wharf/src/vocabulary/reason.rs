//! Why a link ends, and whether it stays.

use crate::vocabulary::error::{Error, ErrorKind};
use std::fmt;

/// What happens to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is closed, after what the callback's contract says.
    Close,
    /// It stays.
    Keep,
}

/// Why a link ended. The variants say who ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The peer closed in good order.
    PeerClosed,
    /// The peer's system reset the connection, or the network lost it.
    PeerReset,
    /// The peer sent more than a limit allows, or held borrowed buffers with an incomplete message.
    Limit,
    /// The peer sent nothing for the idle timeout.
    Idle,
    /// The peer took nothing for the stall timeout, held borrowed buffers with unsent output, or
    /// missed a post under [`WhenSlow::Disconnect`](crate::WhenSlow::Disconnect).
    SlowReader,
    /// The handler queued more than there was capacity for, and returned that error.
    OutputFull,
    /// The handler closed it.
    HandlerClosed,
    /// The handler returned an error, or a [`Reply`](crate::Reply) was dropped or never sent.
    HandlerError,
    /// The handler panicked.
    HandlerPanic,
    /// Another link or thread closed it.
    Kicked,
    /// The server is stopping.
    ServerStopping,
    /// The system refused an operation on it.
    SystemError,
}

impl DisconnectReason {
    /// All reasons, in the order in which statistics count them. A slice: its length may grow.
    pub const ALL: &'static [Self] = &[
        Self::PeerClosed,
        Self::PeerReset,
        Self::Limit,
        Self::Idle,
        Self::SlowReader,
        Self::OutputFull,
        Self::HandlerClosed,
        Self::HandlerError,
        Self::HandlerPanic,
        Self::Kicked,
        Self::ServerStopping,
        Self::SystemError,
    ];

    /// A word for logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::PeerReset => "peer_reset",
            Self::Limit => "limit",
            Self::Idle => "idle",
            Self::SlowReader => "slow_reader",
            Self::OutputFull => "output_full",
            Self::HandlerClosed => "handler_closed",
            Self::HandlerError => "handler_error",
            Self::HandlerPanic => "handler_panic",
            Self::Kicked => "kicked",
            Self::ServerStopping => "server_stopping",
            Self::SystemError => "system_error",
        }
    }

    /// What an error that a callback returned means for its link.
    pub(crate) fn of_error(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::OutputFull => Self::OutputFull,
            ErrorKind::Limit => Self::Limit,
            ErrorKind::Handler => Self::HandlerError,
        }
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
