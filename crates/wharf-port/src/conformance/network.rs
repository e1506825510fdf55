//! What a test needs of the world around a port, so that real sockets and a simulated network can
//! both give it.
//!
//! A [`TestNetwork`] holds one port and makes [`Peer`]s, the other ends of connections. Peers never block
//! and need no thread: whoever wants something of them asks again and again, with rounds of
//! `dequeue` in between. A peer outlives its lab.

use crate::memory::PoolConfig;
use crate::port::{Key, Port, PortConfig, Socket};
use std::io::Write;
use std::net::SocketAddr;

/// One port, and the network that it is on.
pub(super) trait TestNetwork: Sized {
    type Port: Port<Packet = u64>;
    type Peer: Peer;
    type WaitLimit: WaitLimit;

    /// Whether `dequeue` really sleeps, so that another thread can end its sleep. On a simulated
    /// clock it cannot, and tests of that are skipped.
    const SLEEPS: bool;

    /// Whether the kernel receives ahead of the port, so that a receive of many with a limit may
    /// bring more, by what the window holds.
    const RECEIVES_AHEAD: bool;

    /// Why this back end cannot run on this machine, if it cannot.
    fn unavailable() -> Option<String>;

    fn new(setup: Setup) -> Self;

    fn port(&mut self) -> &mut Self::Port;

    /// Associates a listener on a port of the system's choice, of the loopback address.
    fn listen(&mut self, key: Key) -> Socket;

    /// Begins a connection to the listener, from outside the port.
    fn connect(&mut self) -> Self::Peer;

    /// Says when to give up waiting that begins now.
    fn wait_limit() -> Self::WaitLimit;
}

/// How long to wait for something that must happen.
pub(super) trait WaitLimit {
    /// Asked once a round; `true` if it is time to give up.
    fn is_over(&mut self) -> bool;
}

/// The other end of a connection. Dropping it closes the connection in the normal way.
pub(super) trait Peer {
    /// Writes what fits at once, and says how much; 0 as well if the connection is broken.
    fn try_write(&mut self, bytes: &[u8]) -> usize;

    /// Appends to `bytes` what is there, at most `len_max` bytes.
    fn try_read(&mut self, bytes: &mut Vec<u8>, len_max: usize) -> PeerRead;

    /// Says that no more bytes will come from this peer.
    fn shutdown_write(&mut self);

    /// Breaks the connection off: the port's side sees a reset.
    fn reset(self);

    fn address(&self) -> SocketAddr;

    /// The address that it has connected to; `None` where there is none.
    fn connected_to(&self) -> Option<SocketAddr>;
}

/// What a peer's read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerRead {
    Bytes(usize),
    WouldBlock,
    Eof,
    Reset,
}

/// What a lab is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) port: PortConfig,
    pub(super) pool: PoolConfig,
    /// Whether the network holds only a few kilobytes in each direction, so that sends fall short
    /// and block soon.
    pub(super) narrow: bool,
}

impl Setup {
    /// Small tables, so that every limit is near: 16 sockets, 32 buffers of 256 bytes.
    pub(super) fn small() -> Self {
        let port = PortConfig { receive_window: 8, inbox_capacity: 64, ..PortConfig::new(16) };
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

    /// So many large buffers of 2 KiB beside the others.
    pub(super) fn large(mut self, large_buffers: u32) -> Self {
        (self.pool.large_buffers, self.pool.large_size_bytes) = (large_buffers, 2_048);
        self
    }

    pub(super) fn buffers(mut self, buffers: u32, buffer_size_bytes: u32) -> Self {
        self.pool = PoolConfig { buffer_size_bytes, ..PoolConfig::new(buffers) };
        self
    }
}

/// Runs one test on one back end, or says why not.
pub(super) fn run<N: TestNetwork>(test: fn()) {
    match N::unavailable() {
        None => test(),
        Some(reason) => skip(&reason),
    }
}

/// Reports that a test did not run. Written past the test harness, which would swallow it.
pub(super) fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{test}: skipped, because {reason}").unwrap();
}

/// Instantiates each named test for each back end, as `epoll::name`, `uring::name` and so on.
///
/// A new back end is one line here and one lab.
macro_rules! each_back_end {
    ($($test:ident),+ $(,)?) => {
        #[cfg(target_os = "linux")]
        crate::conformance::network::on_back_end!(epoll, real::EpollNetwork, $($test)+);
        #[cfg(target_os = "linux")]
        crate::conformance::network::on_back_end!(uring, real::UringNetwork, $($test)+);
        #[cfg(windows)]
        crate::conformance::network::on_back_end!(iocp, real::IocpNetwork, $($test)+);
        crate::conformance::network::on_back_end!(sim, sim_network::SimNetwork, $($test)+);
        crate::conformance::network::on_back_end!(
            sim_faulty, sim_network::FaultySimNetwork, $($test)+);
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
