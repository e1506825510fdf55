//! Submit: starts the system's operations at once, and leaves the rest to the next dequeue.

use super::IocpPort;
use super::operations::{OperationId, Started};
use super::socket::accept_socket;
use super::state::{Accept, Receive, Role, Send, connection_mut, listener_mut};
use crate::memory::chain::Chain;
use crate::port::admission::check_submit;
use crate::port::completion::EndReason;
use crate::port::demand::Demand;
use crate::port::operation::{CompletionMode, Operation, OperationKind, Socket, SubmitError};
use std::marker;

impl<T: marker::Send> IocpPort<T> {
    pub(super) fn submit_operation(
        &mut self,
        socket: Socket,
        operation: Operation,
    ) -> Result<(), SubmitError> {
        let usage = self.table.get_mut(socket).map(|entry| entry.state.usage());
        if let Some(kind) = check_submit(usage, &operation) {
            return Err(SubmitError { kind, operation });
        }
        match operation {
            Operation::Accept(mode) => self.start_accept(socket, mode),
            Operation::Receive { mode, bytes_max } => {
                self.start_receive(socket, Demand::new(mode, bytes_max));
            }
            Operation::Send(chain) => self.start_send(socket, chain),
            Operation::Close => self.start_close(socket),
        }
        Ok(())
    }

    pub(super) fn cancel_operation(&mut self, socket: Socket, kind: OperationKind) {
        match kind {
            OperationKind::Accept => self.cancel_accept(socket),
            OperationKind::Receive => self.cancel_receive(socket),
            OperationKind::Send => self.cancel_send(socket),
            OperationKind::Close => {}
        }
    }

    pub(super) fn shutdown_socket(&mut self, socket: Socket) {
        if let Some((_, overlapped, _)) = connection_mut(&mut self.table, socket) {
            overlapped.shutdown();
        }
    }

    fn start_receive(&mut self, socket: Socket, demand: Demand) {
        let Some((_, overlapped, connection)) = connection_mut(&mut self.table, socket) else {
            unreachable!("the check has found a connection");
        };
        connection.receive = match demand.mode {
            CompletionMode::IfReady => Receive::Ready(demand),
            CompletionMode::Oneshot | CompletionMode::Multishot => {
                Receive::after(self.operations.receive(socket, overlapped), demand)
            }
        };
        if !matches!(connection.receive, Receive::Waiting { .. }) {
            self.ready.push_back(socket);
        }
    }

    fn start_send(&mut self, socket: Socket, chain: Chain) {
        let Some((_, overlapped, connection)) = connection_mut(&mut self.table, socket) else {
            unreachable!("the check has found a connection");
        };
        connection.send = match self.operations.send(socket, overlapped, chain) {
            Started::Pending => Send::InFlight { cancelled: false },
            Started::Done => Send::Ended {
                sent: self.operations.transferred(OperationId::Send(socket.index)),
                end: None,
            },
            Started::Failed(error) => Send::Ended { sent: 0, end: Some(EndReason::Failed(error)) },
        };
        if !matches!(connection.send, Send::InFlight { .. }) {
            self.ready.push_back(socket);
        }
    }

    fn start_accept(&mut self, socket: Socket, mode: CompletionMode) {
        let Some((_, _, listener)) = listener_mut(&mut self.table, socket) else {
            unreachable!("the check has found a listener");
        };
        listener.accept = Accept::Active(mode);
        listener.aborts = 0;
        self.post_accepts(socket);
    }

    /// Cancels all operations of the socket; `process_socket` closes it.
    fn start_close(&mut self, socket: Socket) {
        let Some(entry) = self.table.get_mut(socket) else {
            unreachable!("the check has refused a stale socket");
        };
        let state = &mut entry.state;
        state.closing = true;
        match &mut state.role {
            Role::Connection(connection) => {
                connection.receive = connection.receive.after_cancel();
                if let Send::InFlight { cancelled } = &mut connection.send {
                    *cancelled = true;
                }
                self.supply.forget(socket);
            }
            Role::Listener(listener) => {
                if let Accept::Active(mode) = listener.accept {
                    listener.accept = Accept::Ending(mode, EndReason::Cancelled);
                }
            }
        }
        state.overlapped.cancel_all();
        self.ready.push_back(socket);
    }

    fn cancel_receive(&mut self, socket: Socket) {
        let Some((_, overlapped, connection)) = connection_mut(&mut self.table, socket) else {
            return;
        };
        connection.receive = connection.receive.after_cancel();
        if let Receive::Waiting { .. } = connection.receive {
            self.operations.cancel(OperationId::Receive(socket.index), overlapped);
        } else {
            self.supply.forget(socket);
            self.ready.push_back(socket);
        }
    }

    fn cancel_send(&mut self, socket: Socket) {
        let Some((_, overlapped, connection)) = connection_mut(&mut self.table, socket) else {
            return;
        };
        if let Send::InFlight { cancelled } = &mut connection.send {
            *cancelled = true;
            self.operations.cancel(OperationId::Send(socket.index), overlapped);
        }
    }

    fn cancel_accept(&mut self, socket: Socket) {
        let Some((_, overlapped, listener)) = listener_mut(&mut self.table, socket) else { return };
        if let Accept::Active(mode) = listener.accept {
            listener.accept = Accept::Ending(mode, EndReason::Cancelled);
            overlapped.cancel_all();
            self.ready.push_back(socket);
        }
    }

    /// Posts accepts up to the listener's `accepts_max`, or one for a oneshot accept. If a call
    /// fails it posts fewer; the accept ends only if none is in flight.
    pub(super) fn post_accepts(&mut self, socket: Socket) {
        let Some((_, overlapped, listener)) = listener_mut(&mut self.table, socket) else { return };
        let Accept::Active(mode) = listener.accept else { return };
        let wanted = if mode == CompletionMode::Multishot { listener.accepts_max } else { 1 };
        while listener.out() < wanted
            && let Some(accept) = self.accepts_free.pop()
        {
            let started = match accept_socket(listener.is_ipv6) {
                Ok(stream) => {
                    self.operations.accept(accept, socket, (overlapped, &listener.calls), stream)
                }
                Err(error) => Started::Failed(error),
            };
            match started {
                Started::Pending => listener.posted += 1,
                Started::Done => listener.done.push_back((accept, None)),
                Started::Failed(error) => {
                    drop(self.operations.take_accepted(accept));
                    self.accepts_free.push(accept);
                    if listener.count_abort(error) {
                        self.counters.accept_aborts += 1;
                        self.ready.push_back(socket);
                    } else if listener.out() == 0 {
                        listener.accept = Accept::Ending(mode, EndReason::Failed(error));
                        self.ready.push_back(socket);
                    }
                    // Else the next completed accept tries again. Trying in the next dequeue would
                    // repeat the call in each one while the system has no sockets.
                    break;
                }
            }
        }
        if !listener.done.is_empty() {
            self.ready.push_back(socket);
        }
    }
}
