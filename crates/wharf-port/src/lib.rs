//! A completion port for TCP: operations go in, completions come out.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(windows)]
#[expect(unsafe_code, reason = "registers a function with the system; see its invariants")]
pub mod console;
#[cfg(windows)]
#[expect(unsafe_code, reason = "Winsock calls, and memory that the kernel writes; see flight.rs")]
pub mod iocp;
#[cfg(target_os = "linux")]
mod linux;
#[expect(unsafe_code, reason = "hands out pieces of one mapping; see its invariants")]
pub mod memory;
pub mod port;
mod sync;
