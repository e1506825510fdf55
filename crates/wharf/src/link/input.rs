//! A link's unread input, as a callback sees it.

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

/// A view of a link's unread bytes during one callback.
///
/// After the callback the bytes that it took are released; the rest stays unread. A returned slice is
/// part of a receive buffer; bytes in several buffers are copied into memory that the worker allocated
/// at start. So nothing here allocates or waits.
pub struct Input<'a> {
    unread: &'a mut Unread,
    /// Bytes at the begin of `unread` that the callback has taken.
    at: usize,
    mark: usize,
    /// Bytes that the callback has removed from `unread`.
    gone: usize,
    /// What the callback asked for, counted from the first byte of `unread`.
    wanted: Wanted,
    /// Maximum of unread bytes of a link.
    limit: usize,
    is_ended: bool,
    /// A reply is deferred: the input yields nothing.
    is_held: bool,
    search: Cell<Search>,
    /// Memory for slices that lie in several buffers.
    scratch: &'a mut Vec<u8>,
}

/// What a callback has done with its input, and what it asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) took: bool,
    /// Counted from the first byte that the callback left.
    pub(crate) wanted: Wanted,
    pub(crate) search: Search,
}

/// The unread bytes that a callback asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    /// Unread bytes at which the next call is due; 0: it asked for none.
    pub(crate) least: u32,
    /// Maximum length of the message that it waits for.
    pub(crate) most: u32,
}

impl Wanted {
    /// The first `len` bytes were removed.
    fn advance(&mut self, len: usize) {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.least = self.least.saturating_sub(len);
        self.most = self.most.saturating_sub(len);
    }
}

/// The state of an input beside its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Maximum of unread bytes of a link.
    pub(crate) limit: usize,
    /// The peer has ended its stream.
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

    /// Ends the callback: removes what it has taken.
    #[inline]
    pub(crate) fn finish(mut self) -> Asked {
        let took = self.at > 0 || self.gone > 0;
        self.commit();
        Asked { took, wanted: self.wanted, search: self.search.get() }
    }

    /// The number of unread bytes; 0 while a reply is deferred.
    #[must_use]
    pub fn len(&self) -> usize {
        if self.is_held { 0 } else { self.unread.len() - self.at }
    }

    /// Whether [`len`](Self::len) is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the peer has ended its stream, so that no bytes follow the unread ones.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// The unread bytes in the first buffer, without taking them; empty only if nothing is unread.
    /// Together with [`consume`](Self::consume) for input of any length, such as an upload.
    #[must_use]
    pub fn chunk(&self) -> &[u8] {
        if self.is_held { &[] } else { self.unread.front(self.at) }
    }

    /// Takes the next bytes, at most `max`, and returns how many.
    pub fn consume(&mut self, max: usize) -> usize {
        let len = self.len().min(max);
        self.at += len;
        len
    }

    /// Takes exactly `len` bytes, in one slice; `None` if fewer are unread, and then `on_receive` is
    /// called again when they are there.
    ///
    /// # Errors
    ///
    /// [`TooLong`] if `len` is more than a link may hold unread
    /// ([`Builder::input_bytes`](crate::Builder::input_bytes)).
    ///
    /// # Cost
    ///
    /// No copy if the bytes lie in one buffer, else one.
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

    /// Takes the bytes up to and including `end`, and returns them without `end`; `None` if `end` has
    /// not arrived.
    ///
    /// # Errors
    ///
    /// [`TooLong`] if more than `max` bytes precede `end`; at the first call if `max` and the length of
    /// `end` together exceed what a link may hold unread.
    ///
    /// # Panics
    ///
    /// If `end` is empty.
    ///
    /// # Cost
    ///
    /// Each byte is searched once, also over several callbacks.
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
            // `Lines` has no other error.
            Err(_) => Err(TooLong::new(max)),
        }
    }

    /// Takes a frame and returns its body; `None` if it has not arrived whole. Pass the decoder by
    /// value (those of this crate are `Copy`), or by `&mut` if it keeps the progress of its search.
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

    /// Takes a frame, and returns the position and length of its body.
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

    /// Sets the position to which [`rewind`](Self::rewind) returns; at the begin of a callback it is
    /// the first byte.
    pub fn mark(&mut self) {
        self.mark = self.at;
    }

    /// Makes the bytes that were taken since the mark unread again, except forwarded ones and those
    /// taken before them.
    ///
    /// They count as not taken, for the calling rule of
    /// [`Handler::on_receive`](crate::Handler::on_receive).
    pub fn rewind(&mut self) {
        self.at = self.mark;
    }

    /// Defers the reply to what was taken, and reserves `max` bytes of `out` for it. Any thread can
    /// send it. Until then this input yields nothing, in this and in later callbacks, so that replies
    /// keep their order. What the handler queues meanwhile is sent before the reply.
    ///
    /// A link has one deferred reply at a time: requests of one link are answered one after the other,
    /// those of several links in parallel.
    ///
    /// While a reply is deferred, the link has no idle timeout and is not closed at the end of the
    /// peer's stream; [`Builder::answer_timeout`](crate::Builder::answer_timeout) limits that time.
    ///
    /// # Errors
    ///
    /// As [`Output::send`] of `max` bytes. [`SendError::Full`] as well if a reply is deferred already.
    /// None if the callback has queued nothing and `max` is at most the grant.
    ///
    /// # Cost
    ///
    /// Takes whole buffers for `max` bytes, and a lock that is held only to move a few words.
    pub fn defer(&mut self, out: &mut Output<'_>, max: usize) -> Result<Reply, SendError> {
        let unread = self.len();
        let reply = out.defer(max)?;
        tell(Act::Defers { unread });
        self.is_held = true;
        self.mark();
        Ok(reply)
    }

    /// Moves unread bytes to `out`, within its capacity. Returns how many; the rest stays unread.
    ///
    /// # Cost
    ///
    /// Full buffers change their owner; the bytes of a mostly empty buffer are copied, so that it is
    /// released.
    pub fn forward(&mut self, out: &mut Output<'_>) -> usize {
        self.forward_up_to(out, usize::MAX)
    }

    /// As [`forward`](Self::forward), but at most `max` bytes, such as the body of a message.
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

    /// Takes bytes and writes them to `sink`, until it accepts no more or nothing is unread; returns
    /// how many.
    ///
    /// # Errors
    ///
    /// Those of `sink`, except [`WouldBlock`](io::ErrorKind::WouldBlock), which ends the write. What
    /// `sink` did not accept stays unread.
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

    /// Removes what was taken; `rewind` cannot return to it.
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

    /// Takes `len` bytes; returns their position.
    fn advance(&mut self, len: usize) -> usize {
        self.at += len;
        self.at - len
    }

    fn check_limit(&self, len: usize) -> Result<(), TooLong> {
        if len > self.limit { Err(TooLong::new(self.limit)) } else { Ok(()) }
    }

    /// Whether `len` bytes are unread; if not, the callback asks for them.
    fn has(&mut self, len: usize) -> Result<bool, TooLong> {
        self.check_limit(len)?;
        let has = self.len() >= len;
        if !has {
            self.ask_for(len, len);
        }
        Ok(has)
    }

    /// Asks for `len` bytes of a message of at most `most` bytes, counted from the next untaken byte. A
    /// `rewind` does not change the position that they end at.
    fn ask_for(&mut self, len: usize, most: usize) {
        let wanted = self.at + len;
        if self.is_held {
            return;
        }
        // Counted from the begin of the callback, so removed bytes are added.
        tell(Act::Wants(self.gone + wanted));
        let [least, most] = [wanted, self.at.saturating_add(most.max(len))]
            .map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.wanted.least == 0 || least < self.wanted.least {
            self.wanted = Wanted { least, most };
        }
    }
}

/// As a non-blocking socket: [`WouldBlock`](io::ErrorKind::WouldBlock) while bytes may follow, 0 at the
/// end of the peer's stream.
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
