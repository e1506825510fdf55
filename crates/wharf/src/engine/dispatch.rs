//! From a completion to what it is about, and from a handler's answer to what happens next.

use super::close::How;
use super::worker::Worker;
use crate::Result;
use crate::handler::{DisconnectReason, Handler};
use crate::link::{Link, LinkId};
use crate::plant::EnginePlant;
use crate::server::shared::Command;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use wharf_port::port::{Completion, Key, OsError, Outcome, Port};

impl<P: Port<Packet = Command<<P as Port>::Stream>>, H: Handler> Worker<P, H> {
    pub(super) fn dispatch(&mut self, completion: Completion<P::Stream, P::Packet>) {
        let Completion { key, outcome } = completion;
        match outcome {
            Outcome::Received { buffer, last } => {
                if let Some(index) = self.link_of(key) {
                    self.received(index, buffer, last);
                }
            }
            Outcome::Sent { chain, sent, end } => {
                if let Some(index) = self.link_of(key) {
                    self.sent(index, chain, sent, end);
                }
            }
            Outcome::ReceiveEnded(end) => {
                if let Some(index) = self.link_of(key) {
                    self.receive_ended(index, end);
                }
            }
            Outcome::Closed if LinkId::from_key(key).is_some() => {
                if let Some(index) = self.link_of(key) {
                    self.closed(index);
                }
            }
            Outcome::Posted(command) => self.obey(command),
            outcome => self.listener_completed(key, outcome),
        }
    }

    /// The place of the link that a completion is about.
    #[inline]
    fn link_of(&self, key: Key) -> Option<u32> {
        let link = LinkId::from_key(key)?;
        let found = self.core.slots.find(link.index(), link.generation()).is_some();
        debug_assert!(found, "a completion for {link}, which is gone");
        found.then(|| link.index())
    }

    /// Does what another thread asked for.
    fn obey(&mut self, command: Command<P::Stream>) {
        match command {
            Command::Adopt { stream, peer } => self.adopt(stream, peer),
            Command::Send { link, message } => {
                let found = self.core.slots.find(link.index(), link.generation()).is_some()
                    || self.core.shared.planted.is(EnginePlant::SkipGeneration);
                if !found || self.core.queue_message(link.index(), &message).is_err() {
                    self.core.stats().stale_posts.add(1);
                }
            }
            Command::Broadcast { message, except } => {
                let here = except.filter(|link| {
                    link.shard() == usize::from(self.core.shard)
                        && self.core.slots.find(link.index(), link.generation()).is_some()
                });
                self.core.broadcast(&message, here.map(LinkId::index));
            }
            Command::Close { link } => {
                if self.core.slots.find(link.index(), link.generation()).is_some() {
                    self.close(link.index(), DisconnectReason::Kicked, How::Flush);
                }
            }
        }
    }

    /// Makes a link of a connection for which a place has been counted.
    pub(super) fn adopt(&mut self, stream: P::Stream, peer: SocketAddr) {
        let shard = usize::from(self.core.shard);
        if self.drain_until.is_some() {
            self.core.stats().refused_stopping.add(1);
            return self.core.shared.give_place_back(shard);
        }
        let Some(index) = self.core.slots.open(peer, self.core.now) else {
            debug_assert!(false, "a place was counted for it");
            self.core.stats().refused_full.add(1);
            return self.core.shared.give_place_back(shard);
        };
        let id = self.core.id(index);
        match self.port.associate(stream, id.key()) {
            Ok(socket) => self.core.slots[index].socket = Some(socket),
            Err(_) => {
                self.core.stats().accept_failures.add(1);
                self.core.slots.release(index);
                return self.core.shared.give_place_back(shard);
            }
        }
        self.core.shared.note_generation(id, true);
        self.start_time_out(index);
        match self.call(index, |handler, worker, link| handler.on_connect(worker, link)) {
            Some(Ok(())) => {
                self.core.slots[index].connected = true;
                self.core.stats().connects.add(1);
                self.after_callback(index, Some(Ok(())));
            }
            refused => {
                self.core.stats().rejects.add(1);
                self.after_callback(index, refused);
            }
        }
        self.steer(index);
    }

    /// Runs a callback for a link; `None` if it panicked.
    pub(super) fn call<R>(
        &mut self,
        index: u32,
        callback: impl FnOnce(&H, &mut H::Worker, &mut Link<'_, H::State>) -> R,
    ) -> Option<R> {
        let context = self.context.as_mut()?;
        let mut link = Link::new(&mut self.core, index, &mut self.states[index as usize]);
        let handler = &*self.handler;
        // What a panic leaves half done is the handler's own state: the link is closed and the
        // context made anew; the engine's state changes only through `Link`, which is consistent
        // after each of its calls.
        let result = catch_unwind(AssertUnwindSafe(|| callback(handler, context, &mut link)));
        self.core.stats().calls.add(1);
        let payload = match result {
            Ok(answer) => return Some(answer),
            Err(payload) => payload,
        };
        guarded(|| drop(payload));
        self.core.stats().handler_panics.add(1);
        if let Err(reason) = self.make_context() {
            tracing::error!(reason, "no fresh worker context after a panic: stopping the server");
            self.failure = Some(reason);
            self.core.shared.stop(std::time::Duration::ZERO);
        }
        None
    }

    /// Does what a callback's answer asks for.
    #[inline]
    pub(super) fn after_callback(&mut self, index: u32, answer: Option<Result>) {
        if !matches!(answer, Some(Ok(()))) || self.core.slots[index].close_asked {
            self.close_as_answered(index, answer);
        }
    }

    fn close_as_answered(&mut self, index: u32, answer: Option<Result>) {
        match answer {
            Some(Ok(())) => {
                if !self.core.shared.planted.is(EnginePlant::ForgetClose) {
                    self.close(index, DisconnectReason::HandlerClosed, How::Flush);
                }
            }
            Some(Err(error)) => {
                let reason = DisconnectReason::of_error(&error);
                let link = self.core.id(index);
                // To show an error and to drop it may be the user's code.
                guarded(move || {
                    tracing::debug!(%link, %error, "the handler closes a link");
                    drop(error);
                });
                let slow = reason == DisconnectReason::SlowReader;
                self.close(index, reason, if slow { How::Now } else { How::Flush });
            }
            None => self.close(index, DisconnectReason::HandlerPanic, How::Now),
        }
    }
}

/// Runs what may be the user's code, outside of callbacks; a panic in it is reported by the panic
/// hook and changes nothing.
pub(super) fn guarded(act: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(act)) {
        // Its own drop could panic again.
        let _leaked = std::mem::ManuallyDrop::new(payload);
    }
}

/// Who ended a link whose operation failed.
pub(super) fn reason_of(error: OsError) -> DisconnectReason {
    match error.kind() {
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected
        | ErrorKind::TimedOut
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown => DisconnectReason::PeerReset,
        _ => DisconnectReason::SystemError,
    }
}
