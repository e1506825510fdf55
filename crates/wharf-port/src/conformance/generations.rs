//! INV-PORT-4: a completion never has the key of a later socket of the slot; a stale `Socket` is an
//! error; `Closed` is the last completion with the socket's key.
//!
//! The method: a table with slots for the listener and one link, so that each new link has the slot
//! of the one before it, while bytes of that one are in transit. Every link has a key of its own,
//! and the checker panics on a completion whose key is closed.

use super::checker::{PortChecker, assert_pattern, pattern};
use super::network::{Peer, PeerRead, Setup, TestNetwork, each_back_end};
use crate::memory::ledger::Owner;
use crate::port::contract::Port;
use crate::port::operation::{CompletionMode, Operation, OperationKind, SubmitErrorKind};
use std::time::Duration;

each_back_end!(
    a_stale_socket_is_refused,
    a_stale_handle_leaves_the_next_owner_of_its_slot_alone,
    a_reused_slot_never_mixes_its_owners,
    nothing_follows_the_completion_of_a_close,
    a_full_table_gives_the_stream_back,
);

fn a_stale_socket_is_refused<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().sockets(2));
    let (link, mut peer) = checker.link();
    checker.close_and_wait(link);
    assert_eq!(checker.peer_reads_to_end(&mut peer), (vec![], PeerRead::Eof));
    let chain = checker.pool.chain_of(b"too late", Owner::SendQueue).unwrap();
    let operations = [
        Operation::receive(CompletionMode::Oneshot),
        Operation::receive(CompletionMode::Multishot),
        Operation::receive(CompletionMode::IfReady),
        Operation::Send(chain),
        Operation::Close,
    ];
    for operation in operations {
        let error = checker.submit(link, operation).unwrap_err();
        assert_eq!(error.kind, SubmitErrorKind::StaleSocket, "{:?}", error.operation);
    }
    checker.stays_quiet("nothing was submitted");
    checker.finish();
}

fn a_stale_handle_leaves_the_next_owner_of_its_slot_alone<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().sockets(2));
    let (stale, _peer) = checker.link();
    checker.receive(stale, CompletionMode::Multishot);
    checker.close_and_wait(stale);
    let (link, mut peer) = checker.link();
    assert_ne!(stale.socket, link.socket);
    checker.receive(link, CompletionMode::Multishot);
    for kind in [OperationKind::Receive, OperationKind::Send, OperationKind::Close] {
        checker.network.port().cancel(stale.socket, kind);
    }
    checker.network.port().shutdown(stale.socket);
    let error = checker.submit(stale, Operation::Close).unwrap_err();
    assert_eq!(error.kind, SubmitErrorKind::StaleSocket);
    checker.stays_quiet("the stale handle has no effect");
    checker.peer_writes(&mut peer, b"still here");
    checker.until("the bytes", |checker| checker.of(link).received == b"still here");
    checker.send_whole(link, b"so am I");
    assert_eq!(checker.peer_reads(&mut peer, 7), b"so am I");
    checker.finish();
}

fn a_reused_slot_never_mixes_its_owners<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().sockets(2).buffers(8, 64));
    let mut before: Option<N::Peer> = None;
    for repetition in 0..200 {
        let (link, mut peer) = checker.link();
        checker.receive(
            link,
            if repetition % 2 == 0 { CompletionMode::Multishot } else { CompletionMode::Oneshot },
        );
        // The slot's last peer still sends, to a closed connection.
        if let Some(mut before) = before.take() {
            before.try_write(b"late bytes of an earlier link");
        }
        checker.peer_writes(&mut peer, &pattern(link.key, 0, 40));
        checker.until("the bytes", |checker| !checker.of(link).received.is_empty());
        checker.send_whole(link, &pattern(link.key, 1_000, 30));
        assert_pattern(link.key, 1_000, &checker.peer_reads(&mut peer, 30));
        // Further bytes arrive while the link is being closed.
        peer.try_write(&pattern(link.key, 40, 60));
        if repetition % 3 == 0 {
            checker.round(Duration::ZERO);
        }
        checker.close_and_wait(link);
        assert_pattern(link.key, 0, &checker.of(link).received);
        before = Some(peer);
    }
    checker.finish();
}

fn nothing_follows_the_completion_of_a_close<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().narrow().buffers(512, 2048));
    let mut peers = Vec::new();
    for repetition in 0..10 {
        let (link, mut peer) = checker.link();
        checker.receive(link, CompletionMode::Multishot);
        checker.send(link, &pattern(1, 0, 400_000));
        for _ in 0..repetition % 3 {
            checker.round(Duration::ZERO);
        }
        checker.cancel(link, OperationKind::Receive);
        checker.close(link);
        peer.try_write(b"late");
        checker.until("the close", |checker| checker.of(link).closed);
        assert!(!checker.in_flight(link, OperationKind::Receive));
        assert!(!checker.in_flight(link, OperationKind::Send));
        checker.of(link).sent.clear();
        peers.push(peer);
    }
    checker.stays_quiet("all links are closed");
    peers.into_iter().for_each(Peer::reset);
    checker.stays_quiet("all links are closed");
    checker.finish();
}

fn a_full_table_gives_the_stream_back<N: TestNetwork>() {
    let mut checker = PortChecker::<N>::new(Setup::small().sockets(2));
    let (first, _peer) = checker.link();
    checker.accept(CompletionMode::Oneshot);
    let mut peer = checker.network.connect();
    checker.until("a connection", |checker| !checker.accepted.is_empty());
    let (stream, _) = checker.accepted.pop_front().unwrap();
    let Err(refused) = checker.associate(stream) else { panic!("the table was full") };
    assert_eq!(refused.error, None, "the table is full, and no call failed");
    checker.close_and_wait(first);
    let link = checker.associate(refused.socket).ok().expect("there is a free slot");
    checker.receive(link, CompletionMode::Oneshot);
    checker.peer_writes(&mut peer, b"at last");
    checker.until("the bytes", |checker| checker.of(link).received == b"at last");
    checker.finish();
}
