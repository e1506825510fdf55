//! The atomics and locks of the crate: std's, or loom's under `--cfg loom`.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
#[cfg(all(loom, target_os = "linux"))]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
#[cfg(all(not(loom), target_os = "linux"))]
pub(crate) use std::sync::{Condvar, MutexGuard};

#[cfg(all(not(loom), target_os = "linux"))]
#[expect(clippy::disallowed_types, reason = "threads pass a shared port's seats to each other")]
pub(crate) type Mutex<T> = std::sync::Mutex<T>;
