//! What can fail, and what it means for the link.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;

/// What callbacks and programs return.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Any error: `?` takes every `E: std::error::Error + Send + Sync`.
///
/// For that it is not a `std::error::Error` itself (as `anyhow::Error`); `?` turns it into a `Box`
/// of one. This crate's errors, `io::Error` and constant texts are kept without an allocation,
/// others in a box.
///
/// `{:?}`, which `fn main() -> Result` prints, is the text with its remedy, and the causes.
pub struct Error {
    inner: Inner,
}

enum Inner {
    Send(SendError),
    Post(PostError),
    Limit(LimitError),
    TooLong(TooLong),
    Io(io::Error),
    Text(Cow<'static, str>),
    Other(Box<dyn StdError + Send + Sync>),
}

impl Error {
    /// An error that is only a text. A constant one allocates nothing.
    #[must_use]
    pub fn msg(text: impl Into<Cow<'static, str>>) -> Self {
        Self { inner: Inner::Text(text.into()) }
    }

    /// An error that is boxed already, as `anyhow` and many libraries return it.
    #[must_use]
    pub fn from_boxed(error: Box<dyn StdError + Send + Sync>) -> Self {
        Self { inner: Inner::Other(error) }
    }

    /// What it means for the link whose callback returned it. Only the error itself counts, not its
    /// sources: an error of the program's own is [`ErrorKind::Handler`] whatever it wraps.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &self.inner {
            Inner::Send(SendError::Full | SendError::PartnerFull) => ErrorKind::OutputFull,
            Inner::TooLong(_) => ErrorKind::Limit,
            _ => ErrorKind::Handler,
        }
    }

    fn as_std(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.inner {
            Inner::Send(error) => Some(error),
            Inner::Post(error) => Some(error),
            Inner::Limit(error) => Some(error),
            Inner::TooLong(error) => Some(error),
            Inner::Io(error) => Some(error),
            Inner::Other(error) => Some(&**error),
            Inner::Text(_) => None,
        }
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        /// Takes the error out as what it is; decided at compile time.
        fn take<T: 'static>(slot: &mut dyn Any) -> Option<T> {
            slot.downcast_mut::<Option<T>>()?.take()
        }
        let mut slot = Some(error);
        let inner = if let Some(error) = take(&mut slot) {
            Inner::Send(error)
        } else if let Some(error) = take(&mut slot) {
            Inner::Post(error)
        } else if let Some(error) = take(&mut slot) {
            Inner::Limit(error)
        } else if let Some(error) = take(&mut slot) {
            Inner::TooLong(error)
        } else if let Some(error) = take(&mut slot) {
            Inner::Io(error)
        } else {
            Inner::Other(slot.map_or_else(|| unreachable!(), |error: E| Box::new(error)))
        };
        Self { inner }
    }
}

impl From<Error> for Box<dyn StdError + Send + Sync> {
    fn from(error: Error) -> Self {
        match error.inner {
            Inner::Send(error) => error.into(),
            Inner::Post(error) => error.into(),
            Inner::Limit(error) => error.into(),
            Inner::TooLong(error) => error.into(),
            Inner::Io(error) => error.into(),
            Inner::Text(text) => text.into(),
            Inner::Other(error) => error,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner {
            Inner::Text(text) => f.write_str(text),
            _ => self.as_std().map_or(Ok(()), |error| fmt::Display::fmt(error, f)),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        let mut cause = self.as_std().and_then(StdError::source);
        while let Some(error) = cause {
            write!(f, "\ncaused by: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// What an [`Error`] means for the link whose callback returned it. In each case what is queued is
/// sent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The handler queued more than there was capacity for: [`SendError::Full`].
    OutputFull,
    /// The peer sent too much: [`TooLong`].
    Limit,
    /// Anything else.
    Handler,
}

/// Bytes were not queued on a link. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// There is no capacity now; there will be when the peer has read.
    Full,
    /// The output can never hold it.
    TooLarge,
    /// The link is closing, or its output is finished.
    Closed,
    /// As `Full`, of the partner's output.
    PartnerFull,
    /// As `Closed`, of the partner's output.
    PartnerClosed,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => {
                "the link's output is full; call `out.ensure(n)` before sending more than the \
                 grant"
            }
            Self::TooLarge => "the message is larger than an output; send parts",
            Self::Closed => "the link is closing",
            Self::PartnerFull => {
                "the partner's output is full; call `partner().ensure(n)` before sending"
            }
            Self::PartnerClosed => "the partner is closing",
        })
    }
}

impl StdError for SendError {}

/// Something for others was not posted. Returned from a callback, it is an error as any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostError {
    /// The receiver's inbox or output is full, or the shared buffers are used up.
    Full,
    /// The receiver can never hold it.
    TooLarge,
    /// The receiver is closed.
    Closed,
    /// The server drains: what is posted now would come too late.
    Stopping,
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the receiver is full; try again later",
            Self::TooLarge => "the message is larger than what its receiver can hold",
            Self::Closed => "the receiver is closed",
            Self::Stopping => "the server is stopping",
        })
    }
}

impl StdError for PostError {}

/// The peer sent something longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    max: usize,
}

impl TooLong {
    /// For decoders: more than `max` bytes.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { max }
    }

    /// How many bytes are allowed.
    #[must_use]
    pub const fn max(&self) -> usize {
        self.max
    }
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the peer's message is longer than {} bytes", self.max)
    }
}

impl StdError for TooLong {}

/// A limit of the server is reached; which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitError {
    limit: &'static str,
    max: u64,
}

impl LimitError {
    pub(crate) const fn new(limit: &'static str, max: u64) -> Self {
        Self { limit, max }
    }

    /// The limit's name, as in the configuration.
    #[must_use]
    pub fn limit(&self) -> &'static str {
        self.limit
    }
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, max } = self;
        write!(f, "the limit `{limit}` of {max} is reached")
    }
}

impl StdError for LimitError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Mine(SendError);
    impl fmt::Display for Mine {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("mine")
        }
    }
    impl StdError for Mine {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn only_the_error_itself_says_what_it_means() {
        let kind = |error: Error| error.kind();
        assert_eq!(kind(SendError::Full.into()), ErrorKind::OutputFull);
        assert_eq!(kind(SendError::PartnerFull.into()), ErrorKind::OutputFull);
        assert_eq!(kind(SendError::Closed.into()), ErrorKind::Handler);
        assert_eq!(kind(PostError::Full.into()), ErrorKind::Handler);
        assert_eq!(kind(TooLong::new(3).into()), ErrorKind::Limit);
        assert_eq!(kind(Mine(SendError::Full).into()), ErrorKind::Handler);
        assert_eq!(kind(Error::from_boxed("no".into())), ErrorKind::Handler);
    }

    #[test]
    fn ours_are_kept_without_a_box_and_debug_shows_remedy_and_causes() {
        assert!(matches!(Error::from(SendError::Full).inner, Inner::Send(_)));
        assert!(matches!(Error::from(io::Error::other("x")).inner, Inner::Io(_)));
        assert!(size_of::<Result>() <= 32, "{}", size_of::<Result>());
        let wrapped = Error::from(Mine(SendError::Full));
        assert_eq!(format!("{wrapped:?}").lines().count(), 2);
        let boxed: Box<dyn StdError + Send + Sync> = wrapped.into();
        assert_eq!(boxed.to_string(), "mine");
        let limit = Error::from(LimitError::new("groups_max", 8));
        assert_eq!(format!("{limit:?}"), "the limit `groups_max` of 8 is reached");
    }
}
