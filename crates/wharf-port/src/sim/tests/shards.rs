//! Several ports in one world: streams are posted, packets wake ports, and the clock moves when all
//! sleep.

use super::super::*;
use super::rig::ADDRESS;
use crate::memory::pool::{BufferPool, PoolConfig};
use crate::port::completion::{EndReason, Outcome};
use crate::port::contract::{Port, PortConfig, Time};
use crate::port::operation::{CompletionMode, Key, Operation, Socket};
use std::collections::BTreeMap;
use std::time::Duration;

type Shard = SimPort<SimStream>;

fn shard(world: &World) -> Shard {
    let config = PoolConfig { buffer_size_bytes: 64, ..PoolConfig::new(32) };
    SimPort::new(world, PortConfig::new(32), BufferPool::new(config).unwrap()).unwrap()
}

#[test]
fn streams_are_handed_from_shard_to_shard() {
    for seed in 0..20 {
        let faults = Faults::none()
            .with_latency_ns(500)
            .with(FaultKind::Delay, 100_000)
            .with(FaultKind::Reorder, 300_000);
        let world = World::new(WorldConfig { faults, ..WorldConfig::new(seed) });
        let mut shards = [shard(&world), shard(&world)];
        let listener = world.listen(ADDRESS.parse().unwrap()).unwrap();
        let listener = shards[0].associate_listener(listener, Key(0)).unwrap();
        shards[0].submit(listener, Operation::Accept(CompletionMode::Multishot)).unwrap();
        let mut clients: Vec<_> =
            (0..20).map(|tag| world.connect(ADDRESS.parse().unwrap(), tag).unwrap()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.try_write(b"ping").unwrap(), 4));
        let mut sockets = [BTreeMap::new(), BTreeMap::new()];
        loop {
            let mut ran = false;
            for at in 0..2 {
                while shards[at].is_runnable() {
                    turn(&mut shards, at, &mut sockets[at]);
                    ran = true;
                }
            }
            if !ran && !world.advance() {
                break;
            }
        }
        for client in &mut clients {
            let mut target = [0; 8];
            assert_eq!(client.try_read(&mut target).unwrap(), 4);
            assert_eq!(&target[..4], b"ping");
        }
        assert_eq!((sockets[0].len(), sockets[1].len()), (10, 10));
        drop((shards, clients));
        while world.advance() {}
        assert_eq!(world.connections(), 0);
    }
}

/// Every other connection goes to the second shard; both echo.
fn turn(shards: &mut [Shard; 2], at: usize, sockets: &mut BTreeMap<u64, Socket>) {
    let mut completions = Vec::with_capacity(4);
    let other = shards[1].poster();
    shards[at].dequeue(&mut completions, Some(Duration::from_secs(1))).unwrap();
    // No deadline, so that the clock stops after the last byte.
    shards[at].world.lock().ports[at].wakes_at_ns = None;
    let key = 1 + sockets.len() as u64;
    for (completion, key) in completions.into_iter().zip(key..) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the rest must not come")]
        let stream = match completion.outcome {
            Outcome::Accepted { stream, peer, .. } => {
                if peer.ip().to_string().ends_with(['1', '3', '5', '7', '9']) {
                    other.post(stream).unwrap();
                    continue;
                }
                stream
            }
            Outcome::Posted(stream) => stream,
            Outcome::Received { buffer, .. } => {
                let mut chain = crate::memory::Chain::new();
                chain.push(shards[at].pool(), buffer).unwrap();
                let socket = sockets[&completion.key.0];
                shards[at].submit(socket, Operation::Send(chain)).unwrap();
                continue;
            }
            Outcome::Sent { end: None, .. } => continue,
            other => panic!("{other:?}"),
        };
        let key = (key..).find(|key| !sockets.contains_key(key)).unwrap();
        let socket = shards[at].associate(stream, Key(key)).unwrap();
        shards[at].submit(socket, Operation::receive(CompletionMode::Multishot)).unwrap();
        sockets.insert(key, socket);
    }
}

#[test]
fn the_clock_stops_at_the_first_wait_that_is_over() {
    let world = World::new(WorldConfig::new(1));
    let mut shards = [shard(&world), shard(&world)];
    let mut completions = Vec::with_capacity(1);
    shards[0].dequeue(&mut completions, Some(Duration::from_millis(5))).unwrap();
    shards[1].dequeue(&mut completions, Some(Duration::from_millis(3))).unwrap();
    assert!(!shards[0].is_runnable() && !shards[1].is_runnable());
    assert!(world.advance());
    assert_eq!(world.now(), Time(3_000_000));
    assert!(!shards[0].is_runnable() && shards[1].is_runnable());
    // A port that does not wait does not stop the clock.
    shards[1].dequeue(&mut completions, Some(Duration::ZERO)).unwrap();
    assert!(world.advance());
    assert_eq!(world.now(), Time(3_001_000));
    shards[1].dequeue(&mut completions, None).unwrap();
    assert!(world.advance());
    assert_eq!(world.now(), Time(5_000_000));
}

#[test]
fn a_post_to_a_port_that_sleeps_makes_it_runnable() {
    let world = World::new(WorldConfig::new(1));
    let mut port = SimPort::<u32>::new(&world, PortConfig::new(1), pool()).unwrap();
    let mut completions = Vec::with_capacity(4);
    port.dequeue(&mut completions, None).unwrap();
    assert!(!port.is_runnable() && !world.advance());
    port.poster().post(7).unwrap();
    assert!(port.is_runnable());
    port.dequeue(&mut completions, None).unwrap();
    assert!(matches!(completions[0].outcome, Outcome::Posted(7)));
    assert_eq!(port.counters().wakeups, 1);
}

/// A spurious wake-up keeps operations back, and no packet.
#[test]
fn a_spurious_wake_up_leaves_no_packet() {
    let faults = Faults::none().with(FaultKind::SpuriousWake, 1_000_000);
    let world = World::new(WorldConfig { faults, ..WorldConfig::new(1) });
    let mut port = SimPort::<u32>::new(&world, PortConfig::new(1), pool()).unwrap();
    let (poster, mut completions) = (port.poster(), Vec::with_capacity(8));
    for _ in 0..10 {
        (0..7).for_each(|packet| poster.post(packet).unwrap());
        port.dequeue(&mut completions, None).unwrap();
        assert_eq!(completions.drain(..).len(), 7);
    }
    assert!(world.fault_counts().of(FaultKind::SpuriousWake) > 0);
}

#[test]
fn a_port_alone_moves_the_clock_until_something_is_there() {
    let faults = Faults::none().with_latency_ns(1_000_000);
    let world = World::new(WorldConfig { faults, ..WorldConfig::new(1) });
    let mut port = SimPort::<()>::with_own_clock(&world, PortConfig::new(2), pool()).unwrap();
    let listener = world.listen(ADDRESS.parse().unwrap()).unwrap();
    let listener = port.associate_listener(listener, Key(1)).unwrap();
    port.submit(listener, Operation::Accept(CompletionMode::Oneshot)).unwrap();
    let client = world.connect(ADDRESS.parse().unwrap(), 0).unwrap();
    let mut completions = Vec::with_capacity(4);
    port.dequeue(&mut completions, None).unwrap();
    let accepted = completions.pop().unwrap();
    assert_eq!(port.now(), Time(1_000_000));
    let Outcome::Accepted { stream, last: true, .. } = accepted.outcome else { panic!() };
    let socket = port.associate(stream, Key(2)).unwrap();
    port.submit(socket, Operation::receive(CompletionMode::Multishot)).unwrap();
    drop(client);
    port.dequeue(&mut completions, Some(Duration::from_secs(1))).unwrap();
    let ended = completions.pop().unwrap();
    assert!(matches!(ended.outcome, Outcome::ReceiveEnded(EndReason::PeerClosed)));
    assert_eq!(port.now(), Time(2_000_000));
    port.dequeue(&mut completions, Some(Duration::from_secs(1))).unwrap();
    assert_eq!((completions.len(), port.now()), (0, Time(1_002_000_000)));
}

fn pool() -> BufferPool {
    BufferPool::new(PoolConfig { buffer_size_bytes: 64, ..PoolConfig::new(4) }).unwrap()
}
