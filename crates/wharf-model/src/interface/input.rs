//! What has come and is unread.

use super::{Claim, Decoder, Extent, Lines, LinkId, Output, Reply, Result, SendError, TooLong};
use crate::bug::{ModelBug, planted};
use crate::memory::{Account, Chain, Ledger};
use crate::shares::Direction;
use std::fmt;
use std::io::{self, Read, Write};
use std::rc::Rc;

/// A link's unread bytes, in order, in the buffers that they were received into. A view, for one
/// callback.
///
/// What is taken is gone after the callback; the rest stays. A slice that a method returns lies in
/// a received buffer or, if it lies across several, is a copy of them.
pub struct Input<'a> {
    pub(crate) unread: &'a mut Unread,
}

/// The unread bytes of a link.
#[derive(Debug)]
pub(crate) struct Unread {
    link: LinkId,
    chain: Chain,
    /// Bytes at the begin of the chain that this callback has taken.
    at: usize,
    mark: usize,
    /// Bytes that lay in several buffers, copied together.
    copied: Vec<u8>,
    pub(crate) is_ended: bool,
    /// Unread bytes that `on_receive` asked for; 0: it did not.
    want: usize,
    /// Unread bytes of which the message that it asked for may consist, at most.
    message_max: usize,
    /// Loans that are reserved for that message.
    claimed: usize,
    /// Bytes ever taken.
    pub(crate) taken_bytes: u64,
    /// Bytes ever received.
    pub(crate) received_bytes: u64,
    /// The most that may be unread.
    limit: usize,
    /// The deferred reply.
    pub(crate) claim: Option<Claim>,
    pub(crate) account: Account,
}

impl Unread {
    pub(crate) fn new(link: LinkId, ledger: &Rc<Ledger>, limit: usize) -> Self {
        Self {
            link,
            chain: Chain::new(&ledger.pool),
            at: 0,
            mark: 0,
            copied: Vec::new(),
            is_ended: false,
            want: 0,
            message_max: 0,
            claimed: 0,
            taken_bytes: 0,
            received_bytes: 0,
            limit,
            claim: None,
            account: Account::new(ledger, Direction::Input),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.chain.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chain.is_empty()
    }

    /// What it asked for, in unread bytes.
    pub(crate) fn wanted_bytes(&self) -> usize {
        self.want
    }

    /// A call of `on_receive` begins: it has asked for nothing yet.
    pub(crate) fn forget_want(&mut self) {
        (self.want, self.message_max) = (0, 0);
    }

    /// The peer has `len` bytes. Returns how many of them may be received, and joins or leaves the
    /// queue for a loan.
    pub(crate) fn prepare_receive(&mut self, len: usize) -> usize {
        let len = len.min(self.limit.saturating_sub(self.len()));
        let asks = self.want > self.len();
        if len <= self.capacity() || !asks {
            self.account.wait_for(0);
            let parts = if asks { 0 } else { self.account.loanable_parts() };
            return len.min(self.capacity() + parts * self.buffer_size_bytes());
        }
        // All of what the message needs, or nothing.
        let need = self.lacking_buffers();
        if need <= self.account.loanable() {
            self.claimed = self.account.loan() + need;
            self.account.wait_for(0);
            self.charge();
        } else {
            self.account.wait_for(need);
        }
        // Not the begin of the next message: its link waits in order.
        let message_rest = self.message_max.max(self.want) - self.len();
        len.min(self.capacity()).min(message_rest)
    }

    /// After the link's turn: reserves what its message still needs.
    pub(crate) fn update_claim(&mut self) {
        if self.is_empty() {
            self.claimed = 0;
        } else if self.want > self.len() {
            let loans = self.needed_buffers().saturating_sub(self.account.guarantee());
            self.claimed = self.claimed.min(loans);
        }
        self.charge();
    }

    /// While it waits for a loan, what it needs may have changed.
    pub(crate) fn update_need(&mut self) {
        if self.account.is_waiting() {
            let asks = self.want > self.len();
            let need = if asks { self.lacking_buffers() } else { 0 };
            self.account.wait_for(need);
        }
    }

    /// Receives bytes that fit.
    pub(crate) fn receive(&mut self, data: &[u8]) {
        for part in data.chunks(self.buffer_size_bytes()) {
            let allowed = self.allowed_buffers() + self.account.loanable_parts();
            self.chain.append_received(part);
            self.received_bytes += part.len() as u64;
            if !planted(ModelBug::NeverMerges) {
                self.chain.merge_above(allowed);
            }
            self.charge();
        }
    }

    /// Buffers that it may hold without another loan.
    fn allowed_buffers(&self) -> usize {
        self.account.guarantee() + self.account.loan()
    }

    /// Bytes that it may receive without another loan: merged, they and what is unread fill these
    /// buffers.
    fn capacity(&self) -> usize {
        (self.allowed_buffers() * self.buffer_size_bytes()).saturating_sub(self.len())
    }

    /// Buffers that it needs beyond those that it may hold, for the message that the handler asked for.
    fn lacking_buffers(&self) -> usize {
        self.needed_buffers().saturating_sub(self.allowed_buffers())
    }

    fn needed_buffers(&self) -> usize {
        let needed = self.message_max.max(self.want).min(self.limit);
        needed.div_ceil(self.buffer_size_bytes())
    }

    fn buffer_size_bytes(&self) -> usize {
        self.account.ledger().shares.buffer_size_bytes
    }

    /// After a callback: what was taken is gone.
    pub(crate) fn settle(&mut self) {
        if self.at > 0 {
            self.account.note_progress();
            if self.len() - self.at <= self.account.guarantee() * self.buffer_size_bytes() {
                self.claimed = 0;
            }
        }
        self.commit();
        if !planted(ModelBug::NeverMerges) {
            self.chain.merge_above(usize::MAX);
        }
        self.charge();
    }

    /// Takes everything.
    pub(crate) fn discard(&mut self) {
        self.at = self.chain.len();
        self.claimed = 0;
        self.settle();
    }

    /// What was taken cannot be rewound any more.
    fn commit(&mut self) {
        self.taken_bytes += self.at as u64;
        self.message_max = self.message_max.saturating_sub(self.at);
        if !planted(ModelBug::CountsFromLastTake) {
            self.want = self.want.saturating_sub(self.at);
        }
        self.chain.consume(self.at);
        (self.at, self.mark) = (0, 0);
    }

    fn charge(&mut self) {
        let held = self.chain.buffer_count();
        let lent = held.saturating_sub(self.account.guarantee());
        self.account.charge(held, self.claimed.saturating_sub(lent));
    }

    /// `len` bytes from `at` on, in one slice.
    fn slice(&mut self, at: usize, len: usize) -> &[u8] {
        if self.chain.chunk(at).len() >= len {
            return &self.chain.chunk(at)[..len];
        }
        self.chain.copy_to(at, len, &mut self.copied);
        &self.copied
    }
}

impl Input<'_> {
    /// Takes the next bytes, at most `max`, without returning them; returns how many.
    pub fn consume(&mut self, max: usize) -> usize {
        let len = self.len().min(max);
        self.advance(len);
        len
    }

    /// Takes exactly `len` bytes, in one slice; `None` if fewer are there, and then `on_receive` is
    /// not called again before they are.
    ///
    /// # Errors
    ///
    /// [`TooLong`] if `len` is more than a link may hold unread
    /// ([`Settings::input_bytes`](crate::Settings::input_bytes)).
    pub fn take(&mut self, len: usize) -> Result<Option<&[u8]>, TooLong> {
        if !self.has(len)? {
            return Ok(None);
        }
        let at = self.advance(len);
        Ok(Some(self.unread.slice(at, len)))
    }

    /// As [`take`](Self::take), but leaves them unread.
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take).
    pub fn peek(&mut self, len: usize) -> Result<Option<&[u8]>, TooLong> {
        if !self.has(len)? {
            return Ok(None);
        }
        let at = self.unread.at;
        Ok(Some(self.unread.slice(at, len)))
    }

    /// Takes what comes before `end`, and `end`, which is not returned; `None` if `end` is not
    /// there yet.
    ///
    /// # Errors
    ///
    /// [`TooLong`] if the first `max` bytes and `end` do not hold it; at the first call if `max` and
    /// `end` are together more than a link may hold unread.
    pub fn until(&mut self, end: &[u8], max: usize) -> Result<Option<&[u8]>, TooLong> {
        if max + end.len() > self.unread.limit {
            return Err(TooLong::new(self.unread.limit));
        }
        let len = self.len();
        match self.seen().find(end) {
            Some(found) if found <= max => {
                let at = self.advance(found + end.len());
                Ok(Some(self.unread.slice(at, found)))
            }
            None if len < max + end.len() => {
                self.ask_for(len + 1, max + end.len());
                Ok(None)
            }
            _ => Err(TooLong::new(max)),
        }
    }

    /// Takes a line of at most `max` bytes, and returns it without its LF or CR LF.
    ///
    /// # Errors
    ///
    /// As [`until`](Self::until).
    pub fn line(&mut self, max: usize) -> Result<Option<&[u8]>, TooLong> {
        let limit = self.unread.limit;
        if max + 2 > limit {
            return Err(TooLong::new(limit));
        }
        self.frame(Lines::new(max)).map_err(|_| TooLong::new(max))
    }

    /// Takes a frame and returns its body; `None` if it is not all there.
    ///
    /// # Errors
    ///
    /// Those of the decoder; [`TooLong`] for a frame that is longer than a link may hold unread.
    pub fn frame(&mut self, mut decoder: impl Decoder) -> Result<Option<&[u8]>> {
        loop {
            let len = self.len();
            match decoder.extent(&self.seen())? {
                Extent::More(wanted) => {
                    let wanted = wanted.max(len + 1);
                    self.check_limit(wanted)?;
                    self.ask_for(wanted, decoder.frame_max().unwrap_or(wanted));
                    return Ok(None);
                }
                Extent::Skip(skipped) if skipped <= len => {
                    self.advance(skipped);
                }
                Extent::Skip(_) => {
                    self.advance(len);
                    return Ok(None);
                }
                Extent::Frame { head, len, tail } => {
                    let all = head + len + tail;
                    if !self.has(all)? {
                        return Ok(None);
                    }
                    let at = self.advance(all);
                    return Ok(Some(self.unread.slice(at + head, len)));
                }
            }
        }
    }

    /// Sets the position to which [`rewind`](Self::rewind) returns. A callback begins with one.
    pub fn mark(&mut self) {
        self.unread.mark = self.unread.at;
    }

    /// Makes what was taken since the mark unread again, but not what was forwarded.
    ///
    /// It counts as not taken: the call is repeated as [`Handler::on_receive`](crate::Handler) says.
    pub fn rewind(&mut self) {
        self.unread.at = self.unread.mark;
    }

    /// The reply to what was taken is sent later, from any thread: reserves `max` bytes of `out` for
    /// it. Until it is sent, this input yields nothing, here and in later calls, so that replies keep
    /// their order. What the handler queues meanwhile leaves before the reply.
    ///
    /// # Errors
    ///
    /// As [`Output::send`] of `max` bytes. Within the grant there is none.
    pub fn defer(&mut self, out: &mut Output<'_>, max: usize) -> Result<Reply, SendError> {
        let queue = &mut *out.queue;
        if queue.is_over() {
            return Err(SendError::Closed);
        }
        if max > queue.limit {
            return Err(SendError::TooLarge);
        }
        if max > queue.spare_bytes() {
            queue.refused += 1;
            return Err(SendError::Full);
        }
        queue.reserve(max);
        let (reply, claim) = Reply::new(self.unread.link, max);
        self.unread.claim = Some(claim);
        self.mark();
        Ok(reply)
    }

    /// Moves as much as `out` has capacity for into it: the link's own or its partner's. Returns how
    /// many bytes; the rest stays. Full buffers change owner, others are copied.
    pub fn forward(&mut self, out: &mut Output<'_>) -> usize {
        self.forward_up_to(out, usize::MAX)
    }

    /// As [`forward`](Self::forward), but at most `max` bytes: a body between two heads.
    pub fn forward_up_to(&mut self, out: &mut Output<'_>, max: usize) -> usize {
        let len = self.len().min(max).min(out.queue.spare_bytes());
        if planted(ModelBug::RewindsForwarded) {
            let at = self.advance(len);
            let bytes = self.unread.slice(at, len).to_vec();
            out.queue.push(&bytes);
        } else if len > 0 {
            self.unread.commit();
            out.queue.move_from(&mut self.unread.chain, len);
            self.unread.taken_bytes += len as u64;
            self.unread.account.note_progress();
            self.unread.want = self.unread.want.saturating_sub(len);
            self.unread.charge();
        }
        len
    }

    /// Writes to `sink` until it takes no more; returns how many bytes that was.
    ///
    /// # Errors
    ///
    /// Those of `sink`, but not [`WouldBlock`](io::ErrorKind::WouldBlock): what it did not take stays.
    pub fn write_to(&mut self, mut sink: impl Write) -> io::Result<usize> {
        let mut sum = 0;
        while !self.is_empty() {
            match sink.write(self.chunk()) {
                Ok(0) => break,
                Ok(len) => {
                    self.advance(len);
                    sum += len;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sum)
    }

    /// Unread bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seen().len()
    }

    /// Whether nothing is unread.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether nothing will follow what is here: the peer has ended its stream.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.unread.is_ended
    }

    /// The first bytes as they lie in memory, without taking them; empty only if nothing is unread.
    #[must_use]
    pub fn chunk(&self) -> &[u8] {
        if self.is_held() { &[] } else { self.unread.chain.chunk(self.unread.at) }
    }

    /// A deferral holds the input.
    fn is_held(&self) -> bool {
        self.unread.claim.is_some() && !planted(ModelBug::DeferralLeavesInput)
    }

    fn seen(&self) -> Peek<'_> {
        let at = if self.is_held() { self.unread.chain.len() } else { self.unread.at };
        Peek { chain: &self.unread.chain, at }
    }

    /// Takes `len` bytes; returns where they begin.
    fn advance(&mut self, len: usize) -> usize {
        self.unread.at += len;
        self.unread.at - len
    }

    fn check_limit(&self, len: usize) -> Result<(), TooLong> {
        let limit = self.unread.limit;
        if len > limit { Err(TooLong::new(limit)) } else { Ok(()) }
    }

    /// Whether `len` bytes are unread; asks for them if not.
    fn has(&mut self, len: usize) -> Result<bool, TooLong> {
        self.check_limit(len)?;
        let has = self.len() >= len;
        if !has {
            self.ask_for(len, len);
        }
        Ok(has)
    }

    /// Asks for `len` bytes of a message that has at most `message_max`: counted from the first unread
    /// byte, also if what was taken is rewound.
    fn ask_for(&mut self, len: usize, message_max: usize) {
        let unread = &mut *self.unread;
        if unread.claim.is_some() {
            return;
        }
        let taken = if planted(ModelBug::CountsFromLastTake) { 0 } else { unread.at };
        if unread.want == 0 || len + taken < unread.want {
            unread.want = len + taken;
            unread.message_max = message_max + unread.at;
        }
    }
}

/// As a non-blocking socket: [`WouldBlock`](io::ErrorKind::WouldBlock) while more may come, 0 at the
/// end.
impl Read for Input<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.is_empty() {
            return if self.is_ended() { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let chunk = self.chunk();
        let len = chunk.len().min(into.len());
        into[..len].copy_from_slice(&chunk[..len]);
        self.advance(len);
        Ok(len)
    }
}

impl fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// What a [`Decoder`] sees: unread bytes by their position, wherever they lie.
pub struct Peek<'a> {
    chain: &'a Chain,
    at: usize,
}

impl Peek<'_> {
    /// Unread bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chain.len() - self.at
    }

    /// Whether nothing is unread.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The byte at a position.
    #[must_use]
    pub fn byte(&self, at: usize) -> Option<u8> {
        self.chain.chunk(self.at + at).first().copied()
    }

    /// The `N` bytes from a position on, copied: `peek.array(4).map(u32::from_be_bytes)`.
    #[must_use]
    pub fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = self.byte(at + n)?;
        }
        Some(bytes)
    }

    /// The position of the first `needle`.
    #[must_use]
    pub fn find(&self, needle: &[u8]) -> Option<usize> {
        self.chain.find(self.at, needle)
    }
}

impl fmt::Debug for Peek<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peek").field("len", &self.len()).finish_non_exhaustive()
    }
}
