//! INV-PORT-8: a receive brings no more bytes than it may, and is over when it has brought them.
//!
//! The method: peers write more than a receive may bring. The bench counts what each receive
//! brings and when it ends, so a test only arms receives until all is there; no byte may be lost
//! between the end of one and the next.

use super::bench::{Bench, assert_pattern, pattern};
use super::lab::{Lab, Peer, Setup, each_back_end};
use super::pool_empty::{exhaust, pause};
use crate::port::{End, OperationKind, Shots};

each_back_end!(
    a_receive_of_one_brings_no_more_than_it_may,
    a_receive_of_many_is_over_when_it_has_brought_all_that_it_may,
    a_limit_counts_all_completions_together,
    a_limit_below_one_buffer_is_kept_to_the_byte,
    a_receive_at_its_limit_can_be_cancelled_and_closed,
    a_limit_is_kept_by_a_receive_that_waited_for_a_buffer,
    a_peer_that_ends_at_the_limit_is_heard_by_the_next_receive,
);

fn a_receive_of_one_brings_no_more_than_it_may<L: Lab>() {
    for shots in [Shots::One, Shots::IfReady] {
        let mut bench = Bench::<L>::new(Setup::small());
        let (link, mut peer) = bench.link();
        bench.peer_writes(&mut peer, &pattern(1, 0, 700));
        for bytes_max in [1, 10, 255, 256, 257, 1_000].into_iter().cycle() {
            let before = bench.of(link).received.len();
            if before == 700 {
                break;
            }
            bench.receive_max(link, shots, bytes_max);
            bench.until("a receive to be over", |bench| {
                !bench.in_flight(link, OperationKind::Receive)
            });
            let brought = bench.of(link).received.len() - before;
            assert!(brought <= bytes_max as usize, "{brought} of {bytes_max}");
        }
        assert_pattern(1, 0, &bench.of(link).received);
        bench.finish();
    }
}

fn a_receive_of_many_is_over_when_it_has_brought_all_that_it_may<L: Lab>() {
    // With the window of 8 a back end that receives ahead brings 2 KiB more, at most.
    for completions_max in [64, 3, 1] {
        let mut bench = Bench::<L>::new(Setup::small());
        bench.completions_max(completions_max);
        let (link, mut peer) = bench.link();
        let mut written = 0;
        for bytes_max in [1_000, 257, 4_096, 100, 2_560, 1] {
            bench.until("more than the receive may bring", |bench| {
                if written - bench.of(link).received.len() < 16 << 10 {
                    written += peer.try_write(&pattern(1, written, 16 << 10));
                }
                written - bench.of(link).received.len() >= 8 << 10
            });
            let before = bench.of(link).received.len();
            bench.receive_max(link, Shots::Many, bytes_max);
            bench.until("the receive to be over", |bench| {
                !bench.in_flight(link, OperationKind::Receive)
            });
            let brought = bench.of(link).received.len() - before;
            assert!(brought >= bytes_max as usize, "{brought} of {bytes_max}");
            bench.stays_quiet("no receive is in flight");
        }
        bench.receive(link, Shots::Many);
        bench.until("the rest", |bench| bench.of(link).received.len() == written);
        assert_pattern(1, 0, &bench.of(link).received);
        bench.finish();
    }
}

fn a_limit_counts_all_completions_together<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    bench.receive_max(link, Shots::Many, 500);
    for round in 0..5 {
        assert!(bench.in_flight(link, OperationKind::Receive), "after {round} times 100 of 500");
        bench.peer_writes(&mut peer, &pattern(1, 100 * round, 100));
        bench.until("the bytes", |bench| bench.of(link).received.len() == 100 * (round + 1));
    }
    bench.until("the receive to be over", |bench| !bench.in_flight(link, OperationKind::Receive));
    bench.peer_writes(&mut peer, &pattern(1, 500, 100));
    bench.stays_quiet("no receive is in flight");
    bench.receive(link, Shots::One);
    bench.until("the rest", |bench| bench.of(link).received.len() == 600);
    assert_pattern(1, 0, &bench.of(link).received);
    bench.finish();
}

fn a_limit_below_one_buffer_is_kept_to_the_byte<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    bench.receive_max(link, Shots::Many, 100);
    bench.peer_writes(&mut peer, &pattern(1, 0, 60));
    bench.until("the first part", |bench| bench.of(link).received.len() == 60);
    bench.peer_writes(&mut peer, &pattern(1, 60, 60));
    bench.until("the receive to be over", |bench| !bench.in_flight(link, OperationKind::Receive));
    assert_eq!((bench.of(link).received.len(), bench.of(link).ends.len()), (100, 0));
    bench.receive_max(link, Shots::Many, 256);
    bench.until("the rest", |bench| bench.of(link).received.len() == 120);
    assert_pattern(1, 0, &bench.of(link).received);
    bench.finish();
}

fn a_receive_at_its_limit_can_be_cancelled_and_closed<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    bench.completions_max(1);
    for rounds in 0..12 {
        let (link, mut peer) = bench.link();
        bench.peer_writes(&mut peer, &pattern(link.key, 0, 8_000));
        bench.receive_max(link, Shots::Many, 600);
        for _ in 0..rounds {
            bench.round(std::time::Duration::ZERO);
        }
        if rounds % 2 == 0 {
            bench.cancel(link, OperationKind::Receive);
            bench.until("the end", |bench| !bench.in_flight(link, OperationKind::Receive));
            bench.receive(link, Shots::Many);
            bench.until("the rest", |bench| bench.of(link).received.len() == 8_000);
        }
        bench.close_and_wait(link);
        assert_pattern(link.key, 0, &bench.of(link).received);
    }
    bench.finish();
}

fn a_limit_is_kept_by_a_receive_that_waited_for_a_buffer<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let mut links = bench.links(2);
    let hoard = exhaust(&mut bench);
    for (link, peer) in &mut links {
        bench.receive_max(*link, Shots::Many, 300);
        pause(&mut bench, peer, &pattern(link.key, 0, 1_000));
    }
    drop(hoard);
    for (link, _) in &links {
        bench.until("the limit", |bench| !bench.in_flight(*link, OperationKind::Receive));
        assert!(bench.of(*link).received.len() >= 300);
        bench.receive(*link, Shots::Many);
        bench.until("the rest", |bench| bench.of(*link).received.len() == 1_000);
        assert_pattern(link.key, 0, &bench.of(*link).received);
    }
    bench.finish();
}

fn a_peer_that_ends_at_the_limit_is_heard_by_the_next_receive<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    bench.receive_max(link, Shots::Many, 1_000);
    bench.peer_writes(&mut peer, &pattern(1, 0, 1_000));
    peer.shutdown_write();
    bench.until("the receive to be over", |bench| !bench.in_flight(link, OperationKind::Receive));
    assert_eq!(bench.of(link).received.len(), 1_000);
    if bench.of(link).ends.last() != Some(&End::PeerClosed) {
        bench.receive(link, Shots::Many);
        assert_eq!(bench.receive_end(link), End::PeerClosed);
    }
    assert_pattern(1, 0, &bench.of(link).received);
    bench.finish();
}
