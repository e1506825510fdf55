//! The exit: a turn hands over what is done, looks at epoll, and lets ready sockets work.

use super::calls::{self, Accept};
use super::socket::{Intake, Role, SocketState};
use super::{EpollPort, WAKE, socket_of};
use crate::memory::Owner;
use crate::port::{
    Completion, Completions, Demand, End, Entry, Key, Outcome, PortError, Shots, Socket, is_full,
};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use std::net::TcpStream;
use std::time::Duration;

impl<T: Send> EpollPort<T> {
    /// One dequeue.
    pub(super) fn turn(
        &mut self,
        completions: &mut Completions<Self>,
        timeout: Option<Duration>,
    ) -> Result<(), PortError> {
        if is_full(completions) {
            return Ok(());
        }
        self.packets_first = !self.packets_first;
        self.receives_left = self.receives_max;
        let before = completions.len();
        let noted = self.collect(completions);
        let has_something = noted || completions.len() > before;
        // An echo's `Sent` needs no look at epoll. But whoever always finds something here would
        // never hear of the other sockets, so every second turn looks.
        if has_something && !self.look_is_due {
            self.look_is_due = true;
            return Ok(());
        }
        self.look_is_due = false;
        // False alarms may have used up the receives of this turn, and no buffer comes home while
        // this thread sleeps.
        let can_feed = !self.waiting.is_empty() && self.pool.free() > 0;
        let at_once = has_something || can_feed || !self.ready.is_empty();
        let woken = self.look(if at_once { Some(Duration::ZERO) } else { timeout })?;
        let posted = self.collect(completions);
        self.counters.wakeups += u64::from(woken && posted);
        Ok(())
    }

    /// Hands over what can be had without a look at epoll; says whether the inbox was marked.
    fn collect(&mut self, completions: &mut Completions<Self>) -> bool {
        if self.packets_first {
            let noted = self.inbox.take_packets(completions, usize::MAX);
            self.serve(completions);
            noted
        } else {
            self.serve(completions);
            self.inbox.take_packets(completions, usize::MAX)
        }
    }

    /// Waits for edges and notes them; says whether the wake-up was among them.
    fn look(&mut self, timeout: Option<Duration>) -> Result<bool, PortError> {
        let may_sleep = timeout != Some(Duration::ZERO) && self.inbox.fall_asleep();
        let timeout = if may_sleep { timeout } else { Some(Duration::ZERO) };
        self.events.clear();
        self.counters.waits += 1;
        let wait = timeout.map(timespec);
        let result = epoll::wait(&self.epoll, spare_capacity(&mut self.events), wait.as_ref());
        match result {
            Ok(_) | Err(Errno::INTR) => Ok(self.note_events()),
            Err(errno) => Err(calls::error("epoll_wait", errno).into()),
        }
    }

    fn note_events(&mut self) -> bool {
        let mut woken = false;
        for at in 0..self.events.len() {
            let epoll::Event { flags, data } = self.events[at];
            if data.u64() == WAKE {
                woken = true;
                continue;
            }
            let socket = socket_of(data.u64());
            if let Some(entry) = self.sockets.get_mut(socket) {
                entry.state.note(flags);
                self.queue_if_busy(socket);
            } else {
                // A closed socket was taken out of epoll first, and edges are noted as soon as
                // they are fetched.
                self.counters.stale += 1;
            }
        }
        woken
    }

    /// Gives free buffers to those that wait for one, then lets each ready socket do one thing.
    fn serve(&mut self, completions: &mut Completions<Self>) {
        self.feed(completions);
        for _ in 0..self.ready.len() {
            if is_full(completions) {
                return;
            }
            let Some(socket) = self.ready.pop_front() else { return };
            self.visit(socket, completions);
        }
    }

    /// Receives for those that wait for a buffer, the longest waiting first, while there are some.
    fn feed(&mut self, completions: &mut Completions<Self>) {
        while !is_full(completions) && self.receives_left > 0 && !self.waiting.is_empty() {
            let Some(buffer) = self.pool.acquire(Owner::Application) else { return };
            let Some(socket) = self.waiting.pop_front() else { return };
            if let Some(Entry { key, state }) = self.sockets.get_mut(socket)
                && let Intake::Waiting(demand) = state.intake
            {
                self.receives_left -= 1;
                push(completions, *key, state.receive(demand, buffer));
            }
            self.queue_if_busy(socket);
        }
    }

    /// Lets a ready socket do one thing of each kind. There is room for one completion at least.
    fn visit(&mut self, socket: Socket, completions: &mut Completions<Self>) {
        let Some(Entry { key, state }) = self.sockets.get_mut(socket) else {
            debug_assert!(false, "a socket leaves the table only when it is not queued");
            return;
        };
        let key = *key;
        state.queued = false;
        if let Intake::Ended(end) = state.intake {
            state.intake = Intake::Idle;
            push(completions, key, Some(state.role.intake_ended(end)));
        }
        if state.send.is_some() && !is_full(completions) {
            if state.writable {
                state.push();
            }
            push(completions, key, sent(state));
        }
        if !is_full(completions)
            && let Intake::Armed(demand) = state.intake
        {
            match state.role {
                Role::Connection => self.receive(socket, demand, completions),
                Role::Listener => self.accept(socket, demand.shots, completions),
            }
        }
        if !self.close_if_over(socket, completions) {
            self.queue_if_busy(socket);
        }
    }

    /// Receives once, or puts the socket behind the others that wait for a buffer.
    fn receive(&mut self, socket: Socket, demand: Demand, completions: &mut Completions<Self>) {
        let Some(Entry { key, state }) = self.sockets.get_mut(socket) else { return };
        if !state.readable && demand.shots != Shots::IfReady {
            return;
        }
        if demand.is_question() {
            push(completions, *key, state.answer(demand));
            return;
        }
        if self.receives_left == 0 {
            return;
        }
        let buffer =
            if self.waiting.is_empty() { self.pool.acquire(Owner::Application) } else { None };
        if let Some(buffer) = buffer {
            self.receives_left -= 1;
            push(completions, *key, state.receive(demand, buffer));
        } else {
            state.intake = Intake::Waiting(demand);
            self.counters.receive_pauses += 1;
            self.waiting.push_back(socket);
        }
    }

    /// Accepts until there is nothing more, no room, or others shall have their turn.
    fn accept(&mut self, socket: Socket, shots: Shots, completions: &mut Completions<Self>) {
        let Some(Entry { key, state }) = self.sockets.get_mut(socket) else { return };
        for _ in 0..ACCEPTS_MAX {
            if !state.readable || state.intake == Intake::Idle || is_full(completions) {
                return;
            }
            let outcome = match calls::accept(&state.fd) {
                Accept::Connection(stream, peer) => {
                    let last = shots != Shots::Many;
                    if last {
                        state.intake = Intake::Idle;
                    }
                    Some(Outcome::Accepted { stream, peer, last })
                }
                Accept::Empty => {
                    state.readable = false;
                    None
                }
                Accept::Aborted => {
                    self.counters.accept_aborts += 1;
                    None
                }
                // Connections are still waiting, and no edge will tell: `readable` stays, so that
                // the next accept tries again.
                Accept::Failed(error) => {
                    state.intake = Intake::Idle;
                    Some(Outcome::AcceptEnded(End::Failed(error)))
                }
            };
            push(completions, *key, outcome);
        }
    }

    /// Closes the socket if that is all that is left to do, and says whether it did.
    fn close_if_over(&mut self, socket: Socket, completions: &mut Completions<Self>) -> bool {
        let is_over = self.sockets.get_mut(socket).is_some_and(|Entry { state, .. }| {
            state.closing && state.intake == Intake::Idle && state.send.is_none()
        });
        if !is_over || is_full(completions) {
            return false;
        }
        if let Some(Entry { key, state }) = self.sockets.remove(socket) {
            // Closing is not enough if the program or a child has a copy of the descriptor: the
            // socket would then go on to report to a place that it has left.
            let _not_watched_is_as_good = epoll::delete(&self.epoll, &state.fd);
            drop(state);
            push(completions, key, Some(Outcome::Closed));
        }
        true
    }
}

/// The completion of a send that is over.
fn sent<S, T>(state: &mut SocketState) -> Option<Outcome<S, T>> {
    let send = state.send.take_if(|send| send.over)?;
    Some(Outcome::Sent { chain: send.chain, sent: send.sent, end: send.end })
}

fn push<T: Send>(
    completions: &mut Completions<EpollPort<T>>,
    key: Key,
    outcome: Option<Outcome<TcpStream, T>>,
) {
    if let Some(outcome) = outcome {
        debug_assert!(!is_full(completions), "the caller has made sure of room");
        completions.push(Completion { key, outcome });
    }
}

fn timespec(duration: Duration) -> Timespec {
    let duration = duration.min(WAIT_MAX);
    Timespec { tv_sec: duration.as_secs().cast_signed(), tv_nsec: duration.subsec_nanos().into() }
}

/// Longer waits end early: `epoll_wait` counts milliseconds in 31 bits, which is 24 days.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Connections accepted in one visit, so that a flood of them leaves the others their turn.
const ACCEPTS_MAX: u32 = 64;
