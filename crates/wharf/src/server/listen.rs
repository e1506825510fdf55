//! Listening sockets.

use crate::vocabulary::error::StartError;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

/// Time for which `listen` retries an address that is in use.
///
/// After a kill the kernel keeps an io_uring server's socket for tens of milliseconds. Below a second,
/// so that a real conflict is reported soon.
const RETRY_FOR: Duration = Duration::from_millis(800);
const RETRY_EVERY: Duration = Duration::from_millis(20);

/// Resolves `text` to addresses, without adjacent duplicates.
pub(super) fn resolve(text: &str) -> Result<Vec<SocketAddr>, StartError> {
    let fault = |source| StartError::address(text, source);
    let mut found: Vec<SocketAddr> = text.to_socket_addrs().map_err(fault)?.collect();
    found.dedup();
    if found.is_empty() {
        return Err(fault(io::Error::new(ErrorKind::NotFound, "the name has no address")));
    }
    Ok(found)
}

/// Binds a socket to `address` and listens on it, with [`RETRY_FOR`] for an address that is in use.
pub(super) fn listen(address: SocketAddr, backlog: u32) -> Result<TcpListener, StartError> {
    let mut waited = Duration::ZERO;
    loop {
        let error = match try_listen(address, backlog) {
            Ok(listener) => return Ok(listener),
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::AddrInUse if waited < RETRY_FOR => {
                std::thread::sleep(RETRY_EVERY);
                waited += RETRY_EVERY;
            }
            _ => return Err(StartError::listen(address, error)),
        }
    }
}

fn try_listen(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    // On Unix SO_REUSEADDR allows to bind an address with connections in TIME_WAIT; two listeners still
    // exclude each other. On Windows a second program could take the port, so it is not set there.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if domain == Domain::IPV6 {
        // With IPV6_V6ONLY, 0.0.0.0 and [::] can be listened on with the same port on every system.
        socket.set_only_v6(true)?;
    }
    // Accepted sockets inherit TCP_NODELAY. The engine submits one send for each link and turn, so
    // Nagle's algorithm would only delay it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::error::StartErrorKind;

    #[test]
    fn a_taken_address_is_reported_as_such() {
        let first = listen("127.0.0.1:0".parse().unwrap(), 8).unwrap();
        let address = first.local_addr().unwrap();
        let error = listen(address, 8).unwrap_err();
        assert_eq!(error.kind(), StartErrorKind::Address);
        let text = error.to_string();
        assert!(text.contains(&format!("cannot listen on {address}: in use; ")), "{text}");
    }

    #[test]
    fn a_foreign_address_is_reported_as_such() {
        // 192.0.2.0/24 is reserved for documentation (RFC 5737), so no machine has it.
        let error = listen("192.0.2.1:9527".parse().unwrap(), 8).unwrap_err();
        assert!(error.to_string().contains("not an address of this machine"), "{error}");
    }

    #[test]
    fn nonsense_is_reported_with_what_was_given() {
        let error = resolve("127.0.0.1").unwrap_err().to_string();
        assert!(error.contains("\"127.0.0.1\"") && error.contains("127.0.0.1:9527"), "{error}");
        assert_eq!(resolve("[::1]:80").unwrap().len(), 1);
    }
}
