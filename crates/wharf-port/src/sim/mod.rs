//! The simulated port: its kernel, network and clock are a model in this process, driven by a seed.
//!
//! ```text
//!   SimClient ──write──► pipe ──latency──► SimPort's kernel ──dequeue──► the engine under test
//!   SimClient ◄──read─── pipe ◄──latency── SimPort's kernel ◄──submit───
//!                  └─────────── World: clock, chance, events ───────────┘
//! ```
//!
//! Nothing here waits. The driver calls [`World::advance`] when every port sleeps; that moves the
//! clock to the next event or the end of the next wait. A dequeue shows what is ready at the
//! clock's time, and notes until when it would have slept. So one seed is one run, always.
//!
//! ```text
//!   loop {
//!       for each port that port.is_runnable(): worker.turn()
//!       while let Some(tag) = world.ready_client(): let that client go on
//!       if no port is runnable and !world.advance(): over, or stuck
//!   }
//! ```
//!
//! [`World::advance`] may as well be called while ports are runnable, and has to be now and then if
//! an engine keeps itself busy: time stands still until it is.
//!
//! The port keeps the promises of [`port`](crate::port), under every fault that [`Faults`] can
//! inject: bytes are read from chains and written to buffers late, when the completion is due, and
//! never after it. [`Plant`] breaks the promises on purpose, to prove that checks see it.
//!
//! # Invariants
//!
//! - **INV-SIM-1** One seed, one run: nothing depends on time, addresses, threads or hashing.
//! - **INV-SIM-2** The world's lock is never held while a [`SimStream`], [`SimListener`] or
//!   [`SimClient`] is dropped; buffers may be.
//! - **INV-SIM-3** Every queue is bounded: pipes by their capacity, due steps and events by the
//!   number of sockets and connections, ready completions by the room that a dequeue offers.

mod accept;
mod config;
mod connection;
mod dequeue;
mod events;
mod faults;
mod kernel;
mod network;
mod peer;
mod pipe;
mod port;
mod receive;
mod rng;
mod send;
mod state;
mod submit;
#[cfg(test)] // Two attributes, because clippy knows tests only by this one.
#[cfg(not(loom))]
mod tests;
mod traffic;
mod world;
mod world_state;

pub use config::WorldConfig;
pub use faults::{FaultCounts, FaultKind, Faults, Plant};
pub use peer::{SimClient, SimListener, SimStream};
pub use port::SimPort;
pub use rng::Rng;
pub use traffic::{GivenUp, Traffic, TrafficWatch};
pub use world::World;
