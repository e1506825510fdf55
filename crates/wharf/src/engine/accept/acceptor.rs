//! What a shard that accepts knows of its listeners, and of connections that wait for a place.

use crate::shared::Command;
use std::collections::VecDeque;
use std::net::SocketAddr;
use wharf_port::port::{Poster, Shots, Socket, Time};

/// The listeners of a shard; only the first shard has some. `S` is a connection.
pub(in crate::engine) struct Acceptor<S> {
    /// Every shard's inbox.
    pub(super) posters: Box<[Poster<Command<S>>]>,
    pub(super) listeners: Vec<Listener>,
    /// Connections that were accepted and found no place: with one place left and two listeners
    /// armed, two may come. They wait for one as if they were still in the backlog.
    pub(super) waiting: VecDeque<(S, SocketAddr, u16)>,
    /// A shard's inbox was full: connections that wait are tried again at this moment.
    pub(super) place_at: Option<Time>,
}

#[derive(Debug)]
pub(super) struct Listener {
    /// `None` once it is closed.
    pub(super) socket: Option<Socket>,
    pub(super) armed: Option<Shots>,
    pub(super) cancelling: bool,
    /// Not before this moment.
    pub(super) retry_at: Option<Time>,
}

impl<S> Acceptor<S> {
    pub(in crate::engine) fn new() -> Self {
        Self {
            posters: Box::default(),
            listeners: Vec::new(),
            waiting: VecDeque::new(),
            place_at: None,
        }
    }

    pub(in crate::engine) fn retry_at(&self) -> Option<Time> {
        let listeners = self.listeners.iter().filter_map(|listener| listener.retry_at);
        listeners.chain(self.place_at).min()
    }

    /// Whether a listener takes no connections, though it is neither closed nor at rest, and no
    /// connection is to be placed at a moment that is known.
    #[cfg(feature = "sim")]
    pub(in crate::engine) fn wants_room(&self) -> bool {
        let waits = |listener: &Listener| {
            listener.socket.is_some() && listener.armed.is_none() && listener.retry_at.is_none()
        };
        self.place_at.is_none() && self.listeners.iter().any(waits)
    }

    /// How many connections wait for a place.
    #[cfg(feature = "sim")]
    pub(in crate::engine) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    pub(in crate::engine) fn is_closed(&self) -> bool {
        self.listeners.iter().all(|listener| listener.socket.is_none())
    }
}
