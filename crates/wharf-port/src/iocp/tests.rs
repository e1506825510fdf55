//! Promise: the contract holds on Windows, with real sockets on loopback.
//!
//! Method: one thread owns the port and dequeues until the expected completion, or a deadline; the
//! peers are std's blocking sockets. Wine is slow, so the deadline is 60 s.
#![expect(clippy::wildcard_enum_match_arm, reason = "any other outcome is a failure")]

use super::IocpPort;
use super::operations::{OperationTable, Started};
use super::socket::OverlappedSocket;
use super::state::{Accept, listener_mut};
use crate::conformance::network::lacks;
use crate::memory::chain::Chain;
use crate::memory::ledger::{BufferCounts, Owner};
use crate::memory::pool::{BufferPool, PoolConfig};
use crate::port::clock::Clock;
use crate::port::completion::{Completion, EndReason, Outcome};
use crate::port::contract::{Completions, Port, PortConfig};
use crate::port::error::OsError;
use crate::port::inbox::Poster;
use crate::port::operation::{
    CompletionMode, Key, Operation, OperationKind, Socket, SubmitErrorKind,
};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::windows::io::OwnedSocket;
use std::thread;
use std::time::Duration;
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::IO::OVERLAPPED_ENTRY;

type TestPort = IocpPort<u64>;
type Event = Completion<TcpStream, u64>;

const DEADLINE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(50);

/// A port, and its completions that the test has not taken yet.
struct Rig {
    port: TestPort,
    pool: BufferPool,
    batch: Completions<TestPort>,
    events: Vec<Event>,
}

impl Rig {
    fn new(sockets_max: u32, buffers: u32, buffer_size_bytes: u32) -> Self {
        let config = PoolConfig { buffer_size_bytes, ..PoolConfig::new(buffers) };
        let pool = BufferPool::new(config).unwrap();
        let port = TestPort::new(PortConfig::new(sockets_max), pool.clone()).unwrap();
        Self { port, pool, batch: Vec::with_capacity(32), events: Vec::new() }
    }

    /// A connection: its socket in the port, and its peer.
    fn link(&mut self, key: u64) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_read_timeout(Some(DEADLINE)).unwrap();
        let (stream, _) = listener.accept().unwrap();
        (self.port.associate(stream, Key(key)).unwrap(), peer)
    }

    fn listener(&mut self, key: u64) -> (Socket, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (self.port.associate_listener(listener, Key(key)).unwrap(), address)
    }

    fn submit(&mut self, socket: Socket, operation: Operation) {
        self.port.submit(socket, operation).unwrap();
    }

    fn chain(&self, data: &[u8]) -> Chain {
        self.pool.chain_of(data, Owner::SendQueue).unwrap()
    }

    fn turn(&mut self, timeout: Duration) {
        self.port.dequeue(&mut self.batch, Some(timeout)).unwrap();
        self.events.append(&mut self.batch);
    }

    /// The next completion for which `wanted` holds; those before it are kept.
    #[track_caller]
    fn next(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let start = self.port.now();
        loop {
            if let Some(index) = self.events.iter().position(&wanted) {
                return self.events.remove(index);
            }
            let left = self.port.now().duration_since(start) < DEADLINE;
            assert!(left, "no such completion; there are {:?}; {:?}", self.events, self.port);
            self.turn(STEP);
        }
    }

    /// The next completion with this key.
    #[track_caller]
    fn next_of(&mut self, key: u64) -> Outcome<TcpStream, u64> {
        self.next(|event| event.key == Key(key)).outcome
    }

    /// Checks that nothing completes for 150 ms.
    #[track_caller]
    fn quiet(&mut self) {
        let start = self.port.now();
        while self.port.now().duration_since(start) < Duration::from_millis(150) {
            self.turn(STEP);
            assert!(self.events.is_empty(), "{:?}", self.events);
        }
    }

    #[track_caller]
    fn close(&mut self, socket: Socket, key: u64) {
        self.submit(socket, Operation::Close);
        loop {
            if let Outcome::Closed = self.next_of(key) {
                return;
            }
        }
    }

    #[track_caller]
    fn assert_all_free(&self) {
        let capacity = self.pool.capacity();
        assert_eq!(self.pool.ledger(), BufferCounts { free: capacity, ..BufferCounts::default() });
        assert_eq!(self.port.counters().stale_completions, 0);
    }
}

#[track_caller]
fn received(outcome: Outcome<TcpStream, u64>) -> (Vec<u8>, bool) {
    match outcome {
        Outcome::Received { buffer, last } => (buffer.to_vec(), last),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn receive_end(outcome: Outcome<TcpStream, u64>) -> EndReason {
    match outcome {
        Outcome::ReceiveEnded(end) => end,
        other => panic!("{other:?}"),
    }
}

/// Bytes in which a comparison finds every shift and swap.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_u32;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .collect()
}

/// Sends received bytes back, until every link has ended; queues those received during a send.
fn echo_until_all_ended(rig: &mut Rig, links: &HashMap<u64, Socket>) {
    let mut queues: HashMap<u64, (Chain, bool)> = HashMap::new();
    let mut ended = 0;
    while ended < links.len() {
        let Completion { key: Key(key), outcome } = rig.next(|_| true);
        let (queue, sending) = queues.entry(key).or_default();
        match outcome {
            Outcome::Received { buffer, last: false } => queue.push(&rig.pool, buffer).unwrap(),
            Outcome::Sent { mut chain, sent, end: None } => {
                *sending = false;
                chain.advance(sent);
                chain.append_chain(std::mem::take(queue));
                *queue = chain;
            }
            Outcome::ReceiveEnded(EndReason::PeerClosed) => ended += 1,
            other => panic!("{other:?}"),
        }
        if !*sending && !queue.is_empty() {
            *sending = true;
            let chain = std::mem::take(queue);
            rig.port.submit(links[&key], Operation::Send(chain)).unwrap();
        }
    }
}

#[test]
fn echo_returns_every_byte() {
    for len in [1, 63, 64, 65, 4096, 100_000, 1 << 20] {
        echo_returns(len, true);
    }
}

#[test]
fn echo_returns_every_byte_when_all_completions_come_as_packets() {
    for len in [1, 4096, 1 << 20] {
        echo_returns(len, false);
    }
}

fn echo_returns(len: usize, may_skip: bool) {
    let mut rig = Rig::new(4, 4096, 2048);
    rig.port.may_skip = may_skip;
    let (socket, peer) = rig.link(1);
    rig.submit(socket, Operation::receive(CompletionMode::Multishot));
    let data = pattern(len);
    thread::scope(|scope| {
        let mut writer = peer.try_clone().unwrap();
        let mut reader = peer;
        let data = &data;
        scope.spawn(move || writer.write_all(data).unwrap());
        scope.spawn(move || {
            let mut back = vec![0; data.len()];
            reader.read_exact(&mut back).unwrap();
            assert!(back == *data, "{len} bytes came back changed");
            reader.shutdown(Shutdown::Write).unwrap();
        });
        echo_until_all_ended(&mut rig, &HashMap::from([(1, socket)]));
    });
    rig.close(socket, 1);
    rig.assert_all_free();
}

#[test]
fn two_hundred_links_echo_at_once() {
    two_hundred_links_echo(true);
}

#[test]
fn two_hundred_links_echo_when_all_completions_come_as_packets() {
    two_hundred_links_echo(false);
}

fn two_hundred_links_echo(may_skip: bool) {
    const LINKS: u64 = 200;
    let mut rig = Rig::new(256, 1024, 256);
    rig.port.may_skip = may_skip;
    let (listener, address) = rig.listener(0);
    rig.submit(listener, Operation::Accept(CompletionMode::Multishot));
    thread::scope(|scope| {
        for part in 0..4_u8 {
            scope.spawn(move || {
                let mut peers: Vec<_> =
                    (0..LINKS / 4).map(|_| TcpStream::connect(address).unwrap()).collect();
                for round in 0..5_u8 {
                    for peer in &mut peers {
                        peer.write_all(&[part, round, 7]).unwrap();
                    }
                    for peer in &mut peers {
                        let mut back = [0; 3];
                        peer.read_exact(&mut back).unwrap();
                        assert_eq!(back, [part, round, 7]);
                    }
                }
            });
        }
        let mut links = HashMap::new();
        while (links.len() as u64) < LINKS {
            let Outcome::Accepted { stream, peer, last } = rig.next_of(0) else { panic!() };
            assert_eq!((stream.peer_addr().unwrap(), last), (peer, false));
            let key = links.len() as u64 + 1;
            let socket = rig.port.associate(stream, Key(key)).unwrap();
            rig.submit(socket, Operation::receive(CompletionMode::Multishot));
            links.insert(key, socket);
        }
        echo_until_all_ended(&mut rig, &links);
        for (key, socket) in links {
            rig.close(socket, key);
        }
    });
    rig.close(listener, 0);
    rig.assert_all_free();
}

#[test]
fn an_idle_link_holds_no_buffer_and_a_oneshot_receive_takes_one() {
    let mut rig = Rig::new(4, 4, 64);
    let (socket, mut peer) = rig.link(1);
    rig.submit(socket, Operation::receive(CompletionMode::Oneshot));
    rig.quiet();
    assert_eq!(rig.pool.free_count(), 4);
    peer.write_all(b"one").unwrap();
    assert_eq!(received(rig.next_of(1)), (b"one".to_vec(), true));
    peer.write_all(b"two").unwrap();
    rig.quiet();
    rig.submit(socket, Operation::receive(CompletionMode::Oneshot));
    assert_eq!(received(rig.next_of(1)), (b"two".to_vec(), true));
}

#[test]
fn if_ready_never_waits() {
    let mut rig = Rig::new(4, 4, 64);
    let (socket, mut peer) = rig.link(1);
    rig.submit(socket, Operation::receive(CompletionMode::IfReady));
    assert_eq!(receive_end(rig.next_of(1)), EndReason::NotReady);
    peer.write_all(b"there").unwrap();
    rig.submit(socket, Operation::receive(CompletionMode::Oneshot));
    let _arrived = rig.next_of(1);
    peer.write_all(b"more").unwrap();
    // The port decides that the completion is immediate, the network when the bytes arrive.
    let start = rig.port.now();
    loop {
        rig.submit(socket, Operation::receive(CompletionMode::IfReady));
        rig.turn(DEADLINE);
        let event = rig.events.pop().expect("one dequeue completes it");
        if let Outcome::Received { buffer, last } = event.outcome {
            assert_eq!((&*buffer, last), (&b"more"[..], true));
            break;
        }
        assert!(rig.port.now().duration_since(start) < DEADLINE);
    }
}

#[test]
fn the_end_of_a_stream_and_a_reset_are_told_apart() {
    let mut rig = Rig::new(4, 4, 64);
    let (ending, peer) = rig.link(1);
    rig.submit(ending, Operation::receive(CompletionMode::Multishot));
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(receive_end(rig.next_of(1)), EndReason::PeerClosed);
    drop(peer);
    // A close with unread bytes resets the connection.
    let (reset, mut peer) = rig.link(2);
    let chain = rig.chain(b"never read");
    rig.submit(reset, Operation::Send(chain));
    assert!(matches!(rig.next_of(2), Outcome::Sent { sent: 10, end: None, .. }));
    rig.submit(reset, Operation::receive(CompletionMode::Multishot));
    let mut first = [0; 1];
    peer.read_exact(&mut first).unwrap();
    drop(peer);
    let EndReason::Failed(error) = receive_end(rig.next_of(2)) else { panic!("no reset") };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

#[test]
fn a_cancelled_receive_ends_once_and_loses_nothing() {
    let mut rig = Rig::new(4, 4, 64);
    let (socket, mut peer) = rig.link(1);
    for round in 0..20_u8 {
        rig.submit(socket, Operation::receive(CompletionMode::Multishot));
        if round % 2 == 0 {
            peer.write_all(&[round]).unwrap();
        }
        rig.port.cancel(socket, OperationKind::Receive);
        rig.port.cancel(socket, OperationKind::Receive);
        assert_eq!(receive_end(rig.next_of(1)), EndReason::Cancelled);
    }
    rig.quiet();
    rig.submit(socket, Operation::receive(CompletionMode::Multishot));
    let mut bytes = Vec::new();
    while bytes.len() < 10 {
        bytes.extend(received(rig.next_of(1)).0);
    }
    assert_eq!(bytes, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]);
}

#[test]
fn a_send_that_the_peer_does_not_read_can_be_cancelled() {
    let mut rig = Rig::new(4, 2048, 1 << 16);
    let (socket, peer) = rig.link(1);
    let data = vec![7; 4 << 20];
    // Sends until one stays in flight.
    loop {
        let chain = rig.chain(&data);
        rig.submit(socket, Operation::Send(chain));
        rig.turn(Duration::from_millis(300));
        if rig.events.pop().is_none() {
            break;
        }
    }
    assert!(rig.pool.ledger().kernel_send > 0);
    let chain = rig.chain(b"second");
    let refused = rig.port.submit(socket, Operation::Send(chain)).unwrap_err();
    assert_eq!(refused.kind, SubmitErrorKind::AlreadyInFlight);
    drop(refused);
    rig.port.cancel(socket, OperationKind::Send);
    let Outcome::Sent { chain, sent, end } = rig.next_of(1) else { panic!() };
    assert_eq!((chain.len(), end), (data.len(), Some(EndReason::Cancelled)));
    assert!(sent < data.len());
    drop((chain, peer));
    rig.close(socket, 1);
    rig.assert_all_free();
}

#[test]
fn a_close_ends_what_is_in_flight_and_is_the_last_that_is_heard() {
    let mut rig = Rig::new(1, 512, 1 << 16);
    let (socket, mut peer) = rig.link(1);
    rig.submit(socket, Operation::receive(CompletionMode::Multishot));
    let data = vec![7; 16 << 20];
    let chain = rig.chain(&data);
    rig.submit(socket, Operation::Send(chain));
    rig.submit(socket, Operation::Close);
    let refused = rig.port.submit(socket, Operation::receive(CompletionMode::Oneshot)).unwrap_err();
    assert_eq!(refused.kind, SubmitErrorKind::Closing);
    let (mut sends, mut receives) = (0, 0);
    loop {
        match rig.next_of(1) {
            Outcome::Sent { .. } => sends += 1,
            Outcome::ReceiveEnded(end) => {
                assert_eq!(end, EndReason::Cancelled);
                receives += 1;
            }
            Outcome::Closed => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((sends, receives), (1, 1));
    let refused = rig.port.submit(socket, Operation::Close).unwrap_err();
    assert_eq!(refused.kind, SubmitErrorKind::StaleSocket);
    // The peer reads the end of the stream, or a reset if bytes were lost.
    let mut bytes = Vec::new();
    let _end = peer.read_to_end(&mut bytes);
    assert!(bytes.len() <= data.len());
    // The slot is free, and its next socket gets only its own completions.
    let (next, mut peer) = rig.link(2);
    assert_eq!(next.index, socket.index);
    rig.submit(next, Operation::receive(CompletionMode::Oneshot));
    peer.write_all(b"new").unwrap();
    assert_eq!(received(rig.next(|_| true).outcome), (b"new".to_vec(), true));
    rig.close(next, 2);
    rig.assert_all_free();
}

#[test]
fn a_dropped_port_leaves_no_buffer_out_and_closes_its_sockets() {
    let mut rig = Rig::new(8, 512, 1 << 16);
    let mut peers = Vec::new();
    for key in 1..=4 {
        let (socket, peer) = rig.link(key);
        rig.submit(socket, Operation::receive(CompletionMode::Multishot));
        let chain = rig.chain(&vec![7; 4 << 20]);
        rig.submit(socket, Operation::Send(chain));
        peers.push(peer);
    }
    let (listener, address) = rig.listener(9);
    rig.submit(listener, Operation::Accept(CompletionMode::Multishot));
    let (poster, pool) = (rig.port.poster(), rig.pool.clone());
    assert!(rig.port.operations.in_flight() > 4);
    drop(rig);
    assert_eq!(pool.free_count(), pool.capacity());
    assert!(matches!(poster.post(1), Err(crate::port::PostError::Closed(1))));
    for mut peer in peers {
        let mut bytes = Vec::new();
        let _end = peer.read_to_end(&mut bytes);
    }
    assert!(TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_err());
}

/// Waits until the port's owner sleeps.
fn wait_for_sleep(poster: &Poster<u64>) {
    let clock = Clock::new();
    let start = clock.now();
    while !poster.is_owner_asleep() {
        let left = clock.now().duration_since(start) < DEADLINE;
        assert!(left, "the owner does not sleep");
        thread::yield_now();
    }
}

#[test]
fn posts_from_threads_wake_the_owner_and_none_is_lost() {
    const EACH: u64 = 300;
    let mut rig = Rig::new(1, 1, 64);
    let poster = rig.port.poster();
    thread::scope(|scope| {
        for _ in 0..3 {
            let poster = poster.clone();
            scope.spawn(move || {
                for packet in 1..=EACH {
                    if packet % 50 == 0 {
                        wait_for_sleep(&poster);
                    }
                    let mut packet = packet;
                    while let Err(error) = poster.post(packet) {
                        packet = error.into_packet();
                        thread::yield_now();
                    }
                }
            });
        }
        let mut sum = 0;
        for _ in 0..3 * EACH {
            let Outcome::Posted(packet) = rig.next(|_| true).outcome else { panic!() };
            sum += packet;
        }
        assert_eq!(sum, 3 * EACH * (EACH + 1) / 2);
    });
    assert!(rig.port.counters().wakeups > 0);
    rig.quiet();
}

#[test]
fn a_post_ends_a_wait_without_end() {
    let mut rig = Rig::new(1, 1, 64);
    let poster = rig.port.poster();
    thread::scope(|scope| {
        scope.spawn(move || {
            wait_for_sleep(&poster);
            poster.post(5).unwrap();
        });
        rig.port.dequeue(&mut rig.batch, None).unwrap();
        assert!(matches!(rig.batch[..], [Completion { outcome: Outcome::Posted(5), .. }]));
    });
}

#[test]
fn receives_wait_for_an_empty_pool_in_order_and_resume_before_a_sleep() {
    let mut rig = Rig::new(8, 2, 64);
    let held = [rig.pool.acquire(Owner::Application), rig.pool.acquire(Owner::Application)];
    let mut links = Vec::new();
    for key in 1..=3 {
        let (socket, mut peer) = rig.link(key);
        rig.submit(socket, Operation::receive(CompletionMode::Multishot));
        peer.write_all(&[u8::try_from(key).unwrap(); 100]).unwrap();
        // One after the other, so that the order in which they begin to wait is known.
        let pauses = rig.port.counters().buffer_waits;
        while rig.port.counters().buffer_waits == pauses {
            rig.turn(STEP);
        }
        links.push((socket, peer));
    }
    rig.quiet();
    // An end needs no buffer.
    let (ending, peer) = rig.link(4);
    rig.submit(ending, Operation::receive(CompletionMode::Multishot));
    drop(peer);
    assert_eq!(receive_end(rig.next_of(4)), EndReason::PeerClosed);
    // Nor does a cancel, which removes the socket from the queue.
    rig.port.cancel(links[1].0, OperationKind::Receive);
    assert_eq!(receive_end(rig.next_of(2)), EndReason::Cancelled);
    drop(held);
    rig.port.dequeue(&mut rig.batch, None).unwrap();
    rig.events.append(&mut rig.batch);
    let mut order = Vec::new();
    let mut bytes = HashMap::<u64, usize>::new();
    while bytes.values().sum::<usize>() < 200 {
        let event = rig.next(|_| true);
        order.push(event.key.0);
        *bytes.entry(event.key.0).or_default() += received(event.outcome).0.len();
    }
    assert_eq!(order[..2], [1, 3]);
    assert_eq!(bytes, HashMap::from([(1, 100), (3, 100)]));
    for (key, (socket, _)) in (1..).zip(links) {
        rig.close(socket, key);
    }
    rig.close(ending, 4);
    rig.assert_all_free();
}

#[test]
fn posted_accepts_take_a_burst_and_a_cancel_delivers_what_came() {
    let mut rig = Rig::new(128, 4, 64);
    let (listener, address) = rig.listener(1);
    rig.submit(listener, Operation::Accept(CompletionMode::Multishot));
    assert_eq!(rig.port.operations.in_flight(), 64);
    let peers: Vec<_> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut addresses: Vec<_> = peers.iter().map(|peer| peer.local_addr().unwrap()).collect();
    let mut accepted = Vec::new();
    while accepted.len() < 80 {
        let Outcome::Accepted { peer, last: false, .. } = rig.next_of(1) else { panic!() };
        accepted.push(peer);
    }
    rig.port.cancel(listener, OperationKind::Accept);
    loop {
        match rig.next_of(1) {
            Outcome::Accepted { peer, last: false, .. } => accepted.push(peer),
            Outcome::AcceptEnded(end) => {
                assert_eq!(end, EndReason::Cancelled);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(rig.port.operations.in_flight(), 0);
    // The listener still listens: the next accepts return the other connections, and a new one.
    let late = TcpStream::connect(address).unwrap();
    addresses.push(late.local_addr().unwrap());
    while accepted.len() < addresses.len() {
        rig.submit(listener, Operation::Accept(CompletionMode::Oneshot));
        let Outcome::Accepted { peer, last: true, .. } = rig.next_of(1) else { panic!() };
        accepted.push(peer);
    }
    accepted.sort();
    addresses.sort();
    assert_eq!(accepted, addresses);
    rig.quiet();
    rig.submit(listener, Operation::Accept(CompletionMode::Oneshot));
    rig.close(listener, 1);
    assert_eq!(rig.port.accepts_free.len(), 64 + 3 * 63 + 127);
}

/// The failures are put where those of the system are recorded.
#[test]
fn an_accept_that_always_fails_ends_and_can_be_tried_again() {
    const WSAENETDOWN: i32 = 10050;
    let mut rig = Rig::new(128, 4, 64);
    let (socket, address) = rig.listener(1);
    let failed = EndReason::Failed(OsError::new("AcceptEx", WSAENETDOWN));
    rig.submit(socket, Operation::Accept(CompletionMode::Multishot));
    for _ in 0..1000 {
        let accept = rig.port.accepts_free.pop().unwrap();
        let (_, _, listener) = listener_mut(&mut rig.port.table, socket).unwrap();
        listener.done.push_back((accept, Some(failed)));
        rig.port.ready.push_back(socket);
        rig.turn(Duration::ZERO);
        let (_, _, listener) = listener_mut(&mut rig.port.table, socket).unwrap();
        if let Accept::Ending(..) | Accept::Idle = listener.accept {
            break;
        }
    }
    let outcome = rig.next_of(1);
    assert!(matches!(outcome, Outcome::AcceptEnded(end) if end == failed), "{outcome:?}");
    rig.submit(socket, Operation::Accept(CompletionMode::Multishot));
    let _peer = TcpStream::connect(address).unwrap();
    assert!(matches!(rig.next_of(1), Outcome::Accepted { last: false, .. }));
}

#[test]
fn ipv6_peers_are_named() {
    let mut rig = Rig::new(4, 4, 64);
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        return lacks("there is no IPv6 here");
    };
    let address = listener.local_addr().unwrap();
    let socket = rig.port.associate_listener(listener, Key(1)).unwrap();
    rig.submit(socket, Operation::Accept(CompletionMode::Oneshot));
    let client = TcpStream::connect(address).unwrap();
    let Outcome::Accepted { peer, .. } = rig.next_of(1) else { panic!() };
    assert_eq!(peer, client.local_addr().unwrap());
}

#[test]
fn a_full_table_and_a_second_port_give_the_socket_back() {
    let mut rig = Rig::new(1, 4, 64);
    let (first, _peer) = rig.link(1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = rig.port.associate_listener(listener, Key(2)).unwrap_err();
    assert_eq!(refused.error, None);
    let mut peer = TcpStream::connect(refused.socket.local_addr().unwrap()).unwrap();
    let (stream, _) = refused.socket.accept().unwrap();
    let mut refused = rig.port.associate(stream, Key(3)).unwrap_err();
    assert_eq!(refused.error, None);
    // It is returned unchanged: it blocks, so that a read ends at its timeout and not at once.
    refused.socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let blocked = refused.socket.read(&mut [0]).unwrap_err();
    assert_eq!(blocked.kind(), ErrorKind::TimedOut);
    refused.socket.set_read_timeout(None).unwrap();
    peer.write_all(b"x").unwrap();
    refused.socket.read_exact(&mut [0]).unwrap();
    let twin = refused.socket.try_clone().unwrap();
    let mut other = Rig::new(1, 1, 64);
    other.port.associate(twin, Key(4)).unwrap();
    rig.close(first, 1);
    let refused = rig.port.associate(refused.socket, Key(5)).unwrap_err();
    assert!(refused.error.is_some());
}

#[test]
fn operations_that_do_not_fit_are_given_back() {
    let mut rig = Rig::new(4, 4, 64);
    let (link, _peer) = rig.link(1);
    let (listener, _) = rig.listener(2);
    let mut kind = |socket, operation| rig.port.submit(socket, operation).unwrap_err().kind;
    let wrong = SubmitErrorKind::WrongOperation;
    assert_eq!(kind(link, Operation::Accept(CompletionMode::Oneshot)), wrong);
    assert_eq!(kind(link, Operation::Send(Chain::new())), wrong);
    assert_eq!(kind(listener, Operation::Accept(CompletionMode::IfReady)), wrong);
    assert_eq!(kind(listener, Operation::receive(CompletionMode::Oneshot)), wrong);
    rig.submit(link, Operation::receive(CompletionMode::Oneshot));
    rig.submit(listener, Operation::Accept(CompletionMode::Multishot));
    let mut kind = |socket, operation| rig.port.submit(socket, operation).unwrap_err().kind;
    assert_eq!(
        kind(link, Operation::receive(CompletionMode::Multishot)),
        SubmitErrorKind::AlreadyInFlight
    );
    assert_eq!(
        kind(listener, Operation::Accept(CompletionMode::Multishot)),
        SubmitErrorKind::AlreadyInFlight
    );
}

#[test]
fn a_shutdown_lets_the_peer_read_to_the_end_and_answer() {
    let mut rig = Rig::new(4, 64, 2048);
    let (socket, mut peer) = rig.link(1);
    let data = pattern(50_000);
    let chain = rig.chain(&data);
    rig.submit(socket, Operation::Send(chain));
    rig.port.shutdown(socket);
    let mut bytes = Vec::new();
    peer.read_to_end(&mut bytes).unwrap();
    assert!(matches!(rig.next_of(1), Outcome::Sent { sent: 50_000, end: None, .. }));
    assert!(bytes == data);
    rig.submit(socket, Operation::receive(CompletionMode::Oneshot));
    peer.write_all(b"thanks").unwrap();
    assert_eq!(received(rig.next_of(1)).0, b"thanks");
}

#[test]
fn a_vector_of_one_serves_sockets_and_posts_alike() {
    let mut rig = Rig::new(4, 64, 64);
    rig.batch = Vec::with_capacity(1);
    let (socket, mut peer) = rig.link(1);
    rig.submit(socket, Operation::receive(CompletionMode::Multishot));
    peer.write_all(&pattern(640)).unwrap();
    let poster = rig.port.poster();
    (0..20).for_each(|packet| poster.post(packet).unwrap());
    let (mut posts, mut bytes) = (0, Vec::new());
    while posts < 20 || bytes.len() < 640 {
        match rig.next(|_| true).outcome {
            Outcome::Posted(packet) => {
                assert_eq!(packet, posts);
                posts += 1;
            }
            other => bytes.extend(received(other).0),
        }
    }
    assert_eq!(bytes, pattern(640));
}

#[test]
fn operations_that_succeed_at_once_leave_no_packet() {
    let mut rig = Rig::new(4, 64, 64);
    let (socket, _peer) = rig.link(1);
    let (_, handle, _) = super::state::connection_mut(&mut rig.port.table, socket).unwrap();
    if !handle.skips {
        return lacks("the socket's provider is not the kernel's");
    }
    let chain = rig.chain(b"short");
    rig.submit(socket, Operation::Send(chain));
    assert_eq!(rig.port.operations.in_flight(), 0);
    assert!(matches!(rig.next_of(1), Outcome::Sent { sent: 5, end: None, .. }));
    rig.quiet();
}

#[test]
fn what_is_in_flight_when_its_table_goes_stays_where_it_is() {
    let pool =
        BufferPool::new(PoolConfig { buffer_size_bytes: 1 << 20, ..PoolConfig::new(16) }).unwrap();
    let port = super::wake::CompletionPort::new(1).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    port.associate(super::socket::raw_socket(&stream) as HANDLE).unwrap();
    let handle = OverlappedSocket::new(OwnedSocket::from(stream), true);
    let socket = Socket { index: 0, generation: 1 };
    let mut operations = OperationTable::new(1, 1).unwrap();
    assert_eq!(operations.receive(socket, &handle), Started::Pending);
    let data = pattern(16 << 20);
    let chain = pool.chain_of(&data, Owner::SendQueue).unwrap();
    assert_eq!(operations.send(socket, &handle, chain), Started::Pending);
    assert!(operations.take_completed(std::ptr::null_mut()).is_none());
    drop(operations);
    assert_eq!(pool.ledger().kernel_send, 16);
    // The system still reads from the buffers, and writes to the blocks.
    let mut bytes = vec![0; data.len()];
    peer.read_exact(&mut bytes).unwrap();
    assert!(bytes == data);
    peer.write_all(b"x").unwrap();
    let mut entries = [OVERLAPPED_ENTRY::default(); 4];
    let mut packets = 0;
    while packets < 2 {
        let count = port.dequeue(&mut entries, 20_000).unwrap();
        assert!(count > 0, "{packets} packets came of 2");
        packets += count;
    }
}
