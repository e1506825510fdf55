//! The system's port: the first back end that works on this machine, as one type.
//!
//! For programs that use the port without `wharf`. It branches in each call; a program that is
//! generic over [`Port`] does not.

use crate::memory::pool::BufferPool;
use crate::port::contract::{Completions, Counters, Port, PortConfig, Time};
#[cfg(target_os = "linux")]
use crate::port::error::OsError;
use crate::port::error::PortError;
use crate::port::inbox::Poster;
use crate::port::operation::{AssociateError, Key, Operation, OperationKind, Socket, SubmitError};
#[cfg(target_os = "linux")]
use crate::port::seat::{MovablePort, SeatPort};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

#[cfg(target_os = "linux")]
use crate::epoll::EpollPort;
#[cfg(windows)]
use crate::iocp::IocpPort;
#[cfg(target_os = "linux")]
use crate::uring::UringPort;

/// A completion port of this system: io_uring or epoll on Linux, IOCP on Windows.
#[derive(Debug)]
pub struct SystemPort<T: Send> {
    inner: Inner<T>,
    fallback_reason: Option<PortError>,
}

#[derive(Debug)]
enum Inner<T: Send> {
    #[cfg(target_os = "linux")]
    Uring(Box<UringPort<T>>),
    #[cfg(target_os = "linux")]
    Epoll(Box<EpollPort<T>>),
    #[cfg(windows)]
    Iocp(Box<IocpPort<T>>),
}

/// Forwards a call to the port of the back end in use.
macro_rules! forward {
    ($self:ident, $port:ident => $call:expr) => {
        match &$self.inner {
            #[cfg(target_os = "linux")]
            Inner::Uring($port) => $call,
            #[cfg(target_os = "linux")]
            Inner::Epoll($port) => $call,
            #[cfg(windows)]
            Inner::Iocp($port) => $call,
        }
    };
    (mut $self:ident, $port:ident => $call:expr) => {
        match &mut $self.inner {
            #[cfg(target_os = "linux")]
            Inner::Uring($port) => $call,
            #[cfg(target_os = "linux")]
            Inner::Epoll($port) => $call,
            #[cfg(windows)]
            Inner::Iocp($port) => $call,
        }
    };
}

impl<T: Send> SystemPort<T> {
    /// Creates a port that receives into buffers of `pool`, which no other port uses.
    ///
    /// Tries io_uring first. If that fails the port uses epoll, and [`fallback_reason`](Self::fallback_reason) is
    /// the error.
    ///
    /// # Errors
    ///
    /// [`PortError`] if no back end works.
    ///
    /// # Panics
    ///
    /// If a value of `config` is outside the range stated there.
    #[cfg(target_os = "linux")]
    pub fn new(config: PortConfig, pool: BufferPool) -> Result<Self, PortError> {
        match UringPort::new(config, pool.clone()) {
            Ok(port) => Ok(Self { inner: Inner::Uring(Box::new(port)), fallback_reason: None }),
            Err(error) => {
                let inner = Inner::Epoll(Box::new(EpollPort::new(config, pool)?));
                Ok(Self { inner, fallback_reason: Some(error) })
            }
        }
    }

    /// Creates a port that receives into buffers of `pool`, which no other port uses.
    ///
    /// # Errors
    ///
    /// [`PortError`] if `CreateIoCompletionPort` fails.
    ///
    /// # Panics
    ///
    /// If a value of `config` is outside the range stated there.
    #[cfg(windows)]
    pub fn new(config: PortConfig, pool: BufferPool) -> Result<Self, PortError> {
        let inner = Inner::Iocp(Box::new(IocpPort::new(config, pool)?));
        Ok(Self { inner, fallback_reason: None })
    }

    /// As [`new`](Self::new), but the port may move to other threads.
    #[cfg(target_os = "linux")]
    pub(crate) fn movable(config: PortConfig, pool: BufferPool) -> Result<Self, PortError> {
        match UringPort::movable(config, pool.clone()) {
            Ok(port) => Ok(Self { inner: Inner::Uring(Box::new(port)), fallback_reason: None }),
            Err(error) => {
                let inner = Inner::Epoll(Box::new(EpollPort::new(config, pool)?));
                Ok(Self { inner, fallback_reason: Some(error) })
            }
        }
    }

    /// The name of the back end.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Uring(_) => "io_uring",
            #[cfg(target_os = "linux")]
            Inner::Epoll(_) => "epoll",
            #[cfg(windows)]
            Inner::Iocp(_) => "IOCP",
        }
    }

    /// Why the port uses epoll and not io_uring; `None` if it uses io_uring or IOCP.
    #[must_use]
    pub fn fallback_reason(&self) -> Option<&PortError> {
        self.fallback_reason.as_ref()
    }
}

impl<T: Send> Port for SystemPort<T> {
    type Packet = T;
    type Stream = TcpStream;
    type Listener = TcpListener;

    fn associate(
        &mut self,
        stream: TcpStream,
        key: Key,
    ) -> Result<Socket, AssociateError<TcpStream>> {
        forward!(mut self, port => port.associate(stream, key))
    }

    fn associate_listener(
        &mut self,
        listener: TcpListener,
        key: Key,
    ) -> Result<Socket, AssociateError<TcpListener>> {
        forward!(mut self, port => port.associate_listener(listener, key))
    }

    fn submit(&mut self, socket: Socket, operation: Operation) -> Result<(), SubmitError> {
        forward!(mut self, port => port.submit(socket, operation))
    }

    fn cancel(&mut self, socket: Socket, kind: OperationKind) {
        forward!(mut self, port => port.cancel(socket, kind));
    }

    fn shutdown(&mut self, socket: Socket) {
        forward!(mut self, port => port.shutdown(socket));
    }

    fn reset_on_close(&mut self, socket: Socket) {
        forward!(mut self, port => port.reset_on_close(socket));
    }

    fn dequeue(
        &mut self,
        completions: &mut Completions<Self>,
        timeout: Option<Duration>,
    ) -> Result<(), PortError> {
        forward!(mut self, port => port.dequeue(completions, timeout))
    }

    fn poster(&self) -> Poster<T> {
        forward!(self, port => port.poster())
    }

    fn pool(&self) -> &BufferPool {
        forward!(self, port => port.pool())
    }

    fn refill_count(&self) -> u32 {
        forward!(self, port => port.refill_count())
    }

    fn set_receive_buffers(&mut self, buffers: u32) {
        forward!(mut self, port => port.set_receive_buffers(buffers));
    }

    fn acknowledged_bytes(&mut self, socket: Socket) -> Option<u64> {
        forward!(mut self, port => port.acknowledged_bytes(socket))
    }

    fn unread_bytes(&mut self, socket: Socket) -> Option<u64> {
        forward!(mut self, port => port.unread_bytes(socket))
    }

    fn local_address(&mut self, socket: Socket) -> Option<SocketAddr> {
        forward!(mut self, port => port.local_address(socket))
    }

    fn now(&self) -> Time {
        forward!(self, port => port.now())
    }

    fn counters(&self) -> Counters {
        forward!(self, port => port.counters())
    }
}

#[cfg(target_os = "linux")]
impl<T: Send> SeatPort for SystemPort<T> {
    fn prepare_wait(&mut self) -> Result<bool, PortError> {
        forward!(mut self, port => port.prepare_wait())
    }

    fn end_wait(&mut self) {
        forward!(mut self, port => port.end_wait());
    }
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "states that a port may move")]
// SAFETY: it contains one of two ports that may move, and an error.
unsafe impl<T: Send> MovablePort for SystemPort<T> {
    fn watch(&self) -> Result<rustix::fd::OwnedFd, OsError> {
        forward!(self, port => port.watch())
    }
}
