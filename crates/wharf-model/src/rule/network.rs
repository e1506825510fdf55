//! The network: bytes that peers send, and bytes that they take.

use super::Model;
use crate::interface::Handler;

impl<H, S, W> Model<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// The peer has sent `data`: as much is received as the input limit and the buffers allow. Returns
    /// how many bytes; the rest stays with the peer. An ended link takes and discards all.
    pub fn arrive(&mut self, at: usize, data: &[u8]) -> usize {
        let slot = &mut self.slots[at];
        if !slot.is_open() {
            return data.len();
        }
        let len = slot.input.prepare_receive(data.len());
        if len > 0 {
            slot.input.receive(&data[..len]);
            slot.facts.totals.received_bytes += len as u64;
            slot.times.active_ms = self.now_ms;
        }
        slot.unread_max = slot.unread_max.max(slot.input.len());
        len
    }

    /// The peer has ended its stream.
    pub fn finish(&mut self, at: usize) {
        self.slots[at].input.is_ended = true;
        self.slots[at].input.account.wait_for(0);
    }

    /// The connection is reset. What was received is handled.
    pub fn reset(&mut self, at: usize) {
        self.finish(at);
        self.slots[at].is_reset = true;
        self.slots[at].out.discard_unsent();
    }

    /// The peer takes up to `len` bytes of what is to be sent. A send that is done is followed by the
    /// next one.
    pub fn leave(&mut self, at: usize, len: usize) -> Vec<u8> {
        let slot = &mut self.slots[at];
        let mut taken = Vec::new();
        while taken.len() < len {
            slot.out.start_send(self.settings.send_buffers_max);
            if slot.out.take_sent(len - taken.len(), &mut taken) == 0 {
                break;
            }
        }
        if !taken.is_empty() {
            slot.times.taken_ms = self.now_ms;
            slot.facts.totals.sent_bytes += taken.len() as u64;
            slot.out.start_send(self.settings.send_buffers_max);
        }
        taken
    }
}
