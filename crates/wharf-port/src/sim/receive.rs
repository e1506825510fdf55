//! Receives: a buffer is acquired when bytes are there, and written when the completion is due.
//!
//! ```text
//!              bytes, a buffer         delay over: bytes copied
//!   Waiting ─────────────────► Filling ───────────► Received (last, or Waiting again)
//!      │ bytes, no buffer         ▲
//!      └──► WaitingForBuffer ─────┘ a buffer was released; FIFO
//! ```
//!
//! Buffers are acquired when they are needed, as on epoll; or, with
//! [`provides_buffers`](super::WorldConfig::provides_buffers), taken from those that each dequeue acquires
//! in advance, as on io_uring. A multishot receive then may complete further after its cancel, and
//! after it has reached its limit, by as many buffers as are provided.

use super::connection::{ConnId, SERVER};
use super::events::{EventKind, SocketStep, Step};
use super::faults::{FaultKind, PortBug};
use super::kernel::Kernel;
use super::state::{Completed, Ready, ReceiveOperation, Stage};
use super::world_state::{ECONNRESET, READ, Readable, WorldState};
use crate::memory::buffer::Buffer;
use crate::memory::ledger::Owner;
use crate::port::completion::EndReason;
use crate::port::contract::Counters;
use crate::port::demand::Demand;
use crate::port::error::OsError;
use crate::port::operation::{CompletionMode, Socket};

impl Kernel {
    /// Makes progress with the receive, as far as bytes, an end or a reset have arrived.
    pub(super) fn readable_step(&mut self, world: &mut WorldState, socket: Socket) {
        let Some(conn) = self.conn_of(socket) else { return };
        world.conn(conn, |conn| conn.sides[SERVER].notified &= !READ);
        let Some(operation) = self.take_receive(socket) else { return };
        world.inject_connection_fault(conn);
        match world.readable(conn, SERVER) {
            Readable::Reset => {
                let as_end = world.draw_fault(FaultKind::ResetAsEnd);
                let reset = EndReason::Failed(OsError::new("recv", ECONNRESET));
                let end = if as_end { EndReason::PeerClosed } else { reset };
                self.end_receive(world, socket, operation, end);
            }
            Readable::AtEnd => self.end_receive(world, socket, operation, EndReason::PeerClosed),
            Readable::Nothing if operation.mode == CompletionMode::IfReady => {
                self.end_receive(world, socket, operation, EndReason::NotReady);
            }
            Readable::Bytes(_) if operation.is_zero_byte() => {
                self.end_receive(world, socket, operation, EndReason::Readable);
            }
            Readable::Bytes(_) if matches!(operation.stage, Stage::Waiting) => {
                self.acquire_or_wait(world, socket, operation);
            }
            Readable::Bytes(_) => self.put_receive(socket, operation),
            Readable::Nothing => {
                if world.has_bug(PortBug::HoldWhileIdle) && self.bug_state.leaked.is_empty() {
                    self.bug_state.leaked.extend(self.supply.pool().acquire(Owner::KernelReceive));
                }
                self.put_receive(socket, operation);
            }
        }
    }

    /// Bytes have arrived: acquires a buffer for them, or queues the socket for one.
    fn acquire_or_wait(
        &mut self,
        world: &mut WorldState,
        socket: Socket,
        operation: ReceiveOperation,
    ) {
        if world.draw_fault(FaultKind::Enobufs) {
            let delay_ns = 1 + world.rng.below(world.faults.delay_max_ns);
            world.schedule(delay_ns, EventKind::Wake { port: self.port });
            return self.wait_for_buffer(world, socket, operation);
        }
        let overtakes =
            world.has_bug(PortBug::OvertakeWaiters) && operation.mode != CompletionMode::Multishot;
        if self.supply.has_waiters() && !overtakes {
            return self.wait_for_buffer(world, socket, operation);
        }
        let bulk = self.sockets.get_mut(socket).map(|entry| entry.state.bulk).unwrap_or_default();
        let demand = Demand::new(operation.mode, operation.bytes_left);
        let large = bulk.acquire_large(demand, self.supply.pool(), Owner::KernelReceive);
        match large.or_else(|| self.acquire_buffer()) {
            Some(buffer) => self.begin_fill(world, socket, operation, buffer),
            None => self.wait_for_buffer(world, socket, operation),
        }
    }

    fn wait_for_buffer(
        &mut self,
        world: &mut WorldState,
        socket: Socket,
        mut operation: ReceiveOperation,
    ) {
        operation.stage = Stage::WaitingForBuffer;
        if world.has_bug(PortBug::ServeLastFirst) {
            let others: Vec<_> = std::iter::from_fn(|| self.supply.pop_waiter()).collect();
            self.supply.wait(socket, &mut self.counters);
            let mut counted_before = Counters::default();
            others.into_iter().for_each(|other| self.supply.wait(other, &mut counted_before));
        } else {
            self.supply.wait(socket, &mut self.counters);
        }
        if world.bug_triggers(PortBug::ForgetRearm) {
            self.supply.forget(socket);
        }
        self.put_receive(socket, operation);
    }

    /// Acquires buffers in advance, if the world is so configured.
    pub(super) fn provide_buffers(&mut self) {
        while self.provides_buffers && self.may_provide() {
            let Some(buffer) = self.supply.pool().acquire(Owner::KernelReceive) else { return };
            self.provided.push(buffer);
        }
    }

    /// Buffers that are provided or being filled.
    pub(super) fn provided_count(&self) -> u32 {
        u32::try_from(self.provided.len()).unwrap_or(u32::MAX).saturating_add(self.filling_count)
    }

    /// Whether fewer buffers are provided or being filled than may be.
    fn may_provide(&self) -> bool {
        self.provided_count() < self.supply.filled_max()
    }

    /// Whether sockets wait for buffers, and a dequeue can acquire one.
    pub(super) fn can_serve_waiters(&self) -> bool {
        (self.supply.has_waiters() && !self.provided.is_empty())
            || (self.supply.can_serve_waiters() && self.may_provide())
    }

    pub(super) fn acquire_buffer(&mut self) -> Option<Buffer> {
        if self.provides_buffers {
            return self.provided.pop();
        }
        // A fill may end after its dequeue, so those that are being filled are limited, too.
        let may_take = self.may_provide() && !self.supply.is_used_up();
        may_take.then(|| self.supply.pool().acquire(Owner::KernelReceive)).flatten()
    }

    /// Provides a buffer again that was taken and not filled, or releases it.
    pub(super) fn return_unused(&mut self, buffer: Buffer) {
        if self.provides_buffers && !buffer.is_large(self.supply.pool()) {
            self.provided.push(buffer);
        }
    }

    pub(super) fn begin_fill(
        &mut self,
        world: &mut WorldState,
        socket: Socket,
        mut operation: ReceiveOperation,
        buffer: Buffer,
    ) {
        self.filling_count += 1;
        match world.delay_ns() {
            0 => self.fill(world, socket, operation, buffer),
            delay_ns => {
                operation.stage = Stage::Filling(buffer);
                self.put_receive(socket, operation);
                let step = SocketStep { socket, step: Step::Fill };
                world.schedule(delay_ns, EventKind::Step { port: self.port, step });
            }
        }
    }

    pub(super) fn fill_step(&mut self, world: &mut WorldState, socket: Socket) {
        let Some(mut operation) = self.take_receive(socket) else { return };
        match std::mem::replace(&mut operation.stage, Stage::Waiting) {
            Stage::Filling(buffer) => self.fill(world, socket, operation, buffer),
            other @ (Stage::Waiting | Stage::WaitingForBuffer) => {
                operation.stage = other;
                self.put_receive(socket, operation);
            }
        }
    }

    /// The kernel writes to the buffer, and the receive completes.
    fn fill(
        &mut self,
        world: &mut WorldState,
        socket: Socket,
        mut operation: ReceiveOperation,
        mut buffer: Buffer,
    ) {
        self.filling_count -= 1;
        operation.stage = Stage::Waiting;
        let Some(conn) = self.conn_of(socket) else { return };
        self.copy(world, conn, &mut operation, &mut buffer);
        if buffer.is_empty() {
            self.return_unused(buffer);
            self.put_receive(socket, operation);
            return self.readable_step(world, socket);
        }
        if world.bug_triggers(PortBug::OneByteMore) {
            buffer.append(&[0]);
        }
        let is_used_up = operation.is_used_up();
        let last = operation.mode != CompletionMode::Multishot || is_used_up;
        let rest = world.readable(conn, SERVER) != Readable::Nothing;
        let end_too_early = rest && world.bug_triggers(PortBug::EarlyEnd);
        if is_used_up && self.exceeds_limit(&operation, Some(&buffer)) {
            return self.receive_beyond_limit(world, socket, conn, operation, buffer);
        }
        if !last && !end_too_early {
            self.put_receive(socket, operation);
            if rest {
                world.notify(conn, SERVER, READ);
            }
        }
        self.received(world, socket, buffer, last);
        if end_too_early && !last {
            self.receive_completes(world, socket, Completed::ReceiveEnded(EndReason::PeerClosed));
        }
    }

    /// Whether the receive may exceed its limit, as a multishot of io_uring: not with a large
    /// buffer, for which it is oneshot.
    fn exceeds_limit(&self, operation: &ReceiveOperation, buffer: Option<&Buffer>) -> bool {
        let is_large = buffer.is_some_and(|buffer| buffer.is_large(self.supply.pool()));
        self.provides_buffers
            && operation.mode == CompletionMode::Multishot
            && !operation.is_zero_byte()
            && !is_large
    }

    /// Completes a receive that has reached its limit with `buffer`, and up to all provided buffers
    /// more, because the kernel does not know the limit.
    fn receive_beyond_limit(
        &mut self,
        world: &mut WorldState,
        socket: Socket,
        conn: ConnId,
        mut operation: ReceiveOperation,
        mut buffer: Buffer,
    ) {
        let count = world.rng.below_len(self.provided.len() + 1);
        for _ in 0..count {
            if !matches!(world.readable(conn, SERVER), Readable::Bytes(_)) {
                break;
            }
            let Some(next) = self.provided.pop() else { break };
            self.received(world, socket, std::mem::replace(&mut buffer, next), false);
            self.copy(world, conn, &mut operation, &mut buffer);
        }
        self.received(world, socket, buffer, true);
    }

    /// Cancels a receive after up to all provided buffers more, because the cancel reaches the
    /// kernel late.
    fn receive_until_cancelled(
        &mut self,
        world: &mut WorldState,
        socket: Socket,
        conn: ConnId,
        mut operation: ReceiveOperation,
    ) {
        let count = world.rng.below_len(self.provided.len() + 1);
        for _ in 0..count {
            if !matches!(world.readable(conn, SERVER), Readable::Bytes(_)) {
                break;
            }
            let Some(mut buffer) = self.provided.pop() else { break };
            self.copy(world, conn, &mut operation, &mut buffer);
            self.received(world, socket, buffer, false);
        }
        self.end_receive(world, socket, operation, EndReason::Cancelled);
    }

    fn received(&mut self, world: &mut WorldState, socket: Socket, buffer: Buffer, last: bool) {
        self.supply.count_filled(1);
        buffer.set_owner(Owner::Application);
        if let Some(entry) = self.sockets.get_mut(socket) {
            let len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
            entry.state.bulk.record(len, self.supply.pool());
        }
        self.receive_completes(world, socket, Completed::Received { buffer, last });
    }

    fn copy(
        &mut self,
        world: &mut WorldState,
        conn: ConnId,
        operation: &mut ReceiveOperation,
        buffer: &mut Buffer,
    ) {
        let Readable::Bytes(there) = world.readable(conn, SERVER) else { return };
        let mut whole = there.min(buffer.capacity() as usize);
        if !self.exceeds_limit(operation, Some(buffer)) {
            whole = whole.min(operation.bytes_left as usize);
        }
        let short = whole > 1 && world.draw_fault(FaultKind::ShortReceive);
        let count = if short { 1 + world.rng.below_len(whole - 1) } else { whole };
        if operation.bytes_max != u32::MAX {
            let received = u32::try_from(count).unwrap_or(u32::MAX);
            operation.bytes_left = operation.bytes_left.saturating_sub(received);
        }
        world.read(conn, SERVER, count, |bytes| {
            let copied = buffer.append(bytes);
            assert_eq!(copied, bytes.len(), "at most the buffer's size was read");
        });
    }

    pub(super) fn cancel_receive(&mut self, world: &mut WorldState, socket: Socket) {
        let Some(mut operation) = self.take_receive(socket) else { return };
        let Some(conn) = self.conn_of(socket) else { return };
        if !operation.cancelled {
            // The cancelled receive has completed; this is a later one.
            return self.put_receive(socket, operation);
        }
        let there = matches!(world.readable(conn, SERVER), Readable::Bytes(_));
        if there && operation.is_zero_byte() && world.draw_fault(FaultKind::CancelRace) {
            return self.end_receive(world, socket, operation, EndReason::Readable);
        }
        if there
            && self.exceeds_limit(&operation, None)
            && matches!(operation.stage, Stage::Waiting)
        {
            return self.receive_until_cancelled(world, socket, conn, operation);
        }
        if there && !operation.is_zero_byte() && world.draw_fault(FaultKind::CancelRace) {
            let picked = match std::mem::replace(&mut operation.stage, Stage::Waiting) {
                Stage::Filling(buffer) => {
                    self.filling_count -= 1;
                    Some(buffer)
                }
                Stage::WaitingForBuffer => {
                    self.supply.forget(socket);
                    self.acquire_buffer()
                }
                Stage::Waiting => self.acquire_buffer(),
            };
            if let Some(mut buffer) = picked {
                self.copy(world, conn, &mut operation, &mut buffer);
                let last = !world.has_bug(PortBug::ForgetLast);
                return self.received(world, socket, buffer, last);
            }
        }
        self.end_receive(world, socket, operation, EndReason::Cancelled);
    }

    /// Ends the receive without bytes; returns a buffer that it had acquired.
    fn end_receive(
        &mut self,
        world: &mut WorldState,
        socket: Socket,
        operation: ReceiveOperation,
        end: EndReason,
    ) {
        match operation.stage {
            Stage::Waiting => {}
            Stage::WaitingForBuffer => self.supply.forget(socket),
            Stage::Filling(buffer) => {
                self.filling_count -= 1;
                if world.has_bug(PortBug::LeakOnCancel) {
                    self.bug_state.leaked.push(buffer);
                } else {
                    self.return_unused(buffer);
                }
            }
        }
        self.receive_completes(world, socket, Completed::ReceiveEnded(end));
    }

    fn receive_completes(&mut self, world: &mut WorldState, socket: Socket, completed: Completed) {
        let Some(entry) = self.sockets.get_mut(socket) else { return };
        let key = entry.key;
        self.complete(world, Ready { socket, key, completed });
        self.finish_close_if_idle(world, socket);
    }

    pub(super) fn take_receive(&mut self, socket: Socket) -> Option<ReceiveOperation> {
        self.sockets.get_mut(socket)?.state.receive.take()
    }

    fn put_receive(&mut self, socket: Socket, operation: ReceiveOperation) {
        if let Some(entry) = self.sockets.get_mut(socket) {
            entry.state.receive = Some(operation);
        }
    }
}
