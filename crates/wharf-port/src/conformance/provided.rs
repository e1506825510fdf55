//! Provided buffers: a port provides at most as many as `set_receive_buffers` says, and receives complete
//! with any number above 0. Back ends without provided buffers have none.
//!
//! The method: the number is lowered and raised under traffic, and after each dequeue the ledger
//! says how many buffers are provided.

use super::checker::{Link, PortChecker, assert_pattern, pattern};
use super::network::{Peer, Setup, TestNetwork, each_back_end};
use crate::port::contract::Port;
use crate::port::operation::CompletionMode;

each_back_end!(
    a_lower_count_takes_effect_as_provided_buffers_are_used,
    one_provided_buffer_serves_many_links,
    without_provided_buffers_receives_wait_until_the_count_is_raised,
);

fn a_lower_count_takes_effect_as_provided_buffers_are_used<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    checker.receive(link, CompletionMode::Multishot);
    checker.stays_quiet("no peer has sent");
    let mut provided = provided_with::<N>(&mut checker, 8);
    checker.network.port().set_receive_buffers(2);
    checker.stays_quiet("no peer has sent");
    assert_eq!(checker.pool.ledger().kernel_receive, provided, "provided buffers stay");
    // One byte fills one buffer.
    for sent in 0..20 {
        exchange(&mut checker, link, &mut peer, sent);
        let now = checker.pool.ledger().kernel_receive;
        assert!(now <= provided.max(2), "{now} are provided after {provided}");
        provided = now;
    }
    provided_with::<N>(&mut checker, 2);
    // Values above the configured one mean the configured one.
    for (count_max, most) in [(3, 3), (u32::MAX, 8), (8, 8), (1, 8)] {
        checker.network.port().set_receive_buffers(count_max);
        checker.stays_quiet("no peer has sent");
        provided_with::<N>(&mut checker, most);
    }
    checker.finish();
}

fn one_provided_buffer_serves_many_links<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    checker.network.port().set_receive_buffers(1);
    let mut links = checker.links(8);
    for (link, peer) in &mut links {
        checker.receive(*link, CompletionMode::Multishot);
        checker.peer_writes(peer, &pattern(link.key, 0, 1_500));
    }
    checker.until("all bytes", |checker| {
        provided_with::<N>(checker, 1);
        links.iter().all(|(link, _)| checker.of(*link).received.len() == 1_500)
    });
    for (link, _) in &links {
        assert_pattern(link.key, 0, &checker.of(*link).received);
    }
    checker.finish();
}

fn without_provided_buffers_receives_wait_until_the_count_is_raised<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let mut links = checker.links(3);
    checker.network.port().set_receive_buffers(0);
    for (link, peer) in &mut links {
        checker.receive(*link, CompletionMode::Multishot);
        checker.peer_writes(peer, &pattern(link.key, 0, 4_000));
    }
    for _ in 0..5 {
        checker.round(super::checker::ROUND);
    }
    assert_eq!(checker.network.port().refill_count(), 0);
    provided_with::<N>(&mut checker, 0);
    checker.network.port().set_receive_buffers(8);
    checker.until("all bytes", |checker| {
        links.iter().all(|(link, _)| checker.of(*link).received.len() == 4_000)
    });
    for (link, _) in &links {
        assert_pattern(link.key, 0, &checker.of(*link).received);
    }
    checker.finish();
}

/// The peer sends one byte, and it arrives.
fn exchange<N: TestNetwork>(
    checker: &mut PortChecker<N>,
    link: Link,
    peer: &mut N::Peer,
    sent: usize,
) {
    checker.peer_writes(peer, &pattern(link.key, sent, 1));
    checker.until("the byte", |checker| checker.of(link).received.len() == sent + 1);
    assert_pattern(link.key, 0, &checker.of(link).received);
    assert!(peer.try_write(&[]) == 0);
}

/// The number of provided buffers; checks that with the refill it is at most `count_max`.
fn provided_with<N: TestNetwork>(checker: &mut PortChecker<N>, count_max: u32) -> u32 {
    let provided = checker.pool.ledger().kernel_receive;
    let refill = checker.network.port().refill_count();
    assert!(provided + refill <= count_max, "{provided} provided, {refill} to refill");
    provided
}
