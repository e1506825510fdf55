//! A completion port for TCP: operations go in, completions come out.
//!
//! ```text
//!                      submit(socket, Operation)                    ┌──────────┐
//!   your thread ─────────────────────────────────────────────► port │  kernel  │
//!        ▲                                                          │ io_uring │
//!        └───────────── dequeue(&mut completions, timeout) ◄─────── │  epoll   │
//!                                                                   │   IOCP   │
//!   other threads ───── Poster::post(packet) ────────────────► port └──────────┘
//! ```
//!
//! A program submits operations (accept, receive, send, close) and dequeues their completions. The
//! bytes are in buffers of a [pool](memory::BufferPool) that is allocated at startup. A buffer
//! moves into the port with its operation and back with the completion, so safe code cannot touch a
//! buffer that the kernel may read or write.
//!
//! The model and its terms are those of the Windows I/O completion port; the back ends are
//! io_uring, epoll, IOCP and a simulation. The contract, with numbered promises, is in [`port`];
//! one suite of tests checks it on every back end.
//!
//! # A program
//!
//! [`SystemPort`] uses the first back end that works on this machine. An echo for one client:
//!
//! ```
//! use std::io::{Read, Write};
//! use wharf_port::SystemPort;
//! use wharf_port::memory::{BufferPool, Owner, PoolConfig};
//! use wharf_port::port::{Key, Operation, Outcome, Port, PortConfig, CompletionMode};
//!
//! let pool = BufferPool::new(PoolConfig::new(16))?;
//! let mut port = SystemPort::<()>::new(PortConfig::new(2), pool.clone())?;
//! let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
//! let mut client = std::net::TcpStream::connect(listener.local_addr()?)?;
//! let listener = port.associate_listener(listener, Key(0))?;
//! port.submit(listener, Operation::Accept(CompletionMode::Oneshot))?;
//! client.write_all(b"hello")?;
//!
//! let mut completions = Vec::with_capacity(8);
//! let mut socket = None;
//! while !client_has_its_answer(&mut client)? {
//!     port.dequeue(&mut completions, Some(std::time::Duration::from_millis(10)))?;
//!     for completion in completions.drain(..) {
//!         match completion.outcome {
//!             Outcome::Accepted { stream, .. } => {
//!                 let link = port.associate(stream, Key(1))?;
//!                 port.submit(link, Operation::receive(CompletionMode::Multishot))?;
//!                 socket = Some(link);
//!             }
//!             Outcome::Received { buffer, .. } => {
//!                 let echo = pool.chain_of(&buffer, Owner::SendQueue)?;
//!                 port.submit(socket.expect("accepted before"), Operation::Send(echo))?;
//!             }
//!             _ => {}
//!         }
//!     }
//! }
//! # fn client_has_its_answer(client: &mut std::net::TcpStream) -> std::io::Result<bool> {
//! #     client.set_nonblocking(true)?;
//! #     let mut answer = [0; 5];
//! #     Ok(matches!(client.read(&mut answer), Ok(5)) && &answer == b"hello")
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/own_port.rs` is an echo server for 1,000 connections, with the Win32 call of each
//! step. `examples/bare_port.rs` is one with worker threads, which dequeue from one
//! [shared port](shared_port).
//!
//! # Ownership
//!
//! - A port, its pool, buffers and chains stay on the thread that created them; a
//!   [shared port](shared_port), for several threads, passes them on as a whole. Other threads post
//!   packets through a [`Poster`](port::Poster); a packet may carry connections, and bytes as a
//!   [`Message`](memory::Message).
//! - A [`Socket`](port::Socket) is the index of a slot in the port's table, and a generation. It is
//!   `Copy`; after [`Outcome::Closed`](port::Outcome::Closed) every submit with it fails.
//! - A [`Key`](port::Key) is 64 bits that the program chooses; each completion of the socket has
//!   them.
//! - A socket has at most one receive, one send, and one accept in flight. The program queues
//!   further bytes in a [`Chain`](memory::Chain) and submits them after the send has completed.
//!
//! # Platforms
//!
//! | | io_uring | epoll | IOCP |
//! | --- | --- | --- | --- |
//! | where | Linux 6.0 or later, if permitted | every Linux | Windows (tested under Wine) |
//! | module | `uring` | `epoll` | `iocp` |
//! | system calls for an echo | one per dequeue for all sockets | one per dequeue, and per socket `recv` and `send` | one per dequeue, and per socket `recv`, `WSARecv` and `WSASend` |
//! | an idle socket waits by | a multishot receive without a buffer | readiness | a zero-byte receive |
//! | a receive's buffer comes from | a ring of provided buffers | the pool, when there are bytes | the pool, when there are bytes |
//! | a send of more than 64 buffers | short after 64 | continued by the port | short after 64 |
//! | closing | cancels, waits for the kernel, closes | closes | cancels, waits for the kernel, closes |
//! | a socket and its port | not bound to a port before `associate` | the same | bound to the first port that it was associated with |
//!
//! The feature `sim` adds the simulated port: the same contract over a simulated network and clock,
//! with injected faults; a seed determines the run.
//!
//! # What is not promised
//!
//! - The order of completions of different sockets, or of a socket's receive and send.
//! - How many bytes a receive brings, or that a send is not short.
//! - That a cancel succeeds: the operation may complete before the cancel reaches it.
//! - Which of a socket's operations reports a reset first.
//! - That `dequeue` waits for its whole timeout: it can return early with nothing.
//! - The behaviour of a port after `dequeue` has failed; only dropping it is defined.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(test)] // Two attributes, because clippy knows tests only by this one.
#[cfg(not(loom))]
mod conformance;
#[cfg(windows)]
#[expect(unsafe_code, reason = "registers a function with the system; see its invariants")]
pub mod console;
#[cfg(target_os = "linux")]
pub mod epoll;
#[cfg(windows)]
#[expect(
    unsafe_code,
    reason = "Winsock calls, and memory that the kernel writes; see operations.rs"
)]
pub mod iocp;
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "reads a socket option that rustix does not have")]
mod linux;
#[expect(unsafe_code, reason = "hands out parts of one mapping; see its invariants")]
pub mod memory;
pub mod port;
mod range;
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "passes ports from thread to thread; see `seat.rs`")]
pub mod shared_port;
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "sets what the system calls for a signal; see its invariants")]
pub mod signals;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod sync;
#[cfg(any(target_os = "linux", windows))]
mod system;
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "hands addresses to the kernel; see its invariants")]
pub mod uring;

#[cfg(any(target_os = "linux", windows))]
pub use system::SystemPort;

/// An estimate of the bytes that a port with this configuration allocates for its slots, queues and
/// rings.
///
/// It does not include buffers; see [`memory::PoolConfig::size_bytes`].
#[must_use]
pub fn table_size_bytes(config: &port::PortConfig) -> u64 {
    #[cfg(target_os = "linux")]
    {
        uring::table_size_bytes(config)
    }
    #[cfg(not(target_os = "linux"))]
    {
        u64::from(config.sockets_max) * 512
    }
}
