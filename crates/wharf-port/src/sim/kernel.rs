//! A port's simulated kernel: the operations in flight, and the steps by which they progress.

use super::connection::{ConnId, SERVER};
use super::events::{SocketStep, Step};
use super::faults::{FaultKind, PortBug};
use super::state::{Completed, Ready, SocketEnd, SocketState};
use super::world_state::WorldState;
use crate::memory::buffer::Buffer;
use crate::memory::chain::Chain;
use crate::memory::ledger::Owner;
use crate::port::contract::Counters;
use crate::port::operation::{CompletionMode, Key, OperationKind, Socket};
use crate::port::supply::Supply;
use crate::port::table::SocketTable;
use std::collections::VecDeque;

/// The operations of a port, and their completions.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The port's number in the world.
    pub(super) port: u32,
    pub(super) sockets: SocketTable<SocketState>,
    /// Buffers are acquired in advance, as on io_uring, and not when bytes are there.
    pub(super) provides_buffers: bool,
    /// The greatest value of `supply.filled_max()`, which is also the most buffers that are provided
    /// or being filled at once.
    pub(super) receive_buffers_max: u32,
    pub(super) provided: Vec<Buffer>,
    /// Buffers that receives have acquired and the kernel has not filled yet.
    pub(super) filling_count: u32,
    pub(super) ready: VecDeque<Ready>,
    /// Submitted steps, which the next dequeue makes due.
    pub(super) submitted: Vec<SocketStep>,
    pub(super) counters: Counters,
    pub(super) bug_state: BugState,
    pub(super) supply: Supply,
}

/// The state of planted bugs.
#[derive(Debug, Default)]
pub(super) struct BugState {
    /// Leaked buffers.
    pub(super) leaked: Vec<Buffer>,
    /// Sends that completed before their bytes were read.
    pub(super) unread: Vec<(ConnId, usize)>,
    /// Receives that a close did not wait for.
    pub(super) late: Vec<(Socket, Buffer)>,
}

impl Kernel {
    /// Executes steps until none is due or `ready_max` completions are ready.
    pub(super) fn run(&mut self, world: &mut WorldState, ready_max: usize) {
        self.show_late_bytes(world);
        self.supply.begin_dequeue();
        self.provide_buffers();
        for index in 0..self.submitted.len() {
            let step = self.submitted[index];
            match step.step {
                // A cancel is executed before or after the other steps that are due.
                Step::Cancel(_) if world.rng.below(2) == 0 => {
                    world.ports[self.port as usize].due.push_front(step);
                }
                Step::Writable | Step::Cancel(_) | Step::Close => {
                    world.step_later(self.port, step);
                }
                Step::Acceptable
                | Step::Readable
                | Step::Shutdown
                | Step::Fill
                | Step::SendDone
                | Step::Finish => world.step_now(self.port, step),
            }
        }
        self.submitted.clear();
        if world.has_bug(PortBug::OvertakeWaiters) {
            self.overtake(world, ready_max);
        }
        self.serve_waiters(world, ready_max);
        while self.ready.len() < ready_max {
            let Some(step) = world.ports[self.port as usize].due.pop_front() else { break };
            self.step(world, step);
            if self.supply.has_waiters() {
                self.serve_waiters(world, ready_max);
            }
        }
    }

    /// [`PortBug::OvertakeWaiters`]: executes the steps of receives that are armed anew first.
    fn overtake(&mut self, world: &mut WorldState, ready_max: usize) {
        let due = std::mem::take(&mut world.ports[self.port as usize].due);
        for step in due {
            let entry = self.sockets.get_mut(step.socket);
            let receive = entry.and_then(|entry| entry.state.receive.as_ref());
            let is_anew = receive.is_some_and(|receive| receive.mode != CompletionMode::Multishot);
            if is_anew && matches!(step.step, Step::Readable) && self.ready.len() < ready_max {
                self.readable_step(world, step.socket);
            } else {
                world.ports[self.port as usize].due.push_back(step);
            }
        }
    }

    fn step(&mut self, world: &mut WorldState, step: SocketStep) {
        let socket = step.socket;
        match step.step {
            Step::Acceptable => self.accept_step(world, socket),
            Step::Readable => self.readable_step(world, socket),
            Step::Fill => self.fill_step(world, socket),
            Step::Writable => self.send_step(world, socket),
            Step::SendDone => self.send_done_step(world, socket),
            Step::Cancel(_) if world.bug == Some(PortBug::IgnoreCancel) => {}
            Step::Cancel(OperationKind::Accept) => self.cancel_accept(world, socket),
            Step::Cancel(OperationKind::Receive) => self.cancel_receive(world, socket),
            Step::Cancel(OperationKind::Send) => self.cancel_send(world, socket),
            Step::Cancel(OperationKind::Close) => {}
            Step::Shutdown => {
                if let Some(conn) = self.conn_of(socket) {
                    world.shut(conn, SERVER);
                }
            }
            Step::Close => self.close_step(world, socket),
            Step::Finish => self.finish_step(world, socket),
        }
    }

    fn close_step(&mut self, world: &mut WorldState, socket: Socket) {
        let orphan = self.orphan(world, socket);
        self.bug_state.late.extend(orphan);
        let Some(entry) = self.sockets.get_mut(socket) else { return };
        let state = &entry.state;
        let in_flight = [
            (OperationKind::Accept, state.accept.is_some()),
            (OperationKind::Receive, state.receive.is_some()),
            (OperationKind::Send, state.send.is_some()),
        ];
        for (kind, _) in in_flight.into_iter().filter(|(_, is_in_flight)| *is_in_flight) {
            world.step_later(self.port, SocketStep { socket, step: Step::Cancel(kind) });
        }
        self.finish_close_if_idle(world, socket);
    }

    /// [`PortBug::SkipGeneration`]: removes the receive that the close does not wait for, with bytes.
    fn orphan(&mut self, world: &mut WorldState, socket: Socket) -> Option<(Socket, Buffer)> {
        if world.bug != Some(PortBug::SkipGeneration) {
            return None;
        }
        let state = &mut self.sockets.get_mut(socket)?.state;
        state.receive.as_ref().filter(|operation| operation.mode == CompletionMode::Multishot)?;
        let mut buffer = self.supply.pool().acquire(Owner::KernelReceive)?;
        buffer.append(b"bytes of the owner before");
        state.receive = None;
        self.supply.forget(socket);
        Some((socket, buffer))
    }

    /// After an operation has ended: if a close waited for it and no other one, makes its last step
    /// due.
    pub(super) fn finish_close_if_idle(&mut self, world: &mut WorldState, socket: Socket) {
        let Some(entry) = self.sockets.get_mut(socket) else { return };
        let state = &mut entry.state;
        let idle = state.accept.is_none() && state.receive.is_none() && state.send.is_none();
        if state.closing && idle && !std::mem::replace(&mut state.finishing, true) {
            world.step_later(self.port, SocketStep { socket, step: Step::Finish });
        }
    }

    fn finish_step(&mut self, world: &mut WorldState, socket: Socket) {
        let Some(entry) = self.sockets.get_mut(socket) else { return };
        let key = entry.key;
        match entry.state.end {
            SocketEnd::Conn(conn) => world.close(conn, SERVER),
            SocketEnd::Listener(listener) => world.close_listener(listener),
        }
        if !world.bug_triggers(PortBug::DropClosed) {
            self.complete(world, Ready { socket, key, completed: Completed::Closed });
        }
    }

    /// Makes a completion ready. [`FaultKind::Reorder`] may move it before others, where the
    /// contract does not define their order.
    pub(super) fn complete(&mut self, world: &mut WorldState, mut ready: Ready) {
        if ready.completed.is_last()
            && let Some(entry) = self.sockets.get_mut(ready.socket)
        {
            entry.state.undelivered |= ready.completed.bit();
        }
        if matches!(ready.completed, Completed::Accepted { .. }) {
            self.ready.push_back(ready);
        } else if world.bug_triggers(PortBug::LoseCompletion) {
            return;
        } else {
            if world.bug_triggers(PortBug::CompleteTwice)
                && let Some(twin) = self.twin_of(&ready.completed)
            {
                let (socket, key) = (ready.socket, ready.key);
                self.ready.push_back(Ready { socket, key, completed: twin });
            }
            if let Some(other) = self.ready.back()
                && matches!(ready.completed, Completed::Received { .. })
                && world.bug_triggers(PortBug::SwapKeys)
            {
                ready.key = other.key;
            }
            self.ready.push_back(ready);
        }
        let mut at = self.ready.len() - 1;
        if at == 0 || !world.draw_fault(FaultKind::Reorder) {
            return;
        }
        let swaps_max = 1 + world.rng.below_len(at);
        for _ in 0..swaps_max {
            if !may_swap(&self.ready[at - 1], &self.ready[at]) {
                break;
            }
            self.ready.swap(at - 1, at);
            at -= 1;
            if at == 0 {
                break;
            }
        }
    }

    pub(super) fn conn_of(&mut self, socket: Socket) -> Option<ConnId> {
        match self.sockets.get_mut(socket)?.state.end {
            SocketEnd::Conn(conn) => Some(conn),
            SocketEnd::Listener(_) => None,
        }
    }

    /// Planted bugs that act at the next dequeue.
    fn show_late_bytes(&mut self, world: &mut WorldState) {
        for (conn, len) in std::mem::take(&mut self.bug_state.unread) {
            // The buffers were released unread, so other data may be in them.
            if let Some(mut buffer) = self.supply.pool().acquire(Owner::KernelSend) {
                let len = u32::try_from(len).unwrap_or(u32::MAX).min(buffer.capacity());
                buffer.set_len(len);
                let _lost = world.write(conn, SERVER, len as usize, std::iter::once(&*buffer));
            }
        }
        for (before, buffer) in std::mem::take(&mut self.bug_state.late) {
            let owner = self.sockets.sockets().find(|socket| socket.index == before.index);
            match owner.filter(|owner| owner.generation != before.generation) {
                Some(socket) => {
                    let key = self.sockets.get_mut(socket).map_or(Key(0), |entry| entry.key);
                    let completed = Completed::Received { buffer, last: false };
                    self.ready.push_back(Ready { socket, key, completed });
                }
                None => self.bug_state.late.push((before, buffer)),
            }
        }
    }
}

fn may_swap(earlier: &Ready, later: &Ready) -> bool {
    let kinds = [earlier.completed.kind(), later.completed.kind()];
    earlier.socket != later.socket
        || (kinds[0] != kinds[1] && !kinds.contains(&OperationKind::Close))
}

impl Kernel {
    /// A copy of a completion; an accepted connection has none.
    fn twin_of(&self, completed: &Completed) -> Option<Completed> {
        match completed {
            Completed::Accepted { .. } => None,
            Completed::AcceptEnded(end) => Some(Completed::AcceptEnded(*end)),
            Completed::Received { buffer, last } => {
                let mut copy = self.supply.pool().acquire(Owner::KernelReceive)?;
                copy.append(buffer);
                Some(Completed::Received { buffer: copy, last: *last })
            }
            Completed::ReceiveEnded(end) => Some(Completed::ReceiveEnded(*end)),
            Completed::Sent { end, .. } => {
                Some(Completed::Sent { chain: Chain::new(), sent: 0, end: *end })
            }
            Completed::Closed => Some(Completed::Closed),
        }
    }
}
