//! Shared ports on real sockets, for tests with threads of the system.

use crate::epoll::EpollPort;
use crate::memory::pool::{BufferPool, PoolConfig};
use crate::port::clock::Clock;
use crate::port::contract::{PortConfig, Time};
use crate::port::error::PortError;
use crate::port::seat::MovablePort;
use crate::shared_port::member::{Member, Shared};
use crate::shared_port::seat::{Command, CommandPort};
use crate::uring::UringPort;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

pub(super) type SharedOf<B> = Shared<u64, <B as Back>::Port>;
pub(super) type MemberOf<B> = Member<u64, <B as Back>::Port>;
type Packet = Command<u64, TcpStream, TcpListener>;

/// A back end whose ports move between threads.
pub(super) trait Back: 'static {
    type Port: CommandPort<u64, Stream = TcpStream, Listener = TcpListener> + MovablePort;

    fn port(config: PortConfig, pool: BufferPool) -> Result<Self::Port, PortError>;
}

pub(super) enum Epoll {}

impl Back for Epoll {
    type Port = EpollPort<Packet>;

    fn port(config: PortConfig, pool: BufferPool) -> Result<Self::Port, PortError> {
        EpollPort::new(config, pool)
    }
}

pub(super) enum Uring {}

impl Back for Uring {
    type Port = UringPort<Packet>;

    fn port(config: PortConfig, pool: BufferPool) -> Result<Self::Port, PortError> {
        UringPort::movable(config, pool)
    }
}

/// A shared port for 300 sockets in each of `seats` seats, with 256 buffers of 512 bytes.
pub(super) fn shared<B: Back>(seats: u32) -> Arc<SharedOf<B>> {
    shared_for::<B>(seats, 300)
}

/// As [`shared`], for so many sockets in each seat.
pub(super) fn shared_for<B: Back>(seats: u32, sockets_max: u32) -> Arc<SharedOf<B>> {
    let config = PortConfig { receive_buffers_max: 64, ..PortConfig::new(sockets_max) };
    let port = |_| {
        let pool = PoolConfig { buffer_size_bytes: 512, ..PoolConfig::new(256) };
        B::port(config, BufferPool::new(pool).unwrap()).unwrap()
    };
    Arc::new(Shared::of_threads((0..seats).map(port).collect(), config.sockets_max).unwrap())
}

pub(super) fn member<B: Back>(shared: &Arc<SharedOf<B>>) -> MemberOf<B> {
    Member::new(Arc::clone(shared))
}

/// Closes the shared port at the end of a test's scope, so that its threads end also if it fails.
pub(super) struct CloseAtEnd<'s, B: Back>(pub(super) &'s SharedOf<B>);

impl<B: Back> Drop for CloseAtEnd<'_, B> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Waits until `is_true`, which must become true.
pub(super) fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let clock = Clock::new();
    while !is_true() {
        assert!(clock.now().duration_since(Time(0)) < WAIT_MAX, "{what} did not happen");
        std::thread::yield_now();
    }
}

/// How long a test waits for what must happen.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);

/// Instantiates each named test for each back end.
macro_rules! on_threads {
    ($($test:ident),+ $(,)?) => {
        mod epoll {
            $(#[test] fn $test() { super::$test::<super::super::threads::Epoll>(); })+
        }
        mod uring {
            $(
                #[test]
                fn $test() {
                    match crate::uring::probe() {
                        Ok(()) => super::$test::<super::super::threads::Uring>(),
                        Err(error) => crate::conformance::network::lacks(&error.to_string()),
                    }
                }
            )+
        }
    };
}

pub(super) use on_threads;
