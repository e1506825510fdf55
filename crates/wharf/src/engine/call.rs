//! Runs callbacks, and applies their results to the links.

use crate::engine::close::CloseMode;
use crate::engine::worker::Worker;
use crate::guard::catch_user_panic;
use crate::link::Link;
use crate::link::input::{Asked, Input, Terms};
use crate::link::unread::Unread;
use crate::service::Service;
use crate::shared::ShardPort;
use crate::shared::current;
use crate::vocabulary::error::Result;
use crate::vocabulary::reason::{DisconnectReason, Verdict};

impl<P: ShardPort, V: Service> Worker<P, V> {
    /// Runs a callback of a link; `None` if it panicked.
    #[inline]
    pub(super) fn run_callback<R>(
        &mut self,
        index: u32,
        callback: impl FnOnce(&V::Handler, &mut Link<'_, V::State, V::Context>) -> R,
    ) -> Option<R> {
        let result = self.callbacks.run(&mut self.core, index, callback)?;
        self.finish_callback(index, result)
    }

    /// Runs a callback with unread input; returns its result (`None` if it panicked) and what it asked
    /// for.
    #[inline]
    pub(super) fn run_input_callback<R>(
        &mut self,
        index: u32,
        unread: &mut Unread,
        callback: impl FnOnce(&V::Handler, &mut Link<'_, V::State, V::Context>, &mut Input<'_>) -> R,
    ) -> (Option<R>, Asked) {
        let slot = &mut self.core.slots[index];
        slot.input.in_call = unread.buffers();
        let terms = Terms {
            limit: self.core.input_bytes,
            is_ended: slot.input.end_of_stream,
            is_held: slot.deferral.is_some(),
            search: slot.input.search,
        };
        let (result, asked) =
            self.callbacks.run_with_input(&mut self.core, index, (unread, terms), callback);
        let slot = &mut self.core.slots[index];
        slot.input.in_call = 0;
        slot.input.search = asked.search;
        (result.and_then(|result| self.finish_callback(index, result)), asked)
    }

    /// Runs `on_connect` of a link, and stores the state; `None` if it panicked.
    pub(super) fn run_on_connect(&mut self, index: u32) -> Option<Result> {
        let result = self.callbacks.run_connect(&mut self.core, index)?;
        let state = self.finish_callback(index, result)?;
        Some(state.map(|state| self.callbacks.set_state(index, state)))
    }

    /// After each callback: notes its posts, and makes a new context if it panicked.
    #[inline]
    fn finish_callback<R>(&mut self, index: u32, result: std::thread::Result<R>) -> Option<R> {
        let current::Ended { left, refused } = current::end();
        self.core.slots[index].posts.budget = left;
        if refused {
            self.note_refused_post(index);
        }
        self.core.stats().calls.add(1);
        match result {
            Ok(answer) => Some(answer),
            Err(payload) => {
                catch_user_panic(|| drop(payload));
                self.callbacks.renew_context(&self.core);
                None
            }
        }
    }

    /// Closes the link if the callback failed, panicked or requested it.
    #[inline]
    pub(super) fn apply_result(&mut self, index: u32, answer: Option<Result>) {
        if !matches!(answer, Some(Ok(()))) || self.core.slots[index].ending.close_requested {
            self.close_on_result(index, answer);
        }
    }

    /// As [`apply_result`](Self::apply_result), for a callback with a verdict; returns the verdict if
    /// the link is still open.
    pub(super) fn apply_verdict(
        &mut self,
        index: u32,
        answer: Option<Result<Verdict>>,
    ) -> Option<Verdict> {
        let verdict = match &answer {
            Some(Ok(verdict)) => Some(*verdict),
            _ => None,
        };
        self.apply_result(index, answer.map(|answer| answer.map(|_| ())));
        verdict.filter(|_| self.core.slots[index].runs_callbacks())
    }

    fn close_on_result(&mut self, index: u32, answer: Option<Result>) {
        match answer {
            Some(Ok(())) => {
                let aborts = self.core.slots[index].ending.abort_requested;
                let mode = if aborts { CloseMode::Abortive } else { CloseMode::Graceful };
                self.close(index, DisconnectReason::HandlerClosed, mode);
            }
            Some(Err(error)) => {
                let reason = DisconnectReason::of_error(&error);
                let link = self.core.key(index);
                // `Display` and drop of an error may be user code.
                catch_user_panic(move || {
                    tracing::debug!(%link, %error, "a callback failed, closing the link");
                    drop(error);
                });
                // The close does not wait for a deferred reply.
                self.core.cancel_reply(index);
                self.close(index, reason, CloseMode::Graceful);
            }
            None => self.close(index, DisconnectReason::HandlerPanic, CloseMode::Abortive),
        }
    }
}
