//! Many clients that hold what they can, beside some that are served.

use super::{Case, Mutex, TestServer, connect, connect_small_share, enough_files, now};
use super::{resident_bytes, within};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use wharf::{Builder, Handler};

/// Clients that echo.
const HONEST: usize = 50;
const ROUNDS: usize = 20;
/// What a round trip may take while attackers come, who need the processor as well.
const COMING: Duration = Duration::from_secs(2);
/// What a round trip may take on a busy machine, whatever it takes alone.
const SLACK: Duration = Duration::from_millis(if cfg!(debug_assertions) { 150 } else { 50 });

/// Attackers, on each number of shards.
pub(crate) struct Attack<'a> {
    pub(crate) attackers: u32,
    pub(crate) shards: &'a [u32],
    /// What each sends; it reads nothing.
    pub(crate) sends: &'a [u8],
    /// What an honest client sends and gets back.
    pub(crate) message: &'a [u8],
    /// What a newcomer sends and gets back, within this time.
    pub(crate) newcomer: (&'a [u8], Duration),
}

impl Attack<'_> {
    /// Runs it in a process of its own: the honest are answered about as fast as alone, newcomers
    /// are served, and memory stays what it was.
    pub(crate) fn run<H: Handler>(&self, case: &Case, handler: impl Fn() -> H) {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        // One that failed poisons it, which is nothing to the next.
        let _alone = ONE_AT_A_TIME.lock();
        case.alone(|| {
            let _deadline = within(Duration::from_mins(1));
            if !enough_files(2 * u64::from(self.attackers) + 500) {
                return;
            }
            for shards in self.shards {
                let builder = case.builder().shards(*shards).links(self.attackers + 100);
                self.run_on(*shards, builder, handler());
            }
        });
    }

    fn run_on(&self, shards: u32, builder: Builder, handler: impl Handler) {
        let before = resident_bytes();
        let server = TestServer::start(builder, handler);
        let mut honest: Vec<_> = (0..HONEST).map(|_| server.connect()).collect();
        round_trips(&mut honest, self.message);
        let alone = p99(&mut round_trips(&mut honest, self.message));
        // What the kernel keeps for sockets is not the process'; what attackers send is made once.
        let most = before + server.running().plan().total_bytes() + (8 << 20);
        let (mut times, told) = std::thread::scope(|scope| {
            let attack = scope.spawn(|| self.attack(server.address));
            while !attack.is_finished() {
                let coming = p99(&mut round_trips(&mut honest, self.message));
                assert!(coming <= COMING, "p99 {coming:?} while attackers come");
            }
            let (attackers, mut times) = (attack.join().unwrap(), Vec::new());
            let until = now() + Duration::from_millis(1_200);
            while now() < until {
                times.extend(round_trips(&mut honest, self.message));
            }
            let (bytes, time) = self.newcomer;
            let start = now();
            let answered = exchange_within(&server, bytes, time);
            let stats = server.stats();
            assert!(answered, "{shards} shards: a newcomer was not served in {time:?}, {stats:?}");
            let told = format!("{shards} shards, newcomer {:?}, {stats:?}", start.elapsed());
            let resident = resident_bytes();
            assert!(resident <= most, "{resident} bytes of memory, {before} before, {told}");
            drop(attackers);
            (times, told)
        });
        let count = times.len();
        let attacked = p99(&mut times);
        let most = alone * 3 + SLACK;
        assert!(attacked <= most, "p99 {attacked:?} of {count}, alone {alone:?}, {told}");
        println!("p99 {attacked:?} of {count}, alone {alone:?}, {told}");
        drop(honest);
        server.stop_within(Duration::from_secs(1));
    }

    /// Connects all attackers and has each send what is taken of its bytes, again and again while
    /// any of them gets on, for two seconds at most.
    fn attack(&self, address: SocketAddr) -> Vec<TcpStream> {
        let connect = |_| {
            let stream = connect_small_share(address);
            stream.set_nonblocking(true).unwrap();
            stream
        };
        let streams: Vec<_> = (0..self.attackers).map(connect).collect();
        let mut sent = vec![0; streams.len()];
        let until = now() + Duration::from_secs(2);
        loop {
            let mut got_on = false;
            for (mut stream, at) in streams.iter().zip(&mut sent) {
                while let Ok(len @ 1..) = stream.write(&self.sends[*at..]) {
                    *at += len;
                    got_on = true;
                }
            }
            if now() >= until || !got_on && now() + Duration::from_millis(1_500) >= until {
                return streams;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
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

/// All send, then all read; how long each waited for its answer.
fn round_trips(streams: &mut [TcpStream], message: &[u8]) -> Vec<Duration> {
    let mut times = Vec::with_capacity(ROUNDS * streams.len());
    let mut got = vec![0; message.len()];
    for _ in 0..ROUNDS {
        let starts: Vec<_> = streams
            .iter_mut()
            .map(|stream| {
                stream.write_all(message).unwrap();
                now()
            })
            .collect();
        for (stream, start) in streams.iter_mut().zip(starts) {
            stream.read_exact(&mut got).unwrap();
            assert!(got == message, "another answer");
            times.push(start.elapsed());
        }
    }
    times
}

fn p99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}
