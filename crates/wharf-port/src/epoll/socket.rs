//! The state of one socket: its operations, and the events that were recorded.

use super::calls::{self, SendProgress};
use crate::linux::{self, Peek};
use crate::memory::buffer::Buffer;
use crate::memory::chain::Chain;
use crate::memory::pool::BufferPool;
use crate::port::admission::SocketUse;
use crate::port::bulk::Bulk;
use crate::port::completion::{EndReason, Outcome};
use crate::port::demand::Demand;
use crate::port::operation::{CompletionMode, OperationKind, Socket};
use rustix::event::epoll::EventFlags;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::collections::VecDeque;

/// The state of a socket. An operation stays here until its last completion is dequeued.
#[derive(Debug)]
pub(super) struct SocketState {
    pub(super) fd: OwnedFd,
    pub(super) role: Role,
    /// The receive, or a listener's accept.
    pub(super) input: InputOperation,
    pub(super) send: Option<SendOperation>,
    pub(super) bulk: Bulk,
    pub(super) closing: bool,
    /// There may be bytes to receive or connections to accept.
    pub(super) readable: bool,
    /// After a receive that did not fill its buffer there may be more: the end or an error of the
    /// stream, which no further edge reports, or bytes after an urgent one, at which recv stops. So
    /// the socket is read until EAGAIN.
    pub(super) read_to_eagain: bool,
    /// The socket may take more bytes. Only valid while a send is in flight.
    pub(super) writable: bool,
    /// The socket is in the ready queue.
    pub(super) queued: bool,
}

/// The kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Connection,
    Listener,
}

/// The state of a receive or an accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InputOperation {
    /// None is in flight.
    Idle,
    /// It waits for bytes or a connection.
    Armed(Demand),
    /// There are bytes, and it waits for a buffer.
    WaitingForBuffer(Demand),
    /// It was cancelled, and its completion is not dequeued yet.
    Cancelled,
}

/// The send in flight.
#[derive(Debug)]
pub(super) struct SendOperation {
    pub(super) chain: Chain,
    pub(super) sent: usize,
    /// How it ended; `Some` until its completion is dequeued.
    pub(super) end: Option<SendEnd>,
}

/// How a send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendEnd {
    Sent,
    Cancelled,
    Failed(Errno),
}

impl SocketState {
    pub(super) fn new(fd: OwnedFd, role: Role) -> Self {
        // EPOLL_CTL_ADD reports the current state as the first event.
        Self {
            fd,
            role,
            input: InputOperation::Idle,
            send: None,
            bulk: Bulk::default(),
            closing: false,
            readable: false,
            read_to_eagain: false,
            writable: false,
            queued: false,
        }
    }

    /// Records an event.
    pub(super) fn record_events(&mut self, events: EventFlags) {
        self.readable |= events.intersects(EventFlags::IN.union(READ_TO_EAGAIN));
        self.read_to_eagain |= events.intersects(READ_TO_EAGAIN);
        self.writable |= events.intersects(WRITE);
    }

    /// Whether `process_socket` would make progress.
    fn has_work(&self) -> bool {
        let has_input = match self.input {
            InputOperation::Idle | InputOperation::WaitingForBuffer(_) => false,
            InputOperation::Armed(demand) => {
                self.readable || demand.mode == CompletionMode::IfReady
            }
            InputOperation::Cancelled => true,
        };
        has_input
            || self.closing
            || self.send.as_ref().is_some_and(|send| send.end.is_some() || self.writable)
    }

    /// Whether the socket is to be closed and no operation is left.
    pub(super) fn is_over(&self) -> bool {
        self.closing && self.input == InputOperation::Idle && self.send.is_none()
    }

    /// Appends the socket to the ready queue, if it has work and is not there.
    pub(super) fn queue_if_busy(&mut self, socket: Socket, ready: &mut VecDeque<Socket>) {
        if !self.queued && self.has_work() {
            self.queued = true;
            ready.push_back(socket);
        }
    }

    /// Cancels the operations in flight, after which the socket is closed.
    pub(super) fn close(&mut self) {
        self.cancel(self.role.input_kind());
        self.cancel(OperationKind::Send);
        self.closing = true;
    }

    /// Sends the rest of the chain, as much as the socket takes now.
    pub(super) fn send_rest(&mut self) {
        let Some(send) = self.send.as_mut().filter(|send| send.end.is_none()) else { return };
        match calls::send(&self.fd, &send.chain, &mut send.sent) {
            SendProgress::Complete => send.finish(SendEnd::Sent),
            SendProgress::Failed(errno) => send.finish(SendEnd::Failed(errno)),
            SendProgress::WouldBlock => self.writable = false,
            SendProgress::Yielded => self.writable = true,
        }
    }

    /// Receives once, into `buffer`; `None` if there were no bytes and the receive stays in flight.
    pub(super) fn receive<S, T>(
        &mut self,
        mut demand: Demand,
        mut buffer: Buffer,
        pool: &BufferPool,
    ) -> Option<Outcome<S, T>> {
        let len_max = demand.len_max(buffer.capacity());
        match calls::recv(&self.fd, &mut buffer, len_max) {
            Ok(0) => Some(self.end_receive(EndReason::PeerClosed)),
            Ok(len) => {
                // After a full read there may be more bytes. After a shorter one the socket was
                // empty, and later bytes are a new event (epoll(7), question 9).
                self.readable = self.read_to_eagain || len == len_max;
                self.bulk.record(len, pool);
                let last = demand.received(len);
                self.input =
                    if last { InputOperation::Idle } else { InputOperation::Armed(demand) };
                Some(Outcome::Received { buffer, last })
            }
            Err(Errno::AGAIN) => self.found_nothing(demand),
            Err(errno) => Some(self.end_receive(EndReason::Failed(calls::error("recv", errno)))),
        }
    }

    /// Completes a zero-byte receive; `None` if it stays in flight.
    pub(super) fn peek<S, T>(&mut self, demand: Demand) -> Option<Outcome<S, T>> {
        match linux::peek(&self.fd) {
            Peek::Bytes => Some(self.end_receive(EndReason::Readable)),
            Peek::Ended(end) => Some(self.end_receive(end)),
            Peek::Nothing => self.found_nothing(demand),
        }
    }

    /// The socket is empty: later bytes are a new event.
    fn found_nothing<S, T>(&mut self, demand: Demand) -> Option<Outcome<S, T>> {
        (self.readable, self.read_to_eagain) = (false, false);
        self.input = InputOperation::Armed(demand);
        (demand.mode == CompletionMode::IfReady).then(|| self.end_receive(EndReason::NotReady))
    }

    pub(super) fn usage(&self) -> SocketUse {
        let is_listener = self.role == Role::Listener;
        SocketUse {
            is_listener,
            is_closing: self.closing,
            accept_in_flight: is_listener && self.is_taking(),
            receive_in_flight: !is_listener && self.is_taking(),
            send_in_flight: self.send.is_some(),
        }
    }

    /// Whether a receive or an accept is in flight.
    fn is_taking(&self) -> bool {
        self.input != InputOperation::Idle
    }

    /// Cancels the operation of this kind, if one is in flight; `process_socket` completes it.
    pub(super) fn cancel(&mut self, kind: OperationKind) {
        match kind {
            OperationKind::Receive | OperationKind::Accept => {
                if kind == self.role.input_kind()
                    && let InputOperation::Armed(_) | InputOperation::WaitingForBuffer(_) =
                        self.input
                {
                    self.input = InputOperation::Cancelled;
                }
            }
            OperationKind::Send => {
                if let Some(send) = self.send.as_mut().filter(|send| send.end.is_none()) {
                    send.finish(SendEnd::Cancelled);
                }
            }
            OperationKind::Close => {}
        }
    }

    fn end_receive<S, T>(&mut self, end: EndReason) -> Outcome<S, T> {
        self.input = InputOperation::Idle;
        // No further event reports the end of the stream, and the next receive must find it.
        self.readable = end != EndReason::NotReady;
        Outcome::ReceiveEnded(end)
    }
}

impl Role {
    /// The registered events. The kernel adds EPOLLERR and EPOLLHUP.
    pub(super) fn watched_events(self) -> EventFlags {
        match self {
            Self::Connection => {
                EventFlags::IN
                    | EventFlags::OUT
                    | EventFlags::RDHUP
                    | EventFlags::PRI
                    | EventFlags::ET
            }
            Self::Listener => EventFlags::IN | EventFlags::ET,
        }
    }

    pub(super) fn input_kind(self) -> OperationKind {
        match self {
            Self::Connection => OperationKind::Receive,
            Self::Listener => OperationKind::Accept,
        }
    }

    pub(super) fn input_cancelled<S, T>(self) -> Outcome<S, T> {
        match self {
            Self::Connection => Outcome::ReceiveEnded(EndReason::Cancelled),
            Self::Listener => Outcome::AcceptEnded(EndReason::Cancelled),
        }
    }
}

impl SendOperation {
    pub(super) fn new(chain: Chain) -> Self {
        Self { chain, sent: 0, end: None }
    }

    fn finish(&mut self, end: SendEnd) {
        assert!(self.end.is_none(), "a send ends once");
        self.end = Some(end);
    }
}

/// After these events a receive that did not fill its buffer is not the last one.
const READ_TO_EAGAIN: EventFlags =
    EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR).union(EventFlags::PRI);

/// After these events a send is tried again, also to get its error.
const WRITE: EventFlags = EventFlags::OUT.union(EventFlags::HUP).union(EventFlags::ERR);
