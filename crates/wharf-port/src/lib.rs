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
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod sync;
#[cfg(any(target_os = "linux", windows))]
mod system;
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "hands addresses to the kernel; see its invariants")]
pub mod uring;

#[cfg(any(target_os = "linux", windows))]
pub use system::SystemPort;

/// Bytes that a port of this shape takes for its tables, about: places, queues and rings.
///
/// Buffers are not in it; see [`memory::PoolConfig::size_bytes`].
#[must_use]
pub fn table_size_bytes(config: &port::PortConfig) -> u64 {
    #[cfg(target_os = "linux")]
    {
        uring::table_size_bytes(config)
    }
    #[cfg(not(target_os = "linux"))]
    {
        u64::from(config.sockets_max) * 512
    }
}
