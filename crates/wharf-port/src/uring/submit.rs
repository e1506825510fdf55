//! Submit: from operations to submission entries, cancels, and the shutdown.

use super::buffer_ring::{LARGE_GROUP, SMALL_GROUP};
use super::{InputOperation, SendOperation, SocketState, Stage, UringPort};
use crate::memory::chain::Chain;
use crate::memory::ledger::Owner;
use crate::port::admission::check_submit;
use crate::port::demand::Demand;
use crate::port::operation::{CompletionMode, Operation, OperationKind, Socket, SubmitError};
use io_uring::{opcode, squeue, types};
use rustix::fd::AsRawFd;

/// The kind of a submission entry: the upper four bits of its user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Tag {
    Accept = 1,
    Receive = 2,
    Send = 3,
    /// A cancel. Its completion is ignored; that of its target counts.
    Cancel = 4,
    /// The poll of the eventfd.
    Wake = 5,
}

/// User data: 4 bits of tag, 28 of slot index, 32 of generation.
pub(super) fn user_data(tag: Tag, socket: Socket) -> u64 {
    (u64::from(tag as u8) << 60) | (u64::from(socket.index) << 32) | u64::from(socket.generation)
}

#[expect(clippy::cast_possible_truncation, reason = "the parts are masked to their widths")]
pub(super) fn parts(user_data: u64) -> (Option<Tag>, Socket) {
    let tag = match user_data >> 60 {
        1 => Some(Tag::Accept),
        2 => Some(Tag::Receive),
        3 => Some(Tag::Send),
        4 => Some(Tag::Cancel),
        5 => Some(Tag::Wake),
        _ => None,
    };
    let index = (user_data >> 32) as u32 & 0x0FFF_FFFF;
    (tag, Socket { index, generation: user_data as u32 })
}

impl<T: Send> UringPort<T> {
    pub(super) fn submit_operation(
        &mut self,
        socket: Socket,
        operation: Operation,
    ) -> Result<(), SubmitError> {
        let usage = self.sockets.get_mut(socket).map(|entry| entry.state.usage());
        if let Some(kind) = check_submit(usage, &operation) {
            return Err(SubmitError { kind, operation });
        }
        match operation {
            Operation::Receive { mode, bytes_max } => {
                self.start_receive(socket, Demand::new(mode, bytes_max));
            }
            Operation::Send(chain) => self.start_send(socket, chain),
            Operation::Accept(mode) => self.arm_accept(socket, mode),
            Operation::Close => self.start_close(socket),
        }
        Ok(())
    }

    /// Starts a receive. One of 0 bytes polls or peeks. So do others while sockets wait for a
    /// buffer: the kernel would give an armed receive the buffer that is meant for the first of the
    /// queue.
    pub(super) fn start_receive(&mut self, socket: Socket, demand: Demand) {
        if !demand.is_zero_byte() && self.waiting.is_empty() {
            self.arm_receive(socket, demand, Stage::Armed);
        } else if demand.mode == CompletionMode::IfReady {
            self.set_receive(socket, demand, Stage::PeekPending);
            self.report_later(socket);
        } else {
            self.arm_poll(socket, demand);
        }
    }

    /// Arms a receive in the kernel; `stage` is `Armed`, or `Attempt` for a waiting socket.
    pub(super) fn arm_receive(&mut self, socket: Socket, demand: Demand, stage: Stage) {
        let fd = self.fd_of(socket);
        let stage = if stage == Stage::Armed && self.receives_large(socket, demand) {
            Stage::ArmedLarge
        } else {
            stage
        };
        let buffer_size = self.pool.buffer_size_bytes();
        let (group, size) = match (stage, &self.large_ring) {
            (Stage::ArmedLarge, Some(large)) => (LARGE_GROUP, large.buffer_size_bytes()),
            _ => (SMALL_GROUP, buffer_size),
        };
        let len = demand.len_max(size);
        // A limit that fits one buffer is kept by oneshot receives, whose length the kernel obeys.
        let is_many =
            demand.mode == CompletionMode::Multishot && demand.len_max(u32::MAX) > buffer_size;
        let entry = if is_many && stage == Stage::Armed {
            opcode::RecvMulti::new(fd, SMALL_GROUP).build()
        } else {
            // An attempt does not wait: without bytes it would take up a provided buffer that
            // another waiting socket can use.
            let waits = demand.mode != CompletionMode::IfReady && stage != Stage::Attempt;
            let flags = if waits { 0 } else { libc::MSG_DONTWAIT };
            opcode::Recv::new(fd, std::ptr::null_mut(), len)
                .buf_group(group)
                .flags(flags)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        };
        self.attempts += u32::from(stage == Stage::Attempt);
        self.push_operation(socket, Tag::Receive, entry, |state| {
            state.input = Some(InputOperation::new(demand, stage));
        });
    }

    /// Whether a receive is to use large buffers, and at least one is provided.
    fn receives_large(&mut self, socket: Socket, demand: Demand) -> bool {
        let (sockets, pool) = (&mut self.sockets, &self.pool);
        self.large_ring.as_ref().is_some_and(|large| large.provided_count() > 0)
            && sockets
                .get_mut(socket)
                .is_some_and(|entry| entry.state.bulk.wants_large(demand, pool))
    }

    /// Arms a poll for bytes, the end of the stream, or an error.
    pub(super) fn arm_poll(&mut self, socket: Socket, demand: Demand) {
        let fd = self.fd_of(socket);
        // The kernel adds POLLERR and POLLHUP.
        let events = (libc::POLLIN | libc::POLLRDHUP).unsigned_abs();
        let entry = opcode::PollAdd::new(fd, events.into()).build();
        self.push_operation(socket, Tag::Receive, entry, |state| {
            state.input = Some(InputOperation::new(demand, Stage::Poll));
        });
    }

    /// Appends a socket whose receive is not in the kernel to the queue for buffers, unless it is
    /// there already.
    pub(super) fn wait_for_buffer(&mut self, socket: Socket, demand: Demand) {
        self.set_receive(socket, demand, Stage::WaitingForBuffer);
        self.waiting.push_back(socket);
    }

    pub(super) fn set_receive(&mut self, socket: Socket, demand: Demand, stage: Stage) {
        self.state_mut(socket).input = Some(InputOperation::new(demand, stage));
    }

    pub(super) fn arm_accept(&mut self, socket: Socket, mode: CompletionMode) {
        let (fd, once) = (self.fd_of(socket), self.state_mut(socket).accepts_once);
        let flags = libc::SOCK_CLOEXEC;
        let entry = if mode == CompletionMode::Multishot && !once {
            opcode::AcceptMulti::new(fd).flags(flags).build()
        } else {
            let (no_address, no_length) = (std::ptr::null_mut(), std::ptr::null_mut());
            opcode::Accept::new(fd, no_address, no_length).flags(flags).build()
        };
        self.push_operation(socket, Tag::Accept, entry, |state| {
            state.input = Some(InputOperation::new(Demand::accept(mode), Stage::Armed));
        });
    }

    fn start_send(&mut self, socket: Socket, chain: Chain) {
        chain.set_owner(Owner::KernelSend);
        self.arm_send(socket, SendOperation { chain, sent: 0, goal: 0, cancelled: false });
    }

    /// Hands the rest of a send to the kernel: its next buffer, or as many as a header has vectors
    /// for. With the first of these entries the send is to send as many bytes as it names.
    ///
    /// Without MSG_WAITALL: with it the kernel continues after a short send, but only 128 times
    /// (APOLL_MAX_RETRY in io_uring/poll.c); then a thread of the kernel blocks for each peer that
    /// reads slowly. So the port continues.
    #[inline]
    fn arm_send(&mut self, socket: Socket, mut send: SendOperation) {
        let fd = self.fd_of(socket);
        let flags = libc::MSG_NOSIGNAL;
        let next = if send.sent == 0 {
            send.chain.front()
        } else {
            send.chain.slices_from(send.sent).next().unwrap_or_default()
        };
        assert!(!next.is_empty(), "a send has bytes to send");
        let left = send.chain.len() - send.sent;
        let header = (next.len() < left).then(|| self.header_for(&send)).flatten();
        let (entry, len) = match header {
            Some((header, len)) =>
            {
                #[expect(clippy::cast_sign_loss, reason = "flags are bits")]
                (opcode::SendMsg::new(fd, header).flags(flags as u32).build(), len)
            }
            // One buffer; or no header is free, and then the next buffer only.
            None => {
                #[expect(clippy::cast_possible_truncation, reason = "a buffer is at most 1 MiB")]
                let len = next.len() as u32;
                (opcode::Send::new(fd, next.as_ptr(), len).flags(flags).build(), next.len())
            }
        };
        if send.goal == 0 {
            send.goal = len;
        }
        // Moving the chain does not move its bytes: its entries are in the pool's table.
        self.push_operation(socket, Tag::Send, entry, |state| state.send = Some(send));
    }

    /// Sends the rest after a short send.
    #[cold]
    pub(super) fn continue_send(&mut self, socket: Socket) {
        if let Some(send) = self.state_mut(socket).send.take() {
            self.arm_send(socket, send);
        }
    }

    /// A message header for a chain of several buffers, if one is free and its entry fits into the
    /// queue: submitting the queue in between would free the header for the next send.
    fn header_for(&mut self, send: &SendOperation) -> Option<(*const libc::msghdr, usize)> {
        if self.vectors.is_full() || !self.has_free_entry() {
            self.submit_queued();
        }
        let is_short = self.vectors.is_full() || !self.has_free_entry();
        (!is_short).then(|| self.vectors.header_for(send.chain.slices_from(send.sent)))
    }

    /// Whether the submission queue takes another entry.
    fn has_free_entry(&mut self) -> bool {
        self.overflow.is_empty() && !self.ring.submission().is_full()
    }

    fn start_close(&mut self, socket: Socket) {
        for kind in [OperationKind::Receive, OperationKind::Send, OperationKind::Accept] {
            self.cancel_operation(socket, kind);
        }
        self.state_mut(socket).closing = true;
        self.report_later(socket);
    }

    /// Cancels an operation: by an entry to the kernel, or by a report in the next dequeue.
    pub(super) fn cancel_operation(&mut self, socket: Socket, kind: OperationKind) {
        let Some(entry) = self.sockets.get_mut(socket) else { return };
        let state = &mut entry.state;
        let running = match kind {
            OperationKind::Receive if !state.listener => state.input.as_mut(),
            OperationKind::Accept if state.listener => state.input.as_mut(),
            OperationKind::Send => {
                if let Some(send) = state.send.as_mut()
                    && !send.cancelled
                {
                    send.cancelled = true;
                    self.push_cancel(Tag::Send, socket);
                }
                return;
            }
            OperationKind::Receive | OperationKind::Accept | OperationKind::Close => return,
        };
        let Some(running) = running else { return };
        if running.cancelled {
            return;
        }
        running.cancelled = true;
        match running.stage {
            Stage::WaitingForBuffer | Stage::PeekPending => {
                running.stage = Stage::CancelPending;
                self.waiting.remove(socket);
                self.report_later(socket);
            }
            Stage::Armed | Stage::ArmedLarge | Stage::Attempt | Stage::Poll => {
                running.cancelled_at = self.enters;
                let tag = if kind == OperationKind::Accept { Tag::Accept } else { Tag::Receive };
                self.push_cancel(tag, socket);
            }
            Stage::CancelPending => {}
        }
    }

    pub(super) fn shutdown_socket(&mut self, socket: Socket) {
        if let Some(entry) = self.sockets.get_mut(socket) {
            // ENOTCONN: the connection is gone, which the receive reports.
            let _gone = rustix::net::shutdown(&entry.state.fd, rustix::net::Shutdown::Write);
        }
    }

    /// Repeats the cancel of a multishot that has completed after its cancel: the cancel ran
    /// between two completions and did not find it. Does nothing before the last cancel was
    /// submitted.
    pub(super) fn cancel_again(&mut self, tag: Tag, socket: Socket) {
        if let Some(entry) = self.sockets.get_mut(socket)
            && let Some(running) = entry.state.input.as_mut()
            && running.cancelled_at != self.enters
        {
            running.cancelled_at = self.enters;
            self.push_cancel(tag, socket);
        }
    }

    /// Makes the next dequeue check the socket for completions that the kernel does not make.
    pub(super) fn report_later(&mut self, socket: Socket) {
        if let Some(entry) = self.sockets.get_mut(socket)
            && !entry.state.queued
        {
            entry.state.queued = true;
            self.unreported.push_back(socket);
        }
    }

    /// Arms a multishot poll of the eventfd, which is edge-triggered.
    pub(super) fn watch_wake(&mut self) {
        let Some(fd) = self.wake.with_fd(|fd| types::Fd(fd.as_raw_fd())) else {
            unreachable!("the inbox, which this port has, keeps it open")
        };
        let entry =
            opcode::PollAdd::new(fd, libc::POLLIN.unsigned_abs().into()).multi(true).build();
        let no_socket = Socket { index: 0, generation: 0 };
        self.push(entry.user_data(user_data(Tag::Wake, no_socket)));
    }

    /// The state of a socket whose handle was just checked, or that has an operation in flight.
    pub(super) fn state_mut(&mut self, socket: Socket) -> &mut SocketState {
        let Some(entry) = self.sockets.get_mut(socket) else {
            unreachable!("a socket is in the table until its operations have completed");
        };
        &mut entry.state
    }

    fn fd_of(&mut self, socket: Socket) -> types::Fd {
        types::Fd(self.state_mut(socket).fd.as_raw_fd())
    }

    /// Queues an operation's entry, counts it as in the kernel, and lets `update` change the state.
    fn push_operation(
        &mut self,
        socket: Socket,
        tag: Tag,
        entry: squeue::Entry,
        update: impl FnOnce(&mut SocketState),
    ) {
        let state = self.state_mut(socket);
        state.in_kernel += 1;
        update(state);
        self.in_kernel += 1;
        self.push(entry.user_data(user_data(tag, socket)));
    }

    fn push_cancel(&mut self, target: Tag, socket: Socket) {
        let entry = opcode::AsyncCancel::new(user_data(target, socket)).build();
        self.push(entry.user_data(user_data(Tag::Cancel, socket)));
    }

    fn push(&mut self, entry: squeue::Entry) {
        if self.overflow.is_empty() {
            if !self.has_free_entry() {
                self.submit_queued();
            }
            // SAFETY: the memory and descriptors that the entry names exist until its completion:
            // the socket's slot keeps descriptor and chain while `in_kernel` counts the operation
            // (INV-URING-1), message headers exist until the entry is consumed (INV-URING-2), and
            // the eventfd exists as long as the port.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.overflow.push_back(entry);
    }

    /// Moves entries of `overflow` into the submission queue, as many as fit.
    pub(super) fn push_overflow(&mut self) {
        while let Some(entry) = self.overflow.front() {
            // SAFETY: as in `push`; the memory that the entries point to was kept, too.
            if unsafe { self.ring.submission().push(entry) }.is_err() {
                return;
            }
            self.overflow.pop_front();
        }
    }
}

impl InputOperation {
    fn new(demand: Demand, stage: Stage) -> Self {
        Self { demand, stage, cancelled: false, cancelled_at: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_carries_tag_slot_and_generation() {
        let socket = Socket { index: 0x0ABC_DEF1, generation: 0xFFFF_FFFE };
        for tag in [Tag::Accept, Tag::Receive, Tag::Send, Tag::Cancel, Tag::Wake] {
            assert_eq!(parts(user_data(tag, socket)), (Some(tag), socket));
        }
        assert_eq!(parts(0).0, None);
    }
}
