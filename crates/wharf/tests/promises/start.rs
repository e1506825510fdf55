//! Promise: a server that cannot start says why and what to do, and leaves nothing behind.
//!
//! Method: each reason that can be brought about, and then a look at threads, descriptors and
//! the address.

use crate::util;
use crate::util::{
    Case, TestServer, each_back_end, echo, open_files, server_threads, where_a_call_fails,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::net::{SocketAddr, TcpListener};
use wharf::StartErrorKind::{self, Address, BackEnd, Handler as OfHandler, Resources, Settings};
use wharf::{
    Builder, Decoder, Delimiter, Error, FixedSize, Handle, Handler, Input, LengthPrefix, Lines,
    Link, Result, Server, StartError, Worker,
};

each_back_end!(
    all_faulty_settings_are_told_at_once,
    frames_that_never_fit_are_told_and_those_that_do_start,
    addresses_that_are_none_are_told,
    an_address_in_use_is_told_within_a_second,
    an_address_of_another_machine_is_told,
    a_port_for_privileged_programs_is_told,
    too_few_open_files_are_told_with_the_figures,
    the_soft_limit_of_open_files_is_raised,
    too_much_memory_is_refused_with_the_figures_and_not_taken,
    an_unknown_back_end_in_the_environment_is_told,
    the_environment_chooses_the_back_end,
    a_worker_that_cannot_start_is_told,
    a_context_without_size_that_nothing_makes_is_told,
    a_handler_that_refuses_to_start_is_told,
    the_plan_is_what_the_server_reports,
);

/// Starts in vain, and looks at what is left. To be called in a process of its own.
fn fail<H, S, W>(builder: Builder<H, S, W>) -> StartError
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    let before = open_files();
    let error = builder.start().err().unwrap();
    util::eventually(|| server_threads().is_empty(), "the threads are gone");
    util::eventually(|| open_files() == before, "the descriptors are closed");
    error
}

/// It is of this kind, and its text says all this.
#[track_caller]
fn expect(error: &StartError, kind: StartErrorKind, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?}: {text}");
    }
}

/// The address is free for others.
fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn all_faulty_settings_are_told_at_once(case: &Case) {
    let builder = case.builder(echo()).links_max(0).buffer_count(0).buffer_size_bytes(63);
    let builder = builder.input_bytes(0).output_bytes(0).grant_bytes(0).backlog(0).shards(257);
    let faults = [
        "links_max is 0",
        "buffer_count is 0",
        "buffer_size_bytes is 63",
        "input_bytes is 0",
        "output_bytes is 0",
        "grant_bytes is 0",
        "backlog is 0",
        "shards is 257",
    ];
    expect(&builder.start().err().unwrap(), Settings, &faults);
    let nowhere = Server::builder(echo()).start().err().unwrap();
    expect(&nowhere, Settings, &["address"]);
    let builders = [
        (case.builder(echo()).shards(4).links_max(3), "links_max is 3"),
        (case.builder(echo()).shards(4).buffer_count(16), "buffer_count is 16"),
        (case.builder(echo()).output_bytes(4_095), "must be twice that at least"),
        (
            case.builder(echo()).output_bytes(256 * 1024).grant_bytes(200 * 1024),
            "grant_bytes is 204800",
        ),
    ];
    for (builder, fault) in builders {
        let error = builder.start().err().unwrap();
        expect(&error, Settings, &[fault]);
        assert_eq!(error.to_string().matches(", but ").count(), 1, "{error}");
    }
}

/// A frame is told with its length if it is longer than the input can hold, each of all decoders.
fn frames_that_never_fit_are_told_and_those_that_do_start(case: &Case) {
    const INPUT: usize = 16 * 1024;
    fn start(case: &Case, decoder: impl Decoder) -> std::result::Result<(), StartError> {
        let builder = case.builder(echo()).input_bytes(16 * 1024).frames(FixedSize::new(7));
        let running = builder.frames(decoder).start()?;
        running.handle().stop(std::time::Duration::ZERO);
        running.wait().unwrap();
        Ok(())
    }
    start(case, LengthPrefix::new(4, INPUT - 4)).unwrap();
    start(case, Delimiter::new(b"--", INPUT - 2)).unwrap();
    start(case, Lines::new(INPUT - 2)).unwrap();
    start(case, FixedSize::new(INPUT)).unwrap();
    let errors = [
        start(case, LengthPrefix::new(4, INPUT - 3)),
        start(case, Delimiter::new(b"--", INPUT - 1)),
        start(case, Lines::new(INPUT - 1)),
        start(case, FixedSize::new(INPUT + 1)),
    ];
    for error in errors {
        expect(&error.unwrap_err(), Settings, &["16385", "input_bytes", "16384"]);
    }
}

fn addresses_that_are_none_are_told(case: &Case) {
    case.alone(|| {
        for text in ["127.0.0.1", "localhost", "", "127.0.0.1:65536", "host name:1", "[::1]"] {
            let builder = Server::builder(echo()).back_end(case.back_end).listen(text);
            expect(&fail(builder), Address, &[&format!("{text:?}"), "127.0.0.1:9527"]);
        }
    });
}

fn an_address_in_use_is_told_within_a_second(case: &Case) {
    case.alone(|| {
        let free = free_address();
        let server = TestServer::start(case.small(echo()));
        let start = util::now();
        let builder = case.small(echo()).listen(free.to_string());
        let error = fail_beside(builder.listen(server.address.to_string()));
        expect(&error, Address, &[&server.address.to_string(), "in use"]);
        assert!(start.elapsed() < std::time::Duration::from_secs(2), "{:?}", start.elapsed());
        assert!(is_free(free));
        server.stop();
    });
}

/// Starts in vain while another server runs.
fn fail_beside<H: Handler>(builder: Builder<H, (), ()>) -> StartError {
    let before = (open_files(), server_threads().len());
    let error = builder.start().err().unwrap();
    util::eventually(|| (open_files(), server_threads().len()) == before, "nothing is left");
    error
}

fn an_address_of_another_machine_is_told(case: &Case) {
    case.alone(|| {
        // 192.0.2.0/24 is reserved for documentation (RFC 5737), so no machine has it.
        let free = free_address();
        let error = fail(case.small(echo()).listen(free.to_string()).listen("192.0.2.1:9527"));
        expect(&error, Address, &["192.0.2.1:9527", "not an address of this machine"]);
        assert!(is_free(free));
    });
}

/// `bind` fails as for a program without rights; the tests may run with all rights.
fn a_port_for_privileged_programs_is_told(case: &Case) {
    if case.role().is_some() {
        let builder = Server::builder(echo()).back_end(case.back_end);
        let error = fail(builder.listen("127.0.0.1:919"));
        return expect(&error, Address, &["127.0.0.1:919", "permission denied"]);
    }
    let Some(mut command) = where_a_call_fails("bind", "EACCES", &case.command("alone")) else {
        return;
    };
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn too_few_open_files_are_told_with_the_figures(case: &Case) {
    case.alone(|| {
        let limit = Rlimit { current: Some(500), maximum: Some(500) };
        setrlimit(Resource::Nofile, limit).unwrap();
        let error = fail(case.builder(echo()).links_max(1_000));
        expect(&error, Resources, &["open files", "500"]);
        assert!(numbers(&error)[0] > 1_000, "{error}");
        let server = TestServer::start(case.builder(echo()).links_max(300));
        assert_eq!(server.running().files_raised(), None);
        server.stop();
    });
}

fn the_soft_limit_of_open_files_is_raised(case: &Case) {
    case.alone(|| {
        let limit = Rlimit { current: Some(100), maximum: Some(1_500) };
        setrlimit(Resource::Nofile, limit).unwrap();
        let server = TestServer::start(case.builder(echo()).links_max(1_000));
        assert_eq!(server.running().files_raised(), Some((100, 1_500)));
        server.stop();
    });
}

fn too_much_memory_is_refused_with_the_figures_and_not_taken(case: &Case) {
    case.alone(|| {
        let start = util::now();
        let builder = case.builder(echo()).buffer_count(1 << 24).buffer_size_bytes(1 << 20);
        let error = fail(builder.output_bytes(2 << 20));
        expect(&error, Resources, &["memory", "fewer or smaller buffers"]);
        expect(&error, Resources, &[" TB of memory, but ", "B are available "]);
        assert!(start.elapsed() < std::time::Duration::from_secs(1), "{:?}", start.elapsed());
    });
}

fn an_unknown_back_end_in_the_environment_is_told(case: &Case) {
    let fails = || {
        let error = fail(Server::builder(echo()).listen("127.0.0.1:0"));
        expect(&error, BackEnd, &["nonsense", "WHARF_BACKEND"]);
        // Who says it in the program is not held to the environment.
        TestServer::start(case.small(echo())).stop();
    };
    in_environment(case, "nonsense", fails);
}

fn the_environment_chooses_the_back_end(case: &Case) {
    for name in [case.back_end.name(), "auto", ""] {
        in_environment(case, name, || {
            let name = std::env::var("WHARF_BACKEND").unwrap();
            let server = TestServer::start(Server::builder(echo()).listen("127.0.0.1:0"));
            let chosen = server.running().back_end().clone();
            if name == case.back_end.name() {
                assert_eq!((chosen.back_end, chosen.fallback_reason), (case.back_end, None));
            } else {
                use wharf::BackEnd::{Epoll, Uring};
                let best = if Uring.probe().is_ok() { Uring } else { Epoll };
                assert_eq!(chosen.back_end, best);
            }
            server.stop();
        });
    }
}

fn in_environment(case: &Case, name: &str, body: impl FnOnce()) {
    if case.role().is_some() {
        return body();
    }
    let output = case.command("alone").env("WHARF_BACKEND", name).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "WHARF_BACKEND={name}: {text}");
}

/// The numbers in a text, in their order.
fn numbers(error: &StartError) -> Vec<u64> {
    let text = error.to_string();
    let parts = text.split(|c: char| !c.is_ascii_digit());
    parts.filter_map(|digits| digits.parse().ok()).collect()
}

/// Its second worker has no database.
struct Lonely;

impl Handler for Lonely {
    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result {
        assert!(worker.now().elapsed() < util::PATIENCE, "the clock goes");
        match worker.id().index() {
            1 => Err(Error::msg(format!("no database for {} of {}", worker.id(), worker.count()))),
            _ => Ok(()),
        }
    }

    fn on_receive(&self, _: &mut Link<'_>, _: &mut Input<'_>) -> Result {
        Ok(())
    }
}

/// Its context has no size, and no maker.
struct Unmade;

struct Marker;

impl Handler<(), Marker> for Unmade {
    fn on_receive(&self, _: &mut Link<'_, (), Marker>, _: &mut Input<'_>) -> Result {
        Ok(())
    }
}

/// Does not want to start.
struct Unwilling;

impl Handler for Unwilling {
    fn on_start(&self, server: &Handle) -> Result {
        assert_eq!(server.stats().links, 0);
        Err(Error::msg("today is Sunday"))
    }

    fn on_receive(&self, _: &mut Link<'_>, _: &mut Input<'_>) -> Result {
        Ok(())
    }
}

fn a_worker_that_cannot_start_is_told(case: &Case) {
    case.alone(|| {
        for shards in [2, 4] {
            let free = free_address();
            let builder = case.builder(Lonely).shards(shards).links_max(8);
            let error = fail(builder.listen(free.to_string()));
            let reason = format!("no database for 1 of {shards}");
            expect(&error, OfHandler, &["on_worker_start", &reason]);
            assert!(is_free(free));
        }
    });
}

/// One of another size fails the build: see `Handler::on_worker_start`.
fn a_context_without_size_that_nothing_makes_is_told(case: &Case) {
    case.alone(|| {
        expect(&fail(case.small(Unmade)), OfHandler, &["must be made by", "on_worker_start"])
    });
}

fn a_handler_that_refuses_to_start_is_told(case: &Case) {
    case.alone(|| {
        let free = free_address();
        let error = fail(case.small(Unwilling).listen(free.to_string()));
        expect(&error, OfHandler, &["on_start", "today is Sunday"]);
        assert!(is_free(free));
    });
}

fn the_plan_is_what_the_server_reports(case: &Case) {
    struct Plain;
    impl Handler<[u64; 8]> for Plain {
        fn on_connect(&self, _: &mut Link<'_>) -> Result<[u64; 8]> {
            Ok([0; 8])
        }
        fn on_receive(&self, _: &mut Link<'_, [u64; 8]>, _: &mut Input<'_>) -> Result {
            Ok(())
        }
    }
    let builder = case.builder(Plain).links_max(1_000).buffer_count(4_000);
    let plan = builder.plan().unwrap();
    assert!(plan.total_bytes() > 4_000 * 2_048 + 1_000 * 64, "{plan}");
    assert_eq!(plan.total_bytes(), plan.terms().map(|(_, bytes)| bytes).sum::<u64>(), "{plan}");
    // Each link has one for its input and one for its output; posts and the port have some, too.
    assert_eq!(plan.guaranteed_buffers(), 2_000, "{plan}");
    assert!((1_000..2_000).contains(&plan.surplus_buffers()), "{plan}");
    let server = TestServer::start(builder);
    assert_eq!(*server.running().plan(), plan);
    let stats = server.stop();
    // What waits to be received into may come on top.
    let total = stats.buffers.total() + stats.post_buffers.total() / 4;
    assert!(total > 3_990 && total < 4_000 + 600, "{stats:?}");
}
