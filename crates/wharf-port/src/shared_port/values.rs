//! What a thread of a shared port gives to its seat and gets from it.

use crate::memory::buffer::Buffer;
use crate::memory::chain::Chain;
use crate::memory::message::Message;
use crate::port::completion::EndReason;
use crate::port::error::PortError;
use crate::port::operation::{
    AssociateError, CompletionMode, Key, OperationKind, Socket, SubmitErrorKind,
};
use std::fmt;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Deref;

/// A handle to a socket of a shared port, valid in all its threads: the seat that it belongs to, and
/// its handle there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SharedSocket {
    pub(super) seat: u32,
    /// Its row in the seat's table of sockets.
    pub(super) row: u32,
    pub(super) socket: Socket,
}

/// A buffer or a chain of the pool of a thread's seat.
///
/// It borrows the [`Worker`](super::Worker), so it is dropped or submitted before the thread dequeues or
/// blocks, when the seat and its pool may go to another thread.
///
/// ```compile_fail,E0502
/// use wharf_port::shared_port::{SharedOutcome, Worker};
/// fn keeps_bytes(worker: &mut Worker<u64>) {
///     let completion = worker.next_completion().unwrap();
///     worker.blocking(|| {});
///     if let SharedOutcome::Received { buffer, .. } = completion.outcome {
///         println!("{}", buffer.len());
///     }
/// }
/// ```
///
/// ```compile_fail,E0597
/// use wharf_port::shared_port::{Held, Worker};
/// use wharf_port::memory::Buffer;
/// thread_local!(static KEPT: std::cell::RefCell<Vec<Held<'static, Buffer>>> = const { std::cell::RefCell::new(Vec::new()) });
/// fn keeps_a_buffer(worker: Worker<u64>) {
///     let completion = worker.next_completion().unwrap();
///     if let wharf_port::shared_port::SharedOutcome::Received { buffer, .. } = completion.outcome {
///         KEPT.with_borrow_mut(|kept| kept.push(buffer));
///     }
/// }
/// ```
///
/// Nor does what a refused submit returns outlive the seat:
///
/// ```compile_fail
/// use wharf_port::memory::Message;
/// use wharf_port::shared_port::{SharedOperation, SharedSocket, SharedSubmitError, Worker};
/// fn keeps_a_chain(worker: &Worker<u64>, socket: SharedSocket, message: Message) -> SharedSubmitError<'static> {
///     worker.submit(socket, SharedOperation::SendMessage(message)).unwrap_err()
/// }
/// ```
///
/// A value that is only dropped borrows the worker until then:
///
/// ```compile_fail,E0502
/// fn drops_after_it_has_blocked(worker: &mut wharf_port::shared_port::Worker<u64>) {
///     let completion = worker.next_completion();
///     worker.blocking(|| {});
/// }
/// ```
///
/// ```compile_fail,E0502
/// fn drops_after_the_next_dequeue(worker: &mut wharf_port::shared_port::Worker<u64>) {
///     let completion = worker.next_completion();
///     let _ = worker.dequeue(None);
/// }
/// ```
///
/// ```compile_fail,E0597
/// fn drops_after_the_worker(port: &wharf_port::shared_port::SharedPort<u64>) {
///     let completion;
///     let worker = port.worker();
///     completion = worker.next_completion();
/// }
/// ```
pub struct Held<'s, T> {
    pub(super) value: T,
    _seat: Borrowed<'s>,
}

/// A borrow of the worker that lasts until this is dropped: without a drop of its own it would end at
/// the last use, though the buffer beside it accesses the pool when it is dropped.
struct Borrowed<'s>(PhantomData<&'s ()>);

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {}
}

impl<T> Held<'_, T> {
    /// The caller gives it the lifetime of a borrow of the worker.
    pub(super) fn new(value: T) -> Self {
        Self { value, _seat: Borrowed(PhantomData) }
    }
}

impl Deref for Held<'_, Buffer> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.value
    }
}

impl Held<'_, Chain> {
    /// Bytes in the chain.
    #[must_use]
    pub fn len(&self) -> usize {
        self.value.len()
    }

    /// Whether the chain has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.value.is_empty()
    }

    /// Removes `len` bytes from the front, those that a short send has sent, for example.
    ///
    /// # Panics
    ///
    /// If the chain has fewer.
    pub fn advance(&mut self, len: usize) {
        self.value.advance(len);
    }
}

impl<T: fmt::Debug> fmt::Debug for Held<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// An operation on a socket of a shared port. See [`Operation`](crate::port::Operation), which has
/// the same.
#[derive(Debug)]
#[non_exhaustive]
pub enum SharedOperation<'s> {
    /// Accept connections on a listening socket.
    Accept(CompletionMode),
    /// Receive into buffers of the pool of the socket's seat.
    Receive {
        /// How often it completes.
        mode: CompletionMode,
        /// The most bytes in all its completions together.
        bytes_max: u32,
    },
    /// Send a chain of the thread's seat, on a socket of the same seat.
    Send(Held<'s, Chain>),
    /// Send a message, on a socket of any seat. It takes one chain entry of the socket's seat.
    SendMessage(Message),
    /// Cancel the operations in flight on the socket, and close it after they have completed.
    Close,
}

impl SharedOperation<'_> {
    /// A receive without a limit of bytes.
    #[must_use]
    pub fn receive(mode: CompletionMode) -> Self {
        Self::Receive { mode, bytes_max: u32::MAX }
    }

    pub(super) fn kind(&self) -> OperationKind {
        match self {
            Self::Accept(_) => OperationKind::Accept,
            Self::Receive { .. } => OperationKind::Receive,
            Self::Send(_) | Self::SendMessage(_) => OperationKind::Send,
            Self::Close => OperationKind::Close,
        }
    }
}

/// An operation was not submitted; it is returned.
#[derive(Debug)]
#[non_exhaustive]
pub struct SharedSubmitError<'s> {
    /// The reason.
    pub kind: SharedSubmitErrorKind,
    /// The operation, with its buffers.
    pub operation: SharedOperation<'s>,
}

/// Why an operation was not submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SharedSubmitErrorKind {
    /// The socket's port refuses it.
    Refused(SubmitErrorKind),
    /// The chain is not of the seat of the socket; send a message.
    OtherSeat,
    /// The socket's seat has no free chain entry for a message.
    NoEntry,
    /// The inbox of the socket's seat is full.
    InboxFull,
    /// The thread has no seat, because the shared port is closed.
    Closed,
}

impl fmt::Display for SharedSubmitErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(kind) => kind.fmt(f),
            Self::OtherSeat => f.write_str("the chain is of another seat than the socket"),
            Self::NoEntry => f.write_str("the socket's seat has no free chain entry"),
            Self::InboxFull => f.write_str("the inbox of the socket's seat is full"),
            Self::Closed => f.write_str("the shared port is closed"),
        }
    }
}

impl std::error::Error for SharedSubmitErrorKind {}

impl fmt::Display for SharedSubmitError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} was not submitted: {}", self.operation.kind(), self.kind)
    }
}

impl std::error::Error for SharedSubmitError<'_> {}

/// A completion of a shared port. `S` is an accepted connection, `L` a listener, `T` a packet.
#[expect(clippy::exhaustive_structs, reason = "as `Completion`")]
#[derive(Debug)]
pub struct SharedCompletion<'s, T, S = TcpStream, L = TcpListener> {
    /// The socket; `None` for a packet, and where association failed.
    pub socket: Option<SharedSocket>,
    /// The socket's key; 0 for a packet.
    pub key: Key,
    /// The result of the operation, or the packet.
    pub outcome: SharedOutcome<'s, T, S, L>,
}

/// The result of an operation on a shared port, or a packet.
#[non_exhaustive]
pub enum SharedOutcome<'s, T, S = TcpStream, L = TcpListener> {
    /// The socket is associated, and belongs to the thread's seat.
    Associated,
    /// The connection could not be associated.
    AssociateFailed(AssociateError<S>),
    /// The listener could not be associated.
    ListenerFailed(AssociateError<L>),
    /// A connection was accepted. It is not associated yet; dropping it closes it.
    Accepted {
        /// The connection.
        stream: S,
        /// The peer's address.
        peer: SocketAddr,
        /// Whether this is the accept's last completion.
        last: bool,
    },
    /// An accept ended without a connection.
    AcceptEnded(EndReason),
    /// Bytes were received. The buffer is not empty.
    Received {
        /// The bytes.
        buffer: Held<'s, Buffer>,
        /// Whether this is the receive's last completion.
        last: bool,
    },
    /// A receive ended without bytes.
    ReceiveEnded(EndReason),
    /// A send ended: the system took the first `sent` bytes of the chain, which still has all.
    Sent {
        /// The submitted chain, or one with the submitted message.
        chain: Held<'s, Chain>,
        /// Bytes sent.
        sent: usize,
        /// Why the send ended early; `None` if it sent all bytes or was short.
        end: Option<EndReason>,
    },
    /// An operation that a thread with another seat has submitted was refused by the socket's port.
    Refused {
        /// Its kind.
        operation: OperationKind,
        /// Why.
        kind: SharedSubmitErrorKind,
    },
    /// The socket is closed. The last completion with the socket's key.
    Closed,
    /// A packet.
    Posted(T),
}

impl<T, S, L> fmt::Debug for SharedOutcome<'_, T, S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Associated => f.write_str("Associated"),
            Self::AssociateFailed(error) => write!(f, "AssociateFailed({error})"),
            Self::ListenerFailed(error) => write!(f, "ListenerFailed({error})"),
            Self::Accepted { peer, last, .. } => write!(f, "Accepted({peer}, last: {last})"),
            Self::AcceptEnded(end) => write!(f, "AcceptEnded({end:?})"),
            Self::Received { buffer, last } => {
                write!(f, "Received({} bytes, last: {last})", buffer.len())
            }
            Self::ReceiveEnded(end) => write!(f, "ReceiveEnded({end:?})"),
            Self::Sent { chain, sent, end } => {
                write!(f, "Sent({sent} of {} bytes, {end:?})", chain.len())
            }
            Self::Refused { operation, kind } => write!(f, "Refused({operation:?}, {kind:?})"),
            Self::Closed => f.write_str("Closed"),
            Self::Posted(_) => f.write_str("Posted"),
        }
    }
}

/// A dequeue ended for good.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DequeueError {
    /// The shared port is closed.
    Closed,
    /// A port of it failed. The shared port is closed then.
    Failed(PortError),
}

impl fmt::Display for DequeueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the shared port is closed"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DequeueError {}

impl From<PortError> for DequeueError {
    fn from(error: PortError) -> Self {
        Self::Failed(error)
    }
}
