//! What clients share is enough for all that read, at any speed: no client that reads is
//! closed, and one that takes nothing is.

use super::common::{PATIENCE, Server, eventually, read_until, wait_until};
use super::each_back_end;
use rustix::process::Signal;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

each_back_end! {
    who_reads_everything_gets_every_byte,
    bulk_echo_costs_about_the_same_on_eight_shards,
    a_hall_full_of_talkers_misses_no_line,
    what_was_said_before_a_reset_is_heard,
    chargen_is_never_closed_while_it_is_read_steadily,
    an_echo_is_never_closed_while_it_is_read_steadily,
    a_client_that_takes_nothing_is_closed_in_time,
}

/// Without optimization the same takes about ten times as long.
const EACH: usize = if cfg!(debug_assertions) { 16 << 20 } else { 64 << 20 };
const PERIOD: usize = 251 * 257;

/// Two periods of bytes in which a piece does not fit another place.
fn pattern() -> Vec<u8> {
    let place = |n: usize| n.wrapping_mul(n).wrapping_add(n >> 8).to_le_bytes()[0];
    (0..2 * PERIOD).map(|n| place(n % PERIOD)).collect()
}

/// Sends `each` bytes on every link while they are read back; how many came on each.
fn bulk_echo(links: &[TcpStream], each: usize) -> Vec<usize> {
    let pattern = pattern();
    let pattern = &pattern[..];
    std::thread::scope(|scope| {
        let readers: Vec<_> = links
            .iter()
            .map(|mut link| {
                scope.spawn(move || {
                    let mut at = 0;
                    while at < each {
                        let from = at % PERIOD;
                        let len = PERIOD.min(each - at);
                        // The reader tells how far it came.
                        if link.write_all(&pattern[from..from + len]).is_err() {
                            return;
                        }
                        at += len;
                    }
                });
                scope.spawn(move || {
                    let (mut at, mut piece) = (0, vec![0; 1 << 15]);
                    while at < each {
                        let room = piece.len().min(each - at);
                        match link.read(&mut piece[..room]) {
                            Ok(len) if len > 0 => {
                                let from = at % PERIOD;
                                assert!(piece[..len] == pattern[from..from + len], "at {at}");
                                at += len;
                            }
                            _ => {
                                let _ended = link.shutdown(Shutdown::Both);
                                return at;
                            }
                        }
                    }
                    at
                })
            })
            .collect();
        readers.into_iter().map(|reader| reader.join().expect("the right bytes")).collect()
    })
}

fn who_reads_everything_gets_every_byte(back_end: &str) {
    let Some(server) = Server::start(back_end, &["--shards", "1"]) else { return };
    let links: Vec<_> = (0..8).map(|_| server.connect()).collect();
    let came = bulk_echo(&links, EACH);
    assert!(came.iter().all(|len| *len == EACH), "of {EACH} bytes each: {came:?}");
    drop(links);
    server.stop();
}

/// The processor time that all threads of a program have used.
fn processor_time(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let times = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
    });
    times.sum()
}

fn bulk_echo_costs_about_the_same_on_eight_shards(back_end: &str) {
    const LEN: usize = if cfg!(debug_assertions) { 2 << 20 } else { 16 << 20 };
    let cost = |shards: &str| {
        let server = Server::start(back_end, &["--shards", shards])?;
        let links: Vec<_> = (0..16).map(|_| server.connect()).collect();
        bulk_echo(&links, 1 << 16);
        let costs = (0..2).map(|_| {
            let before = processor_time(server.pid());
            let came = bulk_echo(&links, LEN);
            assert!(came.iter().all(|len| *len == LEN), "{shards} shards: {came:?}");
            processor_time(server.pid()) - before
        });
        let best = costs.min();
        drop(links);
        server.stop();
        best
    };
    let Some(one) = cost("1") else { return };
    let eight = cost("8").expect("it started before");
    // Loose, because the machine is not ours alone.
    assert!(eight <= 3 * one, "for the same bytes {one:?} with one shard, {eight:?} with eight");
}

/// The two lines that chat greets with.
fn read_welcome(guest: &mut TcpStream) {
    read_until(guest, "\r\n");
    read_until(guest, "\r\n");
}

/// Everybody says one line of the greatest length, and hears all others'.
fn a_hall_full_of_talkers_misses_no_line(back_end: &str) {
    // What they say together is less than half of a send queue.
    const GUESTS: usize = 100;
    let arguments = ["--app", "chat", "--shards", "1", "--links", "110"];
    let Some(server) = Server::start(back_end, &arguments) else { return };
    let mut guests: Vec<TcpStream> = Vec::new();
    for _ in 0..GUESTS {
        let mut guest = server.connect();
        read_welcome(&mut guest);
        guests.push(guest);
    }
    let heard: Vec<usize> = std::thread::scope(|scope| {
        let parts = guests.chunks(GUESTS / 5);
        let readers: Vec<_> = parts.map(|part| scope.spawn(|| hear(part, GUESTS))).collect();
        // All at once, for a server that was held up.
        server.signal(Signal::STOP);
        for (number, mut guest) in guests.iter().enumerate() {
            let line = format!("{number:4} {}\n", "x".repeat(1_019));
            assert_eq!(line.len(), 1_025);
            guest.write_all(line.as_bytes()).expect("its system takes it");
        }
        server.signal(Signal::CONT);
        readers.into_iter().flat_map(|reader| reader.join().expect("it reads")).collect()
    });
    assert!(heard.iter().all(|lines| *lines == GUESTS - 1), "of {}: {heard:?}", GUESTS - 1);
    drop(guests);
    server.stop();
}

/// Reads from all of them until each has heard all others, or nothing more comes; how many lines of
/// full length each heard.
fn hear(guests: &[TcpStream], all: usize) -> Vec<usize> {
    let (mut heard, mut rests) = (vec![0; guests.len()], vec![Vec::new(); guests.len()]);
    let mut piece = vec![0; 1 << 16];
    let (mut last, patience) = (Instant::now(), Duration::from_secs(5));
    guests.iter().for_each(|guest| guest.set_nonblocking(true).expect("an option"));
    while heard.iter().any(|lines| *lines < all - 1) && last.elapsed() < patience {
        for ((mut guest, lines), rest) in guests.iter().zip(&mut heard).zip(&mut rests) {
            if let Ok(len @ 1..) = guest.read(&mut piece) {
                rest.extend_from_slice(&piece[..len]);
                let end = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                let whole = rest.drain(..end).collect::<Vec<u8>>();
                *lines += whole.split(|byte| *byte == b'\n').filter(|l| l.len() > 1_000).count();
                last = Instant::now();
            }
        }
        std::thread::yield_now();
    }
    guests.iter().for_each(|guest| guest.set_nonblocking(false).expect("an option"));
    heard
}

/// Bytes of what was written at one end that the other one's system has not taken yet.
fn unacknowledged(from: SocketAddr, to: SocketAddr) -> u64 {
    let ports = [from.port(), to.port()];
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if [port(fields[1]), port(fields[2])] == ports.map(Some) {
            let queue = fields[4].split(':').next().expect("two numbers");
            return u64::from_str_radix(queue, 16).expect("a number");
        }
    }
    0
}

fn what_was_said_before_a_reset_is_heard(back_end: &str) {
    const LINES: usize = 1_000;
    let arguments = ["--app", "chat", "--shards", "1"];
    let Some(server) = Server::start(back_end, &arguments) else { return };
    let mut listener = server.connect();
    read_welcome(&mut listener);
    let mut leaver = server.connect();
    read_welcome(&mut leaver);
    // While the server stands still, its system takes all; the answer to the first /who then meets
    // the reset.
    server.signal(Signal::STOP);
    let said: String = (0..LINES).map(|n| format!("line {n}\n/who\n")).collect();
    leaver.write_all(said.as_bytes()).expect("the system takes it");
    let address = leaver.local_addr().expect("open");
    let has_all = || unacknowledged(address, server.addresses[0]) == 0;
    eventually(has_all, "the system has taken all");
    socket2::SockRef::from(&leaver).set_linger(Some(Duration::ZERO)).expect("an option");
    drop(leaver);
    server.signal(Signal::CONT);
    assert_eq!(read_until(&mut listener, "\r\n"), "* guest-2 is here\r\n");
    for n in 0..LINES {
        assert_eq!(read_until(&mut listener, "\r\n"), format!("guest-2: line {n}\r\n"));
    }
    assert_eq!(read_until(&mut listener, "\r\n"), "* guest-2 has left\r\n");
    drop(listener);
    server.stop();
}

/// A link of which both systems hold little, so that it shows soon how fast its client reads.
fn connect_small_share(server: &Server) -> TcpStream {
    connect_small(server, Some(536))
}

/// A link whose client's system takes few bytes ahead.
fn connect_small(server: &Server, segment: Option<u32>) -> TcpStream {
    let (domain, kind) = (socket2::Domain::IPV4, socket2::Type::STREAM);
    let socket = socket2::Socket::new(domain, kind, None).expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("an option");
    socket.set_send_buffer_size(4_096).expect("an option");
    if let Some(segment) = segment {
        socket.set_tcp_mss(segment).expect("an option");
    }
    socket.connect(&server.addresses[0].into()).expect("it accepts");
    let link = TcpStream::from(socket);
    link.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    link.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    link
}

/// What a steady reader reads at once, at least.
const PIECE_MIN: u64 = 1_024;

/// Reads `rate` bytes each second, for as long as `span` or up to `most` bytes.
fn read_steadily(
    mut link: &TcpStream,
    rate: u64,
    span: Duration,
    most: u64,
) -> (u64, Option<ErrorKind>) {
    let (start, mut len, mut piece) = (Instant::now(), 0, vec![0; 1 << 16]);
    while start.elapsed() < span && len < most {
        // Not byte by byte.
        let next = (len + PIECE_MIN).min(most);
        wait_until(start + Duration::from_micros(next * 1_000_000 / rate));
        let due = u64::try_from(start.elapsed().as_millis()).expect("short") * rate / 1_000;
        let due = due.max(next).min(most) - len;
        let room = usize::try_from(due).expect("small").min(piece.len());
        match link.read(&mut piece[..room]) {
            Ok(0) => return (len, Some(ErrorKind::UnexpectedEof)),
            Ok(count) => len += count as u64,
            Err(error) => return (len, Some(error.kind())),
        }
    }
    (len, None)
}

fn chargen_is_never_closed_while_it_is_read_steadily(back_end: &str) {
    let arguments = ["--app", "chargen", "--idle", "1s", "--stall", "1.5s"];
    let Some(server) = Server::start(back_end, &arguments) else { return };
    let link = connect_small_share(&server);
    let (len, error) = read_steadily(&link, 20 * 1_024, Duration::from_secs(6), u64::MAX);
    assert_eq!(error, None, "closed after {len} bytes");
    drop(link);
    server.stop();
}

fn an_echo_is_never_closed_while_it_is_read_steadily(back_end: &str) {
    // The server's system takes megabytes, and more only when a third of them has gone.
    const LEN: usize = 4 << 20;
    let arguments = ["--idle", "1s", "--stall", "1.5s"];
    let Some(server) = Server::start(back_end, &arguments) else { return };
    let link = connect_small(&server, None);
    let got = std::thread::scope(|scope| {
        // The reader tells how far it came.
        scope.spawn(|| drop({ &link }.write_all(&vec![7; LEN])));
        let got = read_steadily(&link, 700 * 1_024, PATIENCE, LEN as u64);
        let _frees_the_writer = link.shutdown(Shutdown::Both);
        got
    });
    assert_eq!(got, (LEN as u64, None));
    drop(link);
    server.stop();
}

fn a_client_that_takes_nothing_is_closed_in_time(back_end: &str) {
    const STALL: Duration = Duration::from_millis(1_500);
    let arguments = ["--app", "chargen", "--idle", "0", "--stall", "1.5s", "--stats", "50ms"];
    let Some(mut server) = Server::start(back_end, &arguments) else { return };
    let link = connect_small_share(&server);
    server.wait_for_line(" links=1 ").expect("statistics");
    // Its system takes some more after the last read.
    let (here, there) = (link.local_addr().expect("open"), server.addresses[0]);
    let queued = || unacknowledged(there, here);
    let mut look = Instant::now();
    let mut last = queued();
    // The last change, and the end, came between two looks, which a busy machine may hold up.
    let (mut change, mut end) = ((look, Instant::now()), (look, Instant::now()));
    let is_closed = || {
        let (before, now) = (look, Instant::now());
        let queued = queued();
        end = (before, Instant::now());
        if queued > 0 && queued != last {
            change = end;
        }
        (last, look) = (queued, now);
        queued == 0
    };
    eventually(is_closed, "it is closed");
    let (least, most) = (end.0.saturating_duration_since(change.1), end.1 - change.0);
    server.wait_for_line(" links=0 ").expect("statistics");
    // The server looks eight times in a timeout.
    let took = format!("{least:?} to {most:?} of {STALL:?}");
    assert!(most >= STALL * 8 / 10 && least <= STALL * 16 / 10, "{took}");
    let last = server.log.last().expect("lines");
    assert!(last.ends_with(" warnings=1"), "{last}");
    drop(link);
    server.stop();
}
