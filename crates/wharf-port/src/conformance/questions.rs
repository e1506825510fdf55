//! INV-PORT-9: a zero-byte receive (below: a question) completes when there are bytes or an end,
//! and takes none.
//!
//! The method: zero-byte receives are armed while there are no bytes, while there are, and after
//! they were received; then the peer writes, ends its stream or resets. Then the bytes are
//! received, which shows that none was taken.

use super::checker::{PortChecker, assert_pattern, end_of, pattern};
use super::network::{Peer, Setup, TestNetwork, each_back_end};
use super::pool_empty::{exhaust, write_until_waiting};
use crate::port::completion::EndReason;
use crate::port::contract::Port;
use crate::port::operation::{CompletionMode, OperationKind};

each_back_end!(
    a_receive_of_no_bytes_says_when_there_are_some,
    a_receive_of_no_bytes_if_ready_answers_at_once,
    what_was_received_is_not_there_any_more,
    a_question_finds_the_end_of_the_stream,
    a_question_finds_a_peer_that_has_reset,
    bytes_before_the_end_are_found_before_it,
    an_empty_pool_does_not_hold_a_question_up,
    a_question_can_be_cancelled_and_closed_under,
    a_port_that_is_dropped_with_questions_ends_its_links,
);

fn a_receive_of_no_bytes_says_when_there_are_some<N: TestNetwork>() {
    for mode in [CompletionMode::Oneshot, CompletionMode::Multishot] {
        let mut checker = PortChecker::<N>::new(Setup::small());
        let (link, mut peer) = checker.link();
        checker.receive_max(link, mode, 0);
        checker.stays_quiet("no peer has sent");
        checker.peer_writes(&mut peer, &pattern(1, 0, 600));
        checker.until("the answer", |checker| !checker.in_flight(link, OperationKind::Receive));
        // Each further one completes, while the bytes are there.
        for _ in 0..3 {
            checker.receive_max(link, mode, 0);
            assert_eq!(checker.receive_end(link), EndReason::Readable);
        }
        assert_eq!(checker.of(link).ends, [EndReason::Readable; 4]);
        checker.stays_quiet("it completes once");
        checker.receive(link, CompletionMode::Multishot);
        checker.until("the bytes", |checker| checker.of(link).received.len() == 600);
        assert_pattern(1, 0, &checker.of(link).received);
        checker.finish();
    }
}

fn a_receive_of_no_bytes_if_ready_answers_at_once<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    checker.receive_max(link, CompletionMode::IfReady, 0);
    assert_eq!(checker.receive_end(link), EndReason::NotReady);
    checker.peer_writes(&mut peer, b"there");
    checker.until("bytes to be there", |checker| {
        checker.receive_max(link, CompletionMode::IfReady, 0);
        checker.receive_end(link) == EndReason::Readable
    });
    checker.receive(link, CompletionMode::Oneshot);
    checker.until("the bytes", |checker| checker.of(link).received == b"there");
    drop(peer);
    checker.until("the end", |checker| {
        checker.receive_max(link, CompletionMode::IfReady, 0);
        checker.receive_end(link) == EndReason::PeerClosed
    });
    checker.finish();
}

fn what_was_received_is_not_there_any_more<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    // A full buffer, a part of one, and a limit: after none of them the port knows whether there
    // are further bytes.
    for (len, bytes_max) in [(256, u32::MAX), (100, u32::MAX), (50, 50)] {
        let before = checker.of(link).received.len();
        checker.peer_writes(&mut peer, &pattern(1, before, len));
        checker.receive_max(link, CompletionMode::Oneshot, bytes_max);
        checker.until("the bytes", |checker| checker.of(link).received.len() == before + len);
        checker.receive_max(link, CompletionMode::Oneshot, 0);
        checker.stays_quiet("all was received");
        checker.peer_writes(&mut peer, &pattern(1, before + len, 1));
        checker.until("the answer", |checker| {
            checker.of(link).ends.pop() == Some(EndReason::Readable)
        });
        checker.receive(link, CompletionMode::Oneshot);
        checker.until("the byte", |checker| checker.of(link).received.len() == before + len + 1);
    }
    assert_pattern(1, 0, &checker.of(link).received);
    checker.finish();
}

fn a_question_finds_the_end_of_the_stream<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    for leaves in [false, true] {
        for asked_before in [false, true] {
            let (link, mut peer) = checker.link();
            if asked_before {
                checker.receive_max(link, CompletionMode::Oneshot, 0);
                checker.stays_quiet("no peer has sent");
            }
            let peer = if leaves {
                drop(peer);
                None
            } else {
                peer.shutdown_write();
                Some(peer)
            };
            if !asked_before {
                checker.receive_max(link, CompletionMode::Oneshot, 0);
            }
            checker.until("the answer", |checker| !checker.in_flight(link, OperationKind::Receive));
            assert_eq!(checker.of(link).ends, [EndReason::PeerClosed]);
            // Every further receive ends with it, too.
            checker.receive_max(link, CompletionMode::Oneshot, 0);
            assert_eq!(checker.receive_end(link), EndReason::PeerClosed);
            checker.receive(link, CompletionMode::Multishot);
            assert_eq!(checker.receive_end(link), EndReason::PeerClosed);
            drop(peer);
        }
    }
    checker.finish();
}

fn a_question_finds_a_peer_that_has_reset<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    for asked_before in [false, true] {
        let (link, peer) = checker.link();
        if asked_before {
            checker.receive_max(link, CompletionMode::Oneshot, 0);
            checker.stays_quiet("no peer has sent");
        }
        peer.reset();
        if !asked_before {
            checker.receive_max(link, CompletionMode::Oneshot, 0);
        }
        checker.until("the answer", |checker| !checker.in_flight(link, OperationKind::Receive));
        let ends = &checker.of(link).ends;
        // A reset may be reported as the end of the stream.
        assert!(matches!(ends[..], [EndReason::Failed(_) | EndReason::PeerClosed]), "{ends:?}");
        checker.close_and_wait(link);
    }
    checker.finish();
}

fn bytes_before_the_end_are_found_before_it<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    checker.peer_writes(&mut peer, &pattern(1, 0, 300));
    drop(peer);
    for read in [256, 300] {
        checker.receive_max(link, CompletionMode::Oneshot, 0);
        assert_eq!(checker.receive_end(link), EndReason::Readable);
        checker.until("the bytes", |checker| {
            if !checker.in_flight(link, OperationKind::Receive)
                && checker.of(link).received.len() < read
            {
                let left = read - checker.of(link).received.len();
                checker.receive_max(link, CompletionMode::Oneshot, u32::try_from(left).unwrap());
            }
            checker.of(link).received.len() == read
        });
    }
    checker.receive_max(link, CompletionMode::Oneshot, 0);
    assert_eq!(checker.receive_end(link), EndReason::PeerClosed);
    assert_pattern(1, 0, &checker.of(link).received);
    checker.finish();
}

fn an_empty_pool_does_not_hold_a_question_up<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let mut links = checker.links(4);
    let held_buffers = exhaust(&mut checker);
    // One link waits for a buffer, and stays the first of the queue.
    let (first, first_peer) = &mut links[0];
    checker.receive(*first, CompletionMode::Multishot);
    write_until_waiting(&mut checker, first_peer, b"waits");
    let pauses = checker.network.port().counters().buffer_waits;
    for (link, _) in &links[1..] {
        checker.receive_max(*link, CompletionMode::Oneshot, 0);
    }
    checker.stays_quiet("no peer has sent");
    let (link, peer) = &mut links[1];
    checker.peer_writes(peer, b"there");
    checker.until("bytes", |checker| checker.of(*link).ends == [EndReason::Readable]);
    links[2].1.shutdown_write();
    checker.until("the end", |checker| checker.of(links[2].0).ends == [EndReason::PeerClosed]);
    let (asked, peer) = links.pop().unwrap();
    peer.reset();
    checker.until("a reset", |checker| !checker.in_flight(asked, OperationKind::Receive));
    // None of them took a buffer or waited for one.
    assert_eq!(checker.network.port().counters().buffer_waits, pauses);
    assert_eq!(checker.pool.free_count(), 0);
    assert!(checker.in_flight(links[0].0, OperationKind::Receive));
    drop(held_buffers);
    checker.until("the first", |checker| checker.of(links[0].0).received == b"waits");
    checker.finish();
}

fn a_question_can_be_cancelled_and_closed_under<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    for mode in [CompletionMode::Oneshot, CompletionMode::Multishot] {
        checker.receive_max(link, mode, 0);
        checker.stays_quiet("no peer has sent");
        checker.cancel(link, OperationKind::Receive);
        assert_eq!(checker.receive_end(link), EndReason::Cancelled);
        // Before a dequeue has started it.
        checker.receive_max(link, mode, 0);
        checker.cancel(link, OperationKind::Receive);
        assert_eq!(checker.receive_end(link), EndReason::Cancelled);
    }
    // The cancel races the bytes: either end is right, and the bytes stay.
    for round in 0..20 {
        checker.receive_max(link, CompletionMode::Oneshot, 0);
        checker.peer_writes(&mut peer, &pattern(1, round, 1));
        checker.cancel(link, OperationKind::Receive);
        checker.until("the answer", |checker| !checker.in_flight(link, OperationKind::Receive));
        assert!(matches!(
            checker.of(link).ends.pop(),
            Some(EndReason::Readable | EndReason::Cancelled)
        ));
        checker.receive(link, CompletionMode::Oneshot);
        checker.until("the byte", |checker| checker.of(link).received.len() == round + 1);
    }
    assert_pattern(1, 0, &checker.of(link).received);
    checker.receive_max(link, CompletionMode::Multishot, 0);
    checker.stays_quiet("no peer has sent");
    checker.close_and_wait(link);
    assert_eq!(checker.of(link).ends.last(), Some(&EndReason::Cancelled));
    checker.finish();
}

fn a_port_that_is_dropped_with_questions_ends_its_links<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let links = checker.links(3);
    for (link, _) in &links {
        checker.receive_max(*link, CompletionMode::Oneshot, 0);
    }
    checker.stays_quiet("no peer has sent");
    checker.drop_port();
    for (_, mut peer) in links {
        end_of::<N>(&mut peer);
    }
}
