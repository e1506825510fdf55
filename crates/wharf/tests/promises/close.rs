//! Promise: however a link ends, no queued byte is lost, `on_disconnect` is called once with the
//! reason, and the peer gets the end of the stream.
//!
//! Method: clients and handlers end links in every way.

use crate::util;
use crate::util::{
    Case, Record, TestServer, bytes, connect_small_window, each_back_end, echo, eventually,
    expect_bytes, expect_end, expect_end_or_reset, finish, now, on_chunk, read_back, reset,
    round_trip,
};
use std::collections::HashSet;
use std::io::Write;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use wharf::DisconnectReason::{
    self, HandlerClosed, HandlerError, Kicked, OutputFull, PeerClosed, PeerReset,
};
use wharf::{Error, Handler, Input, Link, PostError, Result, SendError};

each_back_end!(
    after_a_half_close_all_replies_come_and_then_the_end,
    a_half_close_behind_a_full_window_loses_nothing,
    half_a_request_and_an_end_is_a_closed_peer,
    a_reset_is_told_as_such_once,
    a_reset_before_the_reply_is_read_affects_no_other_link,
    a_handler_that_closes_sends_what_is_queued_first,
    a_handler_that_closes_with_input_unread_does_not_lose_its_reply,
    a_handler_error_sends_what_is_queued_first,
    a_failed_send_passed_on_is_the_handlers_fault_and_what_is_queued_is_sent,
    on_connect_may_refuse_with_a_last_word,
    nothing_can_be_sent_on_a_link_that_closes,
    both_sides_close_at_once_a_thousand_times,
    a_closed_peer_hears_the_end_at_once,
    totals_tell_what_went_over_a_link,
);

fn start(case: &Case) -> (TestServer, Arc<Record>) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    (TestServer::start(case.builder(handler).links_max(8).buffer_count(400)), record)
}

fn after_a_half_close_all_replies_come_and_then_the_end(case: &Case) {
    let (server, record) = start(case);
    for seed in 0..20 {
        let (mut client, data) = (server.connect(), bytes(seed, 50_000));
        client.write_all(&data).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        expect_bytes(&mut client, &data);
        expect_end(&mut client);
    }
    record.expect(&[PeerClosed; 20]);
    server.stop();
}

fn a_half_close_behind_a_full_window_loses_nothing(case: &Case) {
    let (server, record) = start(case);
    let (mut client, data) = (connect_small_window(server.address), bytes(1, 200_000));
    client.write_all(&data).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    eventually(|| server.stats().received_bytes > 0, "something has arrived");
    read_back(&client, &data);
    expect_end(&mut client);
    record.expect(&[PeerClosed]);
    server.stop();
}

fn half_a_request_and_an_end_is_a_closed_peer(case: &Case) {
    let handler = on_chunk(|_, _| Ok(()));
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.write_all(b"GET / HT").unwrap();
    finish(&mut client);
    drop(server.connect());
    record.expect(&[PeerClosed, PeerClosed]);
    server.stop();
}

fn a_reset_is_told_as_such_once(case: &Case) {
    let (server, record) = start(case);
    for n in 1..=20 {
        let mut client = server.connect();
        round_trip(&mut client, b"hello");
        reset(client);
        record.expect(&vec![PeerReset; n]);
    }
    server.stop();
}

fn a_reset_before_the_reply_is_read_affects_no_other_link(case: &Case) {
    let (server, record) = start(case);
    let mut other = server.connect();
    let data = bytes(2, 100_000);
    for _ in 0..50 {
        let mut client = connect_small_window(server.address);
        client.write_all(&data[..60_000]).unwrap();
        reset(client);
        round_trip(&mut other, &data);
    }
    eventually(|| record.ends().len() == 50, "all resets are noticed");
    assert!(record.reasons().iter().all(|reason| *reason == PeerReset), "{:?}", record.reasons());
    finish(&mut other);
    server.stop();
}

fn a_handler_that_closes_sends_what_is_queued_first(case: &Case) {
    let handler = on_chunk(|link, _| {
        link.out.send(bytes(4, 200_000))?;
        link.close();
        link.close();
        Ok(())
    });
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.builder(handler).links_max(4).buffer_count(400));
    let mut client = connect_small_window(server.address);
    client.write_all(b"?").unwrap();
    expect_bytes(&mut client, &bytes(4, 200_000));
    expect_end(&mut client);
    drop(client);
    record.expect(&[HandlerClosed]);
    server.stop();
}

fn a_handler_that_closes_with_input_unread_does_not_lose_its_reply(case: &Case) {
    // The client sends on after the refusal; a close with unread bytes would reset the connection,
    // and its system would discard the reply.
    let handler = on_chunk(|link, _| {
        link.out.send(b"too large")?;
        link.close();
        Ok(())
    });
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.write_all(&bytes(5, 4 << 20)).unwrap();
    finish_with(&mut client, b"too large");
    record.expect(&[HandlerClosed]);
    server.stop();
}

fn finish_with(client: &mut std::net::TcpStream, answer: &[u8]) {
    client.shutdown(Shutdown::Write).unwrap();
    expect_bytes(client, answer);
    expect_end(client);
}

fn a_handler_error_sends_what_is_queued_first(case: &Case) {
    let handler = on_chunk(|link, _| {
        link.out.send(b"bad request")?;
        Err(Error::msg("not what I understand"))
    });
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.write_all(b"?").unwrap();
    expect_bytes(&mut client, b"bad request");
    expect_end(&mut client);
    drop(client);
    record.expect(&[HandlerError]);
    server.stop();
}

fn a_failed_send_passed_on_is_the_handlers_fault_and_what_is_queued_is_sent(case: &Case) {
    let handler = on_chunk(|link, data| {
        if data == b"large" {
            return Ok(link.out.send([0; 10_000])?);
        }
        link.out.send([0; 8_000])?;
        Ok(link.out.send([0; 8_000])?)
    });
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small(handler).output_bytes(9_000));
    for (word, queued, reason) in [("large", 0, HandlerError), ("full", 8_000, OutputFull)] {
        let seen = record.ends().len();
        let mut client = server.connect();
        client.write_all(word.as_bytes()).unwrap();
        expect_bytes(&mut client, &vec![0; queued]);
        expect_end(&mut client);
        drop(client);
        eventually(|| record.ends().len() > seen, "it is closed");
        assert_eq!(record.reasons()[seen], reason);
    }
    server.stop();
}

/// Refuses every connection; its `on_disconnect` must never be called.
struct Closed(Arc<Record>);

impl Handler for Closed {
    fn on_connect(&self, link: &mut Link<'_>) -> Result {
        link.out.send(b"we are closed")?;
        Err(Error::msg("closed"))
    }

    fn on_receive(&self, link: &mut Link<'_>, _: &mut Input<'_>) -> Result {
        self.0.connected(link);
        Ok(())
    }

    fn on_disconnect(&self, link: &mut Link<'_>, reason: DisconnectReason) {
        self.0.disconnected(link, reason);
    }
}

fn on_connect_may_refuse_with_a_last_word(case: &Case) {
    let record: Arc<Record> = Arc::default();
    let server = TestServer::start(case.small(Closed(Arc::clone(&record))));
    for _ in 0..10 {
        let mut client = server.connect();
        client.write_all(b"hello?").unwrap();
        finish_with(&mut client, b"we are closed");
    }
    let stats = server.stop();
    assert_eq!((stats.rejects, stats.connects, stats.receives), (10, 0, 0));
    assert!(record.ids().is_empty() && record.ends().is_empty());
}

/// Reports the results of sends to a closing link.
struct Late(util::Mutex<std::sync::mpsc::Sender<Refused>>);

#[derive(Debug, PartialEq)]
enum Refused {
    Send(Result<(), SendError>),
    Post(Result<(), PostError>),
}

impl Handler for Late {
    fn on_receive(&self, link: &mut Link<'_>, _: &mut Input<'_>) -> Result {
        link.out.send(b"bye")?;
        link.close();
        let sender = self.0.lock().unwrap();
        sender.send(Refused::Send(link.out.send(b"after close"))).unwrap();
        sender.send(Refused::Send(link.out.ensure(1).map(drop))).unwrap();
        Ok(())
    }

    fn on_disconnect(&self, link: &mut Link<'_>, _: DisconnectReason) {
        let sender = self.0.lock().unwrap();
        sender.send(Refused::Send(link.out.send(b"after the end"))).unwrap();
        let post = link.server.link(link.id()).try_post(b"after the end");
        sender.send(Refused::Post(post)).unwrap();
        // These have no effect.
        link.server.link(link.id()).close();
        link.server.link(link.id()).resume();
        link.close();
    }
}

fn nothing_can_be_sent_on_a_link_that_closes(case: &Case) {
    let (sender, results) = std::sync::mpsc::channel();
    let server = TestServer::start(case.small(Late(util::Mutex::new(sender))));
    let mut client = server.connect();
    client.write_all(b"?").unwrap();
    expect_bytes(&mut client, b"bye");
    expect_end(&mut client);
    drop(client);
    let refused = || Refused::Send(Err(SendError::Closed));
    let expected = [
        ("send after close", refused()),
        ("ensure after close", refused()),
        ("send in on_disconnect", refused()),
        ("post in on_disconnect", Refused::Post(Err(PostError::Closed))),
    ];
    for (what, refused) in expected {
        assert_eq!(results.recv_timeout(util::PATIENCE).unwrap(), refused, "{what}");
    }
    server.stop();
}

fn both_sides_close_at_once_a_thousand_times(case: &Case) {
    let handler = on_chunk(|link, data| {
        link.out.send(data)?;
        link.close();
        Ok(())
    });
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small(handler));
    for n in 0..1_000 {
        let mut client = server.connect();
        client.write_all(b"x").unwrap();
        match n % 3 {
            0 => drop(client),
            1 => reset(client),
            _ => client.shutdown(Shutdown::Both).unwrap(),
        }
    }
    eventually(|| server.stats().links == 0, "all are gone");
    eventually(|| record.ends().len() == record.ids().len(), "one end each");
    let ids: HashSet<_> = record.ends().iter().map(|end| end.id).collect();
    assert_eq!(ids.len(), record.ends().len(), "on_disconnect came twice for a link");
    server.stop();
}

fn a_closed_peer_hears_the_end_at_once(case: &Case) {
    let (server, record) = start(case);
    let mut client = server.connect();
    round_trip(&mut client, b"hello");
    let start = now();
    server.handle.link(record.id(0)).close();
    expect_end(&mut client);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    drop(client);
    record.expect(&[Kicked]);
    // The server does not wait indefinitely for a peer that never ends its stream, nor for one that
    // sends all the time.
    let mut silent = server.connect();
    server.handle.link(record.id(1)).close();
    expect_end(&mut silent);
    let mut sending = server.connect();
    server.handle.link(record.id(2)).close();
    eventually(|| sending.write_all(&[0; 4_096]).is_err(), "it is closed");
    expect_end_or_reset(&mut sending);
    record.expect(&[Kicked; 3]);
    server.stop();
}

fn totals_tell_what_went_over_a_link(case: &Case) {
    let (server, record) = start(case);
    let mut client = server.connect();
    round_trip(&mut client, &bytes(1, 5_000));
    round_trip(&mut client, b"x");
    finish(&mut client);
    record.expect(&[PeerClosed]);
    let totals = record.ends()[0].totals;
    assert_eq!((totals.received_bytes, totals.sent_bytes, totals.missed), (5_001, 5_001, 0));
    server.stop();
}
