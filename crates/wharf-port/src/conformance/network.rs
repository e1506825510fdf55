//! What a test needs beside a port, so that it runs on real sockets and on the simulated network.
//!
//! A [`TestNetwork`] has one port and connects [`Peer`]s. Peers never block and need no thread: a
//! test repeats a call, with dequeues in between. A peer may outlive its network.

use crate::memory::pool::PoolConfig;
use crate::port::contract::{Port, PortConfig};
use crate::port::operation::{Key, Socket};
use std::io::Write;
use std::net::SocketAddr;

/// One port, and the network that it is on.
pub(super) trait TestNetwork: Sized {
    type Port: Port<Packet = u64>;
    type Peer: Peer;
    type WaitLimit: WaitLimit;

    /// Whether the kernel receives before the port has counted, so that a multishot receive may
    /// exceed its limit by the provided buffers.
    const RECEIVES_AHEAD: bool;

    /// Whether an accept brings connections that the peer has reset. IOCP counts them, because the
    /// system does not hand them over.
    const HANDS_OVER_RESET_CONNECTIONS: bool = true;

    /// Why this back end cannot run on this machine, if it cannot.
    fn unavailable() -> Option<String>;

    fn new(setup: Setup) -> Self;

    fn port(&mut self) -> &mut Self::Port;

    /// Associates a listener on a port of the system's choice, of the loopback address.
    fn listen(&mut self, key: Key) -> Socket;

    /// Begins a connection to the listener, from outside the port.
    fn connect(&mut self) -> Self::Peer;

    /// The limit of a wait that begins now.
    fn wait_limit() -> Self::WaitLimit;
}

/// The limit of a wait for something that must happen.
pub(super) trait WaitLimit {
    /// Called once per dequeue; `true` if the limit is reached.
    fn is_over(&mut self) -> bool;
}

/// The peer of a connection. Dropping it closes the connection normally.
pub(super) trait Peer {
    /// Writes as many bytes as fit, and returns how many; 0 also if the connection is broken.
    fn try_write(&mut self, bytes: &[u8]) -> usize;

    /// Appends the bytes that are there to `bytes`, at most `len_max`.
    fn try_read(&mut self, bytes: &mut Vec<u8>, len_max: usize) -> PeerRead;

    /// Shuts down the peer's sending.
    fn shutdown_write(&mut self);

    /// Resets the connection.
    fn reset(self);

    fn address(&self) -> SocketAddr;

    /// The address to which it has connected; `None` on the simulated network.
    fn connected_to(&self) -> Option<SocketAddr>;
}

/// The result of a peer's read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerRead {
    Bytes(usize),
    WouldBlock,
    Eof,
    Reset,
}

/// The configuration of a network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) port: PortConfig,
    pub(super) pool: PoolConfig,
    /// Whether socket buffers are of 8 KiB, so that sends are short or block.
    pub(super) narrow: bool,
}

impl Setup {
    /// Small tables, so that tests reach their limits: 16 sockets, 32 buffers of 256 bytes.
    pub(super) fn small() -> Self {
        let port = PortConfig { receive_buffers_max: 8, inbox_capacity: 64, ..PortConfig::new(16) };
        let pool = PoolConfig { buffer_size_bytes: 256, ..PoolConfig::new(32) };
        Self { port, pool, narrow: false }
    }

    pub(super) fn narrow(self) -> Self {
        Self { narrow: true, ..self }
    }

    pub(super) fn sockets(mut self, sockets_max: u32) -> Self {
        self.port.sockets_max = sockets_max;
        self
    }

    /// Adds large buffers of 2 KiB.
    pub(super) fn large(mut self, large_buffers: u32) -> Self {
        (self.pool.large_buffers, self.pool.large_size_bytes) = (large_buffers, 2_048);
        self
    }

    pub(super) fn buffers(mut self, buffers: u32, buffer_size_bytes: u32) -> Self {
        self.pool = PoolConfig { buffer_size_bytes, ..PoolConfig::new(buffers) };
        self
    }
}

/// Runs one test on one back end, or reports why it cannot.
pub(super) fn run<N: TestNetwork>(test: fn()) {
    match N::unavailable() {
        None => test(),
        Some(reason) => lacks(&reason),
    }
}

/// Reports that a test lacks a feature of the system. On a user's machine that is no failure; where
/// `WHARF_TESTS_MUST_RUN` is set it is one.
pub(crate) fn lacks(reason: &str) {
    assert!(
        std::env::var_os("WHARF_TESTS_MUST_RUN").is_none(),
        "{reason}, but every test must run"
    );
    skip(reason);
}

/// Reports that a test did not run, on stderr directly, because the test harness captures
/// `println!`.
pub(crate) fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{test}: skipped, because {reason}").unwrap();
}

/// Instantiates each named test for each back end, as `epoll::name`, `uring::name` and so on. Tests
/// of what a back end does not have follow after `except` and its name; the table in `mod.rs` has
/// them with that name.
///
/// A new back end is one line here and one implementation of [`TestNetwork`].
macro_rules! each_back_end {
    (
        $($test:ident),+ $(,)?
        $(; except sim: $($not_sim:ident),+ $(,)?)?
        $(; except iocp: $($not_iocp:ident),+ $(,)?)?
    ) => {
        #[cfg(target_os = "linux")]
        crate::conformance::network::on_back_end!(
            epoll, real::EpollNetwork, $($test)+ $($($not_sim)+)? $($($not_iocp)+)?);
        #[cfg(target_os = "linux")]
        crate::conformance::network::on_back_end!(
            uring, real::UringNetwork, $($test)+ $($($not_sim)+)? $($($not_iocp)+)?);
        #[cfg(windows)]
        crate::conformance::network::on_back_end!(
            iocp, real::IocpNetwork, $($test)+ $($($not_sim)+)?);
        crate::conformance::network::on_back_end!(
            sim, sim_network::SimNetwork, $($test)+ $($($not_iocp)+)?);
        crate::conformance::network::on_back_end!(
            sim_faulty, sim_network::FaultySimNetwork, $($test)+ $($($not_iocp)+)?);
    };
}

/// One back end's tests, in a module of its name.
macro_rules! on_back_end {
    ($back_end:ident, $file:ident :: $kind:ident, $($test:ident)+) => {
        mod $back_end {
            use crate::conformance::$file::$kind;
            $(
                #[test]
                fn $test() {
                    crate::conformance::network::run::<$kind>(super::$test::<$kind>);
                }
            )+
        }
    };
}

pub(super) use {each_back_end, on_back_end};
