//! The completion port that any number of threads dequeue from, of which at most N run at once.
//!
//! It is the completion port of Win32 with a concurrency value, on io_uring and epoll:
//!
//! ```text
//!   thread ─┐                    ┌─ seat 0: a port, its pool, its sockets
//!   thread ─┼─ N have a seat ────┤  ...
//!   thread ─┘                    └─ seat N-1
//!   thread ─┐
//!   thread ─┴─ wait for a seat, last in, first out        any thread: post, associate
//! ```
//!
//! A *seat* is the right to run, and one [`Port`](crate::port::Port) with its pool. A thread with a seat dequeues
//! from the seat's port, sleeps in it, and keeps the seat until it blocks or a thread that returns
//! from blocking needs one. [`Worker::blocking`] passes the seat to a waiting thread. A seat without
//! a thread is free; threads that find nothing on their own seats wait on the free ones, too.
//!
//! # Contract
//!
//! The module `shared_port::tests` tests each promise on io_uring, epoll and the simulated port.
//!
//! - **INV-SHARED-1** At most N threads run: have returned from [`Worker::dequeue`] with completions
//!   and not called it again, and are not in [`Worker::blocking`].
//! - **INV-SHARED-2** Of the threads that wait for a seat the one that began last gets the next.
//!   A thread that returns from blocking gets one before them, in FIFO order.
//! - **INV-SHARED-3** While a thread is in [`Worker::blocking`], another runs in its place: a waiting one at
//!   once, else one that finds nothing to do on its own seat.
//! - **INV-SHARED-4** A thread gets a seat again after it has blocked: a free one, or that of a thread
//!   that sleeps, or that of the first one that dequeues. No wake-up is lost.
//! - **INV-SHARED-5** Each completion is taken exactly once, by a thread that has its seat, and what
//!   INV-PORT-1 to 10 promise of a socket holds, whichever threads submit and dequeue.
//! - **INV-SHARED-6** A packet wakes a thread that sleeps, if there is one; none is lost while the port
//!   is open.
//! - **INV-SHARED-7** [`SharedPort::close`], and the drop of the [`SharedPort`], end the waits of all
//!   threads, of those with a seat after they have returned to dequeue.
//! - **INV-SHARED-8** Buffers and chains never outlive their thread's seat: they borrow the
//!   [`Worker`]. After the last of port and workers was dropped all buffers are free.
//!
//! # Where sockets are
//!
//! A socket belongs to one seat for all its life: the one with the fewest sockets when it was
//! associated. Its completions are taken by the thread that has this seat, which can submit its
//! operations directly. Another thread's operation goes to the seat's inbox, and the thread that
//! has the seat submits it when it takes it; a refusal is a completion then
//! ([`SharedOutcome::Refused`]). A thread that has blocked may have another seat than before.
//!
//! # Platforms
//!
//! Linux. On io_uring the rings are set up with COOP_TASKRUN, because threads submit to them one
//! after the other. The kernel finishes an operation in the thread that has submitted it:
//!
//! - While that thread blocks, each packet for its armed operations wakes it for a moment. System
//!   calls that the kernel does not restart then fail with EINTR: `epoll_wait`, and `recv`
//!   with SO_RCVTIMEO.
//! - While it computes in [`Worker::blocking`] without a system call, they wait up to a tick of the
//!   kernel's clock.
//!
//! Not on Windows: there `CreateIoCompletionPort` has a concurrency value of its own.
//!
//! # What it is not
//!
//! - The kernel does not tell when a thread blocks, so only what is declared by
//!   [`Worker::blocking`] gives the place up.
//! - Threads with a seat do not take each other's completions: a thread that computes for long
//!   delays the sockets of its seat, and no others.
//!
//! # How many threads
//!
//! N, and as many as block at once. With fewer some seats are free; all is served then, but each
//! dequeue looks at each free seat, which is a system call each.

mod member;
mod port;
mod seat;
mod seats;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
mod values;

pub use port::{SharedConfig, SharedPort, Worker};
pub use values::{
    DequeueError, Held, SharedCompletion, SharedOperation, SharedOutcome, SharedSocket,
    SharedSubmitError, SharedSubmitErrorKind,
};
