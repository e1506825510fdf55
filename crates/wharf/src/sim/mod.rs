//! The real engine on simulated ports: a seed is a run, with whatever can go wrong on the way.
//!
//! Shards, tables, buffers, timers and the handler under test are those of a real server; the
//! kernel, the network, the clients and the clock are a model in one thread. Nothing sleeps, and
//! an hour of the model's time may take a millisecond. What goes wrong, when, and who runs first
//! comes from the seed, so a failure can be replayed as often as is needed to understand it.
//!
//! ```text
//!   Client ──► World (network, clock, chance) ──► SimPort ──► engine ──► Handler under test
//!      └───────────────── Simulation::step: one of them goes on, then all is checked ──┘
//! ```
//!
//! Checked after each step: the callbacks' contract, in a book of its own (one `on_connect` first, one
//! `on_disconnect` last with a reason that has a cause, never two at once; `on_receive` only with input,
//! with a grant and for a reason, and not while the link is paused, or a reply is deferred;
//! `on_writable` only when it is owed; `on_end` and `on_drain` once; `on_idle` not too early), the table
//! (no place lost, none both free and live), queues within their limit, buffers where they belong,
//! counters that agree, and that nobody waits too long for a server that has something to do for
//! it; a panic of the handler is a failure, too. At the end every client must have got what it waits
//! for, unless it has an [`Excuse`] of its own, the server must stop in time, and every buffer must be
//! home.
//!
//! # Examples
//!
//! An echo handler, twenty clients, two hundred seeds of trouble:
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
//!     let faults = Faults::drawn(&mut Rng::new(seed));
//!     let mut sim = Simulation::new(seed, Echo, faults);
//!     for _ in 0..20 {
//!         sim.connect(Script::new().send(b"hello").expect(b"hello").finish().expect_end());
//!     }
//!     sim.finish()?;
//! }
//! # Ok::<(), wharf::sim::SimFailure>(())
//! ```
//!
//! No promise of stability: this module follows the engine.

mod bug;
mod buggy_handler;
mod buggy_port;
mod census;
mod checked;
mod client;
mod contract;
mod excuse;
mod failure;
mod outcome;
mod rules;
mod script;
mod simulation;

pub use bug::EngineBug;
pub use checked::PlannedPanic;
pub use client::{Client, Next};
pub use failure::{Excuse, ExcuseCounts, SimFailure, SimReport};
pub use script::Script;
pub use simulation::{ClientId, SimConfig, Simulation, fits};
pub use wharf_port::port::Time;
pub use wharf_port::sim::{FaultCounts, FaultKind, Faults, Plant, Rng, SimClient};
pub use wharf_port::sim::{GivenUp, Traffic, TrafficWatch};
