//! A completion-port TCP server framework that allocates its tables and buffers at start.
//!
//! ```text
//!               unread ≤ input_bytes                      unsent ≤ output_bytes
//!   socket ─────────► Input ─────► your Handler ─────► link.out: Output ─────► socket
//!                       └──── forward: buffers change owner, few are copied ────┘
//!   other links, other threads:  Handle ─► link(id) | all() ─► post
//! ```
//!
//! A server has a fixed table of links (connections) and a fixed pool of buffers, divided among shards.
//! A shard is a thread with its own completion port (io_uring or epoll on Linux, IOCP on Windows) and a
//! worker context that your handler makes on that thread. At the end of its turn the shard submits what
//! callbacks have queued; on io_uring one system call does that for all links.
//!
//! # Quickstart
//!
//! ```no_run
#![doc = include_str!("../examples/echo.rs")]
//! ```
//!
//! A function or a closure is a handler as well:
//!
//! ```no_run
//! use wharf::{Input, Link, Result, Server};
//!
//! fn main() -> Result {
//!     let echo = |link: &mut Link<'_>, input: &mut Input<'_>| {
//!         input.forward(&mut link.out);
//!         Ok(())
//!     };
//!     Server::builder(echo).listen("127.0.0.1:9527").serve()
//! }
//! ```
//!
//! `Builder::serve` is for programs that do nothing else. [`Builder::start`] returns a
//! [`RunningServer`], whose [`Handle`] works from any thread:
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//! use std::time::Duration;
//! use wharf::{Handler, Input, Link, Result, Server};
//!
//! /// Numbers the lines of each link.
//! struct Numbers;
//!
//! impl Handler<u64> for Numbers {
//!     fn on_connect(&self, _: &mut Link<'_>) -> Result<u64> {
//!         Ok(0)
//!     }
//!
//!     fn on_receive(&self, link: &mut Link<'_, u64>, input: &mut Input<'_>) -> Result {
//!         let Some(line) = input.line(1024)? else { return Ok(()) };
//!         *link.state += 1;
//!         Ok(link.out.send((format_args!("{} ", link.state), line, "\n"))?)
//!     }
//! }
//!
//! let running = Server::builder(Numbers).listen("127.0.0.1:0").links_max(100).start()?;
//! let address = running.local_addresses()[0].1.socket_addr().expect("it is no Unix socket");
//! let mut client = TcpStream::connect(address)?;
//! client.write_all(b"to be\nor not\n")?;
//! let mut replies = [0; 17];
//! client.read_exact(&mut replies)?;
//! assert_eq!(&replies, b"1 to be\n2 or not\n");
//!
//! let server = running.handle();
//! server.all().post("the server stops\n");
//! server.stop(Duration::from_secs(1));
//! let mut last = String::new();
//! client.read_to_string(&mut last)?;
//! assert_eq!(last, "the server stops\n");
//! assert_eq!(running.wait()?.stats.links, 0);
//! # Ok::<(), wharf::Error>(())
//! ```
//!
//! # The calling rule
//!
//! Take one message from the input, reply, return. The rest stays unread; at [`Builder::input_bytes`]
//! of it the server stops reading from the link. The handler is called again for it
//!
//! - at once, if it took something;
//! - when what it asked for is there: bytes by [`Input::take`] and its like, capacity by
//!   [`Output::ensure`];
//! - if it asked for nothing: when more bytes arrived, or the output has more capacity.
//!
//! Each call finds the *grant*, capacity for a reply of [`Builder::grant_bytes`], whatever other links
//! hold. So no input is lost when an output is full, and a pause or a deferred reply needs no queue of
//! its own. [`Handler::on_receive`] has the rule in full.
//!
//! A handler that takes part of a message keeps it in its state. A handler that replies with more than
//! the grant asks for the capacity first:
//!
//! ```
//! # use wharf::{Handler, Input, Link, Result};
//! # struct Repeat;
//! impl Handler for Repeat {
//!     fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
//!         let Some(line) = input.line(1024)? else { return Ok(()) };
//!         let reply = [line, b"\n"].concat().repeat(100);
//!         if link.out.ensure(reply.len())? {
//!             link.out.send(reply)?;
//!         } else {
//!             // When there is capacity, `on_receive` is called again with the same line.
//!             input.rewind();
//!         }
//!         Ok(())
//!     }
//! }
//! ```
//!
//! # What is where
//!
//! | to | see |
//! | --- | --- |
//! | write the server's callbacks | [`Handler`]: when each is called, and what its error does |
//! | take messages | [`Input`]: [`line`](Input::line), [`take`](Input::take), [`frame`](Input::frame) |
//! | cut a stream into frames | [`LengthPrefix`], [`Delimiter`], [`Lines`], [`FixedSize`], or a [`Decoder`] of one's own |
//! | reply | [`Output`], and [`Payload`] for what can be sent |
//! | reply later, from any thread | [`Input::defer`], [`Reply`] |
//! | inspect, pause or close a link | [`Link`] |
//! | reach other links, from callbacks and any thread | [`Handle`], [`Recipients`], [`Message`] |
//! | set limits, start | [`Server::builder`], [`Builder`], [`RunningServer`] |
//! | compute the memory before the start | [`Builder::plan`], [`MemoryPlan`] |
//! | know why a link ended | [`DisconnectReason`] |
//! | read the counters | [`Stats`] |
//! | run what may block on other threads | [`thread_pool`] |
//! | handle errors | [`Error`], [`SendError`], [`PostError`], [`StartError`] |
//!
//! # When something runs out
//!
//! | what | what happens |
//! | --- | --- |
//! | links | connections wait in the backlog of listen(2), or are closed: [`WhenFull`] |
//! | an input ([`Builder::input_bytes`]) | the server stops reading from the link until its handler takes bytes; a longer message fails with [`TooLong`], which closes the link with [`Limit`](DisconnectReason::Limit) |
//! | the lower half of an output | the handler is not called with input, which stays unread; posts are skipped and counted, or close the link: [`WhenSlow`] |
//! | an output ([`Builder::output_bytes`]) | [`SendError::Full`]; returned by `?`, it closes the link with [`OutputFull`](DisconnectReason::OutputFull), after what is queued is sent |
//! | buffers | each link still has one for input, and the grant for a reply; further ones are lent in the order of the requests, and when a link has waited for the loan wait, those that hold most without progress are closed: [`Builder::loan_wait`] |
//! | buffers for posts | the post is skipped and counted; [`try_post`](Recipients::try_post) fails with [`Full`](PostError::Full) |
//! | time | the server closes a link whose peer sends nothing for [`Builder::idle_timeout`] (unless `on_idle` keeps it), takes nothing of the output for [`Builder::stall_timeout`], or whose [`Reply`] is not sent for [`Builder::answer_timeout`]; a peer that reads slowly without a stop is not closed |
//! | descriptors | accepting pauses for 10 ms, then retries; open links are not affected |
//! | a panic in a callback | its link is reset, and the worker continues with a new context |
//!
//! # What it will not do
//!
//! - Allocate on the message path after start: receive, take, send, post, defer, close, accept. What the
//!   handler's own code allocates is its own.
//! - Grow: each table, queue and pool has a fixed size.
//! - Call a handler under a lock, run two callbacks of one link at the same time, or call one after
//!   `on_disconnect`.
//! - Send what a callback queued before the callback has returned.
//! - Drop a part of what a link's own handler queued, and continue.
//! - Close a socket that the kernel still writes to.
//!
//! # What it cannot do yet
//!
//! Open connections: links are accepted only. A proxy uses sockets of std in threads of its own. Bytes
//! that such a thread cannot take stay unread with their link, until it calls
//! [`resume`](Recipients::resume). It retries a post that failed with [`Full`](PostError::Full) later:
//! wharf does not notify threads of new capacity.
//!
//! # Logs
//!
//! The crate logs with `tracing`. `DEBUG`: each link that opens and closes, and each connection that is
//! refused, with the peer's address and the reason; the text of each error that a callback returned
//! (`on_disconnect` gets only its kind); accepts and operations of links that failed, with the system
//! call. `WARN`: of a name, an address on which the server does not listen. `ERROR`: why a server stops,
//! when `on_worker_start` has failed after a panic.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod acts;
mod engine;
mod guard;
mod handler;
mod limits;
mod link;
mod proxy;
mod server;
mod service;
mod shared;
mod shares;
#[cfg(feature = "sim")]
pub mod sim;
mod stats;
pub mod thread_pool;
mod vocabulary;
mod worker;

pub use handler::{Handler, OnPost};
pub use limits::MemoryPlan;
pub use link::Link;
pub use link::framing::{Decoder, Delimiter, Extent, FixedSize, Framed, LengthPrefix, Lines};
pub use link::input::Input;
pub use link::output::{Copied, Output};
pub use link::peek::Peek;
pub use server::{
    BackEndChoice, Builder, RunningServer, Server, StopReport, StopSignal, StopSignals, Waited,
};
pub use shared::handle::{Drain, Handle, Recipients};
pub use shared::message::Message;
pub use shared::packets::{Inbox, Poster, Undelivered, inbox};
pub use shared::payload::Payload;
pub use shared::reply::Reply;
pub use shared::service_thread::StalledCallback;
pub use stats::{ServiceStats, Stats, WorkerStats};
pub use vocabulary::address::Address;
pub use vocabulary::back_end::BackEnd;
pub use vocabulary::error::{
    Error, ErrorKind, PostError, Result, SendError, StartError, StartErrorKind, TooLong,
};
pub use vocabulary::id::LinkId;
pub use vocabulary::origin::{ListenerId, Origin, WorkerId};
pub use vocabulary::policy::{WhenFull, WhenSlow};
pub use vocabulary::reason::{DisconnectReason, Verdict};
pub use vocabulary::totals::Totals;
pub use wharf_port::memory::BufferCounts;
pub use worker::Worker;

/// The types that may go to other threads.
const _: () = {
    const fn send<T: Send + 'static>() {}
    const fn shared<T: Send + Sync + 'static>() {}
    send::<Reply>();
    send::<RunningServer>();
    shared::<Handle>();
    shared::<Message>();
    shared::<Error>();
};

/// Compiles the README's code with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
