//! Promise: any thread can post to, close and abort links, one or all; its posts keep their order;
//! the id of a link that has ended refers to no link, also when its slot has a new one.
//!
//! Method: handles in several threads, and ids kept longer than their links.

use crate::util;
use crate::util::{
    Case, TestServer, bytes, each_back_end, echo, eventually, expect_bytes, expect_end, finish,
    reset, round_trip,
};
use std::collections::HashSet;
use std::sync::Arc;
use wharf::{DisconnectReason, PostError};

each_back_end!(
    what_one_thread_sends_arrives_in_order,
    threads_that_send_at_once_keep_their_messages_whole,
    a_link_posts_to_another_by_its_id,
    closing_from_another_thread_sends_what_is_posted_first,
    ids_of_links_that_are_gone_find_nothing,
    a_slot_used_again_is_not_hit_by_its_old_ids,
    threads_race_with_links_that_come_and_go,
    after_the_stop_everything_is_gone,
    posts_without_buffers_say_so_and_recover,
);

/// Posts, and repeats refused posts; returns the number of refusals.
fn post(mut post: impl FnMut() -> Result<(), PostError>) -> u64 {
    let mut refusals = 0;
    loop {
        match post() {
            Ok(()) => return refusals,
            Err(PostError::Full) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
        refusals += 1;
    }
}

fn what_one_thread_sends_arrives_in_order(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.builder(handler).shards(2).links_max(8));
    let mut clients = [server.connect(), server.connect(), server.connect()];
    let ids = [record.id(0), record.id(1), record.id(2)];
    // Clients are accepted in order, but shards call on_connect in any order: each link is sent its
    // number.
    for (number, id) in (0..).zip(ids) {
        server.handle.link(id).try_post([number]).unwrap();
    }
    let ids: Vec<_> = clients.iter_mut().map(|client| read_id(client, &ids)).collect();
    let mut refusals = 0;
    for n in 0..2_000_u32 {
        for id in &ids {
            refusals += post(|| server.handle.link(*id).try_post(n.to_le_bytes()));
        }
        if n % 50 == 49 {
            let run: Vec<u8> = (n - 49..=n).flat_map(u32::to_le_bytes).collect();
            clients.iter_mut().for_each(|client| expect_bytes(client, &run));
        }
    }
    clients.iter_mut().for_each(finish);
    assert!(server.stop().missed <= refusals, "one that was posted is missed");
}

fn read_id(client: &mut std::net::TcpStream, ids: &[wharf::LinkId]) -> wharf::LinkId {
    let mut number = [0];
    std::io::Read::read_exact(client, &mut number).unwrap();
    ids[usize::from(number[0])]
}

fn threads_that_send_at_once_keep_their_messages_whole(case: &Case) {
    const LEN: usize = 5_000;
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.builder(handler).links_max(4).output_bytes(4 << 20));
    let mut client = server.connect();
    let id = record.id(0);
    std::thread::scope(|scope| {
        for thread in 1..=4_u8 {
            let server = &server;
            scope.spawn(move || {
                for _ in 0..100 {
                    post(|| server.handle.link(id).try_post([thread; LEN]));
                }
            });
        }
        let mut message = vec![0; LEN];
        let mut counts = [0; 5];
        for _ in 0..400 {
            std::io::Read::read_exact(&mut client, &mut message).unwrap();
            assert!(message.iter().all(|byte| *byte == message[0]), "two messages are mixed");
            counts[usize::from(message[0])] += 1;
        }
        assert_eq!(counts, [0, 100, 100, 100, 100]);
    });
    finish(&mut client);
    server.stop();
}

fn a_link_posts_to_another_by_its_id(case: &Case) {
    let ids: Arc<util::Mutex<Vec<wharf::LinkId>>> = Arc::default();
    let handler = util::on_chunk(move |link, data| {
        let mut ids = ids.lock().unwrap();
        if data == b"me" {
            ids.push(link.id());
            return Ok(link.out.send(b"ok")?);
        }
        ids.iter().try_for_each(|id| Ok(link.server.link(*id).try_post(data)?))
    });
    let server = TestServer::start(case.builder(handler).shards(2).links_max(8));
    let mut clients = [server.connect(), server.connect(), server.connect()];
    for client in &mut clients {
        std::io::Write::write_all(client, b"me").unwrap();
        expect_bytes(client, b"ok");
    }
    std::io::Write::write_all(&mut clients[0], b"to all").unwrap();
    clients.iter_mut().for_each(|client| expect_bytes(client, b"to all"));
    clients.iter_mut().for_each(finish);
    server.stop();
}

fn closing_from_another_thread_sends_what_is_posted_first(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.builder(handler).links_max(4));
    let mut client = server.connect();
    let id = record.id(0);
    server.handle.link(id).try_post(bytes(1, 100_000)).unwrap();
    server.handle.link(id).close();
    server.handle.link(id).close();
    expect_bytes(&mut client, &bytes(1, 100_000));
    expect_end(&mut client);
    drop(client);
    record.expect(&[DisconnectReason::Kicked]);
    server.stop();
}

fn ids_of_links_that_are_gone_find_nothing(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small(handler));
    let client = server.connect();
    let id = record.id(0);
    drop(client);
    server.wait_for_links(0);
    assert_eq!(server.handle.link(id).try_post(b"x"), Err(PostError::Closed));
    assert_eq!(server.handle.link(id).try_post(b""), Err(PostError::Closed));
    server.handle.link(id).post(b"x");
    server.handle.link(id).resume();
    server.handle.link(id).close();
    server.handle.link(id).abort();
    server.handle.all().except(id).try_post(b"x").unwrap();
    server.stop();
}

fn a_slot_used_again_is_not_hit_by_its_old_ids(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small(handler).links_max(1));
    let mut old = Vec::new();
    for n in 0..50 {
        let mut client = server.connect();
        let id = record.id(n);
        for id in &old {
            assert_eq!(server.handle.link(*id).try_post(b"for another"), Err(PostError::Closed));
            server.handle.link(*id).post(b"for another");
            server.handle.link(*id).resume();
            server.handle.link(*id).close();
            server.handle.link(*id).abort();
        }
        // An old id excludes no link, in particular not the slot's new one.
        match old.last() {
            Some(id) => server.handle.all().except(*id).try_post(b"to all").unwrap(),
            None => server.handle.all().try_post(b"to all").unwrap(),
        }
        expect_bytes(&mut client, b"to all");
        round_trip(&mut client, b"not closed");
        old.push(id);
        if n % 2 == 0 {
            finish(&mut client)
        } else {
            reset(client)
        }
        server.wait_for_links(0);
    }
    assert_eq!(old.iter().collect::<HashSet<_>>().len(), 50, "an id was given twice");
    server.stop();
}

fn threads_race_with_links_that_come_and_go(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.builder(handler).shards(2).links_max(16).buffer_count(600));
    std::thread::scope(|scope| {
        // Dropped when this closure returns or panics.
        let running = Arc::new(());
        let alive = Arc::downgrade(&running);
        for thread in 0..3_u64 {
            let (server, record, alive) = (&server, &record, alive.clone());
            scope.spawn(move || {
                let (mut random, mut sent) = (util::Random(thread), HashSet::new());
                while alive.upgrade().is_some() {
                    let ids = record.ids();
                    // Mostly links that have ended, sometimes an open one.
                    let newest = ids.len().saturating_sub(1 + random.below(20));
                    let Some(id) = ids.get(newest).filter(|id| !sent.contains(*id)) else {
                        continue;
                    };
                    // Every message names its recipient.
                    if server.handle.link(*id).try_post(format_args!("{newest:>20}")).is_ok() {
                        sent.insert(*id);
                    }
                }
            });
        }
        for n in 0..400 {
            let mut client = server.connect();
            round_trip_among_posts(&mut client);
            if n % 2 == 0 { reset(client) } else { drop(client) }
        }
    });
    eventually(|| server.stats().links == 0, "all are gone");
    server.stop();
}

/// Sends a byte, and checks that all messages before its echo are for one and the same link.
fn round_trip_among_posts(client: &mut std::net::TcpStream) {
    std::io::Write::write_all(client, b"!").unwrap();
    let mut receiver: Option<[u8; 20]> = None;
    loop {
        let mut first = [0];
        std::io::Read::read_exact(client, &mut first).unwrap();
        if first[0] == b'!' {
            return;
        }
        let mut message = [0; 20];
        message[0] = first[0];
        std::io::Read::read_exact(client, &mut message[1..]).unwrap();
        assert_eq!(*receiver.get_or_insert(message), message, "a message for another link");
    }
}

fn after_the_stop_everything_is_gone(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    round_trip(&mut client, b"hello");
    let (id, handle) = (record.id(0), server.handle.clone());
    drop(client);
    server.stop();
    assert_eq!(handle.link(id).try_post(b"x"), Err(PostError::Closed));
    assert_eq!(handle.all().try_post(b"x"), Err(PostError::Closed));
    handle.link(id).close();
    handle.link(id).abort();
    handle.all().resume();
    assert!(handle.is_stopping());
    handle.stop(std::time::Duration::ZERO);
    let stats = handle.stats();
    assert_eq!(stats.post_buffers.free, stats.post_buffers.total(), "{:?}", stats.post_buffers);
}

fn posts_without_buffers_say_so_and_recover(case: &Case) {
    let (leave, left) = std::sync::mpsc::channel::<()>();
    let (enter, entered) = std::sync::mpsc::channel();
    let (enter, left) = (util::Mutex::new(enter), util::Mutex::new(left));
    let handler = util::on_chunk(move |link, data| {
        enter.lock().unwrap().send(link.id()).unwrap();
        let _ends_when_the_test_does = left.lock().unwrap().recv_timeout(util::PATIENCE);
        Ok(link.out.send(data)?)
    });
    let record = Arc::clone(&handler.record);
    // Some of the buffers are for posts: enough for one of these and not for two.
    let server = TestServer::start(case.small(handler));
    let (mut other, mut client, post) = (server.connect(), server.connect(), bytes(1, 3 * 2_048));
    let other_id = record.id(0);
    // While a handler runs, nothing is sent.
    std::io::Write::write_all(&mut client, b"?").unwrap();
    let id = entered.recv_timeout(util::PATIENCE).unwrap();
    server.handle.link(id).try_post(&post).unwrap();
    // Nor for a link whose output is empty.
    assert_ne!(id, other_id);
    assert_eq!(server.handle.link(other_id).try_post(&post), Err(PostError::Full));
    assert_eq!(server.handle.link(id).try_post(&post), Err(PostError::Full));
    assert_eq!(server.handle.all().try_post(&post), Err(PostError::Full));
    assert_eq!(server.handle.message(&post).map(|message| message.len()), Err(PostError::Full));
    drop(leave);
    expect_bytes(&mut client, b"?");
    expect_bytes(&mut client, &post);
    let ledger = || server.stats().post_buffers;
    eventually(|| ledger().free == ledger().total(), "the buffers are free");
    server.handle.link(other_id).try_post(&post).unwrap();
    expect_bytes(&mut other, &post);
    finish(&mut other);
    finish(&mut client);
    server.stop();
}
