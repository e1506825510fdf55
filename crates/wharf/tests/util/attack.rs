//! Many clients that hold all buffers they can, beside some that echo.

use super::{BLOCKED_AFTER, resident_bytes, within};
use super::{Case, Mutex, PATIENCE, TestServer, connect, connect_small_share, enough_files, now};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use wharf::{Builder, Handler};

/// Clients that echo.
const HONEST: usize = 50;
/// Time of the measurement under attack: until after the first of the attackers had to return their
/// loans (`loan_wait`, a second by default); and its least number of rounds, so that one time slice
/// of another program is less than a hundredth of them.
const ATTACKED: Duration = Duration::from_millis(1_200);
const ROUNDS: usize = 400;
/// Maximum time in which attackers send, and maximum time for the transfers in flight after that.
const SENDING: Duration = Duration::from_secs(3);
/// Time in which the clients echo before they are measured.
const WARM_UP: Duration = Duration::from_millis(100);
const MEDIAN_FLOOR: Duration = Duration::from_micros(300);
/// Other programs use a core for some milliseconds at a time. `crates/wharf-sim/tests/attacks.rs`
/// makes the exact claim, in simulated time.
const P99_FLOOR: Duration = Duration::from_millis(20);
/// A part of `loan_wait`, for which a link waits for a loan; a lost packet is sent again after 200
/// ms.
const WORST_FLOOR: Duration = Duration::from_millis(150);
/// Maximum time of a round trip while attackers connect, which use the processor as well.
const COMING: Duration = Duration::from_secs(5);

/// Attackers on a server.
pub(crate) struct Attack<'a> {
    pub(crate) attackers: u32,
    /// The numbers of shards; with 300 attackers and without debug assertions 1, 2, 3 and 8.
    pub(crate) shards: &'a [u32],
    /// The bytes that each attacker sends; it reads nothing.
    pub(crate) sends: &'a [u8],
    /// The message that an honest client sends and reads back.
    pub(crate) message: &'a [u8],
    /// The messages of newcomers, one after the other, each with the maximum time of its echo.
    pub(crate) newcomers: &'a [(&'a [u8], Duration)],
}

impl Attack<'_> {
    /// Runs the attack in a process of its own: the honest clients get their echoes about as fast
    /// as without attackers, newcomers get theirs, and memory does not grow.
    pub(crate) fn run<H, S, W>(&self, case: &Case, handler: impl Fn() -> H)
    where
        H: Handler<S, W>,
        S: Send + 'static,
        W: 'static,
    {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        // A failed test poisons the lock, which does not concern the next one.
        let _alone = ONE_AT_A_TIME.lock();
        case.alone(|| {
            let _deadline = within(Duration::from_mins(1));
            if !enough_files(2 * u64::from(self.attackers) + 500) {
                return;
            }
            let tries_all = !cfg!(debug_assertions) && self.attackers == 300;
            let shards = if tries_all { &[1, 2, 3, 8] } else { self.shards };
            for shards in shards {
                let links = self.attackers + 100;
                self.run_on(*shards, || case.builder(handler()).shards(*shards).links_max(links));
            }
        });
    }

    fn run_on<H, S, W>(&self, shards: u32, builder: impl Fn() -> Builder<H, S, W>)
    where
        H: Handler<S, W>,
        S: Send + 'static,
        W: 'static,
    {
        let mut alone = Honest::start(builder());
        alone.rounds(self.message, WARM_UP);
        let before = resident_bytes();
        let mut honest = Honest::start(builder());
        // The memory of the process does not include the kernel's for sockets; the attackers share
        // their bytes.
        let most = before + honest.server.running().plan().total_bytes() + (8 << 20);
        std::thread::scope(|scope| {
            let address = honest.server.address;
            let attack = scope.spawn(move || self.attack(address));
            while !attack.is_finished() {
                let coming = Times::of(honest.rounds(self.message, WARM_UP));
                assert!(coming.p99 <= COMING, "while attackers come: {coming:?}");
            }
            let attackers = attack.join().unwrap();
            honest.wait_until_idle();
            let told = format!("{shards} shards, {}", honest.is_like(&mut alone, self.message));
            for (bytes, time) in self.newcomers {
                let replied = exchange_within(&honest.server, bytes, *time);
                let stats = honest.server.stats();
                assert!(replied, "a newcomer had no reply in {time:?}, {told}, {stats:?}");
            }
            let resident = resident_bytes();
            assert!(resident <= most, "{resident} bytes of memory, {before} before, {told}");
            println!("{told}");
            drop(attackers);
        });
        honest.stop();
        alone.stop();
    }

    /// Connects all attackers; each sends until none of them makes progress.
    fn attack(&self, address: SocketAddr) -> Vec<TcpStream> {
        let connect = |_| {
            let stream = connect_small_share(address);
            stream.set_nonblocking(true).unwrap();
            stream
        };
        let streams: Vec<_> = (0..self.attackers).map(connect).collect();
        let mut sent = vec![0; streams.len()];
        let (start, mut got_on) = (now(), now());
        while start.elapsed() < SENDING && got_on.elapsed() < BLOCKED_AFTER {
            for (mut stream, at) in streams.iter().zip(&mut sent) {
                while let Ok(len @ 1..) = stream.write(&self.sends[*at..]) {
                    *at += len;
                    got_on = now();
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        streams
    }
}

fn exchange_within(server: &TestServer, bytes: &[u8], time: Duration) -> bool {
    let stream = connect(server.address);
    stream.set_read_timeout(Some(time)).unwrap();
    let (start, mut got) = (now(), vec![0; bytes.len()]);
    std::thread::scope(|scope| {
        scope.spawn(|| drop({ &stream }.write_all(bytes)));
        let whole = { &stream }.read_exact(&mut got).is_ok();
        drop(stream.shutdown(std::net::Shutdown::Both));
        whole && got == bytes && start.elapsed() <= time
    })
}

/// A server and its honest clients.
struct Honest {
    server: TestServer,
    streams: Vec<TcpStream>,
}

impl Honest {
    fn start<H, S, W>(builder: Builder<H, S, W>) -> Self
    where
        H: Handler<S, W>,
        S: Send + 'static,
        W: 'static,
    {
        let server = TestServer::start(builder);
        let streams: Vec<_> = (0..HONEST).map(|_| server.connect()).collect();
        streams.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
        Self { server, streams }
    }

    /// Checks that they get their echoes like those of a server without attackers: at most three
    /// times as late.
    ///
    /// Rounds of the two alternate, so that other programs affect both alike; compared with a time
    /// before the attack, one run in ten failed on a busy machine. Values below the floors prove
    /// nothing: medians of 0.1 to 0.5 ms are about the same, and the 99th percentile is a time
    /// slice of the system (3 to 5 ms) as soon as another program runs. A link that waits for a
    /// loan waits about a second, though perhaps only once, and a link behind the attackers waits
    /// some turns each time.
    fn is_like(&mut self, alone: &mut Self, message: &[u8]) -> String {
        let (start, turns_before) = (now(), self.turns());
        let (mut times, mut times_alone, mut rounds) = (Vec::new(), Vec::new(), 0);
        let is_over = |rounds| start.elapsed() >= ATTACKED && rounds >= ROUNDS;
        while !is_over(rounds) && start.elapsed() < 3 * ATTACKED {
            self.round(message, &mut times);
            alone.round(message, &mut times_alone);
            rounds += 1;
        }
        let turns = (self.turns() - turns_before) / rounds as u64;
        let (attacked, alone) = (Times::of(times), Times::of(times_alone));
        let told = format!("{attacked:?}, {turns} turns a round, {rounds} rounds, alone {alone:?}");
        assert!(attacked.median <= 3 * alone.median.max(MEDIAN_FLOOR), "median: {told}");
        assert!(attacked.p99 <= 3 * alone.p99.max(P99_FLOOR), "99th percentile: {told}");
        assert!(attacked.worst <= 3 * alone.worst.max(WORST_FLOOR), "the worst: {told}");
        // For each client a turn for the receive and one for the send's completion; not more, which
        // would mean that the server polls the links that wait.
        assert!(turns <= 4 * HONEST as u64, "turns: {told}");
        told
    }

    /// Rounds for `span`; returns the times of the round trips.
    fn rounds(&mut self, message: &[u8], span: Duration) -> Vec<Duration> {
        let (start, mut times) = (now(), Vec::new());
        while start.elapsed() < span {
            self.round(message, &mut times);
        }
        times
    }

    /// All send, then all read. Echoes are read in the order in which they arrive, so that a late
    /// one delays no other.
    fn round(&mut self, message: &[u8], times: &mut Vec<Duration>) {
        let mut got = vec![0; message.len()];
        let write = |stream: &mut TcpStream| {
            stream.write_all(message).unwrap();
            Some(now())
        };
        let mut starts: Vec<_> = self.streams.iter_mut().map(write).collect();
        while starts.iter().any(Option::is_some) {
            for (stream, start) in self.streams.iter_mut().zip(&mut starts) {
                let Some(since) = *start else { continue };
                match stream.read(&mut got) {
                    Ok(len) => {
                        let right = len == message.len() && got == message;
                        assert!(
                            right,
                            "other bytes, or the end of the stream: {:?}",
                            self.server.stats()
                        );
                        times.push(since.elapsed());
                        *start = None;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        assert!(since.elapsed() < PATIENCE, "{:?}", self.server.stats());
                    }
                    Err(error) => panic!("{error}: {:?}", self.server.stats()),
                }
            }
            std::thread::yield_now();
        }
    }

    /// Waits until no bytes are in flight; with small receive windows that takes some time.
    fn wait_until_idle(&self) {
        let bytes = || {
            let stats = self.server.stats();
            stats.received_bytes + stats.sent_bytes
        };
        let (start, mut last, mut since) = (now(), bytes(), now());
        while start.elapsed() < SENDING && since.elapsed() < Duration::from_millis(100) {
            std::thread::sleep(Duration::from_millis(5));
            if bytes() != last {
                (last, since) = (bytes(), now());
            }
        }
    }

    fn turns(&self) -> u64 {
        self.server.stats().workers.iter().map(|worker| worker.turns).sum()
    }

    fn stop(self) {
        drop(self.streams);
        self.server.stop_within(Duration::from_secs(1));
    }
}

/// The times of round trips.
#[derive(Clone, Copy, Debug)]
struct Times {
    median: Duration,
    p99: Duration,
    worst: Duration,
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |hundredths| times[times.len() * hundredths / 100];
        Self { median: at(50), p99: at(99), worst: times[times.len() - 1] }
    }
}
