//! Promise: after the idle timeout without input `on_idle` is called, and closes the link or keeps
//! it; links that send stay open.
//!
//! Method: a timeout of 200 ms, clients that are silent or not, and a measured time.

use crate::util;
use crate::util::{
    Case, Record, TestServer, each_back_end, echo, eventually, expect_bytes, expect_end_or_reset,
    finish, meanwhile, now, round_trip,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wharf::{DisconnectReason, Handler, Input, Link, PostError, Result, Verdict};

each_back_end!(
    a_silent_link_is_closed_in_time_and_one_that_sends_stays,
    a_thousand_silent_links_are_closed,
    what_the_server_sends_does_not_keep_a_link,
    a_handler_may_keep_a_link_and_send_to_it,
    a_link_may_have_a_timeout_of_its_own,
    zero_disables_it,
);

const IDLE: Duration = Duration::from_millis(200);

fn a_silent_link_is_closed_in_time_and_one_that_sends_stays(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small(handler).idle_timeout(IDLE));
    let mut active = server.connect();
    let active_id = record.id(0);
    let mut silent = server.connect();
    record.id(1);
    let start = now();
    meanwhile(
        6 * IDLE,
        || {
            round_trip(&mut active, b"here");
            std::thread::sleep(IDLE / 20);
            record.ends().is_empty() || start.elapsed() > IDLE * 9 / 10
        },
        "closed before its time",
    );
    record.expect(&[DisconnectReason::Idle]);
    assert_ne!(record.ends()[0].id, active_id);
    expect_end_or_reset(&mut silent);
    round_trip(&mut active, b"still here");
    finish(&mut active);
    let stats = server.stop();
    assert_eq!(stats.closed(DisconnectReason::Idle), 1);
}

fn a_thousand_silent_links_are_closed(case: &Case) {
    let server =
        TestServer::start(case.builder(echo()).shards(2).links_max(1_000).idle_timeout(IDLE));
    let mut clients: Vec<_> = (0..1_000).map(|_| server.connect()).collect();
    eventually(|| server.stats().closed(DisconnectReason::Idle) == 1_000, "all are reaped");
    clients.iter_mut().for_each(expect_end_or_reset);
    server.stop();
}

fn what_the_server_sends_does_not_keep_a_link(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small(handler).idle_timeout(IDLE));
    let client = server.connect();
    let id = record.id(0);
    let is_gone = || server.handle.link(id).try_post(b"x") == Err(PostError::Closed);
    eventually(is_gone, "the link is closed");
    record.expect(&[DisconnectReason::Idle]);
    drop(client);
    server.stop();
}

/// Keeps idle links, and sends them a message.
struct Patient {
    record: Arc<Record>,
    calls: Arc<AtomicU64>,
}

impl Handler<u8> for Patient {
    fn on_connect(&self, _: &mut Link<'_>) -> Result<u8> {
        Ok(0)
    }

    fn on_receive(&self, link: &mut Link<'_, u8>, input: &mut Input<'_>) -> Result {
        input.forward(&mut link.out);
        Ok(())
    }

    fn on_idle(&self, link: &mut Link<'_, u8>) -> Result<Verdict> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        *link.state += 1;
        if *link.state > 3 {
            return Ok(Verdict::Close);
        }
        link.out.send([b'0' + *link.state])?;
        Ok(Verdict::Keep)
    }

    fn on_disconnect(&self, link: &mut Link<'_, u8>, reason: DisconnectReason) {
        self.record.disconnected(link, reason);
    }
}

fn a_handler_may_keep_a_link_and_send_to_it(case: &Case) {
    let (record, calls): (Arc<Record>, Arc<AtomicU64>) = Default::default();
    let handler = Patient { record: Arc::clone(&record), calls: Arc::clone(&calls) };
    let server = TestServer::start(case.small(handler).idle_timeout(IDLE));
    let start = now();
    let mut client = server.connect();
    expect_bytes(&mut client, b"1");
    round_trip(&mut client, b"not idle");
    expect_bytes(&mut client, b"23");
    assert!(start.elapsed() >= 3 * IDLE, "{:?}", start.elapsed());
    expect_end_or_reset(&mut client);
    record.expect(&[DisconnectReason::Idle]);
    assert_eq!(calls.load(Ordering::SeqCst), 4);
    server.stop();
}

/// Sets its timeout, in milliseconds, from the first byte of input.
fn a_link_may_have_a_timeout_of_its_own(case: &Case) {
    let handler = util::on_chunk(|link, data| {
        link.set_idle_timeout(Duration::from_millis(50 * u64::from(data[0])));
        Ok(link.out.send(data)?)
    });
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small(handler).idle_timeout(IDLE));
    let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
    // None, a longer one, a shorter one.
    for (client, time) in clients.iter_mut().zip([0, 16, 2]) {
        round_trip(client, &[time]);
    }
    let start = now();
    expect_end_or_reset(&mut clients[2]);
    assert!(start.elapsed() >= IDLE / 4, "{:?}", start.elapsed());
    expect_end_or_reset(&mut clients[1]);
    assert!(start.elapsed() >= 3 * IDLE, "{:?}", start.elapsed());
    record.expect(&[DisconnectReason::Idle; 2]);
    meanwhile(2 * IDLE, || server.stats().links == 1, "the link was closed");
    finish(&mut clients[0]);
    server.stop();
}

fn zero_disables_it(case: &Case) {
    let server = TestServer::start(case.small(echo()).idle_timeout(Duration::ZERO));
    let mut client = server.connect();
    server.wait_for_links(1);
    meanwhile(3 * IDLE, || server.stats().links == 1, "the link was closed");
    round_trip(&mut client, b"hello");
    finish(&mut client);
    server.stop();
}
