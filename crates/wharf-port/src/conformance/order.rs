//! INV-PORT-3: at most one send per socket is in flight; bytes keep their order; a completion
//! returns the chain with the count of bytes sent, and the program continues a short send.
//!
//! The method: streams without repetitions, through small socket buffers, so that sends are short;
//! the peer reads in odd sizes and compares the bytes.

use super::checker::{PortChecker, Sent, assert_pattern, pattern};
use super::network::{Peer, PeerRead, Setup, TestNetwork, each_back_end};
use crate::memory::chain::Chain;
use crate::memory::ledger::Owner;
use crate::memory::message::{MessagePool, MessagePoolConfig};
use crate::port::operation::{CompletionMode, Operation, OperationKind, SubmitErrorKind};

each_back_end!(
    four_mebibytes_of_short_sends_arrive_in_order,
    a_second_send_is_refused_and_the_first_arrives_whole,
    a_chain_with_a_skipped_prefix_sends_only_the_rest,
    a_chain_of_more_buffers_than_one_system_call_takes_arrives_whole,
    sends_behind_many_receives_keep_their_own_bytes,
    a_message_reaches_every_link_whole,
    an_echo_in_both_directions_at_once_keeps_both_in_order,
    many_small_sends_keep_their_order,
);

fn four_mebibytes_of_short_sends_arrive_in_order<N: TestNetwork>() {
    const TOTAL: usize = 4 << 20;
    let mut checker = PortChecker::<N>::new(Setup::small().narrow().buffers(256, 1024));
    let (link, mut peer) = checker.link();
    let (mut queued, mut read, mut short_sends, mut step) = (0, Vec::new(), 0, 0_usize);
    let mut queue = Chain::new();
    checker.until("all bytes", |checker| {
        // Buffers of odd lengths, so that boundaries are at odd positions.
        while queued < TOTAL {
            let len = (1 + (queued * 7) % 1024).min(TOTAL - queued);
            let Some(mut buffer) = checker.pool.acquire(Owner::SendQueue) else { break };
            assert_eq!(buffer.append(&pattern(1, queued, len)), len);
            queue.push(&checker.pool, buffer).unwrap();
            queued += len;
        }
        if let Some(Sent { mut chain, sent, end }) = checker.of(link).sent.pop_front() {
            assert_eq!(end, None);
            short_sends += usize::from(sent < chain.len());
            chain.advance(sent);
            // The rest of the short send is first.
            chain.append_chain(std::mem::take(&mut queue));
            queue = chain;
        }
        if !checker.in_flight(link, OperationKind::Send) && !queue.is_empty() {
            checker.submit(link, Operation::Send(std::mem::take(&mut queue))).unwrap();
        }
        for _ in 0..8 {
            step += 1;
            if peer.try_read(&mut read, 1 + (step * 6_367) % 20_000) == PeerRead::WouldBlock {
                break;
            }
        }
        read.len() == TOTAL
    });
    assert_pattern(1, 0, &read);
    checker.finish();
}

fn a_second_send_is_refused_and_the_first_arrives_whole<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().narrow().buffers(512, 2048));
    let (link, mut peer) = checker.link();
    checker.send(link, &pattern(1, 0, 400_000));
    let mut waiting = checker.pool.chain_of(&pattern(1, 400_000, 3_000), Owner::SendQueue).unwrap();
    let (mut read, mut refusals) = (Vec::new(), 0);
    checker.until("the first send", |checker| {
        if checker.in_flight(link, OperationKind::Send) {
            let chain = std::mem::take(&mut waiting);
            let error = checker.submit(link, Operation::Send(chain)).unwrap_err();
            assert_eq!(error.kind, SubmitErrorKind::AlreadyInFlight);
            let Operation::Send(chain) = error.operation else { panic!("not the send") };
            waiting = chain;
            refusals += 1;
        }
        peer.try_read(&mut read, 30_000);
        !checker.in_flight(link, OperationKind::Send)
    });
    assert!(refusals > 0);
    let Sent { mut chain, sent, end } = checker.sent(link);
    assert_eq!(end, None);
    chain.advance(sent);
    chain.append_chain(waiting);
    let rest: Vec<_> = chain.slices().flatten().copied().collect();
    drop(chain);
    let mut at = 0;
    checker.until("the rest", |checker| {
        if let Some(done) = checker.of(link).sent.pop_front() {
            at += done.sent;
        }
        if !checker.in_flight(link, OperationKind::Send) && at < rest.len() {
            checker.send(link, &rest[at..]);
        }
        peer.try_read(&mut read, 30_000);
        read.len() == 403_000
    });
    assert_pattern(1, 0, &read);
    checker.finish();
}

fn a_chain_with_a_skipped_prefix_sends_only_the_rest<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let (link, mut peer) = checker.link();
    for skipped in [1, 100, 255, 256, 257, 600, 999] {
        let mut chain = checker.pool.chain_of(&pattern(1, 0, 1_000), Owner::SendQueue).unwrap();
        chain.advance(skipped);
        checker.submit(link, Operation::Send(chain)).unwrap();
        let done = checker.sent(link);
        assert_eq!((done.sent, done.chain.len()), (1_000 - skipped, 1_000 - skipped));
        assert_pattern(1, skipped, &checker.peer_reads(&mut peer, 1_000 - skipped));
    }
    checker.finish();
}

fn a_chain_of_more_buffers_than_one_system_call_takes_arrives_whole<N: TestNetwork>() {
    // Linux takes at most 1,024 slices per call (IOV_MAX); the chain has 3,000 buffers.
    let mut checker = PortChecker::<N>::new(Setup::small().buffers(3_100, 64));
    let (link, mut peer) = checker.link();
    let mut chain = Chain::new();
    for piece in 0..3_000 {
        let mut buffer = checker.pool.acquire(Owner::SendQueue).unwrap();
        buffer.append(&pattern(1, piece * 10, 10));
        chain.push(&checker.pool, buffer).unwrap();
    }
    let mut total = 0;
    checker.submit(link, Operation::Send(chain)).unwrap();
    loop {
        let Sent { mut chain, sent, end } = checker.sent(link);
        assert_eq!(end, None);
        total += sent;
        chain.advance(sent);
        if chain.is_empty() {
            break;
        }
        checker.submit(link, Operation::Send(chain)).unwrap();
    }
    assert_eq!(total, 30_000);
    assert_pattern(1, 0, &checker.peer_reads(&mut peer, 30_000));
    checker.finish();
}

/// A submission queue that fills up between two sends must not change the memory to which they
/// point.
fn sends_behind_many_receives_keep_their_own_bytes<N: TestNetwork>() {
    const SENDS: usize = 10;
    const LEN: usize = 600;
    // The submission queue of an io_uring port for 65 sockets has 128 entries.
    let mut checker = PortChecker::<N>::new(Setup::small().sockets(65).buffers(64, 256));
    let mut links = checker.links(64);
    let mut sent = 0;
    for receives in (60..=64).chain([128, 129]) {
        checker.round(super::checker::ROUND);
        for (link, _) in &links {
            checker.cancel(*link, OperationKind::Receive);
        }
        checker.until("the receives to end", |checker| {
            links.iter().all(|(link, _)| !checker.in_flight(*link, OperationKind::Receive))
        });
        for n in 0..receives {
            let link = links[n % links.len()].0;
            if checker.in_flight(link, OperationKind::Receive) {
                checker.cancel(link, OperationKind::Receive);
            } else {
                checker.receive(link, CompletionMode::Oneshot);
            }
        }
        for (link, _) in &links[..SENDS] {
            checker.send(*link, &pattern(link.key, sent, LEN));
        }
        for (link, peer) in &mut links[..SENDS] {
            let mut done = checker.sent(*link);
            // A short send is allowed, wrong bytes are not.
            let mut len = done.sent;
            while len < LEN {
                checker.send(*link, &pattern(link.key, sent + len, LEN - len));
                done = checker.sent(*link);
                len += done.sent;
            }
            assert_pattern(link.key, sent, &checker.peer_reads(peer, LEN));
        }
        sent += LEN;
    }
    drop(links);
    checker.finish();
}

fn a_message_reaches_every_link_whole<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().buffers(24, 256));
    let mut links = checker.links(8);
    checker.round(super::checker::ROUND);
    let free = checker.pool.free_count();
    let mut config = MessagePoolConfig::new(3);
    config.buffer_size_bytes = 256;
    let messages = MessagePool::new(config).unwrap();
    let news = messages.message_of(&pattern(7, 0, 700)).unwrap();
    for (link, _) in &links {
        let mut chain = Chain::new();
        chain.push_message(&checker.pool, news.clone()).unwrap();
        checker.submit(*link, Operation::Send(chain)).unwrap();
    }
    drop(news);
    assert_eq!(
        (checker.pool.free_count(), messages.free_count()),
        (free, 0),
        "eight links share one message"
    );
    for (count, (link, peer)) in links.iter_mut().enumerate() {
        assert_pattern(7, 0, &checker.peer_reads(peer, 700));
        let done = checker.sent(*link);
        assert_eq!((done.sent, done.end), (700, None));
        drop(done);
        assert_eq!(messages.free_count(), if count == 7 { 3 } else { 0 }, "the last send frees it");
    }
    checker.finish();
}

fn an_echo_in_both_directions_at_once_keeps_both_in_order<N: TestNetwork>() {
    const TOTAL: usize = 512 << 10;
    let mut checker = PortChecker::<N>::new(Setup::small().narrow().buffers(64, 512));
    checker.keep_buffers = true;
    let mut links = checker.links(2);
    for (link, _) in &links {
        checker.receive(*link, CompletionMode::Multishot);
    }
    let mut written = [0; 2];
    let mut read = [Vec::new(), Vec::new()];
    let mut queues = [Chain::new(), Chain::new()];
    checker.until("both echoes", |checker| {
        for (i, (link, peer)) in links.iter_mut().enumerate() {
            let len = (TOTAL - written[i]).min(3_001);
            written[i] += peer.try_write(&pattern(link.key, written[i], len));
            for buffer in std::mem::take(&mut checker.of(*link).buffers) {
                queues[i].push(&checker.pool, buffer).unwrap();
            }
            if let Some(Sent { mut chain, sent, end }) = checker.of(*link).sent.pop_front() {
                assert_eq!(end, None);
                chain.advance(sent);
                chain.append_chain(std::mem::take(&mut queues[i]));
                queues[i] = chain;
            }
            if !checker.in_flight(*link, OperationKind::Send) && !queues[i].is_empty() {
                let chain = std::mem::take(&mut queues[i]);
                checker.submit(*link, Operation::Send(chain)).unwrap();
            }
            peer.try_read(&mut read[i], 4_001);
        }
        read.iter().all(|bytes| bytes.len() == TOTAL)
    });
    for ((link, _), bytes) in links.iter().zip(&read) {
        assert_pattern(link.key, 0, bytes);
    }
    checker.finish();
}

fn many_small_sends_keep_their_order<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small());
    let mut links = checker.links(4);
    for message in 0..500 {
        for (link, _) in &links {
            checker.send(*link, &pattern(link.key, message * 5, 5));
        }
        for (link, _) in &links {
            let done = checker.sent(*link);
            assert_eq!((done.sent, done.end), (5, None));
        }
    }
    for (link, peer) in &mut links {
        assert_pattern(link.key, 0, &checker.peer_reads(peer, 2_500));
    }
    checker.finish();
}
