//! The simulated port: its kernel, network and clock are a model in this process; a seed determines
//! the run.
//!
//! ```text
//!   SimClient ──write──► pipe ──latency──► SimPort's kernel ──dequeue──► the engine under test
//!   SimClient ◄──read─── pipe ◄──latency── SimPort's kernel ◄──submit───
//!                  └───── World: clock, random numbers, events ─────────┘
//! ```
//!
//! No call waits. The driver calls [`World::advance`] when every port sleeps; that moves the clock
//! to the next event or the end of the next wait. A dequeue returns the completions that are ready
//! at the clock's time, and stores until when the port sleeps. So a seed determines the run.
//!
//! ```text
//!   loop {
//!       for each port that port.is_runnable(): worker.turn()
//!       while let Some(tag) = world.next_ready_client(): that client reads and writes
//!       if no port is runnable and !world.advance(): the run ends, or is stuck
//!   }
//! ```
//!
//! [`World::advance`] may also be called while ports are runnable, and must be if an engine is
//! always runnable: the clock stands still until then.
//!
//! The port keeps the promises of [`port`](crate::port) under every fault that [`Faults`] can
//! inject. It reads the bytes of chains and writes to buffers as late as a kernel may, when the
//! completion is due. A planted bug ([`PortBug`]) breaks a promise, to prove that tests find it.
//!
//! # Invariants
//!
//! - **INV-SIM-1** A seed determines the run: no result depends on real time, addresses, threads or
//!   hashing.
//! - **INV-SIM-2** The world's lock is never held while a [`SimStream`], [`SimListener`] or
//!   [`SimClient`] is dropped; buffers may be dropped under it.
//! - **INV-SIM-3** Every queue is bounded: pipes by their capacity, due steps and events by the
//!   number of sockets and connections, ready completions by the spare capacity of a dequeue's
//!   vector plus the completions of one step.

pub(crate) mod accept;
pub(crate) mod config;
pub(crate) mod connection;
pub(crate) mod dequeue;
pub(crate) mod events;
pub(crate) mod faults;
pub(crate) mod kernel;
pub(crate) mod network;
pub(crate) mod peer;
pub(crate) mod pipe;
pub(crate) mod port;
pub(crate) mod receive;
pub(crate) mod rng;
pub(crate) mod send;
pub(crate) mod state;
pub(crate) mod submit;
#[cfg(test)] // Two attributes, because clippy knows tests only by this one.
#[cfg(not(loom))]
pub(crate) mod tests;
pub(crate) mod traffic;
pub(crate) mod world;
pub(crate) mod world_state;

pub use config::WorldConfig;
pub use faults::{FaultCounts, FaultKind, Faults, PortBug};
pub use peer::{SimClient, SimListener, SimStream};
pub use port::SimPort;
pub use rng::Rng;
pub use traffic::{GivenUp, Traffic, TrafficWatch};
pub use world::World;
