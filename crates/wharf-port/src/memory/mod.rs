//! Buffer memory: allocated at startup, acquired and released in constant time.
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
//! Each pool has its buffers in `Slots`, which are a `Region`: one mapping, populated at startup.
//!
//! # Invariants
//!
//! - **INV-POOL-1** A buffer of a [`BufferPool`] is either on the free stack or has exactly one
//!   handle, a [`Buffer`]. The pool, its buffers and its chains stay on one thread, except the
//!   buffers of a [`Parcel`].
//! - **INV-POOL-2** Bytes of a buffer are written only through its handle, or by the kernel while a
//!   port has that handle and gives out no reference to it.
//! - **INV-POOL-3** A pool's memory outlives every handle into it. It is freed when the last of the
//!   pool's handles, buffers and chain entries is released; a port that leaks buffers because the
//!   kernel may still write to them never releases them.
//! - **INV-CHAIN-1** A chain entry is either on the free list of its table, or in exactly one
//!   [`Chain`] or [`Parcel`], which alone reads it by `&self` and changes it by `&mut self`.
//! - **INV-PARCEL-1** Each entry of a [`Parcel`] holds a buffer. Only the thread that has the
//!   parcel reads and writes the entries, their links and the bytes of the buffers.
//! - **INV-PARCEL-2** Of its pool a parcel reads, beside those, only data that never change while
//!   the pool exists: the addresses of slots and entries, and the size of a buffer. It neither
//!   reads nor writes a free list, a count or a tag before it becomes a chain; that happens on the
//!   pool's thread, and only that releases its entries and buffers.
//! - **INV-MESSAGE-1** A buffer of a [`MessagePool`] is either on the free list, or in exactly one
//!   message, which has one or more [`Message`] handles that its reference count counts.
//! - **INV-MESSAGE-2** Bytes of a message are written before its first handle exists, or while a
//!   [`MessageBuilder`] has its only handle and gives out no reference to it, and not again before the
//!   last handle is dropped.
//! - **INV-MESSAGE-3** A message pool's memory outlives every handle into it: the handles to one
//!   message have one count of the pool's `Arc`, which the last of them releases.

pub(crate) mod buffer;
pub(crate) mod chain;
pub(crate) mod entries;
pub(crate) mod error;
pub(crate) mod free_list;
pub(crate) mod ledger;
pub(crate) mod message;
#[cfg(all(test, loom))]
mod message_loom;
pub(crate) mod pool;
pub(crate) mod region;
pub(crate) mod slots;
pub(crate) mod table;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

pub use buffer::Buffer;
pub use chain::{Chain, Filled, Parcel};
pub use error::{MemoryError, NoBuffers};
pub use ledger::{BufferCounts, LedgerView, Owner};
pub use message::{Message, MessageBuilder, MessageLedgerView, MessagePool, MessagePoolConfig};
pub use pool::{BufferPool, PoolConfig};
pub use region::Reservation;
pub use table::{try_table, try_with_capacity};
