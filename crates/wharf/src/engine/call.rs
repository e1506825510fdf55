//! How a callback is run, and what its answer does to its link.

use super::close::How;
use super::worker::Worker;
use crate::Result;
use crate::handler::{DisconnectReason, Verdict};
use crate::link::Link;
use crate::link::output::Output;
use crate::plant::EnginePlant;
use crate::server::current;
use crate::server::shared::Command;
use crate::service::Service;
use std::panic::{AssertUnwindSafe, catch_unwind};
use wharf_port::port::Port;

impl<P: Port<Packet = Command<<P as Port>::Stream>>, V: Service> Worker<P, V> {
    /// Runs a callback for a link; `None` if it panicked.
    pub(super) fn call<R>(
        &mut self,
        index: u32,
        callback: impl FnOnce(&V::Handler, &mut Link<'_, V::State, V::Context>) -> R,
    ) -> Option<R> {
        let context = self.context.as_mut()?;
        let state = self.states[index as usize].as_mut()?;
        let (id, shard) = (self.core.shared.id, self.core.shard);
        let out = Output { core: &mut self.core, index };
        let mut link = Link { out, state, worker: context, server: &self.handle };
        let handler = &*self.handler;
        current::begin(id, shard);
        // What a panic leaves half done is the handler's own state: the link is closed and the
        // context made anew; the engine's state changes only through `Link`, which is consistent
        // after each of its calls.
        let result = catch_unwind(AssertUnwindSafe(|| callback(handler, &mut link)));
        self.called_back(index, result)
    }

    /// Runs `on_connect` for a link; `None` if it panicked.
    pub(super) fn call_connect(&mut self, index: u32) -> Option<Result> {
        use crate::handler::Handler;
        let context = self.context.as_mut()?;
        let (id, shard) = (self.core.shared.id, self.core.shard);
        let out = Output { core: &mut self.core, index };
        let mut link = Link { out, state: &mut (), worker: context, server: &self.handle };
        let handler = &*self.handler;
        current::begin(id, shard);
        let result = catch_unwind(AssertUnwindSafe(|| handler.on_connect(&mut link)));
        let state = self.called_back(index, result)?;
        Some(state.map(|state| self.states[index as usize] = Some(state)))
    }

    /// A callback is over.
    #[inline]
    fn called_back<R>(&mut self, index: u32, result: std::thread::Result<R>) -> Option<R> {
        if current::end() {
            self.note_refused_post(index);
        }
        self.core.stats().calls.add(1);
        match result {
            Ok(answer) => Some(answer),
            Err(payload) => {
                guarded(|| drop(payload));
                self.renew_context();
                None
            }
        }
    }

    fn renew_context(&mut self) {
        self.core.stats().handler_panics.add(1);
        if let Err(reason) = self.make_context() {
            tracing::error!(reason, "no fresh worker context after a panic: stopping the server");
            self.failure = Some(reason);
            self.core.shared.stop(std::time::Duration::ZERO);
        }
    }

    /// Does what a callback's answer asks for.
    #[inline]
    pub(super) fn after_callback(&mut self, index: u32, answer: Option<Result>) {
        if !matches!(answer, Some(Ok(()))) || self.core.slots[index].close_asked {
            self.close_as_answered(index, answer);
        }
    }

    /// The same for a callback that says whether the link stays; returns what it has said, if the link
    /// is still there.
    pub(super) fn after_verdict(
        &mut self,
        index: u32,
        answer: Option<Result<Verdict>>,
    ) -> Option<Verdict> {
        let verdict = match &answer {
            Some(Ok(verdict)) => Some(*verdict),
            _ => None,
        };
        self.after_callback(index, answer.map(|answer| answer.map(|_| ())));
        verdict.filter(|_| self.core.slots[index].is_served())
    }

    fn close_as_answered(&mut self, index: u32, answer: Option<Result>) {
        match answer {
            Some(Ok(())) => {
                let aborts = self.core.slots[index].abort_asked;
                if !self.core.shared.planted.is(EnginePlant::ForgetClose) {
                    let how = if aborts { How::Reset } else { How::Flush };
                    self.close(index, DisconnectReason::HandlerClosed, how);
                }
            }
            Some(Err(error)) => {
                let reason = DisconnectReason::of_error(&error);
                let link = self.core.key(index);
                // To show an error and to drop it may be the user's code.
                guarded(move || {
                    tracing::debug!(%link, %error, "the handler closes a link");
                    drop(error);
                });
                // Its reply is not waited for.
                self.core.cancel_reply(index);
                let cuts = self.core.shared.planted.is(EnginePlant::FullBlamesPeer)
                    && reason == DisconnectReason::OutputFull;
                if cuts {
                    return self.close(index, DisconnectReason::SlowReader, How::Now);
                }
                self.close(index, reason, How::Flush);
            }
            None => self.close(index, DisconnectReason::HandlerPanic, How::Reset),
        }
    }
}

/// Runs what may be the user's code, outside of callbacks; a panic in it is reported by the panic
/// hook and changes nothing. Says whether there was none.
pub(super) fn guarded(act: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(()) => true,
        Err(payload) => {
            // Its own drop could panic again.
            let _leaked = std::mem::ManuallyDrop::new(payload);
            false
        }
    }
}
