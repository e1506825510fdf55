//! What is to be sent, and how much more may be queued.

use super::{Payload, Result, SendError};
use crate::bug::{ModelBug, planted};
use crate::memory::{Account, Chain, Ledger, SharedBytes};
use crate::shares::Direction;
use std::fmt;
use std::io::{self, Read, Write};
use std::rc::Rc;

/// A link's send queue. A view, for one callback.
///
/// What is queued leaves after the callback, in order. After a reset by the peer it takes what is
/// sent and discards it, so that what came before is handled.
pub struct Output<'a> {
    pub(crate) queue: &'a mut Queue,
    pub(crate) is_partner: bool,
}

/// A link's send queue: what is in flight, and what waits behind it.
#[derive(Debug)]
pub(crate) struct Queue {
    queued: Chain,
    /// The send in flight. All of its buffers are pinned until the peer has taken all of it.
    flight: Flight,
    /// Bytes that the peer has taken.
    pub(crate) taken_bytes: u64,
    pub(crate) limit: usize,
    limit_max: usize,
    pub(crate) grant: usize,
    /// Bytes that are reserved for a deferred reply.
    reserved: usize,
    pub(crate) is_finished: bool,
    is_closed: bool,
    /// Whether `on_writable` is owed to its own link and to its partner, and at how much capacity.
    pub(crate) own_debt: Debt,
    pub(crate) partner_debt: Debt,
    pub(crate) when_slow: Option<WhenSlow>,
    pub(crate) missed: u64,
    /// Sends that were refused for lack of capacity.
    pub(crate) refused: u32,
    pub(crate) account: Account,
}

#[derive(Debug)]
struct Flight {
    chain: Chain,
    len: usize,
    taken: usize,
}

/// An `on_writable` that is owed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Debt {
    pub(crate) is_owed: bool,
    pub(crate) bytes: usize,
}

impl Queue {
    pub(crate) fn new(ledger: &Rc<Ledger>, limit: usize, grant: usize) -> Self {
        let pool = &ledger.pool;
        Self {
            queued: Chain::new(pool),
            flight: Flight { chain: Chain::new(pool), len: 0, taken: 0 },
            taken_bytes: 0,
            limit,
            limit_max: limit,
            grant,
            reserved: 0,
            is_finished: false,
            is_closed: false,
            own_debt: Debt::default(),
            partner_debt: Debt::default(),
            when_slow: None,
            missed: 0,
            refused: 0,
            account: Account::new(ledger, Direction::Output),
        }
    }

    /// Bytes that are queued or in flight.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.queued.len() + self.flight.len - self.flight.taken
    }

    /// Bytes that are reserved for a deferred reply.
    pub(crate) fn reserved_bytes(&self) -> usize {
        self.reserved
    }

    /// Bytes of the limit that are taken.
    pub(crate) fn used_bytes(&self) -> usize {
        self.unsent_bytes() + self.reserved
    }

    /// Buffers that it holds.
    pub(crate) fn held_buffers(&self) -> usize {
        let flight = self.flight.chain.buffer_count();
        self.queued.buffer_count() + if planted(ModelBug::FlightIsFree) { 0 } else { flight }
    }

    /// Whether nothing can be queued any more.
    pub(crate) fn is_over(&self) -> bool {
        self.is_finished || self.is_closed
    }

    /// Bytes that can be queued now.
    pub(crate) fn spare_bytes(&self) -> usize {
        if self.is_over() {
            return 0;
        }
        let buffers = self.account.buffers_allowed();
        let by_buffers = self.queued.tail_capacity() + buffers * self.buffer_size_bytes();
        self.limit.saturating_sub(self.used_bytes()).min(by_buffers)
    }

    /// Whether it is not above its high-water mark and has the grant.
    pub(crate) fn is_ready(&self) -> bool {
        let below = self.used_bytes() <= self.limit / 2 || planted(ModelBug::CallsAboveMark);
        below && self.has_grant()
    }

    pub(crate) fn has_grant(&self) -> bool {
        self.spare_bytes() >= self.grant
    }

    /// What callbacks wait for: the grant, or more if `ensure` asked for it.
    pub(crate) fn wanted_bytes(&self) -> usize {
        self.grant.max(self.own_debt.bytes).max(self.partner_debt.bytes)
    }

    /// Buffers that it lacks beyond its guarantee, its loan and what can be lent, for what is wanted.
    ///
    /// Its own send would free its guarantee and its loan: while they are enough, it waits for that
    /// and not for a loan.
    pub(crate) fn lacking_buffers(&self) -> usize {
        let wanted = self.wanted_bytes();
        if self.is_over() || self.spare_bytes() >= wanted || self.used_bytes() + wanted > self.limit
        {
            return 0;
        }
        let buffers = wanted.div_ceil(self.buffer_size_bytes());
        let own = if planted(ModelBug::WaitsForLoanInsteadOfSend) {
            0
        } else {
            self.account.guarantee() + self.account.loan()
        };
        let need = buffers.saturating_sub(own);
        if need > self.account.loanable() || self.account.is_waiting() { need } else { 0 }
    }

    /// Queues a copy; the caller has looked whether it fits.
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.queued.append(data);
        self.charge();
    }

    /// Queues a post, if it fits in the lower half and leaves free what `ensure` asked for. Its bytes
    /// stay in the posts' account.
    pub(crate) fn push_post(&mut self, bytes: SharedBytes) -> bool {
        let wanted = self.own_debt.bytes.max(self.partner_debt.bytes);
        let kept = if planted(ModelBug::PostsUseUpperHalf) {
            0
        } else if planted(ModelBug::PostsIgnoreEnsure) {
            self.limit / 2
        } else {
            wanted.max(self.limit / 2)
        };
        let len = (*bytes).as_ref().len();
        let fits = !self.is_over() && self.used_bytes() + len + kept <= self.limit;
        if fits {
            self.queued.append_shared(bytes);
        }
        fits
    }

    /// Moves up to `len` bytes from the begin of `from`: full buffers change owner, others are copied.
    pub(crate) fn move_from(&mut self, from: &mut Chain, len: usize) {
        let mut left = len;
        while left > 0 {
            // Where the last buffer's capacity would be lost, there must be buffers instead.
            let size = self.buffer_size_bytes();
            let allowed = self.account.buffers_allowed();
            if allowed * size >= left
                && let Some(moved) = self.queued.move_full_buffer(from, left)
            {
                left -= moved;
            } else {
                let chunk = from.chunk(0);
                let here = chunk.len().min(left);
                self.queued.append(&chunk[..here]);
                from.consume(here);
                left -= here;
            }
            self.charge();
        }
    }

    /// Reserves capacity for a reply.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.reserved += bytes;
        self.charge();
    }

    /// Whether a reply of `len` bytes, for which at least as many were reserved, can be queued. Within
    /// the guarantee it may have to wait for the link's own send.
    pub(crate) fn fits_reply(&self, len: usize) -> bool {
        let buffers = self.account.buffers_allowed() + self.claimed_buffers();
        self.is_over() || len <= self.queued.tail_capacity() + buffers * self.buffer_size_bytes()
    }

    /// Ends a reservation, and queues the reply.
    pub(crate) fn end_reserved(&mut self, reserved: usize, reply: &[u8]) {
        self.reserved = self.reserved.saturating_sub(reserved);
        if !self.is_over() {
            self.queued.append(reply);
        }
        self.settle();
    }

    /// Begins a send, if none is in flight.
    pub(crate) fn start_send(&mut self, buffers_max: usize) {
        if self.flight.chain.is_empty() && !self.queued.is_empty() {
            self.queued.move_entries(&mut self.flight.chain, buffers_max);
            self.flight.len = self.flight.chain.len();
            self.flight.taken = 0;
            self.charge();
        }
    }

    /// The peer takes up to `len` bytes of the send in flight, into `into`.
    pub(crate) fn take_sent(&mut self, len: usize, into: &mut Vec<u8>) -> usize {
        let len = len.min(self.flight.len - self.flight.taken);
        if len == 0 {
            return 0;
        }
        let mut bytes = Vec::new();
        self.flight.chain.copy_to(self.flight.taken, len, &mut bytes);
        into.extend(bytes);
        self.flight.taken += len;
        self.taken_bytes += len as u64;
        let is_done = self.flight.taken == self.flight.len;
        if is_done || !planted(ModelBug::OnlyDoneSendsCount) {
            self.account.note_progress();
        }
        if is_done {
            self.flight.chain.clear();
            (self.flight.len, self.flight.taken) = (0, 0);
        }
        self.settle();
        len
    }

    /// Discards the unsent bytes, which no peer will read.
    pub(crate) fn discard_unsent(&mut self) {
        self.queued.clear();
        self.flight.chain.clear();
        (self.flight.len, self.flight.taken) = (0, 0);
        self.forget_debts();
        self.charge();
    }

    pub(crate) fn forget_debts(&mut self) {
        (self.own_debt, self.partner_debt) = (Debt::default(), Debt::default());
    }

    /// The link has ended.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
        self.reserved = 0;
        self.discard_unsent();
    }

    /// Buffers beyond the guarantee that a deferred reply has claimed.
    fn claimed_buffers(&self) -> usize {
        let buffers = self.reserved.div_ceil(self.buffer_size_bytes());
        buffers.saturating_sub(self.account.guarantee())
    }

    /// After a callback: merges what pins too many buffers, and charges the rest.
    pub(crate) fn settle(&mut self) {
        if !planted(ModelBug::NeverMerges) {
            self.queued.merge_above(usize::MAX);
        }
        self.charge();
    }

    fn charge(&mut self) {
        self.account.charge(self.held_buffers(), self.claimed_buffers());
    }

    fn buffer_size_bytes(&self) -> usize {
        self.account.ledger().shares.buffer_size_bytes
    }
}

impl Output<'_> {
    /// Queues all of `payload`, or nothing.
    ///
    /// # Errors
    ///
    /// - [`SendError::Full`]: the [`spare_capacity`](Self::spare_capacity) is less than that now. It
    ///   counts as [`ensure`](Self::ensure) of its length.
    /// - [`SendError::TooLarge`]: it always is.
    /// - [`SendError::Closed`]: the link is closing, or the output is finished.
    pub fn send(&mut self, payload: impl Payload) -> Result<(), SendError> {
        if self.queue.is_over() {
            return Err(self.closed());
        }
        let bytes = payload.bytes().filter(|bytes| bytes.len() <= self.queue.limit);
        let Some(bytes) = bytes else { return Err(SendError::TooLarge) };
        if bytes.len() > self.queue.spare_bytes() {
            self.queue.refused += 1;
            // As `ensure`: at the grant the same message would be refused repeatedly.
            self.owe(if planted(ModelBug::FullAsksForGrant) { 0 } else { bytes.len() });
            return Err(self.full());
        }
        self.queue.push(&bytes);
        Ok(())
    }

    /// What `write!(link.out, …)` calls: all of the text, or nothing, as [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> Result<(), SendError> {
        self.send(text)
    }

    /// Queues all that `write` writes, or nothing.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), if what was written found no capacity; else the error of `write`.
    pub fn build<E: Into<crate::Error>>(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result {
        let mut all = Vec::new();
        write(&mut all).map_err(Into::into)?;
        Ok(self.send(all)?)
    }

    /// Queues as much of `data` as there is capacity for, and returns how many bytes. If that is not
    /// all, [`on_writable`](crate::Handler::on_writable) will be called.
    pub fn send_some(&mut self, data: &[u8]) -> usize {
        let len = self.queue.spare_bytes().min(data.len());
        self.queue.push(&data[..len]);
        if len < data.len() {
            self.owe(0);
        }
        len
    }

    /// Reads from `source` straight into buffers: at most `max` bytes, and as much as there is
    /// capacity for. If the capacity was used up before the source,
    /// [`on_writable`](crate::Handler::on_writable) will be called.
    ///
    /// # Errors
    ///
    /// Those of `source`; what came before is queued.
    pub fn read_from(&mut self, mut source: impl Read, max: u64) -> io::Result<Copied> {
        let mut bytes = 0;
        loop {
            let mut part = [0; READ_PART];
            let left = usize::try_from(max - bytes).unwrap_or(usize::MAX);
            let len = self.queue.spare_bytes().min(left).min(READ_PART);
            if len == 0 {
                if bytes < max {
                    self.owe(0);
                }
                return Ok(Copied { bytes, ended: false });
            }
            match source.read(&mut part[..len]) {
                Ok(0) => return Ok(Copied { bytes, ended: true }),
                Ok(len) => {
                    self.queue.push(&part[..len]);
                    bytes += len as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Copied { bytes, ended: false });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether `bytes` may be queued now. If not, the callback is called again when they may
    /// (`on_receive` for what was left or rewound, `on_writable` else), and until then posts leave
    /// that much free.
    ///
    /// # Errors
    ///
    /// [`SendError::TooLarge`] if the output can never hold so many; [`SendError::Closed`].
    pub fn ensure(&mut self, bytes: usize) -> Result<bool, SendError> {
        if self.queue.is_over() {
            return Err(self.closed());
        }
        if bytes > self.queue.limit {
            return Err(SendError::TooLarge);
        }
        if self.queue.spare_bytes() >= bytes {
            return Ok(true);
        }
        self.owe(bytes);
        Ok(false)
    }

    /// Asks for one [`on_writable`](crate::Handler::on_writable), at once if there is a grant.
    pub fn notify(&mut self) {
        self.owe(0);
    }

    /// Ends this half: when all is sent, the peer sees the end of the stream. More is
    /// [`SendError::Closed`].
    pub fn finish(&mut self) {
        self.queue.is_finished = true;
    }

    /// Sets the most that may be queued: at most
    /// [`Settings::output_bytes`](crate::Settings::output_bytes), the default, and at least two
    /// grants. Returns what is set.
    pub fn set_limit_bytes(&mut self, bytes: usize) -> usize {
        let least = if planted(ModelBug::LimitBelowGrants) { 0 } else { 2 * self.queue.grant };
        self.queue.limit = bytes.max(least).min(self.queue.limit_max);
        self.queue.limit
    }

    /// What happens to posts that find no capacity. Default: [`WhenSlow::Skip`].
    pub fn set_when_slow(&mut self, policy: WhenSlow) {
        self.queue.when_slow = Some(policy);
    }

    /// How many bytes may be queued now. They are promised until the callback returns.
    #[must_use]
    pub fn spare_capacity(&self) -> usize {
        self.queue.spare_bytes()
    }

    /// Whether the output is not above its high-water mark and has the grant, with which each
    /// `on_receive` begins.
    #[must_use]
    pub fn has_grant(&self) -> bool {
        self.queue.is_ready()
    }

    /// Bytes that are queued or in flight.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.queue.unsent_bytes()
    }

    pub(crate) fn reborrow(&mut self) -> Output<'_> {
        Output { queue: self.queue, is_partner: self.is_partner }
    }

    fn owe(&mut self, bytes: usize) {
        let queue = &mut *self.queue;
        let debt = if self.is_partner { &mut queue.partner_debt } else { &mut queue.own_debt };
        *debt = Debt { is_owed: true, bytes: debt.bytes.max(bytes) };
    }

    fn full(&self) -> SendError {
        if self.is_partner { SendError::PartnerFull } else { SendError::Full }
    }

    fn closed(&self) -> SendError {
        if self.is_partner { SendError::PartnerClosed } else { SendError::Closed }
    }
}

/// Takes what there is capacity for; [`WouldBlock`](io::ErrorKind::WouldBlock) if that is nothing.
impl Write for Output<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self.send_some(data) {
            0 if !data.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Output<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("unsent_bytes", &self.unsent_bytes()).finish_non_exhaustive()
    }
}

/// What [`Output::read_from`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// Bytes that were queued.
    pub bytes: u64,
    /// Whether the source is at its end. Otherwise `max` is reached, the output is full, or the source
    /// would block.
    pub ended: bool,
}

/// What happens to a post that finds no capacity on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenSlow {
    /// It is skipped, and counted in [`Totals::missed`](crate::Totals::missed).
    Skip,
    /// The link is closed as a slow reader.
    Disconnect,
}

/// Bytes that [`Output::read_from`] reads at once: few, so that capacity ends within.
const READ_PART: usize = 5;
