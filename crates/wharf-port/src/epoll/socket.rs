//! What the port knows of one socket: its operations, and what the edges have said.

use super::calls::{self, SendProgress};
use crate::linux::{self, Peek};
use crate::memory::{Buffer, BufferPool, Chain};
use crate::port::{Bulk, Demand, End, OperationKind, Outcome, Shots, Socket, SocketUse};
use rustix::event::epoll::EventFlags;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::collections::VecDeque;

/// One place's content. An operation stays here until its last completion is handed over.
#[derive(Debug)]
pub(super) struct SocketState {
    pub(super) fd: OwnedFd,
    pub(super) role: Role,
    /// The receive, or a listener's accept.
    pub(super) input: InputOperation,
    pub(super) send: Option<SendOperation>,
    pub(super) bulk: Bulk,
    pub(super) closing: bool,
    /// The socket may have something to receive or to accept.
    pub(super) readable: bool,
    /// The socket may have more after a receive that did not fill its buffer: the end or an error
    /// of the stream, which no further edge will tell, or bytes behind an urgent one, where recv
    /// stops. So it is read until it says that it is empty.
    pub(super) read_to_eagain: bool,
    /// The socket may take more bytes. Means something only while a send waits.
    pub(super) writable: bool,
    /// It stands in the ready queue.
    pub(super) queued: bool,
}

/// What the socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Connection,
    Listener,
}

/// The operation that takes something from the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InputOperation {
    /// None is in flight.
    Idle,
    /// It waits for something to take.
    Armed(Demand),
    /// It has something to take, and waits for a buffer.
    WaitingForBuffer(Demand),
    /// It was cancelled, and its completion waits to be dequeued.
    Cancelled,
}

/// The send in flight.
#[derive(Debug)]
pub(super) struct SendOperation {
    pub(super) chain: Chain,
    pub(super) sent: usize,
    /// How it went, if it is over; then its completion waits to be dequeued.
    pub(super) end: Option<SendEnd>,
}

/// How a send went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendEnd {
    Sent,
    Cancelled,
    Failed(Errno),
}

impl SocketState {
    pub(super) fn new(fd: OwnedFd, role: Role) -> Self {
        // What is there already comes as the first edge: EPOLL_CTL_ADD looks at the socket.
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

    /// Notes what an edge said.
    pub(super) fn record_events(&mut self, events: EventFlags) {
        self.readable |= events.intersects(EventFlags::IN.union(READ_TO_EAGAIN));
        self.read_to_eagain |= events.intersects(READ_TO_EAGAIN);
        self.writable |= events.intersects(WRITE);
    }

    /// Whether a visit would do something.
    fn has_work(&self) -> bool {
        let has_input = match self.input {
            InputOperation::Idle | InputOperation::WaitingForBuffer(_) => false,
            InputOperation::Armed(demand) => self.readable || demand.shots == Shots::IfReady,
            InputOperation::Cancelled => true,
        };
        has_input
            || self.closing
            || self.send.as_ref().is_some_and(|send| send.end.is_some() || self.writable)
    }

    /// Whether nothing is left to do but to close it.
    pub(super) fn is_over(&self) -> bool {
        self.closing && self.input == InputOperation::Idle && self.send.is_none()
    }

    /// Has the socket visited at the next dequeue, if it has something to do.
    pub(super) fn queue_if_busy(&mut self, socket: Socket, ready: &mut VecDeque<Socket>) {
        if !self.queued && self.has_work() {
            self.queued = true;
            ready.push_back(socket);
        }
    }

    /// Ends all that is in flight; then the socket is closed.
    pub(super) fn close(&mut self) {
        self.cancel(self.role.input_kind());
        self.cancel(OperationKind::Send);
        self.closing = true;
    }

    /// Sends what is left of the chain, as far as the socket takes it now.
    pub(super) fn send_rest(&mut self) {
        let Some(send) = self.send.as_mut().filter(|send| send.end.is_none()) else { return };
        match calls::send(&self.fd, &send.chain, &mut send.sent) {
            SendProgress::Complete => send.finish(SendEnd::Sent),
            SendProgress::Failed(errno) => send.finish(SendEnd::Failed(errno)),
            SendProgress::WouldBlock => self.writable = false,
            SendProgress::Yielded => self.writable = true,
        }
    }

    /// Receives once, into `buffer`; `None` if there was nothing and the receive goes on.
    pub(super) fn receive<S, T>(
        &mut self,
        mut demand: Demand,
        mut buffer: Buffer,
        pool: &BufferPool,
    ) -> Option<Outcome<S, T>> {
        let len_max = demand.len_max(buffer.capacity());
        match calls::recv(&self.fd, &mut buffer, len_max) {
            Ok(0) => Some(self.end_receive(End::PeerClosed)),
            Ok(len) => {
                // All that was asked for says nothing about what is behind it. Less than that was
                // all there was, and what comes later is an edge of its own (epoll(7), question 9).
                self.readable = self.read_to_eagain || len == len_max;
                self.bulk.record(len, pool);
                let last = demand.received(len);
                self.input =
                    if last { InputOperation::Idle } else { InputOperation::Armed(demand) };
                Some(Outcome::Received { buffer, last })
            }
            Err(Errno::AGAIN) => self.found_nothing(demand),
            Err(errno) => Some(self.end_receive(End::Failed(calls::error("recv", errno)))),
        }
    }

    /// Answers a receive of no bytes; `None` if it goes on.
    pub(super) fn peek<S, T>(&mut self, demand: Demand) -> Option<Outcome<S, T>> {
        match linux::peek(&self.fd) {
            Peek::Bytes => Some(self.end_receive(End::Readable)),
            Peek::Ended(end) => Some(self.end_receive(end)),
            Peek::Nothing => self.found_nothing(demand),
        }
    }

    /// The socket is empty: what comes next is an edge.
    fn found_nothing<S, T>(&mut self, demand: Demand) -> Option<Outcome<S, T>> {
        (self.readable, self.read_to_eagain) = (false, false);
        self.input = InputOperation::Armed(demand);
        (demand.shots == Shots::IfReady).then(|| self.end_receive(End::NotReady))
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

    /// Ends the operation of this kind, if one is in flight; its completion comes with a visit.
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

    fn end_receive<S, T>(&mut self, end: End) -> Outcome<S, T> {
        self.input = InputOperation::Idle;
        // What ended the stream tells no further edge, and the next receive shall meet it, too.
        self.readable = end != End::NotReady;
        Outcome::ReceiveEnded(end)
    }
}

impl Role {
    /// What epoll is asked for. The kernel adds EPOLLERR and EPOLLHUP.
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
            Self::Connection => Outcome::ReceiveEnded(End::Cancelled),
            Self::Listener => Outcome::AcceptEnded(End::Cancelled),
        }
    }
}

impl SendOperation {
    pub(super) fn new(chain: Chain) -> Self {
        Self { chain, sent: 0, end: None }
    }

    fn finish(&mut self, end: SendEnd) {
        debug_assert!(self.end.is_none(), "a send ends once");
        self.end = Some(end);
    }
}

/// After these a short receive is not the last one.
const READ_TO_EAGAIN: EventFlags =
    EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR).union(EventFlags::PRI);

/// After these a send is tried again, if only to learn its error.
const WRITE: EventFlags = EventFlags::OUT.union(EventFlags::HUP).union(EventFlags::ERR);
