//! Submit: operations are checked and stored; the next dequeue makes their steps due, as on
//! io_uring.

use super::events::{SocketStep, Step};
use super::port::SimPort;
use super::state::{
    AcceptOperation, ReceiveOperation, SendOperation, SocketEnd, SocketState, Stage,
};
use crate::memory::ledger::Owner;
use crate::port::admission::check_submit;
use crate::port::operation::{Operation, OperationKind, Socket, SubmitError};
use crate::port::table::Entry;

impl<T: Send> SimPort<T> {
    pub(super) fn submit_operation(
        &mut self,
        socket: Socket,
        operation: Operation,
    ) -> Result<(), SubmitError> {
        let entry = self.kernel.sockets.get_mut(socket);
        let usage = entry.as_ref().map(|entry| entry.state.usage());
        if let Some(kind) = check_submit(usage, &operation) {
            return Err(SubmitError { kind, operation });
        }
        let Some(Entry { state, .. }) = entry else {
            unreachable!("the check has refused a stale socket");
        };
        let step = match operation {
            Operation::Accept(mode) => {
                state.accept = Some(AcceptOperation { mode, cancelled: false });
                Step::Acceptable
            }
            Operation::Receive { mode, bytes_max } => {
                let (cancelled, stage) = (false, Stage::Waiting);
                let operation =
                    ReceiveOperation { mode, bytes_max, bytes_left: bytes_max, cancelled, stage };
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
        self.submit_step(SocketStep { socket, step });
        Ok(())
    }

    pub(super) fn cancel_operation(&mut self, socket: Socket, kind: OperationKind) {
        let Some(entry) = self.kernel.sockets.get_mut(socket) else { return };
        if mark_cancelled(&mut entry.state, Some(kind)) {
            self.submit_step(SocketStep { socket, step: Step::Cancel(kind) });
        }
    }

    pub(super) fn shutdown_socket(&mut self, socket: Socket) {
        if self.kernel.conn_of(socket).is_some() {
            self.submit_step(SocketStep { socket, step: Step::Shutdown });
        }
    }

    /// Queues a step for the next dequeue, and makes the port runnable.
    fn submit_step(&mut self, step: SocketStep) {
        if self.kernel.submitted.is_empty() {
            self.wake_flag.set();
        }
        self.kernel.submitted.push(step);
    }
}

/// Marks the operation of this kind, or all of them, as cancelled, so that a late step of the
/// cancel does not end a later operation. `false` if none was newly marked.
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
