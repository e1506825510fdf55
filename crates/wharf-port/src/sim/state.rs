//! The state of a socket: its operations in flight, and the form of ready completions.

use super::connection::ConnId;
use crate::memory::buffer::Buffer;
use crate::memory::chain::Chain;
use crate::port::admission::SocketUse;
use crate::port::bulk::Bulk;
use crate::port::completion::EndReason;
use crate::port::operation::{CompletionMode, Key, OperationKind, Socket};
use std::net::SocketAddr;

/// An associated socket.
#[derive(Debug)]
pub(super) struct SocketState {
    pub(super) end: SocketEnd,
    pub(super) accept: Option<AcceptOperation>,
    pub(super) receive: Option<ReceiveOperation>,
    pub(super) bulk: Bulk,
    pub(super) send: Option<SendOperation>,
    /// The kinds of operations whose last completion is ready and not dequeued, one bit each.
    pub(super) undelivered: u8,
    pub(super) closing: bool,
    /// The last step of the close is due or scheduled.
    pub(super) finishing: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum SocketEnd {
    Conn(ConnId),
    Listener(Socket),
}

/// A completion that is not dequeued yet.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) socket: Socket,
    pub(super) key: Key,
    pub(super) completed: Completed,
}

#[derive(Debug)]
pub(super) enum Completed {
    Accepted { conn: ConnId, peer: SocketAddr, last: bool },
    AcceptEnded(EndReason),
    Received { buffer: Buffer, last: bool },
    ReceiveEnded(EndReason),
    Sent { chain: Chain, sent: usize, end: Option<EndReason> },
    Closed,
}

#[derive(Debug)]
pub(super) struct AcceptOperation {
    pub(super) mode: CompletionMode,
    pub(super) cancelled: bool,
}

#[derive(Debug)]
pub(super) struct ReceiveOperation {
    pub(super) mode: CompletionMode,
    pub(super) bytes_max: u32,
    /// Bytes that the receive may still take.
    pub(super) bytes_left: u32,
    pub(super) cancelled: bool,
    pub(super) stage: Stage,
}

#[derive(Debug)]
pub(super) enum Stage {
    Waiting,
    /// In `waiting`.
    WaitingForBuffer,
    Filling(Buffer),
}

impl ReceiveOperation {
    /// Whether this is a receive of 0 bytes (INV-PORT-9).
    pub(super) fn is_zero_byte(&self) -> bool {
        self.bytes_max == 0
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.bytes_left == 0
    }
}

#[derive(Debug)]
pub(super) struct SendOperation {
    pub(super) chain: Chain,
    pub(super) cancelled: bool,
    /// Bytes of the chain that were sent.
    pub(super) sent: usize,
    /// The send's result, once it is decided; the completion follows.
    pub(super) settled: Option<Option<EndReason>>,
}

impl SocketState {
    pub(super) fn new(end: SocketEnd) -> Self {
        Self {
            end,
            accept: None,
            receive: None,
            bulk: Bulk::default(),
            send: None,
            undelivered: 0,
            closing: false,
            finishing: false,
        }
    }

    /// The state for [`check_submit`](crate::port::admission::check_submit).
    pub(super) fn usage(&self) -> SocketUse {
        let is_undelivered = |kind| self.undelivered & (1 << kind as u8) != 0;
        SocketUse {
            is_listener: matches!(self.end, SocketEnd::Listener(_)),
            is_closing: self.closing,
            accept_in_flight: self.accept.is_some() || is_undelivered(OperationKind::Accept),
            receive_in_flight: self.receive.is_some() || is_undelivered(OperationKind::Receive),
            send_in_flight: self.send.is_some() || is_undelivered(OperationKind::Send),
        }
    }
}

impl Completed {
    /// Whether this is its operation's last completion.
    pub(super) fn is_last(&self) -> bool {
        match self {
            Self::Accepted { last, .. } | Self::Received { last, .. } => *last,
            Self::AcceptEnded(_) | Self::ReceiveEnded(_) | Self::Sent { .. } | Self::Closed => true,
        }
    }

    /// The bit of its kind in [`SocketState::undelivered`].
    pub(super) fn bit(&self) -> u8 {
        1 << self.kind() as u8
    }

    pub(super) fn kind(&self) -> OperationKind {
        match self {
            Self::Accepted { .. } | Self::AcceptEnded(_) => OperationKind::Accept,
            Self::Received { .. } | Self::ReceiveEnded(_) => OperationKind::Receive,
            Self::Sent { .. } => OperationKind::Send,
            Self::Closed => OperationKind::Close,
        }
    }
}
