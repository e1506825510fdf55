//! Small worlds made by hand, for what random ones meet too seldom; each with the planted fault that
//! it is there to find.

use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wharf::sim::{EnginePlant, Faults, Plant, Script, SimConfig, SimFailure, Simulation, Time};
use wharf::{Handler, Input, Link, LinkId, Result, Server};

const SECOND: Duration = Duration::from_secs(1);

/// Owes `answer` bytes for each byte that it gets, and queues them all at once or, when there is no
/// room, later. Says who came first.
struct Owing {
    answer: usize,
    first: Arc<OnceLock<LinkId>>,
}

impl Handler for Owing {
    type Worker = ();
    type State = usize;

    fn on_connect(&self, (): &mut (), link: &mut Link<'_, usize>) -> Result {
        let _only_the_first_counts = self.first.set(link.id());
        Ok(())
    }

    fn on_receive(&self, (): &mut (), link: &mut Link<'_, usize>, data: &[u8]) -> Result {
        *link.state() += data.len();
        self.on_sent(&mut (), link)
    }

    fn on_sent(&self, (): &mut (), link: &mut Link<'_, usize>) -> Result {
        if *link.state() > 0 && link.send(&vec![7; self.answer]).is_ok() {
            *link.state() -= 1;
        }
        Ok(())
    }
}

/// One link has borrowed all that there is to lend and does not read for a minute; another one needs
/// as much. Says how many links were closed for it, and when that one had its answer.
fn a_hoarder_and_one_who_waits(plant: Option<EnginePlant>) -> Result<(u64, Time), SimFailure> {
    let mut config = SimConfig::new(1);
    config.builder = Server::builder()
        .shards(1)
        .links(4)
        .buffer_size(64)
        .buffers(44)
        .input_bytes(64)
        .send_queue(1_024)
        .loan_wait(SECOND)
        .stall_timeout(Duration::ZERO)
        .idle(Duration::ZERO);
    config.faults = Faults::none();
    config.faults.socket_buffer_bytes = 100;
    config.engine_plant = plant;
    let mut sim = Simulation::with(config, Owing { answer: 1_000, first: Arc::default() });
    sim.connect(Script::new().send(b"?").pause(60 * SECOND).expect([7; 1_000]));
    let waiting = Script::new().pause(SECOND / 10).send(b"?").expect([7; 1_000]);
    sim.connect(waiting.finish().expect_end());
    sim.run_until(|sim| sim.stats().sent_bytes >= 1_000 && sim.clients_open() < 2)?;
    let (revoked, answered) = (sim.stats().loans_revoked, sim.now());
    sim.finish().map(|_| (revoked, answered))
}

#[test]
fn who_needs_what_is_lent_gets_it_after_loan_wait() {
    let (revoked, answered) = a_hoarder_and_one_who_waits(None).unwrap();
    assert!(revoked == 1 && answered.0 < 3_000_000_000, "{revoked} closed, at {answered:?}");
    let planted = a_hoarder_and_one_who_waits(Some(EnginePlant::NeverRevoke));
    assert!(planted.is_err() || planted.is_ok_and(|(revoked, _)| revoked == 0));
}

/// More posts than one dequeue brings, and then a stop. Says how many clients got everything.
fn posts_and_a_stop(plant: Option<EnginePlant>) -> Result<u64, SimFailure> {
    const POSTS: usize = 1_500;
    let mut config = SimConfig::new(2);
    config.builder = Server::builder().shards(1).links(4).buffers(32_000).idle(Duration::ZERO);
    config.engine_plant = plant;
    let first = Arc::new(OnceLock::new());
    let handler = Owing { answer: 1, first: Arc::clone(&first) };
    let mut sim = Simulation::with(config, handler);
    sim.connect(Script::new().expect([5; 8 * POSTS]).expect_end());
    sim.run_until(|_| first.get().is_some())?;
    let handle = sim.handle();
    let posted = (0..POSTS)
        .filter(|_| first.get().is_some_and(|link: &LinkId| handle.send(*link, &[5; 8]).is_ok()));
    assert_eq!(posted.count(), POSTS, "all are accepted");
    sim.stop(10 * SECOND)?;
    sim.finish().map(|report| report.clients_whole)
}

#[test]
fn what_was_posted_before_a_stop_arrives() {
    assert_eq!(posts_and_a_stop(None).unwrap(), 1);
    let planted = posts_and_a_stop(Some(EnginePlant::StopBeforePosts));
    assert!(planted.is_err() || planted.is_ok_and(|whole| whole == 0));
}

/// What a link's first byte asks for: `H` keeps its input unread, `F` is thrown away, and `?` is
/// answered.
struct Hoarding;

impl Handler for Hoarding {
    type Worker = ();
    type State = ();

    fn on_receive(&self, (): &mut (), _: &mut Link<'_, ()>, _: &[u8]) -> Result {
        unreachable!("on_input takes all")
    }

    fn on_input(&self, (): &mut (), link: &mut Link<'_, ()>, input: &mut Input<'_>) -> Result {
        match input.chunk().first() {
            Some(b'H') => input.want(256),
            Some(b'?') => {
                link.send(b"!")?;
                input.consume(1);
            }
            _ => input.consume(input.chunk().len()),
        }
        Ok(())
    }
}

/// One link holds so much that all others receive one buffer at a time; one sends without end, and
/// then one asks something. Says how much of the flood came in before that one had its answer.
fn a_flood_and_one_who_asks(plant: Option<Plant>) -> Result<u64, SimFailure> {
    let mut config = SimConfig::new(3);
    // The fewest buffers with which it starts: four of them are lent for input, one to the port.
    config.builder = Server::builder()
        .shards(1)
        .links(4)
        .buffer_size(64)
        .input_bytes(256)
        .send_queue(256)
        .idle(Duration::ZERO);
    let builder = config.builder.clone();
    for buffers in 1.. {
        config.builder = builder.clone().buffers(buffers);
        if config.fits() {
            break;
        }
    }
    config.plant = plant;
    let mut sim = Simulation::with(config, Hoarding);
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
fn a_flood_does_not_overtake_who_waits() {
    let flood = a_flood_and_one_who_asks(None).unwrap();
    assert!(flood < 2_000, "{flood} bytes came first");
    let planted = a_flood_and_one_who_asks(Some(Plant::OvertakeWaiters));
    assert!(planted.is_err() || planted.is_ok_and(|flood| flood > 100_000));
}

/// Ten links stop reading, two read; then come more broadcasts than there are entries for. Says
/// how many receivers were left out, if those that read got every one.
fn broadcasts_to_some_who_do_not_read(
    plant: Option<EnginePlant>,
) -> Result<Option<u64>, SimFailure> {
    const BROADCASTS: usize = 30;
    const LEN: usize = 60;
    let mut config = SimConfig::new(4);
    // Not more than the output of two links can be lent.
    config.builder = Server::builder()
        .shards(1)
        .links(12)
        .buffer_size(64)
        .input_bytes(64)
        .send_queue(4_096)
        .stall_timeout(Duration::ZERO)
        .idle(Duration::ZERO);
    let builder = config.builder.clone();
    for buffers in 1.. {
        config.builder = builder.clone().buffers(buffers);
        if config.fits() {
            break;
        }
    }
    config.faults.socket_buffer_bytes = 100;
    config.engine_plant = plant;
    let mut sim = Simulation::with(config, Owing { answer: 1, first: Arc::default() });
    for _ in 0..10 {
        // Short pauses: where nothing else is to come, time goes on to the end of one.
        let pauses = (0..100).fold(Script::new(), |script, _| script.pause(SECOND / 1_000));
        sim.connect(pauses.pause(60 * SECOND).reset());
    }
    let readers = [(); 2].map(|()| sim.connect(Script::new().expect([5; BROADCASTS * LEN])));
    sim.run_until(|sim| sim.stats().connects == 12)?;
    for _ in 0..BROADCASTS {
        assert_eq!(sim.handle().broadcast(&[5; LEN], None), Ok(()), "there are buffers for it");
        let until = sim.now().after(SECOND / 1_000);
        sim.run_until(|sim| sim.now() >= until)?;
    }
    if !sim.run_until(|sim| readers.iter().all(|reader| sim.has_ended(*reader)))? {
        return Ok(None);
    }
    let skips = sim.stats().broadcast_skips;
    sim.finish().map(|_| Some(skips))
}

#[test]
fn who_reads_gets_every_broadcast_beside_those_who_do_not() {
    let skips = broadcasts_to_some_who_do_not_read(None).unwrap();
    assert!(skips.is_some_and(|skips| skips > 0), "{skips:?}");
    let planted = broadcasts_to_some_who_do_not_read(Some(EnginePlant::TakeOthersEntries));
    assert!(planted.is_err() || planted.is_ok_and(|skips| skips.is_none()));
}
