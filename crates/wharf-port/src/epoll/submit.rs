//! Submit: operations are checked and stored in the socket's slot; a send is tried at once.

use super::EpollPort;
use super::socket::{InputOperation, SendOperation};
use crate::port::admission::check_submit;
use crate::port::demand::Demand;
use crate::port::operation::{Operation, OperationKind, Socket, SubmitError};
use crate::port::table::Entry;
use rustix::net::Shutdown;

impl<T: Send> EpollPort<T> {
    pub(super) fn submit_operation(
        &mut self,
        socket: Socket,
        operation: Operation,
    ) -> Result<(), SubmitError> {
        let entry = self.sockets.get_mut(socket);
        let usage = entry.as_ref().map(|entry| entry.state.usage());
        if let Some(kind) = check_submit(usage, &operation) {
            return Err(SubmitError { kind, operation });
        }
        let Some(Entry { state, .. }) = entry else {
            unreachable!("the check has refused a stale socket");
        };
        match operation {
            Operation::Accept(mode) => state.input = InputOperation::Armed(Demand::accept(mode)),
            Operation::Receive { mode, bytes_max } => {
                state.input = InputOperation::Armed(Demand::new(mode, bytes_max));
            }
            Operation::Send(chain) => {
                state.send = Some(SendOperation::new(chain));
                state.send_rest();
            }
            Operation::Close => {
                self.supply.forget(socket);
                state.close();
            }
        }
        state.queue_if_busy(socket, &mut self.ready);
        Ok(())
    }

    pub(super) fn cancel_operation(&mut self, socket: Socket, kind: OperationKind) {
        if let Some(entry) = self.sockets.get_mut(socket) {
            entry.state.cancel(kind);
            if kind == OperationKind::Receive {
                self.supply.forget(socket);
            }
            entry.state.queue_if_busy(socket, &mut self.ready);
        }
    }

    pub(super) fn shutdown_socket(&mut self, socket: Socket) {
        if let Some(entry) = self.sockets.get_mut(socket) {
            // ENOTCONN: the connection is gone, which the receive reports.
            let _reported_by_the_receive = rustix::net::shutdown(&entry.state.fd, Shutdown::Write);
            // A send in flight fails now: try it.
            entry.state.writable = true;
            entry.state.queue_if_busy(socket, &mut self.ready);
        }
    }
}
