//! Promise: a stop loses nothing that reached the server: every reply is sent, then the server ends
//! the stream. Links that are open at the drain timeout are force-closed and counted, and the
//! address is free.
//!
//! Method: stops during pipelined traffic, with peers that read, do not read, or close.

use crate::util;
use crate::util::{
    Case, HangUp, Record, TestServer, bytes, connect_small_window, each_back_end, echo,
    enough_files, eventually, expect_bytes, expect_end, expect_end_or_reset, now, on_chunk,
    round_trip, within,
};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wharf::{Builder, DisconnectReason, Handler, Input, Link, PostError, Result, Server};

each_back_end!(
    under_load_every_byte_that_was_received_is_answered,
    under_load_with_few_buffers_every_byte_is_answered,
    clients_that_never_stop_sending_get_all_replies_and_the_end,
    a_stop_ends_in_time_although_clients_ask_on,
    a_stop_ends_in_time_although_every_turn_is_full,
    what_is_queued_is_sent_before_the_end,
    an_idle_link_hears_the_end_at_once,
    a_stop_of_zero_cuts_at_once,
    a_peer_that_does_not_read_is_force_closed_at_the_drain_timeout,
    a_handler_that_blocked_before_the_stop_does_not_shorten_the_drain,
    a_second_stop_shortens_the_drain,
    a_peer_that_goes_on_sending_does_not_hold_the_server,
    no_connection_is_accepted_after_the_stop,
    a_stop_among_connects_leaves_nothing,
    the_address_is_free_at_once,
    serve_drains_and_ends_by_sigterm_and_sigint,
    a_second_signal_ends_serve_at_once,
);

fn under_load_every_byte_that_was_received_is_answered(case: &Case) {
    drain_under_load(|| case.builder(echo()).buffer_count(2_000), 10, 64 * 1024);
}

fn under_load_with_few_buffers_every_byte_is_answered(case: &Case) {
    drain_under_load(|| case.short(echo()).buffer_count(74), 4, 64 * 1024);
}

fn clients_that_never_stop_sending_get_all_replies_and_the_end(case: &Case) {
    drain_under_load(|| case.builder(echo()).buffer_count(2_000), 4, u64::MAX);
}

/// Clients send numbered words, at most `ahead` bytes before their replies; no reply to a received
/// word may be missing.
fn drain_under_load<H: Handler>(
    builder: impl Fn() -> Builder<H, (), ()>,
    clients: u64,
    ahead: u64,
) {
    for round in 0..5 {
        let server = TestServer::start(builder().shards(2).links_max(16));
        let streams: Vec<_> = (0..clients).map(|_| server.connect()).collect();
        let (read, stats) = std::thread::scope(|scope| {
            let mut readers = Vec::new();
            for stream in &streams {
                let read = Arc::new(AtomicU64::new(0));
                let answered = Arc::clone(&read);
                scope.spawn(move || write_words(stream, &answered, ahead));
                readers.push(scope.spawn(move || read_words(stream, &read)));
            }
            let enough = (round + 1) * 200_000;
            let ready = || server.stats().connects == clients;
            eventually(|| ready() && server.stats().received_bytes > enough, "there is load");
            let stats = server.stop();
            let lost = |_| panic!("an end that is none: {stats:?}");
            let read = readers.into_iter().map(|reader| reader.join().unwrap_or_else(lost));
            (read.sum::<u64>(), stats)
        });
        assert_eq!(read, stats.received_bytes, "answers lost: {stats:?}");
        assert_eq!(stats.closed(DisconnectReason::ServerStopping), clients, "{stats:?}");
    }
}

/// Clients send the next request after each reply, and other threads post without a pause, so that
/// there are more completions than a turn handles (256): the stop must not wait for a turn with
/// fewer. They continue in vain until the server has stopped.
fn a_stop_ends_in_time_although_every_turn_is_full(case: &Case) {
    stop_under_load(case, 3);
}

/// Clients send the next request after each reply, through the stop, so that there is always input:
/// what had arrived at the begin of the stop counts.
fn a_stop_ends_in_time_although_clients_ask_on(case: &Case) {
    stop_under_load(case, 0);
}

fn stop_under_load(case: &Case, posters: usize) {
    const CLIENTS: usize = 1_000;
    const DRAIN: Duration = Duration::from_secs(10);
    let _deadline = within(Duration::from_mins(1));
    if !enough_files(2 * CLIENTS as u64 + 300) {
        return;
    }
    let record: Arc<Record> = Arc::default();
    let waits_for_posts = (posters > 0).then(util::Mutex::default);
    let handler = Slow { record: Arc::clone(&record), waits_for_posts };
    // Posts from other threads have a sixteenth: enough for some full turns.
    let server = TestServer::start(case.builder(handler).buffer_count(40_000));
    let posted = [server.connect()];
    let id = record.id(0);
    let streams: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
    let asked: Vec<_> = (0..CLIENTS).map(|_| AtomicU64::new(0)).collect();
    let stops = AtomicBool::new(false);
    let (owed, answered, took) = std::thread::scope(|scope| {
        let (_end, _end_of_posts) = (HangUp(&streams), HangUp(&posted));
        let clients = scope.spawn(|| ask_again_and_again(&streams, &asked, &stops));
        scope.spawn(|| {
            // The first panic is reported, and this ends with it.
            drop(std::io::copy(&mut { &posted[0] }, &mut std::io::sink()));
            drop(posted[0].shutdown(Shutdown::Both));
        });
        for _ in 0..posters {
            let handle = &server.handle;
            // Short posts: half of the output has capacity for more of them than a turn handles.
            let post = move || handle.link(id).try_post([7; 64]);
            scope.spawn(move || while post() != Err(PostError::Closed) {});
        }
        // Connections that are not accepted yet would be refused.
        server.wait_for_links(1 + u32::try_from(CLIENTS).unwrap());
        if posters > 0 {
            wait_for_full_turns(&server);
        } else {
            let words = 10 * CLIENTS as u64;
            eventually(|| server.stats().receives > words, "there is load");
        }
        let owed: Vec<_> = asked.iter().map(|asked| asked.load(Ordering::SeqCst)).collect();
        let start = now();
        server.handle.stop(DRAIN);
        stops.store(posters > 0, Ordering::SeqCst);
        eventually(|| server.running().is_finished(), "the server has stopped");
        let took = start.elapsed();
        (owed, clients.join().unwrap(), took)
    });
    let stats = server.stop_within(DRAIN);
    assert_eq!(stats.forced_closes, 0, "links that the drain did not finish, {took:?}: {stats:?}");
    let lost = owed.iter().zip(&answered).filter(|(owed, answered)| answered < owed).count();
    assert_eq!(lost, 0, "links that lack an answer: {stats:?}");
    let all = answered.iter().sum::<u64>() * WORD.len() as u64;
    assert_eq!(all, stats.received_bytes, "{stats:?}");
    assert!(took < DRAIN / 2, "{took:?}, {stats:?}");
    println!("stopped in {took:?}");
}

/// Echoes, and takes longer for it than a client for the next word, also on a busy machine. In each
/// turn its first link takes the time in which a full turn of posts arrives.
struct Slow {
    record: Arc<Record>,
    /// The last turn in which it did so.
    waits_for_posts: Option<util::Mutex<Option<Instant>>>,
}

impl Handler for Slow {
    fn on_connect(&self, link: &mut Link<'_>) -> Result {
        self.record.connected(link);
        if self.waits_for_posts.is_some() && self.record.ids().len() == 1 {
            link.out.notify();
        }
        Ok(())
    }

    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        std::thread::sleep(Duration::from_micros(50));
        input.forward(&mut link.out);
        Ok(())
    }

    fn on_writable(&self, link: &mut Link<'_>) -> Result {
        if let Some(last) = &self.waits_for_posts
            && last.lock().unwrap().replace(link.now()) != Some(link.now())
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !link.server.is_stopping() {
            link.out.notify();
        }
        Ok(())
    }
}

/// Waits until forty turns in a row were almost full.
fn wait_for_full_turns(server: &TestServer) {
    let worker = || server.stats().workers[0];
    let (mut from, mut full) = (worker(), 0);
    let are_full = || {
        let to = worker();
        let (turns, completions) = (to.turns - from.turns, to.completions - from.completions);
        if turns >= 8 {
            // The two counters are read one after the other.
            full = if completions >= 250 * (turns - 1) { full + turns } else { 0 };
            from = to;
        }
        full >= 40
    };
    eventually(are_full, "every turn is full");
}

const WORD: &[u8; 8] = b"and then";

/// Sends a word on each stream, and the next one after its echo, until the server stops; returns
/// the number of echoes on each before the streams ended.
fn ask_again_and_again(streams: &[TcpStream], asked: &[AtomicU64], stops: &AtomicBool) -> Vec<u64> {
    let ask = |n: usize| {
        if { &streams[n] }.write_all(WORD).is_ok() {
            asked[n].fetch_add(1, Ordering::SeqCst);
        }
    };
    for (n, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(true).unwrap();
        ask(n);
    }
    let (mut answered, mut open) = (vec![0; streams.len()], vec![true; streams.len()]);
    let end = now() + 2 * util::PATIENCE;
    while open.contains(&true) {
        assert!(now() < end, "the streams end");
        let mut got_on = false;
        for n in (0..streams.len()).filter(|n| open[*n]).collect::<Vec<_>>() {
            let mut word = [0; WORD.len()];
            match { &streams[n] }.read(&mut word) {
                Ok(0) => {
                    open[n] = false;
                    streams[n].shutdown(Shutdown::Write).unwrap();
                }
                Ok(_) => {
                    assert_eq!(&word, WORD, "a whole word comes back at once");
                    answered[n] += 1;
                    if !stops.load(Ordering::SeqCst) {
                        ask(n);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => panic!("no good end: {error}"),
            }
            got_on = true;
        }
        if !got_on {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    answered
}

fn write_words(mut stream: &TcpStream, answered: &AtomicU64, ahead: u64) {
    let mut word = 0_u64;
    let mut piece = Vec::new();
    loop {
        while (word * 8).saturating_sub(answered.load(Ordering::SeqCst)) > ahead {
            std::thread::yield_now();
        }
        piece.clear();
        for _ in 0..100 {
            piece.extend_from_slice(&word.to_le_bytes());
            word += 1;
        }
        if stream.write_all(&piece).is_err() {
            return;
        }
    }
}

/// Shuts its connection down and ends its writer when the reader is done, also by a panic.
struct Reader<'a> {
    stream: &'a TcpStream,
    read: &'a AtomicU64,
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let _it_may_be_closed = self.stream.shutdown(Shutdown::Both);
        self.read.store(u64::MAX, Ordering::SeqCst);
    }
}

/// Checks the words up to the end of the stream, which must not be a reset, and counts the bytes.
fn read_words(stream: &TcpStream, read: &AtomicU64) -> u64 {
    let reader = Reader { stream, read };
    let (mut piece, mut count) = ([0; 8_192], 0_u64);
    loop {
        let result = { reader.stream }.read(&mut piece);
        let len = result.unwrap_or_else(|error| panic!("after {count} bytes: {error}"));
        if len == 0 {
            return count;
        }
        for byte in &piece[..len] {
            let at = usize::try_from(count % 8).unwrap();
            assert_eq!(*byte, (count / 8).to_le_bytes()[at], "byte {count}");
            count += 1;
        }
        reader.read.store(count, Ordering::SeqCst);
    }
}

fn what_is_queued_is_sent_before_the_end(case: &Case) {
    let handler = on_chunk(|link, _| Ok(link.out.send(bytes(3, 250_000))?));
    let server = TestServer::start(case.builder(handler).links_max(4).buffer_count(400));
    let mut client = connect_small_window(server.address);
    client.write_all(b"?").unwrap();
    eventually(|| server.stats().received_bytes == 1, "it has arrived");
    server.handle.stop(Duration::from_secs(10));
    expect_bytes(&mut client, &bytes(3, 250_000));
    expect_end(&mut client);
    drop(client);
    server.stop();
}

fn an_idle_link_hears_the_end_at_once(case: &Case) {
    let handler = echo();
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small(handler));
    let mut clients = [server.connect(), server.connect()];
    clients.iter_mut().for_each(|client| round_trip(client, b"hello"));
    let start = now();
    server.handle.stop(Duration::from_secs(10));
    clients.iter_mut().for_each(expect_end);
    drop(clients);
    server.stop();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(record.reasons(), [DisconnectReason::ServerStopping; 2]);
}

fn a_stop_of_zero_cuts_at_once(case: &Case) {
    let server = TestServer::start(case.small(echo()));
    let mut clients = [server.connect(), server.connect()];
    clients.iter_mut().for_each(|client| round_trip(client, b"hello"));
    let start = now();
    let stats = server.stop_within(Duration::ZERO);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(stats.forced_closes, 2);
    clients.iter_mut().for_each(expect_end_or_reset);
}

/// A server whose only client does not read the queued bytes.
fn with_a_slow_peer(case: &Case) -> (TestServer, TcpStream) {
    let answer = bytes(3, 8 << 20);
    let handler = on_chunk(move |link, _| Ok(link.out.send(&answer)?));
    let builder = case.builder(handler).links_max(4).buffer_count(12_000).output_bytes(8 << 20);
    let server = TestServer::start(builder);
    let mut client = connect_small_window(server.address);
    client.write_all(b"?").unwrap();
    eventually(|| server.stats().sends == 1, "the answer is queued");
    (server, client)
}

fn a_peer_that_does_not_read_is_force_closed_at_the_drain_timeout(case: &Case) {
    let (server, client) = with_a_slow_peer(case);
    let (start, drain) = (now(), Duration::from_millis(300));
    let stats = server.stop_within(drain);
    assert_eq!(stats.forced_closes, 1);
    assert!(start.elapsed() > drain / 2 && start.elapsed() < 10 * drain, "{:?}", start.elapsed());
    drop(client);
}

fn a_handler_that_blocked_before_the_stop_does_not_shorten_the_drain(case: &Case) {
    let handler = on_chunk(|link, _| {
        std::thread::sleep(Duration::from_millis(400));
        link.server.stop(Duration::from_millis(300));
        Ok(link.out.send(b"not lost")?)
    });
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.write_all(b"?").unwrap();
    expect_bytes(&mut client, b"not lost");
    expect_end(&mut client);
    drop(client);
    assert_eq!(server.wait().unwrap().forced_closes, 0);
}

fn a_second_stop_shortens_the_drain(case: &Case) {
    let (server, client) = with_a_slow_peer(case);
    let start = now();
    server.handle.stop(Duration::from_secs(60));
    util::meanwhile(
        Duration::from_millis(50),
        || !server.running().is_finished(),
        "the drain did not wait",
    );
    let stats = server.stop_within(Duration::ZERO);
    assert_eq!(stats.forced_closes, 1);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(client);
}

fn a_peer_that_goes_on_sending_does_not_hold_the_server(case: &Case) {
    let handler = on_chunk(|_, _| Ok(()));
    let server = TestServer::start(case.small(handler));
    let stream = server.connect();
    std::thread::scope(|scope| {
        scope.spawn(|| write_words(&stream, &AtomicU64::new(0), u64::MAX));
        eventually(|| server.stats().received_bytes > 100_000, "there is load");
        let start = now();
        server.stop_within(Duration::from_secs(15));
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    });
}

fn no_connection_is_accepted_after_the_stop(case: &Case) {
    let (server, client) = with_a_slow_peer(case);
    server.handle.stop(Duration::from_secs(60));
    eventually(|| TcpStream::connect(server.address).is_err(), "the door is closed");
    let before = server.stats().accepted;
    assert!((0..10).all(|_| TcpStream::connect(server.address).is_err()));
    assert_eq!(server.stats().accepted, before);
    drop(client);
    server.stop_within(Duration::ZERO);
}

fn a_stop_among_connects_leaves_nothing(case: &Case) {
    for n in 0..30 {
        let builder = case.short(echo()).shards(2).links_max(64).buffer_count(180);
        let server = TestServer::start(builder);
        let address = server.address;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut clients = Vec::new();
                while let Ok(mut client) = TcpStream::connect(address) {
                    let _gone = client.write_all(b"hello");
                    clients.push(client);
                    if clients.len() > 60 {
                        clients.clear();
                    }
                }
            });
            eventually(|| server.stats().connects >= n, "some are in");
            server.stop();
        });
    }
}

fn the_address_is_free_at_once(case: &Case) {
    let server = TestServer::start(case.small(echo()));
    let address = server.address;
    let mut client = server.connect();
    round_trip(&mut client, b"hello");
    // The server's side closes first, so its end of the connection stays in TIME_WAIT.
    server.handle.stop(Duration::from_secs(5));
    expect_end(&mut client);
    drop(client);
    server.stop();
    for _ in 0..20 {
        let builder = Server::builder(echo()).listen(address.to_string()).back_end(case.back_end);
        let server = TestServer::start(builder.links_max(4).buffer_count(300).shards(1));
        let mut client = server.connect();
        round_trip(&mut client, b"hello again");
        drop(client);
        server.stop();
    }
}

/// A child process that serves, and its address.
fn serving_child(case: &Case) -> (std::process::Child, std::net::SocketAddr) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = case.command(&free.to_string());
    (command.stdout(std::process::Stdio::null()).spawn().unwrap(), free)
}

/// In the child: serves until a signal.
fn serve(case: &Case, address: &str) {
    let handler = on_chunk(|link, _| Ok(link.out.send(bytes(3, 200_000))?));
    let builder = Server::builder(handler).listen(address).back_end(case.back_end).links_max(16);
    builder.serve().unwrap();
}

fn connect_when_it_serves(address: std::net::SocketAddr) -> TcpStream {
    eventually(|| TcpStream::connect(address).is_ok(), "the child serves");
    let mut client = connect_small_window(address);
    client.write_all(b"?").unwrap();
    let mut first = [0];
    client.read_exact(&mut first).unwrap();
    assert_eq!(first[0], bytes(3, 1)[0]);
    client
}

fn signal(child: &std::process::Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn serve_drains_and_ends_by_sigterm_and_sigint(case: &Case) {
    if let Some(address) = case.role() {
        return serve(case, &address);
    }
    for kind in [Signal::TERM, Signal::INT] {
        let (mut child, address) = serving_child(case);
        let mut client = connect_when_it_serves(address);
        signal(&child, kind);
        eventually(|| TcpStream::connect(address).is_err(), "the door is closed");
        expect_bytes(&mut client, &bytes(3, 200_000)[1..]);
        expect_end(&mut client);
        drop(client);
        assert!(child.wait().unwrap().success());
    }
}

fn a_second_signal_ends_serve_at_once(case: &Case) {
    if let Some(address) = case.role() {
        return serve(case, &address);
    }
    let (mut child, address) = serving_child(case);
    let client = connect_when_it_serves(address);
    signal(&child, Signal::TERM);
    eventually(|| TcpStream::connect(address).is_err(), "the door is closed");
    let start = now();
    signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    drop(client);
}
