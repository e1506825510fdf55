//! Clients, and connections and listeners that are not associated yet.

use super::connection::{CLIENT, ConnId, SERVER};
use super::traffic::TrafficWatch;
use super::world::World;
use super::world_state::Readable;
use crate::port::operation::Socket;
use std::io;
use std::net::SocketAddr;

/// An accepted connection that is not associated yet. Dropping it closes it.
#[derive(Debug)]
pub struct SimStream {
    world: World,
    conn: Option<ConnId>,
}

impl SimStream {
    pub(super) fn new(world: World, conn: ConnId) -> Self {
        Self { world, conn: Some(conn) }
    }

    /// Releases the connection without closing it.
    pub(super) fn take(&mut self) -> Option<ConnId> {
        self.conn.take()
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        if let Some(conn) = self.conn {
            self.world.lock().close(conn, SERVER);
        }
    }
}

/// A listening socket that is not associated yet. Dropping it closes it.
#[derive(Debug)]
pub struct SimListener {
    world: World,
    id: Option<Socket>,
    address: SocketAddr,
}

impl SimListener {
    pub(super) fn new(world: World, id: Socket, address: SocketAddr) -> Self {
        Self { world, id: Some(id), address }
    }

    pub(super) fn take(&mut self) -> Option<Socket> {
        self.id.take()
    }

    /// The address on which it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.world.lock().close_listener(id);
        }
    }
}

/// The client's side of a connection. No method waits; dropping it closes it.
#[derive(Debug)]
pub struct SimClient {
    world: World,
    conn: ConnId,
    reads: bool,
}

impl SimClient {
    pub(super) fn new(world: World, conn: ConnId) -> Self {
        Self { world, conn, reads: true }
    }

    /// Writes as much of `data` as fits the pipe.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the pipe is full; [`World::next_ready_client`] returns the client when it is not.
    /// `ConnectionReset` or `BrokenPipe` if the connection has ended.
    pub fn try_write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut world = self.world.lock();
        let written = world.write(self.conn, CLIENT, data.len(), std::iter::once(data));
        world.conn(self.conn, |conn| conn.sides[CLIENT].notified = 0);
        match written {
            Ok(0) if !data.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            Ok(count) => Ok(count),
            Err(code) => Err(io::Error::from_raw_os_error(code)),
        }
    }

    /// Reads arrived bytes into `target`, at most its length; 0 at the end of the stream.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if no bytes have arrived, or if this client does not read; `ConnectionReset`
    /// after a reset.
    pub fn try_read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let mut world = self.world.lock();
        let never_reads = world.conn(self.conn, |conn| {
            conn.sides[CLIENT].notified = 0;
            conn.never_reads
        });
        let was_reset = world.conn(self.conn, |conn| conn.sides[CLIENT].reset);
        match world.readable(self.conn, CLIENT) {
            _ if was_reset == Some(true) && (!self.reads || never_reads == Some(true)) => {
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Readable::Reset => Err(io::ErrorKind::ConnectionReset.into()),
            _ if !self.reads || never_reads == Some(true) => Err(io::ErrorKind::WouldBlock.into()),
            Readable::Nothing => Err(io::ErrorKind::WouldBlock.into()),
            Readable::AtEnd => Ok(0),
            Readable::Bytes(_) => {
                let mut filled = 0;
                world.read(self.conn, CLIENT, target.len(), |bytes| {
                    target[filled..filled + bytes.len()].copy_from_slice(bytes);
                    filled += bytes.len();
                });
                Ok(filled)
            }
        }
    }

    /// Shuts down the client's sending.
    pub fn shutdown_write(&mut self) {
        self.world.lock().shut(self.conn, CLIENT);
    }

    /// Closes the connection with a reset.
    pub fn reset(self) {
        let mut world = self.world.lock();
        world.reset_later(self.conn, SERVER);
        world.conn(self.conn, |conn| conn.sides[CLIENT].reset = true);
    }

    /// Sets whether [`try_read`](Self::try_read) reads; if not, it returns `WouldBlock`.
    pub fn set_reading(&mut self, reads: bool) {
        self.reads = reads;
    }

    /// Whether a fault was injected after which bytes may be missing (never wrong): a reset, an
    /// aborted accept, [`BlackHole`](super::FaultKind::BlackHole) or
    /// [`PeerNeverReads`](super::FaultKind::PeerNeverReads).
    #[must_use]
    pub fn may_lose_bytes(&self) -> bool {
        self.world.lock().conn(self.conn, |conn| conn.faulted).unwrap_or(true)
    }

    /// The connection's traffic. Call it before both sides may be closed.
    #[must_use]
    pub fn traffic(&self) -> TrafficWatch {
        self.world.lock().conn(self.conn, |conn| conn.traffic.clone()).unwrap_or_default()
    }

    /// The address that the server sees.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.world.lock().conn(self.conn, |conn| conn.peer)
    }
}

impl Drop for SimClient {
    fn drop(&mut self) {
        self.world.lock().close(self.conn, CLIENT);
    }
}
