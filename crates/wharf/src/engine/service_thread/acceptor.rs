//! The listeners, and connections that wait for a slot.

use crate::engine::worker::BATCH;
use crate::shared::Command;
use crate::shared::accepted::{Accepted, Connection};
use std::collections::VecDeque;
use wharf_port::memory::{MemoryError, try_table, try_with_capacity};
use wharf_port::port::{CompletionMode, Poster, Socket, Time};

/// The state of accepting. `S` is the type of a connection.
pub(super) struct Acceptor<S: Connection> {
    /// The posters of all shards.
    pub(super) posters: Box<[Poster<Command<S>>]>,
    pub(super) listeners: Vec<Listener>,
    /// The shards whose inboxes were full for a connection.
    pub(super) full: Box<[bool]>,
    /// Accepted connections that wait for a slot: with one free slot, two armed listeners can accept
    /// two.
    pub(super) waiting: VecDeque<Accepted<S>>,
    /// When waiting connections are assigned again, after a shard's inbox was full.
    pub(super) assign_at: Option<Time>,
}

#[derive(Debug)]
pub(super) struct Listener {
    /// `None` when it is closed.
    pub(super) socket: Option<Socket>,
    pub(super) armed: Option<CompletionMode>,
    pub(super) cancelling: bool,
    /// The earliest time of the next accept, after one failed.
    pub(super) retry_at: Option<Time>,
}

impl<S: Connection> Acceptor<S> {
    pub(super) fn new(listeners: u32, backlog: u32, shards: usize) -> Result<Self, MemoryError> {
        let listeners = listeners as usize;
        // About as many as can be accepted before a cancel takes effect: one turn's completions and the
        // backlog.
        let waiting = listeners + backlog as usize + BATCH;
        Ok(Self {
            posters: Box::default(),
            listeners: try_with_capacity("the listeners", listeners)?,
            full: try_table("the shards", std::iter::repeat_n(false, shards))?,
            waiting: try_with_capacity("connections that wait for a link", waiting)?.into(),
            assign_at: None,
        })
    }

    pub(super) fn retry_at(&self) -> Option<Time> {
        let listeners = self.listeners.iter().filter_map(|listener| listener.retry_at);
        listeners.chain(self.assign_at).min()
    }

    /// Whether an open listener has no accept armed and no retry is scheduled, so that it waits for a
    /// free slot.
    #[cfg(feature = "sim")]
    pub(super) fn waits_for_slot(&self) -> bool {
        let waits = |listener: &Listener| {
            listener.socket.is_some() && listener.armed.is_none() && listener.retry_at.is_none()
        };
        self.assign_at.is_none() && self.listeners.iter().any(waits)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.listeners.iter().all(|listener| listener.socket.is_none())
    }
}
