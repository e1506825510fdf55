//! Buffer memory: taken from the system once, handed out and back without a search.
//!
//! ```text
//!   Region ──── one mapping from the system, all of it touched at start
//!     └ BufferPool ── equal buffers side by side, a free list, an owner tag for each
//!         ├ Buffer ── a handle to one buffer; a clone shares the bytes, the last handle frees them
//!         └ Chain ─── a run of buffers that leaves as one unbroken run of bytes
//! ```
//!
//! # Invariants
//!
//! - **INV-POOL-1** A buffer is in exactly one place: on the free list, or named by one or more
//!   [`Buffer`] handles that count as its references.
//! - **INV-POOL-2** Bytes of a buffer are written only through a handle that is the only one, or by
//!   the kernel while a port holds that only handle.
//! - **INV-POOL-3** A pool's memory outlives every handle into it: the last [`BufferPool`] frees
//!   the memory only when all of it is home, and else leaves it mapped for ever.

mod chain;
mod free_list;
mod pool;
mod region;

pub use chain::{Chain, NoRoom};
pub(crate) use pool::InUse;
pub use pool::{Buffer, BufferPool, Ledger, Owner, PoolConfig};
pub use region::MemoryError;
