//! What the promise tests share: one macro that runs a test on each back end, a server that is
//! checked for leaks when it stops, plain blocking clients, and waiting with a deadline.
//!
//! A test that counts something of the whole process (descriptors, threads, processor time), or
//! changes its limits, runs [`Case::alone`]: the test program starts itself for that one test.
#![allow(dead_code, unused_macros, reason = "each test file uses a part of it")]

pub(crate) mod attack;
pub(crate) mod functions;
pub(crate) mod skip;

use functions::{Functions, functions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use skip::{lacks, skip};
use socket2::SockRef;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wharf::{
    BackEnd, Builder, DisconnectReason, Handle, Handler, Input, Link, LinkId, Result,
    RunningServer, Server, Stats, Totals,
};

/// Names the tests of a file; each is a function of `&Case`, and runs once on each back end.
macro_rules! each_back_end {
    ($($name:ident),+ $(,)?) => {
        mod uring {
            $(#[test]
            fn $name() {
                let (module, test) = (module_path!(), stringify!($name));
                crate::util::Case { back_end: wharf::BackEnd::Uring, module, test }.run(super::$name);
            })+
        }
        mod epoll {
            $(#[test]
            fn $name() {
                let (module, test) = (module_path!(), stringify!($name));
                crate::util::Case { back_end: wharf::BackEnd::Epoll, module, test }.run(super::$name);
            })+
        }
    };
}
pub(crate) use each_back_end;

/// Maximum time for which a test waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const ROLE: &str = "WHARF_TEST_ROLE";

/// One test on one back end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) back_end: BackEnd,
    pub(crate) module: &'static str,
    pub(crate) test: &'static str,
}

impl Case {
    pub(crate) fn run(&self, test: fn(&Self)) {
        match self.back_end.probe() {
            Ok(()) => test(self),
            Err(reason) => lacks(format_args!("{} is unavailable: {reason}", self.back_end)),
        }
    }

    /// Settings of a test: this back end, a free port of 127.0.0.1, one shard.
    pub(crate) fn builder<H, S, W>(&self, handler: H) -> Builder<H, S, W>
    where
        H: Handler<S, W>,
        S: Send + 'static,
        W: 'static,
    {
        Server::builder(handler).listen("127.0.0.1:0").back_end(self.back_end).shards(1)
    }

    /// The default settings but for short queues, which need few buffers.
    pub(crate) fn short<H, S, W>(&self, handler: H) -> Builder<H, S, W>
    where
        H: Handler<S, W>,
        S: Send + 'static,
        W: 'static,
    {
        self.builder(handler).input_bytes(8 * 1024).output_bytes(16 * 1024)
    }

    /// The same for few links.
    pub(crate) fn small<H, S, W>(&self, handler: H) -> Builder<H, S, W>
    where
        H: Handler<S, W>,
        S: Send + 'static,
        W: 'static,
    {
        self.short(handler).links_max(4).buffer_count(40)
    }

    /// The task of this process, if the test started it.
    pub(crate) fn role(&self) -> Option<String> {
        std::env::var(ROLE).ok()
    }

    /// This test in a process of its own, with a task.
    pub(crate) fn command(&self, role: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &self.name(), "--nocapture", "--test-threads=1"]).env(ROLE, role);
        command
    }

    /// The test's name, without that of its program.
    fn name(&self) -> String {
        let module = self.module.split_once("::").map_or("", |(_program, module)| module);
        format!("{module}::{}", self.test)
    }

    /// Runs `body` in a process that does nothing else.
    pub(crate) fn alone(&self, body: impl FnOnce()) {
        if self.role().is_some() {
            return body();
        }
        let output = self.command("alone").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} in its own process: {text}{errors}", self.name());
        if let Some((_, reason)) = errors.split_once("skipped, because ") {
            skip(reason.lines().next().unwrap_or_default());
        }
    }
}

/// A server that must be stopped with [`stop`](Self::stop), which checks for leaks.
#[derive(Debug)]
pub(crate) struct TestServer {
    running: Option<RunningServer>,
    pub(crate) handle: Handle,
    pub(crate) address: SocketAddr,
}

impl TestServer {
    pub(crate) fn start<H, S, W>(builder: Builder<H, S, W>) -> Self
    where
        H: Handler<S, W>,
        S: Send + 'static,
        W: 'static,
    {
        let running = builder.start().unwrap();
        let (handle, address) = (running.handle(), running.local_addresses()[0].1.clone());
        Self { running: Some(running), handle, address: address.socket_addr().unwrap() }
    }

    pub(crate) fn running(&self) -> &RunningServer {
        self.running.as_ref().unwrap()
    }

    pub(crate) fn stats(&self) -> Stats {
        self.handle.stats()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Writes `bytes`, and waits until the server has received them.
    #[track_caller]
    pub(crate) fn deliver(&self, mut stream: &TcpStream, bytes: &[u8]) {
        let received = self.stats().received_bytes + bytes.len() as u64;
        stream.write_all(bytes).unwrap();
        let deadline = now() + PATIENCE;
        while self.stats().received_bytes != received {
            assert!(now() < deadline, "{received} bytes are not received: {:?}", self.stats());
            std::thread::yield_now();
        }
    }

    /// Waits until this many links are open, and no more.
    pub(crate) fn wait_for_links(&self, links: u32) {
        // A connection is counted as accepted before its shard has it; posts do not reach it yet.
        let are_open = || {
            let stats = self.stats();
            let closed: u64 =
                DisconnectReason::ALL.iter().map(|reason| stats.closed(*reason)).sum();
            stats.links == links && stats.connects == u64::from(links) + closed
        };
        eventually(are_open, &format!("{links} links are open"));
    }

    /// Waits until the server has stopped, and returns its result.
    pub(crate) fn wait(mut self) -> Result<Stats> {
        let running = self.running.take().unwrap();
        eventually(|| running.is_finished(), "every thread of the server has ended");
        running.wait().map(|stopped| stopped.stats)
    }

    /// Stops the server, with a drain timeout of ten seconds: no link may be left or force-closed.
    #[track_caller]
    pub(crate) fn stop(self) -> Stats {
        let stats = self.stop_within(Duration::from_secs(10));
        assert_eq!(stats.forced_closes, 0, "links that the drain did not finish");
        stats
    }

    /// Stops the server: all slots and buffers must be released, and the counters must agree.
    #[track_caller]
    pub(crate) fn stop_within(self, drain: Duration) -> Stats {
        self.handle.stop(drain);
        let stats = self.wait().unwrap();
        check_all_released(&stats);
        stats
    }
}

/// Checks that all slots and buffers are released, and that the counters agree.
#[track_caller]
pub(crate) fn check_all_released(stats: &Stats) {
    assert_eq!(stats.links, 0, "links left: {stats:?}");
    assert!(stats.workers.iter().all(|worker| worker.links == 0), "{stats:?}");
    assert_eq!(stats.buffers.free, stats.buffers.total(), "leaked: {:?}", stats.buffers);
    assert_eq!(stats.post_buffers.free, stats.post_buffers.total(), "{:?}", stats.post_buffers);
    assert_eq!(stats.connects, closed(stats), "on_disconnect for each on_connect: {stats:?}");
}

/// Links that have ended, for any reason.
pub(crate) fn closed(stats: &Stats) -> u64 {
    DisconnectReason::ALL.iter().map(|reason| stats.closed(*reason)).sum()
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the server of the failed test: {:?}", self.handle.stats());
        }
        // Only a failed test drops a server that still runs.
        self.handle.stop(Duration::ZERO);
    }
}

/// The callbacks of a handler.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) connects: AtomicU64,
    ids: Mutex<Vec<LinkId>>,
    ends: Mutex<Vec<End>>,
}

/// One call of `on_disconnect`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) id: LinkId,
    pub(crate) reason: DisconnectReason,
    pub(crate) totals: Totals,
}

impl Record {
    pub(crate) fn connected<S, W>(&self, link: &Link<'_, S, W>) {
        self.ids.lock().unwrap().push(link.id());
        self.connects.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn disconnected<S, W>(&self, link: &Link<'_, S, W>, reason: DisconnectReason) {
        let end = End { id: link.id(), reason, totals: link.totals() };
        self.ends.lock().unwrap().push(end);
    }

    /// The links so far, in the order of `on_connect`.
    pub(crate) fn ids(&self) -> Vec<LinkId> {
        self.ids.lock().unwrap().clone()
    }

    pub(crate) fn ends(&self) -> Vec<End> {
        self.ends.lock().unwrap().clone()
    }

    pub(crate) fn reasons(&self) -> Vec<DisconnectReason> {
        self.ends().iter().map(|end| end.reason).collect()
    }

    /// Waits for the `n`th link, counted from 0.
    pub(crate) fn id(&self, n: usize) -> LinkId {
        eventually(|| self.ids().len() > n, "on_connect was called");
        self.ids()[n]
    }

    /// Waits for exactly these ends, in this order.
    #[track_caller]
    pub(crate) fn expect(&self, reasons: &[DisconnectReason]) {
        eventually(|| self.ends().len() >= reasons.len(), &format!("{reasons:?}"));
        assert_eq!(self.reasons(), reasons);
    }
}

/// A handler of one function. All such handlers are one type, because a server is compiled for each.
pub(crate) fn on_receive(
    function: impl Fn(&mut Link<'_>, &mut Input<'_>) -> Result + Send + Sync + 'static,
) -> Functions<()> {
    functions().on_receive(function)
}

/// The same for a function that handles the input in pieces, as they arrive.
pub(crate) fn on_chunk(
    function: impl Fn(&mut Link<'_>, &[u8]) -> Result + Send + Sync + 'static,
) -> Functions<()> {
    on_receive(move |link, input| {
        let len = input.chunk().len();
        function(link, input.chunk())?;
        input.consume(len);
        Ok(())
    })
}

/// Echoes all input.
pub(crate) fn echo() -> Functions<()> {
    on_receive(|link, input| {
        input.forward(&mut link.out);
        Ok(())
    })
}

/// Holds a callback until the test releases it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hold(Arc<(AtomicBool, AtomicBool)>);

impl Hold {
    /// Called in the callback.
    pub(crate) fn enter(&self) {
        let (is_held, is_over) = &*self.0;
        let end = now() + PATIENCE;
        is_held.store(true, Ordering::SeqCst);
        while !is_over.load(Ordering::SeqCst) && now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the callback is held.
    #[track_caller]
    pub(crate) fn wait(&self) {
        eventually(|| self.0.0.load(Ordering::SeqCst), "a callback is held");
    }

    pub(crate) fn release(&self) {
        self.0.1.store(true, Ordering::SeqCst);
    }
}

impl Drop for Hold {
    /// A failed test releases the callback, so that the server can stop.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.release();
        }
    }
}

#[expect(clippy::disallowed_types, reason = "tests note from many threads what they have seen")]
pub(crate) type Mutex<T> = std::sync::Mutex<T>;

#[expect(clippy::disallowed_methods, reason = "a test has no port whose clock it could ask")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn eventually(mut condition: impl FnMut() -> bool, what: &str) {
    let deadline = now() + PATIENCE;
    while !condition() {
        assert!(now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for `span`, while `condition` must hold.
#[track_caller]
pub(crate) fn meanwhile(span: Duration, mut condition: impl FnMut() -> bool, what: &str) {
    let end = now() + span;
    while now() < end {
        assert!(condition(), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A connection with timeouts of [`PATIENCE`].
#[track_caller]
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    prepare(&stream);
    stream
}

/// A connection with a small receive buffer, so with a small receive window.
pub(crate) fn connect_small_window(address: SocketAddr) -> TcpStream {
    connect_with(address, |socket| socket.set_recv_buffer_size(4096).unwrap())
}

/// A connection with small socket buffers on both sides: a sender's system takes at least twenty
/// segments at once, and those of the loopback interface have 64 KiB otherwise.
pub(crate) fn connect_small_share(address: SocketAddr) -> TcpStream {
    connect_with(address, |socket| {
        socket.set_recv_buffer_size(4096).unwrap();
        socket.set_send_buffer_size(4096).unwrap();
        socket.set_tcp_mss(536).unwrap();
    })
}

fn connect_with(address: SocketAddr, options: impl Fn(&socket2::Socket)) -> TcpStream {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
    options(&socket);
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    prepare(&stream);
    stream
}

fn prepare(stream: &TcpStream) {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
}

/// Sends `bytes` and reads the same bytes back.
#[track_caller]
pub(crate) fn round_trip(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    expect_bytes(stream, bytes);
}

/// Reads `bytes.len()` bytes, which must be these.
#[track_caller]
pub(crate) fn expect_bytes(stream: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    stream.read_exact(&mut got).unwrap();
    if let Some(at) = got.iter().zip(bytes).position(|(got, sent)| got != sent) {
        panic!("byte {at} of {} differs", bytes.len());
    }
}

/// Checks that the other side ends its stream, without further bytes.
#[track_caller]
pub(crate) fn expect_end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "{} bytes before the end", rest.len());
}

/// Checks that the other side ends its stream or resets the connection.
#[track_caller]
pub(crate) fn expect_end_or_reset(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

/// Closes the connection with a reset.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Sends `bytes` in pieces of random length while it reads them back.
#[track_caller]
pub(crate) fn exchange(stream: &TcpStream, bytes: &[u8], seed: u64) {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut random, mut rest, mut writer) = (Random(seed), bytes, stream);
            while !rest.is_empty() {
                let most = [1, 100, 5_000, 200_000][random.below(4)];
                let len = (1 + random.below(most)).min(rest.len());
                writer.write_all(&rest[..len]).unwrap();
                rest = &rest[len..];
            }
        });
        read_back(stream, bytes);
    });
}

/// Reads `bytes`, a piece at a time.
#[track_caller]
pub(crate) fn read_back(mut reader: &TcpStream, bytes: &[u8]) {
    let (mut piece, mut at) = (vec![0; 1 << 16], 0);
    while at < bytes.len() {
        let most = piece.len().min(bytes.len() - at);
        let len = match reader.read(&mut piece[..most]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read.unwrap(),
        };
        assert!(len > 0, "the end after {at} of {} bytes", bytes.len());
        assert!(piece[..len] == bytes[at..at + len], "differs within {len} bytes from {at}");
        at += len;
    }
}

/// Bytes without a period, so that no misplaced piece matches; made once and served from any
/// position of an endless stream.
pub(crate) struct Pattern(Vec<u8>);

impl Pattern {
    const PERIOD: usize = 1_000_003;
    /// The maximum length of a piece.
    pub(crate) const PIECE_MAX: usize = 1 << 18;

    pub(crate) fn new(seed: u64) -> Self {
        let mut ring = bytes(seed, Self::PERIOD);
        ring.extend_from_within(..Self::PIECE_MAX);
        Self(ring)
    }

    pub(crate) fn piece(&self, at: u64, len: usize) -> &[u8] {
        let at = usize::try_from(at % Self::PERIOD as u64).unwrap();
        &self.0[at..at + len.min(Self::PIECE_MAX)]
    }
}

/// What a reader got from a stream, and how the stream ended.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) len: u64,
    /// `None`: an end of stream, or all that it was to read.
    pub(crate) error: Option<ErrorKind>,
}

/// Reads until the end of the stream, or `most` bytes; each must be the pattern's.
#[track_caller]
pub(crate) fn read_pattern(mut stream: &TcpStream, pattern: &Pattern, most: u64) -> Got {
    let (mut piece, mut len) = (vec![0; 1 << 16], 0);
    while len < most {
        let len_max = piece.len().min(usize::try_from(most - len).unwrap_or(usize::MAX));
        match stream.read(&mut piece[..len_max]) {
            Ok(0) => break,
            Ok(count) => {
                let right = piece[..count] == *pattern.piece(len, count);
                assert!(right, "differs within {count} bytes from {len}");
                len += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Got { len, error: Some(error.kind()) },
        }
    }
    Got { len, error: None }
}

/// Writes until the system takes no more for [`BLOCKED_AFTER`], or `most` bytes; returns their
/// number. The stream is non-blocking meanwhile.
pub(crate) fn write_until_blocked(mut stream: &TcpStream, pattern: &Pattern, most: u64) -> u64 {
    stream.set_nonblocking(true).unwrap();
    let (mut len, mut since) = (0, now());
    while len < most && since.elapsed() < BLOCKED_AFTER {
        let len_max = usize::try_from(most - len).unwrap_or(usize::MAX).min(1 << 14);
        match stream.write(pattern.piece(len, len_max)) {
            Ok(count) => (len, since) = (len + count as u64, now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(_) => break,
        }
    }
    stream.set_nonblocking(false).unwrap();
    len
}

/// After this time without progress a transfer on this machine has stopped.
pub(crate) const BLOCKED_AFTER: Duration = Duration::from_millis(200);

/// Written bytes that the peer's system has not acknowledged: the value of `SIOCOUTQ`, read from
/// the system's table of connections, without unsafe code. 0 if the connection has ended.
pub(crate) fn unacknowledged(stream: &TcpStream) -> u64 {
    queued_between(stream.local_addr().unwrap(), stream.peer_addr().unwrap())
}

/// The same for the bytes from one address to another.
pub(crate) fn queued_between(from: SocketAddr, to: SocketAddr) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if port(fields[1]) == Some(from.port()) && port(fields[2]) == Some(to.port()) {
            return u64::from_str_radix(fields[4].split(':').next().unwrap(), 16).unwrap();
        }
    }
    0
}

/// Shuts connections down if a panic drops it, so that threads that read and write there end.
pub(crate) struct HangUp<'a>(pub(crate) &'a [TcpStream]);

impl Drop for HangUp<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        }
    }
}

/// Ends the test program if a test takes longer than its timeout.
#[must_use]
pub(crate) struct Within(Option<std::sync::mpsc::Sender<()>>);

pub(crate) fn within(span: Duration) -> Within {
    let (ended, end) = std::sync::mpsc::channel::<()>();
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let watch = move || {
        if end.recv_timeout(span) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{name} has not ended within {span:?}");
            std::process::exit(101);
        }
    };
    std::thread::Builder::new().spawn(watch).unwrap();
    Within(Some(ended))
}

impl Drop for Within {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

/// Raises the limits of open files as far as this process may; if that is not enough, the test lacks
/// something, and false is returned.
pub(crate) fn enough_files(needed: u64) -> bool {
    let hard = getrlimit(Resource::Nofile).maximum;
    let limit = hard.map(|hard| hard.max(needed));
    // Above the hard limit only with CAP_SYS_RESOURCE.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit });
    if raised.is_err() {
        lacks(format_args!("{needed} open files are needed and {hard:?} are allowed"));
    }
    raised.is_ok()
}

/// `command` where a system call fails with an error, such as `EACCES`; `None`, with the reason
/// printed, if that cannot be brought about.
pub(crate) fn where_a_call_fails(call: &str, error: &str, command: &Command) -> Option<Command> {
    if Command::new("python3").arg("--version").output().is_err() {
        lacks("python3 is not installed");
        return None;
    }
    let mut failing = Command::new("python3");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/util/fail_call.py");
    failing.args([script, call, error]).arg(command.get_program()).args(command.get_args());
    failing.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Some(failing)
}

/// Bytes that the server's ports may receive before a receive is cancelled.
pub(crate) fn receive_buffer_bytes(server: &TestServer) -> u64 {
    let plan = server.running().plan();
    plan.terms().find(|(name, _)| *name == "receive windows").unwrap().1
}

/// Resident memory of this process in bytes.
pub(crate) fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1_024
}

/// Processor time of the servers' threads of this process.
pub(crate) fn server_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let times = tasks.filter_map(|task| {
        let folder = task.ok()?.path();
        let name = std::fs::read_to_string(folder.join("comm")).ok()?;
        let times = std::fs::read_to_string(folder.join("schedstat")).ok()?;
        let time = times.split(' ').next()?.parse().ok()?;
        name.starts_with("wharf-").then(|| Duration::from_nanos(time))
    });
    times.sum()
}

/// Ends the client's stream, and checks that the server ends its own without further bytes.
#[track_caller]
pub(crate) fn finish(stream: &mut TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
    expect_end(stream);
}

/// Bytes without a period; each seed has others.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9).wrapping_add(1));
    let mut bytes: Vec<u8> = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// `SplitMix64`.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

/// Panics with this text are part of a test and are not reported.
pub(crate) const ON_PURPOSE: &str = "on purpose";

/// Does not print planned panics.
pub(crate) fn silence_panics_on_purpose() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&ON_PURPOSE) {
                report(info);
            }
        }));
    });
}

/// Descriptors that the process has open.
pub(crate) fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Names of the process' threads that belong to a server.
pub(crate) fn server_threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    // A thread may end between the two reads.
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("wharf-")).collect()
}

/// Processor time of this process; the call opens no descriptor.
pub(crate) struct ProcessorClock(std::fs::File);

impl ProcessorClock {
    pub(crate) fn open() -> Self {
        Self(std::fs::File::open("/proc/self/stat").unwrap())
    }

    pub(crate) fn read(&self) -> Duration {
        let mut text = [0; 1_024];
        let len = std::os::unix::fs::FileExt::read_at(&self.0, &mut text, 0).unwrap();
        let text = std::str::from_utf8(&text[..len]).unwrap();
        // The name may contain spaces; utime and stime are fields 14 and 15, in hundredths of a
        // second (proc_pid_stat(5)).
        let fields: Vec<&str> = text[text.rfind(')').unwrap() + 2..].split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}
