//! INV-PORT-10: a stream that fills buffers is received into large ones, while one is free.
//!
//! The method: pools of many small and few large buffers, and streams that are longer than either.
//! The received bytes are compared, and large buffers are counted by their capacity.

use super::checker::{Link, PortChecker, assert_pattern, pattern};
use super::network::{Setup, TestNetwork, each_back_end};
use crate::memory::buffer::Buffer;
use crate::port::operation::{CompletionMode, OperationKind};

each_back_end!(
    a_stream_that_fills_buffers_comes_in_large_ones,
    a_trickle_comes_in_small_buffers_again,
    while_no_large_buffer_is_free_small_ones_serve,
    a_large_buffer_keeps_to_the_limit_of_its_receive,
    links_that_wait_after_bulk_hold_no_large_buffer,
    a_port_that_is_dropped_with_receives_into_large_buffers_frees_all,
);

/// Small buffers have 256 bytes, large ones 2,048.
fn setup(large: u32) -> Setup {
    Setup::small().large(large)
}

fn large_of<N: TestNetwork>(checker: &mut PortChecker<N>, link: Link) -> usize {
    let pool = checker.pool.clone();
    checker.of(link).buffers.iter().filter(|buffer| buffer.is_large(&pool)).count()
}

/// The peer writes `len` further bytes, and the link receives them, by receives of at most 2 KiB
/// each. Releases the buffers, and returns how many were large.
fn transfer<N: TestNetwork>(
    checker: &mut PortChecker<N>,
    link: Link,
    peer: &mut N::Peer,
    len: usize,
) -> usize {
    let before = checker.of(link).received.len();
    checker.peer_writes(peer, &pattern(link.key, before, len));
    let mut large = 0;
    checker.until("all bytes", |checker| {
        large += large_of(checker, link);
        checker.of(link).buffers.clear();
        if !checker.in_flight(link, OperationKind::Receive) {
            checker.receive_max(link, CompletionMode::Multishot, 2_048);
        }
        checker.of(link).received.len() == before + len
    });
    assert_pattern(link.key, before, &checker.of(link).received[before..]);
    large
}

fn a_stream_that_fills_buffers_comes_in_large_ones<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(setup(4));
    checker.keep_buffers = true;
    let (link, mut peer) = checker.link();
    let large: usize = (0..24).map(|_| transfer(&mut checker, link, &mut peer, 512)).sum();
    assert!(large >= 4, "{large} large buffers");
    checker.finish();
}

fn a_trickle_comes_in_small_buffers_again<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(setup(4));
    checker.keep_buffers = true;
    let (link, mut peer) = checker.link();
    let bulk: usize = (0..24).map(|_| transfer(&mut checker, link, &mut peer, 512)).sum();
    // 3,840 bytes: the armed receive ends after 2 KiB, and the rule has seen small receives.
    for _ in 0..60 {
        transfer(&mut checker, link, &mut peer, 64);
    }
    let trickle: usize = (0..60).map(|_| transfer(&mut checker, link, &mut peer, 64)).sum();
    assert!(bulk > 0 && trickle == 0, "{bulk} large buffers, then {trickle}");
    checker.finish();
}

fn while_no_large_buffer_is_free_small_ones_serve<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(setup(2));
    checker.keep_buffers = true;
    let links = checker.links(4);
    let (mut held, mut received): (Vec<Buffer>, usize) = (Vec::new(), 0);
    for (link, mut peer) in links {
        for _ in 0..8 {
            let before = checker.of(link).received.len();
            checker.peer_writes(&mut peer, &pattern(link.key, before, 1_500));
            checker.until("all bytes", |checker| {
                let pool = checker.pool.clone();
                let buffers = std::mem::take(&mut checker.of(link).buffers);
                held.extend(buffers.into_iter().filter(|buffer| buffer.is_large(&pool)));
                if !checker.in_flight(link, OperationKind::Receive) {
                    checker.receive_max(link, CompletionMode::Multishot, 2_048);
                }
                checker.of(link).received.len() == before + 1_500
            });
            received += 1_500;
            assert_pattern(link.key, 0, &checker.of(link).received);
        }
        checker.cancel(link, OperationKind::Receive);
        checker.until("the cancel", |checker| !checker.in_flight(link, OperationKind::Receive));
    }
    assert_eq!(received, 4 * 8 * 1_500);
    assert!((1..=2).contains(&held.len()), "{} large buffers are held", held.len());
    drop(held);
    checker.finish();
}

fn a_large_buffer_keeps_to_the_limit_of_its_receive<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(setup(4));
    checker.keep_buffers = true;
    let (link, mut peer) = checker.link();
    checker.peer_writes(&mut peer, &pattern(link.key, 0, 20_000));
    let mut large = 0;
    for bytes_max in [256, 257, 300, 1_000, 2_047, 2_048, 2_049].into_iter().cycle() {
        let before = checker.of(link).received.len();
        if before >= 18_000 {
            break;
        }
        // The checker counts its bytes.
        checker.receive_max(link, CompletionMode::Oneshot, bytes_max);
        checker.until("a receive to be over", |checker| {
            !checker.in_flight(link, OperationKind::Receive)
        });
        large += large_of(&mut checker, link);
        checker.of(link).buffers.clear();
    }
    assert!(large > 2, "{large} large buffers");
    assert_pattern(link.key, 0, &checker.of(link).received);
    checker.finish();
}

fn links_that_wait_after_bulk_hold_no_large_buffer<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(setup(4));
    checker.keep_buffers = true;
    for (link, mut peer) in checker.links(8) {
        for _ in 0..6 {
            transfer(&mut checker, link, &mut peer, 512);
        }
        if !checker.in_flight(link, OperationKind::Receive) {
            checker.receive(link, CompletionMode::Multishot);
        }
        checker.stays_quiet("nothing more was sent");
        // At most half of them are provided, for all links together.
        let free = checker.pool.large().unwrap().free_count();
        assert!(free >= 2, "{free} of 4 large buffers are free");
    }
    checker.finish();
}

fn a_port_that_is_dropped_with_receives_into_large_buffers_frees_all<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(setup(4));
    checker.keep_buffers = true;
    let mut peers = Vec::new();
    for (link, mut peer) in checker.links(4) {
        for _ in 0..6 {
            transfer(&mut checker, link, &mut peer, 512);
        }
        peers.push(peer);
    }
    checker.drop_port();
}
