//! The completion port: submit operations, dequeue what has completed.
//!
//! An operation carries its own buffers into the port and brings them back in its completion, so
//! while the kernel may touch the bytes nobody else owns them.
//!
//! ```text
//!   worker ──submit(socket, Operation)──► port ──► kernel
//!   worker ◄──dequeue(&mut completions)── port ◄── kernel
//!   any thread ──Poster::post(packet)──► port ──► worker
//! ```
//!
//! # Contract
//!
//! Every back end keeps these promises; the module `conformance` tests each of them on each.
//!
//! - **INV-PORT-1** Each submitted operation completes exactly once, also when it is cancelled or
//!   its socket is closed. One that runs until it is ended ([`Shots::Many`]) is one operation with
//!   many completions of which exactly one, the last, is marked `last`.
//! - **INV-PORT-2** A buffer in flight belongs to the port: nobody can read, write, free or reuse
//!   it until its completion is dequeued. Dropping a port cancels, waits until nothing is in
//!   flight, and only then frees; what it cannot get back it leaks.
//! - **INV-PORT-3** At most one send per socket is in flight; bytes keep their order; a short send
//!   is continued by the port's user, who gets the chain back with the count.
//! - **INV-PORT-4** A completion never names a later owner of a socket's place: [`Socket`] carries a
//!   generation, a stale one is refused, and [`Outcome::Closed`] is the last completion that
//!   carries the socket's key.
//! - **INV-PORT-5** A socket that waits for bytes holds no buffer.
//! - **INV-PORT-6** When the pool is empty receiving pauses, and the next dequeue after a buffer was
//!   released resumes it; no operation fails for it. Sockets get buffers in the order in which they
//!   ran out of them: a receive that is submitted later does not overtake, whatever it brings.
//!   Buffers are released on the port's own thread, so a release wakes nobody: a dequeue serves
//!   those that wait before it sleeps.
//! - **INV-PORT-7** A post from any thread wakes a sleeping dequeue; wake-ups coalesce; no packet
//!   is lost while the port lives.
//! - **INV-PORT-8** A receive brings `bytes_max` bytes at most, in all its completions together, and
//!   when it has brought them it is over: its last completion comes without a cancel. Where the
//!   kernel receives ahead of the port (io_uring, [`Shots::Many`]) it may bring more, by the buffers
//!   that were lent to the kernel at that time; its last completion is then the last of them, or
//!   [`End::Cancelled`].
//! - **INV-PORT-9** A receive of 0 bytes takes no bytes and no buffer, and an empty pool does not
//!   hold it up. It ends, once, with [`End::Readable`] when there are bytes, and when there are none
//!   and will be none as any receive ends.
//! - **INV-PORT-10** Where the pool has large buffers, a stream that fills one buffer after the other
//!   comes in these, and in the others while no large one is free: a receive never waits for one. In
//!   large buffers a receive brings `bytes_max` bytes at most, also where it may bring more in others.

mod admission;
mod bulk;
mod clock;
mod completion;
mod contract;
mod demand;
mod error;
mod inbox;
mod operation;
mod socket_queue;
mod table;
mod wake;

pub use completion::{Completion, End, Outcome};
pub(crate) use contract::is_full;
pub use contract::{Completions, Counters, Port, PortConfig, Time};
pub use error::{OsError, PortError};
pub use inbox::{PostError, Poster};
pub use operation::{
    Key, Operation, OperationKind, Refused, Shots, Socket, SubmitError, SubmitErrorKind,
};

pub(crate) use admission::{SocketUse, check_submit};
pub(crate) use bulk::Bulk;
pub(crate) use clock::Clock;
pub(crate) use demand::Demand;
pub(crate) use inbox::Inbox;
pub(crate) use socket_queue::SocketQueue;
pub(crate) use table::{Entry, SocketTable};
pub(crate) use wake::Wake;
