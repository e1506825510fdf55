//! Instructions in user space that one echoed message costs a server, under callgrind.
//!
//! `instructions --links 50 --size 64 -- COMMAND...`, with `ADDRESS` in the command; a server on
//! epoll, because valgrind does not support io_uring. In a round each link sends a message and reads
//! its echo. The server runs twice, for 100 and for 300 rounds; the difference of the two counts
//! leaves out start, accepts and stop. Unlike a time, the number is the same on a busy machine, to
//! one or two percent.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn main() {
    let (mut links, mut size) = (50, 64);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().and_then(|n| n.parse().ok()).expect("a number");
        match arg.as_str() {
            "--links" => links = value(),
            "--size" => size = value(),
            "--" => break,
            other => panic!("{other} is no option"),
        }
    }
    let command: Vec<String> = args.collect();
    let [few, many] = [100, 300].map(|rounds| count(&command, links, size, rounds));
    println!("{:.0} instructions a message", (many - few) as f64 / (200 * links) as f64);
}

/// Instructions of a whole run.
fn count(command: &[String], links: usize, size: usize, rounds: usize) -> u64 {
    let address = free_address();
    let words = command.iter().map(|word| word.replace("ADDRESS", &address));
    let mut server = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(words)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("valgrind starts");
    let mut streams: Vec<TcpStream> = (0..links).map(|_| connect(&address)).collect();
    let (message, mut echo) = (vec![1; size], vec![0; size]);
    for _ in 0..rounds {
        for stream in &mut streams {
            stream.write_all(&message).expect("a send");
        }
        for stream in &mut streams {
            stream.read_exact(&mut echo).expect("an echo");
        }
    }
    drop(streams);
    let pid = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is there");
    let mut report = String::new();
    server.stderr.take().expect("piped").read_to_string(&mut report).expect("text");
    server.wait().expect("it ends");
    // "==123== Collected : 33139721"
    let collected = report.lines().find(|line| line.contains("Collected")).expect("a count");
    collected.rsplit(' ').next().and_then(|count| count.parse().ok()).expect("a number")
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").to_string()
}

fn connect(address: &str) -> TcpStream {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_nodelay(true).expect("an option");
                return stream;
            }
            Err(error) => assert!(Instant::now() < end, "{address}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
