//! Promise: reading pauses while a client does not read; the client is not closed, uses no more
//! than its share, and loses nothing. Other links are served meanwhile.
//!
//! Method: clients with a small receive window flood an echo server and read only later, while
//! others make round trips.

use crate::util;
use crate::util::{
    Case, PATIENCE, Record, TestServer, bytes, closed, connect_small_window, each_back_end, echo,
    eventually, finish, now, read_back, round_trip,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use wharf::{DisconnectReason, Handler, Input, Link, Output, Result, SendError};

each_back_end!(
    a_client_that_never_reads_is_paused_and_another_is_served,
    with_all_others_stopped_a_new_link_is_served,
    ten_thousand_requests_sent_ahead_are_all_answered,
    one_link_at_full_speed_does_not_delay_light_ones,
    a_source_of_small_pieces_sends_everything,
    a_half_closed_client_gets_all_that_the_handler_still_owes,
    a_source_of_pieces_of_two_buffers_sends_everything,
    a_handler_that_sends_into_a_full_queue_ends_with_what_is_queued,
);

/// Writes `data` from a thread of its own, and counts the written bytes.
fn flood<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    mut stream: &'scope TcpStream,
    data: &'scope [u8],
    written: &'scope AtomicUsize,
) {
    scope.spawn(move || {
        for piece in data.chunks(16 * 1024) {
            let deadline = now() + PATIENCE;
            let mut rest = piece;
            while !rest.is_empty() {
                match stream.write(rest) {
                    Ok(len) => rest = &rest[len..],
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return,
                    Err(error) => assert!(now() < deadline, "{error}"),
                }
            }
            written.fetch_add(piece.len(), Ordering::SeqCst);
        }
    });
}

/// Waits until the floods make no progress.
fn wait_for_no_progress(server: &TestServer, written: &[AtomicUsize]) {
    let sum = || written.iter().map(|w| w.load(Ordering::SeqCst)).sum::<usize>();
    let state = || (sum(), server.stats().received_bytes);
    let (mut last, mut since) = (state(), now());
    eventually(
        || {
            if state() != last {
                (last, since) = (state(), now());
            }
            last.0 > 0 && since.elapsed() > Duration::from_millis(300)
        },
        "reading pauses while a client does not read",
    );
}

fn widen(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_recv_buffer_size(1 << 20).unwrap();
}

fn a_client_that_never_reads_is_paused_and_another_is_served(case: &Case) {
    const FLOOD: usize = 50 << 20;
    let server = TestServer::start(case.builder(echo()).links_max(4).buffer_count(2_000));
    let (data, written) = (bytes(1, FLOOD), [AtomicUsize::new(0)]);
    let mut flooding = connect_small_window(server.address);
    let mut other = server.connect();
    std::thread::scope(|scope| {
        flood(scope, &flooding, &data, &written[0]);
        for n in 0..200 {
            round_trip(&mut other, &bytes(n, 1_000));
        }
        wait_for_no_progress(&server, &written);
        for n in 0..200 {
            round_trip(&mut other, &bytes(n, 1_000));
        }
        let stats = server.stats();
        assert_eq!(stats.links, 2, "no link is closed");
        assert!(stats.received_bytes < (FLOOD / 2) as u64, "it is paused: {stats:?}");
        assert!(stats.buffers.free > 0, "{:?}", stats.buffers);
        widen(&flooding);
        read_back(&flooding, &data);
    });
    finish(&mut flooding);
    finish(&mut other);
    let stats = server.stop();
    assert_eq!(stats.closed(DisconnectReason::PeerClosed), 2, "{stats:?}");
}

fn with_all_others_stopped_a_new_link_is_served(case: &Case) {
    const FLOOD: usize = 8 << 20;
    // `loan_wait` is a minute: no loan is revoked for other links.
    let builder = case
        .builder(echo())
        .links_max(8)
        .buffer_count(55)
        .buffer_size_bytes(4_096)
        .output_bytes(64 * 1024);
    let builder = builder.input_bytes(16 * 1024).loan_wait(Duration::from_mins(1));
    let server = TestServer::start(builder);
    let data: Vec<_> = (0..7).map(|seed| bytes(seed, FLOOD)).collect();
    let written: Vec<_> = (0..7).map(|_| AtomicUsize::new(0)).collect();
    let streams: Vec<_> = (0..7).map(|_| connect_small_window(server.address)).collect();
    std::thread::scope(|scope| {
        for n in 0..7 {
            flood(scope, &streams[n], &data[n], &written[n]);
        }
        wait_for_no_progress(&server, &written);
        let mut new = server.connect();
        for n in 0..100 {
            round_trip(&mut new, &bytes(n, 4_000));
        }
        finish(&mut new);
        eventually(|| closed(&server.stats()) > 0, "it is gone");
        let stats = server.stats();
        if closed(&stats) != 1 {
            // Ends the floods at once.
            streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
            panic!("another link is closed: {stats:?}");
        }
        for (stream, data) in streams.iter().zip(&data) {
            scope.spawn(|| {
                widen(stream);
                read_back(stream, data);
            });
        }
    });
    drop(streams);
    server.stop();
}

fn ten_thousand_requests_sent_ahead_are_all_answered(case: &Case) {
    let server = TestServer::start(case.builder(echo()).links_max(4).buffer_count(300));
    let client = server.connect();
    let data: Vec<u8> =
        (0..10_000).flat_map(|n| format!("request {n:09}\n").into_bytes()).collect();
    let written = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        flood(scope, &client, &data, &written);
        let mut other = server.connect();
        round_trip(&mut other, b"meanwhile");
        finish(&mut other);
        read_back(&client, &data);
    });
    drop(client);
    server.stop();
}

fn one_link_at_full_speed_does_not_delay_light_ones(case: &Case) {
    let server = TestServer::start(case.builder(echo()).links_max(16).buffer_count(400));
    let (data, written) = (bytes(3, 32 << 20), AtomicUsize::new(0));
    let heavy = server.connect();
    std::thread::scope(|scope| {
        flood(scope, &heavy, &data, &written);
        let reader = scope.spawn(|| read_back(&heavy, &data));
        let mut light: Vec<_> = (0..10).map(|_| server.connect()).collect();
        let (mut rounds, mut worst) = (0, Duration::ZERO);
        while !reader.is_finished() && rounds < 200 {
            for client in &mut light {
                let start = now();
                round_trip(client, b"light");
                worst = worst.max(start.elapsed());
            }
            rounds += 1;
        }
        // A wide bound, because other programs use the machine.
        assert!(rounds > 0 && worst < Duration::from_secs(2), "{rounds} rounds, worst {worst:?}");
    });
    drop(heavy);
    server.stop();
}

/// Sends `bytes(0, TOTAL)` to every link, as fast as it is taken.
struct Source {
    data: Vec<u8>,
    piece: usize,
}

impl Source {
    const TOTAL: usize = 4 << 20;

    fn more(&self, out: &mut Output<'_>, sent: &mut usize) -> Result {
        while *sent < self.data.len() {
            let to = self.data.len().min(*sent + self.piece);
            match out.send(&self.data[*sent..to]) {
                Ok(()) => *sent = to,
                Err(SendError::Full) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Handler<usize> for Source {
    fn on_connect(&self, link: &mut Link<'_>) -> Result<usize> {
        let mut sent = 0;
        self.more(&mut link.out, &mut sent)?;
        Ok(sent)
    }

    fn on_receive(&self, _: &mut Link<'_, usize>, input: &mut Input<'_>) -> Result {
        input.consume(usize::MAX);
        Ok(())
    }

    fn on_writable(&self, link: &mut Link<'_, usize>) -> Result {
        self.more(&mut link.out, link.state)
    }
}

fn a_source_of_small_pieces_sends_everything(case: &Case) {
    source_sends_everything(case, 2_000);
}

fn a_source_of_pieces_of_two_buffers_sends_everything(case: &Case) {
    source_sends_everything(case, 3_000);
}

fn source_sends_everything(case: &Case, piece: usize) {
    let source = Source { data: bytes(0, Source::TOTAL), piece };
    let data = source.data.clone();
    let builder = case.small(source).buffer_count(32);
    let server = TestServer::start(builder);
    let clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    std::thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| read_back(client, &data));
        }
    });
    drop(clients);
    let stats = server.stop();
    assert_eq!(stats.sent_bytes, 4 * Source::TOTAL as u64);
    assert!(stats.send_errors > 0, "no limit was met: {stats:?}");
}

fn a_half_closed_client_gets_all_that_the_handler_still_owes(case: &Case) {
    let source = Source { data: bytes(0, Source::TOTAL), piece: 2_000 };
    let data = source.data.clone();
    let server = TestServer::start(case.builder(source).links_max(4).output_bytes(16 * 1024));
    let mut client = server.connect();
    client.shutdown(Shutdown::Write).unwrap();
    read_back(&client, &data);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    let stats = server.stop();
    assert_eq!(stats.closed(DisconnectReason::PeerClosed), 1, "{stats:?}");
}

fn a_handler_that_sends_into_a_full_queue_ends_with_what_is_queued(case: &Case) {
    // Replies to each byte with many, so that pausing cannot help.
    let handler = util::on_chunk(|link, data| {
        for _ in data {
            link.out.send([b'x'; 4_096])?;
        }
        Ok(())
    });
    let record: std::sync::Arc<Record> = handler.record.clone();
    let builder = case
        .builder(handler)
        .links_max(4)
        .buffer_count(83)
        .input_bytes(16 * 1024)
        .output_bytes(64 * 1024);
    let server = TestServer::start(builder);
    let mut slow = server.connect();
    let mut other = server.connect();
    slow.write_all(&[0; 100]).unwrap();
    // Whole messages, then the end of the stream and no reset: the link did not end because of its
    // peer.
    let mut got = Vec::new();
    slow.read_to_end(&mut got).unwrap();
    assert!(got.iter().all(|byte| *byte == b'x') && got.len() % 4_096 == 0, "{}", got.len());
    assert!((1..=16).contains(&(got.len() / 4_096)), "{} bytes of at most 64 KiB", got.len());
    drop(slow);
    record.expect(&[DisconnectReason::OutputFull]);
    other.write_all(b"?").unwrap();
    util::expect_bytes(&mut other, &[b'x'; 4_096]);
    finish(&mut other);
    server.wait_for_links(0);
    let stats = server.stop();
    let counts = [DisconnectReason::OutputFull, DisconnectReason::SlowReader];
    assert_eq!(counts.map(|reason| stats.closed(reason)), [1, 0], "{stats:?}");
}
