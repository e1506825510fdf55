//! The network: transfers bytes, ends and resets between the sides of a connection.

use super::connection::{ConnId, SERVER};
use super::events::EventKind;
use super::faults::FaultKind;
use super::world_state::{ECONNRESET, EPIPE, READ, Readable, SideOwner, WRITE, WorldState};

impl WorldState {
    /// The result that a read on this side would have now.
    pub(super) fn readable(&mut self, conn: ConnId, side: usize) -> Readable {
        self.conn(conn, |conn| {
            let side = &conn.sides[side];
            match side.inbox.arrived() {
                // Bytes that arrived before a reset are read first, as on Linux.
                0 if side.reset => Readable::Reset,
                0 if side.inbox.is_at_end() => Readable::AtEnd,
                0 => Readable::Nothing,
                count => Readable::Bytes(count),
            }
        })
        .unwrap_or(Readable::Reset)
    }

    /// Removes at most `max` arrived bytes and passes them to `sink`; notifies the other side if it
    /// waits to write.
    pub(super) fn read(
        &mut self,
        conn: ConnId,
        side: usize,
        max: usize,
        sink: impl FnMut(&[u8]),
    ) -> usize {
        let clocks = self.clocks_of(conn);
        let Some(entry) = self.conns.get_mut(conn) else { return 0 };
        let count = entry.state.sides[side].inbox.read(max, sink);
        let rest = entry.state.sides[side].inbox.arrived();
        entry.state.traffic.read(side, count, rest, clocks);
        let other = &mut entry.state.sides[1 - side];
        if count > 0 && other.waits_to_write {
            other.waits_to_write = false;
            self.notify(conn, 1 - side, WRITE);
        }
        count
    }

    /// Writes at most `max` bytes, as many as fit the pipe; if fewer fit, sets `waits_to_write`.
    pub(super) fn write<'a>(
        &mut self,
        conn: ConnId,
        side: usize,
        max: usize,
        slices: impl Iterator<Item = &'a [u8]>,
    ) -> Result<usize, i32> {
        let Some(entry) = self.conns.get_mut(conn) else { return Err(EPIPE) };
        let [here, there] = sides(&mut entry.state.sides, side);
        if here.reset {
            return Err(ECONNRESET);
        }
        if here.shut {
            return Err(EPIPE);
        }
        let mut written = 0;
        for slice in slices {
            let wanted = slice.len().min(max - written);
            let taken = there.inbox.write(&slice[..wanted]);
            written += taken;
            if taken < wanted {
                here.waits_to_write = true;
                break;
            }
        }
        if side == SERVER {
            entry.state.traffic.note(|traffic| traffic.from_server += written as u64);
        }
        if written > 0 {
            self.schedule_arrival(conn, 1 - side);
        }
        Ok(written)
    }

    /// Shuts down this side's sending.
    pub(super) fn shut(&mut self, conn: ConnId, side: usize) {
        let clocks = self.clocks_of(conn);
        let Some(entry) = self.conns.get_mut(conn) else { return };
        let [here, there] = sides(&mut entry.state.sides, side);
        if std::mem::replace(&mut here.shut, true) || here.reset {
            return;
        }
        if side == SERVER {
            entry.state.traffic.note(|traffic| traffic.end_ns = Some(clocks.link_ns));
        }
        there.inbox.fin_sent = true;
        self.notify(conn, side, WRITE);
        self.schedule_arrival(conn, 1 - side);
    }

    /// Records that the server has submitted the close.
    pub(super) fn give_up(&mut self, conn: ConnId) {
        let clocks = self.clocks_of(conn);
        self.conn(conn, |conn| conn.traffic.give_up(clocks));
    }

    /// Closes this side: with an end of stream, or with a reset if bytes are unread (as TCP does,
    /// RFC 2525 section 2.17) or the close is abortive. The slot is free when both sides are
    /// closed.
    pub(super) fn close(&mut self, conn: ConnId, side: usize) {
        let Some(entry) = self.conns.get_mut(conn) else { return };
        let [here, there] = sides(&mut entry.state.sides, side);
        if matches!(here.owner, SideOwner::Gone) {
            return;
        }
        here.owner = SideOwner::Gone;
        if side == SERVER {
            entry.state.traffic.note(|traffic| traffic.closed = true);
        }
        if matches!(there.owner, SideOwner::Gone) {
            self.conns.remove(conn);
            self.conns_live -= 1;
            return;
        }
        let was_reset = here.reset;
        let unread = here.inbox.arrived() > 0;
        // Bytes in transit will find this side closed, and cause a reset.
        here.inbox.lose_arrived();
        // The other side's waiting write is tried again.
        let wanted_room = std::mem::take(&mut there.waits_to_write);
        if (unread || here.resets) && !was_reset {
            self.reset_later(conn, 1 - side);
        } else {
            self.shut(conn, side);
        }
        if wanted_room {
            self.notify(conn, 1 - side, WRITE);
        }
    }

    pub(super) fn reset_later(&mut self, conn: ConnId, to: usize) {
        match self.latency_ns() {
            0 => self.reset_side(conn, to),
            latency_ns => self.schedule(latency_ns, EventKind::Reset { conn, to: narrow(to) }),
        }
    }

    /// A reset reaches this side: bytes in transit are lost.
    pub(super) fn reset_side(&mut self, conn: ConnId, side: usize) {
        let Some(entry) = self.conns.get_mut(conn) else { return };
        if entry.state.lost {
            return;
        }
        let side_state = &mut entry.state.sides[side];
        side_state.reset = true;
        side_state.inbox.lose_transit();
        if side == SERVER {
            entry.state.traffic.note(|traffic| traffic.reset = true);
        }
        self.notify(conn, side, READ);
        self.notify(conn, side, WRITE);
    }

    /// Schedules the arrival of bytes written to side `to`, unless one is scheduled already.
    fn schedule_arrival(&mut self, conn: ConnId, to: usize) {
        let Some(entry) = self.conns.get_mut(conn) else { return };
        let inbox = &mut entry.state.sides[to].inbox;
        if std::mem::replace(&mut inbox.arrival_scheduled, true) {
            return;
        }
        match self.latency_ns() {
            0 => self.arrive(conn, to),
            latency_ns => self.schedule(latency_ns, EventKind::Arrive { conn, to: narrow(to) }),
        }
    }

    /// Bytes in transit to side `to` arrive, or a part of them.
    pub(super) fn arrive(&mut self, conn: ConnId, to: usize) {
        let torn = self.draw_fault(FaultKind::SplitDelivery);
        let clocks = self.clocks_of(conn);
        let Some(entry) = self.conns.get_mut(conn) else { return };
        if entry.state.lost {
            return;
        }
        let side = &mut entry.state.sides[to];
        side.inbox.arrival_scheduled = false;
        let in_transit = side.inbox.in_transit();
        let is_gone = matches!(side.owner, SideOwner::Gone);
        if is_gone || side.reset {
            side.inbox.lose_transit();
            if is_gone && in_transit > 0 {
                self.reset_later(conn, 1 - to);
            }
            return;
        }
        let count = if torn { 1 + self.rng.below_len(in_transit) } else { in_transit };
        side.inbox.arrive(count);
        entry.state.traffic.arrived(to, count.min(in_transit), clocks);
        if side.inbox.in_transit() > 0 {
            side.inbox.arrival_scheduled = true;
            let after_ns = 1 + self.latency_ns();
            self.schedule(after_ns, EventKind::Arrive { conn, to: narrow(to) });
        } else if side.inbox.fin_sent {
            side.inbox.fin_arrived = true;
            if to == SERVER {
                entry.state.traffic.note(|traffic| traffic.client_ended = true);
            }
        }
        self.notify(conn, to, READ);
    }
}

/// This side and the other one.
fn sides<T>(both: &mut [T; 2], side: usize) -> [&mut T; 2] {
    let [client, server] = both;
    if side == 0 { [client, server] } else { [server, client] }
}

fn narrow(side: usize) -> u8 {
    u8::from(side != 0)
}
