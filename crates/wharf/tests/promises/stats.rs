//! Promise: the counters have each event once, and add up over the workers.
//!
//! Method: known traffic, and each reason for which a link can end.

use crate::util;
use crate::util::{
    Case, Hold, ON_PURPOSE, TestServer, bytes, connect_small_share, each_back_end, echo,
    eventually, expect_bytes, expect_end_or_reset, finish, on_chunk, reset, round_trip,
    silence_panics_on_purpose,
};
use std::io::Write;
use std::time::Duration;
use wharf::DisconnectReason::{
    self, HandlerClosed, HandlerError, HandlerPanic, Idle, Kicked, Limit, OutputFull, PeerClosed,
    PeerReset, ServerStopping, SlowReader,
};
use wharf::{Error, PostError, SendError, TooLong};

each_back_end!(
    known_traffic_gives_known_counts,
    clients_that_reset_before_they_are_accepted_are_links_like_others,
    each_reason_is_counted_under_its_name,
    the_ledger_accounts_for_every_buffer_while_it_is_used,
    refused_sends_and_missed_posts_are_counted,
    an_idle_server_does_nothing,
);

fn known_traffic_gives_known_counts(case: &Case) {
    let server = TestServer::start(case.builder(echo()).shards(2).links_max(8));
    let fresh = server.stats();
    assert_eq!((fresh.links, fresh.links_max, fresh.workers.len()), (0, 8, 2));
    let mut clients: Vec<_> = (0..6).map(|_| server.connect()).collect();
    for client in &mut clients {
        for n in 0..10 {
            round_trip(client, &bytes(n, 100));
        }
    }
    // A client may have its reply before the server has the send's completion.
    eventually(|| server.stats().sent_bytes == 6_000, "every send has completed");
    let stats = server.stats();
    assert_eq!((stats.links, stats.accepted, stats.connects), (6, 6, 6));
    assert_eq!((stats.receives, stats.received_bytes), (60, 6_000));
    assert_eq!((stats.sends, stats.sent_bytes), (60, 6_000));
    assert_eq!(stats.workers.iter().map(|worker| worker.links).sum::<u32>(), 6);
    clients.iter_mut().for_each(finish);
    let stats = server.stop();
    assert_eq!(stats.closed(PeerClosed), 6);
    // on_connect, ten times on_receive, on_end, on_disconnect.
    assert_eq!(stats.workers.iter().map(|worker| worker.calls).sum::<u64>(), 6 * 13);
    assert!(stats.workers.iter().all(|worker| worker.turns > 0 && worker.busy_ns > 0));
    let none = [stats.refused_full, stats.rejects, stats.forced_closes, stats.send_errors];
    assert_eq!((none, stats.handler_panics, stats.missed), ([0; 4], 0, 0));
}

/// On every back end, with the bytes that they had sent. The callback that blocks has some reset before
/// their shard takes them.
fn clients_that_reset_before_they_are_accepted_are_links_like_others(case: &Case) {
    for shards in [1, 2] {
        let hold = Hold::default();
        let held = hold.clone();
        let handler = on_chunk(move |link, data| {
            if data == b"hold" {
                held.enter();
            }
            Ok(link.out.send(data)?)
        });
        let server = TestServer::start(case.builder(handler).shards(shards));
        let mut holder = server.connect();
        holder.write_all(b"hold").unwrap();
        hold.wait();
        for n in 0..20 {
            let mut client = server.connect();
            if n % 2 == 0 {
                client.write_all(b"hello").unwrap();
            }
            reset(client);
        }
        eventually(|| server.stats().accepted == 21, "a callback that blocks holds up no accept");
        hold.release();
        expect_bytes(&mut holder, b"hold");
        eventually(|| server.stats().closed(PeerReset) == 20, "each has ended with its reset");
        finish(&mut holder);
        let stats = server.stop();
        assert_eq!((stats.accepted, stats.connects, stats.accept_aborts), (21, 21, 0));
        assert_eq!((stats.receives, stats.received_bytes), (11, 4 + 10 * 5));
        assert_eq!(stats.closed(PeerClosed), 1);
    }
}

const TIME: Duration = Duration::from_millis(500);

fn each_reason_is_counted_under_its_name(case: &Case) {
    silence_panics_on_purpose();
    let handler = on_chunk(|link, data| match data {
        b"close" => {
            link.close();
            Ok(())
        }
        b"error" => Err(Error::msg("an error")),
        b"full" => (0..1_000).try_for_each(|_| Ok(link.out.send([0; 1_000])?)),
        b"slow" => Ok(link.out.send(vec![0; 256 * 1_024])?),
        b"long" => Err(TooLong::new(3).into()),
        b"panic" => std::panic::panic_any(ON_PURPOSE),
        _ => Ok(link.out.send(data)?),
    });
    let record = std::sync::Arc::clone(&handler.record);
    let builder =
        case.builder(handler).links_max(8).buffer_count(400).idle_timeout(TIME).stall_timeout(TIME);
    let server = TestServer::start(builder);
    let words: [(&[u8], DisconnectReason); 5] = [
        (b"close", HandlerClosed),
        (b"error", HandlerError),
        (b"full", OutputFull),
        (b"long", Limit),
        (b"panic", HandlerPanic),
    ];
    for (word, reason) in words {
        let mut client = server.connect();
        client.write_all(word).unwrap();
        expect_end_or_reset_after_replies(&mut client);
        drop(client);
        eventually(|| server.stats().closed(reason) == 1, reason.name());
    }
    let mut client = connect_small_share(server.address);
    client.write_all(b"slow").unwrap();
    eventually(|| server.stats().closed(SlowReader) == 1, "slow_reader");
    drop(client);
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
    server.handle.link(record.id(seen)).close();
    // The client closes only after the end of the server's stream, so the order is certain.
    expect_end_or_reset(&mut client);
    drop(client);
    eventually(|| server.stats().closed(Kicked) == 1, "kicked");
    let mut client = server.connect();
    round_trip(&mut client, b"hello");
    server.handle.stop(Duration::from_secs(5));
    expect_end_or_reset(&mut client);
    drop(client);
    let stats = server.stop();
    // Each reason once: those above, and the stop.
    let told = record.reasons();
    for reason in DisconnectReason::ALL {
        let expected = u64::from(*reason != DisconnectReason::SystemError);
        assert_eq!(stats.closed(*reason), expected, "{reason}");
        // The handler got the same reasons as the counters.
        let told = told.iter().filter(|told| *told == reason).count();
        assert_eq!(told as u64, expected, "{reason}");
    }
    assert_eq!(stats.closed(ServerStopping), 1);
}

fn expect_end_or_reset_after_replies(client: &mut std::net::TcpStream) {
    let _end_or_reset = std::io::copy(client, &mut std::io::sink());
}

fn the_ledger_accounts_for_every_buffer_while_it_is_used(case: &Case) {
    let server = TestServer::start(case.short(echo()).shards(2).links_max(32).buffer_count(128));
    let all = (server.stats().buffers.total(), server.stats().post_buffers.total());
    // The plan may add receive buffers, and buffers for posts have a quarter of the size.
    assert!((126..=128 + 16).contains(&(all.0 + all.1 / 4)), "{all:?}");
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

fn refused_sends_and_missed_posts_are_counted(case: &Case) {
    let handler = on_chunk(|link, _| {
        link.out.send([1; 9_000])?;
        let refused = (link.out.send([2; 9_000]), link.out.send([2; 10_001]));
        assert_eq!(refused, (Err(SendError::Full), Err(SendError::TooLarge)));
        Ok(())
    });
    let record = std::sync::Arc::clone(&handler.record);
    let builder = case.builder(handler).links_max(4).buffer_count(400).output_bytes(10_000);
    let server = TestServer::start(builder);
    let mut client = connect_small_share(server.address);
    client.write_all(b"?").unwrap();
    eventually(|| server.stats().send_errors == 2, "two of three sends are refused");
    let stats = server.stats();
    assert_eq!((stats.sends, stats.missed), (1, 0));
    // It does not read, so posts fill their half of the output.
    let id = record.id(0);
    let mut full_since = None;
    let is_full = || {
        match server.handle.link(id).try_post([3; 4_000]) {
            Ok(()) => full_since = None,
            Err(error) => {
                assert_eq!(error, PostError::Full);
                full_since = full_since.or(Some(util::now()));
            }
        }
        full_since.is_some_and(|since| since.elapsed() > util::BLOCKED_AFTER)
    };
    eventually(is_full, "posts find their half of the output full");
    // A refused post is not counted as missed.
    assert_eq!(server.stats().missed, 0);
    for missed in 1..=5 {
        server.handle.link(id).post([3; 4_000]);
        eventually(|| server.stats().missed == missed, "a post is missed");
    }
    for missed in 6..=9 {
        server.handle.all().try_post([4; 4_000]).unwrap();
        eventually(|| server.stats().missed == missed, "so is a broadcast");
    }
    assert_eq!(server.stats().links, 1);
    drop(client);
    let stats = server.stop();
    assert_eq!(stats.missed, 9, "{stats:?}");
    assert_eq!(record.ends()[0].totals.missed, 9);
}

fn an_idle_server_does_nothing(case: &Case) {
    let builder = case.builder(echo()).shards(2).links_max(100).idle_timeout(Duration::ZERO);
    let server = TestServer::start(builder);
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
