//! All promises together: random operations on eight links.
//!
//! The method: a seeded generator chooses a link and an action at each step: arm, send, cancel,
//! close, and by the peer write, read, end, reset. There are few buffers, and the test holds a part
//! of them, so that receives wait. Streams are compared in both directions, the checker checks
//! every completion, and at the end all operations must have ended and all buffers be free. A
//! failure prints the seed.

use super::checker::{Link, PortChecker, assert_pattern, overwrite_free_buffers, pattern};
use super::network::{Peer, PeerRead, Setup, TestNetwork, each_back_end};
use crate::memory::buffer::Buffer;
use crate::memory::chain::Chain;
use crate::memory::ledger::Owner;
use crate::port::operation::{CompletionMode, Operation, OperationKind};
use std::time::Duration;

each_back_end!(a_crowd_of_links_keeps_every_promise);

fn a_crowd_of_links_keeps_every_promise<N: TestNetwork>() {
    for seed in 1..=SEEDS {
        // Shown with the output of a failure.
        println!("seed {seed}");
        let mut crowd = Crowd::<N>::new(seed);
        for _ in 0..STEPS {
            crowd.step();
        }
        crowd.finish();
    }
}

struct Crowd<N: TestNetwork> {
    checker: PortChecker<N>,
    members: Vec<Member<N>>,
    /// Buffers that the test holds.
    held: Vec<Buffer>,
    random: Random,
}

/// A link, and the progress of each direction.
struct Member<N: TestNetwork> {
    link: Link,
    peer: Option<N::Peer>,
    /// Bytes that the peer has written.
    written: usize,
    /// Received bytes that were compared.
    compared: usize,
    /// Bytes that the peer has read.
    read: usize,
    /// Bytes that completions of sends count.
    sent: usize,
    /// The rest of a short send.
    rest: Chain,
    /// Whether the peer ended its stream.
    peer_ended: bool,
}

impl<N: TestNetwork> Crowd<N> {
    fn new(seed: u64) -> Self {
        // No large buffers, fewer than links, and more than links.
        let large = [0, 2, 16][usize::try_from(seed % 3).unwrap()];
        let mut checker = PortChecker::new(Setup::small().narrow().buffers(24, 512).large(large));
        // With a capacity of one completion a dequeue leaves most operations undelivered.
        checker.completions_max([64, 1, 2, 3][usize::try_from(seed % 4).unwrap()]);
        let members = checker.links(8).into_iter().map(Member::new).collect();
        Self { checker, members, held: Vec::new(), random: Random(seed) }
    }

    fn step(&mut self) {
        let i = self.random.below(self.members.len());
        let choice = self.random.below(100);
        let Self { checker, members, held, random } = self;
        let member = &mut members[i];
        member.look(checker);
        match choice {
            0..25 => member.write(random.below(3_000)),
            25..45 => member.read(random.below(5_000)),
            45..60 => member.receive(checker, random),
            60..75 => member.send(checker, random.below(4_000)),
            75..80 => checker.cancel(member.link, random.kind()),
            80..82 => held.extend(checker.pool.acquire(Owner::Application)),
            82..85 => held.clear(),
            85 => member.end(),
            86 => overwrite_free_buffers(&checker.pool),
            87 => member.replace(checker, random),
            _ => {
                checker.round(Duration::ZERO);
            }
        }
    }

    /// All written bytes must arrive, and all operations end.
    fn finish(self) {
        let Self { mut checker, mut members, held, .. } = self;
        drop(held);
        for i in 0..members.len() {
            members[i].end();
            let (link, written) = (members[i].link, members[i].written);
            checker.until("all that a peer wrote", |checker| {
                // Sends of the other links must not hold the buffers.
                for member in &mut members {
                    member.look(checker);
                    member.rest = Chain::new();
                    member.read(10_000);
                }
                if !checker.in_flight(link, OperationKind::Receive)
                    && checker.of(link).received.len() < written
                {
                    checker.receive(link, CompletionMode::Multishot);
                }
                checker.of(link).received.len() >= written
            });
            let member = &mut members[i];
            assert_eq!(checker.of(link).received.len(), written);
            member.look(&mut checker);
            checker.close(link);
            checker.until("the close", |checker| {
                member.read(10_000);
                checker.of(link).closed
            });
            member.look(&mut checker);
            member.last_read(&mut checker);
        }
        drop(members);
        checker.finish();
    }
}

impl<N: TestNetwork> Member<N> {
    fn new((link, peer): (Link, N::Peer)) -> Self {
        Self {
            link,
            peer: Some(peer),
            written: 0,
            compared: 0,
            read: 0,
            sent: 0,
            rest: Chain::new(),
            peer_ended: false,
        }
    }

    fn write(&mut self, len: usize) {
        if let Some(peer) = &mut self.peer
            && !self.peer_ended
        {
            self.written += peer.try_write(&pattern(self.link.key, self.written, len));
        }
    }

    fn read(&mut self, len: usize) {
        let mut bytes = Vec::new();
        let Some(peer) = &mut self.peer else { return };
        match peer.try_read(&mut bytes, len + 1) {
            PeerRead::Bytes(_) => assert_pattern(!self.link.key, self.read, &bytes),
            PeerRead::WouldBlock | PeerRead::Reset | PeerRead::Eof => {}
        }
        self.read += bytes.len();
    }

    fn receive(&self, checker: &mut PortChecker<N>, random: &mut Random) {
        if !checker.in_flight(self.link, OperationKind::Receive) {
            let mode =
                [CompletionMode::Oneshot, CompletionMode::Multishot, CompletionMode::IfReady]
                    [random.below(3)];
            let bytes_max = [0, 1, 300, 2_000, u32::MAX, u32::MAX][random.below(6)];
            checker.receive_max(self.link, mode, bytes_max);
        }
    }

    /// Sends the rest of the last send, or new bytes.
    fn send(&mut self, checker: &mut PortChecker<N>, len: usize) {
        if checker.in_flight(self.link, OperationKind::Send) {
            return;
        }
        let mut chain = std::mem::take(&mut self.rest);
        if chain.is_empty() {
            let bytes = pattern(!self.link.key, self.sent, len + 1);
            match checker.pool.chain_of(&bytes, Owner::SendQueue) {
                Ok(fresh) => chain = fresh,
                Err(_no_room) => return,
            }
        }
        checker.submit(self.link, Operation::Send(chain)).unwrap();
    }

    /// The peer ends its stream.
    fn end(&mut self) {
        if let Some(peer) = &mut self.peer
            && !self.peer_ended
        {
            peer.shutdown_write();
            self.peer_ended = true;
        }
    }

    /// Closes the link, with its operations in flight, and opens a new one.
    fn replace(&mut self, checker: &mut PortChecker<N>, random: &mut Random) {
        let peer = self.peer.take().expect("a link has a peer until it is replaced");
        match random.below(3) {
            0 => peer.reset(),
            1 => drop(peer),
            _ => self.peer = Some(peer),
        }
        checker.close(self.link);
        let link = self.link;
        checker.until("a link to be closed", |checker| checker.of(link).closed);
        self.look(checker);
        self.last_read(checker);
        *self = Self::new(checker.link());
    }

    /// Takes the link's completions, and compares its received bytes.
    fn look(&mut self, checker: &mut PortChecker<N>) {
        while let Some(mut done) = checker.of(self.link).sent.pop_front() {
            self.sent += done.sent;
            done.chain.advance(done.sent);
            self.rest = done.chain;
        }
        let received = &checker.of(self.link).received;
        assert!(received.len() <= self.written, "more was received than was written");
        assert_pattern(self.link.key, self.compared, &received[self.compared..]);
        self.compared = received.len();
    }

    /// Reads to the end of a closed link: at most the bytes that were sent.
    fn last_read(&mut self, checker: &mut PortChecker<N>) {
        if let Some(peer) = &mut self.peer {
            let (bytes, _end) = checker.peer_reads_to_end(peer);
            assert_pattern(!self.link.key, self.read, &bytes);
            self.read += bytes.len();
            assert!(self.read <= self.sent, "{} read of {} sent", self.read, self.sent);
        }
    }
}

/// A xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 33) % bound as u64).unwrap()
    }

    fn kind(&mut self) -> OperationKind {
        if self.below(2) == 0 { OperationKind::Receive } else { OperationKind::Send }
    }
}

/// Twelve seeds take about a second.
const SEEDS: u64 = 12;

const STEPS: u32 = 3_000;
