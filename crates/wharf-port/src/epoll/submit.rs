//! The entrance: operations are checked and kept; a send is tried at once.

use super::EpollPort;
use super::socket::{Intake, Role, Sending, SocketState};
use crate::port::{Operation, OperationKind, Shots, Socket, SubmitError, SubmitErrorKind};
use rustix::net::Shutdown;

impl<T: Send> EpollPort<T> {
    pub(super) fn take_in(
        &mut self,
        socket: Socket,
        operation: Operation,
    ) -> Result<(), SubmitError> {
        let Some(entry) = self.sockets.get_mut(socket) else {
            return Err(SubmitError { kind: SubmitErrorKind::StaleSocket, operation });
        };
        if let Some(kind) = objection(&entry.state, &operation) {
            return Err(SubmitError { kind, operation });
        }
        entry.state.start(operation);
        self.queue_if_busy(socket);
        Ok(())
    }

    pub(super) fn take_back(&mut self, socket: Socket, kind: OperationKind) {
        if let Some(entry) = self.sockets.get_mut(socket) {
            entry.state.cancel(kind);
            self.queue_if_busy(socket);
        }
    }

    pub(super) fn end_sending(&mut self, socket: Socket) {
        if let Some(entry) = self.sockets.get_mut(socket) {
            // The answer is not wanted: an error is in the stream too, and the receive meets it.
            let _reported_by_the_receive = rustix::net::shutdown(&entry.state.fd, Shutdown::Write);
            // A send that waits for room cannot go on; it shall learn so.
            entry.state.writable = true;
            self.queue_if_busy(socket);
        }
    }
}

impl SocketState {
    fn start(&mut self, operation: Operation) {
        match operation {
            Operation::Accept(shots) | Operation::Receive { shots, .. } => {
                self.intake = Intake::Armed(shots);
            }
            Operation::Send(chain) => {
                self.send = Some(Sending::new(chain));
                self.push();
            }
            Operation::Close => {
                self.cancel(self.role.intake_kind());
                self.cancel(OperationKind::Send);
                self.closing = true;
            }
        }
    }
}

/// Why the operation cannot be taken.
fn objection(state: &SocketState, operation: &Operation) -> Option<SubmitErrorKind> {
    if state.closing {
        return Some(SubmitErrorKind::Closing);
    }
    let takes_here = operation.kind() == state.role.intake_kind();
    let (fits, busy) = match operation {
        Operation::Accept(shots) => (takes_here && *shots != Shots::IfReady, state.is_taking()),
        Operation::Receive { .. } => (takes_here, state.is_taking()),
        Operation::Send(chain) => {
            (state.role == Role::Connection && !chain.is_empty(), state.send.is_some())
        }
        Operation::Close => (true, false),
    };
    match (fits, busy) {
        (false, _) => Some(SubmitErrorKind::NotForThisSocket),
        (true, true) => Some(SubmitErrorKind::Busy),
        (true, false) => None,
    }
}
