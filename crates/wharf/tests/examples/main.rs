//! Promise: every example does what its head comment says, and the quickstart is the same text
//! everywhere.
//!
//! Method: each built example runs as a process of its own, on each back end, on a port that the
//! system chose; the clients are ours, which check every byte and send in random pieces (from a
//! seed) and byte by byte, and foreign programs, where they are installed. Each example is then
//! stopped by a signal and must end with success.
#![cfg(target_os = "linux")]
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "a deadline against real processes is real time")]

mod binary;
mod common;
mod download;
mod http;
mod lines;
mod people;
mod redis;
#[path = "../util/skip.rs"]
mod skip;

use std::io::{Read, Write};
use std::time::Duration;

/// Makes each function a test on io_uring and one on epoll.
macro_rules! each_back_end {
    ($($name:ident),+ $(,)?) => {
        mod uring {
            $(#[test] fn $name() { super::$name(wharf::BackEnd::Uring); })+
        }
        mod epoll {
            $(#[test] fn $name() { super::$name(wharf::BackEnd::Epoll); })+
        }
    };
}
use each_back_end;

#[test]
fn the_quickstart_is_one_text_of_at_most_15_lines() {
    let readme = include_str!("../../../../README.md");
    let block = readme.split("```rust,no_run\n").nth(1).unwrap().split("```").next().unwrap();
    let example = include_str!("../../examples/echo.rs");
    let code: String =
        example.lines().filter(|line| !line.starts_with("//!")).map(|l| format!("{l}\n")).collect();
    assert_eq!(block, code);
    assert!(example.lines().count() <= 15, "{}", example.lines().count());
}

#[test]
fn the_thread_pool_runs_every_job_before_it_stops() {
    let output = common::program("thread_pool").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (first, last) = (text.lines().next(), text.lines().last());
    assert_eq!((first, last), (Some("an apple: 530"), Some("5 jobs, 0 not run")));
    let journal: Vec<_> = text.lines().filter(|line| line.starts_with("journal")).collect();
    assert_eq!(journal, ["journal: line 1", "journal: line 2", "journal: line 3"]);
    for line in ["a pear: 424", "a plum: 446", "a fig: 310", "stock taken"] {
        assert!(text.lines().any(|said| said == line), "{line} is not in {text}");
    }
}

/// 60 questions, which take 20 ms each, on two workers: the pool answers them side by side.
#[test]
fn the_efficient_server_answers_side_by_side_and_each_link_in_order() {
    let mut server = common::Example::start("efficient_server", wharf::BackEnd::Epoll).unwrap();
    let mut clients: Vec<_> = (0..60).map(|_| server.connect()).collect();
    let mut answered = 0;
    for len in [1, 5, 11] {
        let begin = std::time::Instant::now();
        for client in &mut clients {
            client.write_all(&vec![b'?'; len]).unwrap();
        }
        for client in &mut clients {
            let mut line = Vec::new();
            while line.last() != Some(&b'\n') {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                line.push(byte[0]);
            }
            let line = String::from_utf8(line).unwrap();
            let end = format!(" of this connection: {len} bytes\n");
            assert!(line.starts_with("answer ") && line.ends_with(&end), "{line}");
            answered += 1;
        }
        assert!(begin.elapsed() < Duration::from_millis(60 * 20 / 2), "one after the other");
    }
    assert_eq!(answered, 180);
    server.stdin.take().unwrap().write_all(b"\n").unwrap();
    server.ends();
}

/// The table of the README and the folder name the same examples.
#[test]
fn every_example_is_listed_in_the_readme() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = format!("crates/wharf/examples/{name}");
        assert!(include_str!("../../../../README.md").contains(&path), "{path}");
    }
}
