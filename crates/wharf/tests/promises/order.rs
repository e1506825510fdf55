//! Promise: posts of one thread to one link keep their order, broadcasts among them; accepted posts
//! arrive; broadcasts have one order for all links; and a link that posts much leaves buffers for
//! the others.
//!
//! Method: numbered messages from threads, from callbacks and as replies; clients check their
//! order.

use crate::util;
use crate::util::{
    Case, Hold, TestServer, each_back_end, echo, expect_bytes, on_chunk, unacknowledged, within,
};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wharf::{LinkId, PostError};

each_back_end!(
    an_accepted_post_is_queued_in_order,
    who_answers_a_broadcast_is_not_overtaken,
    what_a_callback_posts_comes_after_what_it_queues,
    one_link_that_posts_much_leaves_buffers_to_the_others,
    a_post_that_no_output_can_hold_is_too_large,
);

const THREADS: u8 = 8;
const POSTS: u32 = 200;
const BROADCAST: u8 = 1;

/// Its sender, whether it is a broadcast, and its number.
const MESSAGE: usize = 6;

fn message(thread: u8, kind: u8, number: u32) -> [u8; MESSAGE] {
    let [a, b, c, d] = number.to_be_bytes();
    [thread, kind, a, b, c, d]
}

/// Threads post to a link that reads; some posts are broadcasts; each accepted one arrives, in
/// order.
fn an_accepted_post_is_queued_in_order(case: &Case) {
    let _deadline = within(Duration::from_mins(2));
    for shards in [1, 2, 3, 8] {
        let handler = echo();
        let record = Arc::clone(&handler.record);
        let server = TestServer::start(case.builder(handler).shards(shards));
        let mut reader = server.connect();
        let id = record.id(0);
        let posted: Vec<Vec<(u8, u32)>> = std::thread::scope(|scope| {
            let post = |thread: u8| {
                let mut accepted = Vec::new();
                for number in 0..POSTS {
                    let kind = if number % 16 == 15 { BROADCAST } else { 0 };
                    let to = if kind == BROADCAST {
                        server.handle.all()
                    } else {
                        server.handle.link(id)
                    };
                    match to.try_post(message(thread, kind, number)) {
                        Ok(()) => accepted.push((kind, number)),
                        Err(PostError::Full) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                accepted
            };
            let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || post(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        // Posted after all of them, so the last one.
        let mark = message(u8::MAX, 0, 0);
        util::eventually(|| server.handle.link(id).try_post(mark).is_ok(), "a post is accepted");
        let mut came: Vec<Vec<(u8, u32)>> = vec![Vec::new(); THREADS.into()];
        let mut got = [0; MESSAGE];
        loop {
            reader.read_exact(&mut got).unwrap();
            if got == mark {
                break;
            }
            let [thread, kind, number @ ..] = got;
            came[usize::from(thread)].push((kind, u32::from_be_bytes(number)));
        }
        for (came, posted) in came.iter().zip(&posted) {
            assert!(came.is_sorted_by_key(|(_, number)| *number), "{shards} shards: {came:?}");
            // A broadcast may be skipped; an accepted post to the link may not.
            let singles = |all: &[(u8, u32)]| -> Vec<u32> {
                all.iter().filter(|(kind, _)| *kind == 0).map(|(_, number)| *number).collect()
            };
            assert_eq!(singles(came), singles(posted), "{shards} shards");
        }
        let accepted: usize = posted.iter().map(Vec::len).sum();
        assert!(accepted > 0, "nothing was accepted");
        drop(reader);
        server.stop();
    }
}

/// `b n`: a broadcast; a client that reads it sends `r n`, for which a third link is posted `a n`.
/// The third must have read `b n` before that.
fn who_answers_a_broadcast_is_not_overtaken(case: &Case) {
    const ROUNDS: u32 = 300;
    const MESSAGE: usize = 5;
    let _deadline = within(Duration::from_mins(3));
    let message = |kind: u8, number: u32| {
        let [a, b, c, d] = number.to_be_bytes();
        [kind, a, b, c, d]
    };
    for shards in [1, 2, 3, 8] {
        let listeners: Arc<util::Mutex<Vec<LinkId>>> = Arc::default();
        let to = Arc::clone(&listeners);
        let handler = on_chunk(move |link, data| {
            for answer in data.chunks(MESSAGE) {
                let Some(number) = answer.get(1..MESSAGE) else { panic!("{answer:?} in pieces") };
                for listener in &*to.lock().unwrap() {
                    link.server.link(*listener).post([b"a", number].concat());
                }
            }
            Ok(())
        });
        let record = Arc::clone(&handler.record);
        let server = TestServer::start(case.builder(handler).shards(shards));
        // On each shard one client that replies, and two that only read.
        let count = 3 * shards as usize;
        let mut streams: Vec<TcpStream> = (0..count)
            .map(|n| {
                let stream = server.connect();
                record.id(n);
                stream
            })
            .collect();
        let ids = record.ids();
        *listeners.lock().unwrap() = ids[shards as usize..].to_vec();
        let listening = streams.split_off(shards as usize);
        std::thread::scope(|scope| {
            for stream in streams {
                scope.spawn(move || answer(stream, ROUNDS));
            }
            let done = Arc::new(AtomicU64::new(0));
            for mut stream in listening {
                let done = Arc::clone(&done);
                scope.spawn(move || {
                    for number in 0..ROUNDS {
                        let mut got = [0; MESSAGE];
                        stream.read_exact(&mut got).unwrap();
                        let told = "an answer came first";
                        assert_eq!(got, message(b'b', number), "{told}, {shards} shards");
                        for _ in 0..shards {
                            stream.read_exact(&mut got).unwrap();
                            assert_eq!(got, message(b'a', number), "{shards} shards");
                        }
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            for number in 0..ROUNDS {
                server.handle.all().try_post(message(b'b', number)).unwrap();
                let all = u64::from(number + 1) * 2 * u64::from(shards);
                util::eventually(|| done.load(Ordering::SeqCst) >= all, "all have heard all");
            }
        });
        server.stop();
    }
}

/// Reads each broadcast, and replies to it.
fn answer(mut stream: TcpStream, rounds: u32) {
    for number in 0..rounds {
        let mut got = [0; 5];
        stream.read_exact(&mut got).unwrap();
        assert_eq!((got[0], &got[1..]), (b'b', &number.to_be_bytes()[..]));
        got[0] = b'r';
        stream.write_all(&got).unwrap();
    }
}

/// Posts, broadcasts and replies of one callback, for its own link and for one of each shard.
fn what_a_callback_posts_comes_after_what_it_queues(case: &Case) {
    let _deadline = within(Duration::from_mins(1));
    for shards in [1, 2, 3, 8] {
        let others: Arc<util::Mutex<Vec<LinkId>>> = Arc::default();
        let to = Arc::clone(&others);
        let handler = on_chunk(move |link, data| {
            let post = |text: &str| {
                for other in &*to.lock().unwrap() {
                    link.server.link(*other).post(text);
                }
            };
            post("1");
            let first = link.out.send("q");
            link.server.all().post("2");
            post("3");
            link.out.send((data, "Q")).and(first)?;
            link.server.all().post("4");
            post("5");
            Ok(())
        });
        let record = Arc::clone(&handler.record);
        let server = TestServer::start(case.builder(handler).shards(shards));
        let mut streams: Vec<TcpStream> = (0..=shards as usize)
            .map(|n| {
                let stream = server.connect();
                record.id(n);
                stream
            })
            .collect();
        *others.lock().unwrap() = record.ids();
        for _ in 0..20 {
            streams[0].write_all(b"x").unwrap();
            for (n, stream) in streams.iter_mut().enumerate() {
                let expected: &[u8] = if n == 0 { b"qxQ12345" } else { b"12345" };
                expect_bytes(stream, expected);
            }
        }
        drop(streams);
        server.stop();
    }
}

/// A link posts in one callback until it is refused; another link's callback, in the same turn,
/// finds buffers for its own post.
fn one_link_that_posts_much_leaves_buffers_to_the_others(case: &Case) {
    let _deadline = within(Duration::from_mins(1));
    for shards in [1, 2] {
        let hold = Hold::default();
        let held = hold.clone();
        let posted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&posted);
        let handler = on_chunk(move |link, data| {
            match data {
                b"hold" => held.enter(),
                b"much" => {
                    while link.server.all().try_post("m").is_ok() {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                }
                _ => assert_eq!(link.server.all().try_post("!"), Ok(()), "no buffer was left"),
            }
            Ok(())
        });
        let server = TestServer::start(case.builder(handler).shards(shards));
        // All on one shard: each shard has as many buffers for posts.
        let mut streams: Vec<TcpStream> = (0..3 * shards)
            .map(|n| {
                let stream = server.connect();
                server.wait_for_links(n + 1);
                stream
            })
            .collect();
        let on_one_shard: Vec<usize> = (0..3).map(|n| n * shards as usize).collect();
        streams[on_one_shard[0]].write_all(b"hold").unwrap();
        hold.wait();
        for (n, text) in [(1, b"much"), (2, b"post")] {
            let stream = &mut streams[on_one_shard[n]];
            stream.write_all(text).unwrap();
            util::eventually(|| unacknowledged(stream) == 0, "the server's system has it");
        }
        hold.release();
        let mut got = [0];
        let mut much = 0;
        loop {
            streams[0].read_exact(&mut got).unwrap();
            match &got {
                b"m" => much += 1,
                b"!" => break,
                other => panic!("{other:?}"),
            }
        }
        let most = posted.load(Ordering::SeqCst);
        assert!(most > 1 && much <= most, "{much} of {most}");
        drop(streams);
        server.stop();
    }
}

fn a_post_that_no_output_can_hold_is_too_large(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    // The minimum of buffers.
    let builder = case.builder(handler).shards(1).links_max(4);
    let server = TestServer::start(builder.output_bytes(8_192).buffer_count(60).input_bytes(2_048));
    let mut stream = server.connect();
    let link = server.handle.link(record.id(0));
    assert_eq!(link.try_post(vec![1; 4_097]), Err(PostError::TooLarge));
    assert_eq!(server.handle.all().try_post(vec![1; 4_097]), Err(PostError::TooLarge));
    assert_eq!(server.handle.message(vec![1; 4_097]).err(), Some(PostError::TooLarge));
    link.try_post(vec![1; 4_096]).unwrap();
    expect_bytes(&mut stream, &[1; 4_096]);
    drop(stream);
    server.stop();
}
