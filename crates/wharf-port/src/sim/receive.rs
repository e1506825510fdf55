//! Receives: a buffer is picked when bytes are there, and written to when the completion is due.
//!
//! ```text
//!              bytes, a buffer         delay over: bytes copied
//!   Waiting ─────────────────► Filling ───────────► Received (last, or Waiting again)
//!      │ bytes, no buffer         ▲
//!      └──────────► Starved ──────┘ a buffer came home; first come, first served
//! ```

use super::core::{ConnId, Core, ECONNRESET, READ, Readable, SERVER};
use super::events::{Notice, Step, What};
use super::kernel::{Done, Kernel, Ready};
use super::{FaultKind, Plant};
use crate::memory::{Buffer, Owner};
use crate::port::{End, OsError, Shots, Socket};

#[derive(Debug)]
pub(super) struct ReceiveOperation {
    pub(super) shots: Shots,
    pub(super) cancelled: bool,
    pub(super) stage: Stage,
}

#[derive(Debug)]
pub(super) enum Stage {
    Waiting,
    Starved,
    Filling(Buffer),
}

impl Kernel {
    /// Looks at what is there for the receive.
    pub(super) fn readable_step(&mut self, core: &mut Core, socket: Socket) {
        let Some(conn) = self.conn_of(socket) else { return };
        core.conn(conn, |conn| conn.sides[SERVER].noticed &= !READ);
        let Some(operation) = self.take_receive(socket) else { return };
        core.harass(conn);
        match core.readable(conn, SERVER) {
            Readable::Reset => {
                let as_end = core.injects(FaultKind::ResetAsEnd);
                let reset = End::Failed(OsError::new("recv", ECONNRESET));
                let end = if as_end { End::PeerClosed } else { reset };
                self.end_receive(core, socket, operation, end);
            }
            Readable::AtEnd => self.end_receive(core, socket, operation, End::PeerClosed),
            Readable::Nothing if operation.shots == Shots::IfReady => {
                self.end_receive(core, socket, operation, End::NotReady);
            }
            Readable::Bytes(_) if matches!(operation.stage, Stage::Waiting) => {
                self.pick(core, socket, operation);
            }
            Readable::Bytes(_) => self.put_receive(socket, operation),
            Readable::Nothing => {
                if core.is_planted(Plant::HoldWhileIdle) && self.planted.hoard.is_empty() {
                    self.planted.hoard.extend(self.pool.acquire(Owner::KernelReceive));
                }
                self.put_receive(socket, operation);
            }
        }
    }

    /// Bytes are there: picks a buffer for them, or queues up for one.
    fn pick(&mut self, core: &mut Core, socket: Socket, operation: ReceiveOperation) {
        if core.injects(FaultKind::Enobufs) {
            let delay_ns = 1 + core.rng.below(core.faults.delay_max_ns);
            core.schedule(delay_ns, What::Wake { port: self.port });
            return self.starve(core, socket, operation);
        }
        if !self.starved.is_empty() || self.filling >= self.window {
            return self.starve(core, socket, operation);
        }
        match self.pool.acquire(Owner::KernelReceive) {
            Some(buffer) => self.begin_fill(core, socket, operation, buffer),
            None => self.starve(core, socket, operation),
        }
    }

    fn starve(&mut self, core: &mut Core, socket: Socket, mut operation: ReceiveOperation) {
        operation.stage = Stage::Starved;
        self.counters.receive_pauses += 1;
        self.put_receive(socket, operation);
        if !core.misbehaves(Plant::ForgetRearm) {
            self.starved.push_back(socket);
        }
    }

    /// Gives buffers that came home to those who wait for one, the longest waiting first.
    pub(super) fn resume(&mut self, core: &mut Core, room: usize) {
        for _ in 0..self.starved.len() {
            if self.filling >= self.window || self.ready.len() >= room {
                return;
            }
            let Some(buffer) = self.take_or_wait(core) else { return };
            let last_first = core.is_planted(Plant::ServeLastFirst);
            let next = if last_first { self.starved.pop_back() } else { self.starved.pop_front() };
            let Some(socket) = next else { return };
            if let Some(operation) = self.take_receive(socket) {
                self.begin_fill(core, socket, operation, buffer);
            }
        }
    }

    /// A buffer; or `None` and the promise that the port is woken when there is one.
    fn take_or_wait(&self, core: &mut Core) -> Option<Buffer> {
        let taken = self.pool.acquire(Owner::KernelReceive);
        if taken.is_none() {
            let port = &mut core.ports[self.port as usize];
            port.waits_for_buffer = true;
            // One is free if the take was made to fail.
            if self.pool.free() > 0 {
                port.bell.ring();
            }
        }
        taken
    }

    fn begin_fill(
        &mut self,
        core: &mut Core,
        socket: Socket,
        mut operation: ReceiveOperation,
        buffer: Buffer,
    ) {
        self.filling += 1;
        match core.delay_ns() {
            0 => self.fill(core, socket, operation, buffer),
            delay_ns => {
                operation.stage = Stage::Filling(buffer);
                self.put_receive(socket, operation);
                let notice = Notice { socket, step: Step::Fill };
                core.schedule(delay_ns, What::Step { port: self.port, notice });
            }
        }
    }

    pub(super) fn fill_step(&mut self, core: &mut Core, socket: Socket) {
        let Some(mut operation) = self.take_receive(socket) else { return };
        match std::mem::replace(&mut operation.stage, Stage::Waiting) {
            Stage::Filling(buffer) => self.fill(core, socket, operation, buffer),
            other @ (Stage::Waiting | Stage::Starved) => {
                operation.stage = other;
                self.put_receive(socket, operation);
            }
        }
    }

    /// The kernel writes to the buffer, and the completion is ready.
    fn fill(
        &mut self,
        core: &mut Core,
        socket: Socket,
        mut operation: ReceiveOperation,
        mut buffer: Buffer,
    ) {
        self.filling -= 1;
        operation.stage = Stage::Waiting;
        let Some(conn) = self.conn_of(socket) else { return };
        self.copy(core, conn, &mut buffer);
        if buffer.is_empty() {
            // A reset has taken the bytes away since the buffer was picked.
            drop(buffer);
            self.put_receive(socket, operation);
            return self.readable_step(core, socket);
        }
        if core.misbehaves(Plant::OneByteMore) {
            buffer.append(&[0]);
        }
        buffer.set_owner(Owner::Application);
        let last = operation.shots != Shots::Many;
        let rest = core.readable(conn, SERVER) != Readable::Nothing;
        let end_too_early = rest && core.misbehaves(Plant::EarlyEnd);
        if !last && !end_too_early {
            self.put_receive(socket, operation);
            if rest {
                core.notify(conn, SERVER, READ);
            }
        }
        self.receive_completes(core, socket, Done::Received { buffer, last });
        if end_too_early && !last {
            self.receive_completes(core, socket, Done::ReceiveEnded(End::PeerClosed));
        }
    }

    fn copy(&mut self, core: &mut Core, conn: ConnId, buffer: &mut Buffer) {
        let Readable::Bytes(there) = core.readable(conn, SERVER) else { return };
        let whole = there.min(buffer.capacity() as usize);
        let short = whole > 1 && core.injects(FaultKind::ShortReceive);
        let count = if short { 1 + core.rng.below_len(whole - 1) } else { whole };
        core.read(conn, SERVER, count, |bytes| {
            let copied = buffer.append(bytes);
            debug_assert_eq!(copied, bytes.len(), "the read was cut to the buffer's size");
        });
    }

    pub(super) fn cancel_receive(&mut self, core: &mut Core, socket: Socket) {
        let Some(operation) = self.take_receive(socket) else { return };
        let Some(conn) = self.conn_of(socket) else { return };
        if !operation.cancelled {
            // The one that was cancelled is over; this is a later one.
            return self.put_receive(socket, operation);
        }
        let there = matches!(core.readable(conn, SERVER), Readable::Bytes(_));
        let mut operation = operation;
        if there && core.injects(FaultKind::CancelRace) {
            let picked = match std::mem::replace(&mut operation.stage, Stage::Waiting) {
                Stage::Filling(buffer) => {
                    self.filling -= 1;
                    Some(buffer)
                }
                Stage::Starved => {
                    self.starved.retain(|other| *other != socket);
                    self.pool.acquire(Owner::KernelReceive)
                }
                Stage::Waiting => self.pool.acquire(Owner::KernelReceive),
            };
            if let Some(mut buffer) = picked {
                self.copy(core, conn, &mut buffer);
                buffer.set_owner(Owner::Application);
                let last = !core.is_planted(Plant::ForgetLast);
                return self.receive_completes(core, socket, Done::Received { buffer, last });
            }
        }
        self.end_receive(core, socket, operation, End::Cancelled);
    }

    /// The receive is over without bytes; a buffer that it had picked goes home.
    fn end_receive(
        &mut self,
        core: &mut Core,
        socket: Socket,
        operation: ReceiveOperation,
        end: End,
    ) {
        match operation.stage {
            Stage::Waiting => {}
            Stage::Starved => self.starved.retain(|other| *other != socket),
            Stage::Filling(buffer) => {
                self.filling -= 1;
                if core.is_planted(Plant::LeakOnCancel) {
                    self.planted.hoard.push(buffer);
                }
            }
        }
        self.receive_completes(core, socket, Done::ReceiveEnded(end));
    }

    fn receive_completes(&mut self, core: &mut Core, socket: Socket, done: Done) {
        let Some(entry) = self.sockets.get_mut(socket) else { return };
        let key = entry.key;
        self.complete(core, Ready { socket, key, done });
        self.settle(core, socket);
    }

    fn take_receive(&mut self, socket: Socket) -> Option<ReceiveOperation> {
        self.sockets.get_mut(socket)?.state.receive.take()
    }

    fn put_receive(&mut self, socket: Socket, operation: ReceiveOperation) {
        if let Some(entry) = self.sockets.get_mut(socket) {
            entry.state.receive = Some(operation);
        }
    }
}
