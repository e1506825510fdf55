//! An overlapped socket, and the synchronous calls on it.

use super::wake::last_error;
use crate::memory::buffer::Buffer;
use crate::port::error::OsError;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::windows::io::{AsRawSocket, FromRawSocket, OwnedSocket};
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::Networking::WinSock::{
    AF_INET, AF_INET6, FIONREAD, INVALID_SOCKET, IPPROTO_TCP, LINGER, LPFN_ACCEPTEX,
    LPFN_GETACCEPTEXSOCKADDRS, MSG_PEEK, SD_SEND, SIO_GET_EXTENSION_FUNCTION_POINTER,
    SO_ACCEPTCONN, SO_LINGER, SO_PROTOCOL_INFOW, SO_UPDATE_ACCEPT_CONTEXT, SOCK_STREAM,
    SOCKADDR_STORAGE, SOCKET, SOCKET_ERROR, SOL_SOCKET, WSA_FLAG_NO_HANDLE_INHERIT,
    WSA_FLAG_OVERLAPPED, WSAEWOULDBLOCK, WSAID_ACCEPTEX, WSAID_GETACCEPTEXSOCKADDRS, WSAIoctl,
    WSAPROTOCOL_INFOW, WSASocketW, XP1_IFS_HANDLES, getsockname, getsockopt, ioctlsocket, recv,
    setsockopt, shutdown,
};
use windows_sys::Win32::Storage::FileSystem::SetFileCompletionNotificationModes;
use windows_sys::Win32::System::IO::CancelIoEx;
use windows_sys::Win32::System::WindowsProgramming::{
    FILE_SKIP_COMPLETION_PORT_ON_SUCCESS, FILE_SKIP_SET_EVENT_ON_HANDLE,
};
use windows_sys::core::GUID;

/// An overlapped socket that the port owns; dropping it closes it.
#[derive(Debug)]
pub(super) struct OverlappedSocket {
    socket: OwnedSocket,
    /// Whether an operation that succeeds at once makes no packet.
    pub(super) skips: bool,
}

/// The result of a nonblocking `recv`.
pub(super) enum RecvResult {
    /// This many bytes, at least one.
    Bytes(u32),
    /// The end of the stream.
    EndOfStream,
    /// No bytes yet.
    Nothing,
    /// The call failed.
    Failed(OsError),
}

/// The two functions of a listener's provider that Winsock does not export by name.
#[derive(Clone, Copy)]
pub(super) struct AcceptCalls {
    pub(super) accept: NonNullFn<LPFN_ACCEPTEX>,
    pub(super) addresses: NonNullFn<LPFN_GETACCEPTEXSOCKADDRS>,
}

/// The content of an `Option` of a function pointer.
type NonNullFn<F> = <F as IntoIterator>::Item;

impl OverlappedSocket {
    /// Takes ownership of a socket that is associated with a completion port.
    pub(super) fn new(socket: OwnedSocket, may_skip: bool) -> Self {
        let mut handle = Self { socket, skips: false };
        handle.skips = may_skip && handle.is_ifs() && handle.skip_packets_on_success();
        handle
    }

    pub(super) fn raw(&self) -> SOCKET {
        raw_socket(&self.socket)
    }

    /// Receives at most `len_max` bytes into the empty `buffer`. The socket is nonblocking.
    pub(super) fn receive(&self, buffer: &mut Buffer, len_max: u32) -> RecvResult {
        let len = i32::try_from(len_max.min(buffer.capacity())).unwrap_or(i32::MAX);
        // SAFETY: the socket is open; the buffer's slot has at least `len` bytes, and `buffer` is
        // its only handle, borrowed uniquely (INV-POOL-1, INV-POOL-2). The call writes only until
        // it returns (recv page: no OVERLAPPED).
        let received = unsafe { recv(self.raw(), buffer.bytes().as_ptr(), len, 0) };
        let found = RecvResult::of(received);
        if let RecvResult::Bytes(len) = found {
            buffer.set_len(len);
        }
        found
    }

    /// As [`receive`](Self::receive), but removes no bytes and needs no buffer (MSG_PEEK).
    pub(super) fn peek(&self) -> RecvResult {
        let mut byte = 0_u8;
        // SAFETY: the socket is open; the byte is a local variable, and the call writes only until
        // it returns.
        RecvResult::of(unsafe { recv(self.raw(), &raw mut byte, 1, MSG_PEEK) })
    }

    /// Cancels all operations in flight on the socket.
    pub(super) fn cancel_all(&self) {
        // SAFETY: the socket is open; a null OVERLAPPED means all operations of this process on it
        // (CancelIoEx page: lpOverlapped).
        let _not_found = unsafe { CancelIoEx(self.raw() as HANDLE, std::ptr::null()) };
    }

    pub(super) fn shutdown(&self) {
        // SAFETY: the socket is open; no memory is passed.
        let _reported_by_receive = unsafe { shutdown(self.raw(), SD_SEND) };
    }

    /// Bytes that the system has received and no receive has taken.
    pub(super) fn unread_bytes(&self) -> Option<u64> {
        let mut bytes = 0_u32;
        // SAFETY: the socket is open; FIONREAD writes a u32 (ioctlsocket page).
        let result = unsafe { ioctlsocket(self.raw(), FIONREAD, &raw mut bytes) };
        (result == 0).then_some(u64::from(bytes))
    }

    /// The local address.
    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        let mut storage = SOCKADDR_STORAGE::default();
        let mut len = size_u32::<SOCKADDR_STORAGE>().cast_signed();
        let address = (&raw mut storage).cast();
        // SAFETY: the socket is open; the call writes at most `len` bytes to `storage` (getsockname
        // page: namelen).
        let result = unsafe { getsockname(self.raw(), address, &raw mut len) };
        let len = usize::try_from(len).ok().filter(|_| result == 0)?;
        // SAFETY: the call has written an address of `len` bytes there.
        unsafe { super::operations::address_at(address, len) }
    }

    /// Makes the close of the socket abortive (RST).
    pub(super) fn reset_on_close(&self) {
        let at_once = LINGER { l_onoff: 1, l_linger: 0 };
        let from = (&raw const at_once).cast();
        let size = size_u32::<LINGER>().cast_signed();
        // SAFETY: the socket is open; the option's value is a LINGER of `size` bytes (setsockopt
        // page: SO_LINGER).
        let _is_a_socket = unsafe { setsockopt(self.raw(), SOL_SOCKET, SO_LINGER, from, size) };
    }

    /// Whether the socket is an IFS handle, that is one of the kernel's. With a layered provider it
    /// is not, and skipping packets would lose completions (Microsoft's support article 2568167).
    fn is_ifs(&self) -> bool {
        let mut info = WSAPROTOCOL_INFOW::default();
        let mut size = size_u32::<WSAPROTOCOL_INFOW>().cast_signed();
        let to = (&raw mut info).cast();
        // SAFETY: the socket is open; `info` has `size` bytes and is plain data in which every
        // pattern is valid (getsockopt page: optval, optlen).
        let result =
            unsafe { getsockopt(self.raw(), SOL_SOCKET, SO_PROTOCOL_INFOW, to, &raw mut size) };
        result == 0 && info.dwServiceFlags1 & XP1_IFS_HANDLES != 0
    }

    fn skip_packets_on_success(&self) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "the two flags are 1 and 2")]
        let flags = (FILE_SKIP_COMPLETION_PORT_ON_SUCCESS | FILE_SKIP_SET_EVENT_ON_HANDLE) as u8;
        // SAFETY: the socket is open; no memory is passed.
        unsafe { SetFileCompletionNotificationModes(self.raw() as HANDLE, flags) != 0 }
    }
}

impl RecvResult {
    fn of(received: i32) -> Self {
        match u32::try_from(received) {
            Ok(0) => Self::EndOfStream,
            Ok(len) => Self::Bytes(len),
            Err(_) => {
                assert_eq!(received, SOCKET_ERROR, "recv");
                let error = last_error("recv");
                if error.code() == WSAEWOULDBLOCK {
                    Self::Nothing
                } else {
                    Self::Failed(link_error("recv", error.code()))
                }
            }
        }
    }
}

/// Gets AcceptEx and GetAcceptExSockaddrs from the listener's provider.
pub(super) fn accept_calls(listener: &TcpListener) -> Result<AcceptCalls, OsError> {
    const MISSING: OsError = OsError::new("WSAIoctl", 10045); // WSAEOPNOTSUPP
    let accept: LPFN_ACCEPTEX = extension(listener, &WSAID_ACCEPTEX)?;
    let addresses: LPFN_GETACCEPTEXSOCKADDRS = extension(listener, &WSAID_GETACCEPTEXSOCKADDRS)?;
    match (accept, addresses) {
        (Some(accept), Some(addresses)) => Ok(AcceptCalls { accept, addresses }),
        _ => Err(MISSING),
    }
}

/// Checks that a socket listens.
pub(super) fn check_listening(listener: &TcpListener) -> Result<(), OsError> {
    let mut listens = 0_u32;
    let mut size = size_u32::<u32>().cast_signed();
    let to = (&raw mut listens).cast();
    // SAFETY: the socket is open; the option's value is a BOOL of `size` bytes (getsockopt page:
    // SO_ACCEPTCONN).
    let result =
        unsafe { getsockopt(raw_socket(listener), SOL_SOCKET, SO_ACCEPTCONN, to, &raw mut size) };
    if result != 0 {
        Err(last_error("getsockopt"))
    } else if listens == 0 {
        Err(OsError::new("AcceptEx", 10022)) // WSAEINVAL
    } else {
        Ok(())
    }
}

/// A new socket of the listener's family, for AcceptEx.
pub(super) fn accept_socket(is_ipv6: bool) -> Result<TcpStream, OsError> {
    let family = i32::from(if is_ipv6 { AF_INET6 } else { AF_INET });
    let flags = WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT;
    // SAFETY: no memory is passed; without protocol information family, type and protocol choose
    // the provider (WSASocketW page: lpProtocolInfo).
    let socket =
        unsafe { WSASocketW(family, SOCK_STREAM, IPPROTO_TCP, std::ptr::null(), 0, flags) };
    if socket == INVALID_SOCKET {
        return Err(last_error("WSASocketW"));
    }
    // SAFETY: the call has just created the socket, so no other code owns it; it is a TCP socket.
    Ok(unsafe { TcpStream::from_raw_socket(socket as u64) })
}

/// Gives `stream`, which AcceptEx has connected, the properties of the listener, which `shutdown`,
/// `getpeername` and others require (SO_UPDATE_ACCEPT_CONTEXT).
pub(super) fn update_accept_context(
    stream: &TcpStream,
    listener: &OverlappedSocket,
) -> Result<(), OsError> {
    let listener = listener.raw();
    let from = (&raw const listener).cast();
    let size = size_u32::<SOCKET>().cast_signed();
    // SAFETY: the stream is open; the option's value is the listening socket, of `size` bytes
    // (AcceptEx page: SO_UPDATE_ACCEPT_CONTEXT).
    let result =
        unsafe { setsockopt(raw_socket(stream), SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT, from, size) };
    if result == 0 { Ok(()) } else { Err(last_error("setsockopt")) }
}

/// Gets a function of the provider. `F` is an `Option` of the type of the function `id`.
fn extension<F: Default>(listener: &TcpListener, id: &GUID) -> Result<F, OsError> {
    const { assert!(size_of::<F>() == size_of::<usize>(), "an optional function pointer") };
    let mut function = F::default();
    let mut size = 0;
    // SAFETY: the socket is open; the id is read and a pointer is written within the given sizes;
    // the private callers use the type that belongs to the id (WSAIoctl page:
    // SIO_GET_EXTENSION_FUNCTION_POINTER). Without OVERLAPPED the call is synchronous.
    let result = unsafe {
        WSAIoctl(
            raw_socket(listener),
            SIO_GET_EXTENSION_FUNCTION_POINTER,
            std::ptr::from_ref(id).cast(),
            size_u32::<GUID>(),
            (&raw mut function).cast(),
            size_u32::<F>(),
            &raw mut size,
            std::ptr::null_mut(),
            None,
        )
    };
    if result == 0 { Ok(function) } else { Err(last_error("WSAIoctl")) }
}

/// The size of a type, as a u32 for Winsock.
pub(super) const fn size_u32<T>() -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "used with types below 1 KiB")]
    {
        size_of::<T>() as u32
    }
}

pub(super) fn raw_socket(socket: &impl AsRawSocket) -> SOCKET {
    #[expect(clippy::cast_possible_truncation, reason = "std's type is as wide as Winsock's")]
    {
        socket.as_raw_socket() as SOCKET
    }
}

/// An error of a connection, with system codes converted to Winsock's.
///
/// A completion's status may be a code of the kernel, such as ERROR_NETNAME_DELETED for a reset by
/// the peer. std maps only Winsock's codes to an `ErrorKind`.
pub(super) fn link_error(call: &'static str, code: i32) -> OsError {
    let code = match code {
        64 => 10054,               // ERROR_NETNAME_DELETED: WSAECONNRESET
        121 => 10060,              // ERROR_SEM_TIMEOUT: WSAETIMEDOUT
        676 | 995 | 1236 => 10053, // port closed, operation or connection aborted: WSAECONNABORTED
        1225 => 10061,             // ERROR_CONNECTION_REFUSED: WSAECONNREFUSED
        1231 => 10051,             // ERROR_NETWORK_UNREACHABLE: WSAENETUNREACH
        1232 => 10065,             // ERROR_HOST_UNREACHABLE: WSAEHOSTUNREACH
        other => other,
    };
    OsError::new(call, code)
}

/// Whether an accept's error concerns only the connection that was to be accepted.
pub(super) fn is_connection_error(code: i32) -> bool {
    // WSAENETDOWN, unreachable net, WSAENETRESET, aborted, reset, not connected any more, timed
    // out, host down, unreachable host.
    [10050, 10051, 10052, 10053, 10054, 10057, 10060, 10064, 10065].contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    #[test]
    fn errors_of_connections_have_the_kinds_that_std_knows() {
        for (code, kind) in [
            (64, ErrorKind::ConnectionReset),
            (121, ErrorKind::TimedOut),
            (676, ErrorKind::ConnectionAborted),
            (995, ErrorKind::ConnectionAborted),
            (1225, ErrorKind::ConnectionRefused),
            (1231, ErrorKind::NetworkUnreachable),
            (1232, ErrorKind::HostUnreachable),
            (1236, ErrorKind::ConnectionAborted),
            (10054, ErrorKind::ConnectionReset),
        ] {
            let error = link_error("WSARecv", code);
            assert_eq!(error.kind(), kind, "{code}: {error}");
            assert!(is_connection_error(error.code()) || code == 1225, "{code}");
        }
        // Too many open sockets, and no buffer space, do not concern one connection.
        assert!(!is_connection_error(10024) && !is_connection_error(10055));
    }
}
