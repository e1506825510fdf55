//! Promise: who reads slowly but steadily is never cut, whatever the time-outs are; who takes
//! nothing is, as a slow reader, when the stall time-out is over.
//!
//! Method: short time-outs, clients with a small receive window that read at a fixed rate, and a
//! clock beside them.

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
/// Long enough for several time-outs.
const SPAN: Duration = Duration::from_millis(4_500);

/// Waits until the links have ended for these reasons, and checks that this was in time: counted from
/// when their peers' systems last took something, which goes on for a while after the last read.
#[track_caller]
fn expect_closed(streams: &[&TcpStream], record: &Record, why: &[DisconnectReason]) {
    // What the clients' systems have taken; that the server's own has taken more is no sign of them.
    let state = || {
        let taken = |stream: &&TcpStream| rustix::io::ioctl_fionread(*stream).unwrap();
        streams.iter().map(taken).sum::<u64>()
    };
    let (mut last, mut since, end) = (state(), now(), now() + util::PATIENCE);
    let mut changed = None;
    while record.ends().len() < why.len() {
        assert!(now() < end, "not cut, nothing taken for {:?}", since.elapsed());
        let state = state();
        // The end changes it, too, so a change counts only if the next look still finds no end.
        since = changed.filter(|_| record.ends().is_empty()).unwrap_or(since);
        changed = (state != last).then(now);
        last = state;
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = since.elapsed();
    assert_eq!(record.reasons(), why);
    // The server looks eight times in a time-out: what was taken before the first look may count
    // for nothing.
    assert!(took >= STALL * 8 / 10, "cut too early: after {took:?} of {STALL:?}");
    assert!(took <= STALL * 16 / 10, "cut too late: after {took:?} of {STALL:?}");
}

/// Reads `rate` bytes each second for `span`, or up to the end of `most`; says how many came, and
/// what ended it.
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
        let room = usize::try_from(due.saturating_sub(len).min(most - len)).unwrap();
        if room < 512 && len + room as u64 != most {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        let room = room.min(piece.len());
        match stream.read(&mut piece[..room]) {
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

/// Sends the pattern without end, a piece at a time.
struct Download {
    pattern: Pattern,
    record: Arc<Record>,
}

impl Download {
    /// Two grants, the least that an output can have.
    const QUEUED_MAX: usize = 4_096;

    fn new() -> (Self, Arc<Record>) {
        let record: Arc<Record> = Arc::default();
        (Self { pattern: Pattern::new(1), record: Arc::clone(&record) }, record)
    }

    /// Always less than it wants to, so that it is called again.
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
    assert_eq!(error, None, "cut after {len} bytes: {:?}", record.ends());
    assert!(server.stats().links == 1 && record.ends().is_empty(), "{:?} {id}", record.ends());
    // From here on it takes nothing.
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
                // The reader tells how far it came.
                if stream.write_all(piece).is_err() {
                    return;
                }
                at += piece.len() as u64;
            }
            if half_close {
                let _cut = stream.shutdown(Shutdown::Write);
            }
        });
        read_steadily(&streams[0], pattern, rate, 4 * SPAN, len)
    })
}

/// More than server and sockets hold between the two, at a rate that takes some time-outs. The
/// server's system takes megabytes, and more only when a third of them has gone.
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
    assert_eq!(got, (ECHO, None), "cut: {:?}, {:?}", record.ends(), server.stats());
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
    assert_eq!(got, (ECHO, None), "cut: {:?}, {:?}", record.ends(), server.stats());
    record.expect(&[PeerClosed]);
    server.stop();
}

fn a_steady_reader_is_not_closed_while_all_buffers_are_lent(case: &Case) {
    const GREEDY: usize = 12;
    let _deadline = within(DEADLINE);
    let handler = echo();
    let record = Arc::clone(&handler.record);
    // Two full links take all that can be lent.
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
    // Others go on asking for more.
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

/// Sends and reads back, as far as the connection goes.
fn exchange_if_open(mut stream: &TcpStream, data: &[u8]) {
    std::thread::scope(|scope| {
        scope.spawn(move || drop({ stream }.write_all(data)));
        let mut got = vec![0; data.len()];
        let _the_steady_one_is_looked_at = stream.read_exact(&mut got);
    });
}

/// A handler that answers anything with more than both systems hold.
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
    // They have borrowed all there is: nobody may take it back before the time-out.
    let (server, record) = start_much(case, IDLE, Duration::from_secs(60));
    // One that goes on sending is cut as well: that it speaks is no sign that it reads.
    let mut silent = connect_small_share(server.address);
    let speaking = connect_small_share(server.address);
    silent.write_all(b"?").unwrap();
    { &speaking }.write_all(b"?").unwrap();
    eventually(|| server.stats().sends == 2, "both answers are queued");
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
    eventually(|| server.stats().sends == 1, "the answer is queued");
    server.handle.link(record.id(0)).close();
    expect_closed(&[&client], &record, &[Kicked]);
    server.stop();
}
