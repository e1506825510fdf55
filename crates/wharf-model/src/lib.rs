#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod bug;
mod client;
mod interface;
mod memory;
mod rng;
mod rule;
mod settings;
pub mod shares;
mod sync;

pub use bug::ModelBug;
pub use client::{Client, run, run_with};
pub use interface::{
    Copied, Decoder, Delimiter, DisconnectReason, Error, ErrorKind, Extent, FixedSize, Framed,
    Group, Handle, Handler, Input, LengthPrefix, LimitError, Lines, Link, LinkId, Message, Origin,
    Output, Payload, Peek, PostError, Recipients, Reply, Result, SendError, Stats, TooLong, Totals,
    Verdict, WhenSlow, Worker, WorkerId,
};
pub use rng::Rng;
pub use rule::{LinkEnd, LinkView, Model};
pub use settings::Settings;
