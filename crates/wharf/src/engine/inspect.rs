//! What must hold in a shard between two turns; only simulations ask.

use super::worker::Worker;
use crate::handler::Handler;
use crate::link::slot::{Phase, Receiving, Slot};
use crate::server::shared::Command;
use std::time::Duration;
use wharf_port::port::{Port, Time};

/// A shard's links, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Places that are not free.
    pub(crate) live: u32,
    /// Those of them for which `on_disconnect` is still to come.
    pub(crate) connected: u32,
    /// Connections that were accepted and wait for a place.
    pub(crate) parked: u32,
}

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}
pub(crate) use ensure;

impl<P: Port<Packet = Command<<P as Port>::Stream>>, H: Handler> Worker<P, H> {
    /// Looks at every live place.
    ///
    /// # Errors
    ///
    /// What does not hold.
    pub(crate) fn inspect(&self) -> Result<Census, String> {
        let slots = &self.core.slots;
        let (live, free) = (slots.live_count(), slots.free().len());
        ensure!(live + free == slots.capacity() as usize, "{live} places live, {free} free");
        ensure!(self.core.dirty.is_empty(), "links are left dirty after the flush");
        let mut holding = 0;
        let mut connected = 0;
        for n in 0..live {
            let index = slots.live(n);
            let slot = &slots[index];
            self.inspect_slot(slot)
                .map_err(|fault| format!("link {}: {fault}", self.core.id(index)))?;
            holding += u32::from(slot.holds());
            connected += u32::from(slot.connected);
        }
        ensure!(holding == self.core.holding, "{holding} links hold, not {}", self.core.holding);
        let [live, parked] = [live, self.acceptor.waiting_count()]
            .map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        Ok(Census { live, connected, parked })
    }

    fn inspect_slot(&self, slot: &Slot) -> Result<(), String> {
        let phase = slot.phase;
        ensure!(phase != Phase::Free, "live and free");
        ensure!(slot.socket.is_some(), "has no socket");
        let limit = self.core.shared.settings.send_queue_bytes as usize;
        ensure!(slot.backlog() <= limit, "{} bytes wait, of {limit}", slot.backlog());
        ensure!(slot.counted == slot.holds(), "holds {}, counted {}", slot.holds(), slot.counted);
        ensure!(slot.sending || slot.in_flight == 0, "in flight without a send");
        if phase == Phase::Closing {
            return Ok(());
        }
        ensure!(slot.sending || slot.queue.is_empty(), "bytes are queued, and nothing is sent");
        let is_read = matches!(phase, Phase::Open | Phase::Draining | Phase::Lingering);
        let waits = slot.receiving != Receiving::Off || slot.input_over || slot.sending;
        ensure!(!is_read || waits, "{phase:?}, but waits for nothing");
        ensure!(phase != Phase::Flushing || slot.sending, "is to flush, but nothing is sent");
        let idle = self.core.shared.settings.idle;
        let timed = match phase {
            Phase::Open => !idle.is_zero(),
            Phase::Lingering => true,
            Phase::Flushing => self.drain_until.is_none(),
            Phase::Free | Phase::Draining | Phase::Closing => false,
        };
        ensure!(!timed || slot.timer.hangs(), "{phase:?} without a time-out");
        // The wheel's promise: two ticks late at most.
        let late = idle + 2 * (idle / 100).clamp(Duration::from_millis(1), Duration::from_secs(1));
        let silent = self.core.now.since(slot.touched);
        let may_idle = phase == Phase::Open && !slot.input_over;
        ensure!(!may_idle || !timed || silent <= late, "idle for {silent:?}");
        Ok(())
    }

    /// Buffers that the shard keeps although it has no links.
    pub(crate) fn set_aside(&self) -> u32 {
        u32::from(self.core.has_set_aside())
    }

    /// Whether a listener waits for room in the table, and nothing else.
    pub(crate) fn wants_room(&self) -> bool {
        self.drain_until.is_none() && self.acceptor.wants_room()
    }

    /// When the shard wants to turn again, whatever comes.
    pub(crate) fn wakes_at(&mut self) -> Option<Time> {
        let now = self.port.now();
        self.wait(now).map(|wait| now.after(wait))
    }

    /// What the shard has done and has now, for a trace.
    pub(crate) fn describe(&self) -> String {
        use std::fmt::Write;
        let stats = self.core.stats();
        let mut text = format!(
            "at {} ns, {} completions, {} calls in all; {} links, drain until {:?}, accepts {}, {:?}",
            self.core.now.0,
            stats.completions.get(),
            stats.calls.get(),
            self.core.slots.live_count(),
            self.drain_until,
            !self.acceptor.is_closed(),
            self.core.pool.ledger(),
        );
        for n in 0..self.core.slots.live_count() {
            let index = self.core.slots.live(n);
            let Slot { phase, receiving, sending, in_flight, queue, totals, .. } =
                &self.core.slots[index];
            let (queued, received, sent) = (queue.len(), totals.received_bytes, totals.sent_bytes);
            let _cannot_fail = write!(
                text,
                "\n           {} {phase:?}, receiving {receiving:?}, sending {sending} \
                 {in_flight}, queued {queued}, received {received}, sent {sent}",
                self.core.id(index)
            );
        }
        text
    }

    pub(crate) fn port(&self) -> &P {
        &self.port
    }

    /// Completions that named no live operation.
    pub(crate) fn stale(&self) -> u64 {
        self.port.counters().stale
    }

    /// That every place is either live or free, and none is both.
    pub(crate) fn inspect_places(&self) -> Result<(), String> {
        let slots = &self.core.slots;
        let mut seen = vec![false; slots.capacity() as usize];
        let live = (0..slots.live_count()).map(|n| (slots.live(n), false));
        let free = slots.free().iter().map(|index| (*index, true));
        for (index, is_free) in live.chain(free) {
            let twice = std::mem::replace(&mut seen[index as usize], true);
            ensure!(!twice, "place {index} is in two lists");
            ensure!(
                (slots[index].phase == Phase::Free) == is_free,
                "place {index} is in the wrong list"
            );
        }
        Ok(())
    }

    /// That no link holds what the others are to have: see `Core::allowance`.
    pub(crate) fn inspect_reserve(&self) -> Result<(), String> {
        let ledger = self.core.pool.ledger();
        ensure!(ledger.free == self.core.pool.free(), "{ledger:?}, {} free", self.core.pool.free());
        let reserve = self.core.slots.capacity().min(self.core.pool.capacity() / 2);
        let kept = reserve.saturating_sub(self.core.holding);
        let there = ledger.free + ledger.kernel_receive + ledger.application;
        ensure!(there >= kept, "{there} buffers left for {kept} links without: {ledger:?}");
        Ok(())
    }
}
