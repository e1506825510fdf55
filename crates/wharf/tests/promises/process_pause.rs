//! Promise: time in which the server itself does not run counts for no timeout: after a pause of the
//! process, and after a callback that takes long, links whose peers have sent or read in the meantime
//! are served and not closed.
//!
//! Method: the server runs in a child, which the test stops and continues by signals.

use crate::util::functions::{Functions, functions};
use crate::util::{
    self, Case, PATIENCE, TestServer, connect_small_window, each_back_end, eventually,
    expect_bytes, expect_end, now, round_trip, within,
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use wharf::{Builder, LengthPrefix, Verdict, WhenSlow};

each_back_end!(
    after_a_pause_longer_than_idle_links_whose_question_waits_are_answered,
    a_deferred_reply_is_sent_after_a_pause_longer_than_its_timeout,
    a_reader_that_reads_during_a_pause_is_not_slow,
    a_drain_answers_what_came_during_a_pause_longer_than_its_timeout,
    after_a_callback_longer_than_idle_links_whose_question_waits_are_answered,
    after_a_pause_a_little_longer_than_idle_all_of_many_questions_are_answered,
    a_drain_answers_what_came_during_a_callback_longer_than_its_timeout,
    a_loan_is_kept_if_its_link_sends_the_rest_during_a_pause_longer_than_loan_wait,
    a_loan_is_kept_if_its_link_sends_the_rest_after_a_pause_longer_than_loan_wait,
    a_closing_link_sends_all_to_a_peer_that_reads_during_a_pause_longer_than_its_limit,
    a_closing_link_sends_the_reply_that_comes_after_a_pause_longer_than_its_timeout,
    a_link_lingers_after_a_pause_longer_than_its_limit_for_a_peer_that_sends_on,
);

const TIMEOUT: Duration = Duration::from_millis(400);
/// Longer than every timeout.
const PAUSE: Duration = Duration::from_millis(1_500);
/// A timeout of which a good part is left after what comes before and after a pause.
const LONG_TIMEOUT: Duration = Duration::from_secs(1);
/// Longer than a lingering close, which takes 2 s at most.
const LINGER_PAUSE: Duration = Duration::from_millis(2_200);
const LINKS: usize = 10;
/// More than the systems hold for one link.
const MANY: usize = 16 << 20;

/// A message that is as long as the input of a link, and that the smallest shard can lend once.
const FRAME: usize = 64 * 1024;
const FRAMES: LengthPrefix = LengthPrefix::new(4, FRAME - 4);
/// A last message that a small window does not hold.
const LAST: [u8; 12 << 10] = [b'l'; 12 << 10];

/// A frame, which begins with a zero, as no line does.
fn frame() -> Vec<u8> {
    let mut frame = vec![b'f'; FRAME];
    frame[..4].copy_from_slice(&u32::try_from(FRAME - 4).unwrap().to_be_bytes());
    frame
}

fn handler() -> Functions<u64> {
    let deferred = util::Mutex::new(Vec::new());
    let queued = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&queued);
    functions::<u64>()
        .on_receive(move |link, input| {
            if input.chunk().first() == Some(&0) {
                if input.frame(FRAMES)?.is_some() {
                    link.out.send("whole\n")?;
                }
                return Ok(());
            }
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
                b"last" => {
                    link.out.send(LAST)?;
                    link.close();
                    Ok(())
                }
                b"close the others" => {
                    link.server.all().except(link.id()).close();
                    Ok(())
                }
                b"counts" => {
                    let stats = link.server.stats();
                    let queued = queued.load(Ordering::SeqCst);
                    writeln!(link.out, "{queued} {} {}", stats.sent_bytes, stats.received_bytes)?;
                    Ok(())
                }
                line => Ok(link.out.send((line, b"\n"))?),
            }
        })
        .on_writable(move |link| {
            while *link.state > 0 {
                let piece = [b'm'; 4_096];
                if !link.out.ensure(piece.len())? {
                    return Ok(());
                }
                link.out.send(piece)?;
                counted.fetch_add(piece.len(), Ordering::SeqCst);
                *link.state -= piece.len() as u64;
            }
            Ok(())
        })
        .on_drain(|_| Ok(Verdict::Keep))
}

/// The child: serves until its standard input ends. A line there starts the drain.
fn serve(case: &Case) {
    serve_with(case.short(handler()).links_max(300), TIMEOUT);
}

fn serve_with(builder: Builder<Functions<u64>, u64, ()>, timeout: Duration) {
    let builder = builder
        .when_slow(WhenSlow::Skip)
        .idle_timeout(timeout)
        .stall_timeout(timeout)
        .answer_timeout(timeout)
        .loan_wait(timeout);
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

    /// Stops the process while it waits, lets `meanwhile` do something and the pause pass, and
    /// continues it.
    fn pause(&self, meanwhile: impl FnOnce()) {
        self.pause_for(PAUSE, meanwhile);
    }

    fn pause_for(&self, pause: Duration, meanwhile: impl FnOnce()) {
        let pid = Pid::from_child(&self.child);
        eventually(|| self.sleeps(), "the server waits");
        kill_process(pid, Signal::STOP).unwrap();
        // Until it has stopped, it would still handle what is sent.
        let stopped = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
        assert!(stopped.is_some_and(|(_, status)| status.stopped()), "{stopped:?}");
        let end = now() + pause;
        meanwhile();
        std::thread::sleep(end.saturating_duration_since(now()));
        kill_process(pid, Signal::CONT).unwrap();
    }

    /// Whether all threads of the process wait: see proc_pid_stat(5).
    fn sleeps(&self) -> bool {
        let threads = format!("/proc/{}/task", self.child.id());
        std::fs::read_dir(threads).unwrap().all(|thread| {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat"));
            let state = |stat: String| Some(stat.rsplit_once(") ")?.1.starts_with('S'));
            stat.ok().and_then(state) == Some(true)
        })
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

/// What the handler has queued of "much", and what all links have sent and received.
fn counts(client: &mut TcpStream) -> [usize; 3] {
    client.write_all(b"counts\n").unwrap();
    let mut line = String::new();
    BufReader::new(client).read_line(&mut line).unwrap();
    let counts: Vec<_> = line.split_whitespace().map(|count| count.parse().unwrap()).collect();
    counts.try_into().unwrap()
}

/// The server takes several turns.
fn let_turn(client: &mut TcpStream) {
    (0..20).for_each(|_| round_trip(client, b"turn\n"));
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
    eventually(stops, "the server stops accepting");
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

fn a_loan_is_kept_if_its_link_sends_the_rest_during_a_pause_longer_than_loan_wait(case: &Case) {
    a_loan_is_kept(case, |server, other, send_rest| {
        server.pause(|| {
            send_rest();
            other.write_all(b"question\n").unwrap();
        });
        expect_bytes(other, b"question\n");
    });
}

fn a_loan_is_kept_if_its_link_sends_the_rest_after_a_pause_longer_than_loan_wait(case: &Case) {
    a_loan_is_kept(case, |server, other, send_rest| {
        server.pause(|| other.write_all(b"question\n").unwrap());
        expect_bytes(other, b"question\n");
        let_turn(other);
        send_rest();
    });
}

/// A link waits for the loan of another one, whose message is whole after `pause`.
fn a_loan_is_kept(case: &Case, pause: fn(&Served, &mut TcpStream, &mut dyn FnMut())) {
    if case.role().is_some() {
        let builder = case.builder(handler()).links_max(4).buffer_count(298);
        return serve_with(builder, LONG_TIMEOUT);
    }
    let _deadline = within(4 * PATIENCE);
    let server = Served::start(case);
    let mut other = util::connect(server.address);
    let [mut borrower, mut waiter] = [(); 2].map(|()| util::connect(server.address));
    let frame = frame();
    let part = FRAME - 1_000;
    borrower.write_all(&frame[..part]).unwrap();
    eventually(|| counts(&mut other)[2] >= part, "it has borrowed for its message");
    waiter.write_all(&frame).unwrap();
    let_turn(&mut other);
    pause(&server, &mut other, &mut || borrower.write_all(&frame[part..]).unwrap());
    expect_bytes(&mut borrower, b"whole\n");
    expect_bytes(&mut waiter, b"whole\n");
    drop((other, borrower, waiter));
    server.stop();
}

/// A test of a server with two links; `connect` makes that of the client which the test is about.
fn with_two_links(
    case: &Case,
    connect: fn(SocketAddr) -> TcpStream,
    test: impl FnOnce(&Served, &mut TcpStream, &mut TcpStream),
) {
    if case.role().is_some() {
        return serve_with(case.small(handler()), LONG_TIMEOUT);
    }
    let _deadline = within(4 * PATIENCE);
    let server = Served::start(case);
    let (mut other, mut client) = (util::connect(server.address), connect(server.address));
    test(&server, &mut client, &mut other);
    drop((client, other));
    server.stop();
}

fn a_closing_link_sends_all_to_a_peer_that_reads_during_a_pause_longer_than_its_limit(case: &Case) {
    with_two_links(case, connect_small_window, |server, client, other| {
        client.write_all(b"much\n").unwrap();
        let mut last = [0; 3];
        let is_stalled = || {
            let_turn(other);
            let before = std::mem::replace(&mut last, counts(other));
            before[0] == last[0] && last[0] > 0
        };
        eventually(is_stalled, "its system takes no more");
        other.write_all(b"close the others\n").unwrap();
        let_turn(other);
        let [queued, sent, _] = counts(other);
        assert!(sent < queued, "{sent} of {queued}, so the link is flushed already");
        let (mut got, mut len) = (vec![0; MANY], 0);
        server.pause(|| {
            client.set_nonblocking(true).unwrap();
            let end = now() + PAUSE / 2;
            while now() < end {
                len += client.read(&mut got[len..]).unwrap_or(0);
            }
            client.set_nonblocking(false).unwrap();
            other.write_all(b"question\n").unwrap();
        });
        expect_bytes(other, b"question\n");
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        assert!(len < queued, "nothing is left to be sent after the pause");
        assert_eq!(len + rest.len(), queued);
    });
}

fn a_closing_link_sends_the_reply_that_comes_after_a_pause_longer_than_its_timeout(case: &Case) {
    with_two_links(case, util::connect, |server, client, other| {
        client.write_all(b"defer\n").unwrap();
        eventually(|| counts(other)[2] >= 6, "it has its deferral");
        other.write_all(b"close the others\n").unwrap();
        let_turn(other);
        server.pause(|| other.write_all(b"question\n").unwrap());
        expect_bytes(other, b"question\n");
        let_turn(other);
        other.write_all(b"reply\n").unwrap();
        expect_bytes(client, b"late\n");
        expect_end(client);
    });
}

/// If the link were closed at once after the pause, its system would reset the connection for the bytes
/// that the peer sends then, and drop the rest of the last message.
fn a_link_lingers_after_a_pause_longer_than_its_limit_for_a_peer_that_sends_on(case: &Case) {
    with_two_links(case, connect_small_window, |server, client, other| {
        client.write_all(b"last\n").unwrap();
        eventually(|| counts(other)[1] >= LAST.len(), "all is sent, and the link lingers");
        server.pause_for(LINGER_PAUSE, || {
            client.write_all(b"more\n").unwrap();
            other.write_all(b"question\n").unwrap();
        });
        expect_bytes(other, b"question\n");
        let_turn(other);
        client.write_all(b"and more\n").unwrap();
        let_turn(other);
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), LAST.len());
    });
}
