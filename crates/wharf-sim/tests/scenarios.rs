//! Small worlds for cases that random ones reach too seldom; most with the planted bug that they find.

use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wharf::sim::{
    EngineBug, Faults, PortBug, Script, SimConfig, SimFailure, Simulation, Time, fits,
};
use wharf::{Handler, Input, Link, LinkId, Result, Server};

const SECOND: Duration = Duration::from_secs(1);

/// Replies to each byte with `reply` bytes, when there is capacity. Stores the id of the first link.
struct Owing {
    reply: usize,
    first: Arc<OnceLock<LinkId>>,
}

impl Handler<usize> for Owing {
    fn on_connect(&self, link: &mut Link<'_>) -> Result<usize> {
        let _only_the_first_counts = self.first.set(link.id());
        Ok(0)
    }

    fn on_receive(&self, link: &mut Link<'_, usize>, input: &mut Input<'_>) -> Result {
        *link.state += input.consume(usize::MAX);
        self.on_writable(link)
    }

    fn on_writable(&self, link: &mut Link<'_, usize>) -> Result {
        while *link.state > 0 && link.out.ensure(self.reply)? {
            link.out.send(vec![7; self.reply])?;
            *link.state -= 1;
        }
        Ok(())
    }
}

/// One link has borrowed all that can be lent, and does not read for a minute; another one needs as
/// much. Returns the number of links that were closed for it, and the time of its reply.
fn a_borrower_and_one_who_waits(bug: Option<EngineBug>) -> Result<(u64, Time), SimFailure> {
    let mut config = SimConfig::new(1);
    let builder = Server::builder(Owing { reply: 1_000, first: Arc::default() })
        .shards(1)
        .links_max(4)
        .buffer_size_bytes(64)
        .buffer_count(44)
        .input_bytes(64)
        .output_bytes(1_024)
        .loan_wait(SECOND)
        .stall_timeout(Duration::ZERO)
        .idle_timeout(Duration::ZERO);
    config.faults = Faults::none();
    config.faults.socket_buffer_bytes = 100;
    config.engine_bug = bug;
    let mut sim = Simulation::with_config(config, builder);
    sim.connect(Script::new().send(b"?").pause(60 * SECOND).expect([7; 1_000]));
    let waiting = Script::new().pause(SECOND / 10).send(b"?").expect([7; 1_000]);
    sim.connect(waiting.finish().expect_end());
    sim.run_until(|sim| sim.stats().sent_bytes >= 1_000 && sim.clients_open() < 2)?;
    let (revoked, replied_at) = (sim.stats().loans_revoked, sim.now());
    sim.finish().map(|_| (revoked, replied_at))
}

#[test]
fn who_needs_what_is_lent_gets_it_after_loan_wait() {
    let (revoked, replied_at) = a_borrower_and_one_who_waits(None).unwrap();
    assert!(revoked == 1 && replied_at.0 < 3_000_000_000, "{revoked} closed, at {replied_at:?}");
    let planted = a_borrower_and_one_who_waits(Some(EngineBug::NeverRevoke));
    assert!(planted.is_err() || planted.is_ok_and(|(revoked, _)| revoked == 0));
}

/// More posts than one dequeue returns, and then a stop. Returns the number of clients that got all.
fn posts_and_a_stop(bug: Option<EngineBug>) -> Result<u64, SimFailure> {
    const POSTS: usize = 1_500;
    let mut config = SimConfig::new(2);
    config.engine_bug = bug;
    let first = Arc::new(OnceLock::new());
    let builder = Server::builder(Owing { reply: 1, first: Arc::clone(&first) })
        .shards(1)
        .links_max(4)
        .buffer_count(32_000)
        .idle_timeout(Duration::ZERO);
    let mut sim = Simulation::with_config(config, builder);
    sim.connect(Script::new().expect([5; 8 * POSTS]).expect_end());
    sim.run_until(|_| first.get().is_some())?;
    let handle = sim.handle();
    let posted = (0..POSTS)
        .filter(|_| first.get().is_some_and(|link| handle.link(*link).try_post([5; 8]).is_ok()));
    assert_eq!(posted.count(), POSTS, "all are accepted");
    sim.stop(10 * SECOND)?;
    sim.finish().map(|report| report.clients_completed)
}

#[test]
fn what_was_posted_before_a_stop_arrives() {
    assert_eq!(posts_and_a_stop(None).unwrap(), 1);
    let planted = posts_and_a_stop(Some(EngineBug::LatePosts));
    assert!(planted.is_err() || planted.is_ok_and(|whole| whole == 0));
}

/// A link's first byte decides: `H` keeps the input unread, `F` is discarded, and `?` gets a reply.
struct Holding;

impl Handler for Holding {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        match input.chunk().first() {
            Some(b'H') => {
                // The client never sends as much.
                input.peek(256)?;
            }
            Some(b'?') => {
                link.out.send(b"!")?;
                input.consume(1);
            }
            _ => {
                input.consume(input.chunk().len());
            }
        }
        Ok(())
    }
}

/// One link holds so many buffers that all others receive one buffer at a time; one floods the server,
/// and then one sends a request. Returns the bytes of the flood that were received before the reply.
fn a_flood_and_one_who_asks(bug: Option<PortBug>) -> Result<u64, SimFailure> {
    let mut config = SimConfig::new(3);
    let with = |buffers| {
        Server::builder(Holding)
            .shards(1)
            .links_max(4)
            .buffer_size_bytes(64)
            .buffer_count(buffers)
            .input_bytes(256)
            .output_bytes(256)
            .idle_timeout(Duration::ZERO)
    };
    // The fewest buffers with which it starts: four of them are lent for input, one to the port.
    let fewest = (1..).find(|buffers| fits(&with(*buffers))).unwrap_or(u32::MAX);
    config.port_bug = bug;
    let mut sim = Simulation::with_config(config, with(fewest));
    sim.connect(Script::new().send([b'H'; 255]).pause(SECOND).reset());
    sim.connect(Script::new().pause(SECOND / 1_000).send(vec![b'F'; FLOOD]));
    let asks = sim.connect(Script::new().pause(SECOND / 500).send(b"?").expect(b"!"));
    sim.run_until(|sim| sim.now().0 >= 2_000_000)?;
    let before = sim.stats().received_bytes;
    sim.run_until(|sim| sim.has_ended(asks))?;
    let flood = sim.stats().received_bytes - before;
    sim.finish().map(|_| flood)
}

const FLOOD: usize = 1_000_000;

#[test]
fn a_flood_does_not_overtake_a_waiter() {
    let flood = a_flood_and_one_who_asks(None).unwrap();
    assert!(flood < 2_000, "{flood} bytes were received first");
    let planted = a_flood_and_one_who_asks(Some(PortBug::OvertakeWaiters));
    assert!(planted.is_err() || planted.is_ok_and(|flood| flood > 100_000));
}

/// Ten clients do not read, two read; then more broadcasts are posted than there are entries for.
/// Returns the number of skipped posts, if those that read got every broadcast.
fn broadcasts_to_some_who_do_not_read() -> Result<Option<u64>, SimFailure> {
    const BROADCASTS: usize = 30;
    const LEN: usize = 60;
    let mut config = SimConfig::new(4);
    let with = |buffers| {
        Server::builder(Owing { reply: 1, first: Arc::default() })
            .shards(1)
            .links_max(12)
            .buffer_size_bytes(64)
            .buffer_count(buffers)
            .input_bytes(64)
            .output_bytes(4_096)
            .stall_timeout(Duration::ZERO)
            .idle_timeout(Duration::ZERO)
    };
    // Not more than the output of two links can be lent.
    let fewest = (1..).find(|buffers| fits(&with(*buffers))).unwrap_or(u32::MAX);
    config.faults.socket_buffer_bytes = 100;
    let mut sim = Simulation::with_config(config, with(fewest));
    for _ in 0..10 {
        // Short pauses: without other events the clock advances to the end of one.
        let pauses = (0..100).fold(Script::new(), |script, _| script.pause(SECOND / 1_000));
        sim.connect(pauses.pause(60 * SECOND).reset());
    }
    let readers = [(); 2].map(|()| sim.connect(Script::new().expect([5; BROADCASTS * LEN])));
    sim.run_until(|sim| sim.stats().connects == 12)?;
    for _ in 0..BROADCASTS {
        assert_eq!(sim.handle().all().try_post([5; LEN]), Ok(()), "there are buffers for it");
        let until = sim.now().saturating_add(SECOND / 1_000);
        sim.run_until(|sim| sim.now() >= until)?;
    }
    if !sim.run_until(|sim| readers.iter().all(|reader| sim.has_ended(*reader)))? {
        return Ok(None);
    }
    let skips = sim.stats().missed;
    sim.finish().map(|_| Some(skips))
}

#[test]
fn who_reads_gets_every_broadcast_beside_those_who_do_not() {
    let skips = broadcasts_to_some_who_do_not_read().unwrap();
    assert!(skips.is_some_and(|skips| skips > 0), "{skips:?}");
}
