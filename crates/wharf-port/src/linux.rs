//! What both Linux back ends need of the system: a wake-up, and the sorting of errors.

pub(crate) use crate::port::Clock;
use crate::port::{End, OsError, Wake};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::RecvFlags;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Ends a wait through an eventfd that the back end watches edge-triggered.
///
/// Its count is never read back: each write is an edge of its own, and 2⁶⁴ of them do not happen.
#[derive(Debug)]
pub(crate) struct EventFd {
    fd: OwnedFd,
}

impl EventFd {
    pub(crate) fn new() -> Result<Self, OsError> {
        match eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK) {
            Ok(fd) => Ok(Self { fd }),
            Err(errno) => Err(OsError::new("eventfd", errno.raw_os_error())),
        }
    }
}

impl Wake for EventFd {
    fn wake(&self) {
        // EAGAIN would mean a full counter, and then the edge is there already.
        let _full_counter = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether an error of accept concerns only the connection that was to be accepted, so that the
/// next one may be tried at once (accept(2), "Error handling").
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

/// Makes closing the socket a reset (socket(7), SO_LINGER).
pub(crate) fn reset_on_close(fd: &OwnedFd) {
    // Refused only for what is no socket, or is gone: then there is nobody to tell.
    let _nobody_to_tell = rustix::net::sockopt::set_socket_linger(fd, Some(Duration::ZERO));
}

/// The other end of a connection that was just accepted; an error if it is gone already.
pub(crate) fn peer_of(stream: &TcpStream) -> io::Result<SocketAddr> {
    stream.peer_addr()
}

/// What a look at a socket found that took nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peek {
    /// Bytes are there.
    Bytes,
    /// Nothing is there yet.
    Nothing,
    /// Nothing will come: the end of the stream, or an error.
    Ended(End),
}

/// Looks whether there is something to receive, and takes nothing.
///
/// By a receive of one byte with MSG_PEEK, because one call tells all three answers apart.
/// FIONREAD gives 0 for an end, an error and an idle link alike; the flags of poll(2) are set when
/// bytes stand before an end, and do not say which error it is.
pub(crate) fn peek(fd: &OwnedFd) -> Peek {
    let mut byte = [0_u8];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match retry_on_intr(|| rustix::net::recv(fd, &mut byte[..], flags)) {
        Ok((0, _)) => Peek::Ended(End::PeerClosed),
        Ok(_) => Peek::Bytes,
        Err(Errno::AGAIN) => Peek::Nothing,
        Err(errno) => Peek::Ended(End::Failed(OsError::new("recv", errno.raw_os_error()))),
    }
}

/// The address of this end of a connection.
pub(crate) fn local_address(fd: &OwnedFd) -> Option<SocketAddr> {
    rustix::net::getsockname(fd).ok()?.try_into().ok()
}

/// Bytes that the peer's system has acknowledged; `None` if this system does not tell.
pub(crate) fn acknowledged_bytes(fd: &OwnedFd) -> Option<u64> {
    // `tcpi_bytes_acked` of struct tcp_info (linux/tcp.h), there since Linux 4.1. Older kernels
    // give a shorter struct, and say so.
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
