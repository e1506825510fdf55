//! A completion-port TCP server framework in which every byte is set aside before the first client
//! comes.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod engine;
mod error;
mod handler;
mod limits;
mod link;
mod plant;
mod server;
#[cfg(feature = "sim")]
pub mod sim;
mod stats;

pub use error::{Error, Result, SendError, StartError};
pub use handler::{DisconnectReason, Handler, Idle, Totals, WorkerId};
pub use limits::{MemoryPlan, WhenFull};
pub use link::{Link, LinkId};
pub use server::{
    BackEnd, Builder, Chosen, Handle, Running, Server, StopSignal, StopSignals, Stopped,
};
pub use stats::{Stats, WorkerStats};
pub use wharf_port::memory::Ledger;

/// The README's code is compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
