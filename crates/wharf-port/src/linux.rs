//! What both Linux back ends need of the system: a wake-up, and the sorting of errors.

pub(crate) use crate::port::Clock;
use crate::port::{OsError, Wake};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io;
use std::net::{SocketAddr, TcpStream};

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

/// The other end of a connection that was just accepted; an error if it is gone already.
pub(crate) fn peer_of(stream: &TcpStream) -> io::Result<SocketAddr> {
    stream.peer_addr()
}
