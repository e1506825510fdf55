//! Promise: the handler is not called for the input of a paused link, which waits at the server up
//! to its limit, and then at the peer; the link is resumed from its own callbacks and from any
//! thread, and nothing is lost.
//!
//! Method: handlers that pause after each line, and counted calls.

use crate::util;
use crate::util::functions::{Functions, functions};
use crate::util::{
    Case, Mutex, Pattern, Random, TestServer, each_back_end, eventually, expect_bytes, expect_end,
    finish, meanwhile, now, read_pattern, write_until_blocked,
};
use std::io::Write;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wharf::DisconnectReason::{Idle, PeerClosed, PeerReset};
use wharf::{LinkId, Verdict};

each_back_end!(
    a_paused_link_is_not_called_until_it_is_resumed,
    what_comes_while_a_link_is_paused_comes_after_it_once,
    a_link_is_resumed_by_another_one,
    a_link_is_resumed_by_its_own_callbacks,
    a_resume_calls_for_what_is_unread_paused_or_not,
    a_resume_without_input_calls_nothing,
    resumes_from_many_threads_are_not_lost,
    a_paused_link_may_still_send,
    a_paused_link_is_not_idle,
    the_peer_of_a_paused_link_is_not_read_beyond_its_limit,
    the_end_of_a_paused_link_is_told_after_the_pause,
    a_reset_ends_a_paused_link_after_what_came,
);

/// Replies to one line, and pauses.
fn one_by_one() -> Functions<()> {
    functions::<()>().on_receive(|link, input| {
        if let Some(line) = input.line(100)? {
            link.out.send((line, " "))?;
            link.pause();
        }
        Ok(())
    })
}

fn a_paused_link_is_not_called_until_it_is_resumed(case: &Case) {
    let (handler, record, calls) = one_by_one().watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.write_all(b"0\n").unwrap();
    let link = server.handle.link(record.id(0));
    for n in 0..50 {
        expect_bytes(&mut client, format!("{n} ").as_bytes());
        assert_eq!(calls.receives(), n + 1);
        // Its input has arrived, but the handler is not called for it; posts still reach the link.
        server.deliver(&client, format!("{}\n", n + 1).as_bytes());
        link.try_post("post ").unwrap();
        expect_bytes(&mut client, b"post ");
        assert_eq!(calls.receives(), n + 1, "called while paused");
        link.resume();
    }
    expect_bytes(&mut client, b"50 ");
    finish_resumed(&server, record.id(0), &mut client);
    assert_eq!(server.stop().handler_panics, 0);
}

/// `on_end` is called after the pause.
fn finish_resumed(server: &TestServer, id: LinkId, client: &mut std::net::TcpStream) {
    client.shutdown(Shutdown::Write).unwrap();
    server.handle.link(id).resume();
    expect_end(client);
}

fn what_comes_while_a_link_is_paused_comes_after_it_once(case: &Case) {
    let handler = functions::<()>().on_receive(|link, input| {
        input.forward(&mut link.out);
        link.pause();
        Ok(())
    });
    let (handler, record, _) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let (client, pattern) = (server.connect(), Pattern::new(1));
    const LEN: u64 = 1 << 20;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut at = 0;
            while at < LEN {
                let piece = pattern.piece(at, usize::try_from(LEN - at).unwrap());
                { &client }.write_all(piece).unwrap();
                at += piece.len() as u64;
            }
            client.shutdown(Shutdown::Write).unwrap();
        });
        let reader = scope.spawn(|| read_pattern(&client, &pattern, u64::MAX));
        let id = record.id(0);
        while !reader.is_finished() {
            server.handle.link(id).resume();
            std::thread::yield_now();
        }
        let got = reader.join().unwrap();
        assert_eq!((got.len, got.error), (LEN, None));
    });
    record.expect(&[PeerClosed]);
    server.stop();
}

fn a_link_is_resumed_by_another_one(case: &Case) {
    for shards in [1, 2] {
        let paused = Arc::<Mutex<Vec<LinkId>>>::default();
        let handler = functions::<()>().on_receive(move |link, input| {
            let Some(line) = input.line(100)? else { return Ok(()) };
            if line == b"resume" {
                let paused = std::mem::take(&mut *paused.lock().unwrap());
                paused.into_iter().for_each(|id| link.server.link(id).resume());
                return Ok(());
            }
            link.pause();
            paused.lock().unwrap().push(link.id());
            Ok(link.out.send((line, " "))?)
        });
        let builder = case.short(handler).shards(shards).links_max(8).buffer_count(200);
        let server = TestServer::start(builder);
        let mut clients = [server.connect(), server.connect()];
        let mut other = server.connect();
        for client in &mut clients {
            client.write_all(b"1\n2\n3\n").unwrap();
            expect_bytes(client, b"1 ");
        }
        for reply in [b"2 ", b"3 "] {
            other.write_all(b"resume\n").unwrap();
            clients.iter_mut().for_each(|client| expect_bytes(client, reply));
        }
        drop((clients, other));
        server.handle.all().resume();
        server.wait_for_links(0);
        server.stop();
    }
}

fn a_link_is_resumed_by_its_own_callbacks(case: &Case) {
    // In the same call; from a callback that is called while it is paused.
    let handler = functions::<u32>()
        .on_receive(|link, input| {
            let Some(line) = input.line(100)? else { return Ok(()) };
            link.out.send((line, " "))?;
            link.pause();
            if line == b"same" {
                link.resume();
            } else {
                link.out.notify();
            }
            Ok(())
        })
        .on_writable(|link| {
            link.resume();
            Ok(link.out.send("resumed ")?)
        });
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.write_all(b"same\nlater\nlater\nsame\nsame\n").unwrap();
    expect_bytes(&mut client, b"same later resumed later resumed same same ");
    finish(&mut client);
    server.stop();
}

fn a_resume_calls_for_what_is_unread_paused_or_not(case: &Case) {
    let may = Arc::<AtomicU64>::default();
    let lines = Arc::clone(&may);
    let handler = functions::<()>().on_receive(move |link, input| {
        if lines.load(Ordering::SeqCst) > 0
            && let Some(line) = input.line(100)?
        {
            lines.fetch_sub(1, Ordering::SeqCst);
            link.out.send((line, " "))?;
        }
        Ok(())
    });
    let (handler, record, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    server.deliver(&client, b"1\n2\n3\n");
    for (reply, sent) in [b"1 ", b"2 ", b"3 "].into_iter().zip([0, 2, 4]) {
        // The handler may be called when its last reply has been sent, and without a cause not
        // after that.
        eventually(|| server.stats().sent_bytes == sent, "what it sent has left");
        let mut last = (calls.receives(), now());
        let settled = || {
            if calls.receives() != last.0 {
                last = (calls.receives(), now());
            }
            last.0 > 0 && last.1.elapsed() > Duration::from_millis(20)
        };
        eventually(settled, "it is called no more");
        may.store(1, Ordering::SeqCst);
        meanwhile(Duration::from_millis(20), || may.load(Ordering::SeqCst) == 1, "called");
        server.handle.link(record.id(0)).resume();
        expect_bytes(&mut client, reply);
    }
    finish(&mut client);
    server.stop();
}

fn a_resume_without_input_calls_nothing(case: &Case) {
    let (handler, record, calls) = one_by_one().watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    let link = server.handle.link(record.id(0));
    link.resume();
    server.handle.all().resume();
    client.write_all(b"1\n").unwrap();
    expect_bytes(&mut client, b"1 ");
    for _ in 0..10 {
        link.resume();
    }
    meanwhile(Duration::from_millis(50), || calls.receives() == 1, "called for nothing");
    // That was the end of its pause.
    client.write_all(b"2\n").unwrap();
    expect_bytes(&mut client, b"2 ");
    link.resume();
    finish(&mut client);
    server.stop();
}

fn resumes_from_many_threads_are_not_lost(case: &Case) {
    const LINES: usize = 1_000;
    for shards in [1, 2, 3] {
        let handler = functions::<()>().on_receive(|link, input| {
            if input.line(10)?.is_some() {
                link.pause();
                link.out.send("+")?;
            }
            Ok(())
        });
        let (handler, record, _) = handler.watched();
        let builder = case.builder(handler).shards(shards).links_max(8);
        let server = TestServer::start(builder);
        let clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
        let ids: Vec<_> = (0..4).map(|n| record.id(n)).collect();
        let served = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for mut client in &clients {
                let served = &served;
                scope.spawn(move || {
                    client.write_all(&b"\n".repeat(LINES)).unwrap();
                    util::read_back(client, &b"+".repeat(LINES));
                    served.fetch_add(1, Ordering::SeqCst);
                });
            }
            for seed in 0..2 {
                let (server, ids, served) = (&server, &ids, &served);
                scope.spawn(move || {
                    let (mut random, end) = (Random(seed), now() + util::PATIENCE);
                    while served.load(Ordering::SeqCst) < 4 && now() < end {
                        server.handle.link(ids[random.below(4)]).resume();
                    }
                });
            }
        });
        drop(clients);
        server.handle.all().resume();
        server.wait_for_links(0);
        server.stop();
    }
}

fn a_paused_link_may_still_send(case: &Case) {
    let handler = functions::<u32>()
        .on_receive(|link, input| {
            input.consume(1);
            link.pause();
            link.out.notify();
            Ok(())
        })
        .on_writable(|link| {
            *link.state += 1;
            if *link.state < 100 {
                link.out.notify();
            }
            Ok(link.out.send([b'w'; 2_000])?)
        });
    let (handler, record, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = util::connect_small_window(server.address);
    client.write_all(b"12").unwrap();
    util::read_back(&client, &vec![b'w'; 100 * 2_000]);
    assert_eq!((calls.receives(), calls.writables()), (1, 100));
    client.shutdown(Shutdown::Write).unwrap();
    server.handle.link(record.id(0)).resume();
    eventually(|| calls.receives() == 2, "it is called for the rest");
    drop(client);
    server.handle.link(record.id(0)).resume();
    server.stop_within(Duration::from_secs(5));
}

fn a_paused_link_is_not_idle(case: &Case) {
    const IDLE: Duration = Duration::from_millis(150);
    let (handler, record, calls) = one_by_one().watched();
    let server = TestServer::start(case.small(handler).idle_timeout(IDLE));
    let mut client = server.connect();
    client.write_all(b"1\n").unwrap();
    expect_bytes(&mut client, b"1 ");
    let stays = || record.ends().is_empty() && calls.idles() == 0;
    meanwhile(4 * IDLE, stays, "ended while it was paused");
    let start = now();
    server.handle.link(record.id(0)).resume();
    record.expect(&[Idle]);
    assert!(start.elapsed() >= IDLE * 8 / 10, "{:?}", start.elapsed());
    drop(client);
    server.stop();
}

fn the_peer_of_a_paused_link_is_not_read_beyond_its_limit(case: &Case) {
    const INPUT: u64 = 8 * 1_024;
    // Paused in a call; before the first byte.
    for at_connect in [false, true] {
        let handler = functions::<()>()
            .on_connect(move |link| {
                if at_connect {
                    link.pause();
                }
                Ok(())
            })
            .on_receive(|link, _| {
                link.pause();
                Ok(())
            });
        let (handler, record, calls) = handler.watched();
        let server = TestServer::start(case.small(handler));
        let (client, other) = (server.connect(), server.connect());
        let pattern = Pattern::new(1);
        let written = write_until_blocked(&client, &pattern, u64::MAX);
        let received = server.stats().received_bytes;
        let most = INPUT + util::receive_buffer_bytes(&server);
        assert!(written > most && received <= most, "{received} of {written} bytes received");
        assert_eq!(calls.receives(), u64::from(!at_connect));
        // Other links are not affected.
        server.deliver(&other, b"x");
        assert_eq!(server.stats().links, 2);
        drop((client, other));
        for id in record.ids() {
            server.handle.link(id).abort();
        }
        server.stop();
    }
}

fn the_end_of_a_paused_link_is_told_after_the_pause(case: &Case) {
    let handler = one_by_one().on_end(|link, input| {
        link.out.send(("end:", input.chunk()))?;
        Ok(Verdict::Close)
    });
    let (handler, record, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.write_all(b"1\n2\nrest").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let link = server.handle.link(record.id(0));
    for reply in [&b"1 "[..], b"2 "] {
        expect_bytes(&mut client, reply);
        let waits = || calls.ends() == 0 && record.ends().is_empty();
        meanwhile(Duration::from_millis(50), waits, "on_end is called while it is paused");
        link.resume();
    }
    expect_bytes(&mut client, b"end:rest");
    expect_end(&mut client);
    record.expect(&[PeerClosed]);
    assert_eq!(calls.ends(), 1);
    server.stop();
}

fn a_reset_ends_a_paused_link_after_what_came(case: &Case) {
    let handled = Arc::<AtomicU64>::default();
    let count = Arc::clone(&handled);
    let handler = functions::<()>().on_receive(move |link, input| {
        if input.line(100)?.is_some() {
            count.fetch_add(1, Ordering::SeqCst);
            link.pause();
        }
        Ok(())
    });
    let (handler, record, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let client = server.connect();
    server.deliver(&client, b"1\n2\n3\nrest");
    util::reset(client);
    for n in 1..=3 {
        eventually(|| handled.load(Ordering::SeqCst) == n, "the line is handled");
        meanwhile(Duration::from_millis(20), || record.ends().is_empty(), "there is more");
        server.handle.link(record.id(0)).resume();
    }
    record.expect(&[PeerReset]);
    assert_eq!(calls.ends(), 0);
    server.stop();
}
