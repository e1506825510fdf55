//! INV-PORT-8: a receive takes at most `bytes_max` bytes, and ends when it has taken them.
//!
//! The method: peers write more than a receive's limit. The checker counts the bytes of each
//! receive and checks when it ends, so a test only arms receives until all bytes are received; no
//! byte may be lost between one receive and the next.

use super::checker::{PortChecker, assert_pattern, pattern};
use super::network::{Peer, Setup, TestNetwork, each_back_end};
use super::pool_empty::{exhaust, write_until_waiting};
use crate::port::completion::EndReason;
use crate::port::operation::{CompletionMode, OperationKind};

each_back_end!(
    a_oneshot_receive_brings_no_more_than_it_may,
    a_multishot_receive_is_over_when_it_has_brought_all_that_it_may,
    a_limit_counts_all_completions_together,
    a_limit_below_one_buffer_is_kept_to_the_byte,
    a_receive_at_its_limit_can_be_cancelled_and_closed,
    a_limit_is_kept_by_a_receive_that_waited_for_a_buffer,
    a_peer_that_ends_at_the_limit_is_heard_by_the_next_receive,
);

fn a_oneshot_receive_brings_no_more_than_it_may<N: TestNetwork>() {
    for mode in [CompletionMode::Oneshot, CompletionMode::IfReady] {
        let mut checker = PortChecker::<N>::new(Setup::small());
        let (link, mut peer) = checker.link();
        checker.peer_writes(&mut peer, &pattern(1, 0, 700));
        for bytes_max in [1, 10, 255, 256, 257, 1_000].into_iter().cycle() {
            let before = checker.of(link).received.len();
            if before == 700 {
                break;
            }
            checker.receive_max(link, mode, bytes_max);
            checker.until("a receive to be over", |checker| {
                !checker.in_flight(link, OperationKind::Receive)
            });
            let brought = checker.of(link).received.len() - before;
            assert!(brought <= bytes_max as usize, "{brought} of {bytes_max}");
        }
        assert_pattern(1, 0, &checker.of(link).received);
        checker.finish();
    }
}

fn a_multishot_receive_is_over_when_it_has_brought_all_that_it_may<N: TestNetwork>() {
    // A back end that receives ahead exceeds a limit by at most 8 buffers, 2 KiB.
    for completions_max in [64, 3, 1] {
        let mut checker = PortChecker::<N>::new(Setup::small());
        checker.completions_max(completions_max);
        let (link, mut peer) = checker.link();
        let mut written = 0;
        for bytes_max in [1_000, 257, 4_096, 100, 2_560, 1] {
            checker.until("more than the receive may bring", |checker| {
                if written - checker.of(link).received.len() < 16 << 10 {
                    written += peer.try_write(&pattern(1, written, 16 << 10));
                }
                written - checker.of(link).received.len() >= 8 << 10
            });
            let before = checker.of(link).received.len();
            checker.receive_max(link, CompletionMode::Multishot, bytes_max);
            checker.until("the receive to be over", |checker| {
                !checker.in_flight(link, OperationKind::Receive)
            });
            let brought = checker.of(link).received.len() - before;
            assert!(brought >= bytes_max as usize, "{brought} of {bytes_max}");
            checker.stays_quiet("no receive is in flight");
        }
        checker.receive(link, CompletionMode::Multishot);
        checker.until("the rest", |checker| checker.of(link).received.len() == written);
        assert_pattern(1, 0, &checker.of(link).received);
        checker.finish();
    }
}

fn a_limit_counts_all_completions_together<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    checker.receive_max(link, CompletionMode::Multishot, 500);
    for round in 0..5 {
        assert!(checker.in_flight(link, OperationKind::Receive), "after {round} times 100 of 500");
        checker.peer_writes(&mut peer, &pattern(1, 100 * round, 100));
        checker.until("the bytes", |checker| checker.of(link).received.len() == 100 * (round + 1));
    }
    checker.until("the receive to be over", |checker| {
        !checker.in_flight(link, OperationKind::Receive)
    });
    checker.peer_writes(&mut peer, &pattern(1, 500, 100));
    checker.stays_quiet("no receive is in flight");
    checker.receive(link, CompletionMode::Oneshot);
    checker.until("the rest", |checker| checker.of(link).received.len() == 600);
    assert_pattern(1, 0, &checker.of(link).received);
    checker.finish();
}

fn a_limit_below_one_buffer_is_kept_to_the_byte<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    checker.receive_max(link, CompletionMode::Multishot, 100);
    checker.peer_writes(&mut peer, &pattern(1, 0, 60));
    checker.until("the first part", |checker| checker.of(link).received.len() == 60);
    checker.peer_writes(&mut peer, &pattern(1, 60, 60));
    checker.until("the receive to be over", |checker| {
        !checker.in_flight(link, OperationKind::Receive)
    });
    assert_eq!((checker.of(link).received.len(), checker.of(link).ends.len()), (100, 0));
    checker.receive_max(link, CompletionMode::Multishot, 256);
    checker.until("the rest", |checker| checker.of(link).received.len() == 120);
    assert_pattern(1, 0, &checker.of(link).received);
    checker.finish();
}

fn a_receive_at_its_limit_can_be_cancelled_and_closed<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    checker.completions_max(1);
    for rounds in 0..12 {
        let (link, mut peer) = checker.link();
        checker.peer_writes(&mut peer, &pattern(link.key, 0, 8_000));
        checker.receive_max(link, CompletionMode::Multishot, 600);
        for _ in 0..rounds {
            checker.round(std::time::Duration::ZERO);
        }
        if rounds % 2 == 0 {
            checker.cancel(link, OperationKind::Receive);
            checker.until("the end", |checker| !checker.in_flight(link, OperationKind::Receive));
            checker.receive(link, CompletionMode::Multishot);
            checker.until("the rest", |checker| checker.of(link).received.len() == 8_000);
        }
        checker.close_and_wait(link);
        assert_pattern(link.key, 0, &checker.of(link).received);
    }
    checker.finish();
}

fn a_limit_is_kept_by_a_receive_that_waited_for_a_buffer<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let mut links = checker.links(2);
    let held_buffers = exhaust(&mut checker);
    for (link, peer) in &mut links {
        checker.receive_max(*link, CompletionMode::Multishot, 300);
        write_until_waiting(&mut checker, peer, &pattern(link.key, 0, 1_000));
    }
    drop(held_buffers);
    for (link, _) in &links {
        checker.until("the limit", |checker| !checker.in_flight(*link, OperationKind::Receive));
        assert!(checker.of(*link).received.len() >= 300);
        checker.receive(*link, CompletionMode::Multishot);
        checker.until("the rest", |checker| checker.of(*link).received.len() == 1_000);
        assert_pattern(link.key, 0, &checker.of(*link).received);
    }
    checker.finish();
}

fn a_peer_that_ends_at_the_limit_is_heard_by_the_next_receive<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    checker.receive_max(link, CompletionMode::Multishot, 1_000);
    checker.peer_writes(&mut peer, &pattern(1, 0, 1_000));
    peer.shutdown_write();
    checker.until("the receive to be over", |checker| {
        !checker.in_flight(link, OperationKind::Receive)
    });
    assert_eq!(checker.of(link).received.len(), 1_000);
    if checker.of(link).ends.last() != Some(&EndReason::PeerClosed) {
        checker.receive(link, CompletionMode::Multishot);
        assert_eq!(checker.receive_end(link), EndReason::PeerClosed);
    }
    assert_pattern(1, 0, &checker.of(link).received);
    checker.finish();
}
