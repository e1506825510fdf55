//! INV-PORT-4: a completion never names a later owner of a socket's place; a stale `Socket` is
//! refused; `Closed` is the last completion with the socket's key.
//!
//! The method: a table with place for the listener and one link, so that each new link sits on the
//! place of the one before it, while bytes of that one are still on their way. Every link has a
//! key of its own, and the bench refuses any completion whose key is closed.

use super::bench::{Bench, assert_pattern, pattern};
use super::lab::{Lab, Peer, PeerRead, Setup, each_back_end};
use crate::memory::Owner;
use crate::port::{Operation, OperationKind, Port, Shots, SubmitErrorKind};
use std::time::Duration;

each_back_end!(
    a_stale_socket_is_refused,
    a_stale_handle_leaves_the_next_owner_of_its_place_alone,
    a_place_used_again_and_again_never_mixes_its_owners,
    nothing_follows_the_completion_of_a_close,
    a_full_table_gives_the_stream_back,
);

fn a_stale_socket_is_refused<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small().sockets(2));
    let (link, mut peer) = bench.link();
    bench.close_and_wait(link);
    assert_eq!(bench.peer_reads_to_end(&mut peer), (vec![], PeerRead::Eof));
    let chain = bench.pool.chain_of(b"to nobody", Owner::SendQueue).unwrap();
    let operations = [
        Operation::receive(Shots::One),
        Operation::receive(Shots::Many),
        Operation::receive(Shots::IfReady),
        Operation::Send(chain),
        Operation::Close,
    ];
    for operation in operations {
        let error = bench.submit(link, operation).unwrap_err();
        assert_eq!(error.kind, SubmitErrorKind::StaleSocket, "{:?}", error.operation);
    }
    bench.stays_quiet("nothing was taken");
    bench.finish();
}

fn a_stale_handle_leaves_the_next_owner_of_its_place_alone<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small().sockets(2));
    let (stale, _peer) = bench.link();
    bench.receive(stale, Shots::Many);
    bench.close_and_wait(stale);
    let (link, mut peer) = bench.link();
    assert_ne!(stale.socket, link.socket);
    bench.receive(link, Shots::Many);
    for kind in [OperationKind::Receive, OperationKind::Send, OperationKind::Close] {
        bench.lab.port().cancel(stale.socket, kind);
    }
    bench.lab.port().shutdown(stale.socket);
    let error = bench.submit(stale, Operation::Close).unwrap_err();
    assert_eq!(error.kind, SubmitErrorKind::StaleSocket);
    bench.stays_quiet("the stale handle reaches nothing");
    bench.peer_writes(&mut peer, b"still here");
    bench.until("the bytes", |bench| bench.of(link).received == b"still here");
    bench.send_whole(link, b"so am I");
    assert_eq!(bench.peer_reads(&mut peer, 7), b"so am I");
    bench.finish();
}

fn a_place_used_again_and_again_never_mixes_its_owners<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small().sockets(2).buffers(8, 64));
    let mut before: Option<L::Peer> = None;
    for repetition in 0..200 {
        let (link, mut peer) = bench.link();
        bench.receive(link, if repetition % 2 == 0 { Shots::Many } else { Shots::One });
        // The place's owner before this one sends on, to a connection that is gone.
        if let Some(mut before) = before.take() {
            before.try_write(b"late bytes of an earlier link");
        }
        bench.peer_writes(&mut peer, &pattern(link.key, 0, 40));
        bench.until("the bytes", |bench| !bench.of(link).received.is_empty());
        bench.send_whole(link, &pattern(link.key, 1_000, 30));
        assert_pattern(link.key, 1_000, &bench.peer_reads(&mut peer, 30));
        // More bytes come in while the link is being closed.
        peer.try_write(&pattern(link.key, 40, 60));
        if repetition % 3 == 0 {
            bench.round(Duration::ZERO);
        }
        bench.close_and_wait(link);
        assert_pattern(link.key, 0, &bench.of(link).received);
        before = Some(peer);
    }
    bench.finish();
}

fn nothing_follows_the_completion_of_a_close<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small().narrow().buffers(512, 2048));
    let mut peers = Vec::new();
    for repetition in 0..10 {
        let (link, mut peer) = bench.link();
        bench.receive(link, Shots::Many);
        bench.send(link, &pattern(1, 0, 400_000));
        for _ in 0..repetition % 3 {
            bench.round(Duration::ZERO);
        }
        bench.cancel(link, OperationKind::Receive);
        bench.close(link);
        peer.try_write(b"late");
        bench.until("the close", |bench| bench.of(link).closed);
        assert!(!bench.in_flight(link, OperationKind::Receive));
        assert!(!bench.in_flight(link, OperationKind::Send));
        bench.of(link).sent.clear();
        peers.push(peer);
    }
    bench.stays_quiet("all links are closed");
    peers.into_iter().for_each(Peer::reset);
    bench.stays_quiet("all links are closed");
    bench.finish();
}

fn a_full_table_gives_the_stream_back<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small().sockets(2));
    let (first, _peer) = bench.link();
    bench.accept(Shots::One);
    let mut peer = bench.lab.connect();
    bench.until("a connection", |bench| !bench.accepted.is_empty());
    let (stream, _) = bench.accepted.pop_front().unwrap();
    let Err(refused) = bench.associate(stream) else { panic!("there was no place for it") };
    assert_eq!(refused.error, None, "the table is full, and the system said nothing");
    bench.close_and_wait(first);
    let link = bench.associate(refused.socket).ok().expect("there is place now");
    bench.receive(link, Shots::One);
    bench.peer_writes(&mut peer, b"at last");
    bench.until("the bytes", |bench| bench.of(link).received == b"at last");
    bench.finish();
}
