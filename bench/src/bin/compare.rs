//! Server CPU time per echoed message, of several servers in turn: A B A B.
//!
//! `compare --links 50 --size 64 --rounds 12 --slice-ms 500 -- NAME=COMMAND...`, and
//! `--server-cpu 0 --client-cpu 1` to run servers and load on these cores; `--churn` gives each message
//! a connection of its own.
//!
//! All servers run during the whole comparison, each with connections of its own. In every round each
//! server gets one slice of load: one thread sends a message on every connection, and the next one
//! after each echo (closed loop, depth 1). The server's CPU time, user and system, is read from /proc
//! before and after the slice. The output has, for each server, the median and the quartiles over the
//! rounds: of CPU microseconds per message, and of their ratio to the first server's in the same round,
//! which cancels changes of the machine's speed.

use rustix::event::epoll::{self, Event, EventData, EventFlags};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Options {
    links: usize,
    size: usize,
    rounds: usize,
    slice: Duration,
    churn: bool,
    server_cpu: Option<String>,
    client_cpu: Option<String>,
}

struct Contestant {
    name: String,
    address: String,
    child: Child,
    links: Vec<TcpStream>,
    epoll: std::os::fd::OwnedFd,
    cpu_us_per_message: Vec<f64>,
    messages_per_s: Vec<f64>,
}

fn main() {
    let (options, commands) = parse();
    if let Some(cpus) = &options.client_cpu {
        pin(std::process::id(), cpus);
    }
    let mut contestants: Vec<Contestant> = commands
        .iter()
        .enumerate()
        .map(|(i, (name, command))| start(i, name, command, &options))
        .collect();
    for round in 0..=options.rounds {
        for contestant in &mut contestants {
            slice(contestant, &options, round > 0);
        }
    }
    println!(
        "{} links x {} B, depth 1; {} rounds of {:?} each",
        options.links, options.size, options.rounds, options.slice
    );
    println!(
        "{:<16} {:>24} {:>24} {:>12}",
        "server", "CPU us/message (q1-q3)", "ratio to first (q1-q3)", "messages/s"
    );
    let first = contestants[0].cpu_us_per_message.clone();
    for contestant in &mut contestants {
        let ratios: Vec<f64> =
            contestant.cpu_us_per_message.iter().zip(&first).map(|(a, b)| a / b).collect();
        let cpu = quartiles(&contestant.cpu_us_per_message);
        let ratio = quartiles(&ratios);
        let rate = quartiles(&contestant.messages_per_s)[1];
        println!(
            "{:<16} {:>8.2} ({:>5.2}-{:>5.2})    {:>8.2} ({:>5.2}-{:>5.2})    {:>12.0}",
            contestant.name, cpu[1], cpu[0], cpu[2], ratio[1], ratio[0], ratio[2], rate
        );
        contestant.child.kill().expect("the server runs until it is stopped");
        contestant.child.wait().expect("a child can be waited for");
    }
}

fn parse() -> (Options, Vec<(String, Vec<String>)>) {
    let mut options = Options {
        links: 50,
        size: 64,
        rounds: 12,
        slice: Duration::from_millis(500),
        churn: false,
        server_cpu: None,
        client_cpu: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().expect("a value");
        let number = |text: String| text.parse::<usize>().expect("a number");
        match arg.as_str() {
            "--links" => options.links = number(value()),
            "--size" => options.size = number(value()),
            "--rounds" => options.rounds = number(value()),
            "--slice-ms" => options.slice = Duration::from_millis(number(value()) as u64),
            "--churn" => options.churn = true,
            "--server-cpu" => options.server_cpu = Some(value()),
            "--client-cpu" => options.client_cpu = Some(value()),
            "--" => break,
            other => panic!("unknown option {other}"),
        }
    }
    let commands = args
        .map(|text| {
            let (name, command) = text.split_once('=').expect("NAME=COMMAND");
            (name.to_owned(), command.split_whitespace().map(str::to_owned).collect())
        })
        .collect();
    (options, commands)
}

/// Starts a server on a port of its own, in place of `ADDRESS` in its command, and connects to it.
fn start(index: usize, name: &str, command: &[String], options: &Options) -> Contestant {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let words: Vec<String> = command.iter().map(|word| word.replace("ADDRESS", &address)).collect();
    let mut child = Command::new(&words[0]);
    child.args(&words[1..]).stdout(Stdio::null());
    let child = child.spawn().unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(&address).is_err() {
        assert!(Instant::now() < deadline, "{name} does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    if let Some(cpus) = &options.server_cpu {
        pin(child.id(), cpus);
    }
    let links = (0..options.links).map(|link| connect(&address, &epoll, link)).collect();
    let _ = index;
    Contestant {
        name: name.to_owned(),
        address,
        child,
        links,
        epoll,
        cpu_us_per_message: Vec::new(),
        messages_per_s: Vec::new(),
    }
}

fn connect(address: &str, epoll: &std::os::fd::OwnedFd, link: usize) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_nonblocking(true).unwrap();
    epoll::add(epoll, &stream, EventData::new_u64(link as u64), EventFlags::IN).unwrap();
    stream
}

/// Loads one server for a slice of time; all its connections are silent before and after.
fn slice(contestant: &mut Contestant, options: &Options, counts: bool) {
    let message = vec![b'x'; options.size];
    let mut buffer = vec![0; options.size.max(65_536)];
    let mut pending = vec![0_usize; options.links];
    let cpu_before = cpu_ns(contestant.child.id());
    let began = Instant::now();
    for (link, stream) in contestant.links.iter_mut().enumerate() {
        stream.write_all(&message).unwrap();
        pending[link] = options.size;
    }
    let mut open = options.links;
    let mut messages = 0_u64;
    let mut events = Vec::with_capacity(1024);
    while open > 0 {
        events.clear();
        epoll::wait(&contestant.epoll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
        let over = began.elapsed() >= options.slice;
        for Event { data, .. } in events.iter().copied() {
            let link = data.u64() as usize;
            let stream = &mut contestant.links[link];
            let read = match stream.read(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(error) => panic!("{}: {error}", contestant.name),
            };
            assert!(read > 0, "{} closed a connection", contestant.name);
            assert!(buffer[..read].iter().all(|byte| *byte == b'x'));
            pending[link] -= read;
            if pending[link] > 0 {
                continue;
            }
            messages += 1;
            if over {
                open -= 1;
            } else {
                if options.churn {
                    *stream = connect(&contestant.address, &contestant.epoll, link);
                }
                stream.write_all(&message).unwrap();
                pending[link] = options.size;
            }
        }
    }
    let elapsed = began.elapsed().as_secs_f64();
    let cpu = cpu_ns(contestant.child.id()) - cpu_before;
    if counts {
        contestant.cpu_us_per_message.push(cpu as f64 / 1000.0 / messages as f64);
        contestant.messages_per_s.push(messages as f64 / elapsed);
    }
}

/// CPU time of all threads of a process, in nanoseconds.
fn cpu_ns(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

fn pin(pid: u32, cpus: &str) {
    let done = Command::new("taskset")
        .args(["-a", "-c", "-p", cpus, &pid.to_string()])
        .stdout(Stdio::null())
        .status();
    assert!(done.is_ok_and(|status| status.success()), "taskset");
}

fn quartiles(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    [1, 2, 3].map(|q| sorted[(sorted.len() - 1) * q / 4])
}
