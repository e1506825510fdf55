//! Promise: a server for which there is too little memory does not start, and says the limit, the
//! numbers and the remedy; no limit ends the process.
//!
//! Method: processes whose addresses or data are limited, from too little to enough.

use crate::util::{Case, TestServer, each_back_end, echo, round_trip};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::os::unix::process::ExitStatusExt;
use wharf::StartErrorKind;

each_back_end!(
    a_limit_of_addresses_is_told_and_never_ends_the_process,
    a_limit_of_data_is_told_and_never_ends_the_process,
);

const MB: u64 = 1_000_000;

/// Bytes of one line of proc_pid_status(5).
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1_024
}

/// Starts a server with so many bytes left.
fn start_with(case: &Case, resource: Resource, used: &str, left: u64, parts: &[&str]) -> bool {
    let limit = |current| setrlimit(resource, Rlimit { current, maximum: None }).unwrap();
    let builder = case.builder(echo()).shards(2);
    limit(Some(status(used) + left));
    let started = builder.start();
    limit(None);
    match started {
        Ok(running) => {
            let address = running.local_addresses()[0].1.socket_addr().unwrap();
            round_trip(&mut crate::util::connect(address), b"served");
            running.handle().stop(crate::util::PATIENCE);
            running.wait().unwrap();
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), StartErrorKind::Resources, "{left} bytes: {error}");
            // Between the two the system refuses a part of what it had.
            let text = error.to_string();
            if left < 10 * MB {
                for part in parts {
                    assert!(text.contains(part), "{part}: {text}");
                }
            }
            false
        }
    }
}

fn limited(case: &Case, resource: Resource, used: &str, parts: &[&str], enough: u64) {
    if let Some(role) = case.role() {
        let left: u64 = role.parse().unwrap();
        let has_started = start_with(case, resource, used, left * MB, parts);
        assert!(has_started || left < enough, "{left} MB are enough");
        assert!(!has_started || left >= 30, "{left} MB are too few");
        // Again, beside what the first start has left behind of its allocator.
        if left == enough {
            for left in (0..enough).step_by(7) {
                start_with(case, resource, used, left * MB, parts);
            }
            TestServer::start(case.builder(echo()).shards(2)).stop();
        }
        return;
    }
    let few = [0, 1, 3, 8, 20, 30, 33, 36, 40, 44, 50, 70, 90, 110, 140, 180, 240, 290, 310];
    for left in few.into_iter().chain([enough]) {
        let output = case.command(&left.to_string()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), None, "{left} MB: {text}");
        assert!(output.status.success(), "{left} MB: {text}");
    }
}

fn a_limit_of_addresses_is_told_and_never_ends_the_process(case: &Case) {
    let parts = ["MB of memory, but ", "B are available", "limit of", "RLIMIT_AS", "ulimit -v"];
    limited(case, Resource::As, "VmSize:", &parts, 600);
}

fn a_limit_of_data_is_told_and_never_ends_the_process(case: &Case) {
    let parts = ["MB of memory, but ", "B are available", "limit of", "RLIMIT_DATA", "ulimit -d"];
    limited(case, Resource::Data, "VmData:", &parts, 100);
}
