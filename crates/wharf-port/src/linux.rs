//! System calls that both Linux back ends use: the wake-up, socket queries, the classes of errors.

use crate::port::completion::EndReason;
use crate::port::error::OsError;
use crate::port::wake::Wake;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::addr::SocketAddrStorage;
use rustix::net::{RecvFlags, SocketAddrAny};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

/// Ends a wait through an eventfd that the back end polls edge-triggered.
///
/// Its count is never read: each write is an edge, and the count overflows only after 2⁶⁴ writes.
#[derive(Debug)]
pub(crate) struct EventFd {
    /// `None` when the port is gone, of which posters may remain. The lock costs little beside the
    /// system call of a wake-up.
    fd: RwLock<Option<OwnedFd>>,
}

impl EventFd {
    pub(crate) fn new() -> Result<Self, OsError> {
        match eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK) {
            Ok(fd) => Ok(Self { fd: RwLock::new(Some(fd)) }),
            Err(errno) => Err(OsError::new("eventfd", errno.raw_os_error())),
        }
    }
}

impl EventFd {
    /// Calls `act` with the descriptor; `None` if it is closed.
    pub(crate) fn with_fd<R>(&self, act: impl FnOnce(BorrowedFd<'_>) -> R) -> Option<R> {
        let fd = self.fd.read().unwrap_or_else(PoisonError::into_inner);
        fd.as_ref().map(|fd| act(fd.as_fd()))
    }
}

impl Wake for EventFd {
    fn wake(&self) {
        // EAGAIN means that the count is at its maximum; then an edge is pending.
        let _full_counter = self.with_fd(|fd| rustix::io::write(fd, &1_u64.to_ne_bytes()));
    }

    fn close(&self) {
        self.fd.write().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Waits until one of the descriptors is readable, or `timeout` has passed; may return early.
pub(crate) fn wait_readable<'a>(
    fds: impl Iterator<Item = &'a OwnedFd>,
    timeout: Option<Duration>,
) -> Result<(), OsError> {
    let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    match rustix::event::poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(OsError::new("poll", errno.raw_os_error())),
    }
}

/// A second descriptor of the same file.
pub(crate) fn duplicate(fd: &impl AsFd) -> Result<OwnedFd, OsError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0)
        .map_err(|errno| OsError::new("fcntl", errno.raw_os_error()))
}

/// Checks that a socket listens. On others accept(2) fails with an error that it also returns for
/// single connections (EOPNOTSUPP), so that it would be repeated.
pub(crate) fn check_listening(listener: &TcpListener) -> Result<(), OsError> {
    match rustix::net::sockopt::socket_acceptconn(listener) {
        Ok(true) => Ok(()),
        // The error of accept(2) on such a socket.
        Ok(false) => Err(OsError::new("accept", libc::EINVAL)),
        Err(errno) => Err(OsError::new("getsockopt", errno.raw_os_error())),
    }
}

/// Whether an error of accept concerns only the connection that was to be accepted, so that the
/// next one may be tried at once (accept(2), "Error handling"), as often as `ACCEPT_ABORTS_MAX` says.
pub(crate) fn is_connection_error(code: i32) -> bool {
    [
        libc::ECONNABORTED,
        libc::EPROTO,
        libc::ENETDOWN,
        libc::ENOPROTOOPT,
        libc::EHOSTDOWN,
        libc::ENONET,
        libc::EHOSTUNREACH,
        libc::EOPNOTSUPP,
        libc::ENETUNREACH,
        libc::EPERM,
        libc::EINTR,
    ]
    .contains(&code)
}

/// Makes the close of the socket abortive (RST; socket(7), SO_LINGER).
pub(crate) fn reset_on_close(fd: &OwnedFd) {
    // Fails only if `fd` is not an open socket.
    let _is_a_socket = rustix::net::sockopt::set_socket_linger(fd, Some(Duration::ZERO));
    // Resets the connection at once (connect(2), AF_UNSPEC): while another process holds the socket,
    // such as a forked child, the close would not. Fails if the peer has reset it.
    let _is_connected = rustix::net::connect_unspec(fd);
}

/// The peer's address of a connection that was just accepted, also if the peer has reset it; `None`
/// if it has no IP address.
pub(crate) fn peer_of(stream: &TcpStream) -> Option<SocketAddr> {
    stream.peer_addr().ok().or_else(|| {
        // getpeername fails on a socket that was reset (ENOTCONN). SO_PEERNAME gives what accept(2)
        // would have returned; it fails (EINVAL) if the address is shorter than asked for.
        [size_of::<libc::sockaddr_in6>(), size_of::<libc::sockaddr_in>()]
            .into_iter()
            .find_map(|len| peer_name(stream, len))
    })
}

/// SO_PEERNAME, if the address has `len` bytes and is an IP address.
fn peer_name(stream: &TcpStream, len: usize) -> Option<SocketAddr> {
    let mut address = MaybeUninit::<SocketAddrStorage>::uninit();
    let mut size = libc::socklen_t::try_from(len).ok()?;
    // SAFETY: the descriptor is open; the kernel writes `size` bytes to `address` at most, which is
    // larger than either of the two addresses (getsockopt(2)).
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERNAME,
            address.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    // SAFETY: on success the kernel has written an address, or its first `size` bytes.
    let address = (result == 0).then(|| unsafe { SocketAddrAny::new(address, size) })?;
    address.try_into().ok()
}

/// What [`peek`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peek {
    /// At least one byte can be received.
    Bytes,
    /// No byte can be received yet.
    Nothing,
    /// The end of the stream, or an error.
    Ended(EndReason),
}

/// Says whether there are bytes to receive, and receives none.
///
/// It receives one byte with MSG_PEEK, because that call distinguishes all three results. FIONREAD
/// gives 0 for an end, an error and an idle link; poll(2) sets POLLRDHUP also while bytes precede
/// the end, and does not say which error it is.
pub(crate) fn peek(fd: &OwnedFd) -> Peek {
    let mut byte = [0_u8];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match retry_on_intr(|| rustix::net::recv(fd, &mut byte[..], flags)) {
        Ok((0, _)) => Peek::Ended(EndReason::PeerClosed),
        Ok(_) => Peek::Bytes,
        Err(Errno::AGAIN) => Peek::Nothing,
        Err(errno) => Peek::Ended(EndReason::Failed(OsError::new("recv", errno.raw_os_error()))),
    }
}

/// The local address of a connection.
pub(crate) fn local_address(fd: &OwnedFd) -> Option<SocketAddr> {
    rustix::net::getsockname(fd).ok()?.try_into().ok()
}

/// Bytes that the peer's system has acknowledged; `None` before Linux 4.1.
pub(crate) fn acknowledged_bytes(fd: &OwnedFd) -> Option<u64> {
    // `tcpi_bytes_acked` of struct tcp_info (linux/tcp.h), since Linux 4.1. Older kernels write a
    // shorter struct and set `size` to its length.
    const AT: usize = 120;
    const SIZE: libc::socklen_t = 128;
    let mut info = [0_u8; SIZE as usize];
    let mut size = SIZE;
    // SAFETY: the descriptor is open; the kernel writes `size` bytes to `info` at most, which has
    // as many, and then the count to `size` (getsockopt(2)).
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if result != 0 || size < SIZE {
        return None;
    }
    Some(u64::from_ne_bytes(info[AT..].try_into().ok()?))
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_has_reset_is_named_on_ipv4_and_ipv6() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let listener = match TcpListener::bind(local) {
                Ok(listener) => listener,
                Err(error) => {
                    crate::conformance::network::lacks(&format!("bind {local}: {error}"));
                    continue;
                }
            };
            let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let address = peer.local_addr().unwrap();
            rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
            drop(peer);
            let (stream, _) = listener.accept().unwrap();
            assert!(stream.peer_addr().is_err(), "the reset has arrived");
            assert_eq!(peer_of(&stream), Some(address));
        }
    }
}
