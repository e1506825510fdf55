//! A completion port for TCP: operations go in, completions come out.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(test)] // Two attributes, because clippy knows tests only by this one.
#[cfg(not(loom))]
mod conformance;
#[cfg(target_os = "linux")]
pub mod epoll;
#[cfg(target_os = "linux")]
mod linux;
#[expect(unsafe_code, reason = "hands out pieces of one mapping; see its invariants")]
pub mod memory;
pub mod port;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod sync;
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "hands addresses to the kernel; see its invariants")]
pub mod uring;
