//! Whole texts of the errors and of the log, so that no word changes by accident. The program's tests
//! have those that the program prints.
#![cfg(test)]

#[cfg(target_os = "linux")]
#[path = "util/skip.rs"]
mod skip;

use std::fmt::{Debug, Write as _};
use std::io::{Read, Write as _};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};
use wharf::{
    Builder, Error, Handle, Handler, Input, Link, PostError, Result, SendError, Server, TooLong,
    Worker,
};

#[test]
fn errors_of_sends_and_posts() {
    let texts = [
        (
            SendError::Full.to_string(),
            "the link's output is full; call `out.ensure(n)` before sending more than the grant, or \
             raise Builder::grant_bytes",
        ),
        (
            SendError::TooLarge.to_string(),
            "the message is larger than an output; raise Builder::output_bytes, or send it in parts",
        ),
        (SendError::Closed.to_string(), "the link is closing"),
        (
            PostError::Full.to_string(),
            "the receiver's inbox or output is full, or no post buffer is free; try again later, \
             raise Builder::output_bytes or Builder::buffer_count, or share one Message",
        ),
        (
            PostError::TooLarge.to_string(),
            "the message is larger than the receiver's output; raise Builder::output_bytes, or post \
             it in parts",
        ),
        (PostError::Closed.to_string(), "the receiver is closed"),
        (PostError::Stopping.to_string(), "the server is stopping"),
        (TooLong::new(16).to_string(), "the peer's message is longer than 16 bytes"),
    ];
    for (text, expected) in texts {
        assert_eq!(text, expected);
    }
}

/// What a handler does at its start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Fails,
    Panics,
    WorkerFails,
    WorkerPanics,
    /// The worker's first start succeeds, and no other; a line makes it necessary.
    WorkerFailsAgain,
}

struct Starter {
    start: Start,
    workers: std::sync::atomic::AtomicU32,
}

impl Handler for Starter {
    fn on_start(&self, _: &Handle) -> Result {
        match self.start {
            Start::Fails => Err(Error::msg("no database")),
            Start::Panics => panic!("on purpose"),
            _ => Ok(()),
        }
    }

    fn on_worker_start(&self, _: &mut Worker<'_>) -> Result {
        let earlier = self.workers.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        match self.start {
            Start::WorkerFailsAgain if earlier == 0 => Ok(()),
            Start::WorkerPanics => panic!("on purpose"),
            _ => Err(Error::msg("no database")),
        }
    }

    fn on_receive(&self, _: &mut Link<'_>, _: &mut Input<'_>) -> Result {
        panic!("on purpose")
    }
}

fn starter(start: Start) -> Builder<Starter, (), ()> {
    let handler = Starter { start, workers: 0.into() };
    Server::builder(handler).listen("127.0.0.1:0").shards(1).links_max(4)
}

#[test]
fn handlers_that_do_not_start() {
    for (start, expected) in [
        (Start::Fails, "on_start failed: no database; see the error or the panic of the handler"),
        (Start::Panics, "on_start panicked; see the error or the panic of the handler"),
        (
            Start::WorkerFails,
            "on_worker_start of worker 0 failed: no database; see the error or the panic of the \
             handler",
        ),
        (
            Start::WorkerPanics,
            "on_worker_start of worker 0 panicked; see the error or the panic of the handler",
        ),
    ] {
        assert_eq!(starter(start).start().err().map(|error| error.to_string()).unwrap(), expected);
    }
    let nowhere = Server::builder(Starter { start: Start::Fails, workers: 0.into() });
    assert_eq!(
        nowhere.start().err().unwrap().to_string(),
        "settings: there is no address to listen on; call Builder::listen"
    );
}

/// What it says that does not listen on the last one of `addresses`.
#[cfg(target_os = "linux")]
fn refusal(addresses: &[&str]) -> String {
    let handler = Starter { start: Start::WorkerFailsAgain, workers: 0.into() };
    let builder = Server::builder(handler).shards(1).links_max(4);
    let builder = addresses.iter().fold(builder, |builder, address| builder.listen(*address));
    let text = builder.start().err().unwrap().to_string();
    let given = addresses.last().unwrap();
    text.strip_prefix(&format!("cannot listen on {given}")).expect(&text).to_owned()
}

#[cfg(target_os = "linux")]
#[test]
fn addresses_that_cannot_be_had() {
    // Reserved for documentation (RFC 5737).
    let foreign = "198.51.100.1:9527";
    let of_many = ": a multicast or broadcast address accepts no connections; use one of this \
                   machine (ip addr), or 0.0.0.0 or [::]";
    for (given, expected) in [
        (
            foreign,
            ": not an address of this machine; use one of those (ip addr), or 0.0.0.0 for all IPv4 \
             addresses, or [::] for all IPv6 addresses",
        ),
        ("224.0.0.1:9527", of_many),
        ("255.255.255.255:9527", of_many),
    ] {
        assert_eq!(refusal(&[given]), expected, "{given}");
    }
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return skip::lacks("there is no IPv6");
    }
    for (given, expected) in [
        ("[ff02::1]:9527", of_many),
        (
            "[fe80::1]:9527",
            ": a link-local address needs its interface (ip addr); write it as [fe80::1%eth0]:9527",
        ),
        ("[fe80::1%4000000]:9527", ": there is no interface 4000000 (ip addr)"),
        (
            "[::ffff:127.0.0.1]:9527",
            ": it is an IPv4 address; write 127.0.0.1:9527, or let IPv6 listeners accept IPv4 \
             (Builder::dual_stack)",
        ),
    ] {
        assert_eq!(refusal(&[given]), expected, "{given}");
    }
    let unknown = Server::builder(Starter { start: Start::Fails, workers: 0.into() });
    assert_eq!(
        unknown.listen("[fe80::1%no-such]:9527").start().err().unwrap().to_string(),
        "cannot listen on \"[fe80::1%no-such]:9527\": there is no interface \"no-such\"; write an \
         address such as 127.0.0.1:9527 or [::1]:9527"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn addresses_that_are_in_use() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (given, port) = (free.to_string(), free.port());
    assert_eq!(
        refusal(&[&given, &given]),
        format!(": this server listens on {given} already; give each address once")
    );
    let name = format!("localhost:{port}");
    let handler = Starter { start: Start::WorkerFailsAgain, workers: 0.into() };
    let server = Server::builder(handler).listen(&given).shards(1).links_max(4).start().unwrap();
    assert_eq!(
        refusal(&[&given]),
        ": in use by another server of this process; stop that first, or use another port"
    );
    // A name is told with the address of it that is in use.
    assert!(refusal(&[&name]).starts_with(&format!(" ({given}): in use by another server ")));
    server.handle().stop(Duration::ZERO);
    server.wait().unwrap();
    let _foreign = std::net::TcpListener::bind(free).unwrap();
    assert_eq!(
        refusal(&[&given]),
        format!(
            ": in use; stop the process that has the port (as root: ss -tanp 'sport = :{port}'), or \
             use another port"
        )
    );
}

/// Sends each event of this process as a line.
struct Lines(Sender<String>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let written = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        written.unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, event: &Metadata<'_>) -> bool {
        *event.level() <= Level::WARN
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.send(line.0).unwrap();
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn a_worker_that_cannot_start_again_stops_the_server() {
    let (lines, log) = channel();
    tracing::subscriber::set_global_default(Lines(lines)).unwrap();
    let running = starter(Start::WorkerFailsAgain).start().unwrap();
    let address = running.local_addresses()[0].1.socket_addr().unwrap();
    let mut client = std::net::TcpStream::connect(address).unwrap();
    client.write_all(b"panic").unwrap();
    assert_eq!(
        log.recv_timeout(Duration::from_secs(20)).unwrap(),
        "ERROR on_worker_start failed after a panic, stopping the server \
         reason=\"on_worker_start of worker 0 failed: no database\""
    );
    assert!(!matches!(client.read(&mut [0]), Ok(1)));
    let error = running.wait().unwrap_err();
    assert_eq!(error.to_string(), "on_worker_start of worker 0 failed: no database");
}
