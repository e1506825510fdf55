//! Promise: a server that cannot start says why and what to do, and leaves nothing behind.
//!
//! Method: each reason that can be brought about, and then a look at threads, descriptors and
//! the address.
#![cfg(target_os = "linux")]
#![cfg(test)]
#![expect(clippy::wildcard_enum_match_arm, reason = "any other error fails the test")]

mod util;

use rustix::process::{Resource, Rlimit, setrlimit};
use std::net::{SocketAddr, TcpListener};
use util::{Case, TestServer, each_back_end, echo, open_files, server_threads};
use wharf::{BackEnd, Builder, Handler, Link, Result, Server, StartError, WorkerId};

each_back_end!(
    all_faulty_settings_are_told_at_once,
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
    a_worker_context_without_a_maker_is_told,
    the_plan_is_what_the_server_reports,
);

/// Starts in vain, and looks at what is left. To be called in a process of its own.
fn fail(builder: Builder, handler: impl Handler) -> StartError {
    let before = open_files();
    let error = builder.start(handler).err().unwrap();
    util::eventually(|| server_threads().is_empty(), "the threads are gone");
    util::eventually(|| open_files() == before, "the descriptors are closed");
    error
}

/// The address is free for others.
fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn all_faulty_settings_are_told_at_once(case: &Case) {
    let builder = case.builder().links(0).buffers(0).buffer_size(63).send_queue(0).backlog(0);
    let StartError::Settings(faults) = builder.shards(257).start(echo()).err().unwrap() else {
        panic!("not a fault of settings");
    };
    assert!(faults.len() >= 6, "{faults:?}");
    for name in ["links", "buffers", "buffer_size", "send_queue", "backlog", "shards"] {
        assert!(faults.iter().any(|fault| fault.starts_with(name)), "{name}: {faults:?}");
    }
    let nowhere = Server::builder().start(echo()).err().unwrap();
    assert!(nowhere.to_string().contains("address"), "{nowhere}");
    for builder in [case.builder().shards(4).links(3), case.builder().shards(4).buffers(16)] {
        assert!(
            matches!(builder.start(echo()), Err(StartError::Settings(faults)) if faults.len() == 1)
        );
    }
}

fn addresses_that_are_none_are_told(case: &Case) {
    case.alone(|| {
        for text in ["127.0.0.1", "localhost", "", "127.0.0.1:65536", "host name:1", "[::1]"] {
            let builder = Server::builder().back_end(case.back_end).listen(text);
            match fail(builder, echo()) {
                StartError::Address { given, .. } => assert_eq!(given, text),
                other => panic!("{text:?}: {other}"),
            }
        }
    });
}

fn an_address_in_use_is_told_within_a_second(case: &Case) {
    case.alone(|| {
        let free = free_address();
        let server = TestServer::start(case.small(), echo());
        let start = util::now();
        let builder = case.small().listen(free.to_string()).listen(server.address.to_string());
        let error = fail_beside(builder);
        assert!(matches!(error, StartError::AddressInUse(at) if at == server.address), "{error}");
        assert!(start.elapsed() < std::time::Duration::from_secs(2), "{:?}", start.elapsed());
        assert!(is_free(free));
        server.stop();
    });
}

/// Starts in vain while another server runs.
fn fail_beside(builder: Builder) -> StartError {
    let before = (open_files(), server_threads().len());
    let error = builder.start(echo()).err().unwrap();
    util::eventually(|| (open_files(), server_threads().len()) == before, "nothing is left");
    error
}

fn an_address_of_another_machine_is_told(case: &Case) {
    case.alone(|| {
        // 192.0.2.0/24 is reserved for documentation (RFC 5737), so no machine has it.
        let free = free_address();
        let builder = case.small().listen(free.to_string()).listen("192.0.2.1:9527");
        let error = fail(builder, echo());
        assert!(matches!(error, StartError::AddressNotHere(_)), "{error}");
        assert!(is_free(free));
    });
}

fn a_port_for_privileged_programs_is_told(case: &Case) {
    case.alone(|| {
        let start = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        let first: u16 = start.unwrap_or_default().trim().parse().unwrap_or(1_024);
        if first <= 1 || TcpListener::bind(("127.0.0.1", first - 1)).is_ok() {
            println!("skipped, because this process may listen on every port");
            return;
        }
        let error = fail(case.small().listen(format!("127.0.0.1:{}", first - 1)), echo());
        assert!(matches!(error, StartError::NoPermission(_)), "{error}");
    });
}

fn too_few_open_files_are_told_with_the_figures(case: &Case) {
    case.alone(|| {
        let limit = Rlimit { current: Some(500), maximum: Some(500) };
        setrlimit(Resource::Nofile, limit).unwrap();
        match fail(case.builder().links(1_000), echo()) {
            StartError::OpenFiles { needed, limit: 500 } => assert!(needed > 1_000),
            other => panic!("{other}"),
        }
        let server = TestServer::start(case.builder().links(300), echo());
        assert_eq!(server.running().files_raised(), None);
        server.stop();
    });
}

fn the_soft_limit_of_open_files_is_raised(case: &Case) {
    case.alone(|| {
        let limit = Rlimit { current: Some(100), maximum: Some(1_500) };
        setrlimit(Resource::Nofile, limit).unwrap();
        let server = TestServer::start(case.builder().links(1_000), echo());
        assert_eq!(server.running().files_raised(), Some((100, 1_500)));
        server.stop();
    });
}

fn too_much_memory_is_refused_with_the_figures_and_not_taken(case: &Case) {
    case.alone(|| {
        let start = util::now();
        let builder = case.builder().buffers(1 << 24).buffer_size(1 << 20).send_queue(2 << 20);
        match fail(builder, echo()) {
            StartError::Memory { needed, available } => {
                assert!(needed > 1 << 43 && available < needed, "{needed} {available}");
            }
            other => panic!("{other}"),
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(1), "{:?}", start.elapsed());
    });
}

fn an_unknown_back_end_in_the_environment_is_told(case: &Case) {
    let fails = || {
        match fail(Server::builder().listen("127.0.0.1:0"), echo()) {
            StartError::BackEnd { name, reason } => {
                assert_eq!(name, "nonsense");
                assert!(reason.contains("WHARF_BACKEND"), "{reason}");
            }
            other => panic!("{other}"),
        }
        // Who says it in the program is not held to the environment.
        TestServer::start(case.small(), echo()).stop();
    };
    in_environment(case, "nonsense", fails);
}

fn the_environment_chooses_the_back_end(case: &Case) {
    for name in [case.back_end.name(), "auto", ""] {
        in_environment(case, name, || {
            let name = std::env::var("WHARF_BACKEND").unwrap();
            let server = TestServer::start(Server::builder().listen("127.0.0.1:0"), echo());
            let chosen = server.running().back_end().clone();
            if name == case.back_end.name() {
                assert_eq!((chosen.back_end, chosen.fallback), (case.back_end, None));
            } else {
                let best = if BackEnd::Uring.available().is_ok() {
                    BackEnd::Uring
                } else {
                    BackEnd::Epoll
                };
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

/// Its second worker has no database.
struct Lonely;

impl Handler for Lonely {
    type Worker = ();
    type State = ();

    fn on_worker_start(&self, worker: WorkerId) -> std::io::Result<()> {
        let fault = || std::io::Error::other(format!("no database for {worker}"));
        if worker.index() == 1 { Err(fault()) } else { Ok(()) }
    }

    fn on_receive(&self, (): &mut (), _: &mut Link<'_, ()>, _: &[u8]) -> Result {
        Ok(())
    }
}

/// Its context has no maker.
struct Unmade;

impl Handler for Unmade {
    type Worker = String;
    type State = ();

    fn on_receive(&self, _: &mut String, _: &mut Link<'_, ()>, _: &[u8]) -> Result {
        Ok(())
    }
}

fn a_worker_that_cannot_start_is_told(case: &Case) {
    case.alone(|| {
        for shards in [2, 4] {
            let free = free_address();
            let builder = case.builder().shards(shards).links(8).listen(free.to_string());
            match fail(builder, Lonely) {
                StartError::Worker(reason) => {
                    assert!(reason.contains("no database for 1"), "{reason}");
                }
                other => panic!("{other}"),
            }
            assert!(is_free(free));
        }
    });
}

fn a_worker_context_without_a_maker_is_told(case: &Case) {
    case.alone(|| {
        let error = fail(case.small(), Unmade).to_string();
        assert!(error.contains("on_worker_start must be written"), "{error}");
    });
}

fn the_plan_is_what_the_server_reports(case: &Case) {
    struct Plain;
    impl Handler for Plain {
        type Worker = ();
        type State = [u64; 8];
        fn on_receive(&self, (): &mut (), _: &mut Link<'_, [u64; 8]>, _: &[u8]) -> Result {
            Ok(())
        }
    }
    let builder = case.builder().links(1_000).buffers(4_000);
    let plan = builder.plan::<Plain>();
    assert!(plan.total_bytes() > 4_000 * 2_048 + 1_000 * 64, "{plan}");
    let server = TestServer::start(builder, Plain);
    assert_eq!(*server.running().plan(), plan);
    let stats = server.stop();
    // What waits to be received into may come on top.
    let total = stats.buffers.total() + stats.post_buffers.total();
    assert!(total > 3_990 && total < 4_000 + 600, "{stats:?}");
}
