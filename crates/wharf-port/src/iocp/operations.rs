//! The memory that the kernel accesses while an operation is in flight, and the calls that start
//! one.
//!
//! ```text
//!   blocks     | slot 0: receive, send | slot 1: receive, send | ... | accept 0 | accept 1 | ...
//!              each begins with its OVERLAPPED, so the kernel's pointer identifies the block
//!   chains     | slot 0 | slot 1 | ...              the bytes of a send
//!   addresses  | accept 0 | accept 1 | ...          AcceptEx writes the local and the peer's address
//!   accepted   | accept 0 | accept 1 | ...          the sockets for AcceptEx
//! ```
//!
//! # Invariants
//!
//! - **INV-IOCP-1** Blocks and addresses are allocated once, never move, and only the kernel
//!   accesses them while they are in flight. They are freed with the [`OperationTable`], unless one
//!   is in flight then; in that case they are leaked.
//! - **INV-IOCP-2** A block is in flight from a call that returned "pending" (or success, where the
//!   completion port gets a packet for that, too) until its packet is
//!   [taken](OperationTable::take_completed); there is exactly one packet for each such call.
//! - **INV-IOCP-3** The chain of a send in flight is neither changed nor dropped.

use super::socket::{AcceptCalls, OverlappedSocket, link_error, raw_socket, size_u32};
use super::wake::last_error;
use crate::memory::chain::Chain;
use crate::memory::error::MemoryError;
use crate::memory::ledger::Owner;
use crate::memory::table::try_table;
use crate::port::error::OsError;
use crate::port::operation::Socket;
use std::iter::repeat_n;
use std::mem::ManuallyDrop;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream};
use std::ptr::NonNull;
use windows_sys::Win32::Foundation::{ERROR_IO_PENDING, HANDLE};
use windows_sys::Win32::Networking::WinSock::{
    AF_INET, AF_INET6, SOCKADDR, SOCKADDR_IN, SOCKADDR_IN6, SOCKADDR_STORAGE, WSABUF,
    WSAGetOverlappedResult, WSARecv, WSASend,
};
use windows_sys::Win32::System::IO::{CancelIoEx, OVERLAPPED};

/// The operations of a port; see the module's drawing.
pub(super) struct OperationTable {
    blocks: NonNull<Block>,
    addresses: NonNull<Addresses>,
    tags: Box<[Tag]>,
    chains: ManuallyDrop<Box<[Chain]>>,
    accepted: Box<[Option<TcpStream>]>,
    sockets_max: u32,
    in_flight: u32,
}

/// The memory of an operation that the kernel writes. The header is first, so that its address is
/// the block's.
#[repr(C)]
struct Block {
    header: OVERLAPPED,
    /// WSARecv's in and out flags; some systems write them when the operation completes.
    flags: u32,
}

/// Memory for the local and the remote address, each with the 16 bytes that AcceptEx requires
/// beyond the largest address.
#[repr(C, align(8))]
struct Addresses([u8; 2 * ADDRESS_SIZE_BYTES as usize]);

const ADDRESS_SIZE_BYTES: u32 = size_u32::<SOCKADDR_STORAGE>() + 16;
const _: () = assert!(std::mem::offset_of!(Block, header) == 0);

/// The port's part of an operation.
#[derive(Clone, Copy)]
struct Tag {
    socket: Socket,
    in_flight: bool,
}

/// An operation: the receive or the send of a slot, or an accept.
#[derive(Clone, Copy, Debug)]
pub(super) enum OperationId {
    Receive(u32),
    Send(u32),
    Accept(u32),
}

/// The result of a call that starts an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Started {
    /// In flight; a packet follows.
    Pending,
    /// Completed; no packet follows.
    Done,
    /// Not started; no packet follows.
    Failed(OsError),
}

/// The most buffers of one WSASend; the send of a longer chain is short.
pub(super) const GATHER_MAX: usize = 64;

impl OperationTable {
    pub(super) fn new(sockets_max: u32, accepts: u32) -> Result<Self, MemoryError> {
        let what = "the table of operations";
        let blocks = (0..2 * sockets_max + accepts).map(|_| Block::new());
        let blocks = try_table(what, blocks)?;
        let unused = Tag { socket: Socket { index: 0, generation: 0 }, in_flight: false };
        let tags = try_table(what, repeat_n(unused, blocks.len()))?;
        let address = |_| Addresses([0; 2 * ADDRESS_SIZE_BYTES as usize]);
        let addresses = try_table(what, (0..accepts).map(address))?;
        let chains = try_table(what, (0..sockets_max).map(|_| Chain::new()))?;
        let accepted = try_table(what, (0..accepts).map(|_| None))?;
        // Nothing can fail from here on, so that what is leaked is in a table.
        Ok(Self {
            blocks: leak(blocks),
            addresses: leak(addresses),
            tags,
            chains: ManuallyDrop::new(chains),
            accepted,
            sockets_max,
            in_flight: 0,
        })
    }

    /// Operations in flight, each with a packet that is not taken yet.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Starts a zero-byte receive: it completes when there are bytes, or the stream has ended.
    pub(super) fn receive(&mut self, socket: Socket, handle: &OverlappedSocket) -> Started {
        let id = OperationId::Receive(socket.index);
        let block = self.mark_started(id, socket);
        // SAFETY: the block is in the table (`mark_started`).
        let flags = unsafe { &raw mut (*block).flags };
        let nothing = WSABUF { len: 0, buf: std::ptr::null_mut() };
        // SAFETY: the socket is open and overlapped; the WSABUF is captured before the call returns
        // (WSARecv page: lpBuffers), and names no memory; flags and OVERLAPPED lie in a block that
        // exists until the packet is taken (INV-IOCP-1); the count is null, which is allowed
        // (lpNumberOfBytesRecvd).
        let result = unsafe {
            WSARecv(
                handle.raw(),
                &raw const nothing,
                1,
                std::ptr::null_mut(),
                flags,
                block.cast(),
                None,
            )
        };
        self.start_result(id, result == 0, "WSARecv", handle)
    }

    /// Starts a send of the chain's first [`GATHER_MAX`] buffers. The table keeps the chain until
    /// [`take_chain`](Self::take_chain), also when the send fails.
    pub(super) fn send(
        &mut self,
        socket: Socket,
        handle: &OverlappedSocket,
        chain: Chain,
    ) -> Started {
        let id = OperationId::Send(socket.index);
        let block = self.mark_started(id, socket);
        chain.set_owner(Owner::KernelSend);
        let mut gather = [WSABUF { len: 0, buf: std::ptr::null_mut() }; GATHER_MAX];
        let mut count = 0;
        for (to, bytes) in gather.iter_mut().zip(chain.slices()) {
            #[expect(clippy::cast_possible_truncation, reason = "a buffer has at most 1 MiB")]
            let len = bytes.len() as u32;
            *to = WSABUF { len, buf: bytes.as_ptr().cast_mut() };
            count += 1;
        }
        self.chains[socket.index as usize] = chain;
        // SAFETY: the socket is open and overlapped; the array of WSABUFs is captured before the
        // call returns (WSASend page: lpBuffers); the bytes that they name are only read, and
        // belong to a chain that exists until the packet is taken (INV-IOCP-3), as do the block and
        // its OVERLAPPED (INV-IOCP-1); the count is null, which is allowed (lpNumberOfBytesSent).
        let result = unsafe {
            WSASend(
                handle.raw(),
                gather.as_ptr(),
                count,
                std::ptr::null_mut(),
                0,
                block.cast(),
                None,
            )
        };
        self.start_result(id, result == 0, "WSASend", handle)
    }

    /// Starts an accept into `stream`, which [`take_accepted`](Self::take_accepted) returns after
    /// the accept has ended.
    pub(super) fn accept(
        &mut self,
        accept: u32,
        listener: Socket,
        (handle, calls): (&OverlappedSocket, &AcceptCalls),
        stream: TcpStream,
    ) -> Started {
        let id = OperationId::Accept(accept);
        let block = self.mark_started(id, listener);
        let addresses = self.addresses_of(accept);
        let accept_socket = raw_socket(&stream);
        self.accepted[accept as usize] = Some(stream);
        let mut received = 0;
        // SAFETY: both sockets are open, the second unbound; the addresses have twice the stated
        // length and, with the OVERLAPPED, exist until the packet is taken (INV-IOCP-1); no data is
        // requested; `received` is written only before the call returns (AcceptEx page:
        // lpOutputBuffer, lpdwBytesReceived).
        let done = unsafe {
            (calls.accept)(
                handle.raw(),
                accept_socket,
                addresses.as_ptr().cast(),
                0,
                ADDRESS_SIZE_BYTES,
                ADDRESS_SIZE_BYTES,
                &raw mut received,
                block.cast(),
            )
        };
        self.start_result(id, done != 0, "AcceptEx", handle)
    }

    /// Cancels this operation; no effect if it has completed.
    pub(super) fn cancel(&mut self, id: OperationId, handle: &OverlappedSocket) {
        let block = self.block(id);
        // SAFETY: the socket is open; the OVERLAPPED is compared with those in flight and not read
        // (CancelIoEx page: lpOverlapped), and its memory exists (INV-IOCP-1).
        let _not_found = unsafe { CancelIoEx(handle.raw() as HANDLE, block.cast()) };
    }

    /// The operation whose packet has this `overlapped`, and its socket; it is no longer in flight.
    /// `None` if no operation in flight has it.
    pub(super) fn take_completed(
        &mut self,
        overlapped: *mut OVERLAPPED,
    ) -> Option<(OperationId, Socket)> {
        let offset = overlapped.addr().checked_sub(self.blocks.addr().get())?;
        let index = offset / size_of::<Block>();
        let tag = self.tags.get_mut(index)?;
        if !offset.is_multiple_of(size_of::<Block>()) || !tag.in_flight {
            return None;
        }
        tag.in_flight = false;
        self.in_flight -= 1;
        let socket = tag.socket;
        Some((self.id_at(index), socket))
    }

    /// Bytes that an ended operation has transferred.
    pub(super) fn transferred(&self, id: OperationId) -> usize {
        assert!(!self.tags[self.index(id)].in_flight, "{id:?} is in operations");
        // SAFETY: the block is in the table, and not in flight, so the kernel does not write to it
        // (INV-IOCP-2).
        unsafe { (*self.block(id)).header.InternalHigh }
    }

    /// The error of an operation whose packet reported a failure.
    pub(super) fn error(
        &self,
        id: OperationId,
        call: &'static str,
        handle: &OverlappedSocket,
    ) -> OsError {
        assert!(!self.tags[self.index(id)].in_flight, "{id:?} is in operations");
        let (mut bytes, mut flags) = (0, 0);
        // SAFETY: the socket is open; the OVERLAPPED is that of an ended operation, so the call
        // only translates its status; the two results are local variables (WSAGetOverlappedResult
        // page).
        let result = unsafe {
            WSAGetOverlappedResult(
                handle.raw(),
                self.block(id).cast(),
                &raw mut bytes,
                0,
                &raw mut flags,
            )
        };
        // The packet reported a failure, so a success here would be a bug of the system.
        if result != 0 {
            OsError::new(call, 10053)
        } else {
            link_error(call, last_error(call).code())
        }
    }

    /// Removes the chain of an ended send.
    pub(super) fn take_chain(&mut self, slot: u32) -> Chain {
        assert!(
            !self.tags[self.index(OperationId::Send(slot))].in_flight,
            "the send is in operations"
        );
        std::mem::take(&mut self.chains[slot as usize])
    }

    /// Removes the socket of an ended accept.
    pub(super) fn take_accepted(&mut self, accept: u32) -> Option<TcpStream> {
        assert!(
            !self.tags[self.index(OperationId::Accept(accept))].in_flight,
            "it is in operations"
        );
        self.accepted[accept as usize].take()
    }

    /// The peer's address of a successful accept that has ended.
    pub(super) fn peer(&self, accept: u32, calls: &AcceptCalls) -> Option<SocketAddr> {
        assert!(
            !self.tags[self.index(OperationId::Accept(accept))].in_flight,
            "it is in operations"
        );
        let mut local = std::ptr::null_mut();
        let mut remote: *mut SOCKADDR = std::ptr::null_mut();
        let (mut local_len, mut remote_len) = (0, 0);
        // SAFETY: the addresses are as AcceptEx wrote them, with the same three sizes
        // (GetAcceptExSockaddrs page: lpOutputBuffer); the results are local variables.
        unsafe {
            (calls.addresses)(
                self.addresses_of(accept).as_ptr().cast(),
                0,
                ADDRESS_SIZE_BYTES,
                ADDRESS_SIZE_BYTES,
                &raw mut local,
                &raw mut local_len,
                &raw mut remote,
                &raw mut remote_len,
            );
        }
        let len = usize::try_from(remote_len).unwrap_or(0);
        // SAFETY: null, or an address of `len` bytes in the buffer.
        unsafe { address_at(remote, len) }
    }

    /// Marks an operation as in flight, and clears its block.
    fn mark_started(&mut self, id: OperationId, socket: Socket) -> *mut Block {
        let index = self.index(id);
        assert!(!self.tags[index].in_flight, "{id:?} is in operations already");
        self.tags[index] = Tag { socket, in_flight: true };
        self.in_flight += 1;
        let block = self.block(id);
        // SAFETY: the block is in the table, and was not in flight, so the kernel does not access
        // it (INV-IOCP-2).
        unsafe { block.write(Block::new()) };
        block
    }

    /// The result of the call just made; unless it is pending, the operation is not in flight.
    fn start_result(
        &mut self,
        id: OperationId,
        ok: bool,
        call: &'static str,
        handle: &OverlappedSocket,
    ) -> Started {
        let error = if ok { None } else { Some(last_error(call)) };
        let started = match error {
            None if handle.skips => Started::Done,
            None => Started::Pending,
            // WSA_IO_PENDING is the same number.
            Some(error) if error.code() == ERROR_IO_PENDING.cast_signed() => Started::Pending,
            Some(error) => Started::Failed(link_error(call, error.code())),
        };
        if started != Started::Pending {
            let index = self.index(id);
            self.tags[index].in_flight = false;
            self.in_flight -= 1;
        }
        started
    }

    fn block(&self, id: OperationId) -> *mut Block {
        let index = self.index(id);
        assert!(index < self.tags.len(), "block {index} of {}", self.tags.len());
        // SAFETY: there are as many blocks as tags, in one allocation; the index was checked.
        unsafe { self.blocks.add(index) }.as_ptr()
    }

    fn addresses_of(&self, accept: u32) -> NonNull<Addresses> {
        assert!((accept as usize) < self.accepted.len(), "accept {accept}");
        // SAFETY: there are as many as accepts, in one allocation; the index was checked.
        unsafe { self.addresses.add(accept as usize) }
    }

    fn index(&self, id: OperationId) -> usize {
        (match id {
            OperationId::Receive(slot) => 2 * slot,
            OperationId::Send(slot) => 2 * slot + 1,
            OperationId::Accept(accept) => 2 * self.sockets_max + accept,
        }) as usize
    }

    /// The operation of the block at `index`, which is in the table.
    fn id_at(&self, index: usize) -> OperationId {
        #[expect(clippy::cast_possible_truncation, reason = "the table's size is a u32")]
        let index = index as u32;
        match index.checked_sub(2 * self.sockets_max) {
            Some(accept) => OperationId::Accept(accept),
            None if index.is_multiple_of(2) => OperationId::Receive(index / 2),
            None => OperationId::Send(index / 2),
        }
    }
}

impl Drop for OperationTable {
    fn drop(&mut self) {
        if self.in_flight != 0 {
            // The kernel may still write to a block or read from a chain: leak those.
            for slot in 0..self.sockets_max {
                if !self.tags[self.index(OperationId::Send(slot))].in_flight {
                    drop(self.take_chain(slot));
                }
            }
            return;
        }
        // SAFETY: nothing is in flight (INV-IOCP-1), and this value, which is being dropped, made
        // it with `leak` and this length.
        drop(unsafe { unleak(self.blocks, self.tags.len()) });
        // SAFETY: as above.
        drop(unsafe { unleak(self.addresses, self.accepted.len()) });
        // SAFETY: dropped here only, and not used again.
        unsafe { ManuallyDrop::drop(&mut self.chains) };
    }
}

impl Block {
    fn new() -> Self {
        Self { header: OVERLAPPED::default(), flags: 0 }
    }
}

/// Leaks an allocation to a raw pointer, so that no reference exists to memory that the kernel
/// writes.
fn leak<T>(items: Box<[T]>) -> NonNull<T> {
    NonNull::from(Box::leak(items)).cast()
}

/// The opposite of [`leak`].
///
/// # Safety
///
/// `start` and `len` are from one call of `leak`, and this is called once for them.
unsafe fn unleak<T>(start: NonNull<T>, len: usize) -> Box<[T]> {
    let slice = NonNull::slice_from_raw_parts(start, len);
    // SAFETY: the caller's promise.
    unsafe { Box::from_raw(slice.as_ptr()) }
}

/// Converts an address that the system has written.
///
/// # Safety
///
/// `remote` is null, or points to `len` bytes that are an address.
pub(super) unsafe fn address_at(remote: *const SOCKADDR, len: usize) -> Option<SocketAddr> {
    if remote.is_null() || len < size_of::<SOCKADDR_IN>() {
        return None;
    }
    // SAFETY: not null, so it points to an address of `len` bytes in the buffer, and every kind of
    // address starts with its family.
    let family = unsafe { remote.cast::<u16>().read_unaligned() };
    if family == AF_INET {
        // SAFETY: an address of this family, as long as it should be; plain data.
        let ip4 = unsafe { remote.cast::<SOCKADDR_IN>().read_unaligned() };
        // SAFETY: the union's members are views of the same four bytes.
        let bytes = unsafe { ip4.sin_addr.S_un.S_addr }.to_ne_bytes();
        return Some((bytes, u16::from_be(ip4.sin_port)).into());
    }
    if family != AF_INET6 || len < size_of::<SOCKADDR_IN6>() {
        return None;
    }
    // SAFETY: an address of this family, as long as it should be; plain data.
    let ip6 = unsafe { remote.cast::<SOCKADDR_IN6>().read_unaligned() };
    // SAFETY: the union's members are views of the same 16 bytes.
    let address = Ipv6Addr::from(unsafe { ip6.sin6_addr.u.Byte });
    // SAFETY: the union's members are views of the same four bytes.
    let scope = unsafe { ip6.Anonymous.sin6_scope_id };
    let port = u16::from_be(ip6.sin6_port);
    Some(SocketAddrV6::new(address, port, ip6.sin6_flowinfo, scope).into())
}
