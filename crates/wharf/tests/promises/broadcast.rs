//! Promise: a broadcast reaches every open link of all shards once and in order, costs one copy of
//! its bytes, and waits for no link.
//!
//! Method: clients read numbered messages; some never read.

use crate::util::{
    Case, TestServer, bytes, connect_small_window, each_back_end, echo, eventually, expect_bytes,
    finish, on_chunk, round_trip,
};
use std::io::Write;
use std::sync::Arc;
use wharf::PostError;

each_back_end!(
    a_thousand_links_in_all_shards_get_each_message_once_and_in_order,
    a_link_broadcasts_to_all_but_itself,
    the_excepted_link_is_left_out,
    links_that_never_read_delay_no_other,
    a_broadcast_without_buffers_says_so_and_recovers,
    a_broadcast_to_no_link_is_fine,
);

fn a_thousand_links_in_all_shards_get_each_message_once_and_in_order(case: &Case) {
    const ROUNDS: usize = 20;
    for shards in [1, 3] {
        let server = TestServer::start(case.builder(echo()).shards(shards).links_max(1_002));
        let mut clients: Vec<_> = (0..1_000).map(|_| server.connect()).collect();
        eventually(|| server.stats().connects == 1_000, "all links are open");
        let mut refusals = 0;
        for n in 0..ROUNDS {
            // From the second half on without waiting for any client.
            while server.handle.all().try_post(bytes(n as u64, 100)).is_err() {
                refusals += 1;
                std::thread::yield_now();
            }
            if n < ROUNDS / 2 {
                clients.iter_mut().for_each(|c| expect_bytes(c, &bytes(n as u64, 100)));
            }
        }
        let rest: Vec<u8> = (ROUNDS / 2..ROUNDS).flat_map(|n| bytes(n as u64, 100)).collect();
        clients.iter_mut().for_each(|client| expect_bytes(client, &rest));
        clients.iter_mut().for_each(finish);
        let stats = server.stop();
        assert_eq!(stats.sends, 1_000 * ROUNDS as u64);
        assert!(stats.missed <= refusals * 1_000, "one that was posted is missed: {stats:?}");
    }
}

fn a_link_broadcasts_to_all_but_itself(case: &Case) {
    for shards in [1, 3] {
        let handler =
            on_chunk(|link, data| Ok(link.server.all().except(link.id()).try_post(data)?));
        let server = TestServer::start(case.builder(handler).shards(shards).links_max(30));
        let mut clients: Vec<_> = (0..9).map(|_| server.connect()).collect();
        eventually(|| server.stats().connects == 9, "all links are open");
        for speaker in 0..clients.len() {
            let text = format!("from {speaker}");
            clients[speaker].write_all(text.as_bytes()).unwrap();
            for (n, client) in clients.iter_mut().enumerate().filter(|(n, _)| *n != speaker) {
                assert_ne!(n, speaker);
                expect_bytes(client, text.as_bytes());
            }
        }
        clients.iter_mut().for_each(finish);
        assert_eq!(server.stop().sends, 9 * 8);
    }
}

fn the_excepted_link_is_left_out(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.builder(handler).shards(2).links_max(8));
    let mut clients = Vec::new();
    for n in 0..4 {
        clients.push(server.connect());
        record.id(n);
    }
    for n in 0..4 {
        server.handle.all().except(record.id(n)).try_post(format!("not for {n}")).unwrap();
    }
    for (n, client) in clients.iter_mut().enumerate() {
        for other in (0..4).filter(|other| *other != n) {
            expect_bytes(client, format!("not for {other}").as_bytes());
        }
        finish(client);
    }
    server.stop();
}

fn links_that_never_read_delay_no_other(case: &Case) {
    const MESSAGE: usize = 8_000;
    let builder = case.builder(echo()).links_max(120).buffer_count(1_000).output_bytes(32 * 1024);
    let server = TestServer::start(builder);
    let stopped: Vec<_> = (0..10).map(|_| connect_small_window(server.address)).collect();
    let mut readers: Vec<_> = (0..90).map(|_| server.connect()).collect();
    eventually(|| server.stats().connects == 100, "all links are open");
    let mut rounds = 0;
    while server.stats().missed < 100 {
        let message = bytes(rounds, MESSAGE);
        server.handle.all().try_post(&message).unwrap();
        readers.iter_mut().for_each(|reader| expect_bytes(reader, &message));
        rounds += 1;
        assert!(rounds < 2_000, "a queue of 32 KiB holds {rounds} messages of {MESSAGE} bytes");
    }
    assert_eq!(server.stats().links, 100, "no link is closed");
    readers.iter_mut().for_each(finish);
    drop(stopped);
    server.stop();
}

fn a_broadcast_without_buffers_says_so_and_recovers(case: &Case) {
    // Two or three of the buffers are for posts.
    let builder = case.builder(echo()).links_max(4).buffer_count(24).buffer_size_bytes(16 * 1024);
    let builder = builder.input_bytes(16 * 1024).output_bytes(32 * 1024);
    let server = TestServer::start(builder);
    let mut client = connect_small_window(server.address);
    round_trip(&mut client, b"hello");
    let message = bytes(5, 16 * 1024);
    let mut sent = 0;
    // The receive window and the queue of the link fill up, then the buffers stay in use.
    let refused = loop {
        match server.handle.all().try_post(&message) {
            Ok(()) => sent += 1,
            Err(error) => {
                let ledger = server.stats().post_buffers;
                if ledger.kernel_send + ledger.send_queue + ledger.shared > 0 && sent > 200 {
                    break error;
                }
                std::thread::yield_now();
                sent += 1;
            }
        }
    };
    assert_eq!(refused, PostError::Full);
    drop(client);
    let ledger = || server.stats().post_buffers;
    eventually(|| ledger().free == ledger().total(), "the buffers are free");
    let mut client = server.connect();
    server.wait_for_links(1);
    round_trip(&mut client, b"hello");
    server.handle.all().try_post(b"again").unwrap();
    expect_bytes(&mut client, b"again");
    finish(&mut client);
    server.stop();
}

fn a_broadcast_to_no_link_is_fine(case: &Case) {
    let server = TestServer::start(case.small(echo()));
    server.handle.all().try_post(b"hello").unwrap();
    server.handle.all().try_post(b"").unwrap();
    let stats = server.stop();
    assert_eq!(stats.sends, 0);
}
