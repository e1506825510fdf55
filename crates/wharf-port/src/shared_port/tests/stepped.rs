//! The shared port on the simulated network, with threads that a scheduler steps: a seed determines
//! which thread runs, when it blocks and when bytes arrive, and a run replays.
//!
//! A thread that sleeps or is parked is stepped only when what it waits for is there. So a lost
//! wake-up leaves a run without a thread to step, and is found.

use crate::memory::ledger::BufferCounts;
use crate::memory::message::{MessagePool, MessagePoolConfig};
use crate::memory::pool::{BufferPool, PoolConfig};
use crate::port::contract::PortConfig;
use crate::port::operation::{CompletionMode, Key};
use crate::shared_port::member::{Member, Shared};
use crate::shared_port::seat::Command;
use crate::shared_port::seats::{Claim, Queue, Step};
use crate::shared_port::values::{SharedOperation, SharedOutcome, SharedSocket};
use crate::sim::config::WorldConfig;
use crate::sim::faults::{FaultKind, Faults};
use crate::sim::peer::{SimClient, SimListener, SimStream};
use crate::sim::port::SimPort;
use crate::sim::rng::Rng;
use crate::sim::world::World;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

type Port = SimPort<Command<u64, SimStream, SimListener>>;

const LISTENER: Key = Key(u64::MAX);
/// Each client sends and reads as many bytes.
const BYTES: usize = 600;
/// Sockets of each seat.
const SOCKETS: u32 = 16;
/// Steps of a thread that blocks until nothing else is left to do.
const LONG: u32 = u32::MAX;
/// The most steps of a run; without a fault it needs a tenth.
const STEPS_MAX: u32 = 200_000;

/// What a stepped thread does.
enum Doing {
    /// It calls `step`.
    Dequeue,
    /// It has completions.
    Run,
    /// It waits as the step says.
    Wait(Step),
    /// It blocks, and then sends these bytes if it has a seat.
    Block(u32, SharedSocket, Vec<u8>),
    /// It returns from that.
    Return(SharedSocket, Vec<u8>),
    Ended,
}

struct Stepped {
    member: Member<u64, Port>,
    doing: Doing,
}

struct Client {
    end: SimClient,
    sent: Vec<u8>,
    echoed: Vec<u8>,
    is_over: bool,
}

struct Run {
    world: World,
    rng: Rng,
    shared: Arc<Shared<u64, Port>>,
    seats: u32,
    threads: Vec<Stepped>,
    clients: Vec<Client>,
    messages: MessagePool,
    accepted: u64,
    closed: usize,
    packets: [u32; 2],
    blocks: u32,
    /// Threads that went to sleep on several seats, and that were parked.
    waits: [u32; 2],
}

fn run(seed: u64) -> Run {
    let mut rng = Rng::new(seed);
    let faults = Faults::none()
        .with_latency_ns(1_000)
        .with(FaultKind::Delay, 200_000)
        .with(FaultKind::Reorder, 200_000)
        .with(FaultKind::SpuriousWake, 100_000)
        .with(FaultKind::ShortDequeue, 200_000);
    let world = World::new(WorldConfig { faults, ..WorldConfig::new(seed) });
    let seats = 1 + u32::try_from(rng.below(4)).unwrap();
    let shared = shared((0..seats).map(|_| port(&world)).collect());
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7));
    assert!(shared.associate_listener(world.listen(address).unwrap(), LISTENER).is_ok());
    let threads = (0..1 + rng.below(6))
        .map(|_| Stepped { member: Member::new(Arc::clone(&shared)), doing: Doing::Dequeue })
        .collect();
    let messages = MessagePool::new(MessagePoolConfig::new(64)).unwrap();
    let mut run = Run {
        clients: Vec::new(),
        accepted: 0,
        closed: 0,
        packets: [0; 2],
        blocks: 0,
        waits: [0; 2],
        world,
        rng,
        shared,
        seats,
        threads,
        messages,
    };
    for tag in 0..1 + run.rng.below(10) {
        // The listener's accept may not be armed yet, but it listens.
        let end = run.world.connect(address, tag).unwrap();
        let client = Client { end, sent: Vec::new(), echoed: Vec::new(), is_over: false };
        run.clients.push(client);
        run.step_client(usize::try_from(tag).unwrap());
    }
    run.finish(seed);
    run
}

impl Run {
    fn finish(&mut self, seed: u64) {
        for _ in 0..STEPS_MAX {
            while let Some(tag) = self.world.next_ready_client() {
                self.step_client(usize::try_from(tag).unwrap());
            }
            if self.packets[0] < 20 && self.rng.below(16) == 0 {
                self.packets[0] += u32::from(self.shared.post(1).is_ok());
            }
            if self.closed == self.clients.len() && self.packets == [20; 2] {
                return self.close(seed);
            }
            let ready: Vec<_> =
                (0..self.threads.len()).filter(|index| self.is_ready(*index)).collect();
            let before = self.world.now();
            if ready.is_empty() || self.rng.below(8) == 0 {
                self.world.advance();
            }
            if ready.is_empty() {
                let moved = self.world.now() > before;
                let may_post = self.packets[0] < 20;
                assert!(
                    moved || may_post || self.unblock(seed),
                    "seed {seed}: nothing ends any wait"
                );
                continue;
            }
            let index = ready[self.rng.below_len(ready.len())];
            self.step(index);
            let running = self.threads.iter().filter(|thread| thread.runs()).count();
            assert!(running <= self.seats as usize, "seed {seed}: {running} threads run");
            self.check_returning(seed);
        }
        panic!("seed {seed}: the run does not end");
    }

    /// INV-SEATS-4: a thread that returns does not wait for those that run while others sleep. Those
    /// that are between two waits look at the state.
    fn check_returning(&self, seed: u64) {
        let dequeues = |index: &usize| {
            let doing = &self.threads[*index].doing;
            matches!(doing, Doing::Dequeue | Doing::Wait(Step::Wait | Step::WaitAny))
        };
        let dequeuing: Vec<_> = (0..self.threads.len()).filter(dequeues).collect();
        let woken = dequeuing.iter().filter(|index| self.is_ready(**index)).count();
        let (_, returning) = self.shared.queue_lengths();
        assert!(
            woken >= returning.min(dequeuing.len()),
            "seed {seed}: {returning} threads return, {} dequeue, {woken} of them are awake",
            dequeuing.len()
        );
    }

    /// Nothing is left to do but to let a thread that blocks for long return: `false` if none does.
    /// So the others must have done all of the work, on free seats, too.
    fn unblock(&mut self, seed: u64) -> bool {
        let sleeps =
            |thread: &Stepped| matches!(thread.doing, Doing::Wait(Step::Wait | Step::WaitAny));
        if self.threads.iter().any(sleeps) {
            let idle = (0..self.seats).all(|seat| !self.world.is_runnable(seat));
            assert!(idle, "seed {seed}: no thread covers a seat with work");
        }
        for thread in &mut self.threads {
            if let Doing::Block(left @ LONG, ..) = &mut thread.doing {
                *left = 0;
                return true;
            }
        }
        false
    }

    /// Whether the thread can go on: nothing else may step it.
    fn is_ready(&self, index: usize) -> bool {
        let Stepped { member, doing } = &self.threads[index];
        match doing {
            Doing::Block(left, ..) => *left != LONG,
            Doing::Dequeue | Doing::Run => true,
            Doing::Wait(Step::Park) | Doing::Return(..) => member.is_granted(),
            Doing::Wait(step) => self.shared.covered(member, *step == Step::WaitAny).any(|seat| {
                // A world's ports have the numbers of their seats.
                self.world.is_runnable(seat)
            }),
            Doing::Ended => false,
        }
    }

    fn step(&mut self, index: usize) {
        let Stepped { member, doing } = &mut self.threads[index];
        self.world.mix_trace(index as u64);
        let next = match std::mem::replace(doing, Doing::Dequeue) {
            Doing::Wait(step) => {
                // The wait of the port is its dequeue, which has begun. A simulated one begins another
                // if it finds nothing, but the thread looks at the state first.
                if step == Step::Wait {
                    member.dequeue_now();
                }
                if step != Step::Park {
                    member.end_wait(Step::WaitAny);
                }
                Doing::Dequeue
            }
            Doing::Dequeue => match member.step().unwrap() {
                Step::Completions => Doing::Run,
                Step::Closed => Doing::Ended,
                Step::Wait if member.dequeue_now() => Doing::Dequeue,
                step => {
                    self.waits[0] += u32::from(step == Step::WaitAny);
                    self.waits[1] += u32::from(step == Step::Park);
                    Doing::Wait(step)
                }
            },
            Doing::Run => self.take(index),
            Doing::Block(0, socket, bytes) => match member.claim(Queue::Returning) {
                Claim::Queued => Doing::Return(socket, bytes),
                _ => self.send(index, socket, &bytes),
            },
            Doing::Block(left, socket, bytes) => Doing::Block(left - 1, socket, bytes),
            Doing::Return(socket, bytes) => {
                assert_ne!(member.claim(Queue::Returning), Claim::Queued, "it was granted");
                self.send(index, socket, &bytes)
            }
            Doing::Ended => Doing::Ended,
        };
        self.threads[index].doing = next;
    }

    fn send(&mut self, index: usize, socket: SharedSocket, bytes: &[u8]) -> Doing {
        let message = self.messages.message_of(bytes).unwrap();
        let member = &self.threads[index].member;
        member.submit(socket, SharedOperation::SendMessage(message)).unwrap();
        Doing::Run
    }

    /// Takes one completion.
    fn take(&mut self, index: usize) -> Doing {
        let member = &mut self.threads[index].member;
        let Some(completion) = member.next_completion() else { return Doing::Dequeue };
        if let SharedOutcome::Received { buffer, .. } = &completion.outcome
            && self.rng.below(4) == 0
        {
            let (socket, bytes) = (completion.socket.unwrap(), buffer.to_vec());
            drop(completion);
            assert!(member.give_up_seat(), "it had taken a completion");
            self.blocks += 1;
            let steps = u32::try_from(self.rng.below(30)).unwrap();
            let is_long = self.rng.below(4) == 0;
            return Doing::Block(if is_long { LONG } else { steps }, socket, bytes);
        }
        let receive = || SharedOperation::receive(CompletionMode::Oneshot);
        let operation = match completion.outcome {
            SharedOutcome::Associated if completion.key == LISTENER => {
                SharedOperation::Accept(CompletionMode::Multishot)
            }
            SharedOutcome::Associated => receive(),
            SharedOutcome::Accepted { stream, .. } => {
                self.accepted += 1;
                assert!(member.shared().associate(stream, Key(self.accepted)).is_ok());
                return Doing::Run;
            }
            SharedOutcome::Posted(_) => {
                self.packets[1] += 1;
                return Doing::Run;
            }
            SharedOutcome::Received { buffer, .. } => {
                SharedOperation::Send(member.chain_of(&buffer).unwrap())
            }
            SharedOutcome::Sent { mut chain, sent, end: None } => {
                chain.advance(sent);
                if chain.is_empty() { receive() } else { SharedOperation::Send(chain) }
            }
            SharedOutcome::ReceiveEnded(_) => SharedOperation::Close,
            SharedOutcome::Closed => {
                self.closed += 1;
                return Doing::Run;
            }
            other => panic!("{other:?}"),
        };
        member.submit(completion.socket.unwrap(), operation).unwrap();
        Doing::Run
    }

    fn step_client(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let mut bytes = [0; 64];
        loop {
            match client.end.try_read(&mut bytes) {
                Ok(0) => break client.is_over = true,
                Ok(len) => client.echoed.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        while client.sent.len() < BYTES {
            let len = (1 + self.rng.below_len(100)).min(BYTES - client.sent.len());
            let piece: Vec<u8> = (0..len).map(|_| self.rng.below(256).to_le_bytes()[0]).collect();
            let Ok(len) = client.end.try_write(&piece) else { break };
            client.sent.extend_from_slice(&piece[..len]);
        }
        if client.echoed.len() == BYTES && client.sent.len() == BYTES {
            client.end.shutdown_write();
        }
    }

    /// All threads end, and all buffers are free.
    fn close(&mut self, seed: u64) {
        for client in &self.clients {
            assert!(client.echoed == client.sent, "seed {seed}: the echo differs");
        }
        self.shared.close();
        for _ in 0..STEPS_MAX {
            let Some(index) = (0..self.threads.len()).find(|index| self.is_ready(*index)) else {
                break;
            };
            self.step(index);
        }
        let ended = self.threads.iter().filter(|thread| matches!(thread.doing, Doing::Ended));
        assert_eq!(ended.count(), self.threads.len(), "seed {seed}: a thread never ends");
        self.threads.clear();
        let ledgers = self.shared.ledger_views();
        let world = self.world.clone();
        let empty = shared(vec![port(&world)]);
        drop(std::mem::replace(&mut self.shared, empty));
        for ledger in ledgers {
            let all_free = BufferCounts { free: 32, ..BufferCounts::default() };
            assert_eq!(ledger.ledger(), all_free, "seed {seed}");
        }
        assert_eq!(self.messages.free_count(), 64, "seed {seed}");
    }
}

fn port(world: &World) -> Port {
    let pool = PoolConfig { buffer_size_bytes: 64, ..PoolConfig::new(32) };
    let config = PortConfig { receive_buffers_max: 4, ..PortConfig::new(SOCKETS) };
    Port::new(world, config, BufferPool::new(pool).unwrap()).unwrap()
}

#[expect(
    clippy::arc_with_non_send_sync,
    reason = "one thread has all handles; the type is the same"
)]
fn shared(ports: Vec<Port>) -> Arc<Shared<u64, Port>> {
    Arc::new(Shared::new(ports, SOCKETS))
}

impl Stepped {
    fn runs(&self) -> bool {
        matches!(self.doing, Doing::Run)
    }
}

/// The number of seeds: 2,000, or `WHARF_SIM_SEEDS`.
fn seeds() -> u64 {
    std::env::var("WHARF_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2000)
}

#[test]
fn every_byte_comes_back_on_every_seed() {
    let (mut blocks, mut waits) = (0, [0; 2]);
    for seed in 0..seeds() {
        let run = run(seed);
        blocks += run.blocks;
        waits = [waits[0] + run.waits[0], waits[1] + run.waits[1]];
    }
    println!("{} seeds, {blocks} blocks, {waits:?} waits on several seats and parked", seeds());
    assert!(blocks > 1000 && waits[0] > 1000 && waits[1] > 1000, "{blocks}, {waits:?}");
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..20 {
        let [one, two] = [(); 2].map(|()| {
            let run = run(seed);
            (run.world.trace(), run.world.now(), run.blocks)
        });
        assert_eq!(one, two, "seed {seed}");
    }
}

#[test]
fn the_thread_that_waits_the_shortest_is_released_first() {
    let world = World::new(WorldConfig::new(1));
    let shared = shared(vec![port(&world)]);
    let mut members: Vec<_> = (0..4).map(|_| Member::new(Arc::clone(&shared))).collect();
    assert_eq!(members[0].step(), Ok(Step::Wait));
    for member in &mut members[1..] {
        assert_eq!(member.step(), Ok(Step::Park));
    }
    members[0].give_up_seat();
    for index in (1..4).rev() {
        let granted: Vec<_> = members.iter().map(Member::is_granted).collect();
        let expected: Vec<_> = (0..4).map(|other| other == index).collect();
        assert_eq!(granted, expected);
        assert_eq!(members[index].step(), Ok(Step::Wait));
        members[index].give_up_seat();
    }
}

#[test]
fn a_seat_that_is_granted_when_a_wait_times_out_is_not_lost() {
    let world = World::new(WorldConfig::new(1));
    let shared = shared(vec![port(&world)]);
    let [mut one, mut two] = [(); 2].map(|()| Member::new(Arc::clone(&shared)));
    assert_eq!((one.step(), two.step()), (Ok(Step::Wait), Ok(Step::Park)));
    one.give_up_seat();
    two.end_wait(Step::Park);
    assert_eq!(one.step(), Ok(Step::Park), "the other has the seat");
    assert!(two.give_up_seat());
    assert_eq!(one.step(), Ok(Step::Wait));
}
