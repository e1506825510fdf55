//! Promise: a client that reads everything gets every byte, however fast it sends and on any number
//! of shards; after a stop too, it gets the replies to all that the server's system had
//! acknowledged.
//!
//! Method: eight clients send to an echo server as fast as they can.

use crate::util;
use crate::util::{
    BLOCKED_AFTER, Case, Got, HangUp, PATIENCE, Pattern, TestServer, each_back_end, echo,
    eventually, now, on_chunk, read_pattern, unacknowledged, within, write_until_blocked,
};
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use wharf::DisconnectReason::{PeerClosed, ServerStopping};

each_back_end!(
    who_reads_everything_gets_every_byte,
    who_sent_much_while_a_handler_was_busy_gets_every_byte,
    who_sends_through_a_stop_gets_what_the_system_had_taken,
    who_reads_only_after_a_stop_gets_what_the_system_had_taken,
);

/// Bytes that each client sends: without optimization they take about ten times as long.
const EACH: u64 = if cfg!(debug_assertions) { 16 << 20 } else { 64 << 20 };
const CLIENTS: u64 = 8;
const DEADLINE: Duration = Duration::from_mins(2);

fn who_reads_everything_gets_every_byte(case: &Case) {
    let _deadline = within(DEADLINE);
    let pattern = Pattern::new(1);
    for shards in [1, 2, 4, 8] {
        let server = TestServer::start(case.builder(echo()).shards(shards));
        let streams: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
        let got: Vec<Got> = std::thread::scope(|scope| {
            let readers: Vec<_> = streams
                .iter()
                .map(|stream| {
                    scope.spawn(|| send(stream, &pattern, EACH));
                    scope.spawn(|| read_pattern(stream, &pattern, u64::MAX))
                })
                .collect();
            readers.into_iter().map(|reader| reader.join().unwrap()).collect()
        });
        let incomplete = got.iter().filter(|got| got.len < EACH || got.error.is_some()).count();
        assert_eq!(incomplete, 0, "of {CLIENTS}, {shards} shards: {got:?} {:?}", server.stats());
        drop(streams);
        let stats = server.stop();
        assert_eq!(stats.closed(PeerClosed), CLIENTS, "{shards} shards: {stats:?}");
        assert_eq!(stats.send_errors, 0, "{shards} shards: {stats:?}");
    }
}

/// Input that arrives during a long callback is handled in one batch afterwards.
fn who_sent_much_while_a_handler_was_busy_gets_every_byte(case: &Case) {
    let _deadline = within(DEADLINE);
    let pattern = Pattern::new(4);
    for shards in [1, 2] {
        let busy = Arc::new(AtomicBool::new(false));
        let held = Arc::clone(&busy);
        let handler = on_chunk(move |link, data| {
            let end = now() + PATIENCE;
            while held.load(Ordering::SeqCst) && now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(link.out.send(data)?)
        });
        let server = TestServer::start(case.builder(handler).shards(shards));
        let streams: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
        let written: Vec<_> = (0..CLIENTS).map(|_| AtomicU64::new(0)).collect();
        let over = AtomicBool::new(false);
        let got: Vec<Got> = std::thread::scope(|scope| {
            let _end = HangUp(&streams);
            let mut readers = Vec::new();
            for (stream, written) in streams.iter().zip(&written) {
                scope.spawn(|| send_on(stream, &pattern, written, &over));
                readers.push(scope.spawn(|| read_pattern(stream, &pattern, u64::MAX)));
            }
            for _ in 0..4 {
                let before = server.stats().received_bytes;
                let load = || server.stats().received_bytes > before + CLIENTS * (1 << 20);
                let has_ended = || readers.iter().any(std::thread::ScopedJoinHandle::is_finished);
                eventually(|| load() || has_ended(), "there is load");
                busy.store(true, Ordering::SeqCst);
                wait_until_all_stand(&written);
                busy.store(false, Ordering::SeqCst);
            }
            over.store(true, Ordering::SeqCst);
            readers.into_iter().map(|reader| reader.join().unwrap()).collect()
        });
        let written: Vec<u64> = written.into_iter().map(AtomicU64::into_inner).collect();
        let incomplete =
            got.iter().zip(&written).filter(|(got, written)| got.len < **written).count();
        let told = format!("{shards} shards: sent {written:?}, {got:?}, {:?}", server.stats());
        assert_eq!(incomplete, 0, "of {CLIENTS} got too little, {told}");
        assert!(got.iter().all(|got| got.error.is_none()), "{told}");
        drop(streams);
        let stats = server.stop();
        assert_eq!(stats.closed(PeerClosed), CLIENTS, "{stats:?}");
    }
}

fn wait_until_all_stand(written: &[AtomicU64]) {
    let sum = || written.iter().map(|written| written.load(Ordering::SeqCst)).sum::<u64>();
    let (mut last, mut since) = (sum(), now());
    eventually(
        || {
            if sum() != last {
                (last, since) = (sum(), now());
            }
            since.elapsed() > BLOCKED_AFTER
        },
        "a busy server takes no more",
    );
}

fn send(mut stream: &TcpStream, pattern: &Pattern, len: u64) {
    let mut at = 0;
    while at < len {
        let piece = pattern.piece(at, usize::try_from(len - at).unwrap_or(usize::MAX));
        // The reader's count shows how far it got.
        if stream.write_all(piece).is_err() {
            return;
        }
        at += piece.len() as u64;
    }
    let _closed = stream.shutdown(Shutdown::Write);
}

fn who_sends_through_a_stop_gets_what_the_system_had_taken(case: &Case) {
    let _deadline = within(DEADLINE);
    let pattern = Pattern::new(2);
    for shards in [1, 2, 4] {
        let server = TestServer::start(case.builder(echo()).shards(shards));
        let streams: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
        let written: Vec<_> = (0..CLIENTS).map(|_| AtomicU64::new(0)).collect();
        let over = AtomicBool::new(false);
        let (taken, got): (Vec<u64>, Vec<Got>) = std::thread::scope(|scope| {
            let _end = HangUp(&streams);
            let mut readers = Vec::new();
            for (stream, written) in streams.iter().zip(&written) {
                scope.spawn(|| send_on(stream, &pattern, written, &over));
                readers.push(scope.spawn(|| read_pattern(stream, &pattern, u64::MAX)));
            }
            let load = || server.stats().received_bytes > CLIENTS * EACH / 4;
            eventually(load, "there is load");
            // Bytes that were written before this are received if the system shows them as
            // acknowledged.
            let taken = written.iter().zip(&streams).map(|(written, stream)| {
                written.load(Ordering::SeqCst).saturating_sub(unacknowledged(stream))
            });
            let taken = taken.collect();
            server.handle.stop(Duration::from_secs(10));
            // A client that sends without end gets a reset, after its replies.
            over.store(true, Ordering::SeqCst);
            (taken, readers.into_iter().map(|reader| reader.join().unwrap()).collect())
        });
        // A client that ended its stream before its link drained has the reason PeerClosed.
        check_stopped(server, &taken, &got, &[ServerStopping, PeerClosed]);
    }
}

/// Writes until the connection ends or `over` is set; stores the number of bytes.
fn send_on(mut stream: &TcpStream, pattern: &Pattern, written: &AtomicU64, over: &AtomicBool) {
    let mut at = 0;
    while !over.load(Ordering::SeqCst) {
        match stream.write(pattern.piece(at, 1 << 16)) {
            Ok(len) => at += len as u64,
            Err(_) => return,
        }
        written.store(at, Ordering::SeqCst);
    }
    let _closed = stream.shutdown(Shutdown::Write);
}

fn who_reads_only_after_a_stop_gets_what_the_system_had_taken(case: &Case) {
    let _deadline = within(DEADLINE);
    let pattern = Pattern::new(3);
    for shards in [1, 2, 4] {
        let server = TestServer::start(case.builder(echo()).shards(shards));
        let streams: Vec<_> =
            (0..CLIENTS).map(|_| util::connect_small_window(server.address)).collect();
        let (taken, got): (Vec<u64>, Vec<Got>) = std::thread::scope(|scope| {
            let writers: Vec<_> = streams
                .iter()
                .map(|stream| scope.spawn(|| write_until_blocked(stream, &pattern, u64::MAX)))
                .collect();
            let written: Vec<u64> = writers.into_iter().map(|w| w.join().unwrap()).collect();
            let taken = written.iter().zip(&streams);
            let taken = taken.map(|(written, stream)| written - unacknowledged(stream)).collect();
            server.handle.stop(Duration::from_secs(10));
            let readers: Vec<_> = streams
                .iter()
                .map(|stream| {
                    socket2::SockRef::from(stream).set_recv_buffer_size(1 << 20).unwrap();
                    scope.spawn(|| read_pattern(stream, &pattern, u64::MAX))
                })
                .collect();
            (taken, readers.into_iter().map(|reader| reader.join().unwrap()).collect())
        });
        drop(streams);
        check_stopped(server, &taken, &got, &[ServerStopping]);
    }
}

#[track_caller]
fn check_stopped(
    server: TestServer,
    taken: &[u64],
    got: &[Got],
    reasons: &[wharf::DisconnectReason],
) {
    let stats = server.stop();
    let lost = taken.iter().zip(got).filter(|(taken, got)| got.len < **taken).count();
    assert_eq!(lost, 0, "of {CLIENTS} lack answers: taken {taken:?}, got {got:?}, {stats:?}");
    assert!(taken.iter().all(|taken| *taken > 0), "{taken:?}");
    assert!(got.iter().all(|got| got.error.is_none()), "no good end: {got:?} {stats:?}");
    let closed = reasons.iter().map(|reason| stats.closed(*reason)).sum::<u64>();
    assert_eq!(closed, CLIENTS, "{reasons:?}: {stats:?}");
}
