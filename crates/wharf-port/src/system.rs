//! The system's port: the best back end that works here, behind one type.
//!
//! For programs that use the port by itself. A server that cares for the last nanosecond is generic
//! over [`Port`] and chooses once; this type branches in each call.

use crate::memory::BufferPool;
use crate::port::{
    Completions, Counters, Key, Operation, OperationKind, Port, PortConfig, PortError, Poster,
    Refused, Socket, SubmitError, Time,
};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

#[cfg(target_os = "linux")]
use crate::epoll::EpollPort;
#[cfg(windows)]
use crate::iocp::IocpPort;
#[cfg(target_os = "linux")]
use crate::uring::UringPort;

/// A completion port on whatever this system has: io_uring or epoll on Linux, IOCP on Windows.
#[derive(Debug)]
pub struct SystemPort<T: Send> {
    inner: Inner<T>,
    fallback: Option<PortError>,
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

/// The same call on whichever port it is.
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
    /// Makes a port that receives into buffers of `pool`, which no other port uses.
    ///
    /// On Linux io_uring is tried first; where it is refused the port is on epoll, and
    /// [`fallback`](Self::fallback) says why.
    ///
    /// # Errors
    ///
    /// [`PortError`] if no back end works.
    ///
    /// # Panics
    ///
    /// If a figure of `config` is outside the range stated there.
    #[cfg(target_os = "linux")]
    pub fn new(config: PortConfig, pool: BufferPool) -> Result<Self, PortError> {
        match UringPort::new(config, pool.clone()) {
            Ok(port) => Ok(Self { inner: Inner::Uring(Box::new(port)), fallback: None }),
            Err(refusal) => {
                let inner = Inner::Epoll(Box::new(EpollPort::new(config, pool)?));
                Ok(Self { inner, fallback: Some(refusal) })
            }
        }
    }

    /// Makes a port that receives into buffers of `pool`, which no other port uses.
    ///
    /// # Errors
    ///
    /// [`PortError`] if the system refuses it.
    ///
    /// # Panics
    ///
    /// If a figure of `config` is outside the range stated there.
    #[cfg(windows)]
    pub fn new(config: PortConfig, pool: BufferPool) -> Result<Self, PortError> {
        let inner = Inner::Iocp(Box::new(IocpPort::new(config, pool)?));
        Ok(Self { inner, fallback: None })
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

    /// Why the port is not on a better back end, if it is not.
    #[must_use]
    pub fn fallback(&self) -> Option<&PortError> {
        self.fallback.as_ref()
    }
}

impl<T: Send> Port for SystemPort<T> {
    type Packet = T;
    type Stream = TcpStream;
    type Listener = TcpListener;

    fn associate(&mut self, stream: TcpStream, key: Key) -> Result<Socket, Refused<TcpStream>> {
        forward!(mut self, port => port.associate(stream, key))
    }

    fn associate_listener(
        &mut self,
        listener: TcpListener,
        key: Key,
    ) -> Result<Socket, Refused<TcpListener>> {
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

    fn abandon(&mut self, socket: Socket) {
        forward!(mut self, port => port.abandon(socket));
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

    fn buffers_wanted(&self) -> u32 {
        forward!(self, port => port.buffers_wanted())
    }

    fn set_window(&mut self, buffers: u32) {
        forward!(mut self, port => port.set_window(buffers));
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
