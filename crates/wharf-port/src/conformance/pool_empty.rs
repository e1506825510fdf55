//! INV-PORT-6: when the pool is empty, receives wait and none fails; the next dequeue after a
//! buffer was released continues them, in FIFO order.
//!
//! The method: the test acquires every free buffer, and gets the provided ones by receives on a
//! link of its own. Then it releases them one at a time and checks which link receives.

use super::checker::{PortChecker, ROUND, assert_pattern, end_of, pattern};
use super::network::{Peer, Setup, TestNetwork, each_back_end};
use crate::memory::buffer::Buffer;
use crate::memory::chain::Chain;
use crate::memory::ledger::Owner;
use crate::port::completion::{EndReason, Outcome};
use crate::port::contract::Port;
use crate::port::operation::{CompletionMode, Operation, OperationKind};
use std::time::Duration;

each_back_end!(
    receives_wait_while_the_pool_is_empty_and_none_fails,
    one_released_buffer_resumes_a_receive,
    links_get_buffers_in_the_order_in_which_they_began_to_wait,
    a_dequeue_serves_those_that_wait_before_it_sleeps,
    eight_flooding_links_on_two_buffers_are_all_served,
    a_pool_of_one_buffer_serves_many_links,
    a_receive_that_waits_for_a_buffer_can_be_cancelled_and_closed,
    a_receive_if_ready_on_an_empty_pool_completes_once_and_loses_nothing,
    a_link_whose_peer_ends_while_it_waits_for_a_buffer_still_gets_every_byte,
    sends_and_accepts_go_on_while_the_pool_is_empty,
    a_port_that_is_dropped_while_receives_wait_for_buffers_frees_all,
);

fn receives_wait_while_the_pool_is_empty_and_none_fails<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let mut links = checker.links(12);
    let held_buffers = exhaust(&mut checker);
    let before = checker.network.port().counters().buffer_waits;
    for (i, (link, peer)) in links.iter_mut().enumerate() {
        checker.receive(
            *link,
            if i % 2 == 0 { CompletionMode::Multishot } else { CompletionMode::Oneshot },
        );
        checker.peer_writes(peer, &pattern(link.key, 0, 60));
    }
    checker.until("twelve receives to wait for a buffer", |checker| {
        checker.network.port().counters().buffer_waits >= before + 12
    });
    checker.stays_quiet("there is no buffer");
    for (link, _) in &links {
        assert!(checker.in_flight(*link, OperationKind::Receive));
        assert_eq!(checker.of(*link).receives, 0);
    }
    // Each receive that waits is counted once.
    assert_eq!(checker.network.port().counters().buffer_waits, before + 12);
    drop(held_buffers);
    checker.until("all bytes", |checker| {
        links.iter().all(|(link, _)| checker.of(*link).received.len() == 60)
    });
    for (link, _) in &links {
        assert_pattern(link.key, 0, &checker.of(*link).received);
    }
    checker.finish();
}

fn one_released_buffer_resumes_a_receive<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    let mut held_buffers = exhaust(&mut checker);
    checker.keep_buffers = true;
    checker.receive(link, CompletionMode::Multishot);
    write_until_waiting(&mut checker, &mut peer, &pattern(1, 0, 256 * 10));
    for count in 1..=10 {
        drop(held_buffers.pop());
        checker.until("one more buffer of bytes", |checker| checker.of(link).receives == count);
        checker.stays_quiet("one buffer serves one receive");
    }
    assert_eq!(checker.of(link).received.len(), 2_560, "a receive fills its buffer");
    assert_pattern(1, 0, &checker.of(link).received);
    assert!(checker.in_flight(link, OperationKind::Receive));
    drop(held_buffers);
    checker.finish();
}

fn links_get_buffers_in_the_order_in_which_they_began_to_wait<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let mut links = checker.links(8);
    for (link, _) in &links {
        checker.receive(*link, CompletionMode::Multishot);
    }
    checker.stays_quiet("no peer has sent");
    let mut held_buffers = exhaust(&mut checker);
    checker.keep_buffers = true;
    // Not the order of their slots.
    let order = [3, 0, 7, 1, 6, 2, 5, 4];
    for i in order {
        write_until_waiting(&mut checker, &mut links[i].1, b"served?");
    }
    checker.received_from.clear();
    for count in 1..=order.len() {
        drop(held_buffers.pop());
        checker.until("a link to be served", |checker| checker.received_from.len() == count);
    }
    let expected: Vec<_> = order.iter().map(|i| links[*i].0.key).collect();
    assert_eq!(checker.received_from, expected);
    drop(held_buffers);
    checker.finish();
}

fn a_dequeue_serves_those_that_wait_before_it_sleeps<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    let mut held_buffers = exhaust(&mut checker);
    checker.receive(link, CompletionMode::Multishot);
    write_until_waiting(&mut checker, &mut peer, &pattern(1, 0, 1));
    let mut completions = Vec::with_capacity(8);
    for turn in 1..=50 {
        // A release makes no wake-up: the dequeue checks the pool.
        drop(held_buffers.pop().unwrap());
        let start = checker.network.port().now();
        while completions.is_empty() {
            checker.network.port().dequeue(&mut completions, Some(LONG)).unwrap();
        }
        let slept = checker.network.port().now().duration_since(start);
        assert!(slept < LONG / 2, "turn {turn}: served only after {slept:?}");
        let completion = completions.remove(0);
        let Outcome::Received { buffer, last: false } = completion.outcome else {
            panic!("turn {turn}: {completion:?}");
        };
        assert_pattern(1, turn - 1, &buffer);
        assert!(completions.is_empty());
        // The next byte waits for this buffer.
        held_buffers.push(buffer);
        write_until_waiting(&mut checker, &mut peer, &pattern(1, turn, 1));
    }
    drop(held_buffers);
    checker.until("the last byte", |checker| checker.of(link).receives == 1);
    checker.finish();
}

fn eight_flooding_links_on_two_buffers_are_all_served<N: TestNetwork>() {
    for completions_max in [64, 2, 1] {
        flood::<N>(completions_max);
    }
}

fn flood<N: TestNetwork>(completions_max: usize) {
    const TOTAL: usize = 800;
    let mut checker = PortChecker::<N>::new(Setup::small().buffers(2, 256));
    checker.completions_max(completions_max);
    let mut links = checker.links(8);
    for (link, _) in &links {
        checker.receive(*link, CompletionMode::Multishot);
    }
    let mut written = [0; 8];
    checker.until("many receives", |checker| {
        for (i, (link, peer)) in links.iter_mut().enumerate() {
            // Each peer has always written more than the port has received.
            if written[i] - checker.of(*link).received.len() < 32 << 10 {
                written[i] += peer.try_write(&pattern(link.key, written[i], 32 << 10));
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
    // With at most as many completions per dequeue as there are buffers, none waits.
    let pauses = checker.network.port().counters().buffer_waits;
    assert!(completions_max <= 2 || pauses > 0);
    checker.finish();
}

fn a_pool_of_one_buffer_serves_many_links<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().buffers(1, 64));
    let mut links = checker.links(8);
    for (link, peer) in &mut links {
        checker.receive(*link, CompletionMode::Multishot);
        checker.peer_writes(peer, &pattern(link.key, 0, 1_000));
    }
    checker.until("all bytes", |checker| {
        links.iter().all(|(link, _)| checker.of(*link).received.len() == 1_000)
    });
    for (link, _) in &links {
        assert_pattern(link.key, 0, &checker.of(*link).received);
    }
    checker.finish();
}

fn a_receive_that_waits_for_a_buffer_can_be_cancelled_and_closed<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let mut links = checker.links(3);
    let mut held_buffers = exhaust(&mut checker);
    for (link, peer) in &mut links {
        checker.receive(*link, CompletionMode::Multishot);
        write_until_waiting(&mut checker, peer, &pattern(link.key, 0, 30));
    }
    let [first, second, third] = [links[0].0, links[1].0, links[2].0];
    checker.cancel(first, OperationKind::Receive);
    checker.until("the cancelled one", |checker| checker.of(first).ends == [EndReason::Cancelled]);
    checker.close_and_wait(second);
    assert_eq!(checker.of(second).ends, [EndReason::Cancelled]);
    // The link that still waits gets the buffer.
    drop(held_buffers.pop());
    checker.until("the third", |checker| checker.of(third).received.len() == 30);
    // The bytes that the cancelled receive did not take are still there.
    checker.receive(first, CompletionMode::Oneshot);
    checker.until("the first, again", |checker| checker.of(first).received.len() == 30);
    assert_pattern(first.key, 0, &checker.of(first).received);
    assert_eq!(checker.of(second).receives, 0);
    drop(held_buffers);
    checker.finish();
}

fn a_receive_if_ready_on_an_empty_pool_completes_once_and_loses_nothing<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    let held_buffers = exhaust(&mut checker);
    checker.peer_writes(&mut peer, b"there");
    // It may end as not ready or wait for a buffer.
    checker.receive(link, CompletionMode::IfReady);
    for _ in 0..5 {
        checker.round(ROUND);
    }
    assert_eq!(checker.of(link).receives, 0);
    drop(held_buffers);
    checker.until("an answer", |checker| !checker.in_flight(link, OperationKind::Receive));
    checker.until("the bytes", |checker| {
        if !checker.in_flight(link, OperationKind::Receive) && checker.of(link).receives == 0 {
            checker.receive(link, CompletionMode::IfReady);
        }
        checker.of(link).received == b"there"
    });
    checker.finish();
}

fn a_link_whose_peer_ends_while_it_waits_for_a_buffer_still_gets_every_byte<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    let held_buffers = exhaust(&mut checker);
    checker.receive(link, CompletionMode::Multishot);
    write_until_waiting(&mut checker, &mut peer, &pattern(1, 0, 1_000));
    drop(peer);
    checker.stays_quiet("its bytes come before its end");
    drop(held_buffers);
    checker.until("the end", |checker| checker.of(link).ends == [EndReason::PeerClosed]);
    assert_eq!(checker.of(link).received.len(), 1_000);
    assert_pattern(1, 0, &checker.of(link).received);
    checker.finish();
}

fn sends_and_accepts_go_on_while_the_pool_is_empty<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    let mut held_buffers = exhaust(&mut checker);
    checker.receive(link, CompletionMode::Multishot);
    write_until_waiting(&mut checker, &mut peer, b"waits");
    let empty = held_buffers.iter().position(|buffer| buffer.is_empty()).unwrap();
    let mut buffer = held_buffers.remove(empty);
    buffer.append(b"goes out");
    let mut chain = Chain::new();
    chain.push(&checker.pool, buffer).unwrap();
    checker.submit(link, Operation::Send(chain)).unwrap();
    // The send's completion is kept, so its buffer is not free for the receive.
    checker.until("the send", |checker| !checker.of(link).sent.is_empty());
    assert_eq!(checker.peer_reads(&mut peer, 8), b"goes out");
    let (_other, _other_peer) = checker.link();
    assert_eq!(checker.of(link).receives, 0);
    checker.of(link).sent.clear();
    checker.until("the receive", |checker| checker.of(link).received == b"waits");
    drop(held_buffers);
    checker.finish();
}

fn a_port_that_is_dropped_while_receives_wait_for_buffers_frees_all<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let mut links = checker.links(3);
    let held_buffers = exhaust(&mut checker);
    for (link, peer) in &mut links {
        checker.receive(*link, CompletionMode::Multishot);
        write_until_waiting(&mut checker, peer, b"never read");
    }
    let pool = checker.pool.clone();
    drop(checker);
    for (_, mut peer) in links {
        end_of::<N>(&mut peer);
    }
    drop(held_buffers);
    assert_eq!(pool.free_count(), pool.capacity(), "{:?}", pool.ledger());
}

/// Acquires every buffer, also those that are provided to the kernel.
pub(super) fn exhaust<N: TestNetwork>(checker: &mut PortChecker<N>) -> Vec<Buffer> {
    let kept_before = std::mem::replace(&mut checker.keep_buffers, true);
    let (filler, mut peer) = checker.link();
    let mut held_buffers = Vec::new();
    checker.round(ROUND);
    loop {
        held_buffers.extend(std::iter::from_fn(|| checker.pool.acquire(Owner::Application)));
        if checker.pool.ledger().kernel_receive == 0 {
            break;
        }
        // One byte fills one provided buffer.
        let receives = checker.of(filler).receives;
        checker.receive(filler, CompletionMode::Oneshot);
        checker.peer_writes(&mut peer, b"x");
        checker.until("the filler's byte", |checker| checker.of(filler).receives == receives + 1);
        held_buffers.append(&mut checker.of(filler).buffers);
    }
    checker.close_and_wait(filler);
    checker.keep_buffers = kept_before;
    assert_eq!(held_buffers.len(), checker.pool.capacity() as usize);
    held_buffers
}

/// Lets the peer write `bytes`, and waits until the link's receive waits for a buffer.
pub(super) fn write_until_waiting<N: TestNetwork>(
    checker: &mut PortChecker<N>,
    peer: &mut N::Peer,
    bytes: &[u8],
) {
    let before = checker.network.port().counters().buffer_waits;
    checker.peer_writes(peer, bytes);
    checker.until("a receive to wait for a buffer", |checker| {
        checker.network.port().counters().buffer_waits > before
    });
}

/// A timeout that no dequeue of a passing test reaches.
const LONG: Duration = Duration::from_secs(8);
