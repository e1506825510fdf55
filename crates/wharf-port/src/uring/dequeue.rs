//! Dequeue: from the kernel's completions to the port's.
//!
//! One dequeue reports completions that the port makes itself, refills the buffer rings, submits
//! the queue and waits, processes the kernel's completions, and takes packets.

use super::submit::{Tag, parts};
use super::{InputOperation, Stage, UringPort};
use crate::linux::{self, Peek};
use crate::memory::buffer::Buffer;
use crate::memory::ledger::Owner;
use crate::port::bulk::Bulk;
use crate::port::completion::{Completion, EndReason, Outcome};
use crate::port::contract::{ACCEPT_ABORTS_MAX, Completions, DROP_WAIT_MAX, is_full};
use crate::port::demand::Demand;
use crate::port::error::{OsError, PortError};
use crate::port::operation::{CompletionMode, Key, OperationKind, Socket};
use io_uring::cqueue;
use rustix::fd::{FromRawFd, OwnedFd};
use std::net::TcpStream;
use std::time::Duration;

/// Failures of `io_uring_enter` in a row with EAGAIN or ENOMEM, 1 ms apart, after which dequeue
/// returns the error.
const FAILURES_MAX: u32 = 5000;

/// Buffers that the kernel fills for one multishot receive before it continues with the next
/// operation (`MULTISHOT_MAX_RETRY` in io_uring/net.c).
const MULTISHOT_BUFFERS_MAX: u32 = 32;

/// `struct io_uring_getevents_arg` of the kernel's ABI.
#[repr(C)]
struct WaitArgument {
    sigmask: u64,
    sigmask_size: u32,
    min_wait_us: u32,
    timespec: u64,
}

/// `struct __kernel_timespec` of the kernel's ABI.
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;

impl<T: Send> UringPort<T> {
    pub(super) fn dequeue_completions(
        &mut self,
        completions: &mut Completions<Self>,
        timeout: Option<Duration>,
    ) -> Result<(), PortError> {
        let before = completions.len();
        let notified = self.inbox.take_packets_first(completions);
        self.report_pending(completions);
        let must_not_wait = self.serve_waiters();
        self.push_overflow();
        let idle = !must_not_wait
            && completions.len() == before
            && !is_full(completions)
            && !notified
            && self.overflow.is_empty()
            && self.ring.completion().is_empty();
        if idle && timeout != Some(Duration::ZERO) && self.inbox.fall_asleep() {
            self.enter(1, timeout)?;
        } else {
            self.enter(0, Some(Duration::ZERO))?;
        }
        self.process_cqes(completions);
        self.report_pending(completions);
        self.inbox.take_packets(completions);
        Ok(())
    }

    /// Prepares a wait for the ring's descriptor: submits what a dequeue would submit, and falls
    /// asleep. `false` if something is there already.
    pub(super) fn prepare_sleep(&mut self) -> Result<bool, PortError> {
        if self.serve_waiters() {
            return Ok(false);
        }
        self.enter(0, Some(Duration::ZERO))?;
        let idle = self.unreported.is_empty()
            && self.overflow.is_empty()
            && self.ring.submission().is_empty()
            && self.ring.completion().is_empty();
        Ok(idle && self.inbox.fall_asleep())
    }

    /// Refills the buffer rings, and arms a receive for as many waiting sockets as there are
    /// provided buffers: a nonblocking attempt for one buffer each, or a multishot receive if the
    /// socket's last buffer was full and [`MULTISHOT_BUFFERS_MAX`] are provided. The kernel
    /// executes submissions in order, and before it continues armed receives.
    ///
    /// Buffers are released on this thread only, so none while it sleeps. Returns whether a socket
    /// waits although buffers are provided: then the thread must not sleep.
    fn serve_waiters(&mut self) -> bool {
        self.buffer_ring.refill();
        if let Some(large) = &mut self.large_ring {
            large.refill();
        }
        let mut left = self.buffer_ring.provided_count().saturating_sub(self.attempts);
        let mut next = self.waiting.first();
        // Skips only sockets whose attempt is in the kernel.
        while let Some(socket) = next
            && left > 0
        {
            next = self.waiting.after(socket);
            let state = self.state_mut(socket);
            let Some(InputOperation { demand, stage: Stage::WaitingForBuffer, .. }) = state.input
            else {
                continue;
            };
            let wants_many = state.fills && demand.mode == CompletionMode::Multishot;
            if wants_many && left >= MULTISHOT_BUFFERS_MAX {
                left -= MULTISHOT_BUFFERS_MAX;
                self.waiting.remove(socket);
                self.arm_receive(socket, demand, Stage::Armed);
            } else if wants_many && self.buffer_ring.provided_count() >= MULTISHOT_BUFFERS_MAX {
                // It is the first in the next dequeue.
                return true;
            } else {
                left -= 1;
                self.arm_receive(socket, demand, Stage::Attempt);
            }
        }
        false
    }

    /// Submits the queued entries without waiting.
    pub(super) fn submit_queued(&mut self) {
        // If the failure persists, the next dequeue returns it.
        let _reported_by_dequeue = self.enter(0, Some(Duration::ZERO));
    }

    /// `io_uring_enter`: submits the queue, runs deferred task work, and waits for `min_complete`
    /// completions.
    fn enter(&mut self, min_complete: u32, timeout: Option<Duration>) -> Result<(), PortError> {
        self.push_overflow();
        let timespec = timeout.map(|timeout| Timespec {
            seconds: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i64::from(timeout.subsec_nanos()),
        });
        let argument = WaitArgument {
            sigmask: 0,
            sigmask_size: 0,
            min_wait_us: 0,
            timespec: timespec.as_ref().map_or(0, |timespec| std::ptr::from_ref(timespec) as u64),
        };
        let queued = self.ring.submission().len();
        let to_submit = u32::try_from(queued).unwrap_or(u32::MAX);
        let flags = ENTER_GETEVENTS | ENTER_EXT_ARG;
        self.counters.waits += 1;
        self.enters = self.enters.wrapping_add(1);
        // SAFETY: every queued entry fulfils the argument in `push`; `argument` has the layout that
        // IORING_ENTER_EXT_ARG requires (io_uring_enter(2)), and it and the timespec outlive the
        // call.
        let result =
            unsafe { self.ring.submitter().enter(to_submit, min_complete, flags, Some(&argument)) };
        if self.ring.submission().is_empty() && self.overflow.is_empty() {
            self.vectors.reset();
        }
        let Err(error) = result else {
            self.failures = 0;
            return Ok(());
        };
        match error.raw_os_error() {
            // The timeout; a signal; completions that must be processed first.
            Some(libc::ETIME | libc::EINTR | libc::EBUSY) => Ok(()),
            Some(libc::EAGAIN | libc::ENOMEM) if self.failures < FAILURES_MAX => {
                self.failures += 1;
                // Operations in flight release kernel memory when they complete.
                std::thread::sleep(Duration::from_millis(1));
                Ok(())
            }
            _ => Err(OsError::from_io("io_uring_enter", &error).into()),
        }
    }

    /// Processes the kernel's completions while `completions` has spare capacity.
    fn process_cqes(&mut self, completions: &mut Completions<Self>) {
        while !is_full(completions) {
            let Some(done) = self.ring.completion().next() else { return };
            let (tag, socket) = parts(done.user_data());
            let outcome = match tag {
                Some(Tag::Receive) => self.received(socket, &done),
                Some(Tag::Send) => self.sent(socket, &done),
                Some(Tag::Accept) => self.accepted(socket, &done),
                Some(Tag::Cancel) => None,
                Some(Tag::Wake) => {
                    self.counters.wakeups += 1;
                    if !cqueue::more(done.flags()) {
                        self.watch_wake();
                    }
                    None
                }
                None => {
                    self.counters.stale_completions += 1;
                    None
                }
            };
            if let Some((key, outcome)) = outcome {
                completions.push(Completion { key, outcome });
            }
        }
    }

    /// The key of a completion's socket. Unless `more` follow, counts the operation as no longer in
    /// the kernel.
    #[inline]
    fn count_cqe(&mut self, socket: Socket, more: bool) -> Key {
        let Some(entry) = self.sockets.get_mut(socket) else {
            panic!("{socket:?} was closed with an operation in the kernel (INV-URING-1)");
        };
        if !more {
            // Wrong counts would free memory that the kernel uses (INV-URING-1).
            assert!(entry.state.in_kernel > 0, "the operation was not in the kernel");
            entry.state.in_kernel -= 1;
            self.in_kernel -= 1;
        }
        let (key, closing) = (entry.key, entry.state.closing);
        if closing {
            self.report_later(socket);
        }
        key
    }

    /// The buffer that the socket's receive has filled.
    fn take_filled_buffer(&mut self, socket: Socket, id: u16, len: u32) -> Option<Buffer> {
        let input = self.sockets.get_mut(socket).and_then(|entry| entry.state.input);
        let is_large = input.is_some_and(|running| running.stage == Stage::ArmedLarge);
        let buffer_ring = if is_large { self.large_ring.as_mut()? } else { &mut self.buffer_ring };
        Some(buffer_ring.take_filled(id, len))
    }

    fn received(&mut self, socket: Socket, done: &cqueue::Entry) -> Option<Reported<T>> {
        let more = cqueue::more(done.flags());
        let len = u32::try_from(done.result()).unwrap_or(0);
        let buffer = cqueue::buffer_select(done.flags())
            .and_then(|id| self.take_filled_buffer(socket, id, len));
        let key = self.count_cqe(socket, more);
        let state = &mut self.sockets.get_mut(socket)?.state;
        let running = state.input.as_mut()?;
        let InputOperation { stage, cancelled, .. } = *running;
        if stage == Stage::Poll {
            return self.polled(socket, key, done.result());
        }
        let found_no_buffer = done.result() == -libc::ENOBUFS && !more;
        if stage == Stage::Attempt && !more {
            self.attempts -= 1;
            if !found_no_buffer || cancelled {
                self.waiting.remove(socket);
            }
        }
        let end = match (done.result(), buffer) {
            (1.., Some(buffer)) => {
                state.fills = buffer.spare_capacity() == 0;
                state.bulk.record(len, &self.pool);
                let is_over = running.demand.received(len);
                let go_on = !is_over && !cancelled && !state.closing;
                let demand = running.demand;
                if !more {
                    state.input = None;
                    if go_on {
                        let more_is_there = cqueue::sock_nonempty(done.flags());
                        self.rearm_receive(socket, demand, more_is_there);
                    }
                } else if cancelled {
                    self.cancel_again(Tag::Receive, socket);
                } else if is_over {
                    // The kernel knows no limit of a multishot: completions until the cancel still
                    // follow.
                    self.cancel_operation(socket, OperationKind::Receive);
                }
                return Some((key, Outcome::Received { buffer, last: !more && !go_on }));
            }
            // The cancelled attempt found no bytes or no buffer.
            (result, _) if cancelled && [libc::ENOBUFS, libc::EAGAIN].contains(&-result) => {
                EndReason::Cancelled
            }
            _ if found_no_buffer && stage == Stage::ArmedLarge => {
                let demand = running.demand;
                return self.receive_small(socket, demand);
            }
            _ if found_no_buffer => {
                // After an attempt, whose buffer another receive took, it still has its position in
                // the queue.
                self.counters.buffer_waits += u64::from(stage == Stage::Armed);
                let demand = running.demand;
                self.wait_for_buffer(socket, demand);
                return None;
            }
            (result, _)
                if cancelled_by_kernel(result, cancelled)
                    || result == -libc::EAGAIN
                        && stage == Stage::Attempt
                        && running.demand.mode != CompletionMode::IfReady =>
            {
                // The attempt found no bytes: it waits for them without a buffer.
                let demand = running.demand;
                self.rearm_receive(socket, demand, false);
                return None;
            }
            (result, _) => end_of("recv", result),
        };
        if more {
            // A result without bytes whose flags announce more completions is not the end.
            return None;
        }
        state.input = None;
        Some((key, Outcome::ReceiveEnded(end)))
    }

    /// No large buffer is free: receives into small ones.
    fn receive_small(&mut self, socket: Socket, demand: Demand) -> Option<Reported<T>> {
        let state = &mut self.sockets.get_mut(socket)?.state;
        (state.input, state.bulk) = (None, Bulk::default());
        self.start_receive(socket, demand);
        None
    }

    /// A poll completed. Completes a zero-byte receive; arms another receive, or queues it for a
    /// buffer.
    fn polled(&mut self, socket: Socket, key: Key, result: i32) -> Option<Reported<T>> {
        let state = &mut self.sockets.get_mut(socket)?.state;
        let InputOperation { demand, cancelled, .. } = state.input?;
        let end = if cancelled_by_kernel(result, cancelled) {
            self.arm_poll(socket, demand);
            return None;
        } else if result < 0 {
            end_of("poll", result)
        } else if demand.is_zero_byte() {
            match linux::peek(&state.fd) {
                Peek::Bytes => EndReason::Readable,
                Peek::Ended(end) => end,
                Peek::Nothing if cancelled => EndReason::Cancelled,
                Peek::Nothing => {
                    self.arm_poll(socket, demand);
                    return None;
                }
            }
        } else if cancelled {
            EndReason::Cancelled
        } else {
            self.arm_or_wait(socket, demand);
            return None;
        };
        state.input = None;
        Some((key, Outcome::ReceiveEnded(end)))
    }

    /// Arms a receive whose socket is readable, or queues it behind the sockets that wait for a
    /// buffer.
    fn arm_or_wait(&mut self, socket: Socket, demand: Demand) {
        if self.waiting.is_empty() {
            self.arm_receive(socket, demand, Stage::Armed);
        } else {
            self.counters.buffer_waits += 1;
            self.wait_for_buffer(socket, demand);
        }
    }

    /// Continues a receive after its oneshot completion.
    ///
    /// If others wait for a buffer and this socket has more data, it queues behind them. Without
    /// more data it polls: its attempt would find no bytes, and an armed receive would take a
    /// buffer before the waiting ones.
    fn rearm_receive(&mut self, socket: Socket, demand: Demand, more_is_there: bool) {
        if self.waiting.is_empty() {
            self.arm_receive(socket, demand, Stage::Armed);
        } else if more_is_there {
            self.wait_for_buffer(socket, demand);
        } else {
            self.arm_poll(socket, demand);
        }
    }

    fn sent(&mut self, socket: Socket, done: &cqueue::Entry) -> Option<Reported<T>> {
        let key = self.count_cqe(socket, false);
        let state = &mut self.sockets.get_mut(socket)?.state;
        let send = state.send.as_mut()?;
        send.sent += usize::try_from(done.result()).unwrap_or(0);
        let is_short = send.sent < send.goal && done.result() > 0 && !send.cancelled;
        if is_short || cancelled_by_kernel(done.result(), send.cancelled) {
            self.continue_send(socket);
            return None;
        }
        let send = state.send.take()?;
        let sent = send.sent;
        let end = if done.result() < 0 {
            Some(end_of("send", done.result()))
        } else if send.cancelled && sent < send.chain.len() {
            Some(EndReason::Cancelled)
        } else {
            None
        };
        send.chain.set_owner(Owner::Application);
        Some((key, Outcome::Sent { chain: send.chain, sent, end }))
    }

    fn accepted(&mut self, socket: Socket, done: &cqueue::Entry) -> Option<Reported<T>> {
        let more = cqueue::more(done.flags());
        let stream = (done.result() >= 0).then(|| {
            // SAFETY: the kernel created this descriptor for this completion; no other code has it.
            TcpStream::from(unsafe { OwnedFd::from_raw_fd(done.result()) })
        });
        let key = self.count_cqe(socket, more);
        let running = self.sockets.get_mut(socket)?.state.input?;
        if more && running.cancelled {
            self.cancel_again(Tag::Accept, socket);
        }
        let state = &mut self.sockets.get_mut(socket)?.state;
        let over = running.cancelled || state.closing;
        let mode = running.demand.mode;
        let go_on = mode == CompletionMode::Multishot && !over;
        if let Some(stream) = stream {
            state.accept_aborts = 0;
            match linux::peer_of(&stream) {
                Some(peer) => {
                    if !more {
                        state.input = None;
                        if go_on {
                            self.arm_accept(socket, mode);
                        }
                    }
                    let last = !more && !go_on;
                    return Some((key, Outcome::Accepted { stream, peer, last }));
                }
                None => self.counters.accept_aborts += 1,
            }
        } else if linux::is_connection_error(-done.result())
            && state.accept_aborts < ACCEPT_ABORTS_MAX
        {
            state.accept_aborts += 1;
            self.counters.accept_aborts += 1;
        } else if cancelled_by_kernel(done.result(), over) {
            // It is armed again below.
        } else if done.result() == -libc::EINVAL && !state.accepts_once && go_on {
            state.accepts_once = true;
        } else if !more {
            (state.input, state.accept_aborts) = (None, 0);
            // A listener that is being closed may not listen any more, and the accept then fails.
            let end = if over { EndReason::Cancelled } else { end_of("accept", done.result()) };
            return Some((key, Outcome::AcceptEnded(end)));
        }
        // No connection to report; if the kernel has ended the accept, arm another.
        if !more {
            let state = &mut self.sockets.get_mut(socket)?.state;
            state.input = None;
            if over {
                return Some((key, Outcome::AcceptEnded(EndReason::Cancelled)));
            }
            self.arm_accept(socket, mode);
        }
        None
    }

    /// Makes the completions that the kernel does not: of receives that were cancelled while they
    /// were not in the kernel, of receives that peek, and of sockets that can be closed.
    fn report_pending(&mut self, completions: &mut Completions<Self>) {
        for _ in 0..self.unreported.len() {
            if is_full(completions) {
                return;
            }
            let Some(socket) = self.unreported.pop_front() else { return };
            let Some(entry) = self.sockets.get_mut(socket) else {
                unreachable!("a socket leaves the table only when it is not queued");
            };
            let (key, state) = (entry.key, &mut entry.state);
            state.queued = false;
            let end = match state.input {
                Some(InputOperation { stage: Stage::CancelPending, .. }) => {
                    Some(EndReason::Cancelled)
                }
                Some(InputOperation { stage: Stage::PeekPending, demand, .. }) => {
                    match linux::peek(&state.fd) {
                        Peek::Bytes if demand.is_zero_byte() => Some(EndReason::Readable),
                        Peek::Bytes => {
                            self.arm_or_wait(socket, demand);
                            continue;
                        }
                        Peek::Nothing => Some(EndReason::NotReady),
                        Peek::Ended(end) => Some(end),
                    }
                }
                _ => None,
            };
            if let Some(end) = end {
                state.input = None;
                completions.push(Completion { key, outcome: Outcome::ReceiveEnded(end) });
                if state.closing {
                    self.report_later(socket);
                }
            } else if state.closing && state.in_kernel == 0 && state.input.is_none() {
                // The drop closes the descriptor.
                drop(self.sockets.remove(socket));
                completions.push(Completion { key, outcome: Outcome::Closed });
            }
        }
    }
}

type Reported<T> = (Key, Outcome<TcpStream, T>);

/// Whether the kernel has cancelled an operation and the port has not: it cancels those of a thread
/// that ends. On a port that moves between threads the operation is not over, and is submitted again.
fn cancelled_by_kernel(result: i32, cancelled: bool) -> bool {
    result == -libc::ECANCELED && !cancelled
}

/// The end that a result of 0 or less means.
fn end_of(call: &'static str, result: i32) -> EndReason {
    match -result {
        0 => EndReason::PeerClosed,
        libc::ECANCELED => EndReason::Cancelled,
        libc::EAGAIN => EndReason::NotReady,
        code => EndReason::Failed(OsError::new(call, code)),
    }
}

impl<T: Send> Drop for UringPort<T> {
    /// Closing the ring cancels operations asynchronously, and until they end the kernel may write
    /// to buffers that this drop frees. So it cancels, waits until no operation is in the kernel,
    /// at most `DROP_WAIT_MAX`, and then frees; it leaks the memory of operations that did not
    /// complete.
    fn drop(&mut self) {
        // A start that fails for lack of memory allocates nothing here.
        if self.in_kernel == 0 {
            return;
        }
        let sockets: Vec<Socket> = self.sockets.sockets().collect();
        for socket in sockets {
            for kind in [OperationKind::Receive, OperationKind::Send, OperationKind::Accept] {
                self.cancel_operation(socket, kind);
            }
        }
        let deadline = self.clock.now().saturating_add(DROP_WAIT_MAX);
        let mut dropped = Completions::<Self>::with_capacity(64);
        while self.in_kernel > 0 && self.clock.now() < deadline {
            if self.enter(1, Some(Duration::from_millis(10))).is_err() {
                break;
            }
            self.process_cqes(&mut dropped);
            dropped.clear();
        }
        if self.in_kernel > 0 {
            self.buffer_ring.leak();
            if let Some(large) = &mut self.large_ring {
                large.leak();
            }
            self.sockets.leak();
        }
    }
}
