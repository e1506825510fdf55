//! INV-PORT-1: each submitted operation completes exactly once, also when it is cancelled or its
//! socket is closed.
//!
//! The method: each way in which an operation can end is brought about, alone and racing with
//! another. The bench holds every completion against what is in flight, so a second completion of
//! an operation, or one that never was submitted, fails each of these tests; a missing one fails
//! them by the deadline.

use super::bench::{Bench, Link, assert_pattern, pattern};
use super::lab::{Lab, Peer, Setup, each_back_end};
use crate::memory::{Chain, Owner};
use crate::port::{End, Operation, OperationKind, Port, Shots, SubmitErrorKind};
use std::time::Duration;

each_back_end!(
    a_receive_of_one_completes_once,
    a_receive_of_many_completes_until_the_peer_ends,
    a_receive_if_ready_completes_at_once_either_way,
    a_cancelled_receive_ends_once,
    a_cancel_of_nothing_changes_nothing,
    data_that_races_a_cancel_is_neither_lost_nor_doubled,
    a_cancelled_send_says_how_much_it_sent,
    an_accept_of_one_accepts_exactly_one,
    an_accept_of_many_takes_a_storm_of_connections,
    a_cancelled_accept_ends_once_and_loses_no_connection,
    a_close_ends_receive_and_send_before_it_completes,
    a_close_of_a_listener_ends_its_accept,
    a_close_that_races_data_and_the_peers_end_completes_once,
    a_peer_that_resets_ends_receive_and_send_once,
    a_reset_is_told_to_at_least_one_operation,
    a_second_operation_of_a_kind_is_busy_and_comes_back,
    a_closing_socket_takes_nothing_more,
    an_operation_that_does_not_fit_the_socket_comes_back,
);

fn a_receive_of_one_completes_once<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    bench.receive(link, Shots::One);
    bench.peer_writes(&mut peer, &pattern(1, 0, 100));
    bench.until("the receive", |bench| bench.of(link).receives == 1);
    let first = bench.of(link).received.len();
    bench.peer_writes(&mut peer, &pattern(1, 100, 50));
    bench.stays_quiet("the receive has completed, and none was submitted since");
    while bench.of(link).received.len() < 150 {
        let before = bench.of(link).receives;
        bench.receive(link, Shots::One);
        bench.until("the next receive", |bench| bench.of(link).receives == before + 1);
    }
    assert!(first <= 100);
    assert_pattern(1, 0, &bench.of(link).received);
    peer.shutdown_write();
    bench.receive(link, Shots::One);
    bench.until("the end", |bench| bench.of(link).ends == [End::PeerClosed]);
    bench.finish();
}

fn a_receive_of_many_completes_until_the_peer_ends<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    bench.receive(link, Shots::Many);
    for part in 0..20 {
        bench.peer_writes(&mut peer, &pattern(1, part * 300, 300));
        let len = (part + 1) * 300;
        bench.until("a part", |bench| bench.of(link).received.len() == len);
        assert!(bench.in_flight(link, OperationKind::Receive));
    }
    drop(peer);
    bench.until("the end", |bench| bench.of(link).ends == [End::PeerClosed]);
    assert_pattern(1, 0, &bench.of(link).received);
    bench.stays_quiet("the receive is over");
    bench.finish();
}

fn a_receive_if_ready_completes_at_once_either_way<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    let look = |bench: &mut Bench<L>| {
        bench.receive(link, Shots::IfReady);
        bench.until("an answer", |bench| !bench.in_flight(link, OperationKind::Receive));
    };
    look(&mut bench);
    look(&mut bench);
    assert_eq!(bench.of(link).ends, [End::NotReady, End::NotReady]);
    bench.peer_writes(&mut peer, b"now");
    // The network may take its time, so the port is asked until the bytes are there.
    for _ in 0..PROBES {
        look(&mut bench);
        if bench.of(link).received == b"now" {
            break;
        }
    }
    assert_eq!(bench.of(link).received, b"now");
    peer.shutdown_write();
    for _ in 0..PROBES {
        look(&mut bench);
        if bench.of(link).ends.last() != Some(&End::NotReady) {
            break;
        }
    }
    assert_eq!(bench.of(link).ends.last(), Some(&End::PeerClosed));
    bench.finish();
}

fn a_cancelled_receive_ends_once<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    for (round, shots) in [Shots::One, Shots::Many, Shots::One, Shots::Many].iter().enumerate() {
        bench.receive(link, *shots);
        // Half of the rounds cancel what the system has seen, the others what it has not.
        if round >= 2 {
            bench.stays_quiet("nothing was sent");
        }
        bench.cancel(link, OperationKind::Receive);
        bench.cancel(link, OperationKind::Receive);
        bench.until("the end", |bench| !bench.in_flight(link, OperationKind::Receive));
        assert_eq!(bench.of(link).ends, vec![End::Cancelled; round + 1]);
    }
    bench.stays_quiet("all receives are over");
    bench.receive(link, Shots::One);
    bench.peer_writes(&mut peer, b"later");
    bench.until("bytes after the cancels", |bench| bench.of(link).received == b"later");
    bench.finish();
}

fn a_cancel_of_nothing_changes_nothing<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    let kinds = [OperationKind::Accept, OperationKind::Receive, OperationKind::Send];
    for of in [link, bench.listener] {
        kinds.iter().for_each(|kind| bench.lab.port().cancel(of.socket, *kind));
        bench.lab.port().cancel(of.socket, OperationKind::Close);
    }
    bench.receive(link, Shots::Many);
    kinds[..1].iter().for_each(|kind| bench.lab.port().cancel(link.socket, *kind));
    bench.lab.port().cancel(link.socket, OperationKind::Send);
    bench.lab.port().cancel(link.socket, OperationKind::Close);
    bench.stays_quiet("only operations that were not in flight were cancelled");
    bench.peer_writes(&mut peer, b"hello");
    bench.until("the bytes", |bench| bench.of(link).received == b"hello");
    bench.send_whole(link, b"hello");
    assert_eq!(bench.peer_reads(&mut peer, 5), b"hello");
    let (other, _peer) = bench.link();
    bench.close_and_wait(other);
    bench.finish();
}

fn data_that_races_a_cancel_is_neither_lost_nor_doubled<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    let (mut written, mut cancelled) = (0, 0);
    for repetition in 0..2_000_usize {
        let shots = if repetition % 2 == 0 { Shots::Many } else { Shots::One };
        let len = 1 + repetition % 7;
        bench.receive(link, shots);
        // The order of data, cancel and a look by the port goes round through all cases.
        if repetition % 3 == 0 {
            bench.round(Duration::ZERO);
        }
        if repetition % 5 == 4 {
            bench.cancel(link, OperationKind::Receive);
            written += peer.try_write(&pattern(1, written, len));
        } else {
            written += peer.try_write(&pattern(1, written, len));
            if repetition % 5 == 3 {
                bench.round(Duration::ZERO);
            }
            bench.cancel(link, OperationKind::Receive);
        }
        bench.until("the receive", |bench| !bench.in_flight(link, OperationKind::Receive));
        cancelled += std::mem::take(&mut bench.of(link).ends).len();
    }
    assert!(cancelled > 0, "no cancel came in time, so nothing was tested");
    bench.receive(link, Shots::Many);
    peer.shutdown_write();
    bench.until("the end", |bench| bench.of(link).ends == [End::PeerClosed]);
    assert_eq!(bench.of(link).received.len(), written);
    assert_pattern(1, 0, &bench.of(link).received);
    bench.finish();
}

fn a_cancelled_send_says_how_much_it_sent<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small().narrow().buffers(512, 2048));
    let (link, mut peer) = bench.link();
    let mut chain = bench.pool.chain_of(&pattern(1, 0, 1_000_000), Owner::SendQueue).unwrap();
    let (mut total, mut read) = (0, Vec::new());
    for repetition in 0..10 {
        bench.submit(link, Operation::Send(chain)).unwrap();
        if repetition > 0 {
            bench.stays_quiet("the peer does not read");
        }
        bench.cancel(link, OperationKind::Send);
        let done = bench.sent(link);
        assert!(done.sent < done.chain.len(), "the network is narrower than that");
        total += done.sent;
        chain = done.chain;
        chain.advance(done.sent);
        // Exactly what was said to be sent arrives, and the rest can follow.
        let arrived = bench.peer_reads(&mut peer, total - read.len());
        read.extend(arrived);
        assert_pattern(1, 0, &read);
    }
    bench.shutdown(link);
    let (more, _end) = bench.peer_reads_to_end(&mut peer);
    assert_eq!(more.len(), 0, "more arrived than was said to be sent");
    drop(chain);
    bench.finish();
}

fn an_accept_of_one_accepts_exactly_one<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let peers: Vec<_> = (0..3).map(|_| bench.lab.connect()).collect();
    for count in 1..=3 {
        bench.accept(Shots::One);
        bench.until("a connection", |bench| bench.accepted.len() == count);
        bench.stays_quiet("one accept takes one connection");
    }
    let mut addresses: Vec<_> = bench.accepted.iter().map(|(_, address)| *address).collect();
    let mut expected: Vec<_> = peers.iter().map(Peer::address).collect();
    addresses.sort();
    expected.sort();
    assert_eq!(addresses, expected);
    bench.finish();
}

fn an_accept_of_many_takes_a_storm_of_connections<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small().sockets(301));
    bench.accept(Shots::Many);
    let mut peers: Vec<_> = (0..300).map(|_| bench.lab.connect()).collect();
    bench.until("300 connections", |bench| bench.accepted.len() == 300);
    assert!(bench.in_flight(bench.listener, OperationKind::Accept));
    // Each of them works, and is the one that it says it is.
    peers.sort_by_key(Peer::address);
    let mut accepted: Vec<_> = bench.accepted.drain(..).collect();
    accepted.sort_by_key(|(_, address)| *address);
    for ((stream, address), peer) in accepted.into_iter().zip(&mut peers) {
        assert_eq!(address, peer.address());
        let link = bench.associate(stream).ok().expect("the table has room");
        bench.send(link, &link.key.to_be_bytes());
        assert_eq!(bench.peer_reads(peer, 8), link.key.to_be_bytes());
        drop(bench.sent(link));
    }
    bench.finish();
}

fn a_cancelled_accept_ends_once_and_loses_no_connection<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let listener = bench.listener;
    bench.accept(Shots::Many);
    bench.stays_quiet("nobody connected");
    bench.cancel(listener, OperationKind::Accept);
    bench.until("the end", |bench| bench.of(listener).ends == [End::Cancelled]);
    let mut peers = Vec::new();
    for repetition in 0..200 {
        bench.accept(if repetition % 2 == 0 { Shots::Many } else { Shots::One });
        if repetition % 3 == 0 {
            bench.round(Duration::ZERO);
        }
        peers.push(bench.lab.connect());
        if repetition % 5 == 0 {
            bench.round(Duration::ZERO);
        }
        bench.cancel(listener, OperationKind::Accept);
        bench.until("the accept", |bench| !bench.in_flight(listener, OperationKind::Accept));
    }
    bench.accept(Shots::Many);
    bench.until("every connection", |bench| bench.accepted.len() == 200);
    let mut addresses: Vec<_> = bench.accepted.iter().map(|(_, address)| *address).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 200, "a connection was accepted twice");
    bench.finish();
}

fn a_close_ends_receive_and_send_before_it_completes<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small().narrow().buffers(512, 2048));
    for shots in [Shots::One, Shots::Many] {
        let (link, mut peer) = bench.link();
        bench.receive(link, shots);
        bench.send(link, &pattern(1, 0, 500_000));
        bench.stays_quiet("the peer neither reads nor writes");
        bench.close_and_wait(link);
        assert_eq!(bench.of(link).ends, [End::Cancelled]);
        let done = bench.sent(link);
        assert!(done.sent < done.chain.len());
        let (read, _end) = bench.peer_reads_to_end(&mut peer);
        assert!(read.len() <= done.sent, "the peer read what was never reported as sent");
        assert_pattern(1, 0, &read);
    }
    bench.finish();
}

fn a_close_of_a_listener_ends_its_accept<L: Lab>() {
    for shots in [Shots::One, Shots::Many] {
        let mut bench = Bench::<L>::new(Setup::small());
        let listener = bench.listener;
        bench.accept(shots);
        bench.stays_quiet("nobody connected");
        bench.close_and_wait(listener);
        assert_eq!(bench.of(listener).ends, [End::Cancelled]);
        bench.finish();
    }
}

fn a_close_that_races_data_and_the_peers_end_completes_once<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    for repetition in 0..200 {
        let (link, mut peer) = bench.link();
        bench.receive(link, if repetition % 2 == 0 { Shots::Many } else { Shots::One });
        bench.send(link, b"ping");
        if repetition % 3 == 0 {
            bench.round(Duration::ZERO);
        }
        peer.try_write(&pattern(link.key, 0, 40));
        match repetition % 5 {
            0 => peer.shutdown_write(),
            1 => drop(peer),
            2 => peer.reset(),
            _ => {}
        }
        bench.close_and_wait(link);
        assert_pattern(link.key, 0, &bench.of(link).received);
        assert_eq!(bench.of(link).sent.len(), 1);
        bench.of(link).sent.clear();
    }
    bench.finish();
}

fn a_peer_that_resets_ends_receive_and_send_once<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small().narrow().buffers(512, 2048));
    let (link, peer) = bench.link();
    bench.receive(link, Shots::Many);
    bench.send(link, &pattern(1, 0, 500_000));
    bench.stays_quiet("the peer neither reads nor writes");
    peer.reset();
    bench.until("both to end", |bench| {
        !bench.in_flight(link, OperationKind::Receive)
            && !bench.in_flight(link, OperationKind::Send)
    });
    let done = bench.sent(link);
    assert!(done.sent < done.chain.len());
    drop(done);
    assert_eq!(bench.of(link).ends.len(), 1);
    bench.stays_quiet("both are over");

    let (idle, peer) = bench.link();
    bench.receive(idle, Shots::One);
    peer.reset();
    bench.until("the receive to end", |bench| !bench.in_flight(idle, OperationKind::Receive));
    assert!(matches!(bench.of(idle).ends[..], [End::Failed(_)]), "{:?}", bench.of(idle).ends);
    // A send on the broken connection ends as well, and says so.
    bench.send(idle, b"anybody there?");
    let done = bench.sent(idle);
    assert!(matches!((done.sent, done.end), (0, Some(End::Failed(_)))), "{done:?}");
    drop(done);
    bench.finish();
}

fn a_reset_is_told_to_at_least_one_operation<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small().narrow().buffers(512, 2048));
    for shots in [Shots::One, Shots::Many] {
        let (link, peer) = bench.link();
        bench.receive(link, shots);
        bench.send(link, &pattern(1, 0, 500_000));
        bench.stays_quiet("the peer neither reads nor writes");
        peer.reset();
        bench.until("the receive to end", |bench| !bench.in_flight(link, OperationKind::Receive));
        let mut done = bench.sent(link);
        // The system tells of the reset once. If the send got it after it had sent a part, it is
        // short without a reason; its continuation then must fail.
        if done.end.is_none() {
            done.chain.advance(done.sent);
            bench.submit(link, Operation::Send(done.chain)).unwrap();
            done = bench.sent(link);
        }
        let told = [done.end, bench.of(link).ends.first().copied()];
        assert!(told.iter().any(|end| matches!(end, Some(End::Failed(_)))), "{told:?}");
        drop(done);
        bench.close_and_wait(link);
    }
    bench.finish();
}

fn a_second_operation_of_a_kind_is_busy_and_comes_back<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small().narrow().buffers(512, 2048));
    let (link, mut peer) = bench.link();
    let listener = bench.listener;
    bench.accept(Shots::Many);
    bench.receive(link, Shots::One);
    bench.send(link, &pattern(1, 0, 500_000));
    let chain = bench.pool.chain_of(&pattern(2, 0, 5000), Owner::SendQueue).unwrap();
    let free = bench.pool.free();
    for shots in [Shots::One, Shots::Many] {
        assert_refused(&mut bench, listener, Operation::Accept(shots), &[SubmitErrorKind::Busy]);
    }
    for shots in [Shots::One, Shots::Many, Shots::IfReady] {
        assert_refused(&mut bench, link, Operation::receive(shots), &[SubmitErrorKind::Busy]);
    }
    let back = bench.submit(link, Operation::Send(chain)).unwrap_err();
    let (SubmitErrorKind::Busy, Operation::Send(chain)) = (back.kind, back.operation) else {
        panic!("not the send, or not busy");
    };
    assert_pattern(2, 0, &chain.slices().flatten().copied().collect::<Vec<_>>());
    assert_eq!((chain.len(), bench.pool.free()), (5000, free));
    // What is in flight was not disturbed.
    bench.peer_writes(&mut peer, b"x");
    bench.until("the receive", |bench| bench.of(link).received == b"x");
    drop(chain);
    bench.finish();
}

fn a_closing_socket_takes_nothing_more<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, _peer) = bench.link();
    bench.receive(link, Shots::Many);
    bench.close(link);
    // A close is in flight, so a second one is as well busy as too late.
    let either = [SubmitErrorKind::Closing, SubmitErrorKind::Busy];
    assert_refused(&mut bench, link, Operation::Close, &either);
    for shots in [Shots::One, Shots::Many, Shots::IfReady] {
        assert_refused(&mut bench, link, Operation::receive(shots), &either);
    }
    let chain = bench.pool.chain_of(b"too late", Owner::SendQueue).unwrap();
    assert_refused(&mut bench, link, Operation::Send(chain), &[SubmitErrorKind::Closing]);
    bench.until("the close", |bench| bench.of(link).closed);
    assert_refused(&mut bench, link, Operation::Close, &[SubmitErrorKind::StaleSocket]);
    bench.finish();
}

fn an_operation_that_does_not_fit_the_socket_comes_back<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, _peer) = bench.link();
    let listener = bench.listener;
    let not_for_this = [SubmitErrorKind::NotForThisSocket];
    let chain = bench.pool.chain_of(b"for a link", Owner::SendQueue).unwrap();
    assert_refused(&mut bench, listener, Operation::Send(chain), &not_for_this);
    assert_refused(&mut bench, listener, Operation::Accept(Shots::IfReady), &not_for_this);
    assert_refused(&mut bench, link, Operation::Send(Chain::new()), &not_for_this);
    for shots in [Shots::One, Shots::Many] {
        assert_refused(&mut bench, listener, Operation::receive(shots), &not_for_this);
        assert_refused(&mut bench, link, Operation::Accept(shots), &not_for_this);
    }
    bench.stays_quiet("nothing was taken");
    bench.finish();
}

fn assert_refused<L: Lab>(
    bench: &mut Bench<L>,
    link: Link,
    operation: Operation,
    kinds: &[SubmitErrorKind],
) {
    let described = format!("{operation:?}");
    let error = bench.submit(link, operation).expect_err(&described);
    assert!(kinds.contains(&error.kind), "{described}: {:?} is not in {kinds:?}", error.kind);
    assert_eq!(format!("{:?}", error.operation), described, "it is given back as it was");
}

/// How often a port is asked whether bytes are there that are about to arrive.
const PROBES: usize = 10_000;
