//! The port's entrance: sockets and operations are checked and noted; the next dequeue hands them
//! to the kernel, as on io_uring.

use super::accept::AcceptOperation;
use super::dequeue::SimPort;
use super::events::{Notice, Step};
use super::kernel::{SocketEnd, SocketState};
use super::receive::{ReceiveOperation, Stage};
use super::send::SendOperation;
use super::{SimListener, SimStream};
use crate::memory::Owner;
use crate::port::{
    Key, Operation, OperationKind, Refused, Shots, Socket, SubmitError, SubmitErrorKind,
};

impl<T: Send> SimPort<T> {
    pub(super) fn associate_stream(
        &mut self,
        mut stream: SimStream,
        key: Key,
    ) -> Result<Socket, Refused<SimStream>> {
        if self.kernel.sockets.is_full() {
            return Err(Refused { socket: stream, error: None });
        }
        let Some(conn) = stream.take() else {
            return Err(Refused { socket: stream, error: None });
        };
        let state = SocketState::new(SocketEnd::Conn(conn));
        match self.kernel.sockets.insert(key, state) {
            Some(socket) => {
                let mut core = self.world.lock();
                core.hold(conn, self.kernel.port, socket);
                core.harass(conn);
                Ok(socket)
            }
            None => Err(Refused { socket: SimStream::new(self.world.clone(), conn), error: None }),
        }
    }

    pub(super) fn associate_listening(
        &mut self,
        mut listener: SimListener,
        key: Key,
    ) -> Result<Socket, Refused<SimListener>> {
        if self.kernel.sockets.is_full() {
            return Err(Refused { socket: listener, error: None });
        }
        let address = listener.address();
        let Some(id) = listener.take() else {
            return Err(Refused { socket: listener, error: None });
        };
        match self.kernel.sockets.insert(key, SocketState::new(SocketEnd::Listener(id))) {
            Some(socket) => {
                let mut core = self.world.lock();
                if let Some(entry) = core.listeners.get_mut(id) {
                    entry.state.holder = Some((self.kernel.port, socket));
                }
                Ok(socket)
            }
            None => {
                let listener = SimListener::new(self.world.clone(), id, address);
                Err(Refused { socket: listener, error: None })
            }
        }
    }

    pub(super) fn start(
        &mut self,
        socket: Socket,
        operation: Operation,
    ) -> Result<(), SubmitError> {
        if let Some(kind) = self.objection(socket, &operation) {
            return Err(SubmitError { kind, operation });
        }
        let Some(entry) = self.kernel.sockets.get_mut(socket) else {
            return Err(SubmitError { kind: SubmitErrorKind::StaleSocket, operation });
        };
        let state = &mut entry.state;
        let step = match operation {
            Operation::Accept(shots) => {
                state.accept = Some(AcceptOperation { shots, cancelled: false });
                Step::Acceptable
            }
            Operation::Receive { shots, bytes_max } => {
                let (cancelled, stage) = (false, Stage::Waiting);
                let operation =
                    ReceiveOperation { shots, bytes_max, bytes_left: bytes_max, cancelled, stage };
                state.receive = Some(operation);
                Step::Readable
            }
            Operation::Send(chain) => {
                chain.set_owner(Owner::KernelSend);
                state.send =
                    Some(SendOperation { chain, cancelled: false, sent: 0, settled: None });
                Step::Writable
            }
            Operation::Close => {
                state.closing = true;
                mark_cancelled(state, None);
                if let SocketEnd::Conn(conn) = state.end {
                    self.world.lock().give_up(conn);
                }
                Step::Close
            }
        };
        self.note_step(Notice { socket, step });
        Ok(())
    }

    pub(super) fn start_cancel(&mut self, socket: Socket, kind: OperationKind) {
        let Some(entry) = self.kernel.sockets.get_mut(socket) else { return };
        if mark_cancelled(&mut entry.state, Some(kind)) {
            self.note_step(Notice { socket, step: Step::Cancel(kind) });
        }
    }

    pub(super) fn start_shutdown(&mut self, socket: Socket) {
        if self.kernel.conn_of(socket).is_some() {
            self.note_step(Notice { socket, step: Step::Shutdown });
        }
    }

    /// Has the next dequeue hand this over, and the driver see that there is to be one.
    fn note_step(&mut self, notice: Notice) {
        if self.kernel.submitted.is_empty() {
            self.bell.ring();
        }
        self.kernel.submitted.push(notice);
    }

    /// Why the operation does not fit, if it does not.
    fn objection(&mut self, socket: Socket, operation: &Operation) -> Option<SubmitErrorKind> {
        let Some(entry) = self.kernel.sockets.get_mut(socket) else {
            return Some(SubmitErrorKind::StaleSocket);
        };
        let state = &entry.state;
        if state.closing {
            return Some(SubmitErrorKind::Closing);
        }
        let listens = matches!(state.end, SocketEnd::Listener(_));
        let (fits, busy) = match operation {
            Operation::Accept(shots) => {
                (listens && *shots != Shots::IfReady, state.accept.is_some())
            }
            Operation::Receive { .. } => (!listens, state.receive.is_some()),
            Operation::Send(chain) => (!listens && !chain.is_empty(), state.send.is_some()),
            Operation::Close => (true, false),
        };
        // In flight until its last completion has been dequeued.
        let undelivered = state.undelivered & (1 << operation.kind() as u8) != 0;
        if !fits {
            Some(SubmitErrorKind::NotForThisSocket)
        } else if busy || undelivered {
            Some(SubmitErrorKind::Busy)
        } else {
            None
        }
    }
}

/// Marks the operation of this kind, or all of them, so that a cancel which comes late does not
/// hit the next one. `false` if there is nothing new to cancel.
fn mark_cancelled(state: &mut SocketState, kind: Option<OperationKind>) -> bool {
    let is_meant = |other| kind.is_none_or(|kind| kind == other);
    let mut marked = false;
    if let Some(accept) = state.accept.as_mut().filter(|_| is_meant(OperationKind::Accept)) {
        marked |= !std::mem::replace(&mut accept.cancelled, true);
    }
    if let Some(receive) = state.receive.as_mut().filter(|_| is_meant(OperationKind::Receive)) {
        marked |= !std::mem::replace(&mut receive.cancelled, true);
    }
    if let Some(send) = state.send.as_mut().filter(|_| is_meant(OperationKind::Send)) {
        marked |= !std::mem::replace(&mut send.cancelled, true);
    }
    marked
}
