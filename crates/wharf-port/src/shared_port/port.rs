//! The shared port as programs see it, on the best back end of this machine.

use super::member::{Member, Shared};
use super::seat::Command;
use super::values::{
    DequeueError, Held, SharedCompletion, SharedOperation, SharedSocket, SharedSubmitError,
};
use crate::memory::chain::Chain;
use crate::memory::error::NoBuffers;
use crate::memory::ledger::BufferCounts;
use crate::memory::pool::{BufferPool, PoolConfig};
use crate::port::contract::PortConfig;
use crate::port::error::{OsError, PortError};
use crate::port::inbox::PostError;
use crate::port::operation::{Key, OperationKind};
use crate::range;
use crate::system::SystemPort;
use std::fmt;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// The sizes of a shared port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedConfig {
    /// Threads that run at once, and so seats; 1 to 1,024.
    pub concurrency: u32,
    /// The port of each seat.
    pub port: PortConfig,
    /// The pool of each seat.
    pub pool: PoolConfig,
}

impl SharedConfig {
    /// `concurrency` seats, each for `sockets_max` sockets, with four buffers of 2,048 bytes for
    /// each.
    ///
    /// Sockets go to the seat with the fewest, so all seats together can have `concurrency` times
    /// as many.
    #[must_use]
    pub fn new(concurrency: u32, sockets_max: u32) -> Self {
        let pool = PoolConfig::new(sockets_max.saturating_mul(4));
        Self { concurrency, port: PortConfig::new(sockets_max), pool }
    }
}

/// A completion port of any number of threads; see the [module](super). `T` is the type of posted
/// packets.
///
/// Any thread associates sockets and posts packets. A thread that dequeues has a [`Worker`].
/// Dropping the port [closes](Self::close) it; sockets, and what is in flight, end with the last
/// worker.
pub struct SharedPort<T: Send> {
    shared: Arc<Shared<T, Back<T>>>,
    name: &'static str,
}

type Back<T> = SystemPort<Command<T, TcpStream, TcpListener>>;

impl<T: Send> SharedPort<T> {
    /// Creates a port, with all buffers and tables of its seats.
    ///
    /// # Errors
    ///
    /// [`PortError`] if no back end works, or the system has too little memory.
    ///
    /// # Panics
    ///
    /// If a value is outside the range that is stated of it.
    pub fn new(config: SharedConfig) -> Result<Self, PortError> {
        range::check("concurrency", config.concurrency, &(1..=1024));
        let port = |_| {
            let pool = BufferPool::new(config.pool)
                .map_err(|_| PortError::from(OsError::new("mmap", libc::ENOMEM)))?;
            SystemPort::movable(config.port, pool)
        };
        let ports = (0..config.concurrency).map(port).collect::<Result<Vec<Back<T>>, _>>()?;
        let name = ports.first().map_or("", |port| port.name());
        let shared = Shared::of_threads(ports, config.port.sockets_max)?;
        Ok(Self { shared: Arc::new(shared), name })
    }

    /// The name of the back end.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What one thread needs to dequeue.
    #[must_use]
    pub fn worker(&self) -> Worker<T> {
        Worker { member: Member::new(Arc::clone(&self.shared)) }
    }

    /// Associates a connection with the seat that has the fewest. It completes with
    /// [`SharedOutcome::Associated`](super::SharedOutcome::Associated), and the thread that takes that can submit
    /// the socket's first operation.
    ///
    /// # Errors
    ///
    /// The connection, if the seat's inbox is full or the port is closed.
    pub fn associate(&self, stream: TcpStream, key: Key) -> Result<(), PostError<TcpStream>> {
        self.shared.associate(stream, key)
    }

    /// As [`associate`](Self::associate), for a listening socket.
    ///
    /// # Errors
    ///
    /// The listener, if the seat's inbox is full or the port is closed.
    pub fn associate_listener(
        &self,
        listener: TcpListener,
        key: Key,
    ) -> Result<(), PostError<TcpListener>> {
        self.shared.associate_listener(listener, key)
    }

    /// Posts a packet, to a seat whose thread sleeps if there is one. Does not wait.
    ///
    /// # Errors
    ///
    /// The packet, if all inboxes are full or the port is closed.
    pub fn post(&self, packet: T) -> Result<(), PostError<T>> {
        self.shared.post(packet)
    }

    /// Ends the waits of all threads; each dequeue fails from now on.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Counts the buffers of all pools by owner.
    ///
    /// # Cost
    ///
    /// Reads every buffer's tag.
    #[must_use]
    pub fn ledger(&self) -> BufferCounts {
        self.shared.ledger()
    }
}

impl<T: Send> Drop for SharedPort<T> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<T: Send> fmt::Debug for SharedPort<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedPort").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One thread's part of a [`SharedPort`].
///
/// It has a seat from the first [`dequeue`](Self::dequeue) that returns completions on, and keeps it
/// until it blocks or is dropped: a thread that does something else drops it. It may move to another
/// thread; several threads cannot use it.
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<wharf_port::shared_port::Worker<u64>>();
/// ```
pub struct Worker<T: Send> {
    member: Member<T, Back<T>>,
}

const _: () = {
    const fn any_thread<T: Send>() {}
    any_thread::<Worker<u64>>();
    const fn all_threads<T: Send + Sync>() {}
    all_threads::<SharedPort<u64>>();
};

impl<T: Send> Worker<T> {
    /// Waits for completions, which [`next_completion`](Self::next_completion) returns; completions that were
    /// not taken are still there. `false` if `timeout` has passed without any; `None` waits
    /// indefinitely.
    ///
    /// After `true` there may be none, if other threads' calls were all there was. After `false` the
    /// thread may have no seat.
    ///
    /// # Errors
    ///
    /// [`DequeueError`] if the port was closed or has failed.
    pub fn dequeue(&mut self, timeout: Option<Duration>) -> Result<bool, DequeueError> {
        self.member.dequeue(timeout)
    }

    /// The next completion of the thread's seat; `None` if there are none, and the thread is to
    /// dequeue.
    ///
    /// It borrows the worker until it is dropped; in a `while let` that is the end of the body. A loop
    /// that blocks takes it by `let ... else`, and drops it before.
    #[must_use]
    pub fn next_completion(&self) -> Option<SharedCompletion<'_, T>> {
        self.member.next_completion()
    }

    /// Runs `run`, which may block, while another thread has this thread's seat; then waits for a
    /// seat. If the port is closed meanwhile the thread has none afterwards.
    ///
    /// What the thread has not taken of its completions goes to the next thread with the seat. After a
    /// panic of `run` that is caught outside, the thread has no seat until its next dequeue.
    pub fn blocking<R>(&mut self, run: impl FnOnce() -> R) -> R {
        self.member.blocking(run)
    }

    /// A chain with a copy of `data`, in buffers of the thread's seat.
    ///
    /// # Errors
    ///
    /// [`NoBuffers`] if too few are free, or the thread has no seat.
    pub fn chain_of(&self, data: &[u8]) -> Result<Held<'_, Chain>, NoBuffers> {
        self.member.chain_of(data)
    }

    /// Starts an operation. On a socket of another seat it is posted to that seat, and if it is
    /// refused there, it completes with [`SharedOutcome::Refused`](super::SharedOutcome::Refused), or not at all
    /// if the socket was closed before.
    ///
    /// # Errors
    ///
    /// [`SharedSubmitError`] with the operation.
    pub fn submit<'s>(
        &'s self,
        socket: SharedSocket,
        operation: SharedOperation<'s>,
    ) -> Result<(), SharedSubmitError<'s>> {
        self.member.submit(socket, operation)
    }

    /// Cancels the operation of this kind; see [`Port::cancel`](crate::port::Port::cancel).
    ///
    /// # Errors
    ///
    /// [`PostError`] if the socket is another seat's, and that seat's inbox is full.
    pub fn cancel(&self, socket: SharedSocket, kind: OperationKind) -> Result<(), PostError<()>> {
        self.member.cancel(socket, kind)
    }

    /// Shuts down the sending side; see [`Port::shutdown`](crate::port::Port::shutdown).
    ///
    /// # Errors
    ///
    /// As [`cancel`](Self::cancel).
    pub fn shutdown(&self, socket: SharedSocket) -> Result<(), PostError<()>> {
        self.member.shutdown(socket)
    }

    /// Makes the later close abortive; see [`Port::reset_on_close`](crate::port::Port::reset_on_close).
    ///
    /// # Errors
    ///
    /// As [`cancel`](Self::cancel).
    pub fn reset_on_close(&self, socket: SharedSocket) -> Result<(), PostError<()>> {
        self.member.reset_on_close(socket)
    }

    /// As [`SharedPort::associate`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn associate(&self, stream: TcpStream, key: Key) -> Result<(), PostError<TcpStream>> {
        self.member.shared().associate(stream, key)
    }

    /// As [`SharedPort::post`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn post(&self, packet: T) -> Result<(), PostError<T>> {
        self.member.shared().post(packet)
    }
}

impl<T: Send> fmt::Debug for Worker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}
