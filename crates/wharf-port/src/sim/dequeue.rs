//! Dequeue: returns the completions that are ready at the world's time, and stores until when the
//! port sleeps.

use super::connection::SERVER;
use super::faults::FaultKind;
use super::kernel::Kernel;
use super::peer::SimStream;
use super::port::SimPort;
use super::state::{Completed, Ready, SocketEnd};
use super::world::Guard;
use super::world::World;
use super::world_state::WorldState;
use crate::port::completion::{Completion, Outcome};
use crate::port::contract::{Completions, Port, Time, is_full};
use crate::port::error::PortError;
use std::time::Duration;

impl<T: Send> SimPort<T> {
    pub(super) fn dequeue_completions(
        &mut self,
        completions: &mut Completions<Self>,
        timeout: Option<Duration>,
    ) -> Result<(), PortError> {
        if is_full(completions) {
            return Ok(());
        }
        let before = completions.len();
        let deadline = timeout.map(|timeout| self.now().saturating_add(timeout.max(SPIN)));
        self.world.lock().ports[self.kernel.port as usize].asked_until_ns =
            deadline.map_or(u64::MAX, |time| time.0);
        if self.moves_clock {
            // Else a port with completions in each dequeue would stop the clock.
            self.world.advance_to(self.now().saturating_add(SPIN));
        }
        loop {
            self.dequeue_ready(completions);
            if completions.len() > before || !self.fall_asleep(deadline) {
                return Ok(());
            }
            if !self.moves_clock || timeout == Some(Duration::ZERO) || !self.move_clock(deadline) {
                return Ok(());
            }
        }
    }

    /// Runs the kernel once, and appends packets and ready completions.
    fn dequeue_ready(&mut self, completions: &mut Completions<Self>) {
        self.kernel.counters.waits += 1;
        let spare = completions.capacity() - completions.len();
        self.wake_flag.clear();
        // At most half of the spare capacity, so that neither packets nor sockets use all of it.
        self.inbox.take_packets_up_to(completions, spare.div_ceil(2));
        let posted = completions.len();
        let world = self.world.clone();
        let mut state = world.lock();
        let number = self.kernel.port as usize;
        state.ports[number].wakes_at_ns = None;
        let was_asleep = std::mem::replace(&mut state.ports[number].asleep, false);
        self.kernel.counters.wakeups += u64::from(was_asleep && posted > 0);
        // Not twice in a row: else a caller could not tell when it has looked at all.
        self.woke_early = !self.woke_early && state.draw_fault(FaultKind::SpuriousWake);
        if self.woke_early {
            // The cause of the wake-up is not processed yet, but no packet is left, as below.
            self.wake_flag.set();
            drop(state);
            self.inbox.take_packets(completions);
            return;
        }
        if state.draw_fault(FaultKind::AcquireFails) {
            let number = 1 + state.rng.below(8);
            self.kernel.supply.pool().fail_nth_acquire(u32::try_from(number).unwrap_or(1));
        }
        let mut ready_max = completions.capacity() - completions.len();
        self.kernel.run(&mut state, ready_max);
        if self.kernel.ready.len() > 1 && state.draw_fault(FaultKind::ShortDequeue) {
            ready_max = ready_max.min(1 + state.rng.below_len(self.kernel.ready.len()));
        }
        for _ in 0..ready_max {
            let Some(ready) = self.kernel.ready.pop_front() else { break };
            completions.push(self.kernel.deliver(&mut state, &world, ready));
        }
        drop(state);
        // As in the other back ends: after a dequeue that did not fill the vector no packet is
        // left.
        self.inbox.take_packets(completions);
    }

    /// Puts the port to sleep until `deadline`. `false` if it must not sleep, because a step, a
    /// completion or a notification is pending.
    fn fall_asleep(&mut self, deadline: Option<Time>) -> bool {
        let mut state = self.world.lock();
        let port = &mut state.ports[self.kernel.port as usize];
        let kernel = &self.kernel;
        let idle = port.due.is_empty() && kernel.ready.is_empty() && kernel.submitted.is_empty();
        if !idle || !self.inbox.fall_asleep() {
            return false;
        }
        port.asleep = true;
        port.wakes_at_ns = deadline.map(|time| time.0);
        true
    }

    /// Lets the sleep that the last dequeue began last until something ends it. `false` if it has
    /// ended, or did not begin.
    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn sleep_on(&mut self) -> bool {
        let mut state = self.world.lock();
        let port = &mut state.ports[self.kernel.port as usize];
        if !port.asleep || !port.due.is_empty() || self.wake_flag.is_set() {
            return false;
        }
        // The state of the inbox is awake if an earlier wait was ended.
        let is_asleep = self.inbox.is_asleep() || self.inbox.fall_asleep();
        if is_asleep {
            port.wakes_at_ns = None;
        }
        is_asleep
    }

    /// Moves the clock to the next event or the deadline. `false` if the dequeue is to return.
    fn move_clock(&mut self, deadline: Option<Time>) -> bool {
        let mut state = self.world.lock();
        if self.wake_flag.is_set() || self.kernel.can_serve_waiters() {
            return true;
        }
        match (state.events.next_ns(), deadline) {
            (Some(next_ns), deadline) if deadline.is_none_or(|time| next_ns <= time.0) => {
                self.world.move_clock(&mut state, next_ns);
                true
            }
            (_, Some(time)) => {
                self.world.move_clock(&mut state, time.0);
                false
            }
            (_, None) => false,
        }
    }
}

impl Kernel {
    /// Acquires buffers for the sockets that wait for one, in FIFO order.
    pub(super) fn serve_waiters(&mut self, world: &mut WorldState, ready_max: usize) {
        for _ in 0..self.supply.waiting_count() {
            if self.ready.len() >= ready_max {
                return;
            }
            let Some(buffer) = self.acquire_buffer() else { return };
            let Some(socket) = self.supply.pop_waiter() else {
                unreachable!("serving a socket removes no other from the queue");
            };
            let Some(operation) = self.take_receive(socket) else {
                unreachable!("a socket is in the queue for buffers while its receive waits");
            };
            self.begin_fill(world, socket, operation, buffer);
        }
    }

    /// Converts a completion for the caller; frees the slot of a closed socket.
    fn deliver<T: Send>(
        &mut self,
        state: &mut WorldState,
        world: &World,
        ready: Ready,
    ) -> Completion<SimStream, T> {
        let Ready { socket, key, completed } = ready;
        state.mix_trace(state.now_ns ^ key.0.rotate_left(32) ^ u64::from(self.port));
        match self.sockets.get_mut(socket) {
            Some(entry) if completed.is_last() => entry.state.undelivered &= !completed.bit(),
            Some(_) => {}
            None => self.counters.stale_completions += 1,
        }
        let outcome = match completed {
            Completed::Accepted { conn, peer, last } => {
                state.mix_trace(1);
                let stream = SimStream::new(world.clone(), conn);
                Outcome::Accepted { stream, peer, last }
            }
            Completed::AcceptEnded(end) => Outcome::AcceptEnded(end),
            Completed::Received { buffer, last } => {
                state.mix_trace(2 + ((buffer.len() as u64) << 8));
                Outcome::Received { buffer, last }
            }
            Completed::ReceiveEnded(end) => Outcome::ReceiveEnded(end),
            Completed::Sent { chain, sent, end } => {
                state.mix_trace(3 + ((sent as u64) << 8));
                Outcome::Sent { chain, sent, end }
            }
            Completed::Closed => {
                state.mix_trace(4);
                self.sockets.remove(socket);
                Outcome::Closed
            }
        };
        Completion { key, outcome }
    }

    /// Closes all sockets. No kernel writes to the buffers, so the drop of the operations releases
    /// them at once.
    fn end_all(&mut self, mut state: Guard<'_>) {
        let port = &mut state.ports[self.port as usize];
        port.alive = false;
        port.due.clear();
        for socket in self.sockets.sockets().collect::<Vec<_>>() {
            let Some(entry) = self.sockets.remove(socket) else { continue };
            match entry.state.end {
                SocketEnd::Conn(conn) => state.close(conn, SERVER),
                SocketEnd::Listener(listener) => state.close_listener(listener),
            }
        }
        for ready in self.ready.drain(..) {
            if let Completed::Accepted { conn, .. } = ready.completed {
                state.close(conn, SERVER);
            }
        }
    }
}

impl<T: Send> Drop for SimPort<T> {
    fn drop(&mut self) {
        self.kernel.end_all(self.world.lock());
    }
}

/// The time on the world's clock that a dequeue takes at least.
const SPIN: Duration = Duration::from_micros(1);
