//! User-space bytes per idle link: `idle COMMAND...`, with ADDRESS and LINKS in the command.
//!
//! Starts the server twice, with a table for 1,000 and for 9,000 links, connects as many clients,
//! lets each have one 64 B echo, and reads the server's resident memory. The difference
//! of the two, divided by 8,000, is the memory of one more idle link: its slots in all tables, which
//! are allocated at start, and all that is allocated for a connection. Set the same number of buffers in
//! both runs: the default grows with the maximum of links.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [few, many] = [1_000, 9_000].map(|links| resident(&words, links));
    println!(
        "1,000 links: {few} B resident; 9,000 links: {many} B; {} B a link",
        (many - few) / 8_000
    );
}

fn resident(words: &[String], links: usize) -> i64 {
    let address: SocketAddr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let words: Vec<String> = words
        .iter()
        .map(|word| {
            word.replace("ADDRESS", &address.to_string()).replace("LINKS", &links.to_string())
        })
        .collect();
    let mut child =
        Command::new(&words[0]).args(&words[1..]).stdout(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut clients: Vec<TcpStream> = Vec::new();
    while clients.len() < links {
        match TcpStream::connect(address) {
            Ok(client) => clients.push(client),
            Err(error) => {
                assert!(clients.is_empty() && Instant::now() < deadline, "{error}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    for client in &mut clients {
        client.write_all(&[7; 64]).unwrap();
        client.read_exact(&mut [0; 64]).unwrap();
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    let kib: i64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    kib * 1024
}
