//! From a completion to the handler, and from the handler's answer to what happens next.

use super::close::How;
use super::worker::Worker;
use crate::Result;
use crate::handler::{DisconnectReason, Handler};
use crate::link::slot::{Phase, Receiving, Slot};
use crate::link::{Link, LinkId};
use crate::plant::EnginePlant;
use crate::server::shared::Command;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use wharf_port::port::{Completion, End, Operation, OperationKind, OsError, Outcome, Port, Shots};

/// Bytes that a draining link still handles: what the system can have taken from the peer before
/// the drain began, a receive buffer at its largest by default (tcp_rmem).
const DRAIN_BYTES_MAX: u32 = 8 << 20;
/// Bytes that a lingering link throws away before it is closed all the same.
const LINGER_BYTES_MAX: u32 = 64 << 20;

impl<P: Port<Packet = Command<<P as Port>::Stream>>, H: Handler> Worker<P, H> {
    pub(super) fn dispatch(&mut self, completion: Completion<P::Stream, P::Packet>) {
        let Completion { key, outcome } = completion;
        if let Outcome::Posted(command) = outcome {
            return self.obey(command);
        }
        let Some(link) = LinkId::from_key(key) else {
            return self.listener_completed(key, outcome);
        };
        let index = link.index();
        if self.core.slots.find(index, link.generation()).is_none() {
            debug_assert!(false, "a completion for {link}, which is gone: {outcome:?}");
            return;
        }
        match outcome {
            Outcome::Received { buffer, last } => {
                self.core.begin_answer();
                self.received(index, &buffer, last);
                drop(buffer);
                self.core.end_answer();
            }
            Outcome::ReceiveEnded(end) => self.receive_ended(index, end),
            Outcome::Sent { chain, sent, end } => self.sent(index, chain, sent, end),
            Outcome::Closed => self.closed(index),
            other => debug_assert!(false, "{other:?} on a link"),
        }
    }

    /// Does what another thread asked for.
    fn obey(&mut self, command: Command<P::Stream>) {
        match command {
            Command::Adopt { stream, peer } => self.adopt(stream, peer),
            Command::Send { link, message } => {
                let found = self.core.slots.find(link.index(), link.generation()).is_some()
                    || self.core.shared.planted.is(EnginePlant::SkipGeneration);
                if !found || self.core.queue_shared(link.index(), &message).is_err() {
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

    fn received(&mut self, index: u32, data: &[u8], last: bool) {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let now = self.core.now;
        let slot = &mut self.core.slots[index];
        slot.touched = if slot.phase == Phase::Open { now } else { slot.touched };
        if last {
            slot.receiving = Receiving::Off;
        }
        if slot.phase != Phase::Open {
            slot.late_bytes = slot.late_bytes.saturating_add(len);
        }
        slot.totals.received_bytes += u64::from(len);
        if slot.is_served() {
            slot.totals.received_count += 1;
            let stats = self.core.stats();
            stats.received_messages.add(1);
            stats.received_bytes.add(u64::from(len));
            let answer =
                self.call(index, |handler, worker, link| handler.on_receive(worker, link, data));
            self.after_callback(index, answer);
        }
        let Slot { phase, late_bytes, .. } = self.core.slots[index];
        if phase == Phase::Draining && late_bytes > DRAIN_BYTES_MAX {
            self.close(index, DisconnectReason::ServerStopping, How::Flush);
        } else if phase == Phase::Lingering && late_bytes > LINGER_BYTES_MAX {
            self.close(index, DisconnectReason::ServerStopping, How::Now);
        }
        if !(last && self.core.shared.planted.strikes(EnginePlant::ForgetRearm)) {
            self.steer(index);
        }
    }

    fn receive_ended(&mut self, index: u32, end: End) {
        let slot = &mut self.core.slots[index];
        slot.receiving = Receiving::Off;
        match end {
            End::PeerClosed => {
                slot.input_over = true;
                slot.touched = self.core.now;
                if slot.phase == Phase::Lingering {
                    self.close(index, DisconnectReason::PeerClosed, How::Now);
                } else {
                    self.start_time_out(index);
                    self.end_if_answered(index);
                }
            }
            End::Failed(error) => self.close(index, reason_of(error), How::Now),
            End::NotReady => {
                self.close(index, DisconnectReason::ServerStopping, How::Flush);
                // It may have been closing already, and lingers without a receive.
                self.steer(index);
            }
            _ => self.steer(index),
        }
    }

    /// Starts, pauses or resumes receiving, as the link's phase and backlog ask for.
    ///
    /// A link whose peer does not read is not read from either, above a quarter of its send queue;
    /// what had been received by then is still handled. When buffers are short, a link takes one
    /// buffer at a time, and only when all answers before have left: the one buffer that is kept for
    /// it then holds the next answer.
    pub(super) fn steer(&mut self, index: u32) {
        let slot = &self.core.slots[index];
        let Some(socket) = slot.socket else { return };
        let backlog = slot.backlog();
        let pause_at = self.core.shared.settings.send_queue_bytes as usize / 4;
        // Half-way down, so that it does not start and stop with each message.
        let resume_at = if self.pressed { 0 } else { pause_at / 2 };
        let shots = match slot.phase {
            Phase::Open if self.pressed => Shots::One,
            Phase::Open | Phase::Lingering => Shots::Many,
            Phase::Draining => Shots::IfReady,
            Phase::Free | Phase::Flushing | Phase::Closing => return,
        };
        match slot.receiving {
            Receiving::Armed if backlog > pause_at => self.stop_receiving(index),
            Receiving::Off
                if slot.totals.received_count > 0
                    && self.core.shared.planted.strikes(EnginePlant::NeverResume) => {}
            Receiving::Off if backlog <= resume_at && !slot.input_over => {
                match self.port.submit(socket, Operation::receive(shots)) {
                    Ok(()) => self.core.slots[index].receiving = Receiving::Armed,
                    Err(error) => {
                        debug_assert!(false, "{error}");
                        self.close(index, DisconnectReason::SystemError, How::Now);
                    }
                }
            }
            Receiving::Off | Receiving::Armed | Receiving::Cancelling => {}
        }
    }

    /// Cancels the receive that is armed; its last completion comes later.
    pub(super) fn stop_receiving(&mut self, index: u32) {
        let slot = &mut self.core.slots[index];
        if slot.receiving == Receiving::Armed
            && let Some(socket) = slot.socket
        {
            slot.receiving = Receiving::Cancelling;
            self.port.cancel(socket, OperationKind::Receive);
        }
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
    pub(super) fn after_callback(&mut self, index: u32, answer: Option<Result>) {
        match answer {
            Some(Ok(())) => {
                if self.core.slots[index].close_asked
                    && !self.core.shared.planted.is(EnginePlant::ForgetClose)
                {
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
