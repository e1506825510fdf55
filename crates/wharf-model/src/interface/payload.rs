//! What can be sent and posted.

use super::Message;
use super::framing::{Frame, Framed, LengthPrefix};
use std::fmt;

/// What can be sent and posted: bytes and text, borrowed or owned, and arrays; `format_args!(…)`; a
/// shared [`Message`]; a frame, such as [`LengthPrefix::of`](crate::LengthPrefix::of); a tuple of up
/// to four of these, which is one message of several parts. Sealed.
pub trait Payload: sealed::Sealed {
    /// Its bytes; `None` if it is too long for its frame.
    fn bytes(&self) -> Option<Vec<u8>>;
}

macro_rules! payloads {
    ($([$($of:tt)*] $type:ty: |$this:ident| $bytes:expr;)*) => {$(
        impl<$($of)*> sealed::Sealed for $type {}
        impl<$($of)*> Payload for $type {
            fn bytes(&self) -> Option<Vec<u8>> {
                let $this = self;
                $bytes
            }
        }
    )*};
}

payloads! {
    [T: AsRef<[u8]> + ?Sized] &T: |this| Some(this.as_ref().to_vec());
    [] Vec<u8>: |this| Some(this.clone());
    [] String: |this| Some(this.clone().into_bytes());
    [const N: usize] [u8; N]: |this| Some(this.to_vec());
    [] fmt::Arguments<'_>: |this| Some(this.to_string().into_bytes());
    [] &Message: |this| Some(this.as_bytes().to_vec());
    [P: Payload] Framed<P>: |this| framed(this.frame, this.body.bytes()?);
    [A: Payload, B: Payload] (A, B): |this| Some([this.0.bytes()?, this.1.bytes()?].concat());
    [A: Payload, B: Payload, C: Payload] (A, B, C): |this| {
        Some([this.0.bytes()?, this.1.bytes()?, this.2.bytes()?].concat())
    };
    [A: Payload, B: Payload, C: Payload, D: Payload] (A, B, C, D): |this| {
        Some([this.0.bytes()?, this.1.bytes()?, this.2.bytes()?, this.3.bytes()?].concat())
    };
}

fn framed(frame: Frame, body: Vec<u8>) -> Option<Vec<u8>> {
    match frame {
        Frame::Length(prefix) => prefixed(prefix, &body),
        Frame::End(end, max) => (body.len() <= max).then(|| [&body, end].concat()),
        Frame::Fixed(len) => (body.len() == len).then_some(body),
    }
}

fn prefixed(prefix: LengthPrefix, payload: &[u8]) -> Option<Vec<u8>> {
    let (head, body) = payload.split_at_checked(prefix.offset)?;
    if body.len() > prefix.max {
        return None;
    }
    let value = isize::try_from(body.len()).ok()? - prefix.adjustment;
    let value = u64::try_from(value).ok()?.to_be_bytes();
    let (cut, len) = value.split_at(8 - prefix.width);
    if cut.iter().any(|byte| *byte > 0) {
        return None;
    }
    let mut len = len.to_vec();
    if prefix.little_endian {
        len.reverse();
    }
    Some([head, &len, body].concat())
}

mod sealed {
    #[expect(unnameable_types, reason = "that is what seals it")]
    pub trait Sealed {}
}
