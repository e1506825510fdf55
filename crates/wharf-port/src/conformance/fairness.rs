//! INV-PORT-6, the order: sockets that wait for a buffer are served in FIFO order, and receives of
//! other sockets do not change it.
//!
//! The method: sockets begin to wait in a known order while the pool is empty. Then receives of
//! others, which have bytes already, are armed, before one buffer after the other is released. Or
//! all waiting receives are cancelled, once of 500 links (100 on Windows) and once of four times as many.

use super::checker::{PortChecker, assert_pattern, pattern};
use super::network::{Peer, Setup, TestNetwork, each_back_end};
use super::pool_empty::{exhaust, write_until_waiting};
use crate::port::clock::Clock;
use crate::port::completion::EndReason;
use crate::port::contract::Port;
use crate::port::operation::{CompletionMode, OperationKind};
use std::time::Duration;

each_back_end!(
    a_receive_armed_anew_waits_behind_those_that_wait,
    failed_attempts_keep_their_order,
    links_that_are_rearmed_at_once_get_no_more_than_their_part,
    waiting_receives_are_cancelled_in_linear_time,
);

fn a_receive_armed_anew_waits_behind_those_that_wait<N: TestNetwork>() {
    for mode in [CompletionMode::Oneshot, CompletionMode::Multishot, CompletionMode::IfReady] {
        let mut checker = PortChecker::<N>::new(Setup::small());
        let mut links = checker.links(4);
        let mut held_buffers = exhaust(&mut checker);
        checker.keep_buffers = true;
        checker.peer_writes(&mut links[3].1, b"armed last");
        for (link, peer) in &mut links[..3] {
            checker.receive(*link, CompletionMode::Multishot);
            write_until_waiting(&mut checker, peer, b"waits");
        }
        checker.received_from.clear();
        // The same dequeue finds its bytes, its receive and a free buffer.
        checker.receive(links[3].0, mode);
        for count in 1..=4 {
            drop(held_buffers.pop());
            checker.until("a link to be served", |checker| checker.received_from.len() == count);
        }
        let expected: Vec<_> = links.iter().map(|(link, _)| link.key).collect();
        assert_eq!(checker.received_from, expected, "{mode:?}");
        drop(held_buffers);
        checker.finish();
    }
}

fn failed_attempts_keep_their_order<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let mut links = checker.links(6);
    let mut held_buffers = exhaust(&mut checker);
    checker.keep_buffers = true;
    for (_, peer) in &mut links[3..] {
        checker.peer_writes(peer, b"armed last");
    }
    for (link, peer) in &mut links[..3] {
        checker.receive(*link, CompletionMode::Multishot);
        write_until_waiting(&mut checker, peer, b"waits");
    }
    checker.received_from.clear();
    // If a back end gives these three the buffers, the attempts of the others fail together.
    for (link, _) in &links[3..] {
        checker.receive(*link, CompletionMode::Oneshot);
    }
    held_buffers.truncate(held_buffers.len() - 3);
    checker.until("three links to be served", |checker| checker.received_from.len() == 3);
    for count in 4..=6 {
        drop(held_buffers.pop());
        checker.until("a link to be served", |checker| checker.received_from.len() == count);
    }
    let waited: Vec<_> = links[..3].iter().map(|(link, _)| link.key).collect();
    let one_by_one: Vec<_> = checker.received_from[3..].to_vec();
    let in_turn: Vec<_> = one_by_one.iter().copied().filter(|key| waited.contains(key)).collect();
    assert!(in_turn.is_sorted(), "{in_turn:?} of {waited:?}");
    drop(held_buffers);
    checker.finish();
}

fn links_that_are_rearmed_at_once_get_no_more_than_their_part<N: TestNetwork>() {
    const TOTAL: usize = 800;
    let mut checker = PortChecker::<N>::new(Setup::small().buffers(2, 256));
    let mut links = checker.links(8);
    let mut written = [0; 8];
    checker.until("many receives", |checker| {
        for (i, (link, peer)) in links.iter_mut().enumerate() {
            if written[i] - checker.of(*link).received.len() < 32 << 10 {
                written[i] += peer.try_write(&pattern(link.key, written[i], 32 << 10));
            }
            if !checker.in_flight(*link, OperationKind::Receive) {
                checker.receive(
                    *link,
                    if i < 4 { CompletionMode::Oneshot } else { CompletionMode::Multishot },
                );
            }
        }
        checker.received_from.len() >= TOTAL
    });
    let receives: Vec<_> = links.iter().map(|(link, _)| checker.of(*link).receives).collect();
    // An eighth each would be 100.
    assert!(receives.iter().all(|count| (50..=200).contains(count)), "{receives:?} of {TOTAL}");
    for (link, _) in &links {
        assert_pattern(link.key, 0, &checker.of(*link).received);
    }
    checker.finish();
}

fn waiting_receives_are_cancelled_in_linear_time<N: TestNetwork>() {
    let few = time_to_cancel::<N>(LINKS);
    let many = time_to_cancel::<N>(4 * LINKS);
    // Linear time gives a factor of 4, quadratic 16; 9 and 1 ms allow for a busy machine.
    assert!(
        many < few * 9 + Duration::from_millis(1),
        "{LINKS} links: {few:?}, four times as many: {many:?}"
    );
}

/// The time to cancel the waiting receives of `count` links; the least of five measurements.
fn time_to_cancel<N: TestNetwork>(count: u32) -> Duration {
    let mut checker = PortChecker::<N>::new(Setup::small().sockets(count + 8));
    let mut links = checker.links(count as usize);
    let held_buffers = exhaust(&mut checker);
    checker.completions_max(2 * count as usize);
    for (_, peer) in &mut links {
        checker.peer_writes(peer, b"x");
    }
    let clock = Clock::new();
    let mut least = Duration::MAX;
    for _ in 0..5 {
        let before = checker.network.port().counters().buffer_waits;
        for (link, _) in &links {
            checker.receive(*link, CompletionMode::Multishot);
        }
        checker.until("all to wait", |checker| {
            checker.network.port().counters().buffer_waits >= before + u64::from(count)
        });
        let start = clock.now();
        // From the last, so that a search from the front would visit all others.
        for (link, _) in links.iter().rev() {
            checker.network.port().cancel(link.socket, OperationKind::Receive);
        }
        least = least.min(clock.now().duration_since(start));
        for (link, _) in &links {
            checker.cancel(*link, OperationKind::Receive);
        }
        checker.until("all to be cancelled", |checker| {
            !links.iter().any(|(link, _)| checker.in_flight(*link, OperationKind::Receive))
        });
        for (link, _) in &links {
            assert_eq!(checker.of(*link).ends.pop(), Some(EndReason::Cancelled));
        }
    }
    drop(held_buffers);
    checker.finish();
    least
}

/// Each link has two descriptors, and takes longer under Wine.
const LINKS: u32 = if cfg!(windows) { 100 } else { 500 };
