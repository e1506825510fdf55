//! INV-PORT-9: a receive of no bytes asks whether there is something to receive, and takes nothing.
//!
//! The method: the question is asked while nothing is there, while bytes are there, and after they
//! were received; then the peer writes, ends its stream or resets, and nothing else is armed on the
//! link. What was there is received afterwards, so that nothing was taken.

use super::bench::{Bench, assert_pattern, end_of, pattern};
use super::lab::{Lab, Peer, Setup, each_back_end};
use super::pool_empty::{exhaust, pause};
use crate::port::{End, OperationKind, Port, Shots};

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

fn a_receive_of_no_bytes_says_when_there_are_some<L: Lab>() {
    for shots in [Shots::One, Shots::Many] {
        let mut bench = Bench::<L>::new(Setup::small());
        let (link, mut peer) = bench.link();
        bench.receive_max(link, shots, 0);
        bench.stays_quiet("nobody has sent");
        bench.peer_writes(&mut peer, &pattern(1, 0, 600));
        bench.until("the answer", |bench| !bench.in_flight(link, OperationKind::Receive));
        // Asked again, as long as they are there.
        for _ in 0..3 {
            bench.receive_max(link, shots, 0);
            assert_eq!(bench.receive_end(link), End::Readable);
        }
        assert_eq!(bench.of(link).ends, [End::Readable; 4]);
        bench.stays_quiet("it completes once");
        bench.receive(link, Shots::Many);
        bench.until("the bytes", |bench| bench.of(link).received.len() == 600);
        assert_pattern(1, 0, &bench.of(link).received);
        bench.finish();
    }
}

fn a_receive_of_no_bytes_if_ready_answers_at_once<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    bench.receive_max(link, Shots::IfReady, 0);
    assert_eq!(bench.receive_end(link), End::NotReady);
    bench.peer_writes(&mut peer, b"there");
    bench.until("bytes to be there", |bench| {
        bench.receive_max(link, Shots::IfReady, 0);
        bench.receive_end(link) == End::Readable
    });
    bench.receive(link, Shots::One);
    bench.until("the bytes", |bench| bench.of(link).received == b"there");
    drop(peer);
    bench.until("the end", |bench| {
        bench.receive_max(link, Shots::IfReady, 0);
        bench.receive_end(link) == End::PeerClosed
    });
    bench.finish();
}

fn what_was_received_is_not_there_any_more<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    // A full buffer, a part of one, and what a limit leaves: none says by itself what is behind it.
    for (len, bytes_max) in [(256, u32::MAX), (100, u32::MAX), (50, 50)] {
        let before = bench.of(link).received.len();
        bench.peer_writes(&mut peer, &pattern(1, before, len));
        bench.receive_max(link, Shots::One, bytes_max);
        bench.until("the bytes", |bench| bench.of(link).received.len() == before + len);
        bench.receive_max(link, Shots::One, 0);
        bench.stays_quiet("all was received");
        bench.peer_writes(&mut peer, &pattern(1, before + len, 1));
        bench.until("the answer", |bench| bench.of(link).ends.pop() == Some(End::Readable));
        bench.receive(link, Shots::One);
        bench.until("the byte", |bench| bench.of(link).received.len() == before + len + 1);
    }
    assert_pattern(1, 0, &bench.of(link).received);
    bench.finish();
}

fn a_question_finds_the_end_of_the_stream<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    for leaves in [false, true] {
        for asked_before in [false, true] {
            let (link, mut peer) = bench.link();
            if asked_before {
                bench.receive_max(link, Shots::One, 0);
                bench.stays_quiet("nobody has sent");
            }
            let peer = if leaves {
                drop(peer);
                None
            } else {
                peer.shutdown_write();
                Some(peer)
            };
            if !asked_before {
                bench.receive_max(link, Shots::One, 0);
            }
            bench.until("the answer", |bench| !bench.in_flight(link, OperationKind::Receive));
            assert_eq!(bench.of(link).ends, [End::PeerClosed]);
            // It is still the end for whoever asks or receives after that.
            bench.receive_max(link, Shots::One, 0);
            assert_eq!(bench.receive_end(link), End::PeerClosed);
            bench.receive(link, Shots::Many);
            assert_eq!(bench.receive_end(link), End::PeerClosed);
            drop(peer);
        }
    }
    bench.finish();
}

fn a_question_finds_a_peer_that_has_reset<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    for asked_before in [false, true] {
        let (link, peer) = bench.link();
        if asked_before {
            bench.receive_max(link, Shots::One, 0);
            bench.stays_quiet("nobody has sent");
        }
        peer.reset();
        if !asked_before {
            bench.receive_max(link, Shots::One, 0);
        }
        bench.until("the answer", |bench| !bench.in_flight(link, OperationKind::Receive));
        let ends = &bench.of(link).ends;
        // A reset may show as an end of input.
        assert!(matches!(ends[..], [End::Failed(_) | End::PeerClosed]), "{ends:?}");
        bench.close_and_wait(link);
    }
    bench.finish();
}

fn bytes_before_the_end_are_found_before_it<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    bench.peer_writes(&mut peer, &pattern(1, 0, 300));
    drop(peer);
    for read in [256, 300] {
        bench.receive_max(link, Shots::One, 0);
        assert_eq!(bench.receive_end(link), End::Readable);
        bench.until("the bytes", |bench| {
            if !bench.in_flight(link, OperationKind::Receive)
                && bench.of(link).received.len() < read
            {
                let left = read - bench.of(link).received.len();
                bench.receive_max(link, Shots::One, u32::try_from(left).unwrap());
            }
            bench.of(link).received.len() == read
        });
    }
    bench.receive_max(link, Shots::One, 0);
    assert_eq!(bench.receive_end(link), End::PeerClosed);
    assert_pattern(1, 0, &bench.of(link).received);
    bench.finish();
}

fn an_empty_pool_does_not_hold_a_question_up<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let mut links = bench.links(4);
    let hoard = exhaust(&mut bench);
    // One waits for a buffer, and stays the first of the queue.
    let (first, first_peer) = &mut links[0];
    bench.receive(*first, Shots::Many);
    pause(&mut bench, first_peer, b"waits");
    let pauses = bench.lab.port().counters().receive_pauses;
    for (link, _) in &links[1..] {
        bench.receive_max(*link, Shots::One, 0);
    }
    bench.stays_quiet("nobody has sent");
    let (link, peer) = &mut links[1];
    bench.peer_writes(peer, b"there");
    bench.until("bytes", |bench| bench.of(*link).ends == [End::Readable]);
    links[2].1.shutdown_write();
    bench.until("the end", |bench| bench.of(links[2].0).ends == [End::PeerClosed]);
    let (asked, peer) = links.pop().unwrap();
    peer.reset();
    bench.until("a reset", |bench| !bench.in_flight(asked, OperationKind::Receive));
    // None of them took a buffer or waited for one.
    assert_eq!(bench.lab.port().counters().receive_pauses, pauses);
    assert_eq!(bench.pool.free(), 0);
    assert!(bench.in_flight(links[0].0, OperationKind::Receive));
    drop(hoard);
    bench.until("the first", |bench| bench.of(links[0].0).received == b"waits");
    bench.finish();
}

fn a_question_can_be_cancelled_and_closed_under<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    for shots in [Shots::One, Shots::Many] {
        bench.receive_max(link, shots, 0);
        bench.stays_quiet("nobody has sent");
        bench.cancel(link, OperationKind::Receive);
        assert_eq!(bench.receive_end(link), End::Cancelled);
        // Before it has reached the system.
        bench.receive_max(link, shots, 0);
        bench.cancel(link, OperationKind::Receive);
        assert_eq!(bench.receive_end(link), End::Cancelled);
    }
    // It races the bytes: one of the two is the answer, and the bytes stay.
    for round in 0..20 {
        bench.receive_max(link, Shots::One, 0);
        bench.peer_writes(&mut peer, &pattern(1, round, 1));
        bench.cancel(link, OperationKind::Receive);
        bench.until("the answer", |bench| !bench.in_flight(link, OperationKind::Receive));
        assert!(matches!(bench.of(link).ends.pop(), Some(End::Readable | End::Cancelled)));
        bench.receive(link, Shots::One);
        bench.until("the byte", |bench| bench.of(link).received.len() == round + 1);
    }
    assert_pattern(1, 0, &bench.of(link).received);
    bench.receive_max(link, Shots::Many, 0);
    bench.stays_quiet("nobody has sent");
    bench.close_and_wait(link);
    assert_eq!(bench.of(link).ends.last(), Some(&End::Cancelled));
    bench.finish();
}

fn a_port_that_is_dropped_with_questions_ends_its_links<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let links = bench.links(3);
    for (link, _) in &links {
        bench.receive_max(*link, Shots::One, 0);
    }
    bench.stays_quiet("nobody has sent");
    bench.drop_port();
    for (_, mut peer) in links {
        end_of::<L>(&mut peer);
    }
}
