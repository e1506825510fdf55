//! Links that have run out of time: idle ones, and closing ones whose peer does not do its part.

use super::close::How;
use super::worker::Worker;
use crate::handler::{DisconnectReason, Handler, Idle};
use crate::link::slot::{Phase, Receiving, Slot};
use crate::plant::EnginePlant;
use crate::server::shared::Command;
use std::time::Duration;
use wharf_port::port::{Port, Time};

/// How long a closing link waits for its peer to take the next part of what is queued.
const FLUSH_MAX: Duration = Duration::from_secs(30);
/// How long a link that has sent its end waits for the peer's.
const LINGER_MAX: Duration = Duration::from_secs(2);

/// The time-out that the timer wheel is made for.
pub(crate) fn timeout_scale(idle: Duration) -> Duration {
    if idle.is_zero() { FLUSH_MAX } else { idle }
}

impl<P: Port<Packet = Command<<P as Port>::Stream>>, H: Handler> Worker<P, H> {
    /// Hangs the link into the wheel for the time-out of its phase.
    pub(super) fn start_time_out(&mut self, index: u32) {
        if self.core.shared.planted.strikes(EnginePlant::ForgetTimeOut) {
            return;
        }
        match self.deadline(&self.core.slots[index]) {
            Some(deadline) => self.wheel.set(&mut self.core.slots, index, deadline),
            None => self.wheel.clear(&mut self.core.slots, index),
        }
    }

    fn deadline(&self, slot: &Slot) -> Option<Time> {
        let span = match slot.phase {
            // Half closed: it only takes answers, as a closing link does.
            Phase::Open if slot.input_over => FLUSH_MAX,
            Phase::Open => self.core.shared.settings.idle,
            Phase::Flushing if self.drain_until.is_none() => FLUSH_MAX,
            Phase::Lingering => LINGER_MAX,
            // A drain has its own end, and a closing link is the port's business.
            Phase::Free | Phase::Draining | Phase::Flushing | Phase::Closing => Duration::ZERO,
        };
        (!span.is_zero()).then(|| slot.touched.after(span))
    }

    /// Looks at the links whose time may be over.
    pub(super) fn expire(&mut self) {
        while let Some(index) = self.wheel.next_due(&mut self.core.slots, self.core.now) {
            let slot = &self.core.slots[index];
            let over = self.deadline(slot).is_some_and(|deadline| deadline <= self.core.now);
            if over && slot.phase == Phase::Open && slot.input_over {
                self.close(index, DisconnectReason::PeerClosed, How::Now);
            } else if over
                && slot.phase == Phase::Open
                && slot.holds()
                && slot.receiving != Receiving::Armed
            {
                // Not the peer is silent: it is not heard, because it does not read.
                self.close(index, DisconnectReason::SlowReader, How::Now);
            } else if over && slot.phase == Phase::Open {
                let peer_reads = !slot.holds();
                let answer =
                    self.call(index, |handler, worker, link| handler.on_idle(worker, link));
                self.core.slots[index].touched = self.core.now;
                match answer {
                    Some(Idle::Keep) => self.after_callback(index, Some(Ok(()))),
                    Some(Idle::Close) => {
                        // A last word is sent, unless older words are still unread.
                        let has_last_word = peer_reads && self.core.slots[index].holds();
                        let how = if has_last_word { How::Flush } else { How::Now };
                        self.close(index, DisconnectReason::Idle, how);
                    }
                    None => self.after_callback(index, None),
                }
            } else if over {
                // Its reason is known: it is flushing or lingering.
                self.close(index, DisconnectReason::Idle, How::Now);
            }
            self.start_time_out(index);
        }
    }
}
