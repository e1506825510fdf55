//! Promise: a panic in any callback resets its link without what is queued, which may be half of a
//! reply, and is counted; `on_disconnect` is still called, with the state as the panic left it;
//! other links are not affected.
//!
//! Method: a table of callbacks; beside each link that panics is one that does not.

use crate::util::functions::{Functions, functions};
use crate::util::{
    Case, Mutex, ON_PURPOSE, TestServer, each_back_end, eventually, expect_bytes, expect_end,
    expect_end_or_reset, finish, round_trip, silence_panics_on_purpose,
};
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wharf::DisconnectReason::{HandlerPanic, Kicked, PeerClosed, ServerStopping};
use wharf::{Handle, Handler, Input, Link, Result, StartErrorKind, Verdict, Worker};

each_back_end!(
    a_panic_of_a_callback_resets_its_link_and_no_other,
    a_panic_of_on_connect_resets_the_connection,
    a_panic_while_a_text_is_written_leaves_nothing_of_it,
    a_panic_of_on_disconnect_releases_the_link_as_usual,
    a_panic_while_a_state_is_dropped_releases_the_link_as_usual,
    posts_made_before_a_panic_arrive,
    a_panic_of_a_callback_at_the_stop_does_not_hold_it,
    a_panic_of_on_start_is_an_error_of_the_start,
    a_panic_of_on_worker_start_is_an_error_of_the_start,
    a_panic_of_on_stop_is_ignored,
);

fn panic_on_purpose() -> ! {
    std::panic::panic_any(ON_PURPOSE)
}

/// A `Display` that writes half of its text, and panics.
struct Bad;

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("half")?;
        panic_on_purpose()
    }
}

/// What a link is to do, and its steps so far.
#[derive(Default)]
struct State {
    panics_in: String,
    steps: u64,
}

/// A link panics in the callback that its line names; all others echo.
fn panicking(steps: &Arc<AtomicU64>) -> Functions<State> {
    fn step(link: &mut Link<'_, State>, here: &str) -> Result {
        link.state.steps += 1;
        if link.state.panics_in == here {
            link.out.send("half a reply")?;
            link.state.steps += 100;
            panic_on_purpose();
        }
        Ok(())
    }
    let steps = Arc::clone(steps);
    functions::<State>()
        .on_receive(|link, input| {
            let Some(line) = input.line(100)? else { return Ok(()) };
            let line = std::str::from_utf8(line)?.to_owned();
            match line.as_str() {
                "idle" => link.set_idle_timeout(Duration::from_millis(50)),
                "writable" => link.out.notify(),
                _ => {}
            }
            link.state.panics_in.clone_from(&line);
            step(link, "receive")?;
            match line.as_str() {
                "write" => write!(link.out, "before {Bad} after")?,
                "build" => link.out.build(|to| {
                    to.write_all(b"half")?;
                    panic_on_purpose();
                    #[expect(unreachable_code, reason = "says which type of error it would be")]
                    Ok::<(), wharf::Error>(())
                })?,
                _ => link.out.send((&line, "\n"))?,
            }
            Ok(())
        })
        .on_writable(|link| step(link, "writable"))
        .on_end(|link, _| step(link, "end").map(|()| Verdict::Close))
        .on_idle(|link| step(link, "idle").map(|()| Verdict::Keep))
        .on_drain(|link| step(link, "drain").map(|()| Verdict::Close))
        .on_disconnect(move |link, _| {
            steps.fetch_add(link.state.steps, Ordering::SeqCst);
        })
}

/// Checks that a reset follows, and no bytes before it.
#[track_caller]
fn expect_reset(client: &mut TcpStream) {
    let error = client.read(&mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn a_panic_of_a_callback_resets_its_link_and_no_other(case: &Case) {
    silence_panics_on_purpose();
    // The bytes before the reset, and the number of callbacks.
    let tests = [
        ("receive", "", 101),
        ("writable", "writable\n", 102),
        ("end", "end\n", 102),
        ("idle", "idle\n", 102),
        ("drain", "drain\n", 102),
    ];
    for (word, heard, steps_expected) in tests {
        let steps = Arc::default();
        let (handler, record, _) = panicking(&steps).watched();
        let server = TestServer::start(case.small(handler));
        let (mut other, mut client) = (server.connect(), server.connect());
        round_trip(&mut other, b"first\n");
        writeln!(client, "{word}").unwrap();
        // A panic of the same turn may discard the reply.
        if word != "writable" {
            expect_bytes(&mut client, heard.as_bytes());
        }
        match word {
            "end" => client.shutdown(Shutdown::Write).unwrap(),
            "drain" => server.handle.stop(Duration::from_secs(10)),
            _ => {}
        }
        if word == "writable" {
            let mut got = Vec::new();
            let error = client.read_to_end(&mut got).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            assert!(got.is_empty() || got == heard.as_bytes(), "{got:?}");
        } else {
            expect_reset(&mut client);
        }
        eventually(|| record.reasons().contains(&HandlerPanic), word);
        let alone = record.ends().iter().filter(|end| end.reason == HandlerPanic).count();
        assert_eq!(alone, 1, "{word}");
        if word == "drain" {
            expect_end(&mut other);
        } else {
            // `on_disconnect` has the state as the panic left it.
            eventually(|| steps.load(Ordering::SeqCst) == steps_expected, word);
            round_trip(&mut other, b"still here\n");
            finish(&mut other);
        }
        drop((client, other));
        let stats = server.stop();
        assert_eq!((stats.handler_panics, stats.closed(HandlerPanic)), (1, 1), "{word}");
    }
}

fn a_panic_of_on_connect_resets_the_connection(case: &Case) {
    silence_panics_on_purpose();
    let count = AtomicU64::new(0);
    let handler = functions::<State>()
        .on_connect(move |link| {
            if count.fetch_add(1, Ordering::SeqCst) % 2 == 1 {
                link.out.send("half a greeting")?;
                panic_on_purpose();
            }
            Ok(State::default())
        })
        .on_receive(|link, input| {
            input.forward(&mut link.out);
            Ok(())
        });
    let (handler, record, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    for _ in 0..20 {
        let mut other = server.connect();
        round_trip(&mut other, b"hello");
        // The reset may arrive during the connect.
        match TcpStream::connect(server.address) {
            Ok(mut client) => expect_reset(&mut client),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        round_trip(&mut other, b"still here");
        finish(&mut other);
        server.wait_for_links(0);
    }
    assert_eq!(record.reasons(), [PeerClosed; 20]);
    let stats = server.stop();
    assert_eq!((stats.rejects, stats.connects, stats.handler_panics), (20, 20, 20));
    assert_eq!(calls.receives(), 40);
}

fn a_panic_while_a_text_is_written_leaves_nothing_of_it(case: &Case) {
    silence_panics_on_purpose();
    for word in ["write", "build"] {
        let steps = Arc::default();
        let (handler, record, _) = panicking(&steps).watched();
        let server = TestServer::start(case.small(handler));
        for n in 1..=30 {
            let mut client = server.connect();
            round_trip(&mut client, b"first\n");
            writeln!(client, "{word}").unwrap();
            expect_reset(&mut client);
            eventually(|| record.ends().len() == n, word);
        }
        assert_eq!(record.reasons(), [HandlerPanic; 30]);
        // Buffers with half of the reply are free again.
        assert_eq!(server.stop().handler_panics, 30);
    }
    // A panic that the handler catches leaves nothing queued, either.
    let handler = functions::<()>().on_receive(|link, input| {
        let Some(_) = input.line(10)? else { return Ok(()) };
        link.out.send("one ")?;
        let caught = std::panic::AssertUnwindSafe(|| write!(link.out, "{Bad}"));
        assert!(std::panic::catch_unwind(caught).is_err());
        Ok(link.out.send("two ")?)
    });
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.write_all(b"\n\n").unwrap();
    expect_bytes(&mut client, b"one two one two ");
    finish(&mut client);
    assert_eq!(server.stop().handler_panics, 0);
}

fn a_panic_of_on_disconnect_releases_the_link_as_usual(case: &Case) {
    silence_panics_on_purpose();
    let handler = functions::<()>()
        .on_receive(|link, input| {
            input.forward(&mut link.out);
            Ok(())
        })
        .on_disconnect(|_, _| panic_on_purpose());
    let (handler, record, _) = handler.watched();
    let server = TestServer::start(case.small(handler).links_max(1));
    for n in 0..50 {
        let mut client = server.connect();
        round_trip(&mut client, b"hello");
        let id = record.id(n);
        if n % 2 == 0 {
            finish(&mut client)
        } else {
            server.handle.link(id).abort()
        }
        server.wait_for_links(0);
    }
    assert!(record.reasons().iter().all(|reason| [PeerClosed, Kicked].contains(reason)));
    assert_eq!(record.ends().len(), 50);
    let stats = server.stop();
    assert_eq!((stats.handler_panics, stats.closed(HandlerPanic)), (50, 0));
}

/// Panics when it is dropped.
#[derive(Default)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic_on_purpose();
    }
}

fn a_panic_while_a_state_is_dropped_releases_the_link_as_usual(case: &Case) {
    silence_panics_on_purpose();
    let handler =
        functions::<Option<Bomb>>().on_connect(|_| Ok(Some(Bomb))).on_receive(|link, input| {
            input.forward(&mut link.out);
            Ok(())
        });
    let (handler, record, _) = handler.watched();
    let server = TestServer::start(case.small(handler).links_max(1));
    for _ in 0..50 {
        let mut client = server.connect();
        round_trip(&mut client, b"hello");
        finish(&mut client);
        server.wait_for_links(0);
    }
    // At the stop, too.
    let mut last = server.connect();
    round_trip(&mut last, b"hello");
    server.handle.stop(Duration::from_secs(5));
    expect_end(&mut last);
    drop(last);
    let stats = server.stop();
    assert_eq!((stats.handler_panics, stats.closed(PeerClosed)), (51, 50));
    assert_eq!(record.ends().len(), 51);
}

fn posts_made_before_a_panic_arrive(case: &Case) {
    silence_panics_on_purpose();
    for shards in [1, 3] {
        let first = Arc::<Mutex<Option<wharf::LinkId>>>::default();
        let handler = functions::<()>().on_receive(move |link, input| {
            let Some(line) = input.line(10)? else { return Ok(()) };
            if line == b"me" {
                *first.lock().unwrap() = Some(link.id());
                return Ok(link.out.send("ok")?);
            }
            let first = (*first.lock().unwrap()).unwrap();
            link.server.link(first).try_post("to one ")?;
            link.server.all().except(link.id()).try_post("to all ")?;
            panic_on_purpose()
        });
        let builder = case.short(handler).shards(shards).links_max(12).buffer_count(200);
        let server = TestServer::start(builder);
        let mut reader = server.connect();
        reader.write_all(b"me\n").unwrap();
        expect_bytes(&mut reader, b"ok");
        for _ in 0..10 {
            let mut client = server.connect();
            client.write_all(b"panic\n").unwrap();
            expect_reset(&mut client);
            expect_bytes(&mut reader, b"to one to all ");
        }
        finish(&mut reader);
        let stats = server.stop();
        assert_eq!((stats.handler_panics, stats.missed), (10, 0));
    }
}

fn a_panic_of_a_callback_at_the_stop_does_not_hold_it(case: &Case) {
    silence_panics_on_purpose();
    for shards in [1, 2, 3] {
        let handler = functions::<()>()
            .on_drain(|_| panic_on_purpose())
            .on_disconnect(|_, _| panic_on_purpose());
        let (handler, record, calls) = handler.watched();
        let builder = case.short(handler).shards(shards).links_max(12).buffer_count(200);
        let server = TestServer::start(builder);
        let mut clients: Vec<_> = (0..9).map(|_| server.connect()).collect();
        server.wait_for_links(9);
        eventually(|| record.ids().len() == 9, "all are in");
        server.handle.stop(Duration::from_secs(10));
        clients.iter_mut().for_each(expect_end_or_reset);
        drop(clients);
        let stats = server.stop();
        assert_eq!((stats.handler_panics, stats.closed(HandlerPanic)), (18, 9));
        assert_eq!((calls.drains(), stats.closed(ServerStopping)), (9, 0));
    }
}

/// Panics in the callback that the client names.
struct AtStart {
    panics_in: &'static str,
    stops: Arc<AtomicU64>,
}

impl Handler for AtStart {
    fn on_start(&self, _: &Handle) -> Result {
        if self.panics_in == "on_start" { panic_on_purpose() } else { Ok(()) }
    }

    fn on_stop(&self, _: &Handle) {
        self.stops.fetch_add(1, Ordering::SeqCst);
        if self.panics_in == "on_stop" {
            panic_on_purpose();
        }
    }

    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result {
        if self.panics_in == "on_worker_start" && worker.id().index() + 1 == worker.count() {
            panic_on_purpose();
        }
        Ok(())
    }

    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        input.forward(&mut link.out);
        Ok(())
    }
}

fn at_start(panics_in: &'static str) -> (AtStart, Arc<AtomicU64>) {
    silence_panics_on_purpose();
    let stops = Arc::default();
    (AtStart { panics_in, stops: Arc::clone(&stops) }, stops)
}

fn a_panic_of_on_start_is_an_error_of_the_start(case: &Case) {
    let (handler, stops) = at_start("on_start");
    let error = case.small(handler).start().err().unwrap();
    assert_eq!(error.kind(), StartErrorKind::Handler, "{error}");
    assert!(error.to_string().contains("on_start panicked"), "{error}");
    assert_eq!(stops.load(Ordering::SeqCst), 0);
}

fn a_panic_of_on_worker_start_is_an_error_of_the_start(case: &Case) {
    for shards in [1, 3] {
        let (handler, stops) = at_start("on_worker_start");
        let error = case.builder(handler).shards(shards).start().err().unwrap();
        assert_eq!(error.kind(), StartErrorKind::Handler, "{error}");
        let text = error.to_string();
        assert!(text.contains("on_worker_start") && text.contains("panicked"), "{text}");
        assert_eq!(stops.load(Ordering::SeqCst), 1, "what on_start began has ended");
    }
}

fn a_panic_of_on_stop_is_ignored(case: &Case) {
    let (handler, stops) = at_start("on_stop");
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    round_trip(&mut client, b"hello");
    finish(&mut client);
    let stats = server.stop();
    assert_eq!((stats.handler_panics, stops.load(Ordering::SeqCst)), (0, 1));
}
