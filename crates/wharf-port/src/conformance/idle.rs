//! INV-PORT-5: a socket that waits for bytes holds no buffer.
//!
//! The method: receives are armed on one link, then on 200, and the ledger must be the same; also
//! after traffic on the links. A pool of 4 buffers is sufficient for 50 idle links.

use super::checker::{PortChecker, assert_pattern, pattern};
use super::network::{Setup, TestNetwork, each_back_end};
use crate::memory::ledger::{BufferCounts, Owner};
use crate::port::operation::{CompletionMode, OperationKind};

each_back_end!(
    two_hundred_idle_links_hold_no_more_than_one,
    links_that_were_busy_hold_nothing_when_they_are_idle_again,
    idle_links_leave_a_tiny_pool_to_the_program,
    buffers_held_for_receives_are_at_most_those_configured_and_half_of_the_pool,
);

fn two_hundred_idle_links_hold_no_more_than_one<N: TestNetwork>() {
    let setup = Setup::small().sockets(256).buffers(128, 256);
    let mut checker = PortChecker::<N>::new(setup);
    let (first, _peer) = checker.link();
    checker.receive(first, CompletionMode::Multishot);
    let with_one = quiet_ledger(&mut checker);
    let links = checker.links(199);
    for (i, (link, _)) in links.iter().enumerate() {
        checker.receive(
            *link,
            if i % 2 == 0 { CompletionMode::Multishot } else { CompletionMode::Oneshot },
        );
    }
    let with_all = quiet_ledger(&mut checker);
    assert_eq!(with_all, with_one);
    assert!(with_all.kernel_receive <= setup.port.receive_buffers_max, "{with_all:?}");
    assert_eq!(with_all.application, 0);
    checker.finish();
}

fn links_that_were_busy_hold_nothing_when_they_are_idle_again<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().sockets(64));
    let mut links = checker.links(40);
    for (link, _) in &links {
        checker.receive(*link, CompletionMode::Multishot);
    }
    let before = quiet_ledger(&mut checker);
    for (link, peer) in &mut links {
        checker.peer_writes(peer, &pattern(link.key, 0, 700));
        checker.until("the bytes", |checker| checker.of(*link).received.len() == 700);
        checker.send_whole(*link, &pattern(link.key, 0, 700));
        assert_pattern(link.key, 0, &checker.peer_reads(peer, 700));
    }
    assert_eq!(quiet_ledger(&mut checker), before);
    for (link, _) in &links {
        checker.cancel(*link, OperationKind::Receive);
    }
    checker.until("the receives to be over", |checker| {
        links.iter().all(|(link, _)| !checker.in_flight(*link, OperationKind::Receive))
    });
    let ledger = quiet_ledger(&mut checker);
    assert!(ledger.kernel_receive <= before.kernel_receive, "{ledger:?}");
    checker.finish();
}

fn idle_links_leave_a_tiny_pool_to_the_program<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().sockets(64).buffers(4, 256));
    let mut links = checker.links(50);
    for (link, _) in &links {
        checker.receive(*link, CompletionMode::Multishot);
    }
    checker.stays_quiet("all links are idle");
    let held: Vec<_> = std::iter::from_fn(|| checker.pool.acquire(Owner::Application)).collect();
    assert!(held.len() >= 2, "the program can acquire half of the pool: {:?}", checker.pool);
    drop(held);
    for (link, peer) in &mut links {
        checker.peer_writes(peer, &pattern(link.key, 0, 1_500));
        checker.until("the bytes", |checker| checker.of(*link).received.len() == 1_500);
        assert_pattern(link.key, 0, &checker.of(*link).received);
    }
    checker.finish();
}

fn buffers_held_for_receives_are_at_most_those_configured_and_half_of_the_pool<N: TestNetwork>() {
    for (provided_max, buffers) in [(1, 32), (8, 32), (100, 32), (32_768, 8)] {
        let mut setup = Setup::small().buffers(buffers, 256);
        setup.port.receive_buffers_max = provided_max;
        let mut checker = PortChecker::<N>::new(setup);
        let (link, mut peer) = checker.link();
        checker.receive(link, CompletionMode::Multishot);
        checker.peer_writes(&mut peer, &pattern(1, 0, 3_000));
        checker.until("the bytes", |checker| checker.of(link).received.len() == 3_000);
        assert_pattern(1, 0, &checker.of(link).received);
        let held = quiet_ledger(&mut checker).kernel_receive;
        assert!(
            held <= provided_max.min(buffers / 2),
            "{held} of {buffers}, receive_buffers_max {provided_max}"
        );
        checker.finish();
    }
}

/// The ledger after five dequeues without a completion.
fn quiet_ledger<N: TestNetwork>(checker: &mut PortChecker<N>) -> BufferCounts {
    checker.stays_quiet("no peer sends");
    checker.pool.ledger()
}
