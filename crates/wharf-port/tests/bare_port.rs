//! Promise: the nine steps of `examples/bare_port.rs` are an echo server.
//!
//! Method: runs the built example as a program, and connects to it over TCP.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn the_nine_steps_echo_on_many_links_one_after_another_and_at_once() {
    let tests = std::env::current_exe().unwrap();
    let example = tests.parent().unwrap().parent().unwrap().join("examples/bare_port");
    let child = Command::new(example).arg("127.0.0.1:0").stdout(Stdio::piped()).spawn();
    let mut child = Killed(child.unwrap());
    let mut banner = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut banner).unwrap();
    // "io_uring on 127.0.0.1:34567: try nc"
    let address = banner.split(' ').nth(2).unwrap().trim_end_matches(':').to_owned();
    for round in 0..3_u8 {
        let mut links: Vec<_> = (0..50).map(|_| TcpStream::connect(&address).unwrap()).collect();
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
