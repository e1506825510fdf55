//! The system calls that move bytes and connections. None of them blocks.

use crate::linux;
use crate::memory::{Buffer, Chain};
use crate::port::OsError;
use rustix::fd::OwnedFd;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{self, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags};
use std::io::IoSlice;
use std::net::{SocketAddr, TcpStream};

/// How far a send came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendProgress {
    /// The system has all bytes.
    Complete,
    /// The socket has no room left; it will report when it has.
    WouldBlock,
    /// The socket may have room, but others shall have their turn.
    Yielded,
    Failed(Errno),
}

/// What a listening socket gave.
#[derive(Debug)]
pub(super) enum Accept {
    Connection(TcpStream, SocketAddr),
    /// Nothing is waiting; the socket will report when something is.
    Empty,
    /// One connection was lost before it was accepted; others may be waiting.
    Aborted,
    Failed(OsError),
}

/// Receives at most `len_max` bytes, which fit the buffer; 0 is the end of the stream.
pub(super) fn recv(fd: &OwnedFd, buffer: &mut Buffer, len_max: u32) -> Result<u32, Errno> {
    let size = len_max.min(buffer.capacity()) as usize;
    // SAFETY: `bytes` is the start of the buffer's slot, which is as long as `size` or longer and
    // initialised, and stays mapped while the handle lives (INV-POOL-3). `buffer` was just acquired, so it is the
    // only handle (INV-POOL-1) and nobody else reads or writes the slot (INV-POOL-2). The slice
    // ends with this function, and the kernel writes only during the call (recv(2)), so
    // INV-PORT-2 needs nothing else.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.bytes().as_ptr(), size) };
    let (len, _) = retry_on_intr(|| net::recv(fd, &mut *bytes, RecvFlags::empty()))?;
    #[expect(clippy::cast_possible_truncation, reason = "at most the capacity, which is a u32")]
    let len = len as u32;
    buffer.set_len(len);
    Ok(len)
}

/// Sends the bytes of `chain` behind the first `sent`, and raises `sent` by what was taken.
pub(super) fn send(fd: &OwnedFd, chain: &Chain, sent: &mut usize) -> SendProgress {
    let front = chain.front();
    if front.len() == chain.len() {
        let bytes = &front[*sent..];
        let result = retry_on_intr(|| net::send(fd, bytes, SendFlags::NOSIGNAL));
        return send_progress(result, bytes.len(), chain, sent);
    }
    let mut rest = slices_behind(chain, *sent);
    for _ in 0..CALLS_MAX {
        let (size, result) = send_batch(fd, &mut rest);
        let progress = send_progress(result, size, chain, sent);
        if progress != SendProgress::Yielded {
            return progress;
        }
    }
    SendProgress::Yielded
}

/// What came of a call that tried to send `size` bytes; raises `sent` by what was taken.
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
                // The system took less because the socket is full, and so it has noted that we
                // want to hear when it is not: as with EAGAIN, without the call to be told so.
                SendProgress::WouldBlock
            } else {
                SendProgress::Yielded
            }
        }
        Err(Errno::AGAIN) => SendProgress::WouldBlock,
        Err(errno) => SendProgress::Failed(errno),
    }
}

/// Sends as many slices as fit in one call; says how many bytes they had, and what came of it.
///
/// `MSG_NOSIGNAL`: a peer that is gone is an error of this link and no signal to the process.
fn send_batch<'a>(
    fd: &OwnedFd,
    slices: &mut impl Iterator<Item = &'a [u8]>,
) -> (usize, Result<usize, Errno>) {
    let mut batch = [IoSlice::new(&[]); SLICES_MAX];
    let (mut count, mut size) = (0, 0);
    for (place, slice) in batch.iter_mut().zip(slices) {
        *place = IoSlice::new(slice);
        count += 1;
        size += slice.len();
    }
    let mut nothing = SendAncillaryBuffer::default();
    let sent =
        retry_on_intr(|| net::sendmsg(fd, &batch[..count], &mut nothing, SendFlags::NOSIGNAL));
    (size, sent)
}

fn slices_behind(chain: &Chain, sent: usize) -> impl Iterator<Item = &[u8]> {
    let mut skip = sent;
    chain.slices().filter_map(move |slice| {
        let skipped = skip.min(slice.len());
        skip -= skipped;
        (skipped < slice.len()).then(|| &slice[skipped..])
    })
}

/// Takes one connection from a listening socket, as a blocking socket, which is what std gives.
pub(super) fn accept(listener: &OwnedFd) -> Accept {
    match retry_on_intr(|| net::acceptfrom_with(listener, SocketFlags::CLOEXEC)) {
        Ok((fd, address)) => {
            let stream = TcpStream::from(fd);
            let peer = address.and_then(|address| SocketAddr::try_from(address).ok());
            match peer.map_or_else(|| linux::peer_of(&stream), Ok) {
                Ok(peer) => Accept::Connection(stream, peer),
                Err(_gone) => Accept::Aborted,
            }
        }
        Err(Errno::AGAIN) => Accept::Empty,
        Err(errno) if linux::is_connection_error(errno.raw_os_error()) => Accept::Aborted,
        Err(errno) => Accept::Failed(error("accept4", errno)),
    }
}

pub(super) fn error(call: &'static str, errno: Errno) -> OsError {
    OsError::new(call, errno.raw_os_error())
}

/// Slices that one call sends: 128 KiB in buffers of 2,048 bytes, past which a call is no longer
/// what costs.
const SLICES_MAX: usize = 64;

/// Calls for one send in a row, so that a peer which reads as fast as we send does not keep the
/// port to itself.
const CALLS_MAX: u32 = 16;
