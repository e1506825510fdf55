//! Ports with provided buffers, and the limits of receives.

use super::super::*;
use super::rig::ADDRESS;
use crate::memory::ledger::Owner;
use crate::memory::pool::{BufferPool, PoolConfig};
use crate::port::completion::{Completion, EndReason, Outcome};
use crate::port::contract::{Port, PortConfig};
use crate::port::operation::{CompletionMode, Key, Operation, OperationKind, Socket};

type TestPort = SimPort<()>;

/// A port with buffers of 64 bytes, and links with the keys 1, 2 and so on.
pub(super) fn links(
    config: WorldConfig,
    count: u64,
    buffers: u32,
    provided_max: u32,
) -> (TestPort, Vec<SimClient>, Vec<Socket>) {
    let world = World::new(config);
    let pool = PoolConfig { buffer_size_bytes: 64, ..PoolConfig::new(buffers) };
    let ports = PortConfig { receive_buffers_max: provided_max, ..PortConfig::new(8) };
    let mut port = SimPort::new(&world, ports, BufferPool::new(pool).unwrap()).unwrap();
    let listener = world.listen(ADDRESS.parse().unwrap()).unwrap();
    let listener = port.associate_listener(listener, Key(0)).unwrap();
    port.submit(listener, Operation::Accept(CompletionMode::Multishot)).unwrap();
    let connect = |tag| world.connect(ADDRESS.parse().unwrap(), tag).unwrap();
    let clients: Vec<_> = (0..count).map(connect).collect();
    let mut completions = Vec::with_capacity(8);
    port.dequeue(&mut completions, None).unwrap();
    let mut sockets = Vec::new();
    for (completion, key) in completions.drain(..).zip(1..) {
        let Outcome::Accepted { stream, .. } = completion.outcome else { panic!("{completion:?}") };
        sockets.push(port.associate(stream, Key(key)).unwrap());
    }
    (port, clients, sockets)
}

fn lending(seed: u64) -> WorldConfig {
    WorldConfig { provides_buffers: true, ..WorldConfig::new(seed) }
}

/// One dequeue; the buffers stay where they are.
fn dequeue(port: &mut TestPort) -> Vec<Completion<SimStream, ()>> {
    let mut completions = Vec::with_capacity(64);
    port.dequeue(&mut completions, None).unwrap();
    completions
}

/// The bytes of received buffers, and how the last completion ends the receive.
fn summary(completions: &[Completion<SimStream, ()>]) -> (Vec<u32>, Option<Option<EndReason>>) {
    let mut sizes = Vec::new();
    let mut end = None;
    for completion in completions {
        assert_eq!(end, None, "the last completion was not the last: {completion:?}");
        #[expect(clippy::wildcard_enum_match_arm, reason = "the rest must not come")]
        match &completion.outcome {
            Outcome::Received { buffer, last } => {
                sizes.push(u32::try_from(buffer.len()).unwrap());
                end = last.then_some(None);
            }
            Outcome::ReceiveEnded(reason) => end = Some(Some(*reason)),
            other => panic!("{other:?}"),
        }
    }
    (sizes, end)
}

#[test]
fn buffers_are_provided_in_advance_and_one_link_can_fill_all_of_them() {
    let (mut port, mut clients, sockets) = links(lending(1), 1, 16, 4);
    assert_eq!(
        (port.provided_buffers(), port.pool().free_count(), port.refill_count()),
        (4, 12, 0)
    );
    port.submit(sockets[0], Operation::receive(CompletionMode::Multishot)).unwrap();
    clients[0].try_write(&[1; 1_000]).unwrap();
    let first = dequeue(&mut port);
    assert_eq!(summary(&first), (vec![64; 4], None));
    assert_eq!((port.provided_buffers(), port.refill_count()), (0, 4));
    assert_eq!(summary(&dequeue(&mut port)), (vec![64; 4], None));
    drop(first);
}

#[test]
fn the_count_of_provided_buffers_can_be_lowered_and_raised() {
    let (mut port, mut clients, sockets) = links(lending(1), 1, 16, 4);
    port.set_receive_buffers(1);
    assert_eq!((port.provided_buffers(), port.refill_count()), (4, 0));
    port.submit(sockets[0], Operation::receive(CompletionMode::Multishot)).unwrap();
    clients[0].try_write(&[1; 1_000]).unwrap();
    assert_eq!(summary(&dequeue(&mut port)), (vec![64; 4], None));
    assert_eq!(port.refill_count(), 1);
    assert_eq!(summary(&dequeue(&mut port)), (vec![64; 1], None));
    port.set_receive_buffers(1_000);
    assert_eq!(port.refill_count(), 4);
}

#[test]
fn a_cancelled_receive_fills_no_more_than_the_provided_buffers() {
    let mut most = 0;
    for seed in 0..100 {
        let (mut port, mut clients, sockets) = links(lending(seed), 1, 16, 4);
        port.submit(sockets[0], Operation::receive(CompletionMode::Multishot)).unwrap();
        assert!(dequeue(&mut port).is_empty());
        clients[0].try_write(&[1; 1_000]).unwrap();
        port.cancel(sockets[0], OperationKind::Receive);
        let completions = dequeue(&mut port);
        let (sizes, end) = summary(&completions);
        assert_eq!(end, Some(Some(EndReason::Cancelled)));
        most = most.max(sizes.len());
    }
    assert_eq!(most, 4);
}

#[test]
fn a_receive_brings_no_more_than_it_may() {
    for (mode, provides_buffers) in [
        (CompletionMode::Oneshot, false),
        (CompletionMode::Oneshot, true),
        (CompletionMode::Multishot, false),
    ] {
        let config = WorldConfig { provides_buffers, ..WorldConfig::new(1) };
        let (mut port, mut clients, sockets) = links(config, 1, 16, 4);
        clients[0].try_write(&[1; 1_000]).unwrap();
        for bytes_max in [1, 64, 100] {
            let receive = Operation::Receive { mode, bytes_max };
            port.submit(sockets[0], receive).unwrap();
            let sizes = match (mode, bytes_max) {
                (CompletionMode::Multishot, 100) => vec![64, 36],
                (_, 100) => vec![64],
                _ => vec![bytes_max],
            };
            assert_eq!(summary(&dequeue(&mut port)), (sizes, Some(None)));
        }
    }
}

#[test]
fn a_multishot_receive_may_exceed_its_limit_by_the_provided_buffers() {
    let mut most = 0;
    for seed in 0..100 {
        let (mut port, mut clients, sockets) = links(lending(seed), 1, 16, 4);
        clients[0].try_write(&[1; 1_000]).unwrap();
        let receive = Operation::Receive { mode: CompletionMode::Multishot, bytes_max: 64 };
        port.submit(sockets[0], receive).unwrap();
        let completions = dequeue(&mut port);
        let (sizes, end) = summary(&completions);
        assert_eq!(end, Some(None));
        most = most.max(sizes.len());
    }
    assert_eq!(most, 4);
}

#[test]
fn a_zero_byte_receive_takes_no_bytes_and_no_buffer() {
    let look = || Operation::Receive { mode: CompletionMode::Oneshot, bytes_max: 0 };
    let (mut port, mut clients, sockets) = links(WorldConfig::new(1), 2, 1, 1);
    let held = port.pool().acquire(Owner::Application);
    port.submit(sockets[0], look()).unwrap();
    assert!(dequeue(&mut port).is_empty());
    clients[0].try_write(b"there").unwrap();
    assert_eq!(summary(&dequeue(&mut port)), (vec![], Some(Some(EndReason::Readable))));
    drop(held);
    port.submit(sockets[0], Operation::receive(CompletionMode::Oneshot)).unwrap();
    assert_eq!(summary(&dequeue(&mut port)), (vec![5], Some(None)));
    port.submit(sockets[0], look()).unwrap();
    port.cancel(sockets[0], OperationKind::Receive);
    assert_eq!(summary(&dequeue(&mut port)), (vec![], Some(Some(EndReason::Cancelled))));
    port.submit(sockets[0], look()).unwrap();
    clients[0].shutdown_write();
    assert_eq!(summary(&dequeue(&mut port)), (vec![], Some(Some(EndReason::PeerClosed))));
    port.submit(sockets[1], look()).unwrap();
    clients.pop().unwrap().reset();
    let (sizes, end) = summary(&dequeue(&mut port));
    assert!(sizes.is_empty() && matches!(end, Some(Some(EndReason::Failed(_)))), "{end:?}");
}

#[test]
fn what_arrived_before_a_reset_is_received_first() {
    let (mut port, mut clients, sockets) = links(WorldConfig::new(1), 1, 4, 4);
    let mut client = clients.pop().unwrap();
    let traffic = client.traffic();
    client.try_write(b"last words").unwrap();
    client.reset();
    port.submit(sockets[0], Operation::receive(CompletionMode::Multishot)).unwrap();
    let (sizes, end) = summary(&dequeue(&mut port));
    assert!(sizes == [10] && matches!(end, Some(Some(EndReason::Failed(_)))), "{sizes:?} {end:?}");
    assert!(traffic.get().reset);
    assert_eq!((traffic.get().to_server, traffic.get().by_server), (10, 10));
}

#[test]
fn an_abortive_close_sends_a_reset_and_another_one_an_end_of_stream() {
    for abandons in [false, true] {
        let (mut port, mut clients, sockets) = links(WorldConfig::new(1), 1, 4, 4);
        let chain = port.pool().chain_of(b"half of it", Owner::Application).unwrap();
        port.submit(sockets[0], Operation::Send(chain)).unwrap();
        dequeue(&mut port);
        assert_eq!(port.acknowledged_bytes(sockets[0]), Some(10));
        if abandons {
            port.reset_on_close(sockets[0]);
        }
        port.submit(sockets[0], Operation::Close).unwrap();
        dequeue(&mut port);
        assert_eq!(port.acknowledged_bytes(sockets[0]), None);
        let mut target = [0; 64];
        assert_eq!(clients[0].try_read(&mut target).unwrap(), 10);
        assert_eq!(clients[0].try_read(&mut target).is_err(), abandons);
    }
}
