//! The state of one socket.
//!
//! ```text
//!   receive:  Idle ─submit─► Waiting ─packet─► Ready ─bytes─► Idle, or Waiting again
//!                               │                │ pool empty
//!                               │                ▼
//!                               │        WaitingForBuffer ─buffer─► as Ready
//!                               └─ error, cancel ──► Ended ─reported─► Idle
//!   send:     Idle ─submit─► InFlight ─packet─► Ended ─reported─► Idle
//!   accept:   Idle ─submit─► Active ─cancel, error─► Ending ─none left─► Idle
//! ```
//!
//! A kind that is not `Idle` is in flight for the program: its last completion is not dequeued yet.

use super::operations::Started;
use super::socket::{AcceptCalls, OverlappedSocket, is_connection_error};
use crate::port::admission::SocketUse;
use crate::port::bulk::Bulk;
use crate::port::completion::EndReason;
use crate::port::contract::ACCEPT_ABORTS_MAX;
use crate::port::demand::Demand;
use crate::port::error::OsError;
use crate::port::operation::{CompletionMode, Key, Socket};
use crate::port::table::{Entry, SocketTable};
use std::collections::VecDeque;

pub(super) type Table = SocketTable<SocketState>;

/// An associated socket.
pub(super) struct SocketState {
    pub(super) overlapped: OverlappedSocket,
    pub(super) role: Role,
    /// Whether a close was submitted.
    pub(super) closing: bool,
}

pub(super) enum Role {
    Connection(Connection),
    Listener(Listener),
}

/// A connection.
pub(super) struct Connection {
    pub(super) receive: Receive,
    pub(super) send: Send,
    pub(super) bulk: Bulk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receive {
    Idle,
    /// A zero-byte receive is in flight.
    Waiting {
        demand: Demand,
        cancelled: bool,
    },
    /// There may be bytes; the socket is in `ready`.
    Ready(Demand),
    /// There are bytes, but no free buffer; the socket is in `waiting`.
    WaitingForBuffer(Demand),
    Ended(EndReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Send {
    Idle,
    InFlight { cancelled: bool },
    Ended { sent: usize, end: Option<EndReason> },
}

/// A listening socket.
pub(super) struct Listener {
    pub(super) calls: AcceptCalls,
    pub(super) is_ipv6: bool,
    pub(super) accept: Accept,
    /// The most accepts that it may have posted.
    pub(super) accepts_max: u32,
    /// Accepts in a row that have failed with an error of a single connection.
    pub(super) aborts: u32,
    /// Accepts in flight.
    pub(super) posted: u32,
    /// Ended accepts that are not reported yet, with their errors. Its capacity is `accepts_max`.
    pub(super) done: VecDeque<(u32, Option<EndReason>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accept {
    Idle,
    Active(CompletionMode),
    /// No further accepts are posted; when none is in flight the accept ends with this.
    Ending(CompletionMode, EndReason),
}

impl SocketState {
    pub(super) fn usage(&self) -> SocketUse {
        let usage = SocketUse { is_closing: self.closing, ..SocketUse::default() };
        match &self.role {
            Role::Connection(connection) => SocketUse {
                receive_in_flight: connection.receive != Receive::Idle,
                send_in_flight: connection.send != Send::Idle,
                ..usage
            },
            Role::Listener(listener) => SocketUse {
                is_listener: true,
                accept_in_flight: listener.accept != Accept::Idle,
                ..usage
            },
        }
    }

    /// Whether all submitted operations have completed.
    pub(super) fn is_idle(&self) -> bool {
        match &self.role {
            Role::Connection(connection) => {
                connection.receive == Receive::Idle && connection.send == Send::Idle
            }
            Role::Listener(listener) => listener.accept == Accept::Idle && listener.out() == 0,
        }
    }
}

impl Listener {
    /// Whether a failed accept concerned only its connection, so that the next one may be tried at
    /// once; counts it.
    pub(super) fn count_abort(&mut self, error: OsError) -> bool {
        let is_abort = is_connection_error(error.code());
        self.aborts += u32::from(is_abort);
        is_abort && self.aborts <= ACCEPT_ABORTS_MAX
    }

    /// Accepts of the port's table that it uses.
    pub(super) fn out(&self) -> u32 {
        self.posted.saturating_add(u32::try_from(self.done.len()).unwrap_or(u32::MAX))
    }
}

impl Receive {
    /// The state after a zero-byte receive was started. Unless it is `Waiting`, the socket is to be
    /// appended to `ready`.
    pub(super) fn after(started: Started, demand: Demand) -> Self {
        match started {
            Started::Pending => Self::Waiting { demand, cancelled: false },
            Started::Done => Self::Ready(demand),
            Started::Failed(error) => Self::Ended(EndReason::Failed(error)),
        }
    }

    /// The state after a cancel.
    pub(super) fn after_cancel(self) -> Self {
        match self {
            Self::Waiting { demand, .. } => Self::Waiting { demand, cancelled: true },
            Self::Ready(_) | Self::WaitingForBuffer(_) => Self::Ended(EndReason::Cancelled),
            Self::Idle | Self::Ended(_) => self,
        }
    }
}

/// The connection with this handle, unless it is stale or a listener.
pub(super) fn connection_mut(
    table: &mut Table,
    socket: Socket,
) -> Option<(Key, &OverlappedSocket, &mut Connection)> {
    match table.get_mut(socket)? {
        Entry {
            key,
            state: SocketState { overlapped, role: Role::Connection(connection), .. },
        } => Some((*key, overlapped, connection)),
        Entry { state: SocketState { role: Role::Listener(_), .. }, .. } => None,
    }
}

/// The listener with this handle, unless it is stale or a connection.
pub(super) fn listener_mut(
    table: &mut Table,
    socket: Socket,
) -> Option<(Key, &OverlappedSocket, &mut Listener)> {
    match table.get_mut(socket)? {
        Entry { key, state: SocketState { overlapped, role: Role::Listener(listener), .. } } => {
            Some((*key, overlapped, listener))
        }
        Entry { state: SocketState { role: Role::Connection(_), .. }, .. } => None,
    }
}
