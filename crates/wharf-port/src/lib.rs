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
//! You tell the port what is to be done, accept, receive, send, close, and it tells you when it is
//! done. The bytes are in buffers of a [pool](memory::BufferPool) that is taken at start. A buffer
//! goes into the port with its operation and comes back with the completion, so that what the
//! kernel may touch nobody else can; that is a matter of types and not of care.
//!
//! The port is the I/O completion port of Windows, with the same words, on three systems of the
//! kernel and in a simulation. The contract, with numbered promises, is in [`port`]; each
//! back end is held to it by one suite of tests.
//!
//! # A program
//!
//! [`SystemPort`] is the best back end that works on this machine. An echo for one client:
//!
//! ```
//! use std::io::{Read, Write};
//! use wharf_port::SystemPort;
//! use wharf_port::memory::{BufferPool, Owner, PoolConfig};
//! use wharf_port::port::{Key, Operation, Outcome, Port, PortConfig, Shots};
//!
//! let pool = BufferPool::new(PoolConfig::new(16))?;
//! let mut port = SystemPort::<()>::new(PortConfig::new(2), pool.clone())?;
//! let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
//! let mut client = std::net::TcpStream::connect(listener.local_addr()?)?;
//! let listener = port.associate_listener(listener, Key(0))?;
//! port.submit(listener, Operation::Accept(Shots::One))?;
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
//!                 port.submit(link, Operation::receive(Shots::Many))?;
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
//! `examples/bare_port.rs` is a server of many links, step by step beside the Win32 calls.
//!
//! # What belongs to whom
//!
//! - A port belongs to the thread that made it, as do its pool, buffers and chains. Other threads
//!   reach it by a [`Poster`](port::Poster), and that is all they need: a packet may carry
//!   connections, and bytes as a [`Message`](memory::Message).
//! - A [`Socket`](port::Socket) is a place in the port's table with a generation. It is copied freely;
//!   after [`Outcome::Closed`](port::Outcome::Closed) it is refused.
//! - A [`Key`](port::Key) is yours: 64 bits that come back with each completion of the socket.
//! - A socket has at most one receive, one send, and one accept in flight. More bytes to be sent
//!   wait in your queue, as a [`Chain`](memory::Chain), and leave with the next send.
//!
//! # Platforms
//!
//! | | io_uring | epoll | IOCP |
//! | --- | --- | --- | --- |
//! | where | Linux with it allowed | every Linux | Windows (tested under Wine) |
//! | module | `uring` | `epoll` | `iocp` |
//! | system calls for an echo | one a turn for all sockets | one a turn, and a receive and a send each | one a turn, and two each |
//! | an idle socket waits by | a multishot receive without a buffer | readiness | a receive of no bytes |
//! | a receive's buffer comes from | a window of the pool that is lent to the kernel | the pool, when there are bytes | the pool, when there are bytes |
//! | a send of many buffers | 64 at a time, then short | goes on by itself | 64 at a time, then short |
//! | closing | cancels, waits for the kernel, closes | closes | cancels, waits for the kernel, closes |
//! | a socket and its port | may move before it is associated | the same | stays with the first port for good |
//!
//! The simulated port, `sim`, is there with the feature of that name: the same contract over a network
//! and a clock that are driven by a seed, with faults.
//!
//! # What is not promised
//!
//! - The order of completions of different sockets, or of a socket's receive and send.
//! - How many bytes a receive brings, or that a send is not short.
//! - That a cancel is in time: an operation may be done before.
//! - Which of a socket's operations hears of a reset first.
//! - That `dequeue` waits as long as it may: it can return early with nothing.
//! - Anything on a port after `dequeue` has failed, but for dropping it.
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
#[expect(unsafe_code, reason = "hands out pieces of one mapping; see its invariants")]
pub mod memory;
pub mod port;
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

/// Bytes that a port of this shape takes for its tables, about: places, queues and rings.
///
/// Buffers are not in it; see [`memory::PoolConfig::size_bytes`].
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
