//! What a link's own handler queues: each message whole or not at all, within the output limit and the
//! buffers that the link may take.

use crate::acts::{Act, tell};
use crate::link::core::ShardState;
use crate::link::output::Copied;
use crate::link::slot::{Deferral, LoanRequest};
use crate::link::unread::Unread;
use crate::shared::payload::{Parts, Payload};
use crate::shared::reply::Reply;
use crate::vocabulary::error::SendError;
use std::io::{self, Write};
use std::sync::Arc;
use wharf_port::memory::{Chain, Owner, Parcel};

impl ShardState {
    /// Queues a copy of `data` on a link.
    pub(crate) fn queue(&mut self, index: u32, data: &[u8]) -> Result<(), SendError> {
        if data.is_empty() {
            return self.open_output(index);
        }
        let result = self.check_capacity(index, data.len()).and_then(|()| {
            if self.slots[index].output.broken.is_some() {
                return Ok(());
            }
            let buffers_allowed = self.buffers_allowed(index);
            let slot = &mut self.slots[index];
            match slot.output.queue.append(&self.pool, data, Owner::SendQueue, buffers_allowed) {
                Ok(()) => {
                    self.end_output_request(index, data.len());
                    Ok(())
                }
                Err(_) => Err(self.request_output(index, data.len())),
            }
        });
        self.queued(index, data.len(), result)
    }

    /// Queues a payload that does not lie in one slice.
    pub(crate) fn queue_payload(
        &mut self,
        index: u32,
        payload: &impl Payload,
    ) -> Result<(), SendError> {
        if let Some(message) = payload.message() {
            return self.queue_own_message(index, &message.inner);
        }
        let mut writer = Writer::new(self, index)?;
        if payload.write(&mut writer).is_ok() {
            return writer.finish();
        }
        writer.discard();
        drop(writer);
        self.queued(index, 0, Err(SendError::TooLarge))
    }

    /// Queues a shared message that the handler sends to its own link: as one entry if the link may
    /// have one, else as a copy.
    fn queue_own_message(
        &mut self,
        index: u32,
        message: &wharf_port::memory::Message,
    ) -> Result<(), SendError> {
        let result = self.check_capacity(index, message.len()).and_then(|()| {
            if self.slots[index].output.broken.is_some() || message.is_empty() {
                return Ok(());
            }
            if self.has_entry_for(index)
                && self.slots[index].output.queue.push_message(&self.pool, message.clone()).is_ok()
            {
                return Ok(());
            }
            let buffers_allowed = self.buffers_allowed(index);
            let queue = &mut self.slots[index].output.queue;
            let appended =
                queue.append_copy_of(&self.pool, message, Owner::SendQueue, buffers_allowed);
            appended.map_err(|_| self.request_output(index, message.len()))
        });
        self.queued(index, message.len(), result)
    }

    /// Reads from a source into the buffers of a link's queue.
    pub(crate) fn queue_from(
        &mut self,
        index: u32,
        max: u64,
        read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Copied> {
        if self.open_output(index).is_err() {
            return Ok(Copied { bytes: 0, ended: false });
        }
        if self.slots[index].output.broken.is_some() {
            return discard(max, self.slots[index].output.limit as usize, read);
        }
        let spare = self.spare_capacity(index);
        let most = usize::try_from(max).unwrap_or(usize::MAX);
        let buffers_allowed = self.buffers_allowed(index);
        let queue = &mut self.slots[index].output.queue;
        let len_max = most.min(spare);
        let owner = Owner::SendQueue;
        // If `read` panics, the bytes that it read before stay queued; the reset of the link drops
        // them.
        let filled = queue.append_from(&self.pool, owner, buffers_allowed, len_max, read);
        if filled.len > 0 {
            self.end_output_request(index, filled.len);
            self.note_queued(index);
        }
        if filled.len == len_max && len_max < most {
            self.request_writable(index, 0);
            if self.is_short_of_buffers(index) {
                let _what_is_told_is_how_much = self.request_output(index, self.grant_bytes());
            }
        }
        match filled.error {
            Some(error) => Err(error),
            None => Ok(Copied { bytes: filled.len as u64, ended: filled.ended }),
        }
    }

    /// Moves unread bytes to the end of the link's queue, within its capacity; returns how many.
    #[inline]
    pub(crate) fn forward(&mut self, index: u32, unread: &mut Unread, max: usize) -> usize {
        // Fast path: the input is one received buffer, and nothing is unsent.
        let slot = &mut self.slots[index];
        let is_open = slot.runs_callbacks() && !slot.ending.close_requested;
        if is_open
            && !slot.is_output_over()
            && slot.holds_no_output()
            && slot.loans.request.is_none()
        {
            let max = max.min(slot.output.limit as usize - slot.post_capacity_max() as usize);
            if let Some(len) = unread.move_fresh(&self.pool, &mut slot.output.queue, max) {
                slot.input.in_call = 0;
                self.note_queued(index);
                return len;
            }
        }
        self.forward_parts(index, unread, max)
    }

    fn forward_parts(&mut self, index: u32, unread: &mut Unread, max: usize) -> usize {
        if self.open_output(index).is_err() {
            return 0;
        }
        if self.slots[index].output.broken.is_some() {
            unread.consume(max);
            return max;
        }
        let len_max = max.min(self.left_of(index));
        let buffers_allowed = self.buffers_allowed(index);
        let slot = &mut self.slots[index];
        let len = unread.move_to(&self.pool, &mut slot.output.queue, len_max, buffers_allowed);
        slot.input.in_call = unread.buffers();
        if len < max {
            self.stats().send_errors.add(1);
        }
        if len < len_max {
            // Only buffers are lacking.
            let needed = (len_max - len).min(self.grant_bytes());
            let _what_is_left_waits = self.request_output(index, needed);
        }
        if len > 0 {
            if len == len_max {
                self.end_output_request(index, len);
            }
            self.note_queued(index);
        }
        len
    }

    /// Reserves `max` bytes of the output limit and buffers for a deferred reply.
    pub(crate) fn defer(&mut self, index: u32, max: usize) -> Result<Reply, SendError> {
        if self.slots[index].deferral.is_some() {
            self.note_refusal(index, 0, SendError::Full);
            return Err(SendError::Full);
        }
        let result = self.check_capacity(index, max).and_then(|()| {
            // A reply that will be discarded needs no buffers.
            let max = if self.slots[index].output.broken.is_some() { 0 } else { max };
            if self.buffers_of(max) > self.buffers_allowed(index) {
                return Err(self.request_output(index, max));
            }
            Parcel::new(&self.pool, Owner::SendQueue, max)
                .map_err(|_| self.request_output(index, max))
        });
        let parcel = match result {
            Ok(parcel) => parcel,
            Err(error) => {
                self.note_refusal(index, max, error);
                return Err(error);
            }
        };
        self.deferrals = self.deferrals.wrapping_add(1);
        let number = self.deferrals;
        let (now, buffers) = (self.now, parcel.buffers());
        let slot = &mut self.slots[index];
        let bytes = u32::try_from(max).unwrap_or(u32::MAX);
        slot.deferral = Some(Deferral { bytes, buffers, since: now, is_cancelled: false });
        slot.suspend_idle_time(now);
        self.end_output_request(index, max);
        self.settle(index);
        self.publish_capacity(index);
        let shard = &self.shared.shards[usize::from(self.shard)];
        shard.replies[index as usize].promise(number, parcel);
        Ok(Reply::new(Arc::clone(&self.shared), self.key(index), number, max))
    }

    /// Queues a deferred reply, in the buffers that were reserved for it.
    pub(crate) fn queue_reply(&mut self, index: u32, reply: Chain) {
        self.slots[index].output.queue.append_chain(reply);
        self.note_queued(index);
    }

    /// If an `on_writable` is due that lacks only buffers, has the link wait for a loan.
    pub(crate) fn request_if_short(&mut self, index: u32) {
        let slot = &self.slots[index];
        let wanted = (slot.output.ensured as usize).max(self.grant_bytes());
        let is_short = slot.output.writable_due
            && !matches!(slot.loans.request, Some(LoanRequest::Output(_)))
            && slot.used() + wanted <= slot.output.limit as usize
            && self.spare_capacity(index) < wanted;
        if is_short {
            let _nobody_is_told = self.request_output(index, wanted);
        }
    }

    /// Bytes that the handler can queue now.
    pub(crate) fn spare_capacity(&self, index: u32) -> usize {
        let slot = &self.slots[index];
        if self.open_output(index).is_err() {
            return 0;
        }
        if slot.output.broken.is_some() {
            return slot.output.limit as usize;
        }
        let by_limit = self.left_of(index);
        let size = self.pool.buffer_size_bytes() as usize;
        let by_buffers =
            slot.output.queue.spare_capacity() + self.buffers_allowed(index) as usize * size;
        by_limit.min(by_buffers)
    }

    /// Whether the handler can queue `bytes` now; if not, an `on_writable` is due when it can.
    pub(crate) fn ensure(&mut self, index: u32, bytes: usize) -> Result<bool, SendError> {
        self.open_output(index)?;
        if bytes > self.slots[index].output.limit as usize {
            return Err(SendError::TooLarge);
        }
        if self.spare_capacity(index) >= bytes {
            return Ok(true);
        }
        let is_short = self.slots[index].used() + bytes <= self.slots[index].output.limit as usize;
        self.request_writable(index, bytes);
        if is_short {
            let _is_told_by_false = self.request_output(index, bytes);
        }
        Ok(false)
    }

    /// Makes an `on_writable` due, when at least `bytes` can be queued (0: the grant).
    pub(crate) fn request_writable(&mut self, index: u32, bytes: usize) {
        tell(if bytes == 0 { Act::Owes } else { Act::Ensures(bytes) });
        let slot = &mut self.slots[index];
        slot.output.writable_due = true;
        if bytes > slot.output.ensured as usize {
            slot.output.ensured = u32::try_from(bytes).unwrap_or(u32::MAX);
            self.publish_capacity(index);
        }
    }

    /// Finishes the output: when all is sent, the engine shuts down the sending side.
    pub(crate) fn finish(&mut self, index: u32) {
        tell(Act::Finish);
        let slot = &mut self.slots[index];
        if slot.runs_callbacks() && !slot.output.finished {
            slot.output.finished = true;
            self.mark_dirty(index);
        }
    }

    pub(crate) fn set_limit(&mut self, index: u32, bytes: usize) -> usize {
        let settings = &self.shared.settings;
        let most = settings.send_queue_bytes;
        let least = (2 * settings.grant_bytes()).min(most);
        let limit = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(least, most);
        tell(Act::Limit(limit as usize));
        self.slots[index].output.limit = limit;
        self.publish_capacity(index);
        limit as usize
    }

    /// Fails if the output takes nothing any more.
    fn open_output(&self, index: u32) -> Result<(), SendError> {
        let slot = &self.slots[index];
        if !slot.runs_callbacks() || slot.ending.close_requested || slot.output.finished {
            Err(SendError::Closed)
        } else {
            Ok(())
        }
    }

    pub(super) fn check_capacity(&self, index: u32, len: usize) -> Result<(), SendError> {
        self.open_output(index)?;
        let slot = &self.slots[index];
        let limit = slot.output.limit as usize;
        if len > limit {
            Err(SendError::TooLarge)
        } else if slot.output.broken.is_some() {
            // The output of a broken link is discarded.
            Ok(())
        } else if !self.leaves(index, len) {
            Err(SendError::Full)
        } else {
            Ok(())
        }
    }

    /// Whether the handler has `len` more bytes of the output limit.
    #[inline]
    fn leaves(&self, index: u32, len: usize) -> bool {
        let slot = &self.slots[index];
        // Accepted posts take half of the limit at most, so that often the atomic count need not be
        // read.
        slot.used() + len + slot.post_capacity_max() as usize <= slot.output.limit as usize
            || len <= self.left_of(index)
    }

    /// Bytes of the output limit that the handler may still queue. Accepted posts count as queued.
    fn left_of(&self, index: u32) -> usize {
        let slot = &self.slots[index];
        let used = slot.used() + self.quotas().accepted(index);
        (slot.output.limit as usize).saturating_sub(used)
    }

    /// Number of buffers of output that the link may still take.
    pub(super) fn buffers_allowed(&self, index: u32) -> u32 {
        let reserved = self.reserved_beside(index);
        self.shares.output_buffers_allowed(self.slots[index].loans.held, reserved)
    }

    /// Whether the limit leaves the grant, so that only buffers can be lacking.
    fn is_short_of_buffers(&self, index: u32) -> bool {
        let slot = &self.slots[index];
        slot.used() + self.grant_bytes() <= slot.output.limit as usize
    }

    pub(super) fn grant_bytes(&self) -> usize {
        self.shared.settings.grant_bytes() as usize
    }

    /// Number of buffers for `len` bytes.
    pub(super) fn buffers_of(&self, len: usize) -> u32 {
        let buffers = len.div_ceil(self.pool.buffer_size_bytes() as usize);
        u32::try_from(buffers).unwrap_or(u32::MAX)
    }

    #[inline]
    pub(super) fn queued(
        &mut self,
        index: u32,
        len: usize,
        result: Result<(), SendError>,
    ) -> Result<(), SendError> {
        match result {
            Ok(()) => self.note_queued(index),
            Err(error) => self.note_refusal(index, len, error),
        }
        result
    }

    #[cold]
    fn note_refusal(&mut self, index: u32, len: usize, error: SendError) {
        self.stats().send_errors.add(1);
        if error == SendError::Full {
            self.request_writable(index, len);
        }
    }

    /// Notes that something was queued, and adds the link to the next flush.
    #[inline]
    pub(super) fn note_queued(&mut self, index: u32) {
        self.stats().sends.add(1);
        let slot = &mut self.slots[index];
        if slot.output.broken.is_some() {
            return;
        }
        // With less than a quarter of the limit queued, the published capacity for posts is not
        // updated, to save the work.
        if slot.output.queue.len() > slot.output.limit as usize / 4 {
            self.publish_capacity(index);
        }
        let slot = &mut self.slots[index];
        if !slot.flight.sending && !slot.output.dirty {
            (slot.time.output_progress_at, slot.time.acknowledged_read) = (self.now, false);
            slot.suspend_idle_time(self.now);
            slot.output.dirty = true;
            self.dirty.push(index);
        }
        self.settle(index);
    }

    /// Ends the wait for a loan for output if `len` bytes were queued, which take as many buffers or
    /// more.
    #[inline]
    fn end_output_request(&mut self, index: u32, len: usize) {
        if let Some(LoanRequest::Output(buffers)) = self.slots[index].loans.request
            && self.buffers_of(len) >= buffers
        {
            self.end_request(index);
        }
    }

    /// Has a link that lacks buffers for `len` bytes wait for a loan, and returns the error for its
    /// handler. If the link's own unsent bytes hold enough of the grant, it waits for their completion
    /// and not for a loan.
    fn request_output(&mut self, index: u32, len: usize) -> SendError {
        let needed = self.buffers_of(len);
        if needed > self.shares.grant() || !self.slots[index].has_output() {
            self.request_loan(index, LoanRequest::Output(needed));
        }
        SendError::Full
    }
}

/// Reads and discards up to `max` bytes, `limit` at most.
fn discard(
    max: u64,
    limit: usize,
    read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>,
) -> io::Result<Copied> {
    let mut into = [0; 1024];
    let mut left = usize::try_from(max).unwrap_or(usize::MAX).min(limit);
    let mut bytes = 0;
    while left > 0 {
        let len_max = left.min(into.len());
        match read(&mut into[..len_max]) {
            Ok(0) => return Ok(Copied { bytes, ended: true }),
            Ok(len) => {
                bytes += len.min(len_max) as u64;
                left -= len.min(len_max);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Copied { bytes, ended: false })
}

/// Builds a message at the end of a link's queue; if it is not finished, all of it is removed.
pub(crate) struct Writer<'a> {
    core: &'a mut ShardState,
    index: u32,
    /// Bytes that were queued before the message.
    before: usize,
    buffers_before: u32,
    buffers_allowed: u32,
    /// Bytes of the message so far, queued or not.
    len: usize,
    /// Bytes that the message may have.
    spare: usize,
    /// The message is longer than `spare` or needs more buffers than the link may take.
    is_over: bool,
    /// The message was finished or removed.
    is_done: bool,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(core: &'a mut ShardState, index: u32) -> Result<Self, SendError> {
        core.check_capacity(index, 0).or_else(|error| core.queued(index, 0, Err(error)))?;
        let slot = &core.slots[index];
        let (before, buffers_before) = (slot.output.queue.len(), slot.output.queue.buffers());
        let spare = if slot.output.broken.is_some() {
            slot.output.limit as usize
        } else {
            core.left_of(index)
        };
        let buffers_allowed = core.buffers_allowed(index);
        let (len, is_over, is_done) = (0, false, false);
        Ok(Self {
            core,
            index,
            before,
            buffers_before,
            buffers_allowed,
            len,
            spare,
            is_over,
            is_done,
        })
    }

    /// Whether the message exceeds the capacity.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Removes the message from the queue.
    pub(crate) fn discard(&mut self) {
        self.is_done = true;
        self.core.slots[self.index].output.queue.truncate(self.before);
    }

    /// Completes the message, or fails and removes it if it exceeds the capacity.
    pub(crate) fn finish(mut self) -> Result<(), SendError> {
        let (index, len) = (self.index, self.len);
        if !self.is_over {
            self.is_done = true;
            if len == 0 {
                return Ok(());
            }
            self.core.end_output_request(index, len);
            self.core.note_queued(index);
            return Ok(());
        }
        self.discard();
        let limit = self.core.slots[index].output.limit as usize;
        let error = if len > limit {
            SendError::TooLarge
        } else {
            if self.core.slots[index].used() + len <= limit {
                self.core.request_output(index, len);
            }
            SendError::Full
        };
        self.core.queued(index, len, Err(error))
    }
}

impl Parts for Writer<'_> {
    fn add(&mut self, bytes: &[u8]) {
        self.len = self.len.saturating_add(bytes.len());
        let slot = &mut self.core.slots[self.index];
        if bytes.is_empty()
            || self.is_over
            || (slot.output.broken.is_some() && self.len <= self.spare)
        {
            return;
        }
        let taken = slot.output.queue.buffers() - self.buffers_before;
        let buffers_allowed = self.buffers_allowed.saturating_sub(taken);
        let fits = self.len <= self.spare
            && slot
                .output
                .queue
                .append(&self.core.pool, bytes, Owner::SendQueue, buffers_allowed)
                .is_ok();
        self.is_over = !fits;
    }
}

/// For [`Output::build`](crate::Output::build): fails at the first bytes that exceed the capacity.
impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes);
        if self.is_over { Err(io::ErrorKind::WriteZero.into()) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        // The writing code has panicked: the message is removed.
        if !self.is_done {
            self.discard();
        }
    }
}
