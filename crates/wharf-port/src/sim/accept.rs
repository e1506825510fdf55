//! Accepts: connections leave a listener's backlog.

use super::connection::SERVER;
use super::events::{SocketStep, Step};
use super::faults::{FaultKind, PortBug};
use super::kernel::Kernel;
use super::state::{Completed, Ready, SocketEnd};
use super::world_state::{SideOwner, WorldState};
use crate::port::completion::EndReason;
use crate::port::error::OsError;
use crate::port::operation::{CompletionMode, Socket};

const EMFILE: i32 = 24;

impl Kernel {
    pub(super) fn accept_step(&mut self, world: &mut WorldState, socket: Socket) {
        let Some(entry) = self.sockets.get_mut(socket) else { return };
        let SocketEnd::Listener(listener) = entry.state.end else { return };
        let queued = world.queued(listener);
        if queued == 0 || entry.state.accept.is_none() {
            return;
        }
        if world.draw_fault(FaultKind::AcceptEmfile) {
            let failed = EndReason::Failed(OsError::new("accept", EMFILE));
            return self.end_accept(world, socket, failed);
        }
        self.accept_one(world, socket, listener, false);
        if world.queued(listener) > 0 {
            world.step_now(self.port, SocketStep { socket, step: Step::Acceptable });
        }
    }

    /// Accepts the first connection of the backlog, unless a fault aborts it.
    fn accept_one(&mut self, world: &mut WorldState, socket: Socket, listener: Socket, last: bool) {
        let Some(conn) = world.take_queued(listener) else { return };
        if world.draw_fault(FaultKind::AcceptAbort) {
            self.counters.accept_aborts += 1;
            world.set_faulted(conn);
            return world.refuse(conn);
        }
        world.inject_connection_fault(conn);
        let Some(peer) = world.conn(conn, |conn| conn.peer) else { return };
        let Some(entry) = self.sockets.get_mut(socket) else { return };
        let key = entry.key;
        let once =
            entry.state.accept.as_ref().is_none_or(|accept| accept.mode == CompletionMode::Oneshot);
        let last = last || once;
        if last {
            entry.state.accept = None;
        }
        self.complete(
            world,
            Ready { socket, key, completed: Completed::Accepted { conn, peer, last } },
        );
        if last {
            self.finish_close_if_idle(world, socket);
        }
    }

    pub(super) fn cancel_accept(&mut self, world: &mut WorldState, socket: Socket) {
        let Some(entry) = self.sockets.get_mut(socket) else { return };
        let SocketEnd::Listener(listener) = entry.state.end else { return };
        if !entry.state.accept.as_ref().is_some_and(|accept| accept.cancelled) {
            return;
        }
        if world.queued(listener) > 0 && world.draw_fault(FaultKind::CancelRace) {
            self.accept_one(world, socket, listener, true);
        }
        self.end_accept(world, socket, EndReason::Cancelled);
    }

    /// Ends the accept, if one is in flight.
    fn end_accept(&mut self, world: &mut WorldState, socket: Socket, end: EndReason) {
        let Some(entry) = self.sockets.get_mut(socket) else { return };
        if entry.state.accept.take().is_none() {
            return;
        }
        let key = entry.key;
        self.complete(world, Ready { socket, key, completed: Completed::AcceptEnded(end) });
        self.finish_close_if_idle(world, socket);
    }
}

impl WorldState {
    /// The number of connections in the backlog; clears `notified`.
    fn queued(&mut self, listener: Socket) -> usize {
        self.listeners.get_mut(listener).map_or(0, |entry| {
            entry.state.notified = false;
            entry.state.waiting.len()
        })
    }

    fn take_queued(&mut self, listener: Socket) -> Option<Socket> {
        self.listeners.get_mut(listener)?.state.waiting.pop_front()
    }

    /// Closes a listener, and resets the connections of its backlog.
    pub(super) fn close_listener(&mut self, listener: Socket) {
        let Some(entry) = self.listeners.remove(listener) else { return };
        for conn in entry.state.waiting {
            self.refuse(conn);
        }
    }

    /// Makes a port's socket the owner of the connection's server side.
    pub(super) fn assign_to_port(&mut self, conn: Socket, port: u32, socket: Socket) {
        self.conn(conn, |conn| {
            conn.sides[SERVER].owner = SideOwner::Port { port, socket };
            conn.sides[SERVER].notified = 0;
        });
        // The client's earlier bytes do not count as progress of the server.
        let steady_ns = self.steady_ns();
        self.conn(conn, |conn| conn.traffic.opened(steady_ns));
    }

    /// Whether this world has the planted bug `bug`.
    pub(super) fn has_bug(&self, bug: PortBug) -> bool {
        self.bug == Some(bug)
    }
}
