//! Promise: a sender names the recipients, the message, and the policy for links where it does not
//! fit; one copy serves all; a missed post counts for its link, and a refused one is reported by
//! the call.
//!
//! Method: links whose peers do not read, beside others whose peers do, and counts of the received
//! posts.

use crate::util;
use crate::util::functions::{Functions, functions};
use crate::util::{
    Case, Hold, Mutex, Record, TestServer, bytes, connect_small_share, each_back_end, echo,
    eventually, expect_bytes, expect_end, finish, on_receive, round_trip,
};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;
use wharf::DisconnectReason::{HandlerClosed, Kicked, SlowReader};
use wharf::{Builder, Handle, LengthPrefix, Link, LinkId, PostError, Result, Verdict, WhenSlow};

each_back_end!(
    every_payload_can_be_posted,
    a_message_is_made_once_and_sent_often,
    a_message_is_released_with_its_last_clone,
    two_broadcasters_are_heard_in_one_order_by_all_links,
    a_post_that_does_not_fit_is_skipped_and_counted_for_its_link,
    a_link_that_misses_a_post_is_closed_if_the_post_says_so,
    a_link_that_misses_a_post_is_closed_if_it_says_so_itself,
    a_link_that_misses_a_post_is_closed_if_the_server_says_so,
    what_is_accepted_for_one_link_fits,
    a_handler_whose_post_was_refused_is_called_when_it_may_fit,
    while_a_server_drains_posts_are_refused_and_said_to_be,
    each_post_reaches_whom_it_is_for,
);

/// The limit of the output, and half of it for posts.
const OUTPUT: usize = 16 * 1024;

fn every_payload_can_be_posted(case: &Case) {
    const FRAMES: LengthPrefix = LengthPrefix::new(2, 1_000);
    for shards in [1, 2] {
        let (handler, record, _) = echo().watched();
        let builder = case.short(handler).shards(shards).links_max(8).buffer_count(2_000);
        let server = TestServer::start(builder);
        let mut clients = [server.connect(), server.connect()];
        let ids = [record.id(0), record.id(1)];
        for to in [server.handle.link(ids[0]), server.handle.link(ids[1])] {
            to.post("text ");
            to.post(b"bytes ");
            to.post(vec![b'v'; 3]);
            to.post(String::from(" string "));
            write!(to, "{:>5} ", 42);
            writeln!(to, "line {}", 7);
            to.post(("two ", ("par", "ts "), [b'!']));
            to.post(FRAMES.of(("framed ", [b'x'; 300])));
            to.post("");
            let message = server.handle.message(("shared ", bytes(1, 3_000))).unwrap();
            to.post(&message);
            to.post(("and ", &message));
        }
        let head = b"text bytes vvv string    42 line 7\ntwo parts !";
        let framed = [&307_u16.to_be_bytes()[..], b"framed ", &[b'x'; 300]].concat();
        let shared = [&b"shared "[..], &bytes(1, 3_000)].concat();
        let all = [&head[..], &framed, &shared, b"and ", &shared].concat();
        clients.iter_mut().for_each(|client| expect_bytes(client, &all));
        clients.iter_mut().for_each(finish);
        assert_eq!(server.stop().missed, 0);
    }
}

fn a_message_is_made_once_and_sent_often(case: &Case) {
    for shards in [1, 3] {
        let server = TestServer::start(case.builder(echo()).shards(shards).links_max(60));
        let mut clients: Vec<_> = (0..50).map(|_| server.connect()).collect();
        server.wait_for_links(50);
        let data = bytes(1, 100_000);
        let message = server.handle.message(&data).unwrap();
        assert_eq!(message.len(), data.len());
        let posts = || server.stats().post_buffers;
        let held = posts().total() - posts().free;
        for _ in 0..3 {
            server.handle.all().try_post(&message).unwrap();
            clients.iter_mut().for_each(|client| expect_bytes(client, &data));
        }
        // All posts of the message share one copy.
        eventually(|| posts().total() - posts().free == held, "its buffers are one copy's");
        drop(message);
        eventually(|| posts().free == posts().total(), "its buffers are free");
        clients.iter_mut().for_each(finish);
        assert_eq!(server.stop().sends, 150);
    }
}

fn a_message_is_released_with_its_last_clone(case: &Case) {
    // Enough buffers for one message.
    let server = TestServer::start(case.small(echo()));
    let mut client = server.connect();
    round_trip(&mut client, b"hello");
    let data = bytes(2, 3 * 2_048);
    for round in 0..50 {
        let message = server.handle.message(&data).unwrap();
        let clone = message.clone();
        assert_eq!(server.handle.message(&data).err(), Some(PostError::Full));
        server.handle.all().try_post(&message).unwrap();
        drop(message);
        expect_bytes(&mut client, &data);
        assert_eq!(server.handle.message(&data).err(), Some(PostError::Full));
        // The next message fits when this one has left.
        let sent = 5 + (2 * round + 1) * data.len() as u64;
        eventually(|| server.stats().sent_bytes == sent, "it has left");
        server.handle.all().try_post(&clone).unwrap();
        drop(clone);
        expect_bytes(&mut client, &data);
        eventually(|| server.handle.message(&data).is_ok(), "its buffers are free");
    }
    // A message that outlives the server.
    let message = server.handle.message(b"kept").unwrap();
    let handle = server.handle.clone();
    finish(&mut client);
    handle.stop(Duration::from_secs(5));
    server.wait().unwrap();
    assert_eq!(handle.stats().post_buffers.free + 1, handle.stats().post_buffers.total());
    assert!(handle.all().try_post(&message).is_err());
    drop(message);
    util::check_all_released(&handle.stats());
}

type Said = [u8; 5];

fn two_broadcasters_are_heard_in_one_order_by_all_links(case: &Case) {
    const ROUNDS: u32 = 1_000;
    const MARK: Said = [u8::MAX; 5];
    for shards in [1, 2, 3, 8] {
        let server = TestServer::start(case.builder(echo()).shards(shards).links_max(40));
        let links = 3 * shards;
        let readers: Vec<TcpStream> = (0..links).map(|_| server.connect()).collect();
        server.wait_for_links(links);
        let heard: Vec<Vec<Said>> = std::thread::scope(|scope| {
            let readers: Vec<_> =
                readers.iter().map(|reader| scope.spawn(|| hear(reader, MARK))).collect();
            let broadcasters: Vec<_> = (0..2_u8)
                .map(|thread| {
                    let all = server.handle.all();
                    scope.spawn(move || {
                        for number in 0..ROUNDS {
                            let [a, b, c, d] = number.to_be_bytes();
                            // Links where it does not fit skip it.
                            all.post([thread, a, b, c, d]);
                        }
                    })
                })
                .collect();
            broadcasters.into_iter().for_each(|thread| thread.join().unwrap());
            eventually(|| server.handle.all().try_post(MARK).is_ok(), "the last one is accepted");
            readers.into_iter().map(|reader| reader.join().unwrap()).collect()
        });
        let common = |these: &[Said], those: &[Said]| -> Vec<Said> {
            let those: HashSet<_> = those.iter().collect();
            these.iter().filter(|said| those.contains(said)).copied().collect()
        };
        for other in &heard[1..] {
            let (one, other) = (common(&heard[0], other), common(other, &heard[0]));
            assert!(one.len() > 100, "{} of {ROUNDS} were heard by both", one.len());
            assert!(one == other, "{shards} shards: two links heard them in two orders");
        }
        drop(readers);
        server.stop();
    }
}

/// The posts that a link gets before the mark.
fn hear(mut reader: &TcpStream, mark: Said) -> Vec<Said> {
    let mut heard = Vec::new();
    loop {
        let mut said = Said::default();
        reader.read_exact(&mut said).unwrap();
        if said == mark {
            return heard;
        }
        heard.push(said);
    }
}

/// A link whose peer reads nothing, and one whose peer does; posts no longer fit on the first.
fn with_a_full_link(server: &TestServer, to: LinkId) -> (u64, TcpStream) {
    // Until there is no progress: the peer's system still takes bytes, which makes spare capacity.
    let mut last = (0, util::now());
    eventually(
        || {
            server.handle.link(to).when_slow(WhenSlow::Skip).post([b'p'; 1_000]);
            let stats = server.stats();
            if stats.sent_bytes != last.0 {
                last = (stats.sent_bytes, util::now());
            }
            stats.missed > 0 && last.1.elapsed() > util::BLOCKED_AFTER
        },
        "posts do not fit",
    );
    // Earlier posts are handled before this round trip ends.
    let mut other = server.connect();
    round_trip(&mut other, b"hello");
    (server.stats().missed, other)
}

fn a_post_that_does_not_fit_is_skipped_and_counted_for_its_link(case: &Case) {
    let (handler, record, _) = echo().watched();
    let server = TestServer::start(case.small(handler).buffer_count(400));
    let slow = connect_small_share(server.address);
    let id = record.id(0);
    let (missed, mut reads) = with_a_full_link(&server, id);
    for n in 1..=20 {
        server.handle.all().try_post([b'b'; 1_000]).unwrap();
        expect_bytes(&mut reads, &[b'b'; 1_000]);
        eventually(|| server.stats().missed == missed + n, "one link missed it");
    }
    for n in 21..=40 {
        server.handle.link(id).post([b'b'; 1_000]);
        assert_eq!(server.handle.link(record.id(1)).try_post("!"), Ok(()));
        expect_bytes(&mut reads, b"!");
        eventually(|| server.stats().missed == missed + n, "it missed it");
    }
    finish(&mut reads);
    server.handle.link(id).abort();
    eventually(|| record.ends().len() == 2, "both have ended");
    let totals = |id| record.ends().iter().find(|end| end.id == id).unwrap().totals.missed;
    assert_eq!((totals(id), totals(record.id(1))), (missed + 40, 0));
    drop(slow);
    server.stop();
}

/// A full link is closed by a post, and a link whose peer reads gets it.
fn check_closed(
    builder: Builder<Functions<()>, (), ()>,
    record: &Record,
    post: impl Fn(&Handle, LinkId),
    heard: &[u8],
) {
    let server = TestServer::start(builder.buffer_count(400));
    let slow = connect_small_share(server.address);
    let id = record.id(0);
    let (_, mut reads) = with_a_full_link(&server, id);
    assert!(record.ends().is_empty(), "closed by a post that said otherwise");
    post(&server.handle, id);
    expect_bytes(&mut reads, heard);
    eventually(|| record.ends().len() == 1, "it is closed");
    let end = record.ends()[0];
    assert_eq!((end.id, end.reason), (id, SlowReader));
    round_trip(&mut reads, b"still here");
    drop((slow, reads));
    server.stop();
}

fn a_link_that_misses_a_post_is_closed_if_the_post_says_so(case: &Case) {
    let (handler, record, _) = echo().watched();
    let post = |server: &Handle, id| {
        server.link(id).when_slow(WhenSlow::Disconnect).post([b'd'; 1_000]);
    };
    check_closed(case.small(handler), &record, post, b"");
    let (handler, record, _) = echo().watched();
    let post = |server: &Handle, _| {
        server.all().when_slow(WhenSlow::Disconnect).post([b'd'; 1_000]);
    };
    check_closed(case.small(handler), &record, post, &[b'd'; 1_000]);
}

fn a_link_that_misses_a_post_is_closed_if_it_says_so_itself(case: &Case) {
    let handler = || {
        echo().on_connect(|link| {
            link.out.set_when_slow(WhenSlow::Disconnect);
            Ok(())
        })
    };
    let (one, record, _) = handler().watched();
    let post = |server: &Handle, id| server.link(id).post([b'd'; 1_000]);
    check_closed(case.small(one), &record, post, b"");
    let (all, record, _) = handler().watched();
    let post = |server: &Handle, _| server.all().post([b'd'; 1_000]);
    check_closed(case.small(all), &record, post, &[b'd'; 1_000]);
}

fn a_link_that_misses_a_post_is_closed_if_the_server_says_so(case: &Case) {
    let (handler, record, _) = echo().watched();
    let post = |server: &Handle, _| server.all().post([b'd'; 1_000]);
    let builder = case.small(handler).when_slow(WhenSlow::Disconnect);
    check_closed(builder, &record, post, &[b'd'; 1_000]);
    // A link with another policy stays open.
    let handler = echo().on_connect(|link| {
        link.out.set_when_slow(WhenSlow::Skip);
        Ok(())
    });
    let (handler, record, _) = handler.watched();
    let builder = case.small(handler).when_slow(WhenSlow::Disconnect);
    let server = TestServer::start(builder.buffer_count(400));
    let slow = connect_small_share(server.address);
    let (missed, mut reads) = with_a_full_link(&server, record.id(0));
    server.handle.all().post([b'd'; 1_000]);
    expect_bytes(&mut reads, &[b'd'; 1_000]);
    eventually(|| server.stats().missed == missed + 1, "it missed it");
    assert!(record.ends().is_empty());
    drop((slow, reads));
    server.stop();
}

fn what_is_accepted_for_one_link_fits(case: &Case) {
    let hold = Hold::default();
    let held = hold.clone();
    let handler = on_receive(move |link, input| {
        if input.line(10)?.is_some_and(|line| line == b"hold") {
            held.enter();
        }
        Ok(link.out.send("+")?)
    });
    let (handler, record, _) = handler.watched();
    let server = TestServer::start(case.small(handler).buffer_count(400));
    let (mut client, mut other) = (server.connect(), server.connect());
    let ids = [record.id(0), record.id(1)];
    // The shard is busy, so it has handled none of these.
    other.write_all(b"hold\n").unwrap();
    hold.wait();
    let link = server.handle.link(ids[0]);
    let accepted = (0..20).take_while(|n| link.try_post([b'a' + n; 1_000]).is_ok()).count();
    assert_eq!(accepted, OUTPUT / 2 / 1_000, "half of the output is for posts");
    assert_eq!(link.try_post([0; 1_000]), Err(PostError::Full));
    // A shorter one fits, and other links are not affected.
    link.try_post([b'.'; 100]).unwrap();
    server.handle.link(ids[1]).try_post([b'o'; 1_000]).unwrap();
    hold.release();
    for n in 0..8 {
        expect_bytes(&mut client, &[b'a' + n; 1_000]);
    }
    expect_bytes(&mut client, &[b'.'; 100]);
    // The sent bytes are spare capacity again, for as many posts.
    eventually(|| server.stats().sent_bytes == 8_100 + 1_001, "all has left");
    for n in 0..8 {
        link.try_post([n; 1_000]).unwrap();
        expect_bytes(&mut client, &[n; 1_000]);
    }
    drop((client, other));
    server.stop();
}

/// Posts numbers to a link until it is refused, and continues in `on_writable`.
fn a_handler_whose_post_was_refused_is_called_when_it_may_fit(case: &Case) {
    const COUNT: u64 = 1_000;
    fn more(link: &mut Link<'_, u64>, to: Option<LinkId>) -> Result {
        let Some(to) = to else { return Ok(()) };
        while *link.state > 0 {
            match link.server.link(to).try_post((COUNT - *link.state).to_le_bytes()) {
                Ok(()) => *link.state -= 1,
                Err(PostError::Full) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        link.close();
        Ok(())
    }
    for shards in [1, 2] {
        let reader = Arc::<Mutex<Option<LinkId>>>::default();
        let (to, again) = (Arc::clone(&reader), Arc::clone(&reader));
        let handler = functions::<u64>()
            .on_receive(move |link, input| {
                match input.line(10)? {
                    Some(b"me") => drop(to.lock().unwrap().replace(link.id())),
                    Some(_) => *link.state = COUNT,
                    None => {}
                }
                if *link.state > 0 { more(link, *to.lock().unwrap()) } else { Ok(()) }
            })
            .on_writable(move |link| more(link, *again.lock().unwrap()));
        let (handler, record, _) = handler.watched();
        let builder = case.short(handler).shards(shards).links_max(4).buffer_count(200);
        let server = TestServer::start(builder);
        let (mut reads, mut posts) = (server.connect(), server.connect());
        reads.write_all(b"me\n").unwrap();
        eventually(|| reader.lock().unwrap().is_some(), "it is known");
        posts.write_all(b"go\n").unwrap();
        for number in 0..COUNT {
            let mut got = [0; 8];
            reads.read_exact(&mut got).unwrap();
            assert_eq!(u64::from_le_bytes(got), number);
        }
        expect_end(&mut posts);
        drop(posts);
        record.expect(&[HandlerClosed]);
        finish(&mut reads);
        server.stop();
    }
}

fn while_a_server_drains_posts_are_refused_and_said_to_be(case: &Case) {
    for shards in [1, 2] {
        let (handler, record, calls) = echo().on_drain(|_| Ok(Verdict::Keep)).watched();
        let builder = case.short(handler).shards(shards).links_max(4).buffer_count(200);
        let server = TestServer::start(builder);
        let mut clients = [server.connect(), server.connect()];
        let link = server.handle.link(record.id(1));
        record.id(0);
        server.handle.all().try_post("before ").unwrap();
        server.handle.stop(Duration::from_secs(10));
        assert_eq!(link.try_post("after"), Err(PostError::Stopping));
        assert_eq!(server.handle.all().try_post("after"), Err(PostError::Stopping));
        link.post("after");
        eventually(|| calls.drains() == 2, "on_drain is called for each");
        for client in &mut clients {
            expect_bytes(client, b"before ");
            // The links themselves are still served.
            round_trip(client, b"hello");
        }
        server.handle.all().close();
        clients.iter_mut().for_each(expect_end);
        drop(clients);
        record.expect(&[Kicked; 2]);
        server.stop();
    }
}

fn each_post_reaches_whom_it_is_for(case: &Case) {
    for shards in [1, 2, 3, 8] {
        let (handler, record, _) = echo().watched();
        let builder = case.short(handler).shards(shards).links_max(16).buffer_count(2_000);
        let server = TestServer::start(builder);
        // Each link is sent its number, as shards call on_connect in any order.
        let mut clients: Vec<_> = (0..9).map(|_| server.connect()).collect();
        server.wait_for_links(9);
        let ids: Vec<LinkId> = (0..9).map(|n| record.id(n)).collect();
        for (n, id) in (0..9_u8).zip(&ids) {
            server.handle.link(*id).try_post([n]).unwrap();
            // These have no recipient.
            server.handle.link(*id).except(*id).try_post("to none").unwrap();
        }
        let number_of = |client: &mut TcpStream| {
            let mut number = [0];
            client.read_exact(&mut number).unwrap();
            usize::from(number[0])
        };
        clients.sort_by_cached_key(|client| number_of(&mut client.try_clone().unwrap()));
        for (n, id) in ids.iter().enumerate() {
            server.handle.all().except(*id).try_post([b'a'; 10]).unwrap();
            server.handle.link(*id).except(ids[(n + 1) % 9]).try_post([b'o'; 10]).unwrap();
            for (other, client) in clients.iter_mut().enumerate() {
                let word = if other == n { b'o' } else { b'a' };
                expect_bytes(client, &[word; 10]);
            }
        }
        clients.iter_mut().for_each(finish);
        let stats = server.stop();
        assert_eq!((stats.sends, stats.missed), (9 + 9 * 9, 0));
    }
}
