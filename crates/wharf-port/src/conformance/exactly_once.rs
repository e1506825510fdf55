//! INV-PORT-1: each submitted operation completes exactly once, also when it is cancelled or its
//! socket is closed.
//!
//! The method: each way in which an operation can end is caused, alone and in a race with another.
//! The checker compares every completion with the operations in flight, so a second completion of
//! an operation, or one of none, fails each of these tests; a missing one fails them at the
//! deadline.

use super::checker::{Link, PortChecker, assert_pattern, pattern};
use super::network::{Peer, Setup, TestNetwork, each_back_end};
use crate::memory::chain::Chain;
use crate::memory::ledger::Owner;
use crate::port::completion::EndReason;
use crate::port::contract::Port;
use crate::port::operation::{CompletionMode, Operation, OperationKind, SubmitErrorKind};
use std::time::Duration;

each_back_end!(
    a_oneshot_receive_completes_once,
    a_multishot_receive_completes_until_the_peer_ends,
    a_receive_if_ready_completes_at_once_either_way,
    a_cancelled_receive_ends_once,
    a_cancel_of_nothing_changes_nothing,
    data_that_races_a_cancel_is_neither_lost_nor_doubled,
    a_cancelled_send_says_how_much_it_sent,
    a_oneshot_accept_accepts_exactly_one,
    a_multishot_accept_takes_300_connections,
    a_cancelled_accept_ends_once_and_loses_no_connection,
    a_close_ends_receive_and_send_before_it_completes,
    a_close_of_a_listener_ends_its_accept,
    a_connection_that_was_reset_before_it_was_accepted_is_accepted_or_counted,
    a_close_that_races_data_and_the_peers_end_completes_once,
    a_peer_that_resets_ends_receive_and_send_once,
    a_reset_is_told_to_at_least_one_operation,
    a_second_operation_of_a_kind_is_busy_and_comes_back,
    a_closing_socket_takes_nothing_more,
    an_operation_that_does_not_fit_the_socket_comes_back,
);

fn a_oneshot_receive_completes_once<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    checker.receive(link, CompletionMode::Oneshot);
    checker.peer_writes(&mut peer, &pattern(1, 0, 100));
    checker.until("the receive", |checker| checker.of(link).receives == 1);
    let first = checker.of(link).received.len();
    checker.peer_writes(&mut peer, &pattern(1, 100, 50));
    checker.stays_quiet("the receive has completed, and none was submitted since");
    while checker.of(link).received.len() < 150 {
        let before = checker.of(link).receives;
        checker.receive(link, CompletionMode::Oneshot);
        checker.until("the next receive", |checker| checker.of(link).receives == before + 1);
    }
    assert!(first <= 100);
    assert_pattern(1, 0, &checker.of(link).received);
    peer.shutdown_write();
    checker.receive(link, CompletionMode::Oneshot);
    checker.until("the end", |checker| checker.of(link).ends == [EndReason::PeerClosed]);
    checker.finish();
}

fn a_multishot_receive_completes_until_the_peer_ends<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    checker.receive(link, CompletionMode::Multishot);
    for part in 0..20 {
        checker.peer_writes(&mut peer, &pattern(1, part * 300, 300));
        let len = (part + 1) * 300;
        checker.until("a part", |checker| checker.of(link).received.len() == len);
        assert!(checker.in_flight(link, OperationKind::Receive));
    }
    drop(peer);
    checker.until("the end", |checker| checker.of(link).ends == [EndReason::PeerClosed]);
    assert_pattern(1, 0, &checker.of(link).received);
    checker.stays_quiet("the receive is over");
    checker.finish();
}

fn a_receive_if_ready_completes_at_once_either_way<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    let look = |checker: &mut PortChecker<N>| {
        checker.receive(link, CompletionMode::IfReady);
        checker.until("an answer", |checker| !checker.in_flight(link, OperationKind::Receive));
    };
    look(&mut checker);
    look(&mut checker);
    assert_eq!(checker.of(link).ends, [EndReason::NotReady, EndReason::NotReady]);
    checker.peer_writes(&mut peer, b"now");
    // The bytes arrive after an unknown time, so receives are repeated until then.
    for _ in 0..PROBES {
        look(&mut checker);
        if checker.of(link).received == b"now" {
            break;
        }
    }
    assert_eq!(checker.of(link).received, b"now");
    peer.shutdown_write();
    for _ in 0..PROBES {
        look(&mut checker);
        if checker.of(link).ends.last() != Some(&EndReason::NotReady) {
            break;
        }
    }
    assert_eq!(checker.of(link).ends.last(), Some(&EndReason::PeerClosed));
    checker.finish();
}

fn a_cancelled_receive_ends_once<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    for (round, mode) in [
        CompletionMode::Oneshot,
        CompletionMode::Multishot,
        CompletionMode::Oneshot,
        CompletionMode::Multishot,
    ]
    .iter()
    .enumerate()
    {
        checker.receive(link, *mode);
        // Half of the receives are cancelled before a dequeue has started them.
        if round >= 2 {
            checker.stays_quiet("nothing was sent");
        }
        checker.cancel(link, OperationKind::Receive);
        checker.cancel(link, OperationKind::Receive);
        checker.until("the end", |checker| !checker.in_flight(link, OperationKind::Receive));
        assert_eq!(checker.of(link).ends, vec![EndReason::Cancelled; round + 1]);
    }
    checker.stays_quiet("all receives are over");
    checker.receive(link, CompletionMode::Oneshot);
    checker.peer_writes(&mut peer, b"later");
    checker.until("bytes after the cancels", |checker| checker.of(link).received == b"later");
    checker.finish();
}

fn a_cancel_of_nothing_changes_nothing<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    let kinds = [OperationKind::Accept, OperationKind::Receive, OperationKind::Send];
    for of in [link, checker.listener] {
        kinds.iter().for_each(|kind| checker.network.port().cancel(of.socket, *kind));
        checker.network.port().cancel(of.socket, OperationKind::Close);
    }
    checker.receive(link, CompletionMode::Multishot);
    kinds[..1].iter().for_each(|kind| checker.network.port().cancel(link.socket, *kind));
    checker.network.port().cancel(link.socket, OperationKind::Send);
    checker.network.port().cancel(link.socket, OperationKind::Close);
    checker.stays_quiet("only operations that were not in flight were cancelled");
    checker.peer_writes(&mut peer, b"hello");
    checker.until("the bytes", |checker| checker.of(link).received == b"hello");
    checker.send_whole(link, b"hello");
    assert_eq!(checker.peer_reads(&mut peer, 5), b"hello");
    let (other, _peer) = checker.link();
    checker.close_and_wait(other);
    checker.finish();
}

fn data_that_races_a_cancel_is_neither_lost_nor_doubled<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    let (mut written, mut cancelled) = (0, 0);
    for repetition in 0..2_000_usize {
        let mode =
            if repetition % 2 == 0 { CompletionMode::Multishot } else { CompletionMode::Oneshot };
        let len = 1 + repetition % 7;
        checker.receive(link, mode);
        // Data, cancel and dequeue occur in all orders.
        if repetition % 3 == 0 {
            checker.round(Duration::ZERO);
        }
        if repetition % 5 == 4 {
            checker.cancel(link, OperationKind::Receive);
            written += peer.try_write(&pattern(1, written, len));
        } else {
            written += peer.try_write(&pattern(1, written, len));
            if repetition % 5 == 3 {
                checker.round(Duration::ZERO);
            }
            checker.cancel(link, OperationKind::Receive);
        }
        checker.until("the receive", |checker| !checker.in_flight(link, OperationKind::Receive));
        cancelled += std::mem::take(&mut checker.of(link).ends).len();
    }
    assert!(cancelled > 0, "no cancel succeeded, so nothing was tested");
    checker.receive(link, CompletionMode::Multishot);
    peer.shutdown_write();
    checker.until("the end", |checker| checker.of(link).ends == [EndReason::PeerClosed]);
    assert_eq!(checker.of(link).received.len(), written);
    assert_pattern(1, 0, &checker.of(link).received);
    checker.finish();
}

fn a_cancelled_send_says_how_much_it_sent<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().narrow().buffers(512, 2048));
    let (link, mut peer) = checker.link();
    let mut chain = checker.pool.chain_of(&pattern(1, 0, 1_000_000), Owner::SendQueue).unwrap();
    let (mut total, mut read) = (0, Vec::new());
    for repetition in 0..10 {
        checker.submit(link, Operation::Send(chain)).unwrap();
        if repetition > 0 {
            checker.stays_quiet("the peer does not read");
        }
        checker.cancel(link, OperationKind::Send);
        let done = checker.sent(link);
        assert!(done.sent < done.chain.len(), "the network cannot hold all bytes");
        total += done.sent;
        chain = done.chain;
        chain.advance(done.sent);
        // Exactly the reported bytes arrive, and the rest can be sent.
        let arrived = checker.peer_reads(&mut peer, total - read.len());
        read.extend(arrived);
        assert_pattern(1, 0, &read);
    }
    checker.shutdown(link);
    let (more, _end) = checker.peer_reads_to_end(&mut peer);
    assert_eq!(more.len(), 0, "more bytes arrived than were reported as sent");
    drop(chain);
    checker.finish();
}

fn a_oneshot_accept_accepts_exactly_one<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let peers: Vec<_> = (0..3).map(|_| checker.network.connect()).collect();
    for count in 1..=3 {
        checker.accept(CompletionMode::Oneshot);
        checker.until("a connection", |checker| checker.accepted.len() == count);
        checker.stays_quiet("a oneshot accept accepts one connection");
    }
    let mut addresses: Vec<_> = checker.accepted.iter().map(|(_, address)| *address).collect();
    let mut expected: Vec<_> = peers.iter().map(Peer::address).collect();
    addresses.sort();
    expected.sort();
    assert_eq!(addresses, expected);
    checker.finish();
}

fn a_multishot_accept_takes_300_connections<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().sockets(301));
    checker.accept(CompletionMode::Multishot);
    let mut peers: Vec<_> = (0..300).map(|_| checker.network.connect()).collect();
    checker.until("300 connections", |checker| checker.accepted.len() == 300);
    assert!(checker.in_flight(checker.listener, OperationKind::Accept));
    // Each of them works, and has the address that the completion says.
    peers.sort_by_key(Peer::address);
    let mut accepted: Vec<_> = checker.accepted.drain(..).collect();
    accepted.sort_by_key(|(_, address)| *address);
    for ((stream, address), peer) in accepted.into_iter().zip(&mut peers) {
        assert_eq!(address, peer.address());
        let link = checker.associate(stream).ok().expect("the table has a free slot");
        checker.send(link, &link.key.to_be_bytes());
        assert_eq!(checker.peer_reads(peer, 8), link.key.to_be_bytes());
        drop(checker.sent(link));
    }
    checker.finish();
}

fn a_cancelled_accept_ends_once_and_loses_no_connection<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let listener = checker.listener;
    checker.accept(CompletionMode::Multishot);
    checker.stays_quiet("no peer has connected");
    checker.cancel(listener, OperationKind::Accept);
    checker.until("the end", |checker| checker.of(listener).ends == [EndReason::Cancelled]);
    let mut peers = Vec::new();
    for repetition in 0..200 {
        checker.accept(if repetition % 2 == 0 {
            CompletionMode::Multishot
        } else {
            CompletionMode::Oneshot
        });
        if repetition % 3 == 0 {
            checker.round(Duration::ZERO);
        }
        peers.push(checker.network.connect());
        if repetition % 5 == 0 {
            checker.round(Duration::ZERO);
        }
        checker.cancel(listener, OperationKind::Accept);
        checker.until("the accept", |checker| !checker.in_flight(listener, OperationKind::Accept));
    }
    checker.accept(CompletionMode::Multishot);
    checker.until("every connection", |checker| checker.accepted.len() == 200);
    let mut addresses: Vec<_> = checker.accepted.iter().map(|(_, address)| *address).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 200, "a connection was accepted twice");
    checker.finish();
}

fn a_close_ends_receive_and_send_before_it_completes<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().narrow().buffers(512, 2048));
    for mode in [CompletionMode::Oneshot, CompletionMode::Multishot] {
        let (link, mut peer) = checker.link();
        checker.receive(link, mode);
        checker.send(link, &pattern(1, 0, 500_000));
        checker.stays_quiet("the peer neither reads nor writes");
        checker.close_and_wait(link);
        assert_eq!(checker.of(link).ends, [EndReason::Cancelled]);
        let done = checker.sent(link);
        assert!(done.sent < done.chain.len());
        let (read, _end) = checker.peer_reads_to_end(&mut peer);
        assert!(read.len() <= done.sent, "the peer read more bytes than were reported as sent");
        assert_pattern(1, 0, &read);
    }
    checker.finish();
}

fn a_close_of_a_listener_ends_its_accept<N: TestNetwork>() {
    for mode in [CompletionMode::Oneshot, CompletionMode::Multishot] {
        let mut checker = PortChecker::<N>::new(Setup::small());
        let listener = checker.listener;
        checker.accept(mode);
        checker.stays_quiet("no peer has connected");
        checker.close_and_wait(listener);
        assert_eq!(checker.of(listener).ends, [EndReason::Cancelled]);
        checker.finish();
    }
}

fn a_connection_that_was_reset_before_it_was_accepted_is_accepted_or_counted<N: TestNetwork>() {
    for mode in [CompletionMode::Oneshot, CompletionMode::Multishot] {
        let mut checker = PortChecker::<N>::new(Setup::small());
        let mut addresses = Vec::new();
        for _ in 0..4 {
            let mut peer = checker.network.connect();
            checker.peer_writes(&mut peer, b"before the reset");
            addresses.push(peer.address());
            peer.reset();
        }
        let live = checker.network.connect();
        addresses.push(live.address());
        checker.until("every connection", |checker| {
            if !checker.in_flight(checker.listener, OperationKind::Accept) {
                checker.accept(mode);
            }
            let aborts = checker.network.port().counters().accept_aborts;
            checker.accepted.len() as u64 + aborts == addresses.len() as u64
        });
        let accepted: Vec<_> = checker.accepted.iter().map(|(_, address)| *address).collect();
        if N::HANDS_OVER_RESET_CONNECTIONS {
            assert_eq!(accepted, addresses, "the system hands over each of them");
        }
        assert_eq!(accepted.last(), addresses.last());
        while let Some((stream, address)) = checker.accepted.pop_front() {
            let link = checker.associate(stream).ok().expect("the table has a free slot");
            if address != live.address() {
                checker.receive(link, CompletionMode::Multishot);
                checker.until("the reset", |checker| !checker.of(link).ends.is_empty());
                assert!(b"before the reset".starts_with(&checker.of(link).received));
            }
        }
        checker.finish();
    }
}

fn a_close_that_races_data_and_the_peers_end_completes_once<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    for repetition in 0..200 {
        let (link, mut peer) = checker.link();
        checker.receive(
            link,
            if repetition % 2 == 0 { CompletionMode::Multishot } else { CompletionMode::Oneshot },
        );
        checker.send(link, b"ping");
        if repetition % 3 == 0 {
            checker.round(Duration::ZERO);
        }
        peer.try_write(&pattern(link.key, 0, 40));
        match repetition % 5 {
            0 => peer.shutdown_write(),
            1 => drop(peer),
            2 => peer.reset(),
            _ => {}
        }
        checker.close_and_wait(link);
        assert_pattern(link.key, 0, &checker.of(link).received);
        assert_eq!(checker.of(link).sent.len(), 1);
        checker.of(link).sent.clear();
    }
    checker.finish();
}

fn a_peer_that_resets_ends_receive_and_send_once<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().narrow().buffers(512, 2048));
    let (link, peer) = checker.link();
    checker.receive(link, CompletionMode::Multishot);
    checker.send(link, &pattern(1, 0, 500_000));
    checker.stays_quiet("the peer neither reads nor writes");
    peer.reset();
    checker.until("both to end", |checker| {
        !checker.in_flight(link, OperationKind::Receive)
            && !checker.in_flight(link, OperationKind::Send)
    });
    let done = checker.sent(link);
    assert!(done.sent < done.chain.len());
    drop(done);
    assert_eq!(checker.of(link).ends.len(), 1);
    checker.stays_quiet("both are over");

    let (idle, peer) = checker.link();
    checker.receive(idle, CompletionMode::Oneshot);
    peer.reset();
    checker.until("the receive to end", |checker| !checker.in_flight(idle, OperationKind::Receive));
    assert!(
        matches!(checker.of(idle).ends[..], [EndReason::Failed(_)]),
        "{:?}",
        checker.of(idle).ends
    );
    // A send on the broken connection fails, too.
    checker.send(idle, b"too late");
    let done = checker.sent(idle);
    assert!(matches!((done.sent, done.end), (0, Some(EndReason::Failed(_)))), "{done:?}");
    drop(done);
    checker.finish();
}

fn a_reset_is_told_to_at_least_one_operation<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().narrow().buffers(512, 2048));
    for mode in [CompletionMode::Oneshot, CompletionMode::Multishot] {
        let (link, peer) = checker.link();
        checker.receive(link, mode);
        checker.send(link, &pattern(1, 0, 500_000));
        checker.stays_quiet("the peer neither reads nor writes");
        peer.reset();
        checker.until("the receive to end", |checker| {
            !checker.in_flight(link, OperationKind::Receive)
        });
        let mut done = checker.sent(link);
        // The system reports the reset once. If it did so to a send that had sent a part, that send
        // is short; its continuation must fail.
        if done.end.is_none() {
            done.chain.advance(done.sent);
            checker.submit(link, Operation::Send(done.chain)).unwrap();
            done = checker.sent(link);
        }
        let told = [done.end, checker.of(link).ends.first().copied()];
        assert!(told.iter().any(|end| matches!(end, Some(EndReason::Failed(_)))), "{told:?}");
        drop(done);
        checker.close_and_wait(link);
    }
    checker.finish();
}

fn a_second_operation_of_a_kind_is_busy_and_comes_back<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().narrow().buffers(512, 2048));
    let (link, mut peer) = checker.link();
    let listener = checker.listener;
    checker.accept(CompletionMode::Multishot);
    checker.receive(link, CompletionMode::Oneshot);
    checker.send(link, &pattern(1, 0, 500_000));
    let chain = checker.pool.chain_of(&pattern(2, 0, 5000), Owner::SendQueue).unwrap();
    let free = checker.pool.free_count();
    for mode in [CompletionMode::Oneshot, CompletionMode::Multishot] {
        assert_refused(
            &mut checker,
            listener,
            Operation::Accept(mode),
            &[SubmitErrorKind::AlreadyInFlight],
        );
    }
    for mode in [CompletionMode::Oneshot, CompletionMode::Multishot, CompletionMode::IfReady] {
        assert_refused(
            &mut checker,
            link,
            Operation::receive(mode),
            &[SubmitErrorKind::AlreadyInFlight],
        );
    }
    let back = checker.submit(link, Operation::Send(chain)).unwrap_err();
    let (SubmitErrorKind::AlreadyInFlight, Operation::Send(chain)) = (back.kind, back.operation)
    else {
        panic!("another operation, or another error");
    };
    assert_pattern(2, 0, &chain.slices().flatten().copied().collect::<Vec<_>>());
    assert_eq!((chain.len(), checker.pool.free_count()), (5000, free));
    // The operations in flight are not affected.
    checker.peer_writes(&mut peer, b"x");
    checker.until("the receive", |checker| checker.of(link).received == b"x");
    drop(chain);
    checker.finish();
}

fn a_closing_socket_takes_nothing_more<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, _peer) = checker.link();
    checker.receive(link, CompletionMode::Multishot);
    checker.close(link);
    // A close is in flight, so both errors are right.
    let either = [SubmitErrorKind::Closing, SubmitErrorKind::AlreadyInFlight];
    assert_refused(&mut checker, link, Operation::Close, &either);
    for mode in [CompletionMode::Oneshot, CompletionMode::Multishot, CompletionMode::IfReady] {
        assert_refused(&mut checker, link, Operation::receive(mode), &either);
    }
    let chain = checker.pool.chain_of(b"too late", Owner::SendQueue).unwrap();
    assert_refused(&mut checker, link, Operation::Send(chain), &[SubmitErrorKind::Closing]);
    checker.until("the close", |checker| checker.of(link).closed);
    assert_refused(&mut checker, link, Operation::Close, &[SubmitErrorKind::StaleSocket]);
    checker.finish();
}

fn an_operation_that_does_not_fit_the_socket_comes_back<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, _peer) = checker.link();
    let listener = checker.listener;
    let not_for_this = [SubmitErrorKind::WrongOperation];
    let chain = checker.pool.chain_of(b"for a link", Owner::SendQueue).unwrap();
    assert_refused(&mut checker, listener, Operation::Send(chain), &not_for_this);
    assert_refused(
        &mut checker,
        listener,
        Operation::Accept(CompletionMode::IfReady),
        &not_for_this,
    );
    assert_refused(&mut checker, link, Operation::Send(Chain::new()), &not_for_this);
    for mode in [CompletionMode::Oneshot, CompletionMode::Multishot] {
        assert_refused(&mut checker, listener, Operation::receive(mode), &not_for_this);
        assert_refused(&mut checker, link, Operation::Accept(mode), &not_for_this);
    }
    checker.stays_quiet("nothing was submitted");
    checker.finish();
}

fn assert_refused<N: TestNetwork>(
    checker: &mut PortChecker<N>,
    link: Link,
    operation: Operation,
    kinds: &[SubmitErrorKind],
) {
    let described = format!("{operation:?}");
    let error = checker.submit(link, operation).expect_err(&described);
    assert!(kinds.contains(&error.kind), "{described}: {:?} is not in {kinds:?}", error.kind);
    assert_eq!(format!("{:?}", error.operation), described, "it is returned unchanged");
}

/// The most receives that are made until sent bytes have arrived.
const PROBES: usize = 10_000;
