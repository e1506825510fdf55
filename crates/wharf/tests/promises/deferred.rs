//! Promise: a reply may be sent later, from any thread, once: until then the input waits, so
//! replies keep their order, and the link stays open; a reply that is missing, too late or too long
//! ends the link.
//!
//! Method: a handler that passes its replies to the test, which sends them later.

use crate::util;
use crate::util::functions::{Calls, Functions, functions};
use crate::util::{
    Case, Mutex, ON_PURPOSE, PATIENCE, Random, Record, TestServer, bytes, each_back_end,
    eventually, expect_bytes, expect_end, expect_end_or_reset, finish, meanwhile, now,
    silence_panics_on_purpose,
};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use wharf::DisconnectReason::{
    HandlerClosed, HandlerError, HandlerPanic, Idle, Kicked, PeerClosed, PeerReset, ServerStopping,
    SlowReader,
};
use wharf::{Builder, Error, PostError, Reply, SendError};

each_back_end!(
    a_reply_from_another_thread_comes_later,
    a_reply_comes_after_the_peer_has_ended_its_half,
    a_reply_comes_during_a_drain,
    a_reply_comes_before_the_end_of_an_output_that_is_finished,
    a_link_whose_reply_is_out_is_not_idle,
    replies_keep_the_order_of_their_requests,
    replies_of_many_links_come_to_theirs,
    until_the_reply_the_input_yields_nothing,
    what_is_queued_meanwhile_leaves_before_the_reply,
    a_reply_in_the_same_callback_is_one,
    no_reply_lets_the_input_go_on,
    a_last_reply_closes_the_link,
    a_reply_that_is_dropped_ends_the_link,
    a_reply_that_is_too_late_ends_the_link,
    a_reply_that_is_too_long_ends_the_link,
    a_link_that_is_closed_waits_for_its_reply,
    a_link_that_is_closed_waits_for_its_reply_no_longer_than_for_any,
    a_link_that_ends_otherwise_does_not_wait_for_its_reply,
    what_came_before_a_reset_is_handled_after_the_reply,
    replies_of_links_that_have_ended_hold_nothing,
    a_reply_of_a_link_that_has_ended_does_not_reach_the_next_one,
    what_is_reserved_for_a_reply_is_for_nothing_else,
    what_cannot_be_reserved_is_refused,
    a_reply_to_a_peer_that_does_not_read_is_sent_when_it_does,
);

/// A request line, and its reply.
struct Asked {
    line: String,
    reply: Reply,
}

const REPLY_MAX: usize = 2_000;

/// Defers each reply; but `ping` is replied to at once.
fn deferring() -> (Functions<()>, Receiver<Asked>) {
    let (sender, asked) = channel();
    (deferring_to(sender), asked)
}

fn deferring_to(sender: Sender<Asked>) -> Functions<()> {
    let sender = Mutex::new(sender);
    functions::<()>().on_receive(move |link, input| {
        while let Some(line) = input.line(100)? {
            let line = std::str::from_utf8(line)?.to_owned();
            if line == "ping" {
                link.out.send("pong ")?;
                continue;
            }
            let reply = input.defer(&mut link.out, REPLY_MAX)?;
            assert_eq!(reply.link(), link.id());
            match line.as_str() {
                "close" => link.close(),
                "abort" => link.abort(),
                "finish" => link.out.finish(),
                "drop" => {
                    link.out.send("dropped")?;
                    drop(reply);
                    return Ok(());
                }
                "error" => {
                    tell(&sender, Asked { line, reply });
                    link.out.send("an error")?;
                    return Err(Error::msg("an error"));
                }
                "panic" => {
                    tell(&sender, Asked { line, reply });
                    std::panic::panic_any(ON_PURPOSE);
                }
                _ => {}
            }
            tell(&sender, Asked { line, reply });
        }
        Ok(())
    })
}

/// Sends the reply to the test; a test that has ended drops it.
fn tell<T>(sender: &Mutex<Sender<T>>, value: T) {
    let _the_test_has_ended = sender.lock().unwrap().send(value);
}

/// A server of one shard, and what a test reads.
struct Deferred {
    server: TestServer,
    record: Arc<Record>,
    calls: Arc<Calls>,
    asked: Receiver<Asked>,
}

type Settings = Builder<Functions<()>, (), ()>;

fn start(case: &Case, settings: impl Fn(Settings) -> Settings) -> Deferred {
    let (handler, asked) = deferring();
    let (handler, record, calls) = handler.watched();
    Deferred { server: TestServer::start(settings(case.small(handler))), record, calls, asked }
}

impl Deferred {
    #[track_caller]
    fn reply_to(&self, line: &str) -> Reply {
        let asked = self.asked.recv_timeout(PATIENCE).unwrap();
        assert_eq!(asked.line, line);
        asked.reply
    }

    /// A client that has sent a request, and the reply to it.
    fn ask(&self, text: &str) -> (TcpStream, Reply) {
        let mut client = self.server.connect();
        client.write_all(text.as_bytes()).unwrap();
        let reply = self.reply_to(text.lines().next().unwrap());
        (client, reply)
    }
}

fn a_reply_from_another_thread_comes_later(case: &Case) {
    const LATER: Duration = Duration::from_millis(200);
    let setup = start(case, |builder| builder);
    let (mut client, reply) = setup.ask("what is it\n");
    let start = now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            meanwhile(LATER, || setup.record.ends().is_empty(), "the link stays");
            write!(reply, "it is {}", 42).unwrap();
        });
        expect_bytes(&mut client, b"it is 42");
    });
    assert!(start.elapsed() >= LATER);
    // Further replies, of several parts.
    for n in 0..10 {
        client.write_all(b"more\n").unwrap();
        setup.reply_to("more").send(("<", bytes(n, 1_998), ">")).unwrap();
        expect_bytes(&mut client, &[b"<", bytes(n, 1_998).as_slice(), b">"].concat());
    }
    finish(&mut client);
    setup.record.expect(&[PeerClosed]);
    setup.server.stop();
}

fn a_reply_comes_after_the_peer_has_ended_its_half(case: &Case) {
    let setup = start(case, |builder| builder);
    let (mut client, reply) = setup.ask("first\nping\nsecond\n");
    client.shutdown(Shutdown::Write).unwrap();
    let stays = || setup.record.ends().is_empty() && setup.calls.ends() == 0;
    meanwhile(Duration::from_millis(200), stays, "the link stays");
    reply.send("1st ").unwrap();
    expect_bytes(&mut client, b"1st pong ");
    meanwhile(Duration::from_millis(50), stays, "the link stays");
    setup.reply_to("second").send("2nd").unwrap();
    expect_bytes(&mut client, b"2nd");
    expect_end(&mut client);
    setup.record.expect(&[PeerClosed]);
    assert_eq!(setup.calls.ends(), 1);
    setup.server.stop();
}

fn a_reply_comes_during_a_drain(case: &Case) {
    for shards in [1, 2, 3] {
        let (handler, asked) = deferring();
        let (handler, record, _) = handler.watched();
        let builder = case.short(handler).shards(shards).links_max(12).buffer_count(200);
        let server = TestServer::start(builder);
        let mut clients: Vec<_> = (0..6).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| client.write_all(b"question\nping\n").unwrap());
        let asked: Vec<Asked> =
            clients.iter().map(|_| asked.recv_timeout(PATIENCE).unwrap()).collect();
        server.handle.stop(Duration::from_secs(10));
        let stays = || record.ends().is_empty() && !server.running().is_finished();
        meanwhile(Duration::from_millis(200), stays, "the links stay");
        for asked in asked {
            asked.reply.send("answer ").unwrap();
        }
        for client in &mut clients {
            expect_bytes(client, b"answer pong ");
            expect_end(client);
        }
        drop(clients);
        server.stop();
        record.expect(&[ServerStopping; 6]);
    }
}

fn a_reply_comes_before_the_end_of_an_output_that_is_finished(case: &Case) {
    for sends in [true, false] {
        let setup = start(case, |builder| builder);
        let (mut client, reply) = setup.ask("finish\n");
        meanwhile(Duration::from_millis(100), || setup.record.ends().is_empty(), "the link stays");
        if sends {
            reply.send("the last").unwrap();
            expect_bytes(&mut client, b"the last");
        } else {
            reply.none();
        }
        expect_end(&mut client);
        drop(client);
        setup.record.expect(&[PeerClosed]);
        setup.server.stop();
    }
}

fn a_link_whose_reply_is_out_is_not_idle(case: &Case) {
    const IDLE: Duration = Duration::from_millis(150);
    let setup = start(case, |builder| builder.idle_timeout(IDLE));
    let (mut client, reply) = setup.ask("question\n");
    let stays = || setup.record.ends().is_empty() && setup.calls.idles() == 0;
    meanwhile(4 * IDLE, stays, "the link stays");
    let start = now();
    reply.send("answer").unwrap();
    expect_bytes(&mut client, b"answer");
    // From here on the server waits for its peer.
    expect_end_or_reset(&mut client);
    assert!(start.elapsed() >= IDLE * 9 / 10, "{:?}", start.elapsed());
    setup.record.expect(&[Idle]);
    setup.server.stop();
}

fn replies_keep_the_order_of_their_requests(case: &Case) {
    let setup = start(case, |builder| builder);
    let mut client = setup.server.connect();
    let text: String = (0..100).map(|n| format!("{n}\nping\n")).collect();
    client.write_all(text.as_bytes()).unwrap();
    for n in 0..100 {
        // Only one reply is deferred at a time.
        let reply = setup.reply_to(&n.to_string());
        assert!(setup.asked.try_recv().is_err());
        write!(reply, "<{n}>").unwrap();
    }
    let replies: String = (0..100).map(|n| format!("<{n}>pong ")).collect();
    expect_bytes(&mut client, replies.as_bytes());
    finish(&mut client);
    setup.server.stop();
}

fn replies_of_many_links_come_to_theirs(case: &Case) {
    const LINKS: usize = 40;
    const ROUNDS: usize = 30;
    for shards in [1, 2, 3, 8] {
        let (sender, asked) = channel();
        let handler = deferring_to(sender);
        let builder = case.short(handler).shards(shards).links_max(48).buffer_count(600);
        let server = TestServer::start(builder);
        let replier =
            std::thread::Builder::new().spawn(move || reply_in_any_order(&asked)).unwrap();
        let clients: Vec<_> = (0..LINKS).map(|_| server.connect()).collect();
        std::thread::scope(|scope| {
            for (number, mut client) in clients.iter().enumerate() {
                scope.spawn(move || {
                    let lines = |text: &str| {
                        (0..ROUNDS).map(|n| format!("{text}{number}.{n}\n")).collect::<String>()
                    };
                    client.write_all(lines("").as_bytes()).unwrap();
                    util::read_back(client, lines("re ").as_bytes());
                });
            }
        });
        clients.into_iter().for_each(|mut client| finish(&mut client));
        let stats = server.stop();
        assert_eq!(stats.closed(PeerClosed), LINKS as u64, "{stats:?}");
        // The handler is dropped, and with it the sender.
        replier.join().unwrap();
    }
}

/// Replies in random order, to several requests at a time.
fn reply_in_any_order(asked: &Receiver<Asked>) {
    let mut random = Random(1);
    while let Ok(first) = asked.recv() {
        let mut some: Vec<Asked> = std::iter::once(first).chain(asked.try_iter()).collect();
        while !some.is_empty() {
            let Asked { line, reply } = some.swap_remove(random.below(some.len()));
            writeln!(reply, "re {line}").unwrap();
        }
    }
}

fn until_the_reply_the_input_yields_nothing(case: &Case) {
    let (sender, replies) = channel();
    let sender = Mutex::new(sender);
    let handler = functions::<()>().on_receive(move |link, input| {
        let Some(_) = input.line(100)? else { return Ok(()) };
        let reply = input.defer(&mut link.out, 10)?;
        assert!(input.line(100)?.is_none() && input.take(1)?.is_none());
        assert!(input.peek(1)?.is_none() && input.until(b"x", 10)?.is_none());
        assert_eq!(input.chunk(), b"");
        assert_eq!(input.consume(9), 0);
        assert_eq!(input.forward(&mut link.out), 0);
        assert_eq!(input.write_to(std::io::sink())?, 0);
        tell(&sender, reply);
        Ok(())
    });
    let (handler, _, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    for round in 1..=3 {
        server.deliver(&client, b"line\n");
        let reply: Reply = replies.recv_timeout(PATIENCE).unwrap();
        server.deliver(&client, b"line\n");
        // There is no call for further input, either.
        let waits = || calls.receives() == 2 * round - 1;
        meanwhile(Duration::from_millis(20), waits, "called before the reply");
        reply.send("a").unwrap();
        replies.recv_timeout(PATIENCE).unwrap().send("b").unwrap();
        expect_bytes(&mut client, b"ab");
        assert_eq!(calls.receives(), 2 * round);
    }
    finish(&mut client);
    assert_eq!(server.stop().handler_panics, 0);
}

fn what_is_queued_meanwhile_leaves_before_the_reply(case: &Case) {
    let (sender, replies) = channel();
    let sender = Mutex::new(sender);
    let handler = functions::<()>()
        .on_receive(move |link, input| {
            let Some(_) = input.line(100)? else { return Ok(()) };
            let reply = input.defer(&mut link.out, 10)?;
            link.out.send("wait ")?;
            link.out.notify();
            tell(&sender, reply);
            Ok(())
        })
        .on_writable(|link| Ok(link.out.send("more ")?));
    let (handler, record, _) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.write_all(b"line\n").unwrap();
    let reply: Reply = replies.recv_timeout(PATIENCE).unwrap();
    expect_bytes(&mut client, b"wait more ");
    server.handle.link(record.id(0)).try_post("post ").unwrap();
    expect_bytes(&mut client, b"post ");
    reply.send("reply").unwrap();
    expect_bytes(&mut client, b"reply");
    finish(&mut client);
    server.stop();
}

fn a_reply_in_the_same_callback_is_one(case: &Case) {
    let handler = functions::<()>().on_receive(|link, input| {
        let Some(line) = input.line(100)?.map(<[u8]>::to_vec) else { return Ok(()) };
        let reply = input.defer(&mut link.out, 100)?;
        link.out.send("re ")?;
        Ok(reply.send((line, " "))?)
    });
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.write_all(b"1\n2\n3\n").unwrap();
    expect_bytes(&mut client, b"re 1 re 2 re 3 ");
    finish(&mut client);
    server.stop();
}

fn no_reply_lets_the_input_go_on(case: &Case) {
    let setup = start(case, |builder| builder);
    let (mut client, reply) = setup.ask("nothing\nping\nempty\nping\n");
    reply.none();
    expect_bytes(&mut client, b"pong ");
    setup.reply_to("empty").send("").unwrap();
    expect_bytes(&mut client, b"pong ");
    finish(&mut client);
    setup.record.expect(&[PeerClosed]);
    setup.server.stop();
}

fn a_last_reply_closes_the_link(case: &Case) {
    let setup = start(case, |builder| builder);
    for last in ["last", ""] {
        let (mut client, reply) = setup.ask("question\nping\nmore\n");
        reply.close(last).unwrap();
        expect_bytes(&mut client, last.as_bytes());
        expect_end(&mut client);
    }
    setup.record.expect(&[HandlerClosed; 2]);
    assert!(setup.asked.try_recv().is_err(), "what is unread is discarded");
    setup.server.stop();
}

fn a_reply_that_is_dropped_ends_the_link(case: &Case) {
    let setup = start(case, |builder| builder);
    let (mut client, reply) = setup.ask("question\nping\n");
    drop(reply);
    expect_end(&mut client);
    drop(client);
    setup.record.expect(&[HandlerError]);
    // Also in the callback; what is queued is sent.
    let mut client = setup.server.connect();
    client.write_all(b"drop\nping\n").unwrap();
    expect_bytes(&mut client, b"dropped");
    expect_end(&mut client);
    drop(client);
    setup.record.expect(&[HandlerError; 2]);
    setup.server.stop();
}

const ANSWER: Duration = Duration::from_millis(300);

fn a_reply_that_is_too_late_ends_the_link(case: &Case) {
    let setup = start(case, |builder| builder.answer_timeout(ANSWER));
    // Each reply has a timeout of its own.
    let (mut client, reply) = setup.ask("question\nping\nmore\n");
    meanwhile(ANSWER / 2, || setup.record.ends().is_empty(), "ended before its time");
    reply.send("in time ").unwrap();
    let start = now();
    let reply = setup.reply_to("more");
    expect_bytes(&mut client, b"in time pong ");
    expect_end(&mut client);
    let took = start.elapsed();
    assert!(took >= ANSWER * 8 / 10 && took <= ANSWER * 2, "{took:?} of {ANSWER:?}");
    drop(client);
    setup.record.expect(&[HandlerError]);
    assert_eq!(reply.send("too late"), Err(PostError::Closed));
    setup.server.stop();
}

fn a_reply_that_is_too_long_ends_the_link(case: &Case) {
    let setup = start(case, |builder| builder);
    let (mut client, reply) = setup.ask("question\nping\n");
    assert_eq!(reply.send([b'x'; REPLY_MAX + 1]), Err(PostError::TooLarge));
    expect_end(&mut client);
    let (mut client, reply) = setup.ask("question\nping\n");
    assert_eq!(reply.close([b'x'; REPLY_MAX + 1]), Err(PostError::TooLarge));
    expect_end(&mut client);
    drop(client);
    setup.record.expect(&[HandlerError; 2]);
    // As long as its reservation.
    let (mut client, reply) = setup.ask("question\n");
    reply.send([b'x'; REPLY_MAX]).unwrap();
    expect_bytes(&mut client, &[b'x'; REPLY_MAX]);
    finish(&mut client);
    setup.server.stop();
}

fn a_link_that_is_closed_waits_for_its_reply(case: &Case) {
    let setup = start(case, |builder| builder);
    let (mut kicked, reply) = setup.ask("question\nping\nmore\n");
    setup.server.handle.link(reply.link()).close();
    let stays = || setup.record.ends().is_empty();
    meanwhile(Duration::from_millis(100), stays, "it waits for its reply");
    reply.send("answer").unwrap();
    expect_bytes(&mut kicked, b"answer");
    expect_end(&mut kicked);
    drop(kicked);
    setup.record.expect(&[Kicked]);
    // By its own handler.
    let (mut closed, reply) = setup.ask("close\nping\n");
    meanwhile(Duration::from_millis(100), || setup.record.ends().len() == 1, "it waits");
    reply.send("answer").unwrap();
    expect_bytes(&mut closed, b"answer");
    expect_end(&mut closed);
    drop(closed);
    setup.record.expect(&[Kicked, HandlerClosed]);
    // There is no reply.
    let (mut kicked, reply) = setup.ask("question\nping\n");
    setup.server.handle.link(reply.link()).close();
    reply.none();
    expect_end(&mut kicked);
    drop(kicked);
    setup.record.expect(&[Kicked, HandlerClosed, Kicked]);
    assert!(setup.asked.try_recv().is_err());
    setup.server.stop();
}

fn a_link_that_is_closed_waits_for_its_reply_no_longer_than_for_any(case: &Case) {
    let setup = start(case, |builder| builder.answer_timeout(ANSWER));
    let (mut client, reply) = setup.ask("question\n");
    setup.server.handle.link(reply.link()).close();
    let start = now();
    expect_end(&mut client);
    let took = start.elapsed();
    assert!(took >= ANSWER / 2 && took <= ANSWER * 2, "{took:?} of {ANSWER:?}");
    drop(client);
    setup.record.expect(&[HandlerError]);
    assert_eq!(reply.send("too late"), Err(PostError::Closed));
    setup.server.stop();
}

fn a_link_that_ends_otherwise_does_not_wait_for_its_reply(case: &Case) {
    silence_panics_on_purpose();
    let setup = start(case, |builder| builder);
    let expect_closed = |reply: Reply, count: usize| {
        eventually(|| setup.record.ends().len() == count, "it has ended");
        assert_eq!(reply.send("in vain"), Err(PostError::Closed));
    };
    let (mut client, reply) = setup.ask("error\n");
    expect_bytes(&mut client, b"an error");
    expect_end(&mut client);
    drop(client);
    expect_closed(reply, 1);
    for (word, count) in [("panic\n", 2), ("abort\n", 3)] {
        let (mut client, reply) = setup.ask(word);
        expect_end_or_reset(&mut client);
        expect_closed(reply, count);
    }
    let (client, reply) = setup.ask("question\n");
    setup.server.handle.link(reply.link()).abort();
    expect_closed(reply, 4);
    drop(client);
    setup.record.expect(&[HandlerError, HandlerPanic, HandlerClosed, Kicked]);
    setup.server.stop();
}

fn what_came_before_a_reset_is_handled_after_the_reply(case: &Case) {
    let setup = start(case, |builder| builder);
    let (client, reply) = setup.ask("question\nafter\n");
    util::reset(client);
    // The peer does not read it.
    let _discarded_or_closed = reply.send("answer");
    setup.reply_to("after").none();
    setup.record.expect(&[PeerReset]);
    setup.server.stop();
}

fn replies_of_links_that_have_ended_hold_nothing(case: &Case) {
    let setup = start(case, |builder| builder);
    let mut replies = Vec::new();
    for n in 1..=100 {
        let (client, reply) = setup.ask("question\n");
        setup.server.handle.link(reply.link()).abort();
        replies.push(reply);
        eventually(|| setup.record.ends().len() == n, "it has ended");
        drop(client);
    }
    setup.server.wait_for_links(0);
    let holds_nothing = || {
        let (links, posts) = (setup.server.stats().buffers, setup.server.stats().post_buffers);
        let held = links.application + links.send_queue + links.kernel_send + links.shared;
        held == 0 && posts.free == posts.total()
    };
    eventually(holds_nothing, "all buffers are free, or with the port");
    // All buffers are free for others, while the replies are kept.
    let answer = bytes(1, REPLY_MAX);
    let others: Vec<_> = (0..4).map(|_| setup.ask("question\n")).collect();
    for (mut client, reply) in others {
        reply.send(&answer).unwrap();
        expect_bytes(&mut client, &answer);
        finish(&mut client);
    }
    for (n, reply) in replies.into_iter().enumerate() {
        match n % 4 {
            0 => assert_eq!(reply.send("in vain"), Err(PostError::Closed)),
            1 => assert_eq!(reply.close("in vain"), Err(PostError::Closed)),
            2 => reply.none(),
            _ => drop(reply),
        }
    }
    setup.server.stop();
}

fn a_reply_of_a_link_that_has_ended_does_not_reach_the_next_one(case: &Case) {
    let setup = start(case, |builder| builder.links_max(1));
    let mut old: Option<Reply> = None;
    for n in 0..40 {
        let (mut client, reply) = setup.ask("question\n");
        if let Some(old) = old.take() {
            assert_ne!(old.link(), reply.link());
            match n % 3 {
                0 => assert_eq!(old.send("for another"), Err(PostError::Closed)),
                1 => drop(old),
                _ => assert_eq!(old.close("for another"), Err(PostError::Closed)),
            }
        }
        reply.send("answer").unwrap();
        expect_bytes(&mut client, b"answer");
        round_trip_ping(&mut client);
        client.write_all(b"again\n").unwrap();
        let reply = setup.reply_to("again");
        setup.server.handle.link(reply.link()).abort();
        old = Some(reply);
        eventually(|| setup.record.ends().len() == n + 1, "it has ended");
        drop(client);
        setup.server.wait_for_links(0);
    }
    assert_eq!(setup.server.stop().closed(Kicked), 40);
}

fn round_trip_ping(client: &mut TcpStream) {
    client.write_all(b"ping\n").unwrap();
    expect_bytes(client, b"pong ");
}

fn what_is_reserved_for_a_reply_is_for_nothing_else(case: &Case) {
    const OUTPUT: usize = 16 * 1024;
    const REPLY: usize = 10_000;
    let (sender, replies) = channel();
    let (sender, is_out) = (Mutex::new(sender), Arc::new(AtomicBool::new(true)));
    let waits = Arc::clone(&is_out);
    let handler = functions::<()>()
        .on_receive(move |link, input| {
            let Some(_) = input.line(100)? else { return Ok(()) };
            let before = link.out.spare_capacity();
            let reply = input.defer(&mut link.out, REPLY)?;
            assert_eq!(link.out.spare_capacity(), before - REPLY);
            link.out.notify();
            tell(&sender, reply);
            Ok(())
        })
        .on_writable(move |link| {
            if waits.load(Ordering::SeqCst) {
                // All that is not reserved.
                let count = link.out.send_some(&[b'm'; OUTPUT]);
                assert!(count <= OUTPUT - REPLY, "{count} bytes where {REPLY} are reserved");
            }
            Ok(())
        });
    let (handler, record, calls) = handler.watched();
    let server = TestServer::start(case.small(handler).buffer_count(400));
    let mut client = util::connect_small_share(server.address);
    client.write_all(b"line\n").unwrap();
    let reply: Reply = replies.recv_timeout(PATIENCE).unwrap();
    // Its peer does not read: the systems fill up, and then the part of the output that is not
    // reserved.
    eventually(
        || {
            let writables = calls.writables();
            std::thread::sleep(util::BLOCKED_AFTER);
            calls.writables() == writables
        },
        "the output is full",
    );
    let missed = server.stats().missed;
    eventually(
        || {
            server.handle.link(record.id(0)).post([b'p'; 1_000]);
            server.stats().missed > missed
        },
        "posts are missed",
    );
    is_out.store(false, Ordering::SeqCst);
    reply.send([b'r'; REPLY]).unwrap();
    let mut got = Vec::new();
    let mut piece = [0; 4_096];
    while got.iter().filter(|byte| **byte == b'r').count() < REPLY {
        let len = client.read(&mut piece).unwrap();
        assert!(len > 0, "the end before the reply");
        got.extend_from_slice(&piece[..len]);
    }
    let at = got.iter().position(|byte| *byte == b'r').unwrap();
    assert!(got[at..at + REPLY].iter().all(|byte| *byte == b'r'), "it is one run of bytes");
    drop(client);
    server.stop_within(Duration::from_secs(5));
}

fn what_cannot_be_reserved_is_refused(case: &Case) {
    const OUTPUT: usize = 16 * 1024;
    let handler = functions::<()>().on_receive(|link, input| {
        let Some(line) = input.line(100)? else { return Ok(()) };
        if line == b"large" {
            return Err(input
                .defer(&mut link.out, OUTPUT + 1)
                .map(Reply::none)
                .unwrap_err()
                .into());
        }
        link.out.send([b'x'; OUTPUT - 100])?;
        assert_eq!(input.defer(&mut link.out, 101).map(Reply::none), Err(SendError::Full));
        // The refusal has changed nothing.
        assert_eq!(link.out.spare_capacity(), 100);
        let reply = input.defer(&mut link.out, 100)?;
        assert_eq!(link.out.spare_capacity(), 0);
        Ok(reply.send([b'r'; 100])?)
    });
    let (handler, record, _) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.write_all(b"full\n").unwrap();
    expect_bytes(&mut client, &[[b'x'; OUTPUT - 100].as_slice(), &[b'r'; 100]].concat());
    client.write_all(b"large\n").unwrap();
    expect_end(&mut client);
    drop(client);
    record.expect(&[HandlerError]);
    assert_eq!(server.stop().handler_panics, 0);
}

fn a_reply_to_a_peer_that_does_not_read_is_sent_when_it_does(case: &Case) {
    const STALL: Duration = Duration::from_millis(500);
    const ROUNDS: usize = 400;
    let setup = start(case, |builder| builder.stall_timeout(STALL));
    let mut client = util::connect_small_share(setup.server.address);
    client.write_all(&b"question\n".repeat(ROUNDS)).unwrap();
    let answer = bytes(1, REPLY_MAX);
    let mut sent = 0;
    // A reply is deferred only with the grant: in the end the input waits.
    while let Ok(asked) = setup.asked.recv_timeout(STALL / 5) {
        asked.reply.send(&answer).unwrap();
        sent += 1;
    }
    assert!(sent < ROUNDS, "the systems hold all that was to be sent");
    std::thread::scope(|scope| {
        scope.spawn(|| util::read_back(&client, &answer.repeat(ROUNDS)));
        for _ in sent..ROUNDS {
            setup.reply_to("question").send(&answer).unwrap();
        }
    });
    round_trip_ping(&mut client);
    finish(&mut client);
    // A peer that never reads is a slow reader, though a reply is reserved.
    let mut client = util::connect_small_share(setup.server.address);
    client.write_all(&b"question\n".repeat(ROUNDS)).unwrap();
    while let Ok(asked) = setup.asked.recv_timeout(2 * STALL) {
        // In the end the link is closed.
        let _queued = asked.reply.send(&answer);
    }
    setup.record.expect(&[PeerClosed, SlowReader]);
    setup.server.stop();
}
