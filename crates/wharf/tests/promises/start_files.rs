//! Promise: a server that has started can open all its links, whatever else the process has open and
//! whatever its other servers may open; else it does not start, and says the numbers.
//!
//! Method: servers in a process whose limit for open files is low, clients in another one.

use crate::util::{Case, TestServer, connect, each_back_end, echo, enough_files, round_trip};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use wharf::StartErrorKind;

each_back_end!(
    two_servers_of_one_process_serve_all_their_links,
    a_program_with_many_open_files_serves_all_its_links,
    a_server_that_the_hard_limit_leaves_too_little_is_refused_with_the_numbers,
    open_links_are_counted_once,
);

/// The marker of an address in the child's output.
const ADDRESS: &str = "listens on ";
const LINKS: u32 = 300;

fn limit(soft: u64, hard: u64) {
    setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: Some(hard) }).unwrap();
}

fn server(case: &Case) -> TestServer {
    TestServer::start(case.short(echo()).links_max(LINKS))
}

/// Runs `body` in a process whose input ends when the clients have been served.
fn beside_clients(case: &Case, body: impl FnOnce() -> Vec<TestServer>) {
    if case.role().is_some() {
        let servers = body();
        for server in &servers {
            println!("\n{ADDRESS}{}", server.address);
        }
        println!("\n{ADDRESS}no more");
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        for server in servers {
            assert_eq!(server.stop().connects, u64::from(LINKS));
        }
        return;
    }
    if !enough_files(1_000) {
        return;
    }
    let mut command = case.command("server");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let addresses = lines.by_ref().filter_map(|line| Some(line.strip_prefix(ADDRESS)?.to_owned()));
    let addresses: Vec<SocketAddr> =
        addresses.take_while(|text| text != "no more").map(|text| text.parse().unwrap()).collect();
    let mut clients: Vec<TcpStream> = Vec::new();
    for address in addresses {
        clients.extend((0..LINKS).map(|_| connect(address)));
    }
    clients.iter_mut().for_each(|client| round_trip(client, b"served"));
    drop(clients);
    drop(child.stdin.take());
    // What it says until its end is read.
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
}

fn two_servers_of_one_process_serve_all_their_links(case: &Case) {
    beside_clients(case, || {
        limit(400, 4_096);
        vec![server(case), server(case)]
    });
}

fn a_program_with_many_open_files_serves_all_its_links(case: &Case) {
    beside_clients(case, || {
        limit(400, 4_096);
        let files: Vec<_> = (0..250).map(|_| File::open("/dev/null").unwrap()).collect();
        Box::leak(Box::new(files));
        vec![server(case)]
    });
}

fn a_server_that_the_hard_limit_leaves_too_little_is_refused_with_the_numbers(case: &Case) {
    case.alone(|| {
        limit(400, 600);
        let first = server(case);
        let error = case.short(echo()).links_max(LINKS).start().err().unwrap();
        assert_eq!(error.kind(), StartErrorKind::Resources, "{error}");
        let text = error.to_string();
        for part in
            ["309 for this server", "308 for other servers", "hard limit is 600", "fewer links"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        first.stop();
        // What a server that has ended might have opened is free, also while its handle is kept.
        let second = server(case);
        let handle = second.handle.clone();
        second.stop();
        server(case).stop();
        drop(handle);
    });
}

fn open_links_are_counted_once(case: &Case) {
    case.alone(|| {
        limit(400, 700);
        let first = TestServer::start(case.short(echo()).links_max(100));
        let mut clients: Vec<_> = (0..100).map(|_| first.connect()).collect();
        clients.iter_mut().for_each(|client| round_trip(client, b"in"));
        // 200 are open for the clients and the links; the other server needs 309.
        server(case).stop();
        drop(clients);
        first.stop();
    });
}
