//! Promise: time in which the server itself does not run counts for no timeout: after a pause of the
//! process, and after a callback that takes long, links whose peers have sent or read in the meantime
//! are served and not closed.
//!
//! Method: the server runs in a child, which the test stops and continues by signals.

use crate::util::functions::functions;
use crate::util::{
    self, Case, PATIENCE, TestServer, each_back_end, expect_bytes, expect_end, now, round_trip,
    within,
};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;
use wharf::{Verdict, WhenSlow};

each_back_end!(
    after_a_pause_longer_than_idle_links_whose_question_waits_are_answered,
    a_deferred_reply_is_sent_after_a_pause_longer_than_its_timeout,
    a_reader_that_reads_during_a_pause_is_not_slow,
    a_drain_answers_what_came_during_a_pause_longer_than_its_timeout,
    after_a_callback_longer_than_idle_links_whose_question_waits_are_answered,
    after_a_pause_a_little_longer_than_idle_all_of_many_questions_are_answered,
    a_drain_answers_what_came_during_a_callback_longer_than_its_timeout,
);

const TIMEOUT: Duration = Duration::from_millis(400);
/// Longer than every timeout.
const PAUSE: Duration = Duration::from_millis(1_500);
const LINKS: usize = 10;
/// More than the systems hold for one link.
const MANY: usize = 16 << 20;

/// The child: serves until its standard input ends. A line there starts the drain.
fn serve(case: &Case) {
    let deferred = util::Mutex::new(Vec::new());
    let handler = functions::<u64>()
        .on_receive(move |link, input| {
            let Some(line) = input.line(100)? else { return Ok(()) };
            match line {
                b"defer" => {
                    deferred.lock().unwrap().push(input.defer(&mut link.out, 10)?);
                    Ok(())
                }
                b"reply" => {
                    let replies = std::mem::take(&mut *deferred.lock().unwrap());
                    replies.into_iter().for_each(|reply| reply.send(b"late\n").unwrap());
                    Ok(())
                }
                b"much" => {
                    *link.state = MANY as u64;
                    link.out.notify();
                    Ok(())
                }
                line => Ok(link.out.send((line, b"\n"))?),
            }
        })
        .on_writable(|link| {
            while *link.state > 0 {
                let piece = [b'm'; 4_096];
                if !link.out.ensure(piece.len())? {
                    return Ok(());
                }
                link.out.send(piece)?;
                *link.state -= piece.len() as u64;
            }
            Ok(())
        })
        .on_drain(|_| Ok(Verdict::Keep));
    let builder = case
        .short(handler)
        .links_max(300)
        .when_slow(WhenSlow::Skip)
        .idle_timeout(TIMEOUT)
        .stall_timeout(TIMEOUT)
        .answer_timeout(TIMEOUT);
    let server = TestServer::start(builder);
    println!("listens on {}", server.address);
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).unwrap() > 0 {
        server.handle.stop(TIMEOUT);
        server.wait().unwrap();
    } else {
        server.stop_within(Duration::ZERO);
    }
}

/// A server in a process of its own, which a signal can stop.
struct Served {
    child: Child,
    stdin: Option<ChildStdin>,
    address: SocketAddr,
}

impl Served {
    fn start(case: &Case) -> Self {
        let mut command: Command = case.command("server");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let stdin = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(|line| line.ok());
        let address = lines.find_map(|line| Some(line.split_once("listens on ")?.1.to_owned()));
        // Its further output must not block it.
        std::thread::Builder::new().spawn(move || lines.for_each(drop)).unwrap();
        let address = address.expect("it says where").parse().unwrap();
        Self { child, stdin, address }
    }

    /// Stops the process, lets `meanwhile` do something and the pause pass, and continues it.
    fn pause(&self, meanwhile: impl FnOnce()) {
        self.pause_for(PAUSE, meanwhile);
    }

    fn pause_for(&self, pause: Duration, meanwhile: impl FnOnce()) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP).unwrap();
        let end = now() + pause;
        meanwhile();
        std::thread::sleep(end.saturating_duration_since(now()));
        kill_process(pid, Signal::CONT).unwrap();
    }

    /// Each client asks during a pause, and gets its answer after it.
    fn answers_after(&self, pause: Duration, clients: &mut [TcpStream]) {
        self.pause_for(pause, || ask(clients));
        expect_answers(clients);
    }

    fn stop(mut self) {
        drop(self.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _it_may_have_ended = self.child.kill();
        }
    }
}

fn connect_all(server: &Served) -> Vec<TcpStream> {
    connect_many(server, LINKS)
}

fn connect_many(server: &Served, links: usize) -> Vec<TcpStream> {
    let mut clients: Vec<_> = (0..links).map(|_| util::connect(server.address)).collect();
    clients.iter_mut().for_each(|client| round_trip(client, b"hello\n"));
    clients
}

fn ask(clients: &mut [TcpStream]) {
    clients.iter_mut().for_each(|client| client.write_all(b"question\n").unwrap());
}

fn expect_answers(clients: &mut [TcpStream]) {
    clients.iter_mut().for_each(|client| expect_bytes(client, b"question\n"));
}

fn after_a_pause_longer_than_idle_links_whose_question_waits_are_answered(case: &Case) {
    if case.role().is_some() {
        return serve(case);
    }
    let _deadline = within(4 * PATIENCE);
    let server = Served::start(case);
    let mut clients = connect_all(&server);
    for _ in 0..3 {
        server.answers_after(PAUSE, &mut clients);
    }
    drop(clients);
    server.stop();
}

fn a_deferred_reply_is_sent_after_a_pause_longer_than_its_timeout(case: &Case) {
    if case.role().is_some() {
        return serve(case);
    }
    let _deadline = within(4 * PATIENCE);
    let server = Served::start(case);
    for _ in 0..3 {
        let mut clients = connect_all(&server);
        for client in &mut clients {
            client.write_all(b"defer\n").unwrap();
        }
        // All have their deferral when a later question of another link is answered.
        let mut last = util::connect(server.address);
        round_trip(&mut last, b"after\n");
        server.pause(|| last.write_all(b"reply\n").unwrap());
        for client in &mut clients {
            expect_bytes(client, b"late\n");
        }
    }
    server.stop();
}

fn a_reader_that_reads_during_a_pause_is_not_slow(case: &Case) {
    if case.role().is_some() {
        return serve(case);
    }
    let _deadline = within(4 * PATIENCE);
    let server = Served::start(case);
    let mut client = util::connect(server.address);
    client.write_all(b"much\n").unwrap();
    let mut got = vec![0; MANY];
    client.read_exact(&mut got[..4 << 20]).unwrap();
    let mut len = 4 << 20;
    // It reads all that its system holds.
    server.pause(|| {
        client.set_nonblocking(true).unwrap();
        while let Ok(more @ 1..) = client.read(&mut got[len..]) {
            len += more;
        }
        client.set_nonblocking(false).unwrap();
    });
    assert!(len < MANY, "nothing is left to be sent after the pause");
    client.read_exact(&mut got[len..]).unwrap();
    round_trip(&mut client, b"still here\n");
    drop(client);
    server.stop();
}

fn a_drain_answers_what_came_during_a_pause_longer_than_its_timeout(case: &Case) {
    if case.role().is_some() {
        return serve(case);
    }
    let _deadline = within(4 * PATIENCE);
    let mut server = Served::start(case);
    let mut clients = connect_all(&server);
    server.stdin.as_mut().unwrap().write_all(b"drain\n").unwrap();
    // The drain has begun when it accepts no more.
    let stops = || TcpStream::connect(server.address).is_err();
    util::eventually(stops, "the server stops accepting");
    server.answers_after(PAUSE, &mut clients);
    // At the drain timeout the links are closed.
    clients.iter_mut().for_each(expect_end);
    server.stop();
}

fn after_a_callback_longer_than_idle_links_whose_question_waits_are_answered(case: &Case) {
    let handler = util::on_receive(|link, input| {
        let Some(line) = input.line(100)? else { return Ok(()) };
        if line == b"long" {
            std::thread::sleep(PAUSE);
        }
        Ok(link.out.send((line, "\n"))?)
    });
    let builder = case.builder(handler).links_max(300).idle_timeout(TIMEOUT);
    let server = TestServer::start(builder);
    let mut slow = server.connect();
    round_trip(&mut slow, b"hello\n");
    let mut clients: Vec<_> = (0..200).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| round_trip(client, b"hello\n"));
    slow.write_all(b"long\n").unwrap();
    ask(&mut clients);
    expect_bytes(&mut slow, b"long\n");
    expect_answers(&mut clients);
    drop((slow, clients));
    server.stop_within(Duration::ZERO);
}

fn after_a_pause_a_little_longer_than_idle_all_of_many_questions_are_answered(case: &Case) {
    if case.role().is_some() {
        return serve(case);
    }
    let _deadline = within(4 * PATIENCE);
    let server = Served::start(case);
    let mut clients = connect_many(&server, 200);
    for excess in [10, 30, 50, 70, 90] {
        clients.iter_mut().for_each(|client| round_trip(client, b"hello\n"));
        server.answers_after(TIMEOUT + Duration::from_millis(excess), &mut clients);
    }
    drop(clients);
    server.stop();
}

fn a_drain_answers_what_came_during_a_callback_longer_than_its_timeout(case: &Case) {
    let (begins, begun) = std::sync::mpsc::channel();
    let handler = functions::<()>()
        .on_receive(move |link, input| {
            let Some(line) = input.line(100)? else { return Ok(()) };
            if line == b"long" {
                begins.send(())?;
                std::thread::sleep(PAUSE);
            }
            Ok(link.out.send((line, "\n"))?)
        })
        .on_drain(|_| Ok(Verdict::Keep));
    let server = TestServer::start(case.short(handler).links_max(400));
    let mut slow = server.connect();
    round_trip(&mut slow, b"hello\n");
    let mut clients: Vec<_> = (0..300).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| round_trip(client, b"hello\n"));
    server.handle.stop(TIMEOUT);
    slow.write_all(b"long\n").unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    ask(&mut clients);
    expect_bytes(&mut slow, b"long\n");
    expect_answers(&mut clients);
    clients.iter_mut().for_each(expect_end);
    server.wait().unwrap();
}
