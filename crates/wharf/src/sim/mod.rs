//! Simulations: the real engine on simulated ports, with injected faults. A seed determines a run.
//!
//! Shards, tables, buffers, timers and the handler under test are those of a real server; the kernel,
//! the network, the clients and the clock are a model in one thread. Nothing sleeps, so an hour of
//! simulated time may take a millisecond. The seed determines the faults, their times and the order of
//! execution, so that a failure can be replayed.
//!
//! ```text
//!   Client ──► World (network, clock, chance) ──► SimPort ──► engine ──► Handler under test
//!      └──────────────── Simulation::step: one of them runs, then checks follow ────────┘
//! ```
//!
//! The simulation checks with each callback, against records of its own: one `on_connect` first, one
//! `on_disconnect` last with a reason that has a cause, never two callbacks of a link at the same time;
//! `on_receive` only with input, with a grant and for a reason, and not while the link is paused or a
//! reply is deferred; `on_writable` only when it is due; `on_end` and `on_drain` once; `on_idle` not
//! too early. After each turn it checks the links of the shard: queues within their limit, loans,
//! timers. Every 8 steps (fewer with many shards) it checks that the counters agree and that free slots
//! are used, and every 64 that each slot is in one list, that the counts of the buffers agree, and that
//! no client waits too long for a server that has something to do for it. A panic of the handler is a
//! failure unless it is planned.
//!
//! At the end every client must have got what it waits for, unless its early end has a [cause](EarlyEndCause), the server
//! must stop within the drain timeout and the injected delays, and all buffers must be free.
//!
//! # Examples
//!
//! An echo handler, twenty clients, two hundred seeds with faults:
//!
//! ```
//! use wharf::sim::{Faults, Rng, Script, Simulation};
//! # struct Echo;
//! # impl wharf::Handler for Echo {
//! #     fn on_receive(&self, link: &mut wharf::Link<'_>, input: &mut wharf::Input<'_>) -> wharf::Result {
//! #         input.forward(&mut link.out);
//! #         Ok(())
//! #     }
//! # }
//!
//! for seed in 0..200 {
//!     let faults = Faults::random(&mut Rng::new(seed));
//!     let mut sim = Simulation::new(seed, Echo, faults);
//!     for _ in 0..20 {
//!         sim.connect(Script::new().send(b"hello").expect(b"hello").finish().expect_end());
//!     }
//!     sim.finish()?;
//! }
//! # Ok::<(), wharf::sim::SimFailure>(())
//! ```
//!
//! This module follows the engine, without a promise of stability.

mod bug;
mod buggy_handler;
mod buggy_port;
mod checked;
mod checker;
mod client;
mod early_end;
mod failure;
mod invariants;
mod outcome;
mod rules;
mod script;
mod simulation;

pub use bug::EngineBug;
pub use checked::PlannedPanic;
pub use client::{Client, Next};
pub use failure::{EarlyEndCause, EarlyEndCounts, SimFailure, SimReport};
pub use script::Script;
pub use simulation::{ClientId, SimConfig, Simulation, fits};
pub use wharf_port::port::Time;
pub use wharf_port::sim::{FaultCounts, FaultKind, Faults, PortBug, Rng, SimClient};
pub use wharf_port::sim::{GivenUp, Traffic, TrafficWatch};
