//! Promise: every example does what its head says, and the quickstart is the same everywhere.
//!
//! Method: the built examples run as programs of their own and are talked to over TCP.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "a deadline against real processes is real time")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A running example, killed when the test is over.
struct Example {
    child: Child,
    address: SocketAddr,
}

impl Example {
    fn start(name: &str) -> Self {
        // The system chooses a port, which the example then takes over.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self::start_at(name, address)
    }

    fn start_at(name: &str, address: SocketAddr) -> Self {
        let tests = std::env::current_exe().unwrap();
        let folder: PathBuf = tests.parent().unwrap().parent().unwrap().join("examples");
        let child = Command::new(folder.join(name)).arg(address.to_string()).spawn().unwrap();
        Self { child, address }
    }

    fn connect(&mut self) -> TcpStream {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Ok(stream) = TcpStream::connect(self.address) {
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                return stream;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the example ended: {status}");
            }
            assert!(Instant::now() < deadline, "the example does not listen");
            std::thread::yield_now();
        }
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line
}

#[test]
fn echo_answers_what_it_got() {
    let address = "127.0.0.1:9527".parse().unwrap();
    if TcpListener::bind(address).is_err() {
        println!("skipped, because another program listens on {address}");
        return;
    }
    let mut example = Example::start_at("echo", address);
    let mut stream = example.connect();
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

#[test]
fn chat_carries_a_line_to_the_others() {
    let mut example = Example::start("chat");
    let mut one = example.connect();
    let mut one_reads = BufReader::new(one.try_clone().unwrap());
    assert!(line(&mut one_reads).starts_with("Type a line"));
    let two = example.connect();
    let mut two_reads = BufReader::new(two.try_clone().unwrap());
    assert!(line(&mut two_reads).starts_with("Type a line"));
    assert_eq!(line(&mut one_reads), format!("* {} came in\n", two.local_addr().unwrap()));
    one.write_all(b"good mor").unwrap();
    one.write_all(b"ning\n").unwrap();
    assert_eq!(line(&mut two_reads), format!("{}: good morning\n", one.local_addr().unwrap()));
    let gone = two.local_addr().unwrap();
    drop((two, two_reads));
    assert_eq!(line(&mut one_reads), format!("* {gone} left (peer_closed)\n"));
}

#[test]
fn big_messages_come_back_reversed() {
    let mut example = Example::start("big_messages");
    let mut stream = example.connect();
    for len in [0_usize, 1, 2048, 1 << 20] {
        let message: Vec<u8> = (0..len).map(|i| i.to_le_bytes()[0]).collect();
        stream.write_all(&u32::try_from(len).unwrap().to_be_bytes()).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let mut answer = vec![0; 4 + len];
        std::thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&message).unwrap());
            stream.read_exact(&mut answer).unwrap();
        });
        assert!(answer[4..].iter().rev().eq(&message), "{len} bytes");
    }
    stream.write_all(&u32::MAX.to_be_bytes()).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0, "a lie about the length ends the link");
}

#[test]
fn per_worker_state_answers_from_its_cache() {
    let mut example = Example::start("per_worker_state");
    let mut stream = example.connect();
    let mut reads = BufReader::new(stream.try_clone().unwrap());
    for _ in 0..2 {
        stream.write_all(b"27\n").unwrap();
        assert!(line(&mut reads).starts_with("27: 111 steps, says worker "));
    }
    stream.write_all(b"nonsense\n").unwrap();
    assert!(line(&mut reads).starts_with("a number from 1"));
}

#[test]
fn the_quickstart_is_one_text_of_at_most_15_lines() {
    let readme = include_str!("../../../README.md");
    let block = readme.split("```rust,no_run\n").nth(1).unwrap().split("```").next().unwrap();
    let example = include_str!("../examples/echo.rs");
    let code: String =
        example.lines().filter(|line| !line.starts_with("//!")).map(|l| format!("{l}\n")).collect();
    assert_eq!(block, code);
    assert!(block.lines().filter(|line| !line.trim().is_empty()).count() <= 15);
}
