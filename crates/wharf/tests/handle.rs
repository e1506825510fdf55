//! Promise: any thread can send to, broadcast to, and close links; what it sends keeps its order;
//! the name of a link that is gone finds nothing, also when its place has a new link.
//!
//! Method: handles in several threads, and names kept longer than their links.
#![cfg(target_os = "linux")]
#![cfg(test)]

mod util;

use std::collections::HashSet;
use std::sync::Arc;
use util::{
    Case, TestServer, bytes, each_back_end, echo, eventually, expect_bytes, expect_end, finish,
    reset, round_trip,
};
use wharf::{DisconnectReason, SendError};

each_back_end!(
    what_one_thread_sends_arrives_in_order,
    threads_that_send_at_once_keep_their_messages_whole,
    a_link_sends_to_another_by_its_name,
    closing_from_another_thread_sends_what_is_posted_first,
    names_of_links_that_are_gone_find_nothing,
    a_place_used_again_is_not_hit_by_its_old_name,
    threads_race_with_links_that_come_and_go,
    after_the_stop_everything_is_gone,
    posts_without_buffers_say_so_and_recover,
);

/// Posts, and posts again while the shard is behind.
fn post(mut send: impl FnMut() -> Result<(), SendError>) {
    loop {
        match send() {
            Ok(()) => return,
            Err(SendError::NoBuffers | SendError::Busy) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn what_one_thread_sends_arrives_in_order(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.builder().shards(2).links(8), handler);
    let mut clients = [server.connect(), server.connect(), server.connect()];
    let ids = [record.id(0), record.id(1), record.id(2)];
    // Clients are accepted in order, but shards call on_connect in any order: ask who is who.
    for id in ids {
        server.handle.send(id, id.to_string().as_bytes()).unwrap();
    }
    let names: Vec<_> = clients.iter_mut().map(|client| read_name(client, &ids)).collect();
    for n in 0..2_000_u32 {
        for id in &names {
            post(|| server.handle.send(*id, &n.to_le_bytes()));
        }
        if n % 50 == 49 {
            let run: Vec<u8> = (n - 49..=n).flat_map(u32::to_le_bytes).collect();
            clients.iter_mut().for_each(|client| expect_bytes(client, &run));
        }
    }
    clients.iter_mut().for_each(finish);
    assert_eq!(server.stop().stale_posts, 0);
}

fn read_name(client: &mut std::net::TcpStream, ids: &[wharf::LinkId]) -> wharf::LinkId {
    let mut text = vec![0; ids[0].to_string().len()];
    std::io::Read::read_exact(client, &mut text).unwrap();
    *ids.iter().find(|id| id.to_string().as_bytes() == text).unwrap()
}

fn threads_that_send_at_once_keep_their_messages_whole(case: &Case) {
    const LEN: usize = 5_000;
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.builder().links(4).send_queue(4 << 20), handler);
    let mut client = server.connect();
    let id = record.id(0);
    std::thread::scope(|scope| {
        for thread in 1..=4_u8 {
            let server = &server;
            scope.spawn(move || {
                for _ in 0..100 {
                    post(|| server.handle.send(id, &[thread; LEN]));
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

fn a_link_sends_to_another_by_its_name(case: &Case) {
    let ids: Arc<util::Mutex<Vec<wharf::LinkId>>> = Arc::default();
    let handler = util::on_receive(move |link, data| {
        let mut ids = ids.lock().unwrap();
        if data == b"me" {
            ids.push(link.id());
            return Ok(link.send(b"ok")?);
        }
        ids.iter().try_for_each(|id| Ok(link.server().send(*id, data)?))
    });
    let server = TestServer::start(case.builder().shards(2).links(8), handler);
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
    let server = TestServer::start(case.builder().links(4), handler);
    let mut client = server.connect();
    let id = record.id(0);
    server.handle.send(id, &bytes(1, 100_000)).unwrap();
    server.handle.close(id).unwrap();
    let _gone_or_not_yet = server.handle.close(id);
    expect_bytes(&mut client, &bytes(1, 100_000));
    expect_end(&mut client);
    drop(client);
    record.expect(&[DisconnectReason::Kicked]);
    server.stop();
}

fn names_of_links_that_are_gone_find_nothing(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small(), handler);
    let client = server.connect();
    let id = record.id(0);
    drop(client);
    server.wait_for_links(0);
    assert_eq!(server.handle.send(id, b"x"), Err(SendError::Gone));
    assert_eq!(server.handle.send(id, b""), Err(SendError::Gone));
    assert_eq!(server.handle.close(id), Err(SendError::Gone));
    server.handle.broadcast(b"x", Some(id)).unwrap();
    server.stop();
}

fn a_place_used_again_is_not_hit_by_its_old_name(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small().links(1), handler);
    let mut old = Vec::new();
    for n in 0..50 {
        let mut client = server.connect();
        let id = record.id(n);
        for name in &old {
            assert_eq!(server.handle.send(*name, b"for another"), Err(SendError::Gone));
            assert_eq!(server.handle.close(*name), Err(SendError::Gone));
        }
        // An old name excepts nobody, least of all the place's new link.
        server.handle.broadcast(b"to all", old.last().copied()).unwrap();
        expect_bytes(&mut client, b"to all");
        old.push(id);
        if n % 2 == 0 {
            finish(&mut client)
        } else {
            reset(client)
        }
        server.wait_for_links(0);
    }
    assert_eq!(old.iter().collect::<HashSet<_>>().len(), 50, "a name was given twice");
    server.stop();
}

fn threads_race_with_links_that_come_and_go(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.builder().shards(2).links(16).buffers(600), handler);
    std::thread::scope(|scope| {
        // Gone when this closure is left, also by a panic.
        let running = Arc::new(());
        let alive = Arc::downgrade(&running);
        for thread in 0..3_u64 {
            let (server, record, alive) = (&server, &record, alive.clone());
            scope.spawn(move || {
                let (mut random, mut sent) = (util::Random(thread), HashSet::new());
                while alive.upgrade().is_some() {
                    let ids = record.ids();
                    // Mostly links that are gone, and now and then one that lives.
                    let newest = ids.len().saturating_sub(1 + random.below(20));
                    let Some(id) = ids.get(newest).filter(|id| !sent.contains(*id)) else {
                        continue;
                    };
                    // Every message names its receiver.
                    if server.handle.send(*id, format!("{:>20}", id.to_string()).as_bytes()).is_ok()
                    {
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
    let mut name: Option<[u8; 20]> = None;
    loop {
        let mut first = [0];
        std::io::Read::read_exact(client, &mut first).unwrap();
        if first[0] == b'!' {
            return;
        }
        let mut message = [0; 20];
        message[0] = first[0];
        std::io::Read::read_exact(client, &mut message[1..]).unwrap();
        assert_eq!(*name.get_or_insert(message), message, "a message for another link");
    }
}

fn after_the_stop_everything_is_gone(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small(), handler);
    let mut client = server.connect();
    round_trip(&mut client, b"hello");
    let (id, handle) = (record.id(0), server.handle.clone());
    drop(client);
    server.stop();
    assert_eq!(handle.send(id, b"x"), Err(SendError::Gone));
    assert_eq!(handle.close(id), Err(SendError::Gone));
    assert_eq!(handle.broadcast(b"x", None), Err(SendError::Gone));
    handle.stop(std::time::Duration::ZERO);
    let stats = handle.stats();
    assert_eq!(stats.post_buffers.free, stats.post_buffers.total(), "{:?}", stats.post_buffers);
}

fn posts_without_buffers_say_so_and_recover(case: &Case) {
    let (leave, left) = std::sync::mpsc::channel::<()>();
    let (enter, entered) = std::sync::mpsc::channel();
    let (enter, left) = (util::Mutex::new(enter), util::Mutex::new(left));
    let handler = util::on_receive(move |link, data| {
        enter.lock().unwrap().send(link.id()).unwrap();
        let _ends_when_the_test_does = left.lock().unwrap().recv_timeout(util::PATIENCE);
        Ok(link.send(data)?)
    });
    // A few of the buffers are for posts: enough for one of these and not for two.
    let server = TestServer::start(case.small(), handler);
    let (mut client, post) = (server.connect(), bytes(1, 3 * 2_048));
    // While a handler is busy, nothing is sent.
    std::io::Write::write_all(&mut client, b"?").unwrap();
    let id = entered.recv_timeout(util::PATIENCE).unwrap();
    server.handle.send(id, &post).unwrap();
    assert_eq!(server.handle.send(id, &post), Err(SendError::NoBuffers));
    assert_eq!(server.handle.broadcast(&post, None), Err(SendError::NoBuffers));
    drop(leave);
    expect_bytes(&mut client, b"?");
    expect_bytes(&mut client, &post);
    let ledger = || server.stats().post_buffers;
    eventually(|| ledger().free == ledger().total(), "the buffers come home");
    server.handle.send(id, &post).unwrap();
    expect_bytes(&mut client, &post);
    finish(&mut client);
    server.stop();
}
