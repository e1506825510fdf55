//! Payloads: what can be sent and posted.

use crate::shared::message::Message;
use std::fmt::{self, Write};

/// What can be sent and posted: bytes and text, borrowed or owned; arrays of bytes; `format_args!(…)`,
/// which is formatted into the buffers; a shared [`Message`]; a frame, such as
/// [`LengthPrefix::of`](crate::LengthPrefix::of); a tuple of two to four of these, as one message.
/// Sealed. To send a number or a `char`, use `write!(link.out, "{number}")`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent",
    note = "bytes, text and tuples of them can be sent; anything else by `write!(link.out, …)` or `format_args!(…)`"
)]
pub trait Payload: sealed::Sealed {}

/// A body is too long for its frame, or has another length than its frame requires.
#[derive(Debug)]
#[expect(unnameable_types, reason = "that is what seals `Payload`")]
pub struct DoesNotFit;

/// The destination of a payload's bytes, part by part.
#[expect(unnameable_types, reason = "that is what seals `Payload`")]
pub trait Parts {
    fn add(&mut self, bytes: &[u8]);
}

/// Counts the bytes of a payload.
#[derive(Debug, Default)]
pub(crate) struct Count(pub(crate) usize);

impl Parts for Count {
    fn add(&mut self, bytes: &[u8]) {
        self.0 = self.0.saturating_add(bytes.len());
    }
}

pub(crate) mod sealed {
    use super::{DoesNotFit, Message, Parts};

    #[expect(unnameable_types, reason = "that is what seals it")]
    pub trait Sealed {
        /// All of its bytes, if they lie in one slice.
        fn piece(&self) -> Option<&[u8]> {
            None
        }

        /// The shared message, if it is one.
        fn message(&self) -> Option<&Message> {
            None
        }

        /// Writes its bytes to `to`, in order.
        fn write(&self, to: &mut dyn Parts) -> Result<(), DoesNotFit>;
    }
}

macro_rules! pieces {
    ($([$($of:tt)*] $type:ty;)*) => {$(
        impl<$($of)*> Payload for $type {}
        impl<$($of)*> sealed::Sealed for $type {
            fn piece(&self) -> Option<&[u8]> {
                Some(self.as_ref())
            }

            fn write(&self, to: &mut dyn Parts) -> Result<(), DoesNotFit> {
                to.add(self.as_ref());
                Ok(())
            }
        }
    )*};
}

pieces! {
    [T: AsRef<[u8]> + ?Sized] &T;
    [] Vec<u8>;
    [] String;
    [const N: usize] [u8; N];
}

macro_rules! tuples {
    ($($part:ident $at:tt),*) => {
        impl<$($part: Payload),*> Payload for ($($part,)*) {}
        impl<$($part: Payload),*> sealed::Sealed for ($($part,)*) {
            fn write(&self, to: &mut dyn Parts) -> Result<(), DoesNotFit> {
                $(self.$at.write(to)?;)*
                Ok(())
            }
        }
    };
}

tuples!(A 0, B 1);
tuples!(A 0, B 1, C 2);
tuples!(A 0, B 1, C 2, D 3);

impl Payload for fmt::Arguments<'_> {}

impl sealed::Sealed for fmt::Arguments<'_> {
    fn piece(&self) -> Option<&[u8]> {
        self.as_str().map(str::as_bytes)
    }

    /// # Panics
    ///
    /// If a `Display` in it returns an error, as `format!` does.
    fn write(&self, to: &mut dyn Parts) -> Result<(), DoesNotFit> {
        let written = Text(to).write_fmt(*self);
        assert!(written.is_ok(), "a Display returned an error, though nothing failed");
        Ok(())
    }
}

/// Writes text as bytes.
struct Text<'a>(&'a mut dyn Parts);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.add(text.as_bytes());
        Ok(())
    }
}

impl Payload for &Message {}

impl sealed::Sealed for &Message {
    fn message(&self) -> Option<&Message> {
        Some(self)
    }

    fn write(&self, to: &mut dyn Parts) -> Result<(), DoesNotFit> {
        self.inner.slices().for_each(|slice| to.add(slice));
        Ok(())
    }
}
