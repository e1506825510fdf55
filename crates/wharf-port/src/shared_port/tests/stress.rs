//! Many links and threads at once, on real sockets.

use super::threads::{Back, CloseAtEnd, MemberOf, WAIT_MAX, member, on_threads, shared, until};
use crate::memory::ledger::{BufferCounts, LedgerView};
use crate::memory::message::{MessagePool, MessagePoolConfig};
use crate::port::operation::{CompletionMode, Key};
use crate::shared_port::values::{SharedOperation, SharedOutcome, SharedSocket};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

on_threads!(an_echo_on_many_links_is_exact_while_threads_block);

const LINKS: u64 = 200;
const THREADS: u32 = 8;
const CLIENTS: u64 = 4;
const ROUNDS: u64 = 10;
const LISTENER: Key = Key(u64::MAX);

/// A sequence of numbers of which each byte of a test is one.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[derive(Default)]
struct Counts {
    running: AtomicU32,
    running_max: AtomicU32,
    blocked: AtomicU64,
    next_key: AtomicU64,
    closed: AtomicU64,
}

/// What a thread does after it has let go of the completion.
enum Later {
    Nothing,
    /// Blocks, and then sends these bytes.
    Block(SharedSocket, Vec<u8>),
}

fn handle<B: Back>(member: &MemberOf<B>, counts: &Counts, random: &mut Numbers) -> Option<Later> {
    let completion = member.next_completion()?;
    let socket = completion.socket;
    let receive = || SharedOperation::receive(CompletionMode::Oneshot);
    let operation = match completion.outcome {
        SharedOutcome::Associated if completion.key == LISTENER => {
            SharedOperation::Accept(CompletionMode::Multishot)
        }
        SharedOutcome::Associated => receive(),
        SharedOutcome::Accepted { stream, .. } => {
            let key = Key(counts.next_key.fetch_add(1, Ordering::SeqCst));
            member.shared().associate(stream, key).unwrap();
            return Some(Later::Nothing);
        }
        SharedOutcome::Received { buffer, .. } if random.next().is_multiple_of(8) => {
            return Some(Later::Block(socket.unwrap(), buffer.to_vec()));
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
            counts.closed.fetch_add(1, Ordering::SeqCst);
            return Some(Later::Nothing);
        }
        other => panic!("{other:?}"),
    };
    member.submit(socket.unwrap(), operation).unwrap();
    Some(Later::Nothing)
}

fn serve<B: Back>(mut member: MemberOf<B>, counts: &Counts, messages: &MessagePool, seed: u64) {
    let mut random = Numbers(seed);
    let begin = || {
        let running = 1 + counts.running.fetch_add(1, Ordering::SeqCst);
        counts.running_max.fetch_max(running, Ordering::SeqCst);
    };
    let end = || counts.running.fetch_sub(1, Ordering::SeqCst);
    while member.dequeue(None) == Ok(true) {
        begin();
        while let Some(later) = handle::<B>(&member, counts, &mut random) {
            if let Later::Block(socket, bytes) = later {
                let micros = random.next() % 400;
                end();
                member.blocking(|| thread::sleep(Duration::from_micros(micros)));
                begin();
                counts.blocked.fetch_add(1, Ordering::SeqCst);
                let message = messages.message_of(&bytes).unwrap();
                member.submit(socket, SharedOperation::SendMessage(message)).unwrap();
            }
        }
        end();
    }
}

/// Each of its links sends 1 to 1,500 bytes in each round, and reads them back.
fn client(address: SocketAddr, number: u64) {
    let mut random = Numbers(number);
    let mut links: Vec<_> = (0..LINKS / CLIENTS)
        .map(|_| {
            let link = TcpStream::connect(address).unwrap();
            link.set_read_timeout(Some(WAIT_MAX)).unwrap();
            link
        })
        .collect();
    for _ in 0..ROUNDS {
        let sent: Vec<_> = links
            .iter_mut()
            .map(|link| {
                let len = 1 + random.next() % 1500;
                let bytes: Vec<u8> = (0..len).map(|_| random.next().to_le_bytes()[0]).collect();
                link.write_all(&bytes).unwrap();
                bytes
            })
            .collect();
        for (link, sent) in links.iter_mut().zip(sent) {
            let mut echo = vec![0; sent.len()];
            link.read_exact(&mut echo).unwrap();
            assert!(echo == sent, "the echo differs");
        }
    }
}

fn an_echo_on_many_links_is_exact_while_threads_block<B: Back>() {
    for seats in [1, 2, 4, 8] {
        let shared = shared::<B>(seats);
        let counts = Counts::default();
        let messages = MessagePool::new(MessagePoolConfig::new(512)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        shared.associate_listener(listener, LISTENER).unwrap();
        thread::scope(|scope| {
            let _closes = CloseAtEnd::<B>(&shared);
            for seed in 0..THREADS {
                let member = member::<B>(&shared);
                let (counts, messages) = (&counts, &messages);
                scope.spawn(move || serve::<B>(member, counts, messages, seed.into()));
            }
            let clients: Vec<_> =
                (0..CLIENTS).map(|number| scope.spawn(move || client(address, number))).collect();
            for client in clients {
                client.join().unwrap();
            }
            until("all links are closed", || counts.closed.load(Ordering::SeqCst) == LINKS);
        });
        let most = counts.running_max.load(Ordering::SeqCst);
        assert!((1..=seats).contains(&most), "{most} threads ran at once on {seats} seats");
        assert!(counts.blocked.load(Ordering::SeqCst) > 100);
        let ledgers = shared.ledger_views();
        drop(shared);
        for ledger in ledgers.iter().map(LedgerView::ledger) {
            assert_eq!(ledger, BufferCounts { free: 256, ..BufferCounts::default() });
        }
        assert_eq!(messages.free_count(), 512);
    }
}
