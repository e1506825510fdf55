//! What the contract says beside its numbered promises: timeouts, the capacity of completions, and
//! the two directions of a connection.
//!
//! The method: one test for each sentence of [`Port`](crate::port::Port)'s documentation that a
//! back end could break by itself.

use super::checker::{PortChecker, ROUND, assert_pattern, pattern};
use super::network::{Peer, PeerRead, Setup, TestNetwork, each_back_end};
use crate::memory::ledger::Owner;
use crate::port::completion::{EndReason, Outcome};
use crate::port::contract::{Port, PortConfig};
use crate::port::operation::{CompletionMode, Operation, OperationKind};
use crate::range::refusal;
use std::time::Duration;

each_back_end!(
    a_wait_lasts_as_long_as_its_timeout,
    a_timeout_of_zero_returns_at_once,
    a_dequeue_with_something_there_does_not_wait,
    completions_are_appended_up_to_the_capacity,
    the_counters_and_the_clock_only_rise,
    a_link_whose_peer_has_shut_down_can_still_send,
    a_shutdown_ends_the_stream_after_the_last_byte,
    a_link_that_has_shut_down_can_still_receive,
    a_close_after_a_send_loses_no_byte,
    unread_bytes_are_those_that_no_receive_has_taken,
    the_local_address_is_where_the_peer_has_connected_to,
    a_value_out_of_its_range_is_refused_with_its_name_and_range;
    // Windows does not report them.
    except iocp: acknowledged_bytes_tell_a_reader_from_one_that_has_stopped,
);

fn a_wait_lasts_as_long_as_its_timeout<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, _peer) = checker.link();
    checker.receive(link, CompletionMode::Multishot);
    checker.accept(CompletionMode::Multishot);
    checker.stays_quiet("no peer sends");
    // Single waits may end early.
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        let start = checker.network.port().now();
        assert_eq!(checker.round(Duration::from_millis(50)), 0);
        let waited = checker.network.port().now().duration_since(start);
        assert!(waited < Duration::from_secs(2), "{waited:?} instead of 50 ms");
        longest = longest.max(waited);
    }
    assert!(longest >= Duration::from_millis(48), "{longest:?} instead of 50 ms");
    checker.finish();
}

fn a_timeout_of_zero_returns_at_once<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, _peer) = checker.link();
    checker.receive(link, CompletionMode::Multishot);
    let start = checker.network.port().now();
    for _ in 0..1_000 {
        assert_eq!(checker.round(Duration::ZERO), 0);
    }
    let waited = checker.network.port().now().duration_since(start);
    assert!(waited < Duration::from_secs(2), "{waited:?} for 1,000 dequeues");
    checker.finish();
}

fn a_dequeue_with_something_there_does_not_wait<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    let start = checker.network.port().now();
    checker.network.port().poster().post(1).unwrap();
    assert_eq!(checker.round(Duration::MAX), 1, "the longest timeout");
    for part in 0..100 {
        checker.receive(link, CompletionMode::Oneshot);
        checker.peer_writes(&mut peer, &pattern(1, part, 1));
        while checker.of(link).received.len() <= part {
            checker.round(Duration::from_secs(3600));
        }
        checker.send(link, b"x");
        while checker.of(link).sent.pop_front().is_none() {
            checker.round(Duration::from_secs(3600));
        }
        // A cancelled operation ends without a wait, too.
        checker.receive(link, CompletionMode::Multishot);
        checker.cancel(link, OperationKind::Receive);
        while checker.in_flight(link, OperationKind::Receive) {
            checker.round(Duration::from_secs(3600));
        }
    }
    checker.close(link);
    while !checker.of(link).closed {
        checker.round(Duration::from_secs(3600));
    }
    assert!(checker.network.port().now().duration_since(start) < Duration::from_secs(5));
    checker.finish();
}

fn completions_are_appended_up_to_the_capacity<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().buffers(64, 256));
    let mut links = checker.links(10);
    let mut completions = Vec::with_capacity(3);
    for (link, _) in &links {
        checker
            .network
            .port()
            .submit(link.socket, Operation::receive(CompletionMode::Multishot))
            .unwrap();
    }
    checker.network.port().dequeue(&mut completions, Some(Duration::ZERO)).unwrap();
    for (link, peer) in &mut links {
        assert_eq!(peer.try_write(&pattern(link.key, 0, 20)), 20);
        let chain = checker.pool.chain_of(b"x", Owner::SendQueue).unwrap();
        checker.network.port().submit(link.socket, Operation::Send(chain)).unwrap();
    }
    let poster = checker.network.port().poster();
    (0..10).for_each(|packet| poster.post(packet).unwrap());
    let (mut receives, mut sends, mut packets) = (0, 0, 0);
    let start = checker.network.port().now();
    let mut kept = None;
    while receives + sends + packets < 30 {
        assert!(
            checker.network.port().now().duration_since(start) < Duration::from_secs(10),
            "completions are missing"
        );
        // Completions in the vector stay, and as many as fit are appended.
        completions.extend(kept.take());
        let before = completions.len();
        checker.network.port().dequeue(&mut completions, Some(ROUND)).unwrap();
        assert!(completions.len() <= 3 && completions.capacity() == 3);
        assert!(completions.len() >= before);
        for (i, completion) in completions.drain(..).enumerate() {
            if i >= before {
                receives += u32::from(matches!(completion.outcome, Outcome::Received { .. }));
                sends += u32::from(matches!(completion.outcome, Outcome::Sent { .. }));
                packets += u32::from(matches!(completion.outcome, Outcome::Posted(_)));
            }
            kept = Some(completion);
        }
    }
    assert_eq!((receives, sends, packets), (10, 10, 10));
    drop(kept);
    checker.drop_port();
}

fn the_counters_and_the_clock_only_rise<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().buffers(2, 64));
    let (link, mut peer) = checker.link();
    checker.receive(link, CompletionMode::Multishot);
    let mut counters = checker.network.port().counters();
    let mut now = checker.network.port().now();
    let waits = counters.waits;
    for _ in 0..100 {
        peer.try_write(&[1; 300]);
        checker.round(ROUND);
        let next = checker.network.port().counters();
        assert!(next.waits >= counters.waits && next.wakeups >= counters.wakeups);
        assert!(next.buffer_waits >= counters.buffer_waits);
        assert!(next.accept_aborts >= counters.accept_aborts);
        assert_eq!(next.stale_completions, 0);
        counters = next;
        let later = checker.network.port().now();
        assert!(later >= now);
        now = later;
    }
    assert!(counters.waits > waits, "none of 100 dequeues was counted");
    checker.finish();
}

fn a_link_whose_peer_has_shut_down_can_still_send<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().narrow().buffers(128, 1024));
    let (link, mut peer) = checker.link();
    checker.receive(link, CompletionMode::Multishot);
    peer.shutdown_write();
    checker.until("the peer's end", |checker| checker.of(link).ends == [EndReason::PeerClosed]);
    let mut read = Vec::new();
    checker.send(link, &pattern(1, 0, 100_000));
    checker.until("all bytes", |checker| {
        if let Some(mut done) = checker.of(link).sent.pop_front() {
            assert_eq!(done.end, None);
            done.chain.advance(done.sent);
            if !done.chain.is_empty() {
                checker.submit(link, Operation::Send(done.chain)).unwrap();
            }
        }
        peer.try_read(&mut read, 10_000);
        read.len() == 100_000
    });
    assert_pattern(1, 0, &read);
    checker.close_and_wait(link);
    assert_eq!(checker.peer_reads_to_end(&mut peer), (vec![], PeerRead::Eof));
    checker.finish();
}

fn a_shutdown_ends_the_stream_after_the_last_byte<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    checker.receive(link, CompletionMode::Multishot);
    checker.send_whole(link, &pattern(1, 0, 5_000));
    checker.shutdown(link);
    let (read, end) = checker.peer_reads_to_end(&mut peer);
    assert_eq!((read.len(), end), (5_000, PeerRead::Eof));
    assert_pattern(1, 0, &read);
    // A second shutdown has no effect, and a send after it fails.
    checker.shutdown(link);
    checker.send(link, b"after the end");
    let done = checker.sent(link);
    assert!(matches!((done.sent, done.end), (0, Some(EndReason::Failed(_)))), "{done:?}");
    drop(done);
    checker.finish();
}

fn a_link_that_has_shut_down_can_still_receive<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    checker.receive(link, CompletionMode::Multishot);
    checker.shutdown(link);
    assert_eq!(checker.peer_reads_to_end(&mut peer), (vec![], PeerRead::Eof));
    checker.peer_writes(&mut peer, &pattern(1, 0, 3_000));
    checker.until("the bytes", |checker| checker.of(link).received.len() == 3_000);
    assert_pattern(1, 0, &checker.of(link).received);
    assert!(checker.in_flight(link, OperationKind::Receive));
    peer.shutdown_write();
    checker.until("the peer's end", |checker| checker.of(link).ends == [EndReason::PeerClosed]);
    checker.finish();
}

fn a_close_after_a_send_loses_no_byte<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    for _ in 0..20 {
        let (link, mut peer) = checker.link();
        checker.send_whole(link, &pattern(1, 0, 6_000));
        checker.close_and_wait(link);
        let (read, end) = checker.peer_reads_to_end(&mut peer);
        assert_eq!((read.len(), end), (6_000, PeerRead::Eof));
        assert_pattern(1, 0, &read);
    }
    checker.finish();
}

fn unread_bytes_are_those_that_no_receive_has_taken<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    let unread = |checker: &mut PortChecker<N>| checker.network.port().unread_bytes(link.socket);
    assert_eq!(unread(&mut checker), Some(0));
    checker.peer_writes(&mut peer, &pattern(link.key, 0, 700));
    checker.until("all bytes to arrive", |checker| unread(checker) == Some(700));
    checker.receive_max(link, CompletionMode::Oneshot, 200);
    checker.until("a receive", |checker| checker.of(link).received.len() == 200);
    assert_eq!(unread(&mut checker), Some(500));
    checker.close_and_wait(link);
    assert_eq!(unread(&mut checker), None, "a stale socket");
    checker.finish();
}

fn the_local_address_is_where_the_peer_has_connected_to<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, peer) = checker.link();
    let (other, _peer) = checker.link();
    assert_eq!(checker.network.port().local_address(link.socket), peer.connected_to());
    checker.close_and_wait(link);
    assert_eq!(checker.network.port().local_address(link.socket), None, "a stale socket");
    assert_eq!(checker.network.port().local_address(other.socket), peer.connected_to());
    checker.finish();
}

fn a_value_out_of_its_range_is_refused_with_its_name_and_range<N: TestNetwork>() {
    let refused = |set: fn(&mut PortConfig)| {
        let mut setup = Setup::small();
        set(&mut setup.port);
        refusal(|| N::new(setup))
    };
    let sockets = "it must be 1 to 268435454";
    assert_eq!(refused(|c| c.sockets_max = 0), format!("sockets_max is 0; {sockets}"));
    let above = refused(|c| c.sockets_max = u32::MAX);
    assert_eq!(above, format!("sockets_max is 4294967295; {sockets}"));
    let receives = "it must be 1 to 32768";
    let below = refused(|c| c.receive_buffers_max = 0);
    assert_eq!(below, format!("receive_buffers_max is 0; {receives}"));
    let above = refused(|c| c.receive_buffers_max = 32_769);
    assert_eq!(above, format!("receive_buffers_max is 32769; {receives}"));
    let inbox = "it must be 1 to 16777216";
    assert_eq!(refused(|c| c.inbox_capacity = 0), format!("inbox_capacity is 0; {inbox}"));
    let above = refused(|c| c.inbox_capacity = u32::MAX);
    assert_eq!(above, format!("inbox_capacity is 4294967295; {inbox}"));
}

fn acknowledged_bytes_tell_a_reader_from_one_that_has_stopped<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().narrow().buffers(64, 16 << 10));
    let (link, mut peer) = checker.link();
    let acknowledged = |checker: &mut PortChecker<N>| {
        let bytes = checker.network.port().acknowledged_bytes(link.socket);
        bytes.expect("they are reported")
    };
    let bytes = pattern(1, 0, 50 * (16 << 10));
    checker.send(link, &bytes);
    // Until the peer's TCP window is closed.
    let mut known = acknowledged(&mut checker);
    let mut quiet_rounds = 0;
    checker.until("a peer that does not read to have enough", |checker| {
        let now = acknowledged(checker);
        quiet_rounds = if now == known { quiet_rounds + 1 } else { 0 };
        known = now;
        quiet_rounds == 100
    });
    for _ in 0..300 {
        checker.round(ROUND);
        assert_eq!(acknowledged(&mut checker), known, "nothing was read");
    }
    let mut read = 0;
    for _ in 0..5 {
        let got = checker.peer_reads(&mut peer, 32 << 10);
        assert_pattern(1, read, &got);
        read += got.len();
        checker.until("the reading to show", |checker| acknowledged(checker) > known);
        known = acknowledged(&mut checker);
        assert!(checker.in_flight(link, OperationKind::Send), "one send, of {} bytes", bytes.len());
    }
    checker.close_and_wait(link);
    assert_eq!(checker.network.port().acknowledged_bytes(link.socket), None, "a stale socket");
    checker.finish();
}
