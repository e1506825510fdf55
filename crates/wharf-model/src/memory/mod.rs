//! Buffers: a pool of equal ones, chains of them, and each link's account of what it holds.
//!
//! The pool is real: a chain takes its buffers from it and returns them. If the accounts lent a
//! buffer that is not there, the pool is empty and the model panics.

mod account;
mod chain;
mod pool;

pub(crate) use account::{Account, Ledger};
pub(crate) use chain::{Chain, SharedBytes};
