//! The completion port: submit operations, dequeue their completions.
//!
//! An operation moves its buffers into the port, and its completion moves them back. While the
//! kernel may access the bytes, only the port owns the buffers.
//!
//! ```text
//!   worker ──submit(socket, Operation)──► port ──► kernel
//!   worker ◄──dequeue(&mut completions)── port ◄── kernel
//!   any thread ──Poster::post(packet)──► port ──► worker
//! ```
//!
//! # Contract
//!
//! Every back end keeps these promises; the module `conformance` tests each promise on each back
//! end.
//!
//! - **INV-PORT-1** Each submitted operation completes exactly once, also when it is cancelled or
//!   its socket is closed. A multishot operation ([`CompletionMode::Multishot`]) is one operation with many
//!   completions, of which exactly one, the last, is marked `last`.
//! - **INV-PORT-2** A buffer in flight belongs to the port: no other code can read, write, free or
//!   reuse it before its completion is dequeued. Dropping a port cancels, waits until nothing is in
//!   flight, and then frees; on a timeout of 5 s it leaks what is still in flight.
//! - **INV-PORT-3** At most one send per socket is in flight; bytes keep their order. A completion
//!   returns the chain with the count of bytes sent; the program continues a short send.
//! - **INV-PORT-4** A completion never carries the key of a later socket of the same slot:
//!   [`Socket`] has a generation, a submit with a stale one fails, and [`Outcome::Closed`] is the
//!   last completion with the socket's key.
//! - **INV-PORT-5** A socket that waits for bytes holds no buffer.
//! - **INV-PORT-6** When the pool is empty, receives wait and none fails; the next dequeue after a
//!   buffer was released continues them. The waiting sockets get buffers in FIFO order: a receive
//!   that is submitted later does not overtake them, of whichever kind it is. Buffers are released
//!   on the port's own thread, so a release makes no wake-up: a dequeue serves the waiting sockets
//!   before it sleeps.
//! - **INV-PORT-7** A post from any thread wakes a sleeping dequeue; wake-ups coalesce; no packet
//!   is lost while the port exists.
//! - **INV-PORT-8** A receive takes `bytes_max` bytes at most, in all its completions together.
//!   When it has taken them it ends without a cancel by the program. Where the kernel receives
//!   before the port has counted (io_uring, [`CompletionMode::Multishot`]) it may take more, by as many buffers
//!   as the kernel has; its last completion is then the last of these, or [`EndReason::Cancelled`].
//! - **INV-PORT-9** A receive of 0 bytes takes no bytes and no buffer, and does not wait for one.
//!   It completes once: with [`EndReason::Readable`] when there are bytes; when there are none and will
//!   be none, with the end or error of the stream.
//! - **INV-PORT-10** Where the pool has large buffers, a stream that fills one buffer after the
//!   other is received into large ones, and into small ones while no large one is free: a receive
//!   never waits for a large buffer. A receive into large buffers takes `bytes_max` bytes at most,
//!   also where one into small buffers may take more.

pub(crate) mod admission;
pub(crate) mod bulk;
pub(crate) mod clock;
pub(crate) mod completion;
pub(crate) mod contract;
pub(crate) mod demand;
pub(crate) mod error;
pub(crate) mod inbox;
pub(crate) mod operation;
#[cfg(target_os = "linux")]
pub(crate) mod seat;
pub(crate) mod socket_queue;
pub(crate) mod supply;
pub(crate) mod table;
pub(crate) mod wake;

pub use completion::{Completion, EndReason, Outcome};
pub use contract::{Completions, Counters, Port, PortConfig, Time};
pub use error::{OsError, PortError};
pub use inbox::{PostError, Poster};
pub use operation::{
    AssociateError, CompletionMode, Key, Operation, OperationKind, Socket, SubmitError,
    SubmitErrorKind,
};
