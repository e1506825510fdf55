//! Promise: the counters say what happened, each thing once, and add up over the workers.
//!
//! Method: known traffic, and each end that a link can have.
#![cfg(target_os = "linux")]
#![cfg(test)]

mod util;

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;
use util::{
    Case, ON_PURPOSE, TestServer, bytes, connect_small_window, each_back_end, echo, eventually,
    expect_end_or_reset, finish, on_receive, reset, round_trip, silence_panics_on_purpose,
};
use wharf::DisconnectReason::{
    self, HandlerClosed, HandlerError, HandlerPanic, Idle, Kicked, Limit, PeerClosed, PeerReset,
    ServerStopping, SlowReader,
};
use wharf::SendError;

each_back_end!(
    known_traffic_gives_known_counts,
    each_reason_is_counted_under_its_name,
    the_ledger_accounts_for_every_buffer_while_it_is_used,
    refused_sends_and_stale_posts_are_counted,
    an_idle_server_does_nothing,
);

fn known_traffic_gives_known_counts(case: &Case) {
    let server = TestServer::start(case.builder().shards(2).links(8), echo());
    let fresh = server.stats();
    assert_eq!((fresh.links, fresh.links_limit, fresh.workers.len()), (0, 8, 2));
    let mut clients: Vec<_> = (0..6).map(|_| server.connect()).collect();
    for client in &mut clients {
        for n in 0..10 {
            round_trip(client, &bytes(n, 100));
        }
    }
    // A client may have its answer before the server hears that it was sent.
    eventually(|| server.stats().sent_bytes == 6_000, "every send has completed");
    let stats = server.stats();
    assert_eq!((stats.links, stats.accepted, stats.connects), (6, 6, 6));
    assert_eq!((stats.received_messages, stats.received_bytes), (60, 6_000));
    assert_eq!((stats.sent_messages, stats.sent_bytes), (60, 6_000));
    assert_eq!(stats.workers.iter().map(|worker| worker.links).sum::<u32>(), 6);
    clients.iter_mut().for_each(finish);
    let stats = server.stop();
    assert_eq!(stats.closed(PeerClosed), 6);
    // on_connect, ten times on_receive and on_sent, on_disconnect.
    assert_eq!(stats.workers.iter().map(|worker| worker.calls).sum::<u64>(), 6 * 22);
    assert!(stats.workers.iter().all(|worker| worker.turns > 0 && worker.busy_ns > 0));
    let none = [stats.refused_full, stats.rejects, stats.cut, stats.send_refusals];
    assert_eq!((none, stats.handler_panics, stats.stale_posts), ([0; 4], 0, 0));
}

fn each_reason_is_counted_under_its_name(case: &Case) {
    silence_panics_on_purpose();
    let handler = on_receive(|link, data| match data {
        b"close" => {
            link.close();
            Ok(())
        }
        b"error" => Err("an error".into()),
        b"slow" => (0..1_000).try_for_each(|_| Ok(link.send(&[0; 1_000])?)),
        b"panic" => std::panic::panic_any(ON_PURPOSE),
        _ => Ok(link.send(data)?),
    });
    let record = std::sync::Arc::clone(&handler.record);
    let builder = case.builder().links(8).buffers(400).idle(Duration::from_millis(500));
    let server = TestServer::start(builder, handler);
    let words: [(&[u8], DisconnectReason); 4] = [
        (b"close", HandlerClosed),
        (b"error", HandlerError),
        (b"slow", SlowReader),
        (b"panic", HandlerPanic),
    ];
    for (word, reason) in words {
        let mut client = server.connect();
        client.write_all(word).unwrap();
        expect_end_or_reset_after_answers(&mut client);
        drop(client);
        eventually(|| server.stats().closed(reason) == 1, reason.name());
    }
    drop(server.connect());
    eventually(|| server.stats().closed(PeerClosed) == 1, "peer_closed");
    let mut client = server.connect();
    round_trip(&mut client, b"hello");
    reset(client);
    eventually(|| server.stats().closed(PeerReset) == 1, "peer_reset");
    expect_end_or_reset(&mut server.connect());
    eventually(|| server.stats().closed(Idle) == 1, "idle");
    let seen = record.ids().len();
    let mut client = server.connect();
    server.handle.close(record.id(seen)).unwrap();
    // The client leaves only when it has seen the end, so the order is sure.
    expect_end_or_reset(&mut client);
    drop(client);
    eventually(|| server.stats().closed(Kicked) == 1, "kicked");
    let mut client = server.connect();
    round_trip(&mut client, b"hello");
    server.handle.stop(Duration::from_secs(5));
    expect_end_or_reset(&mut client);
    drop(client);
    let stats = server.stop();
    let counts: HashMap<_, _> =
        DisconnectReason::ALL.iter().map(|r| (*r, stats.closed(*r))).collect();
    for (reason, count) in counts {
        let expected = u64::from(!matches!(reason, DisconnectReason::SystemError | Limit));
        assert_eq!(count, expected, "{reason}");
    }
    assert_eq!(stats.closed(ServerStopping), 1);
    // Statistics and handler were told the same.
    let mut told = [0; DisconnectReason::ALL.len()];
    record.reasons().iter().for_each(|reason| told[*reason as usize] += 1);
    assert_eq!(told, stats.closes);
}

fn expect_end_or_reset_after_answers(client: &mut std::net::TcpStream) {
    let _end_or_reset = std::io::copy(client, &mut std::io::sink());
}

fn the_ledger_accounts_for_every_buffer_while_it_is_used(case: &Case) {
    let server = TestServer::start(case.short().shards(2).links(32).buffers(128), echo());
    let all = (server.stats().buffers.total(), server.stats().post_buffers.total());
    // What waits to be received into may come on top.
    assert!(all.0 + all.1 <= 128 + 16 && all.0 + all.1 >= 126, "{all:?}");
    std::thread::scope(|scope| {
        let loads: Vec<_> = (0..4)
            .map(|seed| {
                let server = &server;
                scope.spawn(move || {
                    let mut client = server.connect();
                    for n in 0..500 {
                        round_trip(&mut client, &bytes(seed + n, 1_000));
                    }
                    finish(&mut client);
                })
            })
            .collect();
        while !loads.iter().all(|load| load.is_finished()) {
            let stats = server.stats();
            assert_eq!((stats.buffers.total(), stats.post_buffers.total()), all);
            std::thread::yield_now();
        }
    });
    server.stop();
}

fn refused_sends_and_stale_posts_are_counted(case: &Case) {
    let handler = on_receive(|link, _| {
        link.send(&[1; 9_000])?;
        let refused = (link.send(&[2; 9_000]), link.send(&[2; 10_001]));
        assert_eq!(refused, (Err(SendError::QueueFull), Err(SendError::TooLarge)));
        Ok(())
    });
    let record = std::sync::Arc::clone(&handler.record);
    let builder = case.builder().links(4).buffers(400).send_queue(10_000);
    let server = TestServer::start(builder, handler);
    let mut client = connect_small_window(server.address);
    client.write_all(b"?").unwrap();
    eventually(|| server.stats().send_refusals == 2, "two of three sends are refused");
    assert_eq!(server.stats().sent_messages, 1);
    // It does not read: in the end posts find its queue full.
    let id = record.id(0);
    let post = || server.handle.send(id, &[3; 4_000]).is_ok();
    eventually(|| post() && server.stats().stale_posts > 0, "a post finds the queue full");
    let broadcast = || server.handle.broadcast(&[4; 4_000], None).is_ok();
    eventually(|| broadcast() && server.stats().broadcast_skips > 0, "so does a broadcast");
    assert_eq!(server.stats().links, 1);
    drop(client);
    let stats = server.stop();
    assert!(stats.send_refusals >= 2 + stats.stale_posts + stats.broadcast_skips, "{stats:?}");
}

fn an_idle_server_does_nothing(case: &Case) {
    let builder = case.builder().shards(2).links(100).idle(Duration::ZERO);
    let server = TestServer::start(builder, echo());
    let mut clients: Vec<_> = (0..50).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| round_trip(client, b"hello"));
    let turns = || server.stats().workers.iter().map(|worker| worker.turns).sum::<u64>();
    let (mut last, mut quiet_since) = (turns(), util::now());
    eventually(
        || {
            if turns() > last + 2 {
                (last, quiet_since) = (turns(), util::now());
            }
            quiet_since.elapsed() > Duration::from_millis(300)
        },
        "the workers sleep",
    );
    clients.iter_mut().for_each(finish);
    server.stop();
}
