//! The entrance: operations are checked and kept; a send is tried at once.

use super::EpollPort;
use super::socket::{Intake, Sending, SocketState};
use crate::port::{Demand, Operation, OperationKind, Socket, SubmitError, admit};
use rustix::net::Shutdown;

impl<T: Send> EpollPort<T> {
    pub(super) fn submit_operation(
        &mut self,
        socket: Socket,
        operation: Operation,
    ) -> Result<(), SubmitError> {
        let usage = self.sockets.get_mut(socket).map(|entry| entry.state.usage());
        let operation = admit(usage, operation)?;
        if operation.kind() == OperationKind::Close {
            self.waiting.remove(socket);
        }
        if let Some(entry) = self.sockets.get_mut(socket) {
            entry.state.start(operation);
            self.queue_if_busy(socket);
        }
        Ok(())
    }

    pub(super) fn cancel_operation(&mut self, socket: Socket, kind: OperationKind) {
        if let Some(entry) = self.sockets.get_mut(socket) {
            entry.state.cancel(kind);
            if kind == OperationKind::Receive {
                self.waiting.remove(socket);
            }
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
            Operation::Accept(shots) => self.intake = Intake::Armed(Demand::accept(shots)),
            Operation::Receive { shots, bytes_max } => {
                self.intake = Intake::Armed(Demand::new(shots, bytes_max));
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
