//! Test networks of real sockets over loopback.

use super::network::{Peer, PeerRead, Setup, TestNetwork, WaitLimit};
use crate::memory::pool::BufferPool;
use crate::port::contract::{Port, PortConfig};
use crate::port::error::PortError;
use crate::port::operation::{Key, Socket};
use socket2::{Domain, Type};
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
pub(super) type EpollNetwork = RealNetwork<Epoll>;
#[cfg(target_os = "linux")]
pub(super) type UringNetwork = RealNetwork<Uring>;
#[cfg(windows)]
pub(super) type IocpNetwork = RealNetwork<Iocp>;

/// A back end on real sockets.
pub(super) trait BackEnd {
    type Port: Port<Packet = u64, Stream = TcpStream, Listener = TcpListener>;

    fn port(config: PortConfig, pool: BufferPool) -> Result<Self::Port, PortError>;

    /// Whether this error means that the machine does not support the back end.
    fn is_missing(error: &PortError) -> bool;

    /// See [`TestNetwork::RECEIVES_AHEAD`].
    const RECEIVES_AHEAD: bool = false;
}

#[cfg(target_os = "linux")]
pub(super) enum Epoll {}

#[cfg(target_os = "linux")]
impl BackEnd for Epoll {
    type Port = crate::epoll::EpollPort<u64>;

    fn port(config: PortConfig, pool: BufferPool) -> Result<Self::Port, PortError> {
        Self::Port::new(config, pool)
    }

    fn is_missing(_error: &PortError) -> bool {
        false
    }
}

#[cfg(target_os = "linux")]
pub(super) enum Uring {}

#[cfg(target_os = "linux")]
impl BackEnd for Uring {
    type Port = crate::uring::UringPort<u64>;

    const RECEIVES_AHEAD: bool = true;

    fn port(config: PortConfig, pool: BufferPool) -> Result<Self::Port, PortError> {
        Self::Port::new(config, pool)
    }

    /// Kernels without io_uring, and containers that forbid it (io_uring_setup(2)).
    fn is_missing(error: &PortError) -> bool {
        let os = error.os();
        os.call() == "io_uring_setup" && [libc::ENOSYS, libc::EPERM].contains(&os.code())
    }
}

#[cfg(windows)]
pub(super) enum Iocp {}

#[cfg(windows)]
impl BackEnd for Iocp {
    type Port = crate::iocp::IocpPort<u64>;

    fn port(config: PortConfig, pool: BufferPool) -> Result<Self::Port, PortError> {
        Self::Port::new(config, pool)
    }

    fn is_missing(_error: &PortError) -> bool {
        false
    }
}

pub(super) struct RealNetwork<B: BackEnd> {
    port: B::Port,
    address: Option<SocketAddr>,
    narrow: bool,
    back_end: PhantomData<B>,
}

impl<B: BackEnd> TestNetwork for RealNetwork<B> {
    type Port = B::Port;
    type Peer = TcpPeer;
    type WaitLimit = Deadline;

    const RECEIVES_AHEAD: bool = B::RECEIVES_AHEAD;
    const HANDS_OVER_RESET_CONNECTIONS: bool = cfg!(not(windows));

    fn unavailable() -> Option<String> {
        let setup = Setup::small();
        match B::port(setup.port, BufferPool::new(setup.pool).unwrap()) {
            Ok(_port) => None,
            Err(error) if B::is_missing(&error) => Some(error.to_string()),
            Err(error) => panic!("the back end is there, but a small port cannot be made: {error}"),
        }
    }

    fn new(setup: Setup) -> Self {
        let port = B::port(setup.port, BufferPool::new(setup.pool).unwrap()).unwrap();
        Self { port, address: None, narrow: setup.narrow, back_end: PhantomData }
    }

    fn port(&mut self) -> &mut B::Port {
        &mut self.port
    }

    fn listen(&mut self, key: Key) -> Socket {
        let listener = socket(self.narrow);
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(BACKLOG).unwrap();
        let listener = TcpListener::from(listener);
        self.address = Some(listener.local_addr().unwrap());
        self.port.associate_listener(listener, key).unwrap()
    }

    fn connect(&mut self) -> TcpPeer {
        let socket = socket(self.narrow);
        socket.set_nonblocking(true).unwrap();
        let address = self.address.expect("listen comes first");
        if let Err(error) = socket.connect(&address.into()) {
            assert_eq!(error.raw_os_error(), Some(CONNECTING), "connect: {error}");
        }
        TcpPeer { stream: socket.into() }
    }

    fn wait_limit() -> Deadline {
        Deadline { start: now() }
    }
}

/// A socket, with small socket buffers if `narrow`. Accepted connections inherit the listener's.
fn socket(narrow: bool) -> socket2::Socket {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // Without TCP_NODELAY the tests wait for delayed acknowledgements.
    socket.set_tcp_nodelay(true).unwrap();
    if narrow {
        socket.set_recv_buffer_size(NARROW_BYTES).unwrap();
        socket.set_send_buffer_size(NARROW_BYTES).unwrap();
    }
    socket
}

pub(super) struct TcpPeer {
    stream: TcpStream,
}

impl Peer for TcpPeer {
    fn try_write(&mut self, bytes: &[u8]) -> usize {
        self.stream.write(bytes).unwrap_or(0)
    }

    fn try_read(&mut self, bytes: &mut Vec<u8>, len_max: usize) -> PeerRead {
        let before = bytes.len();
        bytes.resize(before + len_max, 0);
        let result = self.stream.read(&mut bytes[before..]);
        bytes.truncate(before + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) => PeerRead::Eof,
            Ok(len) => PeerRead::Bytes(len),
            Err(error) if NOT_YET.contains(&error.kind()) => PeerRead::WouldBlock,
            Err(_) => PeerRead::Reset,
        }
    }

    fn shutdown_write(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    fn reset(self) {
        // SO_LINGER with 0 seconds: close sends RST (tcp(7), socket(7)).
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    fn connected_to(&self) -> Option<SocketAddr> {
        Some(self.stream.peer_addr().unwrap())
    }
}

/// A limit in real time, because the port's clock ends with the port.
pub(super) struct Deadline {
    start: Instant,
}

impl WaitLimit for Deadline {
    fn is_over(&mut self) -> bool {
        self.start.elapsed() > DEADLINE
    }
}

#[expect(clippy::disallowed_methods, reason = "a wait that does not end must fail")]
fn now() -> Instant {
    Instant::now()
}

/// The error of a nonblocking connect: EINPROGRESS (connect(2)).
#[cfg(target_os = "linux")]
const CONNECTING: i32 = libc::EINPROGRESS;
/// WSAEWOULDBLOCK (connect page).
#[cfg(windows)]
const CONNECTING: i32 = 10035;

/// Long enough for a busy machine; a passing test does not reach it.
#[cfg(not(windows))]
const DEADLINE: Duration = Duration::from_secs(10);
/// Longer, because under Wine a system call is a request to its server.
#[cfg(windows)]
const DEADLINE: Duration = Duration::from_secs(60);

/// The listener's backlog: more connections than any test opens at once.
const BACKLOG: i32 = 1024;

/// The kernel doubles it. With much smaller ones every exchange waits for TCP window updates.
const NARROW_BYTES: usize = 8 * 1024;

/// Errors of a read that are not an end, also of a connection that is not established yet.
const NOT_YET: [io::ErrorKind; 3] =
    [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted, io::ErrorKind::NotConnected];
