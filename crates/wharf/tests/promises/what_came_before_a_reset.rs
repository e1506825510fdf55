//! Promise: all bytes that a peer sent before it reset the connection are handled, and then the
//! link ends with `PeerReset`.
//!
//! Method: clients send while the handler is held, wait until the server's system has everything,
//! and reset; the first reply then fails.

use crate::util;
use crate::util::{
    Case, PATIENCE, Pattern, Record, TestServer, each_back_end, eventually, now, reset,
    unacknowledged, within, write_until_blocked,
};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use wharf::DisconnectReason::PeerReset;
use wharf::{Builder, DisconnectReason, Handler, Input, Link, Result};

each_back_end!(
    thousands_of_small_messages_before_a_reset_are_all_handled,
    megabytes_before_a_reset_are_all_handled,
    with_few_buffers_what_came_before_a_reset_is_handled,
    a_peer_that_closes_with_replies_unread_was_heard,
);

/// Replies to all input with as many bytes, and checks that the input is the pattern. It can be
/// held.
struct Held {
    record: Arc<Record>,
    pattern: Pattern,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    is_shut: AtomicBool,
    entered: AtomicBool,
    handled: AtomicU64,
}

impl Handler<u64> for Held {
    fn on_connect(&self, link: &mut Link<'_>) -> Result<u64> {
        self.record.connected(link);
        Ok(0)
    }

    fn on_receive(&self, link: &mut Link<'_, u64>, input: &mut Input<'_>) -> Result {
        let end = now() + PATIENCE;
        while self.gate.is_shut.load(Ordering::SeqCst) && now() < end {
            self.gate.entered.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1));
        }
        let (at, data) = (*link.state, input.chunk());
        assert!(data == self.pattern.piece(at, data.len()), "other bytes from {at}");
        *link.state = at + data.len() as u64;
        self.gate.handled.fetch_add(data.len() as u64, Ordering::SeqCst);
        link.out.send(data)?;
        input.consume(data.len());
        Ok(())
    }

    fn on_disconnect(&self, link: &mut Link<'_, u64>, reason: DisconnectReason) {
        self.record.disconnected(link, reason);
    }
}

fn held(case: &Case) -> (Builder<Held, u64, ()>, Arc<Record>, Arc<Gate>) {
    let (record, gate): (Arc<Record>, Arc<Gate>) = Default::default();
    let (records, holds) = (Arc::clone(&record), Arc::clone(&gate));
    let handler = Held { record: records, pattern: Pattern::new(1), gate: holds };
    (case.builder(handler), record, gate)
}

/// The server's system has `sent` bytes, and the peer has reset: the handler gets them all.
#[track_caller]
fn check(server: TestServer, record: &Record, gate: &Gate, sent: u64) {
    gate.is_shut.store(false, Ordering::SeqCst);
    record.expect(&[PeerReset]);
    let handled = gate.handled.load(Ordering::SeqCst);
    let stats = server.stop();
    assert!(handled >= sent, "{handled} of {sent} bytes were handled, {stats:?}");
    assert_eq!(record.ends()[0].totals.received_bytes, handled);
}

fn thousands_of_small_messages_before_a_reset_are_all_handled(case: &Case) {
    const COUNT: u64 = 1_250;
    const LEN: u64 = 16;
    let _deadline = within(Duration::from_mins(1));
    let (builder, record, gate) = held(case);
    let server = TestServer::start(builder.links_max(4));
    let (mut client, pattern) = (server.connect(), Pattern::new(1));
    gate.is_shut.store(true, Ordering::SeqCst);
    for number in 0..COUNT {
        client.write_all(pattern.piece(number * LEN, 16)).unwrap();
    }
    eventually(|| unacknowledged(&client) == 0, "the server's system has it all");
    eventually(|| gate.entered.load(Ordering::SeqCst), "the handler is held");
    reset(client);
    check(server, &record, &gate, COUNT * LEN);
}

/// Exchanges until the system has a large receive window.
const WARM: u64 = 12 << 20;

fn megabytes_before_a_reset_are_all_handled(case: &Case) {
    let _deadline = within(Duration::from_mins(1));
    let (builder, record, gate) = held(case);
    let server = TestServer::start(builder.links_max(4));
    let (client, pattern) = (server.connect(), Pattern::new(1));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut at = 0;
            while at < WARM {
                let piece = pattern.piece(at, usize::try_from(WARM - at).unwrap());
                { &client }.write_all(piece).unwrap();
                at += piece.len() as u64;
            }
        });
        let got = util::read_pattern(&client, &pattern, WARM);
        assert_eq!(got.len, WARM, "{:?} {:?}", got.error, server.stats());
    });
    gate.is_shut.store(true, Ordering::SeqCst);
    let shifted = Shifted { client: &client, pattern: &pattern, from: WARM };
    let written = shifted.write_until_blocked();
    let sent = WARM + written - unacknowledged(&client);
    assert!(sent > WARM, "the system took no more");
    reset(client);
    check(server, &record, &gate, sent);
}

/// Writes a pattern from an offset on.
struct Shifted<'a> {
    client: &'a std::net::TcpStream,
    pattern: &'a Pattern,
    from: u64,
}

impl Shifted<'_> {
    fn write_until_blocked(&self) -> u64 {
        let mut client = self.client;
        client.set_nonblocking(true).unwrap();
        let (mut len, mut since) = (0, now());
        while since.elapsed() < util::BLOCKED_AFTER {
            match client.write(self.pattern.piece(self.from + len, 1 << 14)) {
                Ok(count) => (len, since) = (len + count as u64, now()),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        len
    }
}

fn with_few_buffers_what_came_before_a_reset_is_handled(case: &Case) {
    let _deadline = within(Duration::from_mins(1));
    let (builder, record, gate) = held(case);
    let builder = builder.links_max(2).buffer_count(48);
    let server = TestServer::start(builder.input_bytes(16 * 1024).output_bytes(16 * 1024));
    let (client, pattern) = (server.connect(), Pattern::new(1));
    gate.is_shut.store(true, Ordering::SeqCst);
    let written = write_until_blocked(&client, &pattern, u64::MAX);
    let sent = written - unacknowledged(&client);
    assert!(sent > 48 * 1024, "the system took no more than {sent}");
    reset(client);
    check(server, &record, &gate, sent);
}

/// Without a socket option: closing with unread bytes resets the connection, too.
fn a_peer_that_closes_with_replies_unread_was_heard(case: &Case) {
    const COUNT: u64 = 2_000;
    let _deadline = within(Duration::from_mins(1));
    for buffers in [48, 2_000] {
        let (builder, record, gate) = held(case);
        let builder = builder.links_max(2).buffer_count(buffers);
        let server = TestServer::start(builder.input_bytes(16 * 1024).output_bytes(16 * 1024));
        let (mut client, pattern) = (server.connect(), Pattern::new(1));
        // Two replies, of which it reads half of one.
        client.write_all(pattern.piece(0, 20)).unwrap();
        eventually(|| server.stats().sent_bytes == 20, "it is answered");
        client.read_exact(&mut [0; 10]).unwrap();
        gate.is_shut.store(true, Ordering::SeqCst);
        for number in 0..COUNT {
            client.write_all(pattern.piece(20 + number * 20, 20)).unwrap();
        }
        eventually(|| unacknowledged(&client) == 0, "the server's system has it all");
        eventually(|| gate.entered.load(Ordering::SeqCst), "the handler is held");
        drop(client);
        check(server, &record, &gate, 20 + COUNT * 20);
    }
}
