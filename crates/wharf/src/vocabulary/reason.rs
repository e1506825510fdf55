//! The reasons for the end of a link, and the verdicts of callbacks.

use crate::vocabulary::error::{Error, ErrorKind};
use std::fmt;

/// The result of `on_end`, `on_idle` and `on_drain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The link closes, when the conditions that the callback names are met.
    Close,
    /// The link stays open.
    Keep,
}

/// Why a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The peer ended its stream.
    PeerClosed,
    /// The peer's system reset the connection, or the network failed.
    PeerReset,
    /// A message exceeded a limit ([`TooLong`](crate::TooLong)), or the link held borrowed buffers with
    /// unread input while others waited ([`Builder::loan_wait`](crate::Builder::loan_wait)).
    Limit,
    /// The peer sent nothing for the idle timeout.
    Idle,
    /// The peer took nothing for the stall timeout, held borrowed buffers with unsent output or posted
    /// messages while others lacked buffers, or missed a post under
    /// [`WhenSlow::Disconnect`](crate::WhenSlow::Disconnect).
    SlowReader,
    /// The handler returned [`SendError::Full`](crate::SendError::Full).
    OutputFull,
    /// The handler closed or aborted the link, or sent a last reply
    /// ([`Reply::close`](crate::Reply::close)).
    HandlerClosed,
    /// The handler returned another error, or a [`Reply`](crate::Reply) was dropped, too long, or not
    /// sent within the answer timeout.
    HandlerError,
    /// The handler panicked.
    HandlerPanic,
    /// [`Recipients::close`](crate::Recipients::close) or [`abort`](crate::Recipients::abort) closed
    /// the link.
    Kicked,
    /// The server is stopping.
    ServerStopping,
    /// A system call on the link failed.
    SystemError,
}

impl DisconnectReason {
    /// All reasons; more may be added.
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

    /// A name for logs and metrics, such as `peer_closed`.
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

    /// The reason for an error that a callback returned.
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
