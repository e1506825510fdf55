//! One seat: a port, the completions that were dequeued and not taken, and the sockets' keys.

use super::seats::Content;
use super::values::{
    Held, SharedCompletion, SharedOperation, SharedOutcome, SharedSocket, SharedSubmitError,
    SharedSubmitErrorKind,
};
use crate::memory::chain::Chain;
use crate::memory::message::Message;
use crate::port::completion::{Completion, Outcome};
use crate::port::contract::{Completions, Port};
use crate::port::error::PortError;
use crate::port::operation::{
    AssociateError, CompletionMode, Key, Operation, OperationKind, Socket,
};
use crate::port::seat::MovablePort;
use crate::port::seat::SeatPort;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A packet in the inbox of a seat's port: the program's, or a call for the thread that has the seat.
pub(crate) enum Command<T, S, L> {
    Packet(T),
    Associate(S, Key),
    AssociateListener(L, Key),
    Submit(SharedSocket, Request),
    Cancel(SharedSocket, OperationKind),
    Shutdown(SharedSocket),
    ResetOnClose(SharedSocket),
}

/// An operation that any thread can carry.
pub(crate) enum Request {
    Accept(CompletionMode),
    Receive { mode: CompletionMode, bytes_max: u32 },
    Send(Message),
    Close,
}

/// A port whose packets are commands.
pub(crate) trait CommandPort<T: Send>:
    SeatPort<Packet = Command<T, <Self as Port>::Stream, <Self as Port>::Listener>>
{
}

impl<T: Send, P> CommandPort<T> for P where
    P: SeatPort<Packet = Command<T, <P as Port>::Stream, <P as Port>::Listener>>
{
}

/// The completion that a thread takes.
pub(super) type Taken<'s, T, P> =
    SharedCompletion<'s, T, <P as Port>::Stream, <P as Port>::Listener>;

/// Completions of one dequeue. Between two dequeues a thread that returns from blocking waits for
/// the seat, so it is smaller than what a port can deliver at once.
const COMPLETIONS_MAX: usize = 128;

/// The content of a seat. The cell is for a worker's methods on shared references, by which it keeps
/// what it has of the pool borrowed.
pub(super) struct Seat<P: Port> {
    index: u32,
    inner: RefCell<Inner<P>>,
}

pub(super) struct Inner<P: Port> {
    /// The seat's.
    index: u32,
    pub(super) port: P,
    /// Those of the last dequeue.
    completions: Completions<P>,
    /// How many of them were taken.
    taken: usize,
    rows: Vec<Row>,
    free_rows: Vec<u32>,
}

/// A socket of the port: its handle and its key. The row's number is the key in the port.
#[derive(Clone, Copy)]
struct Row {
    socket: Option<Socket>,
    key: Key,
}

// SAFETY: a seat contains its port, the only handles to that port's pool, and all buffers and chains
// of the pool, except those that borrow the worker that has the seat (`Held`), and a seat is taken
// from its worker only by `&mut`. The port may then move (`MovablePort`). What else is in it is
// `Send`: connections, listeners and packets by the bounds of `Port`, numbers. A seat moves through
// a mutex, so what its last thread did happens before what the next one does.
unsafe impl<P: MovablePort> Send for Seat<P> {}

impl<P: SeatPort> Seat<P> {
    pub(super) fn new(index: u32, port: P, sockets_max: u32) -> Self {
        let row = Row { socket: None, key: Key(0) };
        let inner = Inner {
            index,
            port,
            completions: Vec::with_capacity(COMPLETIONS_MAX),
            taken: 0,
            rows: vec![row; sockets_max as usize],
            free_rows: (0..sockets_max).rev().collect(),
        };
        Self { index, inner: RefCell::new(inner) }
    }

    pub(super) fn inner(&self) -> &RefCell<Inner<P>> {
        &self.inner
    }

    pub(super) fn port_mut(&mut self) -> &mut P {
        &mut self.inner.get_mut().port
    }

    /// Dequeues; called when all completions were taken.
    pub(super) fn dequeue(&mut self, timeout: Option<Duration>) -> Result<(), PortError> {
        let Inner { port, completions, taken, .. } = self.inner.get_mut();
        completions.clear();
        *taken = 0;
        port.dequeue(completions, timeout)
    }

    /// Its number.
    pub(super) fn number(&self) -> u32 {
        self.index
    }
}

impl<P: SeatPort> Content for Box<Seat<P>> {
    fn index(&self) -> usize {
        self.index as usize
    }

    fn has_completions(&self) -> bool {
        let inner = self.inner.borrow();
        inner.taken < inner.completions.len()
    }

    fn poll(&mut self) -> Result<bool, PortError> {
        if !self.has_completions() {
            self.dequeue(Some(Duration::ZERO))?;
        }
        Ok(self.has_completions())
    }

    fn prepare_wait(&mut self) -> Result<bool, PortError> {
        self.port_mut().prepare_wait()
    }

    fn end_wait(&mut self) {
        self.port_mut().end_wait();
    }
}

impl<P: SeatPort> Inner<P> {
    /// The next completion, after the commands before it. `sockets` counts the seat's sockets.
    pub(super) fn take<'s, T: Send>(&mut self, sockets: &AtomicU32) -> Option<Taken<'s, T, P>>
    where
        P: CommandPort<T>,
    {
        loop {
            // What is left in the vector has nothing to drop.
            let nothing = Completion { key: Key(0), outcome: Outcome::Closed };
            let completion = std::mem::replace(self.completions.get_mut(self.taken)?, nothing);
            self.taken += 1;
            let Completion { key, outcome } = completion;
            if let Outcome::Posted(command) = outcome {
                if let Some(taken) = self.handle_command(command, sockets) {
                    return Some(taken);
                }
                continue;
            }
            let row = u32::try_from(key.0).unwrap_or(u32::MAX);
            let Row { socket, key } = self.rows[row as usize];
            let socket = socket.map(|socket| SharedSocket { seat: self.index, row, socket });
            let outcome = match outcome {
                Outcome::Accepted { stream, peer, last } => {
                    SharedOutcome::Accepted { stream, peer, last }
                }
                Outcome::AcceptEnded(end) => SharedOutcome::AcceptEnded(end),
                Outcome::Received { buffer, last } => {
                    SharedOutcome::Received { buffer: Held::new(buffer), last }
                }
                Outcome::ReceiveEnded(end) => SharedOutcome::ReceiveEnded(end),
                Outcome::Sent { chain, sent, end } => {
                    SharedOutcome::Sent { chain: Held::new(chain), sent, end }
                }
                Outcome::Closed => {
                    self.free_row(row, sockets);
                    SharedOutcome::Closed
                }
                Outcome::Posted(_) => unreachable!("handled above"),
            };
            return Some(SharedCompletion { socket, key, outcome });
        }
    }

    /// Executes a call of a thread that does not have this seat; the completion that it makes.
    fn handle_command<'s, T: Send>(
        &mut self,
        command: P::Packet,
        sockets: &AtomicU32,
    ) -> Option<Taken<'s, T, P>>
    where
        P: CommandPort<T>,
    {
        match command {
            Command::Packet(packet) => {
                let outcome = SharedOutcome::Posted(packet);
                return Some(SharedCompletion { socket: None, key: Key(0), outcome });
            }
            Command::Associate(stream, key) => {
                let outcome = SharedOutcome::AssociateFailed;
                let associate = |port: &mut P, stream, row| port.associate(stream, row);
                return Some(self.associate((stream, key), sockets, outcome, associate));
            }
            Command::AssociateListener(listener, key) => {
                let outcome = SharedOutcome::ListenerFailed;
                let associate =
                    |port: &mut P, listener, row| port.associate_listener(listener, row);
                return Some(self.associate((listener, key), sockets, outcome, associate));
            }
            Command::Submit(socket, request) => return self.submit_request(socket, request),
            Command::Cancel(socket, kind) => self.port.cancel(socket.socket, kind),
            Command::Shutdown(socket) => self.port.shutdown(socket.socket),
            Command::ResetOnClose(socket) => self.port.reset_on_close(socket.socket),
        }
        None
    }

    fn associate<'s, T: Send, S>(
        &mut self,
        (socket, key): (S, Key),
        sockets: &AtomicU32,
        failed: impl FnOnce(AssociateError<S>) -> SharedOutcome<'s, T, P::Stream, P::Listener>,
        associate: impl FnOnce(&mut P, S, Key) -> Result<Socket, AssociateError<S>>,
    ) -> Taken<'s, T, P>
    where
        P: CommandPort<T>,
    {
        // The port can have a free slot without a free row: the slot is free when the close completes,
        // the row when that completion is taken.
        let associated = match self.free_rows.last().copied() {
            Some(row) => {
                associate(&mut self.port, socket, Key(row.into())).map(|socket| (row, socket))
            }
            None => Err(AssociateError { socket, error: None }),
        };
        match associated {
            Ok((row, socket)) => {
                self.free_rows.pop();
                self.rows[row as usize] = Row { socket: Some(socket), key };
                let socket = Some(SharedSocket { seat: self.index, row, socket });
                SharedCompletion { socket, key, outcome: SharedOutcome::Associated }
            }
            Err(error) => {
                // Relaxed: the count only decides which seat gets the next socket.
                sockets.fetch_sub(1, Ordering::Relaxed);
                SharedCompletion { socket: None, key, outcome: failed(error) }
            }
        }
    }

    fn free_row(&mut self, row: u32, sockets: &AtomicU32) {
        self.rows[row as usize].socket = None;
        self.free_rows.push(row);
        // Relaxed: as in `associate`.
        sockets.fetch_sub(1, Ordering::Relaxed);
    }

    /// Submits an operation of another thread. A refused one completes as such, unless its socket
    /// was closed: nothing follows that completion.
    fn submit_request<'s, T: Send>(
        &mut self,
        socket: SharedSocket,
        request: Request,
    ) -> Option<Taken<'s, T, P>>
    where
        P: CommandPort<T>,
    {
        let Row { socket: live, key } = *self.rows.get(socket.row as usize)?;
        if live != Some(socket.socket) {
            return None;
        }
        let operation = match request {
            Request::Accept(mode) => SharedOperation::Accept(mode),
            Request::Receive { mode, bytes_max } => SharedOperation::Receive { mode, bytes_max },
            Request::Send(message) => SharedOperation::SendMessage(message),
            Request::Close => SharedOperation::Close,
        };
        let SharedSubmitError { kind, operation } = self.submit(socket, operation).err()?;
        let outcome = SharedOutcome::Refused { operation: operation.kind(), kind };
        Some(SharedCompletion { socket: Some(socket), key, outcome })
    }

    /// Submits an operation on a socket of this seat.
    pub(super) fn submit<'s>(
        &mut self,
        socket: SharedSocket,
        operation: SharedOperation<'s>,
    ) -> Result<(), SharedSubmitError<'s>> {
        let operation = match operation {
            SharedOperation::Accept(mode) => Operation::Accept(mode),
            SharedOperation::Receive { mode, bytes_max } => Operation::Receive { mode, bytes_max },
            SharedOperation::Close => Operation::Close,
            SharedOperation::Send(chain) if !chain.value.is_of(self.port.pool()) => {
                let (kind, operation) =
                    (SharedSubmitErrorKind::OtherSeat, SharedOperation::Send(chain));
                return Err(SharedSubmitError { kind, operation });
            }
            SharedOperation::Send(chain) => Operation::Send(chain.value),
            SharedOperation::SendMessage(message) => {
                let mut chain = Chain::new();
                if let Err(message) = chain.push_message(self.port.pool(), message) {
                    let operation = SharedOperation::SendMessage(message);
                    let kind = SharedSubmitErrorKind::NoEntry;
                    return Err(SharedSubmitError { kind, operation });
                }
                Operation::Send(chain)
            }
        };
        self.port.submit(socket.socket, operation).map_err(|error| {
            let operation = match error.operation {
                Operation::Accept(mode) => SharedOperation::Accept(mode),
                Operation::Receive { mode, bytes_max } => {
                    SharedOperation::Receive { mode, bytes_max }
                }
                Operation::Send(chain) => SharedOperation::Send(Held::new(chain)),
                Operation::Close => SharedOperation::Close,
            };
            SharedSubmitError { kind: SharedSubmitErrorKind::Refused(error.kind), operation }
        })
    }
}
