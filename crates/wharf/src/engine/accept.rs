//! Accepting: one shard accepts for all and hands each connection to the shard with the fewest.
//!
//! So the table's limit is exact for the server as a whole, whichever shard a link lands on, and
//! full shards never leave connections waiting that another one has room for.

use super::worker::Worker;
use crate::handler::Handler;
use crate::limits::WhenFull;
use crate::plant::EnginePlant;
use crate::server::shared::Command;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;
use wharf_port::port::{End, Key, Operation, OperationKind, Outcome, Port, Shots, Socket, Time};

/// How long accepting rests after the system has run out of descriptors or memory: tried again at
/// once it would fail again, some hundred thousand times a second.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// The listeners of a shard; only the first shard has some.
#[derive(Debug, Default)]
pub(super) struct Acceptor {
    listeners: Vec<Listener>,
    /// Which listener is armed first; goes round, so that with little room each gets its turn.
    first: usize,
}

#[derive(Debug)]
struct Listener {
    /// `None` once it is closed.
    socket: Option<Socket>,
    armed: Option<Shots>,
    cancelling: bool,
    /// Not before this moment.
    retry_at: Option<Time>,
}

impl Acceptor {
    pub(super) fn retry_at(&self) -> Option<Time> {
        self.listeners.iter().filter_map(|listener| listener.retry_at).min()
    }

    /// Whether a listener takes no connections, though it is neither closed nor at rest.
    #[cfg(feature = "sim")]
    pub(super) fn wants_room(&self) -> bool {
        let waits = |listener: &Listener| {
            listener.socket.is_some() && listener.armed.is_none() && listener.retry_at.is_none()
        };
        self.listeners.iter().any(waits)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.listeners.iter().all(|listener| listener.socket.is_none())
    }
}

impl<P: Port<Packet = Command<<P as Port>::Stream>>, H: Handler> Worker<P, H> {
    /// Gives the listening sockets, and every shard's inbox, to this shard.
    pub(crate) fn listen(
        &mut self,
        listeners: Vec<P::Listener>,
        posters: Box<[wharf_port::port::Poster<Command<P::Stream>>]>,
    ) -> Result<(), String> {
        self.posters = posters;
        self.parked.reserve_exact(listeners.len());
        for (number, listener) in (0_u64..).zip(listeners) {
            // Links' keys have a generation in their upper half, which is never 0.
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
        self.accept_more();
        Ok(())
    }

    /// Arms the listeners as far as there is room.
    ///
    /// With plenty of room an accept stays armed for as many as come. Near the limit each listener
    /// takes one connection at a time; what that is too many, one a listener at most, is parked
    /// until there is room. A listener without an accept would starve while another one, to which
    /// nobody connects, holds the last place.
    pub(super) fn accept_more(&mut self) {
        if self.acceptor.listeners.is_empty() || self.drain_until.is_some() {
            return;
        }
        self.place_parked();
        let mut room = self.core.shared.room();
        let settings = &self.core.shared.settings;
        let waits = settings.when_full == WhenFull::Wait
            && !self.core.shared.planted.is(EnginePlant::AcceptPastLimit);
        let plenty = !waits || room > settings.backlog.saturating_mul(2);
        if waits && room == 0 {
            // Say that room is wanted, then look again: see `Shared::give_place_back`.
            self.core.shared.room_wanted.store(true, Ordering::SeqCst);
            self.place_parked();
            room = self.core.shared.room();
        }
        let now = self.core.now;
        let count = self.acceptor.listeners.len();
        self.acceptor.first = (self.acceptor.first + 1) % count;
        for n in 0..count {
            let listener = &mut self.acceptor.listeners[(self.acceptor.first + n) % count];
            let Some(socket) = listener.socket else { continue };
            if listener.armed == Some(Shots::Many) && !plenty && !listener.cancelling {
                listener.cancelling = true;
                self.port.cancel(socket, OperationKind::Accept);
            }
            if listener.armed.is_some() || listener.retry_at.is_some_and(|time| time > now) {
                continue;
            }
            listener.retry_at = None;
            if !plenty && room == 0 {
                continue;
            }
            let shots = if plenty { Shots::Many } else { Shots::One };
            match self.port.submit(socket, Operation::Accept(shots)) {
                Ok(()) => (listener.armed, listener.cancelling) = (Some(shots), false),
                Err(error) => debug_assert!(false, "{error}"),
            }
        }
    }

    pub(super) fn listener_completed(&mut self, key: Key, outcome: Outcome<P::Stream, P::Packet>) {
        let number = usize::try_from(key.0).unwrap_or(usize::MAX);
        let Some(listener) = self.acceptor.listeners.get_mut(number) else {
            debug_assert!(false, "{outcome:?} on listener {number}");
            return;
        };
        match outcome {
            Outcome::Accepted { stream, peer, last } => {
                if last {
                    listener.armed = None;
                }
                self.core.stats().accepted.add(1);
                self.place(stream, peer);
            }
            Outcome::AcceptEnded(end) => {
                listener.armed = None;
                if let End::Failed(error) = end {
                    listener.retry_at = Some(self.core.now.after(RETRY_AFTER));
                    self.core.stats().accept_failures.add(1);
                    tracing::debug!(%error, "accepting rests");
                }
            }
            Outcome::Closed => listener.socket = None,
            other => debug_assert!(false, "{other:?} on a listener"),
        }
    }

    /// Finds a place for a connection, here or in another shard; without one it waits or is
    /// closed.
    fn place(&mut self, stream: P::Stream, peer: SocketAddr) {
        let Some(shard) = self.core.shared.take_place() else {
            let waits = self.core.shared.settings.when_full == WhenFull::Wait;
            if waits && self.drain_until.is_none() && self.parked.len() < self.parked.capacity() {
                self.parked.push_back((stream, peer));
            } else {
                self.core.stats().refused_full.add(1);
            }
            return;
        };
        if shard == usize::from(self.core.shard) {
            return self.adopt(stream, peer);
        }
        if self.posters[shard].post(Command::Adopt { stream, peer }).is_err() {
            // That shard is far behind, or gone; the connection is dropped with the error.
            self.core.stats().refused_full.add(1);
            self.core.shared.give_place_back(shard);
        }
    }

    fn place_parked(&mut self) {
        while self.core.shared.room() > 0
            && let Some((stream, peer)) = self.parked.pop_front()
        {
            self.place(stream, peer);
        }
    }

    pub(super) fn stop_accepting(&mut self) {
        self.core.stats().refused_full.add(self.parked.len() as u64);
        self.parked.clear();
        for listener in &self.acceptor.listeners {
            if let Some(socket) = listener.socket
                && let Err(error) = self.port.submit(socket, Operation::Close)
            {
                debug_assert!(false, "{error}");
            }
        }
    }
}
