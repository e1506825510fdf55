//! Sends: the kernel reads bytes from the chain as the pipe takes them, step by step.
//!
//! The operation owns the chain until the send completes, so no other code changes the bytes that
//! the kernel reads late.

use super::connection::SERVER;
use super::events::{EventKind, SocketStep, Step};
use super::faults::{FaultKind, PortBug};
use super::kernel::Kernel;
use super::state::{Completed, Ready, SendOperation};
use super::world_state::{WRITE, WorldState};
use crate::memory::chain::Chain;
use crate::port::completion::EndReason;
use crate::port::error::OsError;
use crate::port::operation::Socket;

impl Kernel {
    /// Sends as many bytes as the pipe takes.
    pub(super) fn send_step(&mut self, world: &mut WorldState, socket: Socket) {
        let Some(conn) = self.conn_of(socket) else { return };
        world.conn(conn, |conn| conn.sides[SERVER].notified &= !WRITE);
        let Some(mut operation) = self.take_send(socket) else { return };
        if operation.settled.is_some() {
            return self.put_send(socket, operation);
        }
        world.inject_connection_fault(conn);
        if operation.sent == 0 && world.bug_triggers(PortBug::ReuseInFlight) {
            operation.sent = operation.chain.len();
            self.bug_state.unread.push((conn, operation.sent));
            return self.send_completes(world, socket, operation, None);
        }
        let left = operation.chain.len() - operation.sent;
        let short = left > 1 && world.draw_fault(FaultKind::ShortSend);
        let count = if short { 1 + world.rng.below_len(left - 1) } else { left };
        let written = if world.bug_triggers(PortBug::SwapHalves) {
            let halves = swapped(&operation, count);
            world.write(conn, SERVER, count, std::iter::once(&*halves))
        } else {
            world.write(conn, SERVER, count, rest_of(&operation.chain, operation.sent))
        };
        match written {
            Ok(written) => {
                operation.sent += written;
                let is_over = operation.sent == operation.chain.len();
                if is_over || (short && written > 0) {
                    if !is_over && operation.sent > 1 && world.has_bug(PortBug::ResendBytes) {
                        operation.sent -= 1;
                    }
                    self.settle_send(world, socket, operation, None);
                } else {
                    self.put_send(socket, operation);
                }
            }
            Err(code) => {
                let failed = EndReason::Failed(OsError::new("send", code));
                self.settle_send(world, socket, operation, Some(failed));
            }
        }
    }

    /// The send's result is decided; it completes now or after a delay.
    fn settle_send(
        &mut self,
        world: &mut WorldState,
        socket: Socket,
        mut operation: SendOperation,
        end: Option<EndReason>,
    ) {
        match world.delay_ns() {
            0 => self.send_completes(world, socket, operation, end),
            delay_ns => {
                operation.settled = Some(end);
                self.put_send(socket, operation);
                let step = SocketStep { socket, step: Step::SendDone };
                world.schedule(delay_ns, EventKind::Step { port: self.port, step });
            }
        }
    }

    pub(super) fn send_done_step(&mut self, world: &mut WorldState, socket: Socket) {
        let Some(mut operation) = self.take_send(socket) else { return };
        match operation.settled.take() {
            Some(end) => self.send_completes(world, socket, operation, end),
            None => self.put_send(socket, operation),
        }
    }

    pub(super) fn cancel_send(&mut self, world: &mut WorldState, socket: Socket) {
        let Some(operation) = self.take_send(socket) else { return };
        // A send whose result is decided completes with it; one that is not cancelled is a later
        // one.
        let goes_on = !operation.cancelled || operation.settled.is_some();
        if !goes_on && !world.draw_fault(FaultKind::CancelRace) {
            return self.send_completes(world, socket, operation, Some(EndReason::Cancelled));
        }
        self.put_send(socket, operation);
        if goes_on {
            return;
        }
        self.send_step(world, socket);
        if let Some(operation) = self.take_send(socket) {
            if operation.settled.is_some() {
                self.put_send(socket, operation);
            } else {
                self.send_completes(world, socket, operation, Some(EndReason::Cancelled));
            }
        }
    }

    fn send_completes(
        &mut self,
        world: &mut WorldState,
        socket: Socket,
        operation: SendOperation,
        end: Option<EndReason>,
    ) {
        let Some(entry) = self.sockets.get_mut(socket) else { return };
        let key = entry.key;
        let SendOperation { chain, sent, .. } = operation;
        chain.set_owner(crate::memory::Owner::Application);
        self.complete(
            world,
            Ready { socket, key, completed: Completed::Sent { chain, sent, end } },
        );
        self.finish_close_if_idle(world, socket);
    }

    fn take_send(&mut self, socket: Socket) -> Option<SendOperation> {
        self.sockets.get_mut(socket)?.state.send.take()
    }

    fn put_send(&mut self, socket: Socket, operation: SendOperation) {
        if let Some(entry) = self.sockets.get_mut(socket) {
            entry.state.send = Some(operation);
        }
    }
}

/// The chain's bytes after the first `skip`.
fn rest_of(chain: &Chain, skip: usize) -> impl Iterator<Item = &[u8]> {
    let mut skip = skip;
    chain.slices().map(move |slice| {
        let skipped = skip.min(slice.len());
        skip -= skipped;
        &slice[skipped..]
    })
}

/// [`PortBug::SwapHalves`]: the next `count` bytes, second half first.
fn swapped(operation: &SendOperation, count: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        rest_of(&operation.chain, operation.sent).flatten().copied().take(count).collect();
    bytes.rotate_left(count / 2);
    bytes
}
