//! Links that have run out of time: idle ones, those whose peer takes nothing of what is sent, and
//! closing ones whose peer does not do its part.

pub(super) mod timers;

use crate::engine::close::{FLUSH_MAX, How, LINGER_MAX};
use crate::engine::time_out::timers::LOOKS;
use crate::engine::worker::Worker;
use crate::handler::Handler;
use crate::limits::Settings;
use crate::link::slot::{Phase, Slot};
use crate::service::Service;
use crate::shared::ShardPort;
use crate::vocabulary::reason::{DisconnectReason, Verdict};
use std::time::Duration;
use wharf_port::port::Time;

/// The time-out that the timer wheel is made for.
pub(crate) fn timeout_scale(settings: &Settings) -> Duration {
    let spans = [settings.idle, settings.stall, settings.answer, FLUSH_MAX];
    spans.into_iter().filter(|span| !span.is_zero()).min().unwrap_or(FLUSH_MAX)
}

impl<P: ShardPort, V: Service> Worker<P, V> {
    /// Hangs the link into the wheel for the time-out of its phase.
    pub(super) fn start_time_out(&mut self, index: u32) {
        match self.deadline(&self.core.slots[index]) {
            Some(deadline) => self.timers.wheel.set(&mut self.core.slots, index, deadline),
            None => self.timers.wheel.clear(&mut self.core.slots, index),
        }
    }

    /// When the link is to be looked at next.
    fn deadline(&self, slot: &Slot) -> Option<Time> {
        if slot.phase == Phase::Lingering {
            return Some(slot.heard.after(LINGER_MAX));
        }
        let answer = self.answer_deadline(slot);
        if slot.has_output() {
            let stall = self
                .stall_of(slot.phase)
                .map(|stall| slot.moved.after(stall).min(self.core.now.after(stall / LOOKS)));
            return stall.into_iter().chain(answer).min();
        }
        answer.or_else(|| self.idle_deadline(slot))
    }

    /// When the link's deferred reply is too late.
    fn answer_deadline(&self, slot: &Slot) -> Option<Time> {
        let answer = self.core.shared.settings.answer;
        let never = answer.is_zero() || slot.cancelled;
        let deferral = slot.deferral.filter(|_| !never)?;
        Some(deferral.since.after(answer))
    }

    /// When the link is idle: its peer owes it something, and nothing is owed to the peer.
    pub(super) fn idle_deadline(&self, slot: &Slot) -> Option<Time> {
        let may_come = !slot.input_over || slot.end == Some(Verdict::Keep);
        let owes = slot.has_output() || slot.is_held();
        let counts = slot.phase == Phase::Open && slot.idle_ms != 0 && slot.broken.is_none();
        if counts && !owes && may_come {
            return Some(slot.heard.after(Duration::from_millis(slot.idle_ms.into())));
        }
        // One whose sending has failed waits for the end of its input, which is near.
        let is_broken = slot.phase == Phase::Open && slot.broken.is_some() && !slot.is_held();
        is_broken.then(|| slot.heard.after(FLUSH_MAX))
    }

    /// How long the peer may take nothing; `None` if for as long as it likes.
    pub(super) fn stall_of(&self, phase: Phase) -> Option<Duration> {
        let stall = self.core.shared.settings.stall;
        match phase {
            Phase::Open => (!stall.is_zero()).then_some(stall),
            Phase::Flushing if !self.drain.is_due() => {
                Some(if stall.is_zero() { FLUSH_MAX } else { stall })
            }
            // A drain has its own end, and a closing link is the port's business.
            Phase::Free | Phase::Draining | Phase::Flushing | Phase::Lingering | Phase::Closing => {
                None
            }
        }
    }

    /// Nothing is to be sent: has the link looked at in time, should its peer say nothing.
    pub(super) fn watch_idle(&mut self, index: u32) {
        let slot = &self.core.slots[index];
        if self.idle_deadline(slot).is_some_and(|deadline| slot.due > deadline) {
            self.start_time_out(index);
        }
    }

    /// A send begins: has the link looked at in time, should its peer take nothing of it.
    pub(super) fn watch_output(&mut self, index: u32) {
        let now = self.core.now;
        let slot = &mut self.core.slots[index];
        (slot.moved, slot.looked) = (now, false);
        if slot.phase == Phase::Open {
            // Reckoned once: this comes with each message.
            let Some(every_ns) = self.timers.look_every_ns else { return };
            if slot.due.0 > now.0 + 2 * every_ns {
                self.timers.wheel.set(&mut self.core.slots, index, Time(now.0 + every_ns));
            }
        }
    }

    /// Looks at the links whose time may be over.
    pub(super) fn expire(&mut self) {
        if !self.clock.may_time_out() {
            return;
        }
        while let Some(index) = self.timers.wheel.next_due(&mut self.core.slots, self.core.now) {
            self.look_at_time(index);
            self.start_time_out(index);
        }
    }

    fn look_at_time(&mut self, index: u32) {
        let now = self.core.now;
        let slot = &self.core.slots[index];
        if self.answer_deadline(slot).is_some_and(|deadline| deadline <= now) {
            return self.give_up_reply(index);
        }
        let sends = matches!(slot.phase, Phase::Open | Phase::Flushing) && slot.has_output();
        if !sends && self.deadline(slot).is_none_or(|deadline| deadline > now) {
            return;
        }
        match slot.phase {
            // Its reason is known.
            Phase::Lingering => self.close(index, DisconnectReason::Idle, How::Now),
            Phase::Open | Phase::Flushing if sends => self.look_at_stall(index),
            Phase::Open if slot.broken.is_some() && slot.wish.is_none() => {
                self.close(index, DisconnectReason::PeerReset, How::Now);
            }
            Phase::Open => self.idle(index),
            Phase::Free | Phase::Draining | Phase::Flushing | Phase::Closing => {}
        }
    }

    /// Something is to be sent, and nothing of it went for long: cuts who takes nothing.
    fn look_at_stall(&mut self, index: u32) {
        let moved = self.look_at_progress(index);
        let phase = self.core.slots[index].phase;
        let Some(stall) = self.stall_of(phase) else { return };
        if self.core.now.since(moved) >= stall {
            self.close(index, DisconnectReason::SlowReader, How::Now);
        }
    }

    fn idle(&mut self, index: u32) {
        if self.core.slots[index].wish.is_some() {
            // What it waits for is not its peer's to give.
            let now = self.core.now;
            self.core.slots[index].hear(now);
            return;
        }
        let answer = self.call(index, |handler, link| handler.on_idle(link));
        let now = self.core.now;
        self.core.slots[index].hear(now);
        match self.after_verdict(index, answer) {
            Some(Verdict::Close) => {
                // A last word is sent.
                let how = if self.core.slots[index].has_output() { How::Flush } else { How::Now };
                self.close(index, DisconnectReason::Idle, how);
            }
            Some(Verdict::Keep) => self.serve(index),
            None => {}
        }
    }

    /// A deferred reply has not come in time: later ones would be taken for it.
    fn give_up_reply(&mut self, index: u32) {
        self.core.cancel_reply(index);
        let slot = &mut self.core.slots[index];
        if slot.phase == Phase::Flushing {
            slot.reason = Some(DisconnectReason::HandlerError);
            if !slot.has_output() && !slot.cancelled {
                self.flushed(index);
            }
            return;
        }
        self.close(index, DisconnectReason::HandlerError, How::Flush);
    }
}
