//! The system calls that receive, send and accept. None blocks.

use crate::linux;
use crate::memory::buffer::Buffer;
use crate::memory::chain::Chain;
use crate::port::error::OsError;
use rustix::fd::OwnedFd;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{self, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags};
use std::io::IoSlice;
use std::net::{SocketAddr, TcpStream};

/// The progress of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendProgress {
    /// The system has taken all bytes.
    Complete,
    /// The socket buffer is full; epoll will report EPOLLOUT.
    WouldBlock,
    /// [`CALLS_MAX`] calls were made; the socket may take more.
    Yielded,
    Failed(Errno),
}

/// The result of an accept.
#[derive(Debug)]
pub(super) enum Accept {
    Connection(TcpStream, SocketAddr),
    /// The backlog is empty; epoll will report the next connection.
    Empty,
    /// A connection ended before it was accepted; others may be in the backlog.
    Aborted(OsError),
    Failed(OsError),
}

/// Receives at most `len_max` bytes, which fit the buffer; 0 is the end of the stream.
pub(super) fn recv(fd: &OwnedFd, buffer: &mut Buffer, len_max: u32) -> Result<u32, Errno> {
    let size = len_max.min(buffer.capacity()) as usize;
    // SAFETY: `bytes` is the start of the buffer's slot, which has at least `size` bytes, is
    // initialised, and stays mapped while the handle exists (INV-POOL-3). `buffer` is the only
    // handle (INV-POOL-1), borrowed uniquely, so no other code reads or writes the slot
    // (INV-POOL-2). The slice ends with this function, and the kernel writes only during the call
    // (recv(2)), which fulfils INV-PORT-2.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.bytes().as_ptr(), size) };
    let (len, _) = retry_on_intr(|| net::recv(fd, &mut *bytes, RecvFlags::empty()))?;
    #[expect(clippy::cast_possible_truncation, reason = "at most the capacity, which is a u32")]
    let len = len as u32;
    buffer.set_len(len);
    Ok(len)
}

/// Sends the bytes of `chain` after the first `sent`, and adds the bytes that the system took to
/// `sent`.
pub(super) fn send(fd: &OwnedFd, chain: &Chain, sent: &mut usize) -> SendProgress {
    let front = chain.front();
    if front.len() == chain.len() {
        let bytes = &front[*sent..];
        let result = retry_on_intr(|| net::send(fd, bytes, SendFlags::NOSIGNAL));
        return send_progress(result, bytes.len(), chain, sent);
    }
    let mut rest = chain.slices_from(*sent);
    for _ in 0..CALLS_MAX {
        let (size, result) = send_batch(fd, &mut rest);
        let progress = send_progress(result, size, chain, sent);
        if progress != SendProgress::Yielded {
            return progress;
        }
    }
    SendProgress::Yielded
}

/// The progress after a call that tried to send `size` bytes; adds the bytes sent to `sent`.
fn send_progress(
    result: Result<usize, Errno>,
    size: usize,
    chain: &Chain,
    sent: &mut usize,
) -> SendProgress {
    match result {
        Ok(len) => {
            *sent += len;
            if *sent == chain.len() {
                SendProgress::Complete
            } else if len < size {
                // A partial send means a full socket buffer; the kernel will report EPOLLOUT, as
                // after EAGAIN. No second call is needed.
                SendProgress::WouldBlock
            } else {
                SendProgress::Yielded
            }
        }
        Err(Errno::AGAIN) => SendProgress::WouldBlock,
        Err(errno) => SendProgress::Failed(errno),
    }
}

/// Sends up to [`SLICES_MAX`] slices in one call; returns the bytes that they had, and the result.
///
/// `MSG_NOSIGNAL`: after the peer has closed, EPIPE and no SIGPIPE.
fn send_batch<'a>(
    fd: &OwnedFd,
    slices: &mut impl Iterator<Item = &'a [u8]>,
) -> (usize, Result<usize, Errno>) {
    let mut batch = [IoSlice::new(&[]); SLICES_MAX];
    let (mut count, mut size) = (0, 0);
    for (entry, slice) in batch.iter_mut().zip(slices) {
        *entry = IoSlice::new(slice);
        count += 1;
        size += slice.len();
    }
    let mut nothing = SendAncillaryBuffer::default();
    let sent =
        retry_on_intr(|| net::sendmsg(fd, &batch[..count], &mut nothing, SendFlags::NOSIGNAL));
    (size, sent)
}

/// Accepts one connection, as a blocking socket, as std does.
pub(super) fn accept(listener: &OwnedFd) -> Accept {
    match retry_on_intr(|| net::acceptfrom_with(listener, SocketFlags::CLOEXEC)) {
        Ok((fd, address)) => {
            let stream = TcpStream::from(fd);
            let peer = address.and_then(|address| SocketAddr::try_from(address).ok());
            match peer.or_else(|| linux::peer_of(&stream)) {
                Some(peer) => Accept::Connection(stream, peer),
                None => Accept::Aborted(error("accept4", Errno::CONNABORTED)),
            }
        }
        Err(Errno::AGAIN) => Accept::Empty,
        Err(errno) if linux::is_connection_error(errno.raw_os_error()) => {
            Accept::Aborted(error("accept4", errno))
        }
        Err(errno) => Accept::Failed(error("accept4", errno)),
    }
}

pub(super) fn error(call: &'static str, errno: Errno) -> OsError {
    OsError::new(call, errno.raw_os_error())
}

/// Slices of one call: 128 KiB in buffers of 2,048 bytes, whose copy costs more than the call.
const SLICES_MAX: usize = 64;

/// Calls for one send in a row; after these other sockets are processed, also if the peer reads as
/// fast as the port sends.
const CALLS_MAX: u32 = 16;
