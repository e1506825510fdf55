//! Promise: an error of a callback ends its link, whichever callback it is, and the error alone
//! determines the reason; queued bytes are sent first.
//!
//! Method: a table of callbacks and errors; the client selects one.

use crate::util;
use crate::util::functions::{Functions, functions};
use crate::util::{Case, TestServer, each_back_end, expect_bytes, expect_end, finish, on_receive};
use std::fmt;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use wharf::DisconnectReason::{self, HandlerError, Limit, OutputFull};
use wharf::{Error, ErrorKind, Link, PostError, Result, SendError, TooLong, Verdict};

each_back_end!(
    an_error_of_on_receive_ends_its_link_with_its_reason,
    an_error_of_on_writable_ends_its_link_with_its_reason,
    an_error_of_on_end_ends_its_link_with_its_reason,
    an_error_of_on_idle_ends_its_link_with_its_reason,
    an_error_of_on_drain_ends_its_link_with_its_reason,
    an_error_of_on_connect_refuses_the_link,
    an_error_ends_a_link_that_was_to_be_kept,
    an_error_discards_what_is_unread,
    an_error_of_a_function_that_is_a_handler_ends_its_link,
);

/// An error of the program's own, whose source has another reason.
#[derive(Debug)]
struct Wrapped(SendError);

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it did not work")
    }
}

impl std::error::Error for Wrapped {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

type Make = fn() -> Error;

const ERRORS: [(Make, ErrorKind, DisconnectReason); 11] = [
    (|| SendError::Full.into(), ErrorKind::OutputFull, OutputFull),
    (|| TooLong::new(7).into(), ErrorKind::Limit, Limit),
    (|| SendError::Closed.into(), ErrorKind::Handler, HandlerError),
    (|| SendError::TooLarge.into(), ErrorKind::Handler, HandlerError),
    // Another link's full output is no reason of this one.
    (|| PostError::Full.into(), ErrorKind::Handler, HandlerError),
    (|| PostError::Stopping.into(), ErrorKind::Handler, HandlerError),
    (|| Error::msg("its own"), ErrorKind::Handler, HandlerError),
    (|| std::io::Error::other("a file").into(), ErrorKind::Handler, HandlerError),
    // Sources do not count.
    (|| Wrapped(SendError::Full).into(), ErrorKind::Handler, HandlerError),
    (|| Error::from_boxed(Box::new(SendError::Full)), ErrorKind::Handler, HandlerError),
    (|| "x".parse::<u8>().unwrap_err().into(), ErrorKind::Handler, HandlerError),
];

/// One callback of each link fails, with the error that its first byte selects.
fn failing(callback: &'static str) -> Functions<usize> {
    let fail = move |link: &mut Link<'_, usize>, here: &str| {
        if callback == here {
            link.out.send("queued")?;
            let error = ERRORS[*link.state].0();
            assert_eq!(error.kind(), ERRORS[*link.state].1);
            return Err(error);
        }
        Ok(())
    };
    functions::<usize>()
        .on_receive(move |link, input| {
            *link.state = usize::from(input.chunk()[0]);
            input.consume(1);
            link.set_idle_timeout(Duration::from_millis(if callback == "idle" { 50 } else { 0 }));
            link.out.notify();
            link.out.send("asked ")?;
            fail(link, "receive")
        })
        .on_writable(move |link| fail(link, "writable"))
        .on_end(move |link, _| fail(link, "end").map(|()| Verdict::Keep))
        .on_idle(move |link| fail(link, "idle").map(|()| Verdict::Keep))
        .on_drain(move |link| fail(link, "drain").map(|()| Verdict::Keep))
}

/// Each error in this callback, which `act` triggers.
fn check(case: &Case, callback: &'static str, act: impl Fn(&TestServer, &TcpStream)) {
    for (number, (_, _, reason)) in (0..).zip(&ERRORS) {
        let (handler, record, _) = failing(callback).watched();
        let server = TestServer::start(case.small(handler));
        let mut client = server.connect();
        client.write_all(&[number]).unwrap();
        expect_bytes(&mut client, b"asked ");
        act(&server, &client);
        expect_bytes(&mut client, b"queued");
        expect_end(&mut client);
        drop(client);
        record.expect(&[*reason]);
        server.handle.stop(Duration::from_secs(10));
        let stats = server.stop();
        assert_eq!((stats.closed(*reason), stats.handler_panics), (1, 0), "{callback} {number}");
    }
}

fn an_error_of_on_receive_ends_its_link_with_its_reason(case: &Case) {
    check(case, "receive", |_, _| {});
}

fn an_error_of_on_writable_ends_its_link_with_its_reason(case: &Case) {
    check(case, "writable", |_, _| {});
}

fn an_error_of_on_end_ends_its_link_with_its_reason(case: &Case) {
    check(case, "end", |_, client| client.shutdown(Shutdown::Write).unwrap());
}

fn an_error_of_on_idle_ends_its_link_with_its_reason(case: &Case) {
    check(case, "idle", |_, _| {});
}

fn an_error_of_on_drain_ends_its_link_with_its_reason(case: &Case) {
    check(case, "drain", |server, _| server.handle.stop(Duration::from_secs(10)));
}

fn an_error_of_on_connect_refuses_the_link(case: &Case) {
    for (number, (make, ..)) in ERRORS.iter().enumerate() {
        let handler = functions::<u8>().on_connect(|link| {
            link.out.send("we are closed")?;
            link.out.notify();
            // There is no link to report it.
            link.pause();
            Err(make())
        });
        let (handler, record, calls) = handler.watched();
        let server = TestServer::start(case.small(handler));
        for _ in 0..3 {
            let mut client = server.connect();
            client.write_all(b"hello?").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            expect_bytes(&mut client, b"we are closed");
            expect_end(&mut client);
        }
        let stats = server.stop();
        assert_eq!((stats.rejects, stats.connects), (3, 0), "error {number}");
        assert!(record.ids().is_empty() && record.ends().is_empty());
        assert_eq!((calls.receives(), calls.writables(), calls.ends()), (0, 0, 0));
    }
}

fn an_error_ends_a_link_that_was_to_be_kept(case: &Case) {
    let handler = functions::<()>()
        .on_end(|link, _| {
            link.set_idle_timeout(Duration::from_millis(50));
            Ok(Verdict::Keep)
        })
        .on_idle(|link| {
            link.out.send("last")?;
            Err(TooLong::new(1).into())
        });
    let (handler, record, _) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.shutdown(Shutdown::Write).unwrap();
    expect_bytes(&mut client, b"last");
    expect_end(&mut client);
    record.expect(&[Limit]);
    server.stop();
    // In a call that also closes the link: the error counts.
    let handler = functions::<()>().on_end(|link, _| {
        link.out.finish();
        link.close();
        Err(TooLong::new(1).into())
    });
    let (handler, record, _) = handler.watched();
    let server = TestServer::start(case.small(handler));
    finish(&mut server.connect());
    record.expect(&[Limit]);
    server.stop();
}

fn an_error_discards_what_is_unread(case: &Case) {
    let handler = on_receive(|link, input| {
        let Some(line) = input.line(10)? else { return Ok(()) };
        link.out.send((line, " "))?;
        let number: u8 = std::str::from_utf8(line)?.parse()?;
        if number == 3 { Err(PostError::Closed.into()) } else { Ok(()) }
    });
    let record = Arc::clone(&handler.record);
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.write_all(b"1\n2\n3\n4\n5\n").unwrap();
    expect_bytes(&mut client, b"1 2 3 ");
    expect_end(&mut client);
    drop(client);
    record.expect(&[HandlerError]);
    server.stop();
}

fn an_error_of_a_function_that_is_a_handler_ends_its_link(case: &Case) {
    let echo = |link: &mut Link<'_>, input: &mut wharf::Input<'_>| -> Result {
        if input.len() > 10 {
            return Err(Error::msg("ten at a time"));
        }
        input.forward(&mut link.out);
        Ok(())
    };
    let server = TestServer::start(case.small(echo));
    let mut client = server.connect();
    util::round_trip(&mut client, b"0123456789");
    client.write_all(b"0123456789.").unwrap();
    expect_end(&mut client);
    drop(client);
    assert_eq!(server.stop().closed(HandlerError), 1);
}
