//! Promise: `on_end` is called when all input before the end of the peer's stream is handled, and
//! its result decides whether the link closes; the same holds for `on_drain` at a stop. A close
//! sends what is queued first, an abort does not.
//!
//! Method: clients that end their stream and still read, links that are kept, and stops.

use crate::util;
use crate::util::functions::{Functions, functions};
use crate::util::{
    Case, TestServer, bytes, connect_small_window, each_back_end, eventually, expect_bytes,
    expect_end, expect_end_or_reset, meanwhile, now, read_back,
};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use wharf::DisconnectReason::{HandlerClosed, Idle, Kicked, PeerClosed, PeerReset, ServerStopping};
use wharf::{PostError, SendError, Verdict};

each_back_end!(
    the_end_is_told_once_when_all_before_it_is_handled,
    the_end_is_told_with_what_was_not_taken,
    the_end_is_told_with_a_grant_and_what_is_sent_then_arrives,
    a_link_kept_after_its_end_stays_until_it_is_closed,
    a_link_kept_after_its_end_ends_when_its_output_is_finished,
    a_link_whose_output_is_finished_ends_with_its_stream,
    a_link_kept_with_unread_input_is_called_for_it_and_told_of_no_second_end,
    a_link_kept_with_unread_input_that_nothing_wakes_is_idle,
    a_stream_goes_on_after_the_peer_has_ended_its_half,
    a_stop_is_told_to_each_link_once_and_what_it_says_arrives,
    a_stop_handles_what_is_unread_first,
    a_stop_does_not_wait_for_a_handler_that_takes_nothing,
    a_stop_waits_for_streams_that_go_on,
    a_link_kept_at_a_stop_stays_until_it_is_closed,
    a_link_kept_at_a_stop_stays_no_longer_than_the_drain,
    a_link_that_comes_with_the_stop_is_drained_or_refused,
    a_close_sends_what_is_queued_and_discards_what_is_unread,
    a_close_from_elsewhere_discards_what_is_unread,
    an_aborted_link_is_reset_without_what_is_queued,
    all_links_are_closed_by_one_call_but_those_left_out,
    on_disconnect_is_the_last_call,
);

/// Replies to each line of a digit, and sends `end`, with the rest, at the end; `keep` keeps the
/// link.
fn lines() -> Functions<bool> {
    functions::<bool>()
        .on_receive(|link, input| {
            let Some(line) = input.line(100)? else { return Ok(()) };
            match line {
                b"keep" => *link.state = true,
                b"close" => link.close(),
                b"finish" => link.out.finish(),
                b"abort" => {
                    link.out.send("not sent")?;
                    link.abort();
                }
                _ => link.out.send((line, " "))?,
            }
            Ok(())
        })
        .on_end(|link, input| {
            assert!(input.is_ended(), "it is the end");
            match link.out.send(("end:", input.chunk())) {
                Err(SendError::Closed) => {}
                result => result?,
            }
            Ok(if *link.state { Verdict::Keep } else { Verdict::Close })
        })
}

fn the_end_is_told_once_when_all_before_it_is_handled(case: &Case) {
    let (handler, record, calls) = lines().watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    let text: String = (0..500).map(|n| format!("{n}\n")).collect();
    client.write_all(text.as_bytes()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    expect_bytes(&mut client, text.replace('\n', " ").as_bytes());
    expect_bytes(&mut client, b"end:");
    expect_end(&mut client);
    record.expect(&[PeerClosed]);
    assert_eq!((calls.receives(), calls.ends()), (500, 1));
    // A stream without a byte.
    finish_with(&mut server.connect(), b"end:");
    record.expect(&[PeerClosed; 2]);
    assert_eq!((calls.receives(), calls.ends()), (500, 2));
    server.stop();
}

fn finish_with(client: &mut std::net::TcpStream, rest: &[u8]) {
    client.shutdown(Shutdown::Write).unwrap();
    expect_bytes(client, rest);
    expect_end(client);
}

fn the_end_is_told_with_what_was_not_taken(case: &Case) {
    let (handler, record, calls) = lines().watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    server.deliver(&client, b"whole\nhalf a l");
    expect_bytes(&mut client, b"whole ");
    finish_with(&mut client, b"end:half a l");
    // All of it at once.
    let mut client = server.connect();
    client.write_all(b"whole\nhalf").unwrap();
    finish_with(&mut client, b"whole end:half");
    record.expect(&[PeerClosed; 2]);
    assert_eq!(calls.ends(), 2);
    assert_eq!(server.stop().handler_panics, 0);
}

fn the_end_is_told_with_a_grant_and_what_is_sent_then_arrives(case: &Case) {
    let handler = functions::<()>()
        .on_receive(|link, input| {
            if input.line(100)?.is_some() {
                link.out.send([b'x'; 8_000])?;
            }
            Ok(())
        })
        .on_end(|link, _| {
            assert!(link.out.spare_capacity() >= 2_048, "there is the grant");
            link.out.send([b'e'; 2_048])?;
            Ok(Verdict::Close)
        });
    let (handler, record, _) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = util::connect_small_share(server.address);
    client.write_all(&b"\n".repeat(100)).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    eventually(|| server.stats().sends >= 2, "the output is full");
    read_back(&client, &[vec![b'x'; 100 * 8_000], vec![b'e'; 2_048]].concat());
    expect_end(&mut client);
    record.expect(&[PeerClosed]);
    assert_eq!(server.stop().handler_panics, 0);
}

fn a_link_kept_after_its_end_stays_until_it_is_closed(case: &Case) {
    let (handler, record, calls) = lines().watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.write_all(b"keep\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    expect_bytes(&mut client, b"end:");
    meanwhile(Duration::from_millis(100), || record.ends().is_empty(), "it is kept");
    for n in 0..10 {
        server.handle.link(record.id(0)).try_post(bytes(n, 1_000)).unwrap();
        expect_bytes(&mut client, &bytes(n, 1_000));
    }
    server.handle.link(record.id(0)).close();
    expect_end(&mut client);
    record.expect(&[Kicked]);
    assert_eq!(calls.ends(), 1);
    server.stop();
}

fn a_link_kept_after_its_end_ends_when_its_output_is_finished(case: &Case) {
    let handler = functions::<()>().on_receive(|_, _| Ok(())).on_end(|link, input| {
        // The two directions end one after the other.
        link.out.send(("got ", input.chunk(), [b'x'; 10_000]))?;
        link.out.finish();
        Ok(Verdict::Keep)
    });
    let (handler, record, _) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = connect_small_window(server.address);
    client.write_all(b"rest").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    expect_bytes(&mut client, &[&b"got rest"[..], &[b'x'; 10_000]].concat());
    expect_end(&mut client);
    record.expect(&[PeerClosed]);
    server.stop();
}

fn a_link_whose_output_is_finished_ends_with_its_stream(case: &Case) {
    let (handler, record, calls) = lines().watched();
    let server = TestServer::start(case.small(handler));
    // Kept or not, no bytes can follow in either direction.
    for (text, ends) in [("1\nfinish\n", 1), ("1\nkeep\nfinish\n", 2)] {
        let mut client = server.connect();
        client.write_all(text.as_bytes()).unwrap();
        expect_bytes(&mut client, b"1 ");
        expect_end(&mut client);
        meanwhile(Duration::from_millis(50), || record.ends().len() == ends - 1, "it is open");
        client.shutdown(Shutdown::Write).unwrap();
        record.expect(&vec![PeerClosed; ends]);
        assert_eq!(calls.ends(), ends as u64);
    }
    server.stop();
}

/// Takes a line each time that the test permits.
fn gated(may: &Arc<AtomicBool>) -> Functions<()> {
    let may = Arc::clone(may);
    functions::<()>()
        .on_receive(move |link, input| {
            if may.load(Ordering::SeqCst)
                && let Some(line) = input.line(100)?
            {
                link.out.send((line, " "))?;
                if input.is_empty() && input.is_ended() {
                    link.close();
                }
            }
            Ok(())
        })
        .on_end(|_, input| Ok(if input.is_empty() { Verdict::Close } else { Verdict::Keep }))
}

fn a_link_kept_with_unread_input_is_called_for_it_and_told_of_no_second_end(case: &Case) {
    let may = Arc::default();
    let (handler, record, calls) = gated(&may).watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    server.deliver(&client, b"1\n2\n3\n");
    client.shutdown(Shutdown::Write).unwrap();
    eventually(|| calls.ends() == 1, "on_end is called");
    may.store(true, Ordering::SeqCst);
    meanwhile(Duration::from_millis(50), || record.ends().is_empty(), "it is kept");
    server.handle.link(record.id(0)).resume();
    expect_bytes(&mut client, b"1 2 3 ");
    expect_end(&mut client);
    record.expect(&[HandlerClosed]);
    assert_eq!(calls.ends(), 1);
    server.stop();
}

fn a_link_kept_with_unread_input_that_nothing_wakes_is_idle(case: &Case) {
    const IDLE: Duration = Duration::from_millis(200);
    let may = Arc::default();
    let (handler, record, calls) = gated(&may).watched();
    let server = TestServer::start(case.small(handler).idle_timeout(IDLE));
    let client = server.connect();
    server.deliver(&client, b"1\n");
    let start = now();
    client.shutdown(Shutdown::Write).unwrap();
    record.expect(&[Idle]);
    assert!(start.elapsed() >= IDLE * 8 / 10, "{:?}", start.elapsed());
    assert_eq!((calls.ends(), calls.idles()), (1, 1));
    server.stop();
}

/// Sends a million bytes as they fit, and then `tail`.
fn streaming() -> Functions<usize> {
    const LEN: usize = 1_000_000;
    fn more(link: &mut wharf::Link<'_, usize>) -> wharf::Result {
        let data = [b's'; 4_096];
        while *link.state > 0 {
            let piece = data.len().min(*link.state);
            let count = link.out.send_some(&data[..piece]);
            *link.state -= count;
            if count < piece {
                return Ok(());
            }
        }
        Ok(())
    }
    functions::<usize>()
        .on_receive(|link, input| {
            if input.line(100)?.is_some() {
                *link.state = LEN;
            }
            more(link)
        })
        .on_writable(more)
}

fn a_stream_goes_on_after_the_peer_has_ended_its_half(case: &Case) {
    let handler = streaming().on_end(|link, _| {
        assert_eq!(*link.state, 0, "on_end is called after the stream is sent");
        link.out.send("tail")?;
        Ok(Verdict::Close)
    });
    let (handler, record, _) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = connect_small_window(server.address);
    client.write_all(b"go\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    read_back(&client, &[vec![b's'; 1_000_000], b"tail".to_vec()].concat());
    expect_end(&mut client);
    record.expect(&[PeerClosed]);
    assert_eq!(server.stop().handler_panics, 0);
}

fn a_stop_is_told_to_each_link_once_and_what_it_says_arrives(case: &Case) {
    const LINKS: usize = 60;
    for shards in [1, 2, 3, 8] {
        let handler = lines().on_drain(|link| {
            assert!(link.out.spare_capacity() >= 2_048, "there is the grant");
            link.out.send("goodbye")?;
            Ok(Verdict::Close)
        });
        let (handler, record, calls) = handler.watched();
        let builder = case.short(handler).shards(shards).links_max(64).buffer_count(600);
        let server = TestServer::start(builder);
        let mut clients: Vec<_> = (0..LINKS).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.write_all(b"1\n").unwrap();
            expect_bytes(client, b"1 ");
        }
        let handle = server.handle.clone();
        assert!(!handle.is_stopping());
        handle.stop(Duration::from_secs(10));
        assert!(handle.is_stopping());
        for client in &mut clients {
            expect_bytes(client, b"goodbye");
            expect_end(client);
        }
        drop(clients);
        server.stop();
        record.expect(&[ServerStopping; LINKS]);
        assert_eq!((calls.drains(), calls.ends()), (LINKS as u64, 0));
    }
}

fn a_stop_handles_what_is_unread_first(case: &Case) {
    // One line, and then a pause.
    let handler = lines().on_receive(|link, input| {
        if let Some(line) = input.line(100)? {
            link.out.send((line, " "))?;
            link.pause();
        }
        Ok(())
    });
    let (handler, record, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    server.deliver(&client, b"1\n2\n3\n");
    expect_bytes(&mut client, b"1 ");
    server.handle.stop(Duration::from_secs(10));
    eventually(|| calls.drains() == 1, "on_drain is called for each");
    for reply in [b"2 ", b"3 "] {
        meanwhile(Duration::from_millis(50), || record.ends().is_empty(), "it has input");
        server.handle.link(record.id(0)).resume();
        expect_bytes(&mut client, reply);
    }
    expect_end(&mut client);
    drop(client);
    record.expect(&[ServerStopping]);
    server.stop();
    assert_eq!((calls.receives(), calls.drains()), (3, 1));
}

/// A call that took nothing, with nothing queued, has handled the unread bytes, even if these are
/// as many as a link may hold.
fn a_stop_does_not_wait_for_a_handler_that_takes_nothing(case: &Case) {
    let handler = functions::<()>().on_receive(|_, _| Ok(()));
    let (handler, record, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let (little, much) = (server.connect(), server.connect());
    server.deliver(&little, b"a few bytes");
    util::write_until_blocked(&much, &util::Pattern::new(1), u64::MAX);
    assert!(server.stats().received_bytes >= 8 * 1024 && record.ends().is_empty());
    let start = now();
    server.stop();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    record.expect(&[ServerStopping; 2]);
    assert_eq!(calls.drains(), 2);
    drop((little, much));
}

fn a_stop_waits_for_streams_that_go_on(case: &Case) {
    let (handler, record, calls) = streaming().watched();
    let server = TestServer::start(case.small(handler));
    let clients: Vec<_> = (0..3).map(|_| connect_small_window(server.address)).collect();
    for mut client in &clients {
        client.write_all(b"go\n").unwrap();
    }
    eventually(|| calls.receives() >= 3, "they have begun");
    server.handle.stop(Duration::from_secs(10));
    eventually(|| calls.drains() == 3, "on_drain is called for each");
    let data = vec![b's'; 1_000_000];
    for mut client in &clients {
        read_back(client, &data);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "the end");
    }
    drop(clients);
    server.stop();
    record.expect(&[ServerStopping; 3]);
    assert_eq!(calls.drains(), 3);
}

fn a_link_kept_at_a_stop_stays_until_it_is_closed(case: &Case) {
    let (handler, record, calls) = lines().on_drain(|_| Ok(Verdict::Keep)).watched();
    let server = TestServer::start(case.small(handler));
    let mut clients = [server.connect(), server.connect(), server.connect()];
    server.wait_for_links(3);
    server.handle.stop(Duration::from_secs(10));
    eventually(|| calls.drains() == 3, "on_drain is called for each");
    // They are served as before.
    for client in &mut clients {
        client.write_all(b"1\n2\n").unwrap();
        expect_bytes(client, b"1 2 ");
    }
    assert!(record.ends().is_empty());
    clients[0].write_all(b"close\n").unwrap();
    expect_end(&mut clients[0]);
    record.expect(&[HandlerClosed]);
    finish_with(&mut clients[1], b"end:");
    record.expect(&[HandlerClosed, PeerClosed]);
    for id in record.ids() {
        server.handle.link(id).close();
    }
    expect_end(&mut clients[2]);
    drop(clients);
    record.expect(&[HandlerClosed, PeerClosed, Kicked]);
    server.stop();
}

fn a_link_kept_at_a_stop_stays_no_longer_than_the_drain(case: &Case) {
    const DRAIN: Duration = Duration::from_millis(300);
    let (handler, record, _) = lines().on_drain(|_| Ok(Verdict::Keep)).watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    server.wait_for_links(1);
    let start = now();
    let stats = server.stop_within(DRAIN);
    assert!(start.elapsed() >= DRAIN * 8 / 10 && start.elapsed() < 10 * DRAIN);
    assert_eq!(stats.forced_closes, 1);
    record.expect(&[ServerStopping]);
    expect_end_or_reset(&mut client);
}

/// A link that is open gets the goodbye; a refused connection gets nothing.
fn a_link_that_comes_with_the_stop_is_drained_or_refused(case: &Case) {
    for shards in [1, 2] {
        let drained = Arc::<AtomicU64>::default();
        let count = Arc::clone(&drained);
        let handler = functions::<()>().on_drain(move |link| {
            count.fetch_add(1, Ordering::SeqCst);
            link.out.send("goodbye")?;
            Ok(Verdict::Close)
        });
        let (handler, record, _) = handler.watched();
        let builder = case.short(handler).shards(shards).links_max(128).buffer_count(600);
        let server = TestServer::start(builder);
        let mut clients = Vec::new();
        for n in 0..100 {
            match std::net::TcpStream::connect(server.address) {
                Ok(client) => clients.push(client),
                Err(_) => break,
            }
            if n == 50 {
                server.handle.stop(Duration::from_secs(10));
            }
        }
        let mut heard = 0;
        for client in &mut clients {
            client.set_read_timeout(Some(util::PATIENCE)).unwrap();
            let mut all = Vec::new();
            let _end_or_reset = client.read_to_end(&mut all);
            assert!(all.is_empty() || all == b"goodbye", "{all:?}");
            heard += u64::from(!all.is_empty());
        }
        drop(clients);
        server.stop();
        assert_eq!(heard, drained.load(Ordering::SeqCst));
        assert_eq!(record.ends().len() as u64, heard, "each link hears it");
    }
}

fn a_close_sends_what_is_queued_and_discards_what_is_unread(case: &Case) {
    let (handler, record, calls) = lines().watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.write_all(b"1\n2\nclose\n3\n4\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    expect_bytes(&mut client, b"1 2 ");
    expect_end(&mut client);
    record.expect(&[HandlerClosed]);
    server.stop();
    assert_eq!((calls.receives(), calls.ends(), calls.writables()), (3, 0, 0));
    // A close at the end of the peer's stream ends the server's stream, too.
    let handler = streaming().on_end(|_, _| Ok(Verdict::Keep));
    let (handler, record, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = util::connect_small_share(server.address);
    client.write_all(b"go\n").unwrap();
    eventually(|| calls.receives() > 0, "it has begun");
    server.handle.link(record.id(0)).close();
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert!(got.len() < 1_000_000 && got.iter().all(|byte| *byte == b's'), "{}", got.len());
    drop(client);
    record.expect(&[Kicked]);
    assert_eq!(server.stop().sent_bytes, got.len() as u64);
}

fn a_close_from_elsewhere_discards_what_is_unread(case: &Case) {
    let (handler, record, calls) = lines()
        .on_receive(|link, _| {
            link.pause();
            Ok(())
        })
        .watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    server.deliver(&client, b"1\n2\n");
    eventually(|| calls.receives() == 1, "it is paused");
    server.handle.link(record.id(0)).try_post("last").unwrap();
    server.handle.link(record.id(0)).close();
    server.handle.link(record.id(0)).resume();
    expect_bytes(&mut client, b"last");
    expect_end(&mut client);
    drop(client);
    record.expect(&[Kicked]);
    server.stop();
    assert_eq!((calls.receives(), calls.ends()), (1, 0));
}

fn an_aborted_link_is_reset_without_what_is_queued(case: &Case) {
    let (handler, record, calls) = lines().watched();
    let server = TestServer::start(case.small(handler));
    let expect_reset = |client: &mut std::net::TcpStream| {
        let error = client.read(&mut [0; 100]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    };
    let mut client = server.connect();
    client.write_all(b"1\n").unwrap();
    expect_bytes(&mut client, b"1 ");
    client.write_all(b"abort\n").unwrap();
    expect_reset(&mut client);
    record.expect(&[HandlerClosed]);
    let mut client = server.connect();
    server.handle.link(record.id(1)).abort();
    expect_reset(&mut client);
    record.expect(&[HandlerClosed, Kicked]);
    // One that closes already.
    let (handler, record_of_stream, _) = streaming().watched();
    let streams = TestServer::start(case.small(handler));
    let mut client = util::connect_small_share(streams.address);
    client.write_all(b"go\n").unwrap();
    eventually(|| streams.stats().sent_bytes > 0, "it has begun");
    let link = streams.handle.link(record_of_stream.id(0));
    link.close();
    let is_closing = || link.try_post("late") == Err(PostError::Closed);
    eventually(is_closing, "its shard has seen that");
    link.abort();
    let start = now();
    eventually(|| record_of_stream.ends().len() == 1, "it does not wait for its peer");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(client);
    streams.stop();
    server.stop();
    assert_eq!(calls.ends(), 0);
}

fn all_links_are_closed_by_one_call_but_those_left_out(case: &Case) {
    for shards in [1, 3] {
        let (handler, record, _) = lines().watched();
        let builder = case.short(handler).shards(shards).links_max(30).buffer_count(300);
        let server = TestServer::start(builder);
        let mut clients: Vec<_> = (0..12).map(|_| server.connect()).collect();
        server.wait_for_links(12);
        // A message to the client shows which link it has.
        let left_out = record.id(5);
        server.handle.link(left_out).try_post("you ").unwrap();
        server.handle.all().except(left_out).try_post("bye ").unwrap();
        server.handle.all().except(left_out).close();
        let mut stays = None;
        for mut client in clients.drain(..) {
            let mut word = [0; 4];
            client.read_exact(&mut word).unwrap();
            if word == *b"you " {
                stays = Some(client);
            } else {
                assert_eq!(&word, b"bye ");
                expect_end(&mut client);
            }
        }
        let mut stays = stays.unwrap();
        stays.write_all(b"1\n").unwrap();
        expect_bytes(&mut stays, b"1 ");
        record.expect(&[Kicked; 11]);
        server.handle.all().abort();
        expect_end_or_reset(&mut stays);
        record.expect(&[Kicked; 12]);
        server.stop();
    }
}

fn on_disconnect_is_the_last_call(case: &Case) {
    let over = Arc::<util::Mutex<Vec<wharf::LinkId>>>::default();
    let (at_receive, at_end) = (Arc::clone(&over), Arc::clone(&over));
    let handler = functions::<()>()
        .on_receive(move |link, input| {
            assert!(!at_receive.lock().unwrap().contains(&link.id()), "called after its end");
            input.forward(&mut link.out);
            Ok(())
        })
        .on_disconnect(move |link, _| {
            at_end.lock().unwrap().push(link.id());
            // Requests of `on_disconnect` have no effect.
            link.resume();
            link.out.notify();
            link.server.link(link.id()).resume();
            link.server.link(link.id()).post("x");
            assert_eq!(link.out.send("x"), Err(SendError::Closed));
        });
    let (handler, record, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    for n in 0..200 {
        let (count, mut client) = (record.ids().len(), server.connect());
        let id = record.id(count);
        client.write_all(b"data").unwrap();
        match n % 4 {
            0 => finish_with(&mut client, b"data"),
            1 => util::reset(client),
            2 => drop(client),
            _ => server.handle.link(id).abort(),
        }
        eventually(|| server.stats().links == 0, "it is gone");
    }
    assert_eq!(record.ends().len(), record.ids().len());
    assert!(record.reasons().contains(&PeerReset));
    let stats = server.stop();
    assert_eq!((stats.handler_panics, calls.writables()), (0, 0));
}
