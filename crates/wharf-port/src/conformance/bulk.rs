//! INV-PORT-10: a stream that fills buffers comes in large ones, while there are some.
//!
//! The method: pools of many small and few large buffers, and streams that are longer than either.
//! What is received is compared byte by byte, and large buffers are told by their capacity.

use super::bench::{Bench, Link, assert_pattern, pattern};
use super::lab::{Lab, Setup, each_back_end};
use crate::memory::Buffer;
use crate::port::{OperationKind, Shots};

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

fn large_of<L: Lab>(bench: &mut Bench<L>, link: Link) -> usize {
    let pool = bench.pool.clone();
    bench.of(link).buffers.iter().filter(|buffer| buffer.is_large(&pool)).count()
}

/// The peer writes `len` bytes more, and all of them are received, by receives of at most 2 KiB each.
/// What came in is let go; says how many large buffers that were.
fn transfer<L: Lab>(bench: &mut Bench<L>, link: Link, peer: &mut L::Peer, len: usize) -> usize {
    let before = bench.of(link).received.len();
    bench.peer_writes(peer, &pattern(link.key, before, len));
    let mut large = 0;
    bench.until("all bytes", |bench| {
        large += large_of(bench, link);
        bench.of(link).buffers.clear();
        if !bench.in_flight(link, OperationKind::Receive) {
            bench.receive_max(link, Shots::Many, 2_048);
        }
        bench.of(link).received.len() == before + len
    });
    assert_pattern(link.key, before, &bench.of(link).received[before..]);
    large
}

fn a_stream_that_fills_buffers_comes_in_large_ones<L: Lab>() {
    let mut bench = Bench::<L>::new(setup(4));
    bench.keep_buffers = true;
    let (link, mut peer) = bench.link();
    let large: usize = (0..24).map(|_| transfer(&mut bench, link, &mut peer, 512)).sum();
    assert!(large >= 4, "{large} large buffers");
    bench.finish();
}

fn a_trickle_comes_in_small_buffers_again<L: Lab>() {
    let mut bench = Bench::<L>::new(setup(4));
    bench.keep_buffers = true;
    let (link, mut peer) = bench.link();
    let bulk: usize = (0..24).map(|_| transfer(&mut bench, link, &mut peer, 512)).sum();
    // Until the receive that is armed has brought its 2 KiB, and then some.
    for _ in 0..60 {
        transfer(&mut bench, link, &mut peer, 64);
    }
    let trickle: usize = (0..60).map(|_| transfer(&mut bench, link, &mut peer, 64)).sum();
    assert!(bulk > 0 && trickle == 0, "{bulk} large buffers, then {trickle}");
    bench.finish();
}

fn while_no_large_buffer_is_free_small_ones_serve<L: Lab>() {
    let mut bench = Bench::<L>::new(setup(2));
    bench.keep_buffers = true;
    let links = bench.links(4);
    let (mut held, mut received): (Vec<Buffer>, usize) = (Vec::new(), 0);
    for (link, mut peer) in links {
        for _ in 0..8 {
            let before = bench.of(link).received.len();
            bench.peer_writes(&mut peer, &pattern(link.key, before, 1_500));
            bench.until("all bytes", |bench| {
                let pool = bench.pool.clone();
                let buffers = std::mem::take(&mut bench.of(link).buffers);
                held.extend(buffers.into_iter().filter(|buffer| buffer.is_large(&pool)));
                if !bench.in_flight(link, OperationKind::Receive) {
                    bench.receive_max(link, Shots::Many, 2_048);
                }
                bench.of(link).received.len() == before + 1_500
            });
            received += 1_500;
            assert_pattern(link.key, 0, &bench.of(link).received);
        }
        bench.cancel(link, OperationKind::Receive);
        bench.until("the cancel", |bench| !bench.in_flight(link, OperationKind::Receive));
    }
    assert_eq!(received, 4 * 8 * 1_500);
    assert!((1..=2).contains(&held.len()), "{} large buffers are held", held.len());
    drop(held);
    bench.finish();
}

fn a_large_buffer_keeps_to_the_limit_of_its_receive<L: Lab>() {
    let mut bench = Bench::<L>::new(setup(4));
    bench.keep_buffers = true;
    let (link, mut peer) = bench.link();
    bench.peer_writes(&mut peer, &pattern(link.key, 0, 20_000));
    let mut large = 0;
    for bytes_max in [256, 257, 300, 1_000, 2_047, 2_048, 2_049].into_iter().cycle() {
        let before = bench.of(link).received.len();
        if before >= 18_000 {
            break;
        }
        // The bench counts what it brings.
        bench.receive_max(link, Shots::One, bytes_max);
        bench.until("a receive to be over", |bench| !bench.in_flight(link, OperationKind::Receive));
        large += large_of(&mut bench, link);
        bench.of(link).buffers.clear();
    }
    assert!(large > 2, "{large} large buffers");
    assert_pattern(link.key, 0, &bench.of(link).received);
    bench.finish();
}

fn links_that_wait_after_bulk_hold_no_large_buffer<L: Lab>() {
    let mut bench = Bench::<L>::new(setup(4));
    bench.keep_buffers = true;
    for (link, mut peer) in bench.links(8) {
        for _ in 0..6 {
            transfer(&mut bench, link, &mut peer, 512);
        }
        if !bench.in_flight(link, OperationKind::Receive) {
            bench.receive(link, Shots::Many);
        }
        bench.stays_quiet("nothing more comes");
        // A window lends half of them, for all links together.
        let free = bench.pool.large().unwrap().free();
        assert!(free >= 2, "{free} of 4 large buffers are free");
    }
    bench.finish();
}

fn a_port_that_is_dropped_with_receives_into_large_buffers_frees_all<L: Lab>() {
    let mut bench = Bench::<L>::new(setup(4));
    bench.keep_buffers = true;
    let mut peers = Vec::new();
    for (link, mut peer) in bench.links(4) {
        for _ in 0..6 {
            transfer(&mut bench, link, &mut peer, 512);
        }
        peers.push(peer);
    }
    bench.drop_port();
}
