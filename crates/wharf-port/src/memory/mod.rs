//! Buffer memory: taken from the system once, handed out and released without a search.
//!
//! ```text
//!   one thread                                            every thread
//!   BufferPool ── equal buffers, a free stack,            MessagePool ── equal buffers,
//!     │            owner tags, the chain entries            │             a lock-free stack
//!     ├ Buffer ─── the only handle to a buffer              └ Message ─── a handle to bytes in one
//!     ├ Parcel ─── buffers that another thread fills                      or more buffers; a clone
//!     └ Chain ──── a run of buffers and messages,                         shares them
//!                  sent as one unbroken run of bytes  ◄────────────────────┘
//! ```
//!
//! Both pools have their buffers in `Slots`, which are a `Region`: one mapping from the system,
//! all of it touched at startup.
//!
//! # Invariants
//!
//! - **INV-POOL-1** A buffer of a [`BufferPool`] is in exactly one place: on the free stack, or
//!   named by one [`Buffer`]. The pool, its buffers and its chains stay on one thread, but for the
//!   buffers of a [`Parcel`].
//! - **INV-POOL-2** Bytes of a buffer are written only through its handle, or by the kernel while a
//!   port holds that handle and shows it to nobody.
//! - **INV-POOL-3** A pool's memory outlives every handle into it. It is freed when the last of the
//!   pool's handles, buffers and chain entries is given back; what a port gives up because the
//!   kernel may still write to it is never given back.
//! - **INV-CHAIN-1** A chain entry is in exactly one place: on the free list of its table, or in one
//!   [`Chain`] or [`Parcel`], which alone reads it by `&self` and changes it by `&mut self`.
//! - **INV-PARCEL-1** Each entry of a [`Parcel`] holds a buffer. The entries, their links and the
//!   bytes of the buffers are read and written by the thread that has the parcel, and by no other.
//! - **INV-PARCEL-2** Of its pool a parcel reads, beside those, only what never changes while the
//!   pool lives: where slots and entries are, and how large a buffer is. It neither reads nor writes
//!   a free list, a count or a tag before it becomes a chain; that happens on the pool's thread, and
//!   it is the only way in which its entries and buffers are given back.
//! - **INV-MESSAGE-1** A buffer of a [`MessagePool`] is in exactly one place: on the free list, or in
//!   one message, which is named by one or more [`Message`] handles that count as its references.
//! - **INV-MESSAGE-2** Bytes of a message are written before its first handle is made, or while a
//!   [`MessageBuilder`] has its only handle and shows it to nobody, and not again before the last
//!   handle is gone.
//! - **INV-MESSAGE-3** A message pool's memory outlives every handle into it: the handles to one
//!   message have one count of the pool's `Arc`, which the last of them gives back.

mod buffer;
mod chain;
mod entries;
mod error;
mod free_list;
mod ledger;
mod message;
#[cfg(all(test, loom))]
mod message_loom;
mod pool;
mod region;
mod slots;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

pub use buffer::Buffer;
pub use chain::{Chain, Filled, Parcel};
pub use error::{MemoryError, NoRoom};
pub use ledger::{Ledger, LedgerView, Owner};
pub use message::{Message, MessageBuilder, MessagePool, MessagePoolConfig};
pub use pool::{BufferPool, PoolConfig};
