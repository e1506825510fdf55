//! The configuration of a world.

use super::faults::{Faults, PortBug};

/// The seed, faults and sizes of a world.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorldConfig {
    /// The seed of all random numbers.
    pub seed: u64,
    /// The faults that are injected.
    pub faults: Faults,
    /// A planted bug of the port.
    pub bug: Option<PortBug>,
    /// Connections that can be open at once, those half closed included.
    pub connections_max: u32,
    /// Listening sockets that can be open at once.
    pub listeners_max: u32,
    /// The most connections in a listener's backlog; further ones are reset.
    pub backlog_max: u32,
    /// Whether ports take the buffers for receives in advance, as io_uring does: at each dequeue up
    /// to [`PortConfig::receive_buffers_max`](crate::port::PortConfig::receive_buffers_max).
    pub provides_buffers: bool,
}

impl WorldConfig {
    /// A world without faults for 1,024 connections.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            faults: Faults::none(),
            bug: None,
            connections_max: 1024,
            listeners_max: 16,
            backlog_max: 128,
            provides_buffers: false,
        }
    }
}
