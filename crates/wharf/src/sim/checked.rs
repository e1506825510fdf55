//! A handler around the one under test: it watches the callbacks, and passes them on.

use super::contract::{Contract, Event};
use crate::handler::{DisconnectReason, Handler, Idle, WorkerId};
use crate::link::Link;
use crate::link::input::Input;
use crate::{Error, Result};
use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

/// What a handler panics with, by `resume_unwind`, when the panic is part of the test: it is then
/// no failure, and costs its own link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a mark")]
pub struct PlannedPanic;

#[derive(Debug)]
pub(super) struct Checked<H> {
    pub(super) inner: H,
    pub(super) contract: Arc<Contract>,
}

/// The state of the handler under test, and whether a link has it already.
#[derive(Debug, Default)]
pub(super) struct CheckedState<S> {
    inner: S,
    used: bool,
}

type CheckedLink<'a, S> = Link<'a, CheckedState<S>>;

impl<H: Handler> Checked<H> {
    fn around<R>(
        &self,
        event: Event,
        link: &mut CheckedLink<'_, H::State>,
        callback: impl FnOnce(&H, &mut Link<'_, H::State>) -> R,
        refusal: impl FnOnce(&R) -> Option<DisconnectReason>,
    ) -> R {
        let (id, peer, now) = (link.id(), link.peer(), link.now());
        self.contract.enter(event, id, peer, now);
        let (mut inner, used) = link.split(|state| (&mut state.inner, &mut state.used));
        if event == Event::Connect && std::mem::replace(used, true) {
            self.contract.fail(format!("link {id} begins with another one's state"));
        }
        match catch_unwind(AssertUnwindSafe(|| callback(&self.inner, &mut inner))) {
            Ok(answer) => {
                self.contract.leave(event, id, refusal(&answer));
                answer
            }
            Err(payload) => {
                self.contract.leave(event, id, Some(DisconnectReason::HandlerPanic));
                if payload.is::<PlannedPanic>() {
                    self.contract.note_planned_panic(peer);
                } else {
                    let text = panic_text(&*payload);
                    self.contract.fail(format!("the handler panicked in {event:?}: {text}"));
                }
                resume_unwind(payload)
            }
        }
    }
}

impl<H: Handler> Handler for Checked<H> {
    type Worker = H::Worker;
    type State = CheckedState<H::State>;

    fn on_worker_start(&self, worker: WorkerId) -> io::Result<H::Worker> {
        self.inner.on_worker_start(worker)
    }

    fn on_connect(
        &self,
        worker: &mut H::Worker,
        link: &mut CheckedLink<'_, H::State>,
    ) -> Result<(), Error> {
        let refusal = |answer: &Result| answer.as_ref().err().map(DisconnectReason::of_error);
        self.around(Event::Connect, link, |h, link| h.on_connect(worker, link), refusal)
    }

    fn on_receive(
        &self,
        _: &mut H::Worker,
        _: &mut CheckedLink<'_, H::State>,
        _: &[u8],
    ) -> Result<(), Error> {
        self.contract.fail("on_receive is not called through on_input".to_owned());
        Ok(())
    }

    fn on_input(
        &self,
        worker: &mut H::Worker,
        link: &mut CheckedLink<'_, H::State>,
        input: &mut Input<'_>,
    ) -> Result<(), Error> {
        let before = input.len();
        if before == 0 {
            self.contract.fail("a call with input without bytes".to_owned());
        }
        self.contract.note_input(link.id(), link.peer(), before);
        let answer =
            self.around(Event::Receive, link, |h, link| h.on_input(worker, link, input), |_| None);
        self.contract.note_consumed(link.peer(), before - input.len(), input.wanted());
        answer
    }

    fn on_sent(
        &self,
        worker: &mut H::Worker,
        link: &mut CheckedLink<'_, H::State>,
    ) -> Result<(), Error> {
        self.around(Event::Sent, link, |h, link| h.on_sent(worker, link), |_| None)
    }

    fn on_idle(&self, worker: &mut H::Worker, link: &mut CheckedLink<'_, H::State>) -> Idle {
        self.around(Event::Idle, link, |h, link| h.on_idle(worker, link), |_| None)
    }

    fn on_disconnect(
        &self,
        worker: &mut H::Worker,
        link: &mut CheckedLink<'_, H::State>,
        reason: DisconnectReason,
    ) {
        let event = Event::Disconnect(reason);
        self.around(event, link, |h, link| h.on_disconnect(worker, link, reason), |()| None);
    }
}

/// What a panic said.
pub(super) fn panic_text(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "(no text)".to_owned())
}
