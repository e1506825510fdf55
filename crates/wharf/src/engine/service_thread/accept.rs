//! Accepts, and assigns each connection to the shard with the fewest links.
//!
//! So the limit of links is exact for the server as a whole, and no connection waits while another
//! shard has free slots.

use crate::engine::service_thread::ServiceThread;
use crate::engine::service_thread::acceptor::Listener;
use crate::engine::worker::submit;
use crate::shared::accepted::Accepted;
use crate::shared::{Command, ShardPort};
use crate::vocabulary::policy::WhenFull;
use std::sync::atomic::Ordering;
use std::time::Duration;
use wharf_port::port::{CompletionMode, EndReason, Key, Operation, OperationKind, Outcome, Poster};

/// Delay before the next accept after one failed (EMFILE, ENOMEM): an immediate retry would fail again,
/// and use up the CPU.
const RETRY_AFTER: Duration = Duration::from_millis(10);

impl<P: ShardPort> ServiceThread<P> {
    /// Sets the listening sockets and the posters of all shards.
    pub(crate) fn listen(
        &mut self,
        listeners: Vec<P::Listener>,
        posters: Box<[Poster<Command<P::Stream>>]>,
    ) -> Result<(), String> {
        // What the start took is no pass.
        self.now = self.port.now();
        self.clock.begin(self.now);
        self.acceptor.posters = posters;
        for (number, listener) in (0_u64..).zip(listeners) {
            // Keys of links have a generation above 0 in their upper half, keys of listeners 0.
            let socket = self
                .port
                .associate_listener(listener, Key(number))
                .map_err(|refused| format!("listener {number}: {:?}", refused.error))?;
            self.acceptor.listeners.push(Listener {
                socket: Some(socket),
                armed: None,
                cancelling: false,
                retry_at: None,
            });
        }
        self.arm_listeners();
        Ok(())
    }

    /// Assigns waiting connections, and submits accepts while slots are free.
    ///
    /// With more free slots than the backlogs hold, the accepts are multishot. Near the limit each
    /// accepts one connection, so that the others stay in the backlog.
    pub(super) fn arm_listeners(&mut self) {
        if self.is_stopping {
            return;
        }
        self.assign_waiting();
        let listeners = u32::try_from(self.acceptor.listeners.len()).unwrap_or(u32::MAX);
        let settings = &self.shared.settings;
        let waits = settings.when_full == WhenFull::Wait;
        let backlogs = settings.backlog.saturating_mul(listeners);
        let mut free_slots = self.shared.free_slots();
        if waits && (free_slots == 0 || !self.acceptor.waiting.is_empty()) {
            // Store the flag, then count again: see `Shared::release_slot`.
            self.shared.service.slot_wanted.store(true, Ordering::SeqCst);
            free_slots = self.shared.free_slots();
            self.assign_waiting();
        }
        let plenty = !waits || (free_slots > backlogs && self.acceptor.waiting.is_empty());
        let may_take = plenty || (free_slots > 0 && self.acceptor.waiting.is_empty());
        let now = self.now;
        for listener in &mut self.acceptor.listeners {
            let Some(socket) = listener.socket else { continue };
            if listener.armed == Some(CompletionMode::Multishot) && !plenty && !listener.cancelling
            {
                listener.cancelling = true;
                self.port.cancel(socket, OperationKind::Accept);
            }
            // Clear an expired retry time also without free slots, or it keeps waking this thread.
            listener.retry_at = listener.retry_at.filter(|time| *time > now);
            if listener.armed.is_some() || listener.retry_at.is_some() || !may_take {
                continue;
            }
            let mode = if plenty { CompletionMode::Multishot } else { CompletionMode::Oneshot };
            submit(&mut self.port, socket, Operation::Accept(mode));
            (listener.armed, listener.cancelling) = (Some(mode), false);
        }
    }

    /// Assigns waiting connections in their order.
    fn assign_waiting(&mut self) {
        self.acceptor.assign_at = None;
        for _ in 0..self.acceptor.waiting.len() {
            let Some(accepted) = self.acceptor.waiting.pop_front() else { return };
            if let Some(accepted) = self.assign_shard(accepted) {
                return self.acceptor.waiting.push_front(accepted);
            }
        }
    }

    pub(super) fn listener_completed(&mut self, key: Key, outcome: Outcome<P::Stream, P::Packet>) {
        let number = usize::try_from(key.0).unwrap_or(usize::MAX);
        let Some(listener) = self.acceptor.listeners.get_mut(number) else {
            unreachable!("{outcome:?} on listener {number}");
        };
        match outcome {
            Outcome::Accepted { stream, peer, last } => {
                let goes_on = listener.armed == Some(CompletionMode::Multishot);
                assert!(last || goes_on, "an accept of one connection has accepted another");
                if last {
                    listener.armed = None;
                }
                self.shared.service.stats.accepted.add(1);
                let number = u16::try_from(number).unwrap_or(u16::MAX);
                self.assign_or_queue(Accepted::new(stream, peer, number));
            }
            Outcome::AcceptEnded(end) => {
                listener.armed = None;
                if let EndReason::Failed(error) = end
                    && !self.is_stopping
                {
                    listener.retry_at = Some(self.now.saturating_add(RETRY_AFTER));
                    self.shared.service.stats.accept_failures.add(1);
                    tracing::debug!(%error, "accept failed, retrying in 10 ms");
                }
            }
            Outcome::Closed => listener.socket = None,
            other => unreachable!("{other:?} on a listener"),
        }
    }

    /// Assigns a connection to a shard. Without a free slot it waits, or is closed, as `when_full`
    /// says.
    fn assign_or_queue(&mut self, accepted: Accepted<P::Stream>) {
        if self.is_stopping {
            // A stopping server opens no links.
            self.shared.service.stats.refused_stopping.add(1);
            return accepted.refuse("the server is stopping");
        }
        let others_wait = !self.acceptor.waiting.is_empty();
        let unassigned = if others_wait { Some(accepted) } else { self.assign_shard(accepted) };
        let Some(accepted) = unassigned else { return };
        let waits = self.shared.settings.when_full == WhenFull::Wait;
        if waits && self.acceptor.waiting.len() < self.acceptor.waiting.capacity() {
            self.acceptor.waiting.push_back(accepted);
        } else {
            self.shared.service.stats.refused_full.add(1);
            accepted.refuse("all links are in use");
        }
    }

    /// Posts a connection to the shard with the fewest links, or, if its inbox is full, to the next;
    /// returns it if no slot is free or all inboxes are full.
    fn assign_shard(&mut self, mut accepted: Accepted<P::Stream>) -> Option<Accepted<P::Stream>> {
        self.acceptor.full.fill(false);
        while let Some(shard) = self.shared.reserve_slot(&self.acceptor.full) {
            let command = Command::OpenLink(accepted);
            let refused = self.acceptor.posters[shard].post(command).err()?;
            self.shared.cancel_slot(shard);
            self.acceptor.full[shard] = true;
            // Shards do not report free capacity, so retry later.
            self.acceptor.assign_at = Some(self.now.saturating_add(RETRY_AFTER));
            let Command::OpenLink(returned) = refused.into_packet() else {
                unreachable!("the inbox returns another packet")
            };
            accepted = returned;
        }
        Some(accepted)
    }

    /// Refuses what waits, and closes the listeners.
    pub(super) fn stop_accepting(&mut self) {
        let waiting = self.acceptor.waiting.len() as u64;
        self.shared.service.stats.refused_stopping.add(waiting);
        for accepted in self.acceptor.waiting.drain(..) {
            accepted.refuse("the server is stopping");
        }
        // No more retries: what is due wakes this thread.
        self.acceptor.assign_at = None;
        self.end_listeners();
        for listener in &mut self.acceptor.listeners {
            listener.retry_at = None;
            if let Some(socket) = listener.socket {
                submit(&mut self.port, socket, Operation::Close);
            }
        }
    }

    /// Ends listening at once. A close alone does not while another process holds the socket, such as a
    /// forked child.
    pub(super) fn end_listeners(&mut self) {
        for socket in self.acceptor.listeners.iter().filter_map(|listener| listener.socket) {
            self.port.reset_on_close(socket);
        }
    }
}
