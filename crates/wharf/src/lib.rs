//! A completion-port TCP server framework in which every byte is set aside before the first client
//! comes.
//!
//! ```text
//!                    ┌──────────────── shard = thread = worker ────────────────┐
//!   clients ─► kernel ─► completion port ─► your Handler ─► send queues ─► port ─► kernel ─► clients
//!                    └──────────────────────────▲──────────────────────────────┘
//!                       other threads ─► Handle ┘ send, broadcast, close, stats, stop
//! ```
//!
//! A server has a fixed table of links and a fixed pool of buffers, divided among shards. A shard is a
//! thread with a completion port of its own (io_uring or epoll on Linux, IOCP on Windows) and a
//! worker context that your handler made on that thread. Completions are dispatched to the
//! handler; what it queues leaves at the end of the turn.
//!
//! # Quickstart
//!
//! ```no_run
#![doc = include_str!("../examples/echo.rs")]
//! ```
//!
//! `Builder::serve` is for programs that do nothing else. [`Builder::start`] returns at once with a
//! [`Running`] server, and its [`Handle`] works from any thread:
//!
//! ```
//! use std::io::{Read, Write};
//! use std::time::Duration;
//! use wharf::{Handler, Link, Result, Server};
//!
//! struct Shout;
//!
//! impl Handler for Shout {
//!     type Worker = ();
//!     type State = usize; // bytes seen on this link
//!
//!     fn on_receive(&self, _: &mut (), link: &mut Link<'_, usize>, data: &[u8]) -> Result {
//!         *link.state() += data.len();
//!         Ok(link.send(&data.to_ascii_uppercase())?)
//!     }
//! }
//!
//! let server = Server::builder().listen("127.0.0.1:0").links(100).start(Shout)?;
//! let mut client = std::net::TcpStream::connect(server.local_addrs()[0])?;
//! client.write_all(b"hello")?;
//! let mut answer = [0; 5];
//! client.read_exact(&mut answer)?;
//! assert_eq!(&answer, b"HELLO");
//! assert_eq!(server.handle().stats().received_bytes, 5);
//!
//! drop(client);
//! server.handle().stop(Duration::from_secs(1));
//! assert_eq!(server.wait()?.stats.links, 0);
//! # Ok::<(), wharf::Error>(())
//! ```
//!
//! # What is where
//!
//! | to | see |
//! | --- | --- |
//! | write what a server does | [`Handler`], [`Link`] |
//! | set limits, start | [`Server::builder`], [`Builder`] |
//! | reach links from other threads, stop | [`Handle`] |
//! | know why a link ended | [`DisconnectReason`] |
//! | watch | [`Stats`] |
//! | know the memory beforehand | [`Builder::plan`], [`MemoryPlan`] |
//! | handle errors | [`SendError`], [`StartError`] |
//!
//! # When something runs out
//!
//! | what | what happens |
//! | --- | --- |
//! | links | connections wait in the system's backlog, or are closed at once: [`WhenFull`] |
//! | a link's send queue | [`SendError::QueueFull`]; before that, above half of it, the handler is not called with input, which stays unread, and posts are left out |
//! | a link's input credit | it is not read from until its handler has taken some |
//! | buffers | each link still has one for input and the grant for an answer; more is lent in turn, or [`SendError::NoBuffers`]; who holds most without progress while others wait is closed |
//! | time | an idle link is closed, and one whose peer takes nothing of what is sent; a steady reader never is |
//! | descriptors | accepting rests for 10 ms at a time; links go on |
//! | the handler's luck | a panic closes its link and makes a fresh worker context |
//!
//! # What it will not do
//!
//! Allocate for a message after start; grow; call your handler under a lock, or twice at once for one
//! link; close a socket that the kernel still writes to.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod acts;
mod address;
mod engine;
mod error;
mod handler;
mod limits;
mod link;
mod plant;
mod server;
mod service;
mod shares;
#[cfg(feature = "sim")]
pub mod sim;
mod stats;
mod worker;

pub use address::Address;
pub use error::{
    Error, ErrorKind, PostError, Result, SendError, StartError, StartErrorKind, TooLong,
};
pub use handler::{DisconnectReason, Handler, Verdict};
pub use limits::{MemoryPlan, WhenFull};
pub use link::framing::{Decoder, Delimiter, Extent, FixedSize, Framed, LengthPrefix, Lines};
pub use link::input::Input;
pub use link::message::Message;
pub use link::output::{Copied, Output, WhenSlow};
pub use link::payload::Payload;
pub use link::peek::Peek;
pub use link::reply::Reply;
pub use link::{Link, LinkId, ListenerId, Origin, Totals};
pub use server::{
    BackEnd, Builder, Chosen, Drain, Handle, Recipients, RunningServer, Server, StopReport,
    StopSignal, StopSignals,
};
pub use stats::{Stats, WorkerStats};
pub use wharf_port::memory::Ledger;
pub use worker::{Worker, WorkerId};

/// What may go to other threads.
const _: () = {
    const fn send<T: Send + 'static>() {}
    const fn shared<T: Send + Sync + 'static>() {}
    send::<Reply>();
    send::<RunningServer>();
    shared::<Handle>();
    shared::<Message>();
    shared::<Error>();
};

/// The README's code is compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
