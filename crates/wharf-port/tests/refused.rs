//! Promise: what `associate` and `associate_listener` refuse is returned unchanged, and a listener
//! that does not listen is refused.
//!
//! Method: the sockets' file status flags before and after, on both back ends of Linux.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod util;

use socket2::{Domain, Socket, Type};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use wharf_port::epoll::EpollPort;
use wharf_port::memory::{BufferPool, PoolConfig};
use wharf_port::port::{AssociateError, Key, Port, PortConfig};
use wharf_port::uring::UringPort;

fn port_with_one_slot<P>(make: fn(PortConfig, BufferPool) -> P) -> P {
    make(PortConfig::new(1), BufferPool::new(PoolConfig::new(8)).unwrap())
}

fn epoll(config: PortConfig, pool: BufferPool) -> EpollPort<u64> {
    EpollPort::new(config, pool).unwrap()
}

fn uring(config: PortConfig, pool: BufferPool) -> UringPort<u64> {
    UringPort::new(config, pool).unwrap()
}

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, peer)
}

fn assert_blocking(what: &str, socket: impl Into<OwnedFd>) {
    assert!(!Socket::from(socket.into()).nonblocking().unwrap(), "{what} was made nonblocking");
}

fn gives_back_as_it_was<P>(make: fn(PortConfig, BufferPool) -> P)
where
    P: Port<Packet = u64, Stream = TcpStream, Listener = TcpListener>,
{
    let mut port = port_with_one_slot(make);
    let (stream, _peer) = connected();
    port.associate(stream, Key(1)).unwrap();
    let (stream, _peer) = connected();
    let refused: AssociateError<_> = port.associate(stream, Key(2)).unwrap_err();
    assert_blocking("a stream", refused.socket);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = port.associate_listener(listener, Key(2)).unwrap_err();
    assert_blocking("a listener", refused.socket);
}

#[test]
fn what_a_full_table_refuses_is_unchanged() {
    gives_back_as_it_was(epoll);
    if util::has_uring() {
        gives_back_as_it_was(uring);
    }
}

#[test]
fn what_epoll_does_not_watch_is_unchanged() {
    let mut port = port_with_one_slot(epoll);
    let file = || OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap());
    let refused = port.associate(TcpStream::from(file()), Key(1)).unwrap_err();
    assert_eq!(refused.error.unwrap().call(), "epoll_ctl");
    assert_blocking("a stream", refused.socket);
    let refused = port.associate_listener(TcpListener::from(file()), Key(1)).unwrap_err();
    assert!(refused.error.is_some());
    assert_blocking("a listener", refused.socket);
    let (stream, _peer) = connected();
    port.associate(stream, Key(1)).unwrap();
}

fn refuses_what_does_not_listen<P>(make: fn(PortConfig, BufferPool) -> P)
where
    P: Port<Packet = u64, Stream = TcpStream, Listener = TcpListener>,
{
    let mut port = port_with_one_slot(make);
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let datagrams = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    let (stream, _peer) = connected();
    for (what, socket) in [
        ("a socket that was not told to listen", OwnedFd::from(bound)),
        ("a datagram socket", OwnedFd::from(datagrams)),
        ("a connection", OwnedFd::from(stream)),
    ] {
        let refused = port.associate_listener(TcpListener::from(socket), Key(1));
        let refused = refused.unwrap_err();
        assert_eq!(refused.error.unwrap().to_string(), "accept: Invalid argument (os error 22)");
        assert_blocking(what, refused.socket);
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    port.associate_listener(listener, Key(1)).unwrap();
}

#[test]
fn a_listener_that_does_not_listen_is_refused() {
    refuses_what_does_not_listen(epoll);
    if util::has_uring() {
        refuses_what_does_not_listen(uring);
    }
}
