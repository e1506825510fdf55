//! Promise: a post to a link that reads arrives, whole and in order, also if the server is stopped
//! right afterwards.
//!
//! Method: numbered posts, as many as fit half of an output, then a stop.

use crate::util;
use crate::util::{
    Case, HangUp, Record, TestServer, each_back_end, echo, expect_bytes, now, on_chunk, within,
};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use wharf::{Handler, Input, Link, PostError};

each_back_end!(
    posts_before_a_stop_all_arrive,
    posts_before_a_stop_all_arrive_although_a_handler_is_busy,
    posts_for_a_link_that_reads_all_arrive_through_a_stop,
    posts_of_four_threads_before_a_stop_all_arrive,
    links_that_do_not_read_lose_no_other_link_a_broadcast,
    a_sender_that_has_used_up_its_posts_keeps_no_other_from_posting,
    a_post_to_all_that_finds_no_buffers_counts_for_each_link_but_the_excepted,
);

const COUNT: u64 = 1_250;
/// Half of the default output.
const HALF: usize = 128 * 1024;

/// Posts, and repeats refused posts; returns the number of refusals.
fn post(mut post: impl FnMut() -> Result<(), PostError>) -> u64 {
    let (end, mut refusals) = (now() + util::PATIENCE, 0);
    loop {
        match post() {
            Ok(()) => return refusals,
            Err(PostError::Full) if now() < end => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
        refusals += 1;
    }
}

/// A message that begins with its number.
fn message(number: u64, len: usize) -> Vec<u8> {
    let mut message = vec![number.to_le_bytes()[0]; len];
    message[..8].copy_from_slice(&number.to_le_bytes());
    message
}

/// Reads messages up to the end of the stream; returns their number, and checks that they are the
/// first ones.
fn count_messages(mut stream: &TcpStream, len: usize, seen: &AtomicU64) -> u64 {
    let (mut got, mut count) = (vec![0; len], 0);
    loop {
        match stream.read_exact(&mut got) {
            Ok(()) => assert!(got == message(count, len), "another message at {count}"),
            Err(_) => return count,
        }
        count += 1;
        seen.store(count, Ordering::SeqCst);
    }
}

fn posts_before_a_stop_all_arrive(case: &Case) {
    let _deadline = within(Duration::from_mins(1));
    for shards in [1, 4] {
        for len in [8, 64, 100] {
            assert!(len * 1_250 <= HALF);
            let handler = echo();
            let record = Arc::clone(&handler.record);
            let server = TestServer::start(case.builder(handler).shards(shards));
            let streams = [server.connect()];
            let id = record.id(0);
            let mut refusals = 0;
            let came = std::thread::scope(|scope| {
                let _end = HangUp(&streams);
                let reader = scope.spawn(|| count_messages(&streams[0], len, &AtomicU64::new(0)));
                for number in 0..COUNT {
                    refusals += post(|| server.handle.link(id).try_post(message(number, len)));
                }
                server.handle.stop(Duration::from_secs(10));
                reader.join().unwrap()
            });
            drop(streams);
            let stats = server.stop();
            assert_eq!(came, COUNT, "{shards} shards, {len} bytes each: {stats:?}");
            assert!(stats.missed <= refusals, "one that was posted is missed: {stats:?}");
        }
    }
}

/// The shard gets the posts and the stop together.
fn posts_before_a_stop_all_arrive_although_a_handler_is_busy(case: &Case) {
    let _deadline = within(Duration::from_mins(1));
    for shards in [1, 2] {
        for len in [8, 64, 100] {
            let busy = Arc::new(AtomicBool::new(false));
            let held = Arc::clone(&busy);
            let handler = on_chunk(move |link, data| {
                let end = now() + util::PATIENCE;
                held.store(true, Ordering::SeqCst);
                while held.load(Ordering::SeqCst) && now() < end {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(link.out.send(data)?)
            });
            let record = Arc::clone(&handler.record);
            // Posts from other threads have a part of an eighth.
            let builder = case.builder(handler).shards(shards).buffer_count(40_000);
            let server = TestServer::start(builder);
            let streams = [server.connect()];
            let id = record.id(0);
            // On the same shard: the first link, after all others have one as well.
            let mut others: Vec<_> = (0..shards).map(|_| server.connect()).collect();
            server.wait_for_links(1 + shards);
            others.last_mut().unwrap().write_all(b"?").unwrap();
            util::eventually(|| busy.load(Ordering::SeqCst), "a handler is busy");
            let came = std::thread::scope(|scope| {
                let _end = HangUp(&streams);
                let reader = scope.spawn(|| count_messages(&streams[0], len, &AtomicU64::new(0)));
                for number in 0..COUNT {
                    server.handle.link(id).try_post(message(number, len)).unwrap();
                }
                server.handle.stop(Duration::from_secs(10));
                busy.store(false, Ordering::SeqCst);
                reader.join().unwrap()
            });
            drop((streams, others));
            let stats = server.stop();
            assert_eq!(came, COUNT, "{shards} shards, {len} bytes each: {stats:?}");
            assert_eq!(stats.missed, 0);
        }
    }
}

fn posts_for_a_link_that_reads_all_arrive_through_a_stop(case: &Case) {
    // A quarter of the output, so that unacknowledged posts fit.
    const AHEAD: u64 = 32 * 1024;
    let _deadline = within(Duration::from_mins(1));
    for len in [2_048, 4_096, 10_000] {
        let handler = echo();
        let record = Arc::clone(&handler.record);
        let server = TestServer::start(case.builder(handler).shards(2));
        let streams = [server.connect()];
        let (id, seen, mut refusals) = (record.id(0), AtomicU64::new(0), 0);
        let came = std::thread::scope(|scope| {
            let _end = HangUp(&streams);
            let reader = scope.spawn(|| count_messages(&streams[0], len, &seen));
            for number in 0..COUNT {
                let ahead = || (number - seen.load(Ordering::SeqCst)) * len as u64;
                util::eventually(|| ahead() <= AHEAD, "the link reads");
                refusals += post(|| server.handle.link(id).try_post(message(number, len)));
            }
            server.handle.stop(Duration::from_secs(10));
            reader.join().unwrap()
        });
        drop(streams);
        let stats = server.stop();
        assert_eq!(came, COUNT, "{len} bytes each: {stats:?}");
        assert!(stats.missed <= refusals, "one that was posted is missed: {stats:?}");
    }
}

fn posts_of_four_threads_before_a_stop_all_arrive(case: &Case) {
    const LEN: usize = 100;
    let _deadline = within(Duration::from_mins(1));
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.builder(handler).shards(2));
    let streams: Vec<_> = (0..4).map(|_| server.connect()).collect();
    let ids: Vec<_> = (0..4).map(|n| record.id(n)).collect();
    let came: Vec<u64> = std::thread::scope(|scope| {
        let _end = HangUp(&streams);
        let readers: Vec<_> = streams
            .iter()
            .map(|stream| scope.spawn(|| count_messages(stream, LEN, &AtomicU64::new(0))))
            .collect();
        let posters: Vec<_> = ids
            .iter()
            .map(|id| {
                let handle = &server.handle;
                scope.spawn(move || {
                    for number in 0..COUNT {
                        post(|| handle.link(*id).try_post(message(number, LEN)));
                    }
                })
            })
            .collect();
        posters.into_iter().for_each(|poster| poster.join().unwrap());
        server.handle.stop(Duration::from_secs(10));
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    drop(streams);
    let stats = server.stop();
    assert_eq!(came, [COUNT; 4], "{stats:?}");
}

/// A link that does not read holds what it can borrow and then a few shared messages: these must
/// not be the buffers that others need.
fn links_that_do_not_read_lose_no_other_link_a_broadcast(case: &Case) {
    const LEN: usize = 2_048;
    const MESSAGES: u64 = 200;
    let _deadline = within(Duration::from_mins(1));
    // The fewest buffers for so many links: together they can borrow 159, and each that does not
    // read could have 64 unsent.
    let server = TestServer::start(case.builder(echo()).links_max(20).buffer_count(330));
    let not_reading: Vec<_> = (0..15).map(|_| util::connect_small_share(server.address)).collect();
    let mut readers: Vec<_> = (0..3).map(|_| server.connect()).collect();
    server.wait_for_links(18);
    for reader in &readers {
        reader.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    for number in 0..MESSAGES {
        let message = message(number, LEN);
        server.handle.all().try_post(&message).unwrap();
        for (reader, n) in readers.iter_mut().zip(0..) {
            let mut got = [0; LEN];
            let read = reader.read_exact(&mut got);
            let told = format!("reader {n} at message {number}: {:?}", server.stats());
            assert!(read.is_ok(), "{read:?}, {told}");
            assert!(got == *message, "another message, {told}");
        }
    }
    // Otherwise the outputs were never full, and the test shows nothing.
    let stats = server.stats();
    assert!(stats.missed > MESSAGES, "{stats:?}");
    drop((not_reading, readers));
    server.stop();
}

/// A shard is busy, so that posts to it keep their senders' buffers: a thread's, and those of the
/// handlers on two other shards. Each sender has as many, whatever the others have used.
fn a_sender_that_has_used_up_its_posts_keeps_no_other_from_posting(case: &Case) {
    let _deadline = within(Duration::from_mins(1));
    let (busy, record) = (Arc::new(AtomicBool::new(false)), Arc::new(Record::default()));
    let handler = Speaker { busy: Arc::clone(&busy), record: Arc::clone(&record) };
    let server = TestServer::start(case.builder(handler).shards(3).buffer_count(10_000));
    // One on each shard: the shard with the fewest links gets the next one.
    let mut streams = [0, 1, 2].map(|n| (server.connect(), record.id(n)).0);
    streams[0].write_all(b"w").unwrap();
    util::eventually(|| busy.load(Ordering::SeqCst), "a shard is busy");
    let id = record.id(0);
    let outside = (0..10_000).take_while(|_| server.handle.link(id).try_post(WORD).is_ok()).count();
    assert_eq!(server.handle.link(id).try_post(WORD), Err(PostError::Full), "after {outside}");
    let first = speak(&mut streams[1]);
    expect_bytes(&mut streams[2], &WORD.repeat(first));
    let second = speak(&mut streams[2]);
    expect_bytes(&mut streams[1], &WORD.repeat(second));
    // Together they have an eighth of 10,000 buffers of 2 KiB, in short ones of 512 bytes, and a
    // quarter of these each.
    assert_eq!((outside, first, second), (1_248, 1_248, 1_248), "{:?}", server.stats());
    busy.store(false, Ordering::SeqCst);
    expect_bytes(&mut streams[0], &WORD.repeat(outside + first + second));
    drop(streams);
    server.stop();
}

const WORD: &[u8; 8] = b"to each!";

/// One callback posts more than its shard has buffers for: the posts that others did not get count
/// as missed.
fn a_post_to_all_that_finds_no_buffers_counts_for_each_link_but_the_excepted(case: &Case) {
    const POSTS: u64 = 3_000;
    for shards in [1, 3] {
        let handler = on_chunk(|link, _| {
            for _ in 0..POSTS {
                link.server.all().except(link.id()).post(WORD);
            }
            Ok(())
        });
        let record = Arc::clone(&handler.record);
        let server = TestServer::start(case.builder(handler).shards(shards));
        // One after the other, so that client and link have the same number.
        let mut streams = [0, 1, 2, 3].map(|n| (server.connect(), record.id(n)).0);
        streams[0].write_all(b"post").unwrap();
        util::eventually(|| server.stats().receives == 1, "it has posted");
        server.handle.stop(Duration::from_secs(5));
        let got = streams.each_mut().map(|stream| {
            let mut words = Vec::new();
            stream.read_to_end(&mut words).unwrap();
            assert!(words.chunks(WORD.len()).all(|word| word == WORD));
            (words.len() / WORD.len()) as u64
        });
        drop(streams);
        let stats = server.wait().unwrap();
        let missed = [0, 1, 2, 3].map(|number| {
            let id = record.id(number);
            record.ends().iter().find(|end| end.id == id).unwrap().totals.missed
        });
        for number in 1..4 {
            assert!(0 < got[number] && got[number] < POSTS, "{got:?} of {POSTS}");
            assert_eq!(got[number] + missed[number], POSTS, "{got:?}, {missed:?} missed");
        }
        assert_eq!((got[0], missed[0]), (0, 0), "who is left out");
        assert_eq!(stats.missed, missed.iter().sum::<u64>());
    }
}

/// Has the handler broadcast until it is refused; returns the number of accepted broadcasts.
fn speak(stream: &mut TcpStream) -> usize {
    let speaks = |_: &usize| {
        let mut answer = [0];
        stream.write_all(b"b").unwrap();
        stream.read_exact(&mut answer).unwrap();
        answer == *b"y"
    };
    (0..10_000).take_while(speaks).count()
}

/// On request it broadcasts a line and replies whether that was accepted, or keeps its shard busy.
struct Speaker {
    busy: Arc<AtomicBool>,
    record: Arc<Record>,
}

impl Handler for Speaker {
    fn on_connect(&self, link: &mut Link<'_>) -> wharf::Result {
        self.record.connected(link);
        Ok(())
    }

    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> wharf::Result {
        let mut word = [0];
        Read::read_exact(input, &mut word)?;
        if word == *b"w" {
            let end = now() + util::PATIENCE;
            self.busy.store(true, Ordering::SeqCst);
            while self.busy.load(Ordering::SeqCst) && now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            return Ok(());
        }
        let answer = match link.server.all().except(link.id()).try_post(WORD) {
            Err(PostError::Full) => b"n",
            result => result.map(|()| b"y")?,
        };
        Ok(link.out.send(answer)?)
    }
}
