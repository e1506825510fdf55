//! Dequeue: reports completions, polls epoll, and makes the system calls of ready sockets.

use super::calls::{self, Accept};
use super::socket::{InputOperation, Role, SendEnd, SendOperation, SocketState};
use super::{EpollPort, WAKE, socket_of};
use crate::port::completion::{Completion, EndReason, Outcome};
use crate::port::contract::{ACCEPT_ABORTS_MAX, Completions, Counters, is_full};
use crate::port::demand::Demand;
use crate::port::error::PortError;
use crate::port::operation::{CompletionMode, Key, Socket};
use crate::port::supply::Supply;
use crate::port::table::Entry;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use std::net::TcpStream;
use std::time::Duration;

impl<T: Send> EpollPort<T> {
    pub(super) fn dequeue_completions(
        &mut self,
        completions: &mut Completions<Self>,
        timeout: Option<Duration>,
    ) -> Result<(), PortError> {
        if is_full(completions) {
            return Ok(());
        }
        self.supply.begin_dequeue();
        let before = completions.len();
        let first = self.inbox.take_packets_first(completions);
        let notified = self.collect_completions(completions) || first;
        let has_something = notified || completions.len() > before;
        // With completions ready, dequeue returns without `epoll_wait` (an echo's `Sent`, for
        // example), but never twice in a row, so that events of other sockets are fetched.
        if has_something && !self.poll_is_due {
            self.poll_is_due = true;
            return Ok(());
        }
        self.poll_is_due = false;
        // Receives without bytes may have used up this dequeue's receives, and no buffer is
        // released while this thread sleeps.
        let at_once = has_something || self.has_work();
        let woken = self.poll_epoll(if at_once { Some(Duration::ZERO) } else { timeout })?;
        let posted = self.collect_completions(completions);
        self.counters.wakeups += u64::from(woken && posted);
        Ok(())
    }

    /// Whether a dequeue has work without an event.
    pub(super) fn has_work(&self) -> bool {
        self.supply.can_serve_waiters() || !self.ready.is_empty()
    }

    /// Appends the completions that need no `epoll_wait`; returns whether the inbox had a
    /// notification.
    fn collect_completions(&mut self, completions: &mut Completions<Self>) -> bool {
        self.process_ready(completions);
        self.inbox.take_packets(completions)
    }

    /// Waits for events and records them; returns whether the wake-up was among them.
    fn poll_epoll(&mut self, timeout: Option<Duration>) -> Result<bool, PortError> {
        let may_sleep = timeout != Some(Duration::ZERO) && self.inbox.fall_asleep();
        let timeout = if may_sleep { timeout } else { Some(Duration::ZERO) };
        self.events.clear();
        self.counters.waits += 1;
        let wait = timeout.map(timespec);
        let result = epoll::wait(&self.epoll, spare_capacity(&mut self.events), wait.as_ref());
        match result {
            Ok(_) | Err(Errno::INTR) => Ok(self.record_events()),
            Err(errno) => Err(calls::error("epoll_wait", errno).into()),
        }
    }

    fn record_events(&mut self) -> bool {
        let mut woken = false;
        for at in 0..self.events.len() {
            let epoll::Event { flags, data } = self.events[at];
            if data.u64() == WAKE {
                woken = true;
                continue;
            }
            let socket = socket_of(data.u64());
            if let Some(entry) = self.sockets.get_mut(socket) {
                entry.state.record_events(flags);
                entry.state.queue_if_busy(socket, &mut self.ready);
            } else {
                // `close` removes a socket from epoll first, and events are recorded as soon as
                // they are fetched, so this does not happen without a bug.
                self.counters.stale_completions += 1;
            }
        }
        woken
    }

    /// Serves the sockets that wait for a buffer, then processes each ready socket once.
    fn process_ready(&mut self, completions: &mut Completions<Self>) {
        self.serve_waiters(completions);
        for _ in 0..self.ready.len() {
            if is_full(completions) {
                return;
            }
            let Some(socket) = self.ready.pop_front() else { return };
            self.process_socket(socket, completions);
        }
    }

    /// Receives on the sockets that wait for a buffer, in FIFO order, while buffers are free.
    fn serve_waiters(&mut self, completions: &mut Completions<Self>) {
        while !is_full(completions) {
            let Some((socket, buffer)) = self.supply.next_waiter() else { return };
            let Some(Entry { key, state }) = self.sockets.get_mut(socket) else {
                unreachable!("a socket leaves the queue for buffers before the table");
            };
            let InputOperation::WaitingForBuffer(demand) = state.input else {
                unreachable!("a socket is in the queue for buffers while its receive waits");
            };
            push(completions, *key, state.receive(demand, buffer, self.supply.pool()));
            state.queue_if_busy(socket, &mut self.ready);
        }
    }

    /// Makes progress with each operation of a ready socket. `completions` has spare capacity.
    fn process_socket(&mut self, socket: Socket, completions: &mut Completions<Self>) {
        let Some(Entry { key, state }) = self.sockets.get_mut(socket) else {
            unreachable!("a socket leaves the table only when it is not queued");
        };
        state.queued = false;
        if state.input == InputOperation::Cancelled {
            state.input = InputOperation::Idle;
            push(completions, *key, Some(state.role.input_cancelled()));
        }
        if state.send.is_some() && !is_full(completions) {
            if state.writable {
                state.send_rest();
            }
            push(completions, *key, sent(state));
        }
        match state.role {
            Role::Connection => {
                let (supply, counters) = (&mut self.supply, &mut self.counters);
                receive(socket, *key, state, completions, supply, counters);
            }
            Role::Listener => accept(*key, state, completions, &mut self.counters),
        }
        if state.is_over() && !is_full(completions) {
            self.close(socket, completions);
        } else {
            state.queue_if_busy(socket, &mut self.ready);
        }
    }

    fn close(&mut self, socket: Socket, completions: &mut Completions<Self>) {
        if let Some(Entry { key, state }) = self.sockets.remove(socket) {
            // If the program or a child process has a copy of the descriptor, closing it does not
            // remove the socket from epoll, which would report events under the stale handle.
            let _not_registered = epoll::delete(&self.epoll, &state.fd);
            drop(state);
            push(completions, key, Some(Outcome::Closed));
        }
    }
}

/// Receives until the socket is empty, `completions` is full, or [`RECEIVES_MAX`] is reached.
/// Without a free buffer it appends the socket to the queue for buffers.
fn receive<T: Send>(
    socket: Socket,
    key: Key,
    state: &mut SocketState,
    completions: &mut Completions<EpollPort<T>>,
    supply: &mut Supply,
    counters: &mut Counters,
) {
    for received in 0..RECEIVES_MAX {
        let InputOperation::Armed(demand) = state.input else { return };
        if is_full(completions) || (!state.readable && demand.mode != CompletionMode::IfReady) {
            return;
        }
        if demand.is_zero_byte() {
            return push(completions, key, state.peek(demand));
        }
        if !supply.may_receive(received) {
            return;
        }
        let Some(buffer) = supply.buffer_for(state.bulk, demand) else {
            supply.wait(socket, counters);
            state.input = InputOperation::WaitingForBuffer(demand);
            return;
        };
        push(completions, key, state.receive(demand, buffer, supply.pool()));
    }
}

/// Accepts until the backlog is empty, `completions` is full, or [`ACCEPTS_MAX`] is reached.
fn accept<T: Send>(
    key: Key,
    state: &mut SocketState,
    completions: &mut Completions<EpollPort<T>>,
    counters: &mut Counters,
) {
    let mut aborts = 0;
    for _ in 0..ACCEPTS_MAX {
        let InputOperation::Armed(Demand { mode, .. }) = state.input else { return };
        if !state.readable || is_full(completions) {
            return;
        }
        let outcome = match calls::accept(&state.fd) {
            Accept::Connection(stream, peer) => {
                let last = mode != CompletionMode::Multishot;
                if last {
                    state.input = InputOperation::Idle;
                }
                Some(Outcome::Accepted { stream, peer, last })
            }
            Accept::Empty => {
                state.readable = false;
                None
            }
            Accept::Aborted(_) if aborts < ACCEPT_ABORTS_MAX => {
                counters.accept_aborts += 1;
                aborts += 1;
                None
            }
            // Connections are still in the backlog, and no edge will report them: `readable` stays
            // set, so that the next accept tries again.
            Accept::Aborted(error) | Accept::Failed(error) => {
                state.input = InputOperation::Idle;
                Some(Outcome::AcceptEnded(EndReason::Failed(error)))
            }
        };
        push(completions, key, outcome);
    }
}

/// The completion of a send that has ended.
fn sent<S, T>(state: &mut SocketState) -> Option<Outcome<S, T>> {
    let SendOperation { chain, sent, end } = state.send.take_if(|send| send.end.is_some())?;
    let end = match end? {
        SendEnd::Sent => None,
        SendEnd::Cancelled => Some(EndReason::Cancelled),
        SendEnd::Failed(errno) => Some(EndReason::Failed(calls::error("send", errno))),
    };
    Some(Outcome::Sent { chain, sent, end })
}

fn push<T: Send>(
    completions: &mut Completions<EpollPort<T>>,
    key: Key,
    outcome: Option<Outcome<TcpStream, T>>,
) {
    if let Some(outcome) = outcome {
        assert!(!is_full(completions), "the caller has checked the spare capacity");
        completions.push(Completion { key, outcome });
    }
}

fn timespec(duration: Duration) -> Timespec {
    let duration = duration.min(WAIT_MAX);
    Timespec { tv_sec: duration.as_secs().cast_signed(), tv_nsec: duration.subsec_nanos().into() }
}

/// The longest single wait, one day; a dequeue with a longer timeout returns early. `epoll_wait`
/// counts milliseconds in 31 bits, which is 24 days.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Accepts per dequeue on one listener, so that a burst does not delay other sockets; as many as end
/// the accept if all fail.
const ACCEPTS_MAX: u32 = ACCEPT_ABORTS_MAX + 1;

/// Receives per dequeue on one socket: 64 KiB in buffers of 2,048 bytes, so that the reply to a
/// message of several buffers leaves in one send, and other sockets are not delayed further.
const RECEIVES_MAX: u32 = 32;
