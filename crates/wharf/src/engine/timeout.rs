//! Timeouts of links: idle, stall, answer, and those of closing.

pub(super) mod timers;

use crate::engine::close::CloseMode;
use crate::engine::close::limits::{closing_deadline, flush_timeout};
use crate::engine::proxy::header_deadline;
use crate::engine::timeout::timers::CHECKS_PER_STALL;
use crate::engine::worker::Worker;
use crate::handler::Handler;
use crate::link::slot::{Phase, Slot};
use crate::service::Service;
use crate::shared::ShardPort;
use crate::vocabulary::reason::{DisconnectReason, Verdict};
use std::time::Duration;
use wharf_port::port::Time;

impl<P: ShardPort, V: Service> Worker<P, V> {
    /// Schedules the link's timer for its next timeout, or cancels it.
    pub(super) fn start_timeout(&mut self, index: u32) {
        match self.deadline(&self.core.slots[index]) {
            Some(deadline) => self.timers.wheel.schedule(&mut self.core.slots, index, deadline),
            None => self.timers.wheel.cancel(&mut self.core.slots, index),
        }
    }

    /// The link's next timeout, or the next check of its progress.
    fn deadline(&self, slot: &Slot) -> Option<Time> {
        let answer = self.answer_deadline(slot);
        if slot.has_output() {
            let stall = self.stall_timeout(slot.phase).map(|stall| {
                slot.time
                    .output_progress_at
                    .saturating_add(stall)
                    .min(self.core.now.saturating_add(stall / CHECKS_PER_STALL))
            });
            return stall.into_iter().chain(answer).min();
        }
        answer.or_else(|| self.idle_deadline(slot))
    }

    /// The answer timeout of the link's deferred reply.
    fn answer_deadline(&self, slot: &Slot) -> Option<Time> {
        let answer = self.core.shared.settings.answer;
        let never = answer.is_zero() || slot.has_cancelled_reply();
        let deferral = slot.deferral.filter(|_| !never)?;
        Some(deferral.since.saturating_add(answer))
    }

    /// The idle timeout, while the link waits for its peer only; else the limit of a link that waits for
    /// its header, lingers or is broken.
    pub(super) fn idle_deadline(&self, slot: &Slot) -> Option<Time> {
        let may_come = !slot.input.end_of_stream || slot.ending.end == Some(Verdict::Keep);
        let owes = slot.has_output() || slot.is_held();
        let counts =
            slot.phase == Phase::Open && slot.time.idle_ms != 0 && slot.output.broken.is_none();
        if counts && !owes && may_come {
            return Some(
                slot.time.active_at.saturating_add(Duration::from_millis(slot.time.idle_ms.into())),
            );
        }
        header_deadline(slot).or_else(|| closing_deadline(slot))
    }

    /// The stall timeout in a phase; `None` if it has none.
    pub(super) fn stall_timeout(&self, phase: Phase) -> Option<Duration> {
        let stall = self.core.shared.settings.stall;
        match phase {
            Phase::Open => (!stall.is_zero()).then_some(stall),
            Phase::Flushing if !self.drain.is_due() => Some(flush_timeout(stall)),
            // A drain has its own timeout, and the close of a closing link is the port's.
            Phase::Free
            | Phase::Header
            | Phase::Draining
            | Phase::Flushing
            | Phase::Lingering
            | Phase::Closing => None,
        }
    }

    /// All is sent: schedules the idle timeout, if the timer expires later.
    pub(super) fn schedule_idle(&mut self, index: u32) {
        let slot = &self.core.slots[index];
        if self.idle_deadline(slot).is_some_and(|deadline| slot.time.due > deadline) {
            self.start_timeout(index);
        }
    }

    /// A send begins: schedules the check of its progress, if the timer expires later.
    pub(super) fn schedule_progress_check(&mut self, index: u32) {
        let now = self.core.now;
        let slot = &mut self.core.slots[index];
        (slot.time.output_progress_at, slot.time.acknowledged_read) = (now, false);
        if slot.phase == Phase::Open {
            // Computed at start, because this runs for each send.
            let Some(every_ns) = self.timers.progress_interval_ns else { return };
            if slot.time.due.0 > now.0 + 2 * every_ns {
                self.timers.wheel.schedule(&mut self.core.slots, index, Time(now.0 + every_ns));
            }
        }
    }

    /// Checks the links whose timers have expired.
    pub(super) fn expire_timeouts(&mut self) {
        if !self.clock.may_time_out() {
            return;
        }
        while let Some(index) = self.timers.wheel.pop_expired(&mut self.core.slots, self.core.now) {
            self.check_timeouts(index);
            self.start_timeout(index);
        }
    }

    fn check_timeouts(&mut self, index: u32) {
        let now = self.core.now;
        let slot = &self.core.slots[index];
        if self.answer_deadline(slot).is_some_and(|deadline| deadline <= now) {
            return self.expire_reply(index);
        }
        let sends = matches!(slot.phase, Phase::Open | Phase::Flushing) && slot.has_output();
        if !sends && self.deadline(slot).is_none_or(|deadline| deadline > now) {
            return;
        }
        match slot.phase {
            Phase::Header => self.refuse_header(index, "it is late"),
            // `close` keeps the link's first reason.
            Phase::Lingering => self.close(index, DisconnectReason::Idle, CloseMode::Immediate),
            Phase::Open | Phase::Flushing if sends => self.check_stall(index),
            Phase::Open if slot.output.broken.is_some() && slot.loans.request.is_none() => {
                self.close(index, DisconnectReason::PeerReset, CloseMode::Immediate);
            }
            Phase::Open => self.call_on_idle(index),
            Phase::Free | Phase::Draining | Phase::Flushing | Phase::Closing => {}
        }
    }

    /// Closes the link if its output has made no progress for the stall timeout.
    fn check_stall(&mut self, index: u32) {
        let moved = self.read_progress(index);
        let phase = self.core.slots[index].phase;
        let Some(stall) = self.stall_timeout(phase) else { return };
        if self.core.now.duration_since(moved) >= stall {
            self.close(index, DisconnectReason::SlowReader, CloseMode::Immediate);
        }
    }

    fn call_on_idle(&mut self, index: u32) {
        if self.core.slots[index].loans.request.is_some() {
            // The link waits for a loan and not for its peer.
            let now = self.core.now;
            self.core.slots[index].note_activity(now);
            return;
        }
        let answer = self.run_callback(index, |handler, link| handler.on_idle(link));
        let now = self.core.now;
        self.core.slots[index].note_activity(now);
        match self.apply_verdict(index, answer) {
            Some(Verdict::Close) => {
                // What `on_idle` queued is sent.
                let mode = if self.core.slots[index].has_output() {
                    CloseMode::Graceful
                } else {
                    CloseMode::Immediate
                };
                self.close(index, DisconnectReason::Idle, mode);
            }
            Some(Verdict::Keep) => self.serve(index),
            None => {}
        }
    }

    /// Closes a link at its answer timeout: its peer would take a later reply for the missing one.
    fn expire_reply(&mut self, index: u32) {
        self.core.cancel_reply(index);
        let slot = &mut self.core.slots[index];
        if slot.phase == Phase::Flushing {
            slot.ending.reason = Some(DisconnectReason::HandlerError);
            if !slot.has_output() && !slot.has_cancelled_reply() {
                self.start_lingering_close(index);
            }
            return;
        }
        self.close(index, DisconnectReason::HandlerError, CloseMode::Graceful);
    }
}
