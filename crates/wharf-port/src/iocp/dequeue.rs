//! Dequeue: from the system's completion port to completions.
//!
//! A [`dequeue`](crate::port::Port::dequeue) has three steps. It takes a batch of packets from the
//! system's completion port and records them in the states of their sockets; it processes the
//! sockets with completions or bytes to read, each once; it takes posted packets. Completions that
//! do not fit into the caller's vector stay in the states, so no queue of completions is needed.

use super::IocpPort;
use super::operations::OperationId;
use super::socket::{RecvResult, link_error, update_accept_context};
use super::state::{Accept, Receive, Role, Send, connection_mut, listener_mut};
use super::wake::{WAIT_MS_MAX, WAKE_KEY};
use crate::memory::buffer::Buffer;
use crate::port::completion::{Completion, EndReason, Outcome};
use crate::port::contract::{Completions, is_full};
use crate::port::error::{OsError, PortError};
use crate::port::operation::{CompletionMode, Socket};
use std::marker;
use std::time::Duration;
use windows_sys::Win32::System::IO::OVERLAPPED_ENTRY;

/// Receives per dequeue on one socket. A socket with more bytes is processed again in the next
/// dequeue, after the others.
const RECEIVES_PER_SOCKET: u32 = 8;

impl<T: marker::Send> IocpPort<T> {
    pub(super) fn dequeue_completions(
        &mut self,
        completions: &mut Completions<Self>,
        timeout: Option<Duration>,
    ) -> Result<(), PortError> {
        if is_full(completions) {
            return Ok(());
        }
        self.wait(timeout)?;
        self.supply.begin_dequeue();
        self.inbox.take_packets_first(completions);
        self.process_ready(completions);
        self.inbox.take_packets(completions);
        Ok(())
    }

    /// Records completed operations; sleeps until one completes, if no socket has work.
    fn wait(&mut self, timeout: Option<Duration>) -> Result<(), OsError> {
        let mut wait_ms = timeout.map_or(WAIT_MS_MAX, milliseconds);
        // Buffers are released on this thread only, so none while it sleeps.
        if !self.ready.is_empty() || self.supply.can_serve_waiters() {
            wait_ms = 0;
        }
        if wait_ms != 0 && !self.inbox.fall_asleep() {
            wait_ms = 0;
        }
        self.dequeue_packets(wait_ms)
    }

    /// Takes one batch of packets, and records them.
    pub(super) fn dequeue_packets(&mut self, wait_ms: u32) -> Result<(), OsError> {
        self.counters.waits += 1;
        let count = self.port.dequeue(&mut self.entries, wait_ms)?;
        for index in 0..count {
            let entry = self.entries[index];
            if entry.lpOverlapped.is_null() {
                match entry.lpCompletionKey {
                    WAKE_KEY => self.counters.wakeups += 1,
                    _ => self.counters.stale_completions += 1,
                }
            } else if self.record_packet(&entry).is_none() {
                self.counters.stale_completions += 1;
            }
        }
        Ok(())
    }

    /// Records the packet of an operation; `None` if no operation in flight has it.
    fn record_packet(&mut self, entry: &OVERLAPPED_ENTRY) -> Option<()> {
        let (id, socket) = self.operations.take_completed(entry.lpOverlapped)?;
        let state = &mut self.table.get_mut(socket)?.state;
        let call = match id {
            OperationId::Receive(_) => "WSARecv",
            OperationId::Send(_) => "WSASend",
            OperationId::Accept(_) => "AcceptEx",
        };
        let failure = match entry.Internal {
            0 => None,
            _ => Some(EndReason::Failed(self.operations.error(id, call, &state.overlapped))),
        };
        match (id, &mut state.role) {
            (OperationId::Receive(_), Role::Connection(connection)) => {
                let Receive::Waiting { demand, cancelled } = connection.receive else {
                    return None;
                };
                connection.receive = match failure {
                    // Also if there are bytes: they stay in the socket.
                    _ if cancelled => Receive::Ended(EndReason::Cancelled),
                    None => Receive::Ready(demand),
                    Some(end) => Receive::Ended(end),
                };
            }
            (OperationId::Send(_), Role::Connection(connection)) => {
                let Send::InFlight { cancelled } = connection.send else { return None };
                let end = if cancelled { failure.map(|_| EndReason::Cancelled) } else { failure };
                let sent = entry.dwNumberOfBytesTransferred as usize;
                connection.send = Send::Ended { sent, end };
            }
            (OperationId::Accept(accept), Role::Listener(listener)) => {
                listener.posted -= 1;
                listener.done.push_back((accept, failure));
            }
            (OperationId::Receive(_) | OperationId::Send(_), Role::Listener(_))
            | (OperationId::Accept(_), Role::Connection(_)) => return None,
        }
        self.ready.push_back(socket);
        Some(())
    }

    /// Receives on the sockets that wait for a buffer, in FIFO order, while buffers are free.
    fn serve_waiters(&mut self, completions: &mut Completions<Self>) {
        while !is_full(completions) {
            let Some((socket, buffer)) = self.supply.next_waiter() else { return };
            let Some((_, _, connection)) = connection_mut(&mut self.table, socket) else {
                unreachable!("a socket leaves the queue for buffers before the table");
            };
            let Receive::WaitingForBuffer(demand) = connection.receive else {
                unreachable!("a socket is in the queue for buffers while its receive waits");
            };
            connection.receive = Receive::Ready(demand);
            self.receive_once(socket, Some(buffer), completions);
        }
    }

    /// Serves the sockets that wait for a buffer, then processes each ready socket once.
    fn process_ready(&mut self, completions: &mut Completions<Self>) {
        self.serve_waiters(completions);
        for _ in 0..self.ready.len() {
            if is_full(completions) {
                break;
            }
            let Some(socket) = self.ready.pop_front() else { break };
            self.process_socket(socket, completions);
        }
    }

    /// Reports the ended operations of a socket, reads its bytes, and closes it if a close was
    /// submitted and no operation is left. If the vector is full, appends the socket to `ready`
    /// again.
    fn process_socket(&mut self, socket: Socket, completions: &mut Completions<Self>) {
        let Some(entry) = self.table.get_mut(socket) else { return };
        match &entry.state.role {
            Role::Connection(_) => self.process_connection(socket, completions),
            Role::Listener(_) => self.process_listener(socket, completions),
        }
        let Some(entry) = self.table.get_mut(socket) else { return };
        if !entry.state.closing || !entry.state.is_idle() {
            return;
        }
        if is_full(completions) {
            self.ready.push_back(socket);
            return;
        }
        let key = entry.key;
        self.ready.remove(socket);
        self.supply.forget(socket);
        if let Some(entry) = self.table.remove(socket)
            && let Role::Listener(listener) = &entry.state.role
        {
            self.accept_budget.release(listener.accepts_max);
        }
        completions.push(Completion { key, outcome: Outcome::Closed });
    }

    fn process_connection(&mut self, socket: Socket, completions: &mut Completions<Self>) {
        let Some((key, _, connection)) = connection_mut(&mut self.table, socket) else { return };
        if let Send::Ended { sent, end } = connection.send {
            connection.send = Send::Idle;
            let chain = self.operations.take_chain(socket.index);
            // A send of all bytes has not failed, even if the connection failed after it.
            let end = end.filter(|_| sent < chain.len());
            completions.push(Completion { key, outcome: Outcome::Sent { chain, sent, end } });
        }
        if is_full(completions) {
            self.ready.push_back(socket);
            return;
        }
        match connection.receive {
            Receive::Ended(end) => {
                connection.receive = Receive::Idle;
                completions.push(Completion { key, outcome: Outcome::ReceiveEnded(end) });
            }
            // Needs no buffer, and does not count as a receive.
            Receive::Ready(demand) if demand.is_zero_byte() => {
                self.receive_once(socket, None, completions);
            }
            Receive::Ready(_) => {
                for received in 0..RECEIVES_PER_SOCKET {
                    if is_full(completions) || !self.supply.may_receive(received) {
                        self.ready.push_back(socket);
                        return;
                    }
                    let buffer = self.buffer_for(socket);
                    if !self.receive_once(socket, buffer, completions) {
                        return;
                    }
                }
            }
            Receive::Idle | Receive::Waiting { .. } | Receive::WaitingForBuffer(_) => {}
        }
    }

    /// A buffer for a connection whose receive is ready.
    fn buffer_for(&mut self, socket: Socket) -> Option<Buffer> {
        let (_, _, connection) = connection_mut(&mut self.table, socket)?;
        let Receive::Ready(demand) = connection.receive else { return None };
        self.supply.buffer_for(connection.bulk, demand)
    }

    /// Reads into `buffer` on a connection whose receive is ready, or without a buffer queues the
    /// connection for one. Returns whether it filled the buffer and may read into another one.
    fn receive_once(
        &mut self,
        socket: Socket,
        mut buffer: Option<Buffer>,
        completions: &mut Completions<Self>,
    ) -> bool {
        let Some((key, overlapped, connection)) = connection_mut(&mut self.table, socket) else {
            return false;
        };
        let Receive::Ready(mut demand) = connection.receive else { return false };
        if is_full(completions) {
            self.ready.push_back(socket);
            return false;
        }
        let found = match &mut buffer {
            Some(buffer) => overlapped.receive(buffer, demand.len_max(buffer.capacity())),
            // An end, or that there are no bytes, is found without a buffer.
            None => overlapped.peek(),
        };
        let end = match (found, buffer) {
            (RecvResult::Bytes(_), None) if demand.is_zero_byte() => Some(EndReason::Readable),
            (RecvResult::Bytes(_), None) => {
                connection.receive = Receive::WaitingForBuffer(demand);
                self.supply.wait(socket, &mut self.counters);
                return false;
            }
            (RecvResult::Bytes(len), Some(buffer)) => {
                let is_all = len == demand.len_max(buffer.capacity());
                connection.bulk.record(len, self.supply.pool());
                let last = demand.received(len);
                connection.receive = if last { Receive::Idle } else { Receive::Ready(demand) };
                completions.push(Completion { key, outcome: Outcome::Received { buffer, last } });
                if last {
                    return false;
                }
                if is_all {
                    self.ready.push_back(socket);
                    return true;
                }
                None
            }
            (RecvResult::Nothing, _) if demand.mode == CompletionMode::IfReady => {
                Some(EndReason::NotReady)
            }
            (RecvResult::Nothing, _) => None,
            (RecvResult::EndOfStream, _) => Some(EndReason::PeerClosed),
            (RecvResult::Failed(error), _) => Some(EndReason::Failed(error)),
        };
        if let Some(end) = end {
            connection.receive = Receive::Idle;
            completions.push(Completion { key, outcome: Outcome::ReceiveEnded(end) });
        } else {
            connection.receive =
                Receive::after(self.operations.receive(socket, overlapped), demand);
            if !matches!(connection.receive, Receive::Waiting { .. }) {
                self.ready.push_back(socket);
            }
        }
        false
    }

    fn process_listener(&mut self, socket: Socket, completions: &mut Completions<Self>) {
        // `post_accepts` below may complete accepts at once; the next dequeue reports those.
        let Some((_, _, state)) = listener_mut(&mut self.table, socket) else { return };
        for _ in 0..state.done.len() {
            if is_full(completions) {
                self.ready.push_back(socket);
                return;
            }
            self.take_connection(socket, completions);
        }
        self.post_accepts(socket);
        let Some((key, _, listener)) = listener_mut(&mut self.table, socket) else { return };
        if let Accept::Ending(_, end) = listener.accept
            && listener.out() == 0
        {
            if is_full(completions) {
                self.ready.push_back(socket);
            } else {
                listener.accept = Accept::Idle;
                completions.push(Completion { key, outcome: Outcome::AcceptEnded(end) });
            }
        }
    }

    /// Reports the first completed accept, or handles its failure.
    fn take_connection(&mut self, socket: Socket, completions: &mut Completions<Self>) {
        let Some((key, overlapped, listener)) = listener_mut(&mut self.table, socket) else {
            return;
        };
        let Some((accept, failure)) = listener.done.pop_front() else { return };
        let stream = self.operations.take_accepted(accept);
        // A failed accept has no addresses.
        let peer = match failure {
            None => self.operations.peer(accept, &listener.calls),
            Some(_) => None,
        };
        self.accepts_free.push(accept);
        let (Accept::Active(mode) | Accept::Ending(mode, _)) = listener.accept else { return };
        let failure = match (failure, stream, peer) {
            (None, Some(stream), Some(peer)) => match update_accept_context(&stream, overlapped) {
                Ok(()) => {
                    listener.aborts = 0;
                    let last = mode != CompletionMode::Multishot;
                    if last {
                        listener.accept = Accept::Idle;
                    }
                    let outcome = Outcome::Accepted { stream, peer, last };
                    completions.push(Completion { key, outcome });
                    return;
                }
                Err(error) => EndReason::Failed(link_error(error.call(), error.code())),
            },
            (Some(failure), _, _) => failure,
            // AcceptEx returned no IPv4 or IPv6 address: the connection is dropped.
            (None, _, _) => EndReason::Failed(OsError::new("GetAcceptExSockaddrs", 10053)),
        };
        // After a cancel (`Ending`) accepts without a connection end with an error, too.
        if let Accept::Active(_) = listener.accept
            && let EndReason::Failed(error) = failure
        {
            if listener.count_abort(error) {
                self.counters.accept_aborts += 1;
            } else {
                listener.accept = Accept::Ending(mode, failure);
                overlapped.cancel_all();
            }
        }
    }
}

/// The timeout in milliseconds, rounded up.
fn milliseconds(timeout: Duration) -> u32 {
    let whole = timeout.as_nanos().div_ceil(1_000_000);
    u32::try_from(whole).unwrap_or(u32::MAX).min(WAIT_MS_MAX)
}
