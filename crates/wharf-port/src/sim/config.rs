//! How a world begins.

use super::faults::{Faults, Plant};

/// What a world is made of, and what can go wrong in it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorldConfig {
    /// What all chance comes from.
    pub seed: u64,
    /// What can go wrong.
    pub faults: Faults,
    /// A fault of the port that is planted.
    pub plant: Option<Plant>,
    /// Connections that can be open at once, those half closed included.
    pub connections_max: u32,
    /// Listening sockets that can be open at once.
    pub listeners_max: u32,
    /// Connections that can wait to be accepted at one listener; more are refused.
    pub backlog_max: u32,
    /// Ports take the buffers that they receive into from their pool in advance, as io_uring does:
    /// up to [`PortConfig::receive_window`](crate::port::PortConfig::receive_window) at each dequeue.
    pub lends_window: bool,
}

impl WorldConfig {
    /// A world without faults for 1,024 connections.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            faults: Faults::none(),
            plant: None,
            connections_max: 1024,
            listeners_max: 16,
            backlog_max: 128,
            lends_window: false,
        }
    }
}
