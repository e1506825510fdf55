//! How it ends: every byte that it took is answered, in time, and the exit code says how it went.

use super::common::{
    PATIENCE, Server, WHARF, clean, eventually, installed, read_until, run, wharf,
};
use super::each_back_end;
use super::snapshot::{CALLS, matches_but};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

each_back_end! {
    a_signal_under_load_loses_no_answer,
    a_stream_without_end_ends_with_the_server,
    a_silent_server_ends_at_once_on_either_signal,
    links_that_do_not_finish_are_force_closed_at_the_drain_timeout,
    a_second_signal_ends_it_at_once,
}

/// What it says from the first signal on.
fn last_lines(server: &Server) -> String {
    let from = server.log.iter().position(|line| line.contains(" stopping on "));
    server.log[from.expect("it was stopped")..].join("\n") + "\n"
}

/// Eight clients send without pause, and a ninth stops between two messages. What comes back must be
/// a prefix of what was sent, and for who stopped sending in time, all of it.
fn a_signal_under_load_loses_no_answer(back_end: &str) {
    const CLIENTS: u8 = 8;
    let Some(mut server) = Server::start(back_end, &["--drain", "5s"]) else { return };
    let running = Barrier::new(usize::from(CLIENTS) + 1);
    let answered: u64 = std::thread::scope(|scope| {
        let client = |number: u8| {
            let mut link = server.connect();
            let running = &running;
            move || {
                let message = [number; 200];
                let mut answer = [0; 200];
                let mut answered = 0_u64;
                loop {
                    if answered == 20 {
                        running.wait();
                    }
                    // The server has closed: at a message's border or within one.
                    if link.write_all(&message).is_err() {
                        return answered;
                    }
                    let mut len = 0;
                    while len < answer.len() {
                        match link.read(&mut answer[len..]) {
                            Ok(0) | Err(_) => break,
                            Ok(n) => len += n,
                        }
                    }
                    assert!(answer[..len].iter().all(|byte| *byte == number), "{answer:?}");
                    if len < answer.len() {
                        return answered;
                    }
                    answered += 1;
                }
            }
        };
        let clients: Vec<_> = (1..=CLIENTS).map(|number| scope.spawn(client(number))).collect();
        let mut calm = server.connect();
        calm.write_all(b"before").expect("it reads");
        running.wait();
        server.signal(Signal::TERM);
        let mut rest = Vec::new();
        calm.read_to_end(&mut rest).expect("the stream ends");
        assert_eq!(rest, b"before");
        clients.into_iter().map(|client| client.join().expect("right answers")).sum()
    });
    let (status, took) = server.wait();
    assert_eq!(status.code(), Some(0), "{:#?}", server.log);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(answered >= u64::from(CLIENTS) * 20, "{answered}");
    matches_but("stop-drained", &[CALLS], &last_lines(&server));
}

/// Who reads chargen gets whole what was queued at the signal, and then the end; the server does not
/// wait for the drain's time to be over. Also who has ended its half, and is still served.
fn a_stream_without_end_ends_with_the_server(back_end: &str) {
    let arguments = ["--app", "chargen", "--drain", "1h"];
    let Some(mut server) = Server::start(back_end, &arguments) else { return };
    let mut links = [server.connect(), server.connect()];
    links[1].shutdown(Shutdown::Write).expect("open");
    for link in &mut links {
        link.read_exact(&mut vec![0; 1 << 20]).expect("it goes on");
    }
    server.signal(Signal::TERM);
    let (deadline, mut piece) = (Instant::now() + PATIENCE, vec![0; 1 << 16]);
    for link in &mut links {
        while link.read(&mut piece).expect("the stream ends") > 0 {
            assert!(Instant::now() < deadline, "it goes on after the stop");
        }
    }
    let (status, took) = server.wait();
    assert_eq!(status.code(), Some(0), "{:#?}", server.log);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

fn a_silent_server_ends_at_once_on_either_signal(back_end: &str) {
    for (signal, name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")] {
        let Some(mut server) = Server::start(back_end, &["--app", "chat"]) else { return };
        server.signal(signal);
        let (status, took) = server.wait();
        assert_eq!(status.code(), Some(0), "{:#?}", server.log);
        assert!(took < Duration::from_secs(2), "{took:?}");
        matches_but(&format!("stop-{name}"), &[], &last_lines(&server));
    }
}

/// A client that asks for much and reads nothing keeps its link from finishing.
fn stuck_link(server: &Server) -> std::net::TcpStream {
    let mut link = server.connect();
    // More than the sockets' buffers and the send queue hold together.
    link.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let piece = vec![b'x'; 65_536];
    for _ in 0..1_000 {
        if link.write_all(&piece).is_err() {
            return link;
        }
    }
    panic!("the server took 64 MB from a client that reads nothing");
}

fn links_that_do_not_finish_are_force_closed_at_the_drain_timeout(back_end: &str) {
    let Some(mut server) = Server::start(back_end, &["--drain", "300ms"]) else { return };
    let _stuck = stuck_link(&server);
    let begin = Instant::now();
    server.signal(Signal::TERM);
    let (status, _) = server.wait();
    let took = begin.elapsed();
    assert_eq!(status.code(), Some(5), "{:#?}", server.log);
    assert!(took >= Duration::from_millis(290) && took < Duration::from_secs(3), "{took:?}");
    matches_but("stop-forced", &[CALLS], &last_lines(&server));
}

fn a_second_signal_ends_it_at_once(back_end: &str) {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let Some(mut server) = Server::start(back_end, &["--drain", "1h"]) else { return };
        let _stuck = stuck_link(&server);
        server.signal(signal);
        server.wait_for_line(" stopping on ").expect("it begins to drain");
        server.signal(signal);
        let (status, took) = server.wait();
        assert_eq!(status.code(), Some(code), "{:#?}", server.log);
        assert!(took < Duration::from_secs(2), "{took:?}");
        matches_but(&format!("stop-second-{code}"), &[], &last_lines(&server));
    }
}

/// After the signal no connection is accepted, and open links may finish.
#[test]
fn a_draining_server_accepts_no_connection() {
    let Some(mut server) = Server::start("auto", &["--drain", "1h"]) else { return };
    let mut link = server.connect();
    link.write_all(b"x\n").expect("it reads");
    read_until(&mut link, "x\n");
    let _stuck = stuck_link(&server);
    server.signal(Signal::TERM);
    server.wait_for_line(" stopping on ").expect("it begins to drain");
    let mut rest = Vec::new();
    link.read_to_end(&mut rest).expect("the link that has nothing to finish is closed");
    assert!(rest.is_empty());
    let refused = std::net::TcpStream::connect(server.addresses[0]);
    let served = refused.is_ok_and(|mut late| {
        let _half = late.write_all(b"late").and_then(|()| late.shutdown(Shutdown::Write));
        late.read_to_end(&mut rest).is_ok() && !rest.is_empty()
    });
    assert!(!served);
}

/// Whether a process has a handler for a signal.
fn catches(pid: u32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a line");
    let caught = u64::from_str_radix(line.trim(), 16).expect("a mask");
    caught >> (signal.as_raw() - 1) & 1 == 1
}

/// Each signal whose default ends a process is in the help, and does what that says.
#[test]
fn every_signal_does_what_the_help_says() {
    let help = run(&mut wharf(&["serve", "--help"])).stdout;
    let (_, help) = help.split_once("\nSignals:\n").expect("a part for signals");
    let (help, _) = help.split_once("\nExit status:").expect("the next part");
    let (handled, others) = help.split_once("  The others ").expect("the others");
    let names = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        let is_name = |word: &&str| word.len() > 1 && !word.contains(|c: char| c.is_lowercase());
        words.filter(is_name).map(str::to_owned).collect()
    };
    assert_eq!(names(handled), ["INT", "TERM", "PIPE", "XFSZ"]);
    // From signal(7); CHLD, CONT, URG and WINCH are ignored by default, and STOP, TSTP, TTIN and TTOU
    // stop a process.
    let signals = [
        ("HUP", Signal::HUP),
        ("QUIT", Signal::QUIT),
        ("ILL", Signal::ILL),
        ("TRAP", Signal::TRAP),
        ("ABRT", Signal::ABORT),
        ("BUS", Signal::BUS),
        ("FPE", Signal::FPE),
        ("KILL", Signal::KILL),
        ("USR1", Signal::USR1),
        ("SEGV", Signal::SEGV),
        ("USR2", Signal::USR2),
        ("ALRM", Signal::ALARM),
        ("STKFLT", Signal::STKFLT),
        ("XCPU", Signal::XCPU),
        ("VTALRM", Signal::VTALARM),
        ("PROF", Signal::PROF),
        ("IO", Signal::IO),
        ("PWR", Signal::POWER),
        ("SYS", Signal::SYS),
    ];
    let mut listed = names(others);
    listed.sort();
    let mut all: Vec<_> = signals.iter().map(|(name, _)| (*name).to_owned()).collect();
    all.sort();
    assert_eq!(listed, all);
    if !installed("env", "--version") || !installed("prlimit", "--version") {
        return;
    }
    // The process that runs the tests may ignore some, and some would leave a memory image.
    let begin = ["--default-signal", "prlimit", "--core=0", WHARF, "serve", "--shards", "1"];
    let words = [&begin[..], &["--backend", "epoll", "--listen", "127.0.0.1:0"]].concat();
    for (name, signal) in signals {
        let mut server = Server::spawn(&mut clean(Command::new("env"), &words)).expect("epoll");
        server.signal(Signal::PIPE);
        server.signal(Signal::XFSZ);
        server.signal(Signal::CONT);
        let mut link = server.connect();
        link.write_all(b"x").expect("it reads");
        read_until(&mut link, "x");
        server.signal(signal);
        if [Signal::SEGV, Signal::BUS].contains(&signal) {
            // Rust's handler, which looks for an overflow of the stack, lets the first one pass.
            eventually(|| !catches(server.pid(), signal), "it has passed");
            server.signal(signal);
        }
        let (status, took) = server.wait();
        assert_eq!(status.signal(), Some(signal.as_raw()), "{name}: {status}");
        assert!(took < Duration::from_secs(5), "{name}: {took:?}");
    }
}
