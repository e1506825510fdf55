//! How callbacks' results and ends are applied.

use super::{LinkEnd, Model};
use crate::bug::{ModelBug, planted};
use crate::interface::{DisconnectReason, ErrorKind, Handler, LinkId, ReplyState, Result, Verdict};

impl<H, S, W> Model<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// What a callback with a verdict returned; `None`: it panicked.
    pub(super) fn apply_verdict(
        &mut self,
        at: usize,
        result: Option<Result<Verdict>>,
        close: impl FnOnce(&mut Self),
    ) {
        let closes = matches!(result, Some(Ok(Verdict::Close)));
        self.apply_result(at, result.map(|result| result.map(|_| ())));
        if closes && self.slots[at].is_open() {
            close(self);
        }
    }

    /// What a callback returned and asked for; `None`: it panicked.
    pub(super) fn apply_result(&mut self, at: usize, result: Option<Result>) {
        match result {
            None => return self.close_now(at, DisconnectReason::HandlerPanic),
            Some(Err(error)) => {
                self.cancel_reply(at);
                let reason = match error.kind() {
                    ErrorKind::OutputFull if planted(ModelBug::FullBlamesPeer) => {
                        return self.close_now(at, DisconnectReason::SlowReader);
                    }
                    ErrorKind::OutputFull => DisconnectReason::OutputFull,
                    ErrorKind::Limit => DisconnectReason::Limit,
                    ErrorKind::Handler => DisconnectReason::HandlerError,
                };
                return self.close_after_sending(at, reason);
            }
            Some(Ok(())) => {}
        }
        let slot = &mut self.slots[at];
        let asked = &mut slot.asked;
        if std::mem::take(&mut asked.pause) {
            slot.is_paused = true;
        }
        if std::mem::take(&mut asked.resume) {
            (slot.is_paused, slot.wakes) = (false, true);
        }
        if std::mem::take(&mut asked.offload) {
            // The pool takes 1 to 3 turns.
            slot.pool_turns = 1 + u32::try_from(slot.calls % 3).unwrap_or(0);
        }
        let close = std::mem::take(&mut asked.close);
        if std::mem::take(&mut asked.abort) {
            self.close_now(at, DisconnectReason::HandlerClosed);
        } else if close {
            self.close_after_sending(at, DisconnectReason::HandlerClosed);
        }
    }

    /// Sends what is queued and deferred, and ends. Nothing is called but `on_disconnect`.
    pub(super) fn close_after_sending(&mut self, at: usize, reason: DisconnectReason) {
        let slot = &mut self.slots[at];
        if !slot.is_open() {
            return;
        }
        slot.input.discard();
        slot.out.forget_debts();
        slot.end = LinkEnd::Flushing(reason);
        slot.input.account.wait_for(0);
        slot.out.account.wait_for(0);
    }

    /// Ends immediately: unsent bytes are discarded.
    pub(super) fn close_now(&mut self, at: usize, reason: DisconnectReason) {
        if self.slots[at].is_over() {
            return;
        }
        self.cancel_reply(at);
        let slot = &mut self.slots[at];
        slot.end = LinkEnd::Over(reason);
        slot.input.discard();
        slot.out.close();
        slot.input.account.wait_for(0);
        slot.out.account.wait_for(0);
        let partner = slot.partner.take();
        if slot.state.is_some() {
            let _panicked = self.call(at, false, |handler, link, _| {
                handler.on_disconnect(link, reason);
                Ok(())
            });
            self.slots[at].state = None;
            self.server.lock().stats.links -= 1;
        }
        self.server.lock().ended.insert(LinkId(at));
        self.leave_groups(at);
        if let Some(partner) = partner {
            self.end_partnership(partner, reason);
        }
    }

    fn end_partnership(&mut self, at: usize, reason: DisconnectReason) {
        let gone = self.closed_output();
        let slot = &mut self.slots[at];
        slot.partner = None;
        slot.asked.partner = gone;
        slot.wakes = true;
        if slot.is_open() {
            let verdict =
                self.call(at, false, |handler, link, _| handler.on_partner_gone(link, reason));
            self.apply_verdict(at, verdict, |model| {
                model.close_after_sending(at, DisconnectReason::PartnerGone);
            });
        }
    }

    fn closed_output(&self) -> crate::interface::Queue {
        let mut output = self.no_output();
        output.close();
        output
    }

    /// A reply that was deferred and is sent now is queued, as soon as it fits. Whether it was.
    pub(super) fn take_reply(&mut self, at: usize) -> bool {
        let slot = &mut self.slots[at];
        let Some(claim) = &slot.input.claim else { return false };
        let bytes_max = claim.bytes_max;
        let mut state = claim.state.lock();
        match &*state {
            ReplyState::Sent { bytes, .. } if slot.out.fits_reply(bytes.len()) => {}
            ReplyState::Dropped => {
                drop(state);
                self.cancel_reply(at);
                self.close_after_sending(at, DisconnectReason::HandlerError);
                return true;
            }
            _ => return false,
        }
        let ReplyState::Sent { bytes, close } = std::mem::replace(&mut *state, ReplyState::Waiting)
        else {
            return false;
        };
        drop(state);
        slot.input.claim = None;
        slot.out.end_reserved(bytes_max, &bytes);
        slot.wakes = true;
        if planted(ModelBug::ReplyCausesNoCall) {
            (slot.wakes, slot.last.took) = (false, false);
        }
        if close && slot.is_open() {
            slot.input.discard();
            slot.end = LinkEnd::Flushing(DisconnectReason::HandlerClosed);
        }
        true
    }

    pub(super) fn cancel_reply(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        if let Some(claim) = slot.input.claim.take() {
            *claim.state.lock() = ReplyState::Cancelled;
            slot.out.end_reserved(claim.bytes_max, &[]);
        }
    }
}
