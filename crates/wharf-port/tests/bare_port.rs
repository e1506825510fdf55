//! Promise: the nine steps of `examples/bare_port.rs` and of `examples/own_port.rs` are an echo
//! server; the first one's workers block without stopping the others, and end when they are told to.
//!
//! Method: runs the built examples as programs, and connects to them over TCP.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Fails if it has ended.
        let _has_ended = self.0.kill();
        self.0.wait().unwrap();
    }
}

/// Starts an example; returns it with its address.
fn start(name: &str) -> (Killed, String) {
    let tests = std::env::current_exe().unwrap();
    let example = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    let mut command = Command::new(example);
    command.arg("127.0.0.1:0").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Killed(command.spawn().unwrap());
    let mut banner = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut banner).unwrap();
    // "io_uring on 127.0.0.1:34567: try nc"
    let address = banner.split(' ').nth(2).unwrap().trim_end_matches(':').to_owned();
    (child, address)
}

fn echoes_on_many_links(address: &str) {
    for round in 0..3_u8 {
        let mut links: Vec<_> = (0..50).map(|_| TcpStream::connect(address).unwrap()).collect();
        for (number, link) in (0_u8..).zip(&mut links) {
            link.write_all(&[round, number, 3, 4]).unwrap();
        }
        for (number, link) in (0_u8..).zip(&mut links) {
            let mut echo = [0; 4];
            link.read_exact(&mut echo).unwrap();
            assert_eq!(echo, [round, number, 3, 4]);
        }
    }
}

#[test]
fn the_nine_steps_on_one_thread_echo_on_many_links_one_after_another_and_at_once() {
    let (_child, address) = start("own_port");
    echoes_on_many_links(&address);
}

#[cfg(target_os = "linux")]
#[test]
fn the_nine_steps_on_many_threads_echo_while_some_of_them_block_and_end_in_order() {
    let (mut child, address) = start("bare_port");
    let mut slow: Vec<_> = (0..12).map(|_| TcpStream::connect(&address).unwrap()).collect();
    for link in &mut slow {
        link.write_all(b"slow").unwrap();
    }
    echoes_on_many_links(&address);
    for link in &mut slow {
        let mut answer = [0; 4];
        link.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"SLOW");
    }
    child.0.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(child.0.wait().unwrap().success());
}
