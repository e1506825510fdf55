//! Reads the header of the PROXY protocol, with which a link of a proxy begins.

use crate::engine::close::CloseMode;
use crate::engine::worker::Worker;
use crate::link::slot::{Phase, Slot};
use crate::proxy::{HEADER_BYTES_MAX, Header};
use crate::service::Service;
use crate::shared::ShardPort;
use crate::vocabulary::reason::DisconnectReason;
use std::time::Duration;
use wharf_port::memory::{Buffer, Chain};
use wharf_port::port::Time;

/// Time from the accept in which a header must arrive.
const HEADER_MAX: Duration = Duration::from_secs(5);

/// When a link that waits for its header is closed; `None` for other links.
pub(super) fn header_deadline(slot: &Slot) -> Option<Time> {
    (slot.phase == Phase::Header).then(|| slot.time.active_at.saturating_add(HEADER_MAX))
}

impl<P: ShardPort, V: Service> Worker<P, V> {
    /// Waits for the header of a link that was opened in `Phase::Header`.
    pub(super) fn await_header(&mut self, index: u32) {
        self.start_timeout(index);
        self.update_receiving(index);
    }

    /// Reads the header from what has arrived. If all of it is there, the link is connected, with the
    /// address of the proxy's client; what follows the header is the link's input.
    pub(super) fn header_received(&mut self, index: u32, buffer: Buffer) {
        self.core.keep(index, buffer);
        self.core.settle(index);
        let mut bytes = [0; HEADER_BYTES_MAX];
        let len = copy_front(&self.core.slots[index].input.unread, &mut bytes);
        match Header::parse(&bytes[..len]) {
            Header::Incomplete => self.update_receiving(index),
            Header::Malformed => self.refuse_header(index, "it is malformed"),
            Header::Complete { len, client } => {
                let slot = &mut self.core.slots[index];
                slot.input.unread.advance(len);
                slot.totals.received_bytes -= len as u64;
                slot.peer = client.unwrap_or(slot.peer);
                slot.enter(Phase::Open);
                slot.note_activity(self.core.now);
                let unread = slot.input.unread.len() as u64;
                self.core.stats().received_bytes.add(unread);
                self.core.settle(index);
                self.connect_link(index);
            }
        }
    }

    /// Closes a link whose header is missing, malformed or late.
    #[cold]
    pub(super) fn refuse_header(&mut self, index: u32, why: &'static str) {
        let peer = self.core.slots[index].peer;
        tracing::debug!(%peer, why, "no header of the PROXY protocol, closing the connection");
        self.core.stats().proxy_errors.add(1);
        self.close(index, DisconnectReason::Limit, CloseMode::Immediate);
    }
}

/// Copies the first bytes of a chain; returns how many.
fn copy_front(chain: &Chain, to: &mut [u8]) -> usize {
    let mut len = 0;
    for slice in chain.slices_from(0) {
        let part = slice.len().min(to.len() - len);
        to[len..len + part].copy_from_slice(&slice[..part]);
        len += part;
        if len == to.len() {
            break;
        }
    }
    len
}
