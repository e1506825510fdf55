//! Frames in a stream: a decoder finds them, [`Input::frame`](crate::Input::frame) takes them, and the
//! `of` of each decoder encodes a [`Payload`].

use crate::link::peek::Peek;
use crate::shared::payload::sealed::Sealed;
use crate::shared::payload::{Count, DoesNotFit, Parts, Payload};
use crate::vocabulary::error::{Error, Result, TooLong};

/// Finds frames in a stream.
///
/// A decoder returns the extent of the next frame in the unread bytes; it takes and copies nothing. It
/// is called again for the same bytes after [`More`](Extent::More) and after a
/// [rewind](crate::Input::rewind), so it must not count frames: check a sequence number where the frame
/// is handled.
///
/// ```
/// use wharf::{Decoder, Error, Extent, Peek, Result, TooLong};
///
/// /// `5:hello,`
/// struct Netstring;
///
/// impl Decoder for Netstring {
///     fn extent(&mut self, input: &Peek<'_>) -> Result<Extent> {
///         let mut len = 0;
///         for at in 0..5 {
///             match input.byte(at) {
///                 Some(b':') => return Ok(Extent::Frame { head: at + 1, len, tail: 1 }),
///                 Some(digit @ b'0'..=b'9') => len = len * 10 + usize::from(digit - b'0'),
///                 Some(_) => return Err(Error::msg("not a netstring")),
///                 None => return Ok(Extent::More(at + 1)),
///             }
///         }
///         Err(TooLong::new(9999).into())
///     }
/// }
/// ```
pub trait Decoder {
    /// Finds the next frame.
    ///
    /// # Errors
    ///
    /// The stream is invalid. [`TooLong`] closes the link with
    /// [`DisconnectReason::Limit`](crate::DisconnectReason::Limit).
    fn extent(&mut self, input: &Peek<'_>) -> Result<Extent>;

    /// Maximum length of a frame in bytes, head and tail included, if it is known. For a decoder that
    /// [`Builder::frames`](crate::Builder::frames) declares, `start` compares it with the input limit;
    /// otherwise [`Input::frame`](crate::Input::frame) fails with [`TooLong`] at the first frame that
    /// exceeds the limit.
    fn frame_max(&self) -> Option<usize> {
        None
    }
}

/// What a [`Decoder`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Extent {
    /// The decoder needs this many unread bytes.
    More(usize),
    /// This many bytes are no frame: they are discarded, and the decoder is called again.
    Skip(usize),
    /// The next `head + len + tail` bytes are a frame with a body of `len` bytes. They need not all
    /// have arrived.
    Frame {
        /// Bytes before the body.
        head: usize,
        /// Bytes of the body.
        len: usize,
        /// Bytes after the body.
        tail: usize,
    },
}

impl<D: Decoder + ?Sized> Decoder for &mut D {
    fn extent(&mut self, input: &Peek<'_>) -> Result<Extent> {
        (**self).extent(input)
    }

    fn frame_max(&self) -> Option<usize> {
        (**self).frame_max()
    }
}

/// A body in its frame, the result of a decoder's `of`. Sending one whose body does not fit the frame
/// fails with [`SendError::TooLarge`](crate::SendError::TooLarge).
#[derive(Clone, Copy, Debug)]
#[must_use = "a payload, to be sent or posted"]
pub struct Framed<P> {
    pub(crate) frame: Frame,
    pub(crate) body: P,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Frame {
    Length(LengthPrefix),
    End(&'static [u8], usize),
    Fixed(usize),
}

impl Frame {
    /// Writes `body` with its frame.
    pub(crate) fn write_around<P: Payload>(
        self,
        body: &P,
        to: &mut dyn Parts,
    ) -> Result<(), DoesNotFit> {
        let mut counted = Count::default();
        body.write(&mut counted)?;
        let len = counted.0;
        match self {
            Self::Length(prefix) => {
                let prefix = prefix.bytes_for(len)?;
                let mut around = Around { to, at: 0, inserted_at: prefix.offset, insert: prefix };
                around.insert_if_due();
                body.write(&mut around)?;
                let written = around.at;
                same_length(len, written)
            }
            Self::End(end, max) => {
                if len > max {
                    return Err(DoesNotFit);
                }
                body.write(to)?;
                to.add(end);
                Ok(())
            }
            Self::Fixed(bytes) => {
                if len != bytes {
                    return Err(DoesNotFit);
                }
                body.write(to)
            }
        }
    }
}

/// A `Display` whose second output has another length would make a frame with a wrong length.
fn same_length(counted: usize, written: usize) -> Result<(), DoesNotFit> {
    if counted == written { Ok(()) } else { Err(DoesNotFit) }
}

/// The bytes of a length field, and its offset in the payload.
struct Prefix {
    bytes: [u8; 8],
    width: usize,
    offset: usize,
}

/// Writes parts to `to`, and the length field at its offset.
struct Around<'a> {
    to: &'a mut dyn Parts,
    /// Bytes of the payload that were written.
    at: usize,
    inserted_at: usize,
    insert: Prefix,
}

impl Around<'_> {
    fn insert_if_due(&mut self) {
        if self.at == self.inserted_at && self.insert.width > 0 {
            self.to.add(&self.insert.bytes[..self.insert.width]);
            self.insert.width = 0;
        }
    }
}

impl Parts for Around<'_> {
    fn add(&mut self, bytes: &[u8]) {
        let before = self.inserted_at.saturating_sub(self.at).min(bytes.len());
        let (before, behind) = bytes.split_at(before);
        self.to.add(before);
        self.at += before.len();
        self.insert_if_due();
        self.to.add(behind);
        self.at += behind.len();
    }
}

/// Frames with a length field. By default it is big-endian, the first field, and counts the bytes after
/// it.
#[derive(Clone, Copy, Debug)]
pub struct LengthPrefix {
    pub(crate) width: usize,
    pub(crate) max: usize,
    pub(crate) offset: usize,
    pub(crate) adjustment: isize,
    pub(crate) little_endian: bool,
    pub(crate) with_header: bool,
}

impl LengthPrefix {
    /// A length field of `width` bytes, 1 to 8. A length above `max` bytes fails with [`TooLong`] as
    /// soon as the field has arrived. Field and body count as unread together: a field of 2 bytes with
    /// a `max` of 65,535 needs [`input_bytes`](crate::Builder::input_bytes) of 65,537.
    ///
    /// # Panics
    ///
    /// If `width` is not 1 to 8.
    #[must_use]
    pub const fn new(width: usize, max: usize) -> Self {
        assert!(0 < width && width <= 8, "a length has 1 to 8 bytes");
        let (little_endian, with_header) = (false, false);
        Self { width, max, offset: 0, adjustment: 0, little_endian, with_header }
    }

    /// The length field is little-endian.
    #[must_use]
    pub const fn little_endian(mut self) -> Self {
        self.little_endian = true;
        self
    }

    /// Bytes of the header before the length field. [`of`](Self::of) takes them from the start of its
    /// payload.
    #[must_use]
    pub const fn offset(mut self, bytes: usize) -> Self {
        self.offset = bytes;
        self
    }

    /// Added to the length to get the number of bytes after the field: -4 if a length of four bytes
    /// counts itself.
    #[must_use]
    pub const fn adjustment(mut self, bytes: isize) -> Self {
        self.adjustment = bytes;
        self
    }

    /// The returned body includes the header with the length field.
    #[must_use]
    pub const fn with_header(mut self) -> Self {
        self.with_header = true;
        self
    }

    /// `body` as a frame.
    pub const fn of<P: Payload>(self, body: P) -> Framed<P> {
        Framed { frame: Frame::Length(self), body }
    }

    /// The length field for a payload of `len` bytes, which include the header bytes before the field.
    fn bytes_for(self, len: usize) -> Result<Prefix, DoesNotFit> {
        let body = len.checked_sub(self.offset).filter(|body| *body <= self.max);
        let value = body.and_then(|body| {
            let body = i64::try_from(body).ok()?;
            u64::try_from(body.checked_sub(i64::try_from(self.adjustment).ok()?)?).ok()
        });
        let value = value.ok_or(DoesNotFit)?;
        let mut bytes = [0; 8];
        let fits = if self.little_endian {
            bytes = value.to_le_bytes();
            bytes[self.width..].iter().all(|byte| *byte == 0)
        } else {
            let all = value.to_be_bytes();
            let (cut, kept) = all.split_at(8 - self.width);
            bytes[..self.width].copy_from_slice(kept);
            cut.iter().all(|byte| *byte == 0)
        };
        fits.then_some(Prefix { bytes, width: self.width, offset: self.offset }).ok_or(DoesNotFit)
    }
}

impl Decoder for LengthPrefix {
    fn extent(&mut self, input: &Peek<'_>) -> Result<Extent> {
        let header = self.offset + self.width;
        let mut value = 0_u64;
        for at in 0..self.width {
            let at = if self.little_endian { self.width - 1 - at } else { at };
            let Some(byte) = input.byte(self.offset + at) else {
                return Ok(Extent::More(header));
            };
            value = value << 8 | u64::from(byte);
        }
        let Ok(value) = usize::try_from(value) else { return Err(TooLong::new(self.max).into()) };
        if self.adjustment < 0 && value < self.adjustment.unsigned_abs() {
            return Err(Error::msg("the length of a frame is less than it must count"));
        }
        let len = value.checked_add_signed(self.adjustment);
        let len = len.filter(|len| *len <= self.max).ok_or(TooLong::new(self.max))?;
        Ok(if self.with_header {
            Extent::Frame { head: 0, len: header.saturating_add(len), tail: 0 }
        } else {
            Extent::Frame { head: header, len, tail: 0 }
        })
    }

    fn frame_max(&self) -> Option<usize> {
        Some((self.offset + self.width).saturating_add(self.max))
    }
}

/// Frames that end with a fixed byte string, which is not part of the body.
#[derive(Clone, Copy, Debug)]
pub struct Delimiter {
    end: &'static [u8],
    max: usize,
}

impl Delimiter {
    /// Bodies of at most `max` bytes, each followed by `end`.
    ///
    /// # Panics
    ///
    /// If `end` is empty.
    #[must_use]
    pub const fn new(end: &'static [u8], max: usize) -> Self {
        assert!(!end.is_empty(), "an end has at least one byte");
        Self { end, max }
    }

    /// `body` as a frame. It does not check whether `body` contains the end.
    pub const fn of<P: Payload>(self, body: P) -> Framed<P> {
        Framed { frame: Frame::End(self.end, self.max), body }
    }
}

impl Decoder for Delimiter {
    fn extent(&mut self, input: &Peek<'_>) -> Result<Extent> {
        let tail = self.end.len();
        match input.find(self.end) {
            Some(len) if len <= self.max => Ok(Extent::Frame { head: 0, len, tail }),
            None if input.len() < self.max.saturating_add(tail) => {
                Ok(Extent::More(input.len() + 1))
            }
            _ => Err(TooLong::new(self.max).into()),
        }
    }

    fn frame_max(&self) -> Option<usize> {
        Some(self.max.saturating_add(self.end.len()))
    }
}

/// Lines that end with LF or CR LF, which is not part of the body.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    max: usize,
}

impl Lines {
    /// Lines of at most `max` bytes.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { max }
    }

    /// `body` and LF.
    pub const fn of<P: Payload>(self, body: P) -> Framed<P> {
        Framed { frame: Frame::End(b"\n", self.max), body }
    }
}

impl Decoder for Lines {
    fn extent(&mut self, input: &Peek<'_>) -> Result<Extent> {
        let end = input.find(b"\n");
        let Some(end) = end else {
            return if input.len() < self.max.saturating_add(2) {
                Ok(Extent::More(input.len() + 1))
            } else {
                Err(TooLong::new(self.max).into())
            };
        };
        let cr = end > 0 && input.byte(end - 1) == Some(b'\r');
        let len = end - usize::from(cr);
        if len > self.max {
            return Err(TooLong::new(self.max).into());
        }
        Ok(Extent::Frame { head: 0, len, tail: 1 + usize::from(cr) })
    }

    fn frame_max(&self) -> Option<usize> {
        Some(self.max.saturating_add(2))
    }
}

/// Frames that all have one length.
#[derive(Clone, Copy, Debug)]
pub struct FixedSize {
    bytes: usize,
}

impl FixedSize {
    /// Frames of `bytes` bytes.
    ///
    /// # Panics
    ///
    /// If that is 0.
    #[must_use]
    pub const fn new(bytes: usize) -> Self {
        assert!(bytes > 0, "a frame has at least one byte");
        Self { bytes }
    }

    /// `body`, which must have the frame's length.
    pub const fn of<P: Payload>(self, body: P) -> Framed<P> {
        Framed { frame: Frame::Fixed(self.bytes), body }
    }
}

impl Decoder for FixedSize {
    fn extent(&mut self, _: &Peek<'_>) -> Result<Extent> {
        Ok(Extent::Frame { head: 0, len: self.bytes, tail: 0 })
    }

    fn frame_max(&self) -> Option<usize> {
        Some(self.bytes)
    }
}

impl<P: Payload> Payload for Framed<P> {}

impl<P: Payload> Sealed for Framed<P> {
    fn write(&self, to: &mut dyn Parts) -> Result<(), DoesNotFit> {
        self.frame.write_around(&self.body, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::peek::Search;
    use crate::link::unread::Unread;
    use crate::vocabulary::error::ErrorKind;
    use std::cell::Cell;
    use wharf_port::memory::{BufferPool, Owner, PoolConfig};

    /// The bytes of a payload; `None` if it does not fit its frame.
    fn bytes(payload: &impl Payload) -> Option<Vec<u8>> {
        struct All(Vec<u8>);
        impl Parts for All {
            fn add(&mut self, bytes: &[u8]) {
                self.0.extend_from_slice(bytes);
            }
        }
        let mut all = All(Vec::new());
        payload.write(&mut all).ok().map(|()| all.0)
    }

    /// The result of a decoder for `data` in buffers of 64 bytes.
    fn extent(mut decoder: impl Decoder, data: &[u8]) -> Result<Extent> {
        let mut config = PoolConfig::new(64);
        config.buffer_size_bytes = 64;
        let pool = BufferPool::new(config).unwrap();
        let chain = pool.chain_of(data, Owner::Application).unwrap();
        let unread = Unread::kept(chain, 0);
        let search = Cell::new(Search::default());
        decoder.extent(&Peek::new(&unread, 0, &search))
    }

    fn frame(head: usize, len: usize, tail: usize) -> Extent {
        Extent::Frame { head, len, tail }
    }

    const NAMES: [LengthPrefix; 6] = [
        LengthPrefix::new(1, 255),
        LengthPrefix::new(2, 1_000),
        LengthPrefix::new(4, 1_000).little_endian(),
        LengthPrefix::new(4, 1_000).adjustment(-4),
        LengthPrefix::new(8, 1_000).adjustment(3).little_endian(),
        LengthPrefix::new(2, 1_000).offset(3).adjustment(-5),
    ];

    #[test]
    fn each_length_is_read_as_it_is_written() {
        for prefix in NAMES {
            for len in [0_usize, 1, 63, 64, 200, 255] {
                let len = len.max(prefix.adjustment.max(0).unsigned_abs());
                let payload = vec![7; prefix.offset + len];
                let framed = bytes(&prefix.of(payload)).unwrap();
                let header = prefix.offset + prefix.width;
                assert_eq!(framed.len(), header + len, "{prefix:?}");
                assert_eq!(extent(prefix, &framed).unwrap(), frame(header, len, 0), "{prefix:?}");
                let whole = extent(prefix.with_header(), &framed).unwrap();
                assert_eq!(whole, frame(0, header + len, 0));
                // No part of the header suffices.
                let part = &framed[..header - 1];
                assert_eq!(extent(prefix, part).unwrap(), Extent::More(header), "{prefix:?}");
            }
        }
    }

    #[test]
    fn a_length_stands_where_the_protocol_has_it() {
        let framed = LengthPrefix::new(4, 100).of(("ab", "cde"));
        assert_eq!(bytes(&framed).unwrap(), b"\0\0\0\x05abcde");
        let framed = LengthPrefix::new(2, 100).little_endian().offset(2).of(("kind", [1, 2]));
        assert_eq!(bytes(&framed).unwrap(), b"ki\x04\0nd\x01\x02");
        // It counts itself.
        let own = LengthPrefix::new(4, 100).adjustment(-4);
        assert_eq!(bytes(&own.of(format_args!("{}", 42))).unwrap(), b"\0\0\0\x0642");
    }

    #[test]
    fn a_body_that_is_too_long_or_has_no_length_fits_no_frame() {
        assert!(bytes(&LengthPrefix::new(4, 3).of("abcd")).is_none());
        assert!(bytes(&LengthPrefix::new(1, 1_000).of([0; 256])).is_none());
        // Three bytes of header precede the length.
        assert!(bytes(&LengthPrefix::new(4, 100).offset(3).of("ab")).is_none());
        assert!(bytes(&LengthPrefix::new(4, 100).adjustment(3).of("ab")).is_none());
        assert!(bytes(&Lines::new(3).of("abcd")).is_none());
        assert!(bytes(&FixedSize::new(3).of("ab")).is_none());
        assert_eq!(bytes(&FixedSize::new(3).of("abc")).unwrap(), b"abc");
        assert_eq!(bytes(&Delimiter::new(b"||", 3).of("abc")).unwrap(), b"abc||");
    }

    #[test]
    fn a_length_beyond_the_maximum_is_told_as_soon_as_it_is_there() {
        let too_long = |prefix: LengthPrefix, data: &[u8]| extent(prefix, data).unwrap_err().kind();
        assert_eq!(too_long(LengthPrefix::new(4, 10), &[0, 0, 0, 11]), ErrorKind::Limit);
        assert_eq!(too_long(LengthPrefix::new(8, 10), &[255; 8]), ErrorKind::Limit);
        let most = LengthPrefix::new(8, usize::MAX).adjustment(5).with_header();
        assert_eq!(too_long(most, &[255; 8]), ErrorKind::Limit);
        // Less than the length itself is no frame of this protocol.
        let own = LengthPrefix::new(4, 10).adjustment(-4);
        assert_eq!(too_long(own, &[0, 0, 0, 3]), ErrorKind::Handler);
    }

    #[test]
    fn a_line_ends_with_lf_or_cr_lf_and_has_its_maximum_without_them() {
        let lines = Lines::new(4);
        assert_eq!(extent(lines, b"abcd\n").unwrap(), frame(0, 4, 1));
        assert_eq!(extent(lines, b"abcd\r\nx").unwrap(), frame(0, 4, 2));
        assert_eq!(extent(lines, b"\n").unwrap(), frame(0, 0, 1));
        assert_eq!(extent(lines, b"\r\n").unwrap(), frame(0, 0, 2));
        assert_eq!(extent(lines, b"a\rb\n").unwrap(), frame(0, 3, 1));
        assert_eq!(extent(lines, b"abcd\r").unwrap(), Extent::More(6));
        for too_long in [&b"abcde\n"[..], b"abcdef", b"abcde\r\n"] {
            assert!(extent(lines, too_long).is_err(), "{too_long:?}");
        }
    }

    #[test]
    fn a_delimiter_is_found_across_buffers() {
        let delimiter = Delimiter::new(b"\r\n\r\n", 200);
        for len in 55..70 {
            let data = [vec![b'\r'; len], b"\n\r\n".to_vec()].concat();
            assert_eq!(extent(delimiter, &data).unwrap(), frame(0, len - 1, 4), "{len}");
        }
        assert_eq!(extent(delimiter, b"\r\n\r").unwrap(), Extent::More(4));
        assert!(extent(Delimiter::new(b"||", 2), b"abc||").is_err());
    }
}
