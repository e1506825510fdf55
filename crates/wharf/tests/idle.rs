//! Promise: a link that sends nothing for the idle time-out is offered to `on_idle`, which closes
//! it or keeps it; links that send stay.
//!
//! Method: a time-out of 200 ms, clients that are silent or not, and a clock beside them.
#![cfg(target_os = "linux")]
#![cfg(test)]

mod util;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use util::{
    Case, Record, TestServer, each_back_end, echo, eventually, expect_bytes, expect_end_or_reset,
    finish, meanwhile, now, round_trip,
};
use wharf::{DisconnectReason, Handler, Idle, Link, Result, SendError};

each_back_end!(
    a_silent_link_is_closed_in_time_and_one_that_sends_stays,
    a_thousand_silent_links_are_closed,
    what_the_server_sends_does_not_keep_a_link,
    a_handler_may_keep_a_link_and_send_to_it,
    zero_means_for_ever,
);

const IDLE: Duration = Duration::from_millis(200);

fn a_silent_link_is_closed_in_time_and_one_that_sends_stays(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small().idle(IDLE), handler);
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
    let server = TestServer::start(case.builder().shards(2).links(1_000).idle(IDLE), echo());
    let mut clients: Vec<_> = (0..1_000).map(|_| server.connect()).collect();
    eventually(|| server.stats().closed(DisconnectReason::Idle) == 1_000, "all are reaped");
    clients.iter_mut().for_each(expect_end_or_reset);
    server.stop();
}

fn what_the_server_sends_does_not_keep_a_link(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small().idle(IDLE), handler);
    let client = server.connect();
    let id = record.id(0);
    let is_gone = || server.handle.send(id, b"x") == Err(SendError::Gone);
    eventually(is_gone, "the link is closed");
    record.expect(&[DisconnectReason::Idle]);
    drop(client);
    server.stop();
}

/// Keeps idle links, and tells them so.
struct Patient {
    record: Arc<Record>,
    calls: Arc<AtomicU64>,
}

impl Handler for Patient {
    type Worker = ();
    type State = u8;

    fn on_receive(&self, (): &mut (), link: &mut Link<'_, u8>, data: &[u8]) -> Result {
        Ok(link.send(data)?)
    }

    fn on_idle(&self, (): &mut (), link: &mut Link<'_, u8>) -> Idle {
        self.calls.fetch_add(1, Ordering::SeqCst);
        *link.state() += 1;
        let text = [b'0' + *link.state()];
        if *link.state() <= 3 && link.send(&text).is_ok() { Idle::Keep } else { Idle::Close }
    }

    fn on_disconnect(&self, (): &mut (), link: &mut Link<'_, u8>, reason: DisconnectReason) {
        self.record.disconnected(link, reason);
    }
}

fn a_handler_may_keep_a_link_and_send_to_it(case: &Case) {
    let (record, calls): (Arc<Record>, Arc<AtomicU64>) = Default::default();
    let handler = Patient { record: Arc::clone(&record), calls: Arc::clone(&calls) };
    let server = TestServer::start(case.small().idle(IDLE), handler);
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

fn zero_means_for_ever(case: &Case) {
    let server = TestServer::start(case.small().idle(Duration::ZERO), echo());
    let mut client = server.connect();
    server.wait_for_links(1);
    meanwhile(3 * IDLE, || server.stats().links == 1, "the link was closed");
    round_trip(&mut client, b"hello");
    finish(&mut client);
    server.stop();
}
