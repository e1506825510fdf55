//! A handler around the one under test, which reports the callbacks to the checks and passes them on.

use crate::handler::Handler;
use crate::link::Link;
use crate::link::input::Input;
use crate::shared::Shared;
use crate::shared::handle::Handle;
use crate::sim::checker::{Call, CallbackChecker, Event, number_of};
use crate::sim::rules::{LinkView, Outcome};
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::reason::{DisconnectReason, Verdict};
use crate::worker::Worker;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

/// The payload of a handler's panic, by `resume_unwind`, that is part of the test: it is no failure and
/// resets the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a mark")]
pub struct PlannedPanic;

#[derive(Debug)]
pub(super) struct CheckedHandler<H> {
    pub(super) inner: Arc<H>,
    pub(super) checker: Arc<CallbackChecker>,
    pub(super) shared: Arc<Shared>,
}

/// The state of the handler under test, and its owner.
#[derive(Debug)]
pub(super) struct CheckedState<S> {
    inner: S,
    owner: Owner,
}

/// Counts a link's state as alive; its drop reports the end of the state.
#[derive(Debug)]
struct Owner {
    connection: usize,
    checker: Arc<CallbackChecker>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.checker.note_state(false);
    }
}

type CheckedLink<'a, S, W> = Link<'a, CheckedState<S>, W>;

/// The input of a callback, if it has one.
trait InputView {
    fn view(&self) -> (usize, bool);
}

impl InputView for () {
    fn view(&self) -> (usize, bool) {
        (0, false)
    }
}

impl InputView for &mut Input<'_> {
    fn view(&self) -> (usize, bool) {
        (self.len(), self.is_ended())
    }
}

fn link_view<T, W>(link: &Link<'_, T, W>, input: &impl InputView) -> LinkView {
    let (unread, is_ended) = input.view();
    LinkView {
        now: link.now(),
        unread,
        is_ended,
        unsent: link.out.unsent_bytes(),
        spare: link.out.spare_capacity(),
        has_grant: link.out.has_grant(),
        sent_bytes: link.totals().sent_bytes,
    }
}

impl<H> CheckedHandler<H> {
    fn around<T, W, I: InputView, R>(
        &self,
        event: Event,
        link: &mut Link<'_, T, W>,
        mut input: I,
        callback: impl FnOnce(&H, &mut Link<'_, T, W>, &mut I) -> R,
        outcome: impl FnOnce(&R) -> Outcome,
    ) -> R {
        let id = link.id();
        let connection = number_of(link.peer().ip());
        let call = Call {
            event,
            link: id,
            connection,
            worker: link.worker_id().index(),
            is_revoked: self.shared.revoked.contains(id),
            is_stopping: link.server.is_stopping(),
        };
        self.checker.enter(&call, link_view(link, &input));
        let result = catch_unwind(AssertUnwindSafe(|| callback(&self.inner, link, &mut input)));
        let at = link_view(link, &input);
        match result {
            Ok(result) => {
                self.checker.leave(&call, at, outcome(&result));
                result
            }
            Err(payload) => {
                let reason = DisconnectReason::HandlerPanic;
                self.checker.leave(&call, at, Outcome::Closes(reason));
                if payload.is::<PlannedPanic>() {
                    self.checker.note_planned_panic(connection);
                } else {
                    let text = panic_text(&*payload);
                    self.checker.fail(format!("the handler panicked in {event:?}: {text}"));
                }
                resume_unwind(payload)
            }
        }
    }

    /// Checks that the state is the one that was made for this link.
    fn check_state<S, W>(&self, link: &CheckedLink<'_, S, W>) {
        let owner = link.state.owner.connection;
        if owner != number_of(link.peer().ip()) {
            self.checker.fail(format!("link {} has the state of client {owner}", link.id()));
        }
    }

    fn with_inner<S, W, I: InputView, R>(
        &self,
        event: Event,
        link: &mut CheckedLink<'_, S, W>,
        input: I,
        callback: impl FnOnce(&H, &mut Link<'_, S, W>, &mut I) -> R,
        outcome: impl FnOnce(&R) -> Outcome,
    ) -> R {
        self.check_state(link);
        let callback = |handler: &H, link: &mut CheckedLink<'_, S, W>, input: &mut I| {
            callback(handler, &mut link.with_state(|state| &mut state.inner), input)
        };
        self.around(event, link, input, callback, outcome)
    }
}

/// The outcome of an error: its link is closed for this reason.
fn fails(error: &Error) -> Outcome {
    Outcome::Closes(DisconnectReason::of_error(error))
}

fn stays_or_fails<T>(result: &Result<T>) -> Outcome {
    result.as_ref().map_or_else(fails, |_| Outcome::Stays)
}

fn ends_for(reason: DisconnectReason) -> impl FnOnce(&Result<Verdict>) -> Outcome {
    move |result| match result {
        Ok(Verdict::Close) if reason == DisconnectReason::Idle => Outcome::Closes(reason),
        Ok(Verdict::Close) => Outcome::Ends(reason),
        Ok(Verdict::Keep) => Outcome::Stays,
        Err(error) => fails(error),
    }
}

impl<H, S, W> Handler<CheckedState<S>, W> for CheckedHandler<H>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    fn on_start(&self, server: &Handle) -> Result {
        self.inner.on_start(server)
    }

    fn on_stop(&self, server: &Handle) {
        self.inner.on_stop(server);
    }

    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<W> {
        self.inner.on_worker_start(worker)
    }

    fn on_connect(&self, link: &mut Link<'_, (), W>) -> Result<CheckedState<S>> {
        let inner = self.around(
            Event::Connect,
            link,
            (),
            |handler, link, ()| handler.on_connect(link),
            stays_or_fails,
        )?;
        self.checker.note_state(true);
        let connection = number_of(link.peer().ip());
        let owner = Owner { connection, checker: Arc::clone(&self.checker) };
        Ok(CheckedState { inner, owner })
    }

    fn on_receive(&self, link: &mut CheckedLink<'_, S, W>, input: &mut Input<'_>) -> Result {
        self.with_inner(
            Event::Receive,
            link,
            input,
            |handler, link, input| handler.on_receive(link, input),
            stays_or_fails,
        )
    }

    fn on_writable(&self, link: &mut CheckedLink<'_, S, W>) -> Result {
        self.with_inner(
            Event::Writable,
            link,
            (),
            |handler, link, ()| handler.on_writable(link),
            stays_or_fails,
        )
    }

    fn on_end(&self, link: &mut CheckedLink<'_, S, W>, input: &mut Input<'_>) -> Result<Verdict> {
        self.with_inner(
            Event::End,
            link,
            input,
            |handler, link, input| handler.on_end(link, input),
            ends_for(DisconnectReason::PeerClosed),
        )
    }

    fn on_idle(&self, link: &mut CheckedLink<'_, S, W>) -> Result<Verdict> {
        self.with_inner(
            Event::Idle,
            link,
            (),
            |handler, link, ()| handler.on_idle(link),
            ends_for(DisconnectReason::Idle),
        )
    }

    fn on_drain(&self, link: &mut CheckedLink<'_, S, W>) -> Result<Verdict> {
        self.with_inner(
            Event::Drain,
            link,
            (),
            |handler, link, ()| handler.on_drain(link),
            ends_for(DisconnectReason::ServerStopping),
        )
    }

    fn on_disconnect(&self, link: &mut CheckedLink<'_, S, W>, reason: DisconnectReason) {
        self.with_inner(
            Event::Disconnect(reason),
            link,
            (),
            |handler, link, ()| handler.on_disconnect(link, reason),
            |()| Outcome::Stays,
        );
    }
}

/// The text of a panic.
pub(super) fn panic_text(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "(no text)".to_owned())
}
