//! Promise: every limit can be reached and is never exceeded, does not affect open links, and no
//! longer applies as soon as there is a free slot, buffer or descriptor again.
//!
//! Method: tables of four links, pools of few buffers, and few descriptors.

use crate::util;
use crate::util::{
    Case, ProcessorClock, TestServer, bytes, each_back_end, echo, eventually, exchange,
    expect_bytes, expect_end, expect_end_or_reset, finish, meanwhile, now, reset, round_trip,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;
use wharf::{DisconnectReason, PostError, StartErrorKind, WhenFull};

each_back_end!(
    the_fifth_client_waits_and_is_served_when_one_leaves,
    the_fifth_client_is_refused_and_counted,
    a_full_table_of_several_shards_takes_exactly_its_limit,
    eight_links_share_few_buffers_and_none_is_closed,
    the_least_buffers_that_are_allowed_serve_all_links,
    a_shard_that_is_behind_refuses_posts_but_no_close,
    a_connection_behind_a_full_inbox_waits_calmly_and_is_served,
    without_descriptors_accepting_rests_and_then_goes_on,
);

fn the_fifth_client_waits_and_is_served_when_one_leaves(case: &Case) {
    let server = TestServer::start(case.small(echo()));
    let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| round_trip(client, b"in"));
    let mut waiting: Vec<_> = (0..3).map(|_| server.connect()).collect();
    waiting.iter_mut().for_each(|client| client.write_all(b"wait").unwrap());
    meanwhile(Duration::from_millis(100), || server.stats().accepted == 4, "one too many");
    // Each way to end releases a slot: an end of stream, a reset; a kick is in handle.rs.
    finish(&mut clients[0]);
    expect_bytes(&mut waiting[0], b"wait");
    reset(clients.remove(1));
    expect_bytes(&mut waiting[1], b"wait");
    drop(clients.remove(1));
    expect_bytes(&mut waiting[2], b"wait");
    round_trip(&mut clients[1], b"still in");
    drop((clients, waiting));
    let stats = server.stop();
    assert_eq!((stats.accepted, stats.connects, stats.refused_full), (7, 7, 0));
}

fn the_fifth_client_is_refused_and_counted(case: &Case) {
    let server = TestServer::start(case.small(echo()).when_full(WhenFull::Refuse));
    let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| round_trip(client, b"in"));
    for n in 1..=10 {
        expect_end_or_reset(&mut server.connect());
        eventually(|| server.stats().refused_full == n, "it is counted");
    }
    clients.iter_mut().for_each(|client| round_trip(client, b"still in"));
    finish(&mut clients[2]);
    server.wait_for_links(3);
    round_trip(&mut server.connect(), b"a free slot");
    drop(clients);
    let stats = server.stop();
    assert_eq!((stats.accepted, stats.connects, stats.refused_full), (15, 5, 10));
}

fn a_full_table_of_several_shards_takes_exactly_its_limit(case: &Case) {
    let builder = case.short(echo()).shards(3).links_max(7).buffer_count(76);
    let server = TestServer::start(builder);
    let mut clients: Vec<_> = (0..30).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.write_all(b"x").unwrap());
    // A served client closes, so all are served, seven at a time.
    while !clients.is_empty() {
        let stats = server.stats();
        assert!(stats.links <= 7, "{stats:?}");
        clients.retain_mut(|client| {
            client.set_nonblocking(true).unwrap();
            !matches!(client.read(&mut [0]), Ok(1))
        });
    }
    assert_eq!(server.stop().connects, 30);
}

fn eight_links_share_few_buffers_and_none_is_closed(case: &Case) {
    // Two for each link, and twice a whole output for all.
    share(TestServer::start(case.short(echo()).links_max(8).buffer_count(40)));
}

fn the_least_buffers_that_are_allowed_serve_all_links(case: &Case) {
    for buffers in 1.. {
        match case.short(echo()).links_max(8).buffer_count(buffers).start() {
            Ok(running) => {
                running.handle().stop(Duration::ZERO);
                running.wait().unwrap();
                return share(TestServer::start(
                    case.short(echo()).links_max(8).buffer_count(buffers),
                ));
            }
            Err(error) => {
                assert_eq!(error.kind(), StartErrorKind::Settings, "{buffers}: {error}");
                assert_eq!(error.to_string().matches(", but must be").count(), 1, "{error}");
            }
        }
    }
}

fn share(server: TestServer) {
    for _ in 0..2 {
        std::thread::scope(|scope| {
            for seed in 0..8 {
                let server = &server;
                scope.spawn(move || {
                    let mut client = server.connect();
                    exchange(&client, &bytes(seed, 300_000), seed);
                    finish(&mut client);
                });
            }
        });
    }
    let stats = server.stop();
    assert_eq!((stats.connects, stats.received_bytes), (16, 16 * 300_000));
}

fn a_shard_that_is_behind_refuses_posts_but_no_close(case: &Case) {
    let (enter, entered) = std::sync::mpsc::channel();
    let (leave, left) = std::sync::mpsc::channel::<()>();
    let (enter, left) = (util::Mutex::new(enter), util::Mutex::new(left));
    let handler = util::on_chunk(move |link, data| {
        if data == b"block" {
            enter.lock().unwrap().send(link.id()).unwrap();
            let _ends_when_the_test_does = left.lock().unwrap().recv();
        }
        Ok(link.out.send(data)?)
    });
    // Each post has a buffer of its own: more of them than the inbox has entries.
    let record = std::sync::Arc::clone(&handler.record);
    let builder = case.builder(handler).links_max(4).buffer_count(80_000).buffer_size_bytes(64);
    let server = TestServer::start(builder);
    let mut client = server.connect();
    client.write_all(b"block").unwrap();
    let id = entered.recv_timeout(util::PATIENCE).unwrap();
    let mut posted = 0_usize;
    let refused = loop {
        match server.handle.link(id).try_post(b".") {
            Ok(()) => posted += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, PostError::Full);
    // The inbox has entries for more than one shard accepts for single links.
    let others = server.handle.all().except(id);
    let refused = loop {
        if let Err(error) = others.try_post(b".") {
            break error;
        }
    };
    assert_eq!(refused, PostError::Full);
    // A close needs none of the used-up entries, and is applied after the posts.
    server.handle.link(id).close();
    drop(leave);
    expect_bytes(&mut client, b"block");
    expect_bytes(&mut client, &vec![b'.'; posted]);
    expect_end(&mut client);
    drop(client);
    record.expect(&[DisconnectReason::Kicked]);
    server.stop();
}

fn a_connection_behind_a_full_inbox_waits_calmly_and_is_served(case: &Case) {
    let _deadline = util::within(Duration::from_mins(1));
    let (enter, entered) = std::sync::mpsc::channel();
    let (leave, left) = std::sync::mpsc::channel::<()>();
    let (enter, left) = (util::Mutex::new(enter), util::Mutex::new(left));
    let handler = util::on_chunk(move |link, data| {
        if data == b"block" {
            enter.lock().unwrap().send(link.id()).unwrap();
            let _ends_when_the_test_does = left.lock().unwrap().recv_timeout(util::PATIENCE);
        }
        Ok(link.out.send(data)?)
    });
    let record = std::sync::Arc::clone(&handler.record);
    // Each post has a buffer of its own: more of them than the inbox has entries.
    let builder =
        case.builder(handler).shards(2).links_max(8).buffer_count(110_000).buffer_size_bytes(64);
    let server = TestServer::start(builder);
    // One link on each shard; the second shard does not accept.
    let mut clients = [server.connect(), server.connect()];
    clients.iter_mut().for_each(|client| round_trip(client, b"hello"));
    let ids = [record.id(0), record.id(1)];
    // Shards call on_connect in any order, so the blocked link sends its id.
    clients[1].write_all(b"block").unwrap();
    let id = entered.recv_timeout(util::PATIENCE).unwrap();
    assert!(ids.contains(&id));
    while server.handle.link(id).try_post(b".") != Err(PostError::Full) {}
    // The next two connections: one for each shard.
    let mut late = [server.connect(), server.connect()];
    late.iter_mut().for_each(|client| client.write_all(b"late").unwrap());
    eventually(|| server.stats().accepted == 4, "both are accepted");
    let turns = || server.stats().workers[0].turns;
    let (before, start) = (turns(), now());
    meanwhile(Duration::from_millis(300), || true, "");
    let tries = turns() - before;
    assert!(tries < 300, "{tries} turns in {:?} for one that waits", start.elapsed());
    drop(leave);
    let start = now();
    late.iter_mut().for_each(|client| expect_bytes(client, b"late"));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    drop((clients, late));
    server.stop();
}

fn without_descriptors_accepting_rests_and_then_goes_on(case: &Case) {
    case.alone(|| {
        // io_uring reads the limit when the accept is armed, so it is set before the start, and the
        // rest of the descriptors is used up.
        let hard = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(200), maximum: hard }).unwrap();
        let server = TestServer::start(case.builder(echo()).links_max(100).buffer_count(600));
        let mut old = server.connect();
        round_trip(&mut old, b"before");
        let clock = ProcessorClock::open();
        let mut eaten = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            eaten.push(file);
        }
        // One descriptor for the client, none for the server's side.
        eaten.pop();
        let mut new = server.connect();
        new.write_all(b"new").unwrap();
        eventually(|| server.stats().accept_failures > 0, "accepting fails");
        let (failures, used, start) = (server.stats().accept_failures, clock.read(), now());
        meanwhile(
            Duration::from_millis(1_000),
            || {
                round_trip(&mut old, b"meanwhile");
                std::thread::sleep(Duration::from_millis(20));
                true
            },
            "",
        );
        let share = (clock.read() - used).as_secs_f64() / start.elapsed().as_secs_f64();
        let tries = server.stats().accept_failures - failures;
        assert!(share < 0.2, "{share} of a processor, {tries} tries");
        drop(eaten);
        let start = now();
        expect_bytes(&mut new, b"new");
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        finish(&mut old);
        finish(&mut new);
        server.stop();
    });
}
