//! Promise: each worker has a context of its own, made, used and dropped on its thread; a panic in
//! a callback ends its link and that context only.
//!
//! Method: contexts that are not `Send` and count themselves; a handler that panics where the
//! client asks for it.

use crate::util::{
    Case, Mutex, ON_PURPOSE, Record, TestServer, check_all_released, each_back_end, eventually,
    expect_bytes, expect_end_or_reset, finish, round_trip, silence_panics_on_purpose,
};
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::ThreadId;
use std::time::Duration;
use wharf::{DisconnectReason, Error, Handler, Input, Link, Result, Verdict, Worker, WorkerId};

each_back_end!(
    each_worker_has_one_context_on_its_own_thread,
    a_panic_in_on_receive_costs_its_link_and_the_context,
    a_panic_in_on_connect_refuses_the_connection,
    a_panic_in_on_writable_costs_its_link,
    a_panic_in_on_idle_costs_its_link,
    a_panic_in_on_disconnect_costs_only_the_context,
    a_thousand_panics_lose_nothing,
    a_panic_while_stopping_does_not_hang_the_stop,
    a_context_that_panics_when_dropped_does_not_stop_the_worker,
    a_context_that_cannot_be_made_again_stops_the_server_with_the_reason,
    a_panic_while_a_context_is_made_again_stops_the_server_with_the_reason,
);

#[derive(Default)]
struct Seen {
    made: Mutex<Vec<(WorkerId, ThreadId, String)>>,
    dropped: AtomicU32,
    /// The result of `on_worker_start` from its second call on.
    again: AtomicU32,
    drop_panics: AtomicU32,
    connect_panics: AtomicU32,
    record: Record,
}

const FINE: u32 = 0;
const FAILS: u32 = 1;
const PANICS: u32 = 2;

struct Context {
    thread: ThreadId,
    calls: Rc<AtomicU64>,
    seen: Arc<Seen>,
}

impl Drop for Context {
    fn drop(&mut self) {
        assert_eq!(self.thread, std::thread::current().id());
        self.seen.dropped.fetch_add(1, Ordering::SeqCst);
        if self.seen.drop_panics.load(Ordering::SeqCst) > 0 {
            self.seen.drop_panics.fetch_sub(1, Ordering::SeqCst);
            panic_on_purpose();
        }
    }
}

#[derive(Clone, Default)]
struct Panicking(Arc<Seen>);

#[derive(Default)]
struct State {
    on_writable: bool,
    on_disconnect: bool,
}

fn panic_on_purpose() -> ! {
    std::panic::panic_any(ON_PURPOSE)
}

impl Handler<State, Context> for Panicking {
    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<Context> {
        let worker = worker.id();
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default().to_owned();
        let mut made = self.0.made.lock().unwrap();
        made.push((worker, thread.id(), name));
        let again = made.iter().filter(|entry| entry.0 == worker).count() > 1;
        drop(made);
        match self.0.again.load(Ordering::SeqCst) {
            FAILS if again => return Err(Error::msg("the database is away")),
            PANICS if again => panic_on_purpose(),
            _ => {}
        }
        Ok(Context { thread: thread.id(), calls: Rc::default(), seen: Arc::clone(&self.0) })
    }

    fn on_connect(&self, link: &mut Link<'_, (), Context>) -> Result<State> {
        if self.0.connect_panics.load(Ordering::SeqCst) > 0 {
            self.0.connect_panics.fetch_sub(1, Ordering::SeqCst);
            panic_on_purpose();
        }
        self.0.record.connected(link);
        Ok(State::default())
    }

    fn on_receive(&self, link: &mut Link<'_, State, Context>, input: &mut Input<'_>) -> Result {
        assert_eq!(link.worker.thread, std::thread::current().id());
        let calls = link.worker.calls.fetch_add(1, Ordering::SeqCst);
        match input.chunk() {
            b"panic" => panic_on_purpose(),
            b"panic when writable" => {
                link.state.on_writable = true;
                link.out.notify();
            }
            b"panic at the end" => link.state.on_disconnect = true,
            b"calls?" => {
                input.consume(usize::MAX);
                return Ok(write!(link.out, "{calls:04}")?);
            }
            _ => {}
        }
        input.forward(&mut link.out);
        Ok(())
    }

    fn on_writable(&self, link: &mut Link<'_, State, Context>) -> Result {
        if link.state.on_writable { panic_on_purpose() } else { Ok(()) }
    }

    fn on_idle(&self, _: &mut Link<'_, State, Context>) -> Result<Verdict> {
        panic_on_purpose()
    }

    fn on_disconnect(&self, link: &mut Link<'_, State, Context>, reason: DisconnectReason) {
        self.0.record.disconnected(link, reason);
        if link.state.on_disconnect {
            panic_on_purpose();
        }
    }
}

fn start(case: &Case) -> (TestServer, Arc<Seen>) {
    silence_panics_on_purpose();
    let handler = Panicking::default();
    let seen = Arc::clone(&handler.0);
    (TestServer::start(case.small(handler)), seen)
}

fn each_worker_has_one_context_on_its_own_thread(case: &Case) {
    let handler = Panicking::default();
    let seen = Arc::clone(&handler.0);
    let server = TestServer::start(case.short(handler).shards(3).links_max(12).buffer_count(84));
    let mut clients: Vec<_> = (0..12).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| round_trip(client, b"hello"));
    let mut made = seen.made.lock().unwrap().clone();
    made.sort_by_key(|entry| entry.0);
    assert_eq!(made.iter().map(|entry| entry.0.index()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(made.iter().all(|entry| entry.2.starts_with("wharf-")), "{made:?}");
    assert_ne!(made[0].1, made[1].1);
    clients.iter_mut().for_each(finish);
    server.stop();
    assert_eq!(seen.dropped.load(Ordering::SeqCst), 3);
}

/// Checks that another link is served, by a context with `calls` calls.
fn others_go_on(other: &mut TcpStream, calls: &str) {
    other.write_all(b"calls?").unwrap();
    expect_bytes(other, calls.as_bytes());
}

fn a_panic_in_on_receive_costs_its_link_and_the_context(case: &Case) {
    let (server, seen) = start(case);
    let (mut other, mut client) = (server.connect(), server.connect());
    round_trip(&mut client, b"hello");
    round_trip(&mut other, b"hello");
    others_go_on(&mut other, "0002");
    client.write_all(b"panic").unwrap();
    expect_end_or_reset(&mut client);
    others_go_on(&mut other, "0000");
    assert_eq!(seen.record.reasons(), [DisconnectReason::HandlerPanic]);
    finish(&mut other);
    let stats = server.stop();
    assert_eq!((stats.handler_panics, seen.dropped.load(Ordering::SeqCst)), (1, 2));
    assert_eq!(seen.made.lock().unwrap().len(), 2);
}

fn a_panic_in_on_connect_refuses_the_connection(case: &Case) {
    let (server, seen) = start(case);
    let mut other = server.connect();
    round_trip(&mut other, b"hello");
    seen.connect_panics.store(1, Ordering::SeqCst);
    // The reset may arrive during the connect.
    match TcpStream::connect(server.address) {
        Ok(mut client) => expect_end_or_reset(&mut client),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    others_go_on(&mut other, "0000");
    finish(&mut other);
    let stats = server.stop();
    assert_eq!((stats.rejects, stats.handler_panics, stats.connects), (1, 1, 1));
    assert_eq!(seen.record.reasons(), [DisconnectReason::PeerClosed]);
}

fn a_panic_in_on_writable_costs_its_link(case: &Case) {
    let (server, seen) = start(case);
    let (mut other, mut client) = (server.connect(), server.connect());
    round_trip(&mut other, b"hello");
    client.write_all(b"panic when writable").unwrap();
    expect_end_or_reset(&mut client);
    others_go_on(&mut other, "0000");
    seen.record.expect(&[DisconnectReason::HandlerPanic]);
    finish(&mut other);
    server.stop();
}

fn a_panic_in_on_idle_costs_its_link(case: &Case) {
    silence_panics_on_purpose();
    let handler = Panicking::default();
    let seen = Arc::clone(&handler.0);
    let server = TestServer::start(case.small(handler).idle_timeout(Duration::from_millis(300)));
    let mut client = server.connect();
    expect_end_or_reset(&mut client);
    seen.record.expect(&[DisconnectReason::HandlerPanic]);
    let mut other = server.connect();
    round_trip(&mut other, b"hello");
    drop(other);
    let stats = server.stop();
    assert_eq!(stats.closed(DisconnectReason::HandlerPanic), 1);
}

fn a_panic_in_on_disconnect_costs_only_the_context(case: &Case) {
    let (server, seen) = start(case);
    let (mut other, mut client) = (server.connect(), server.connect());
    round_trip(&mut other, b"hello");
    round_trip(&mut client, b"panic at the end");
    finish(&mut client);
    server.wait_for_links(1);
    others_go_on(&mut other, "0000");
    assert_eq!(seen.record.reasons(), [DisconnectReason::PeerClosed]);
    finish(&mut other);
    server.stop();
}

fn a_thousand_panics_lose_nothing(case: &Case) {
    let (server, seen) = start(case);
    let mut other = server.connect();
    round_trip(&mut other, b"hello");
    let words: [&[u8]; 3] = [b"panic", b"panic when writable", b"panic at the end"];
    for n in 0..1_000 {
        let mut client = server.connect();
        client.write_all(words[n % 3]).unwrap();
        if n % 3 == 2 {
            client.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut sink = Vec::new();
        let _end_or_reset = std::io::Read::read_to_end(&mut client, &mut sink);
        if n % 10 == 0 {
            round_trip(&mut other, b"still here");
        }
    }
    eventually(|| seen.record.ends().len() == 1_000, "each link has its end");
    finish(&mut other);
    let stats = server.stop();
    assert_eq!(stats.handler_panics, 1_000);
    assert_eq!(seen.dropped.load(Ordering::SeqCst), 1_001);
}

fn a_panic_while_stopping_does_not_hang_the_stop(case: &Case) {
    let (server, seen) = start(case);
    let mut clients = [server.connect(), server.connect(), server.connect()];
    for client in &mut clients {
        round_trip(client, b"panic at the end");
    }
    let stopper = server.handle.clone();
    stopper.stop(Duration::from_secs(5));
    clients.iter_mut().for_each(expect_end_or_reset);
    drop(clients);
    let stats = server.stop();
    assert_eq!(stats.handler_panics, 3);
    assert_eq!(seen.record.ends().len(), 3);
}

fn a_context_that_panics_when_dropped_does_not_stop_the_worker(case: &Case) {
    let (server, seen) = start(case);
    let mut client = server.connect();
    round_trip(&mut client, b"hello");
    seen.drop_panics.store(1, Ordering::SeqCst);
    client.write_all(b"panic").unwrap();
    expect_end_or_reset(&mut client);
    let mut other = server.connect();
    others_go_on(&mut other, "0000");
    finish(&mut other);
    server.stop();
}

fn a_context_that_cannot_be_made_again_stops_the_server_with_the_reason(case: &Case) {
    stops_with(case, FAILS, "the database is away");
}

fn a_panic_while_a_context_is_made_again_stops_the_server_with_the_reason(case: &Case) {
    stops_with(case, PANICS, "panicked");
}

fn stops_with(case: &Case, again: u32, reason: &str) {
    assert_ne!(again, FINE);
    silence_panics_on_purpose();
    let handler = Panicking::default();
    let seen = Arc::clone(&handler.0);
    let server = TestServer::start(case.short(handler).shards(2).links_max(8).buffer_count(64));
    let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| round_trip(client, b"hello"));
    seen.again.store(again, Ordering::SeqCst);
    clients[0].write_all(b"panic").unwrap();
    clients.iter_mut().for_each(expect_end_or_reset);
    let handle = server.handle.clone();
    let error = server.wait().unwrap_err().to_string();
    assert!(error.contains(reason), "{error}");
    check_all_released(&handle.stats());
    // A worker without a context cannot call on_disconnect; the other worker did.
    assert!(seen.record.ends().len() >= 2, "{:?}", seen.record.reasons());
}
