//! What has come and is unread, as a callback sees it.

use crate::acts::{Act, tell};
use crate::link::framing::{Decoder, Extent, Lines};
use crate::link::output::Output;
use crate::link::peek::{Peek, Search};
use crate::link::unread::Unread;
use crate::shared::reply::Reply;
use crate::vocabulary::error::{Result, SendError, TooLong};
use std::cell::Cell;
use std::fmt;
use std::io::{self, Read, Write};

/// A link's unread bytes, in order, in the buffers that they were received into. A view, for one
/// callback.
///
/// What is taken is gone after the callback; the rest stays. A slice that a method returns lies in
/// a received buffer or, if it lies across several, is copied together in memory that the worker has
/// from the start; so nothing here allocates or waits.
pub struct Input<'a> {
    unread: &'a mut Unread,
    /// Bytes at the beginning that this callback has taken.
    at: usize,
    mark: usize,
    /// Bytes that have left `unread` in this callback.
    gone: usize,
    /// What the callback asks for, counted from the first byte of `unread`.
    wanted: Wanted,
    /// The most that may be unread.
    limit: usize,
    is_ended: bool,
    /// A reply is deferred, so that there is nothing to be had.
    is_held: bool,
    search: Cell<Search>,
    /// Where slices are copied together.
    scratch: &'a mut Vec<u8>,
}

/// What a callback has done with its input, and what it asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) took: bool,
    /// Counted from the first byte that it has left.
    pub(crate) wanted: Wanted,
    pub(crate) search: Search,
}

/// Unread bytes that a callback asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    /// With which another call is of use; 0: it asks for none.
    pub(crate) least: u32,
    /// Of which the message that it waits for consists at most.
    pub(crate) most: u32,
}

impl Wanted {
    /// The first `len` bytes are gone.
    fn advance(&mut self, len: usize) {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.least = self.least.saturating_sub(len);
        self.most = self.most.saturating_sub(len);
    }
}

/// What an input says beside its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// The most that may be unread.
    pub(crate) limit: usize,
    /// Nothing will follow.
    pub(crate) is_ended: bool,
    /// A reply is deferred.
    pub(crate) is_held: bool,
    pub(crate) search: Search,
}

impl<'a> Input<'a> {
    #[inline]
    pub(crate) fn new(unread: &'a mut Unread, terms: Terms, scratch: &'a mut Vec<u8>) -> Self {
        let Terms { limit, is_ended, is_held, search } = terms;
        Self {
            unread,
            at: 0,
            mark: 0,
            gone: 0,
            wanted: Wanted::default(),
            limit,
            is_ended,
            is_held,
            search: Cell::new(search),
            scratch,
        }
    }

    /// The callback is over: what was taken is gone.
    #[inline]
    pub(crate) fn finish(mut self) -> Asked {
        let took = self.at > 0 || self.gone > 0;
        self.commit();
        Asked { took, wanted: self.wanted, search: self.search.get() }
    }

    /// Unread bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        if self.is_held { 0 } else { self.unread.len() - self.at }
    }

    /// Whether nothing is unread.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether nothing will follow what is here: the peer has ended its stream.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// The first bytes as they lie in memory, without taking them; empty only if nothing is
    /// unread. With [`consume`](Self::consume) for what is handled as it comes, such as an upload.
    #[must_use]
    pub fn chunk(&self) -> &[u8] {
        if self.is_held { &[] } else { self.unread.front(self.at) }
    }

    /// Takes the next bytes, at most `max`, without returning them; returns how many.
    pub fn consume(&mut self, max: usize) -> usize {
        let len = self.len().min(max);
        self.at += len;
        len
    }

    /// Takes exactly `len` bytes, in one slice; `None` if fewer are there, and then `on_receive` is
    /// not called again before they are.
    ///
    /// # Errors
    ///
    /// [`TooLong`] if `len` is more than a link may hold unread
    /// ([`Builder::input_bytes`](crate::Builder::input_bytes)).
    ///
    /// # Cost
    ///
    /// None if they lie in one buffer, else a copy of them.
    pub fn take(&mut self, len: usize) -> Result<Option<&[u8]>, TooLong> {
        if !self.has(len)? {
            return Ok(None);
        }
        let at = self.advance(len);
        Ok(Some(self.unread.slice(at, len, self.scratch)))
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
        Ok(Some(self.unread.slice(self.at, len, self.scratch)))
    }

    /// Takes what comes before `end`, and `end`, which is not returned; `None` if `end` is not
    /// there yet.
    ///
    /// # Errors
    ///
    /// [`TooLong`] if the first `max` bytes and `end` do not hold it; at the first call if `max` and
    /// `end` are together more than a link may hold unread.
    ///
    /// # Panics
    ///
    /// If `end` is empty.
    ///
    /// # Cost
    ///
    /// Each byte is searched once, however many callbacks that takes.
    pub fn until(&mut self, end: &[u8], max: usize) -> Result<Option<&[u8]>, TooLong> {
        let all_max = max.saturating_add(end.len());
        self.check_limit(all_max)?;
        let len = self.len();
        match self.seen().find(end) {
            Some(found) if found <= max => {
                let at = self.advance(found + end.len());
                Ok(Some(self.unread.slice(at, found, self.scratch)))
            }
            None if len < all_max => {
                self.ask_for(len + 1, all_max);
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
        self.check_limit(max.saturating_add(2))?;
        match self.next_frame(Lines::new(max)) {
            Ok(Some((at, len))) => Ok(Some(self.unread.slice(at, len, self.scratch))),
            Ok(None) => Ok(None),
            // A line has no other fault.
            Err(_) => Err(TooLong::new(max)),
        }
    }

    /// Takes a frame and returns its body; `None` if it is not all there. The decoder comes by value
    /// (ours are `Copy`) or as a `&mut` to one that remembers how far it looked.
    ///
    /// # Errors
    ///
    /// Those of the decoder; [`TooLong`] for a frame that is longer than a link may hold unread.
    ///
    /// # Cost
    ///
    /// As [`take`](Self::take).
    pub fn frame(&mut self, decoder: impl Decoder) -> Result<Option<&[u8]>> {
        let found = self.next_frame(decoder)?;
        Ok(found.map(|(at, len)| self.unread.slice(at, len, self.scratch)))
    }

    /// Takes a frame, and says where its body is.
    fn next_frame(&mut self, mut decoder: impl Decoder) -> Result<Option<(usize, usize)>> {
        loop {
            let unread = self.len();
            match decoder.extent(&self.seen())? {
                Extent::More(wanted) => {
                    let wanted = wanted.max(unread + 1);
                    self.check_limit(wanted)?;
                    self.ask_for(wanted, decoder.frame_max().unwrap_or(wanted));
                    return Ok(None);
                }
                Extent::Skip(0) => {
                    self.ask_for(unread + 1, decoder.frame_max().unwrap_or(0));
                    return Ok(None);
                }
                Extent::Skip(len) => {
                    self.advance(len.min(unread));
                    if len > unread {
                        return Ok(None);
                    }
                }
                Extent::Frame { head, len, tail } => {
                    let all = head.saturating_add(len).saturating_add(tail);
                    if !self.has(all)? {
                        return Ok(None);
                    }
                    let at = self.advance(all);
                    return Ok(Some((at + head, len)));
                }
            }
        }
    }

    /// Sets the place to which [`rewind`](Self::rewind) returns. A callback begins with one.
    pub fn mark(&mut self) {
        self.mark = self.at;
    }

    /// Makes what was taken since the mark unread again, but not what was forwarded.
    ///
    /// It counts as not taken: the call is repeated as [`Handler::on_receive`](crate::Handler) says.
    pub fn rewind(&mut self) {
        self.at = self.mark;
    }

    /// The reply to what was taken comes later, from any thread: sets `max` bytes of `out` aside for
    /// it. Until it is sent, this input yields nothing, here and in later calls, so that replies keep
    /// their order. What the handler queues meanwhile leaves before the reply.
    ///
    /// A link has one reply at a time: the requests of one peer are answered one after the other, those of
    /// several in parallel.
    ///
    /// The link is neither idle nor closed because its stream ended while a reply is deferred;
    /// [`Builder::answer_timeout`](crate::Builder::answer_timeout) bounds that.
    ///
    /// # Errors
    ///
    /// As [`Output::send`] of `max` bytes; within the grant there is none. [`SendError::Full`] too if a
    /// reply is deferred already.
    ///
    /// # Cost
    ///
    /// Takes the buffers for `max` bytes, whole ones of its own, and a lock that nobody holds for longer than it takes to
    /// move a few words.
    pub fn defer(&mut self, out: &mut Output<'_>, max: usize) -> Result<Reply, SendError> {
        let unread = self.len();
        let reply = out.defer(max)?;
        tell(Act::Defers { unread });
        self.is_held = true;
        self.mark();
        Ok(reply)
    }

    /// Moves as much as `out` has capacity for into it. Returns how many bytes; the rest stays.
    ///
    /// # Cost
    ///
    /// Full buffers change owner; where that would pin a mostly empty buffer, its bytes are copied.
    pub fn forward(&mut self, out: &mut Output<'_>) -> usize {
        self.forward_up_to(out, usize::MAX)
    }

    /// As [`forward`](Self::forward), but at most `max` bytes: a body between two heads.
    pub fn forward_up_to(&mut self, out: &mut Output<'_>, max: usize) -> usize {
        let max = max.min(self.len());
        if max == 0 {
            return 0;
        }
        self.commit();
        let len = out.forward(self.unread, max);
        self.gone += len;
        self.wanted.advance(len);
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
                Ok(len) => sum += self.consume(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sum)
    }

    /// What was taken cannot be rewound any more.
    fn commit(&mut self) {
        if self.at > 0 {
            self.unread.consume(self.at);
            self.wanted.advance(self.at);
            self.gone += self.at;
            (self.at, self.mark) = (0, 0);
        }
    }

    fn seen(&self) -> Peek<'_> {
        let at = if self.is_held { self.unread.len() } else { self.at };
        Peek::new(self.unread, at, &self.search)
    }

    /// Takes `len` bytes; returns where they begin.
    fn advance(&mut self, len: usize) -> usize {
        self.at += len;
        self.at - len
    }

    fn check_limit(&self, len: usize) -> Result<(), TooLong> {
        if len > self.limit { Err(TooLong::new(self.limit)) } else { Ok(()) }
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

    /// Asks for `len` bytes of a message of at most `most`: they count from the first unread byte,
    /// also if what was taken is rewound.
    fn ask_for(&mut self, len: usize, most: usize) {
        let wanted = self.at + len;
        if self.is_held {
            return;
        }
        // From where the callback began: what was forwarded counts, too.
        tell(Act::Wants(self.gone + wanted));
        let [least, most] = [wanted, self.at.saturating_add(most.max(len))]
            .map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.wanted.least == 0 || least < self.wanted.least {
            self.wanted = Wanted { least, most };
        }
    }
}

/// As a non-blocking socket: [`WouldBlock`](io::ErrorKind::WouldBlock) while more may come, 0 at the
/// end.
impl Read for Input<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if self.is_empty() {
            let is_over = self.is_ended && !self.is_held;
            return if is_over { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let chunk = self.chunk();
        let len = chunk.len().min(into.len());
        into[..len].copy_from_slice(&chunk[..len]);
        Ok(self.consume(len))
    }
}

impl fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("len", &self.len()).finish_non_exhaustive()
    }
}
