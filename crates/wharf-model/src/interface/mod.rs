//! The interface that the model serves: what a handler sees.

mod error;
mod framing;
mod handle;
mod handler;
mod input;
mod link;
mod output;
mod payload;
mod reply;
mod worker;

pub use error::{Error, ErrorKind, LimitError, PostError, Result, SendError, TooLong};
pub use framing::{Decoder, Delimiter, Extent, FixedSize, Framed, LengthPrefix, Lines};
pub use handle::{Handle, Message, Recipients, Stats};
pub use handler::{DisconnectReason, Handler, Verdict};
pub use input::{Input, Peek};
pub use link::{Group, Link, LinkId, Origin, Totals};
pub use output::{Copied, Output, WhenSlow};
pub use payload::Payload;
pub use reply::Reply;
pub use worker::{Worker, WorkerId};

pub(crate) use handle::{Bits, Post, Posts, To};
pub(crate) use input::Unread;
pub(crate) use link::{Asked, Facts};
pub(crate) use output::{Debt, Queue};
pub(crate) use reply::{Claim, ReplyState};
pub(crate) use worker::WorkerFacts;
