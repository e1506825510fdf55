//! Promise: a peer that reads slowly but steadily is never closed, whatever the timeouts are; one
//! that takes nothing is closed, as a slow reader, at the stall timeout.
//!
//! Method: short timeouts, clients with a small receive window that read at a fixed rate, and
//! measured times.

use crate::util;
use crate::util::functions::Functions;
use crate::util::{
    Case, HangUp, Pattern, Record, TestServer, connect_small_share, connect_small_window,
    each_back_end, echo, eventually, now, on_chunk, within,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wharf::DisconnectReason::{self, Kicked, PeerClosed, SlowReader};
use wharf::{Handler, Input, Link, Output, Result};

each_back_end!(
    a_download_that_is_read_steadily_is_never_closed,
    an_echo_that_is_read_steadily_is_never_closed,
    a_half_closed_link_that_is_read_steadily_is_never_closed,
    a_steady_reader_is_not_closed_while_all_buffers_are_lent,
    without_an_idle_timeout_a_peer_that_takes_nothing_is_closed,
    a_peer_that_takes_nothing_is_closed_at_the_stall_timeout,
    a_closing_link_whose_peer_takes_nothing_ends_in_time,
);

const DEADLINE: Duration = Duration::from_secs(45);
const STALL: Duration = Duration::from_millis(1_500);
/// Long enough for several timeouts.
const SPAN: Duration = Duration::from_millis(4_500);

/// Waits until the links have ended for these reasons, and checks the time: from the last bytes
/// that their peers' systems took, which may be after the last read.
#[track_caller]
fn expect_closed(streams: &[&TcpStream], record: &Record, why: &[DisconnectReason]) {
    // Bytes that the clients' systems have taken; those that only the server's system has taken do
    // not count.
    let state = || {
        let taken = |stream: &&TcpStream| rustix::io::ioctl_fionread(*stream).unwrap();
        streams.iter().map(taken).sum::<u64>()
    };
    let (mut last, mut since, end) = (state(), now(), now() + util::PATIENCE);
    let mut changed = None;
    while record.ends().len() < why.len() {
        assert!(now() < end, "not closed, nothing taken for {:?}", since.elapsed());
        let state = state();
        // The end of a link changes it, too, so a change counts only if the next check still finds
        // no end.
        since = changed.filter(|_| record.ends().is_empty()).unwrap_or(since);
        changed = (state != last).then(now);
        last = state;
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = since.elapsed();
    assert_eq!(record.reasons(), why);
    // The server checks eight times in a timeout: bytes that were taken before the first check may
    // not count.
    assert!(took >= STALL * 8 / 10, "closed too early: after {took:?} of {STALL:?}");
    assert!(took <= STALL * 16 / 10, "closed too late: after {took:?} of {STALL:?}");
}

/// Reads `rate` bytes each second for `span`, or up to `most` bytes; returns their number, and the
/// error that ended it.
fn read_steadily(
    mut stream: &TcpStream,
    pattern: &Pattern,
    rate: u64,
    span: Duration,
    most: u64,
) -> (u64, Option<ErrorKind>) {
    let (start, mut len, mut piece) = (now(), 0_u64, vec![0; 1 << 16]);
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    while start.elapsed() < span && len < most {
        let due = u64::try_from(start.elapsed().as_millis()).unwrap() * rate / 1_000;
        let len_max = usize::try_from(due.saturating_sub(len).min(most - len)).unwrap();
        if len_max < 512 && len + len_max as u64 != most {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        let len_max = len_max.min(piece.len());
        match stream.read(&mut piece[..len_max]) {
            Ok(0) => return (len, Some(ErrorKind::UnexpectedEof)),
            Ok(count) => {
                assert!(piece[..count] == *pattern.piece(len, count), "differs from {len} on");
                len += count as u64;
            }
            Err(error) => return (len, Some(error.kind())),
        }
    }
    (len, None)
}

/// Sends the pattern without end, in pieces.
struct Download {
    pattern: Pattern,
    record: Arc<Record>,
}

impl Download {
    /// Two grants, the minimum of an output.
    const QUEUED_MAX: usize = 4_096;

    fn new() -> (Self, Arc<Record>) {
        let record: Arc<Record> = Arc::default();
        (Self { pattern: Pattern::new(1), record: Arc::clone(&record) }, record)
    }

    /// Always less than it asks for, so that it is called again.
    fn more(&self, out: &mut Output<'_>, at: u64) -> u64 {
        let count = out.send_some(self.pattern.piece(at, 2 * Self::QUEUED_MAX));
        assert!(count <= Self::QUEUED_MAX, "{count} bytes were queued");
        at + count as u64
    }
}

impl Handler<u64> for Download {
    fn on_connect(&self, link: &mut Link<'_>) -> Result<u64> {
        self.record.connected(link);
        assert_eq!(link.out.set_limit_bytes(1), Self::QUEUED_MAX);
        Ok(self.more(&mut link.out, 0))
    }

    fn on_receive(&self, _: &mut Link<'_, u64>, input: &mut Input<'_>) -> Result {
        input.consume(usize::MAX);
        Ok(())
    }

    fn on_writable(&self, link: &mut Link<'_, u64>) -> Result {
        *link.state = self.more(&mut link.out, *link.state);
        Ok(())
    }

    fn on_disconnect(&self, link: &mut Link<'_, u64>, reason: DisconnectReason) {
        self.record.disconnected(link, reason);
    }
}

fn a_download_that_is_read_steadily_is_never_closed(case: &Case) {
    let _deadline = within(DEADLINE);
    let (handler, record) = Download::new();
    let builder = case.builder(handler).links_max(8).idle_timeout(Duration::from_secs(1));
    let server = TestServer::start(builder.stall_timeout(STALL));
    let slow = connect_small_share(server.address);
    let id = record.id(0);
    let (len, error) = read_steadily(&slow, &Pattern::new(1), 20 * 1_024, SPAN, u64::MAX);
    assert_eq!(error, None, "closed after {len} bytes: {:?}", record.ends());
    assert!(server.stats().links == 1 && record.ends().is_empty(), "{:?} {id}", record.ends());
    // From here on the client reads nothing.
    expect_closed(&[&slow], &record, &[SlowReader]);
    drop(slow);
    server.stop();
}

/// Sends the pattern from a thread of its own while the test reads slowly.
fn echo_read_steadily(
    server: &TestServer,
    rate: u64,
    len: u64,
    half_close: bool,
) -> (u64, Option<ErrorKind>) {
    let (streams, pattern) = ([connect_small_window(server.address)], Pattern::new(1));
    std::thread::scope(|scope| {
        let _end = HangUp(&streams);
        let mut stream = &streams[0];
        let pattern = &pattern;
        scope.spawn(move || {
            let mut at = 0;
            while at < len {
                let piece = pattern.piece(at, usize::try_from(len - at).unwrap());
                // The reader's count shows how far it got.
                if stream.write_all(piece).is_err() {
                    return;
                }
                at += piece.len() as u64;
            }
            if half_close {
                let _closed = stream.shutdown(Shutdown::Write);
            }
        });
        read_steadily(&streams[0], pattern, rate, 4 * SPAN, len)
    })
}

/// More than server and sockets can hold, at a rate that takes several timeouts. The server's
/// system takes megabytes, and more only when a third of them has left.
const ECHO: u64 = 4 << 20;
const ECHO_RATE: u64 = 700 * 1_024;

fn an_echo_that_is_read_steadily_is_never_closed(case: &Case) {
    let _deadline = within(DEADLINE);
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let builder = case
        .builder(handler)
        .links_max(8)
        .idle_timeout(Duration::from_secs(1))
        .stall_timeout(STALL);
    let server = TestServer::start(builder);
    let got = echo_read_steadily(&server, ECHO_RATE, ECHO, false);
    assert_eq!(got, (ECHO, None), "closed: {:?}, {:?}", record.ends(), server.stats());
    server.stop();
}

fn a_half_closed_link_that_is_read_steadily_is_never_closed(case: &Case) {
    let _deadline = within(DEADLINE);
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let builder = case
        .builder(handler)
        .links_max(8)
        .idle_timeout(Duration::from_secs(1))
        .stall_timeout(STALL);
    let server = TestServer::start(builder);
    let got = echo_read_steadily(&server, ECHO_RATE, ECHO, true);
    assert_eq!(got, (ECHO, None), "closed: {:?}, {:?}", record.ends(), server.stats());
    record.expect(&[PeerClosed]);
    server.stop();
}

fn a_steady_reader_is_not_closed_while_all_buffers_are_lent(case: &Case) {
    const GREEDY: usize = 12;
    let _deadline = within(DEADLINE);
    let handler = echo();
    let record = Arc::clone(&handler.record);
    // Two full links borrow all that can be lent.
    let builder =
        case.builder(handler).links_max(16).buffer_count(360).loan_wait(Duration::from_millis(400));
    let server = TestServer::start(builder);
    let pattern = Pattern::new(1);
    let (len, rate) = (90 * 1_024, 20 * 1_024);
    let slow = connect_small_share(server.address);
    let id = record.id(0);
    let greedy: Vec<_> = (0..GREEDY).map(|_| connect_small_share(server.address)).collect();
    for mut stream in &greedy {
        stream.set_nonblocking(true).unwrap();
        while stream.write(pattern.piece(0, 1 << 14)).is_ok() {}
    }
    // Others ask for more all the time.
    let streams = [server.connect()];
    std::thread::scope(|scope| {
        let mut stream = &slow;
        let pattern = &pattern;
        scope.spawn(move || drop(stream.write_all(pattern.piece(0, len))));
        let _end = HangUp(&streams);
        let others = &streams[0];
        scope.spawn(move || {
            for seed in 0..20 {
                let data = util::bytes(seed, 100_000);
                exchange_if_open(others, &data);
            }
        });
        let got = read_steadily(&slow, pattern, rate, 4 * SPAN, len as u64);
        assert_eq!(got, (len as u64, None), "{:?}, {:?}", record.ends(), server.stats());
    });
    assert!(record.ends().iter().all(|end| end.id != id), "{:?}", record.ends());
    drop((slow, greedy, streams));
    server.stop();
}

/// Sends and reads back, until an error.
fn exchange_if_open(mut stream: &TcpStream, data: &[u8]) {
    std::thread::scope(|scope| {
        scope.spawn(move || drop({ stream }.write_all(data)));
        let mut got = vec![0; data.len()];
        let _the_steady_one_is_looked_at = stream.read_exact(&mut got);
    });
}

/// A handler that replies to any input with more than both systems can hold.
fn much() -> Functions<()> {
    on_chunk(|link, _| Ok(link.out.send(vec![7; MUCH as usize])?))
}

const MUCH: u32 = 1 << 20;
/// The defaults.
const IDLE: Duration = Duration::from_secs(60);
const LOAN_WAIT: Duration = Duration::from_secs(1);

fn start_much(case: &Case, idle: Duration, loan_wait: Duration) -> (TestServer, Arc<Record>) {
    let handler = much();
    let record = Arc::clone(&handler.record);
    let builder = case.builder(handler).links_max(4).output_bytes(MUCH).stall_timeout(STALL);
    (TestServer::start(builder.idle_timeout(idle).loan_wait(loan_wait)), record)
}

fn without_an_idle_timeout_a_peer_that_takes_nothing_is_closed(case: &Case) {
    let _deadline = within(DEADLINE);
    let (server, record) = start_much(case, Duration::ZERO, LOAN_WAIT);
    let mut client = connect_small_share(server.address);
    client.write_all(b"?").unwrap();
    expect_closed(&[&client], &record, &[SlowReader]);
    server.stop();
}

fn a_peer_that_takes_nothing_is_closed_at_the_stall_timeout(case: &Case) {
    let _deadline = within(DEADLINE);
    // They have borrowed all that can be lent: no loan may be revoked before the timeout.
    let (server, record) = start_much(case, IDLE, Duration::from_secs(60));
    // A link whose peer sends all the time is closed as well: input does not show that the peer
    // reads.
    let mut silent = connect_small_share(server.address);
    let speaking = connect_small_share(server.address);
    silent.write_all(b"?").unwrap();
    { &speaking }.write_all(b"?").unwrap();
    eventually(|| server.stats().sends == 2, "both replies are queued");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = HangUp(std::slice::from_ref(&speaking));
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) && { &speaking }.write(b"more").is_ok() {
                std::thread::sleep(STALL / 50);
            }
        });
        expect_closed(&[&silent, &speaking], &record, &[SlowReader; 2]);
        over.store(true, Ordering::SeqCst);
    });
    server.stop();
}

fn a_closing_link_whose_peer_takes_nothing_ends_in_time(case: &Case) {
    let _deadline = within(DEADLINE);
    let (server, record) = start_much(case, IDLE, LOAN_WAIT);
    let mut client = connect_small_share(server.address);
    client.write_all(b"?").unwrap();
    eventually(|| server.stats().sends == 1, "the reply is queued");
    server.handle.link(record.id(0)).close();
    expect_closed(&[&client], &record, &[Kicked]);
    server.stop();
}
