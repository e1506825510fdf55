//! Test networks of the simulated port, which must keep the contract, too.
//!
//! One is without faults, and one with those that do not change what the tests expect: delays of
//! bytes and completions, reordered completions, and late cancels.

use super::network::{Peer, PeerRead, Setup, TestNetwork, WaitLimit};
use crate::memory::pool::BufferPool;
use crate::port::contract::Port;
use crate::port::operation::{Key, Socket};
use crate::sim::config::WorldConfig;
use crate::sim::faults::{FaultKind, Faults};
use crate::sim::peer::SimClient;
use crate::sim::port::SimPort;
use crate::sim::world::World;
use std::io;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr};

pub(super) type SimNetwork = SimulatedNetwork<NoFaults>;
pub(super) type FaultySimNetwork = SimulatedNetwork<DelaysAndReorders>;

/// The faults of a network's world.
pub(super) trait FaultProfile {
    fn faults() -> Faults;
}

pub(super) enum NoFaults {}

impl FaultProfile for NoFaults {
    fn faults() -> Faults {
        Faults::none()
    }
}

pub(super) enum DelaysAndReorders {}

impl FaultProfile for DelaysAndReorders {
    fn faults() -> Faults {
        let mut faults = Faults::none()
            .with_latency_ns(1_000)
            .with(FaultKind::Delay, 300_000)
            .with(FaultKind::Reorder, 300_000)
            .with(FaultKind::CancelRace, 500_000);
        // 20 µs (at most 320 µs) is less than the timeout of a dequeue, 1 ms, so that a dequeue
        // without completions means that none is delayed.
        faults.delay_max_ns = 20_000;
        faults
    }
}

pub(super) struct SimulatedNetwork<F: FaultProfile> {
    port: SimPort<u64>,
    world: World,
    address: SocketAddr,
    fault_profile: PhantomData<F>,
}

impl<F: FaultProfile> TestNetwork for SimulatedNetwork<F> {
    type Port = SimPort<u64>;
    type Peer = SimPeer;
    type WaitLimit = Rounds;

    const RECEIVES_AHEAD: bool = false;

    fn unavailable() -> Option<String> {
        None
    }

    fn new(setup: Setup) -> Self {
        let mut faults = F::faults();
        if setup.narrow {
            faults.socket_buffer_bytes = NARROW_BYTES;
        }
        let config = WorldConfig {
            faults,
            backlog_max: BACKLOG,
            connections_max: CONNECTIONS,
            ..WorldConfig::new(SEED)
        };
        let world = World::new(config);
        let pool = BufferPool::new(setup.pool).unwrap();
        let port = SimPort::with_own_clock(&world, setup.port, pool).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7));
        Self { port, world, address, fault_profile: PhantomData }
    }

    fn port(&mut self) -> &mut SimPort<u64> {
        &mut self.port
    }

    fn listen(&mut self, key: Key) -> Socket {
        let listener = self.world.listen(self.address).unwrap();
        self.port.associate_listener(listener, key).unwrap()
    }

    fn connect(&mut self) -> SimPeer {
        let client = self.world.connect(self.address, 0).unwrap();
        SimPeer { address: client.address().unwrap(), client, world: self.world.clone() }
    }

    fn wait_limit() -> Rounds {
        Rounds { left: 1_000_000 }
    }
}

/// A limit by the number of dequeues, because the clock is the world's.
pub(super) struct Rounds {
    left: u32,
}

impl WaitLimit for Rounds {
    fn is_over(&mut self) -> bool {
        // Tests with posting threads need real time.
        std::thread::yield_now();
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }
}

pub(super) struct SimPeer {
    client: SimClient,
    world: World,
    address: SocketAddr,
}

impl Peer for SimPeer {
    fn try_write(&mut self, bytes: &[u8]) -> usize {
        self.client.try_write(bytes).unwrap_or(0)
    }

    fn try_read(&mut self, bytes: &mut Vec<u8>, len_max: usize) -> PeerRead {
        let before = bytes.len();
        bytes.resize(before + len_max, 0);
        let result = self.client.try_read(&mut bytes[before..]);
        bytes.truncate(before + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) => PeerRead::Eof,
            Ok(len) => PeerRead::Bytes(len),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Moves the clock, also after the port was dropped.
                self.world.advance();
                PeerRead::WouldBlock
            }
            Err(_) => PeerRead::Reset,
        }
    }

    fn shutdown_write(&mut self) {
        self.client.shutdown_write();
    }

    fn reset(self) {
        self.client.reset();
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn connected_to(&self) -> Option<SocketAddr> {
        None
    }
}

const SEED: u64 = 1;

/// More than any test opens at once.
const BACKLOG: u32 = 1024;

/// As above.
const CONNECTIONS: u32 = 4096;

/// As in the networks of real sockets.
const NARROW_BYTES: u32 = 8 * 1024;
