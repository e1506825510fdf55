//! What the contract says beside its numbered promises: time-outs, the capacity of completions, and
//! the two halves of a connection.
//!
//! The method: each sentence of [`Port`](crate::port::Port)'s documentation that a back end could
//! break by itself is tried once.

use super::bench::{Bench, ROUND, assert_pattern, pattern};
use super::lab::{Lab, Peer, PeerRead, Setup, each_back_end, skip};
use crate::memory::Owner;
use crate::port::{End, Operation, OperationKind, Outcome, Port, Shots};
use std::time::Duration;

each_back_end!(
    a_wait_lasts_as_long_as_its_time_out,
    a_time_out_of_zero_returns_at_once,
    a_dequeue_with_something_there_does_not_wait,
    completions_are_appended_up_to_the_capacity,
    the_counters_and_the_clock_only_rise,
    a_link_whose_peer_has_shut_down_can_still_send,
    a_shutdown_ends_the_stream_after_the_last_byte,
    a_link_that_has_shut_down_can_still_receive,
    a_close_after_a_send_loses_no_byte,
    acknowledged_bytes_tell_a_reader_from_one_that_has_stopped,
    unread_bytes_are_those_that_no_receive_has_taken,
    the_local_address_is_where_the_peer_has_connected_to,
);

fn a_wait_lasts_as_long_as_its_time_out<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, _peer) = bench.link();
    bench.receive(link, Shots::Many);
    bench.accept(Shots::Many);
    bench.stays_quiet("nobody sends");
    // A wait may end early, but not every time.
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        let start = bench.lab.port().now();
        assert_eq!(bench.round(Duration::from_millis(50)), 0);
        let waited = bench.lab.port().now().since(start);
        assert!(waited < Duration::from_secs(2), "{waited:?} instead of 50 ms");
        longest = longest.max(waited);
    }
    assert!(longest >= Duration::from_millis(48), "{longest:?} instead of 50 ms");
    bench.finish();
}

fn a_time_out_of_zero_returns_at_once<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, _peer) = bench.link();
    bench.receive(link, Shots::Many);
    let start = bench.lab.port().now();
    for _ in 0..1_000 {
        assert_eq!(bench.round(Duration::ZERO), 0);
    }
    let waited = bench.lab.port().now().since(start);
    assert!(waited < Duration::from_secs(2), "{waited:?} for 1,000 looks");
    bench.finish();
}

fn a_dequeue_with_something_there_does_not_wait<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    let start = bench.lab.port().now();
    bench.lab.port().poster().post(1).unwrap();
    assert_eq!(bench.round(Duration::MAX), 1, "the longest time-out there is");
    for part in 0..100 {
        bench.receive(link, Shots::One);
        bench.peer_writes(&mut peer, &pattern(1, part, 1));
        while bench.of(link).received.len() <= part {
            bench.round(Duration::from_secs(3600));
        }
        bench.send(link, b"x");
        while bench.of(link).sent.pop_front().is_none() {
            bench.round(Duration::from_secs(3600));
        }
        // An operation that is cancelled is over soon, too.
        bench.receive(link, Shots::Many);
        bench.cancel(link, OperationKind::Receive);
        while bench.in_flight(link, OperationKind::Receive) {
            bench.round(Duration::from_secs(3600));
        }
    }
    bench.close(link);
    while !bench.of(link).closed {
        bench.round(Duration::from_secs(3600));
    }
    assert!(bench.lab.port().now().since(start) < Duration::from_secs(5));
    bench.finish();
}

fn completions_are_appended_up_to_the_capacity<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small().buffers(64, 256));
    let mut links = bench.links(10);
    let mut completions = Vec::with_capacity(3);
    for (link, _) in &links {
        bench.lab.port().submit(link.socket, Operation::receive(Shots::Many)).unwrap();
    }
    bench.lab.port().dequeue(&mut completions, Some(Duration::ZERO)).unwrap();
    for (link, peer) in &mut links {
        assert_eq!(peer.try_write(&pattern(link.key, 0, 20)), 20);
        let chain = bench.pool.chain_of(b"x", Owner::SendQueue).unwrap();
        bench.lab.port().submit(link.socket, Operation::Send(chain)).unwrap();
    }
    let poster = bench.lab.port().poster();
    (0..10).for_each(|packet| poster.post(packet).unwrap());
    let (mut receives, mut sends, mut packets) = (0, 0, 0);
    let start = bench.lab.port().now();
    let mut kept = None;
    while receives + sends + packets < 30 {
        assert!(bench.lab.port().now().since(start) < Duration::from_secs(10), "some are missing");
        // What is in the vector stays, and what fits behind it is appended.
        completions.extend(kept.take());
        let before = completions.len();
        bench.lab.port().dequeue(&mut completions, Some(ROUND)).unwrap();
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
    bench.drop_port();
}

fn the_counters_and_the_clock_only_rise<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small().buffers(2, 64));
    let (link, mut peer) = bench.link();
    bench.receive(link, Shots::Many);
    let mut counters = bench.lab.port().counters();
    let mut now = bench.lab.port().now();
    let waits = counters.waits;
    for _ in 0..100 {
        peer.try_write(&[1; 300]);
        bench.round(ROUND);
        let next = bench.lab.port().counters();
        assert!(next.waits >= counters.waits && next.wakeups >= counters.wakeups);
        assert!(next.receive_pauses >= counters.receive_pauses);
        assert!(next.accept_aborts >= counters.accept_aborts);
        assert_eq!(next.stale, 0);
        counters = next;
        let later = bench.lab.port().now();
        assert!(later >= now);
        now = later;
    }
    assert!(counters.waits > waits, "a hundred rounds looked for completions");
    bench.finish();
}

fn a_link_whose_peer_has_shut_down_can_still_send<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small().narrow().buffers(128, 1024));
    let (link, mut peer) = bench.link();
    bench.receive(link, Shots::Many);
    peer.shutdown_write();
    bench.until("the peer's end", |bench| bench.of(link).ends == [End::PeerClosed]);
    let mut read = Vec::new();
    bench.send(link, &pattern(1, 0, 100_000));
    bench.until("all bytes", |bench| {
        if let Some(mut done) = bench.of(link).sent.pop_front() {
            assert_eq!(done.end, None);
            done.chain.advance(done.sent);
            if !done.chain.is_empty() {
                bench.submit(link, Operation::Send(done.chain)).unwrap();
            }
        }
        peer.try_read(&mut read, 10_000);
        read.len() == 100_000
    });
    assert_pattern(1, 0, &read);
    bench.close_and_wait(link);
    assert_eq!(bench.peer_reads_to_end(&mut peer), (vec![], PeerRead::Eof));
    bench.finish();
}

fn a_shutdown_ends_the_stream_after_the_last_byte<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    bench.receive(link, Shots::Many);
    bench.send_whole(link, &pattern(1, 0, 5_000));
    bench.shutdown(link);
    let (read, end) = bench.peer_reads_to_end(&mut peer);
    assert_eq!((read.len(), end), (5_000, PeerRead::Eof));
    assert_pattern(1, 0, &read);
    // A second one changes nothing, and a send after it fails and says so.
    bench.shutdown(link);
    bench.send(link, b"after the end");
    let done = bench.sent(link);
    assert!(matches!((done.sent, done.end), (0, Some(End::Failed(_)))), "{done:?}");
    drop(done);
    bench.finish();
}

fn a_link_that_has_shut_down_can_still_receive<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    bench.receive(link, Shots::Many);
    bench.shutdown(link);
    assert_eq!(bench.peer_reads_to_end(&mut peer), (vec![], PeerRead::Eof));
    bench.peer_writes(&mut peer, &pattern(1, 0, 3_000));
    bench.until("the bytes", |bench| bench.of(link).received.len() == 3_000);
    assert_pattern(1, 0, &bench.of(link).received);
    assert!(bench.in_flight(link, OperationKind::Receive));
    peer.shutdown_write();
    bench.until("the peer's end", |bench| bench.of(link).ends == [End::PeerClosed]);
    bench.finish();
}

fn a_close_after_a_send_loses_no_byte<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    for _ in 0..20 {
        let (link, mut peer) = bench.link();
        bench.send_whole(link, &pattern(1, 0, 6_000));
        bench.close_and_wait(link);
        let (read, end) = bench.peer_reads_to_end(&mut peer);
        assert_eq!((read.len(), end), (6_000, PeerRead::Eof));
        assert_pattern(1, 0, &read);
    }
    bench.finish();
}

fn unread_bytes_are_those_that_no_receive_has_taken<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    let unread = |bench: &mut Bench<L>| bench.lab.port().unread_bytes(link.socket);
    assert_eq!(unread(&mut bench), Some(0));
    bench.peer_writes(&mut peer, &pattern(link.key, 0, 700));
    bench.until("all to come", |bench| unread(bench) == Some(700));
    bench.receive_max(link, Shots::One, 200);
    bench.until("a receive", |bench| bench.of(link).received.len() == 200);
    assert_eq!(unread(&mut bench), Some(500));
    bench.close_and_wait(link);
    assert_eq!(unread(&mut bench), None, "a stale socket");
    bench.finish();
}

fn the_local_address_is_where_the_peer_has_connected_to<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, peer) = bench.link();
    let (other, _peer) = bench.link();
    assert_eq!(bench.lab.port().local_address(link.socket), peer.connected_to());
    bench.close_and_wait(link);
    assert_eq!(bench.lab.port().local_address(link.socket), None, "a stale socket");
    assert_eq!(bench.lab.port().local_address(other.socket), peer.connected_to());
    bench.finish();
}

fn acknowledged_bytes_tell_a_reader_from_one_that_has_stopped<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small().narrow().buffers(64, 16 << 10));
    let (link, mut peer) = bench.link();
    if bench.lab.port().acknowledged_bytes(link.socket).is_none() {
        return skip("this back end does not tell");
    }
    let acknowledged = |bench: &mut Bench<L>| {
        let bytes = bench.lab.port().acknowledged_bytes(link.socket);
        bytes.expect("it told before")
    };
    let bytes = pattern(1, 0, 50 * (16 << 10));
    bench.send(link, &bytes);
    // Until the peer's window is closed.
    let mut known = acknowledged(&mut bench);
    let mut quiet_rounds = 0;
    bench.until("a peer that does not read to have enough", |bench| {
        let now = acknowledged(bench);
        quiet_rounds = if now == known { quiet_rounds + 1 } else { 0 };
        known = now;
        quiet_rounds == 100
    });
    for _ in 0..300 {
        bench.round(ROUND);
        assert_eq!(acknowledged(&mut bench), known, "nothing was read");
    }
    let mut read = 0;
    for _ in 0..5 {
        let got = bench.peer_reads(&mut peer, 32 << 10);
        assert_pattern(1, read, &got);
        read += got.len();
        bench.until("the reading to show", |bench| acknowledged(bench) > known);
        known = acknowledged(&mut bench);
        assert!(bench.in_flight(link, OperationKind::Send), "one send, of {} bytes", bytes.len());
    }
    bench.close_and_wait(link);
    assert_eq!(bench.lab.port().acknowledged_bytes(link.socket), None, "a stale socket");
    bench.finish();
}
