//! INV-PORT-2: a buffer in flight belongs to the port; a port that is dropped cancels, waits until
//! nothing is in flight, and only then frees.
//!
//! The method: all free buffers of small pools are acquired, written and released whenever the
//! kernel might still have a stale address. With debug assertions the pool checks at each acquire
//! that the free buffer was not written. A clone of the pool outlives each port and counts the
//! released buffers. The checker checks the ledger's sum after each dequeue of every test.

use super::checker::{PortChecker, ROUND, assert_pattern, end_of, overwrite_free_buffers, pattern};
use super::network::{Peer, PeerRead, Setup, TestNetwork, each_back_end};
use crate::memory::ledger::{BufferCounts, Owner};
use crate::port::contract::Port;
use crate::port::operation::{CompletionMode, Operation, OperationKind};
use std::time::Duration;

each_back_end!(
    a_blocked_send_keeps_its_buffers_until_it_completes,
    late_data_never_lands_in_a_released_buffer,
    a_received_buffer_is_the_programs_and_stays_as_it_is,
    a_dropped_port_with_receives_in_flight_frees_all_and_ends_its_links,
    a_dropped_port_with_blocked_sends_frees_all_and_ends_its_links,
    a_dropped_port_with_accepts_in_flight_ends_what_came_in,
    a_dropped_port_with_completions_not_dequeued_frees_all,
    buffers_in_hand_outlive_the_port,
    a_port_that_is_its_pools_last_owner_frees_it_whatever_is_in_flight,
);

fn a_blocked_send_keeps_its_buffers_until_it_completes<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().narrow().buffers(512, 2048));
    let (link, mut peer) = checker.link();
    checker.round(ROUND);
    let free = checker.pool.free_count();
    checker.send(link, &pattern(1, 0, 700_000));
    let entries = 700_000_u32.div_ceil(2048);
    let mut read = Vec::new();
    let mut rounds = 0;
    checker.until("the send", |checker| {
        if checker.in_flight(link, OperationKind::Send) {
            // Buffers that are acquired now are not those in flight.
            assert_eq!(checker.pool.free_count(), free - entries);
            overwrite_free_buffers(&checker.pool);
        }
        rounds += 1;
        if rounds > 5 {
            peer.try_read(&mut read, 5_000);
        }
        !checker.in_flight(link, OperationKind::Send)
    });
    let done = checker.sent(link);
    assert_eq!(checker.pool.free_count(), free - entries, "the completion has the whole chain");
    let missing = done.sent - read.len();
    read.extend(checker.peer_reads(&mut peer, missing));
    assert_pattern(1, 0, &read);
    drop(done);
    assert_eq!(checker.pool.free_count(), free);
    checker.finish();
}

fn late_data_never_lands_in_a_released_buffer<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().buffers(8, 256));
    let mut links = checker.links(4);
    let mut written = [0; 4];
    for repetition in 0..300 {
        let mode =
            if repetition % 2 == 0 { CompletionMode::Oneshot } else { CompletionMode::Multishot };
        for (link, _) in &links {
            checker.receive(*link, mode);
        }
        checker.round(Duration::ZERO);
        for (i, (link, peer)) in links.iter_mut().enumerate() {
            checker.cancel(*link, OperationKind::Receive);
            written[i] += peer.try_write(&pattern(link.key, written[i], 90));
            overwrite_free_buffers(&checker.pool);
        }
        checker.until("all receives to be over", |checker| {
            overwrite_free_buffers(&checker.pool);
            links.iter().all(|(link, _)| !checker.in_flight(*link, OperationKind::Receive))
        });
    }
    for ((link, _), written) in links.iter().zip(written) {
        checker.receive(*link, CompletionMode::Multishot);
        checker.until("the rest", |checker| checker.of(*link).received.len() == written);
        assert_pattern(link.key, 0, &checker.of(*link).received);
    }
    checker.finish();
}

fn a_received_buffer_is_the_programs_and_stays_as_it_is<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().buffers(16, 256));
    checker.keep_buffers = true;
    let (held, mut held_peer) = checker.link();
    let (busy, mut busy_peer) = checker.link();
    checker.receive(held, CompletionMode::Multishot);
    checker.receive(busy, CompletionMode::Multishot);
    checker.peer_writes(&mut held_peer, &pattern(held.key, 0, 100));
    checker.until("bytes", |checker| checker.of(held).received.len() == 100);
    let buffers = std::mem::take(&mut checker.of(held).buffers);
    let count = u32::try_from(buffers.len()).unwrap();
    assert_eq!(checker.pool.ledger().application, count, "{:?}", checker.pool.ledger());
    // 20,000 bytes, five times the pool's size.
    for part in 0..100 {
        checker.peer_writes(&mut busy_peer, &pattern(busy.key, part * 200, 200));
        let len = (part + 1) * 200;
        checker.until("bytes", |checker| checker.of(busy).received.len() == len);
        checker.of(busy).buffers.clear();
    }
    let bytes: Vec<_> = buffers.iter().flat_map(|buffer| buffer.to_vec()).collect();
    assert_pattern(held.key, 0, &bytes);
    assert_pattern(busy.key, 0, &checker.of(busy).received);
    drop(buffers);
    checker.finish();
}

fn a_dropped_port_with_receives_in_flight_frees_all_and_ends_its_links<N: TestNetwork>() {
    for dequeued in [false, true] {
        let mut checker = PortChecker::<N>::new(Setup::small().buffers(8, 256));
        let mut links = checker.links(6);
        for (i, (link, _)) in links.iter().enumerate() {
            checker.receive(
                *link,
                if i % 2 == 0 { CompletionMode::Multishot } else { CompletionMode::Oneshot },
            );
        }
        if dequeued {
            checker.stays_quiet("nothing was sent");
        }
        for (_, peer) in &mut links[..3] {
            peer.try_write(b"as the port goes away");
        }
        let pool = checker.drop_port();
        for (_, mut peer) in links {
            peer.try_write(b"too late");
            let (bytes, end) = end_of::<N>(&mut peer);
            assert!(bytes.is_empty() && matches!(end, PeerRead::Eof | PeerRead::Reset));
            overwrite_free_buffers(&pool);
        }
    }
}

fn a_dropped_port_with_blocked_sends_frees_all_and_ends_its_links<N: TestNetwork>() {
    for dequeued in [false, true] {
        let mut checker = PortChecker::<N>::new(Setup::small().narrow().buffers(512, 2048));
        let mut links = checker.links(3);
        for (link, _) in &links {
            checker.receive(*link, CompletionMode::Multishot);
            checker.send(*link, &pattern(link.key, 0, 300_000));
        }
        if dequeued {
            checker.stays_quiet("no peer reads");
        }
        let pool = checker.drop_port();
        for (link, peer) in &mut links {
            let (bytes, _end) = end_of::<N>(peer);
            assert!(bytes.len() < 300_000);
            assert_pattern(link.key, 0, &bytes);
        }
        overwrite_free_buffers(&pool);
    }
}

fn a_dropped_port_with_accepts_in_flight_ends_what_came_in<N: TestNetwork>() {
    for (mode, rounds) in [
        (CompletionMode::Oneshot, 0),
        (CompletionMode::Multishot, 0),
        (CompletionMode::Oneshot, 1),
        (CompletionMode::Multishot, 1),
    ] {
        let mut checker = PortChecker::<N>::new(Setup::small());
        checker.accept(mode);
        for _ in 0..rounds {
            checker.round(ROUND);
        }
        let mut peers: Vec<_> = (0..3).map(|_| checker.network.connect()).collect();
        for _ in 0..rounds {
            checker.round(ROUND);
        }
        checker.drop_port();
        for peer in &mut peers {
            let (bytes, _end) = end_of::<N>(peer);
            assert!(bytes.is_empty());
        }
    }
}

fn a_dropped_port_with_completions_not_dequeued_frees_all<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().buffers(16, 256));
    let mut links = checker.links(4);
    for (link, _) in &links {
        checker.receive(*link, CompletionMode::Multishot);
    }
    checker.accept(CompletionMode::Multishot);
    checker.stays_quiet("nothing was sent");
    let mut one = Vec::with_capacity(1);
    for (link, peer) in &mut links {
        peer.try_write(&[7; 500]);
        checker.network.port().cancel(link.socket, OperationKind::Receive);
        let chain = checker.pool.chain_of(b"x", Owner::SendQueue).unwrap();
        checker.network.port().submit(link.socket, Operation::Send(chain)).unwrap();
    }
    links[0].1.shutdown_write();
    let mut late = checker.network.connect();
    checker.network.port().submit(links[1].0.socket, Operation::Close).unwrap();
    checker.network.port().poster().post(1).unwrap();
    // One completion of more than ten is dequeued; the others are in the port when it is dropped.
    checker.network.port().dequeue(&mut one, Some(ROUND)).unwrap();
    assert!(one.len() <= 1);
    drop(one);
    checker.drop_port();
    end_of::<N>(&mut late);
    for (_, mut peer) in links {
        end_of::<N>(&mut peer);
    }
}

fn a_port_that_is_its_pools_last_owner_frees_it_whatever_is_in_flight<N: TestNetwork>() {
    for dequeued in [false, true] {
        let setup = Setup::small().narrow().buffers(1024, 1024).large(4);
        let mut checker = PortChecker::<N>::new(setup);
        let mut links = checker.links(4);
        for (i, (link, peer)) in links.iter_mut().enumerate() {
            let zero_byte = i == 0;
            if zero_byte {
                checker.receive_max(*link, CompletionMode::Oneshot, 0);
            } else {
                checker.receive(*link, CompletionMode::Multishot);
            }
            checker.send(*link, &pattern(link.key, 0, 200_000));
            if i == 3 {
                peer.try_write(&[1; 5_000]);
            }
        }
        checker.accept(CompletionMode::Multishot);
        let _late = checker.network.connect();
        checker.network.port().poster().post(1).unwrap();
        if dequeued {
            for _ in 0..5 {
                checker.round(ROUND);
            }
        }
        checker.drop_port_and_pool();
    }
}

fn buffers_in_hand_outlive_the_port<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().narrow().buffers(64, 256));
    checker.keep_buffers = true;
    let (link, mut peer) = checker.link();
    checker.receive(link, CompletionMode::Multishot);
    checker.peer_writes(&mut peer, &pattern(1, 0, 600));
    checker.until("bytes", |checker| checker.of(link).received.len() == 600);
    checker.send(link, &pattern(2, 0, 1000));
    let done = checker.sent(link);
    let buffers = std::mem::take(&mut checker.of(link).buffers);
    let pool = checker.pool.clone();
    drop(checker);
    let held = u32::try_from(buffers.len()).unwrap();
    assert_eq!(pool.free_count() + held + done.chain.entry_count(), pool.capacity());
    overwrite_free_buffers(&pool);
    let bytes: Vec<_> = buffers.iter().flat_map(|buffer| buffer.to_vec()).collect();
    assert_pattern(1, 0, &bytes);
    assert_pattern(2, 0, &done.chain.slices().flatten().copied().collect::<Vec<_>>());
    drop((buffers, done));
    let all_free = BufferCounts { free: pool.capacity(), ..BufferCounts::default() };
    assert_eq!(pool.ledger(), all_free);
    overwrite_free_buffers(&pool);
}
