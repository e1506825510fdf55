//! A completion port for TCP: operations go in, completions come out.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(test)] // Two attributes, because clippy knows tests only by this one.
#[cfg(not(loom))]
mod conformance;
#[cfg(windows)]
#[expect(unsafe_code, reason = "registers a function with the system; see its invariants")]
pub mod console;
#[cfg(target_os = "linux")]
pub mod epoll;
#[cfg(windows)]
#[expect(unsafe_code, reason = "Winsock calls, and memory that the kernel writes; see flight.rs")]
pub mod iocp;
#[cfg(target_os = "linux")]
mod linux;
#[expect(unsafe_code, reason = "hands out pieces of one mapping; see its invariants")]
pub mod memory;
pub mod port;
mod sync;
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "hands addresses to the kernel; see its invariants")]
pub mod uring;
