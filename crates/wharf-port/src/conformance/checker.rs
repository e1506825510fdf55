//! A checker around a port: every submitted operation and every completion passes through it, and
//! it checks each completion against the contract.
//!
//! So each test also checks that no operation completes twice or without having been submitted,
//! that no completion has a key after `Closed`, that ends have a cause, and that the ledger's sum
//! is right after every dequeue.

use super::network::{Peer, PeerRead, Setup, TestNetwork, WaitLimit};
use crate::memory::buffer::Buffer;
use crate::memory::chain::Chain;
use crate::memory::ledger::Owner;
use crate::memory::pool::BufferPool;
use crate::port::completion::{Completion, EndReason, Outcome};
use crate::port::contract::{Completions, Port};
use crate::port::operation::{
    AssociateError, CompletionMode, Key, Operation, OperationKind, Socket, SubmitError,
};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

type Stream<N> = <<N as TestNetwork>::Port as Port>::Stream;

/// A socket of the port under test, and the key that it was associated with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) socket: Socket,
    pub(super) key: u64,
}

/// The port, its operations in flight, and its completions so far.
pub(super) struct PortChecker<N: TestNetwork> {
    pub(super) network: N,
    pub(super) pool: BufferPool,
    pub(super) listener: Link,
    /// Connections that were accepted and not yet associated.
    pub(super) accepted: VecDeque<(Stream<N>, SocketAddr)>,
    /// Packets in the order in which they were dequeued.
    pub(super) posted: Vec<u64>,
    /// Whether [`Record::buffers`] keeps received buffers after their bytes were recorded.
    pub(super) keep_buffers: bool,
    /// The keys of completed receives with bytes, in the order of completion.
    pub(super) received_from: Vec<u64>,
    records: BTreeMap<u64, Record>,
    log: VecDeque<String>,
    completions: Completions<N::Port>,
    next_key: u64,
    /// The most provided buffers of the port.
    provided_max: u32,
}

/// The completions and operations of one key.
#[derive(Default)]
pub(super) struct Record {
    /// All bytes received.
    pub(super) received: Vec<u8>,
    /// Completions of receives with bytes.
    pub(super) receives: usize,
    /// The buffers of these bytes, if they are kept.
    pub(super) buffers: Vec<Buffer>,
    /// Ends of receives or, on a listener, accepts.
    pub(super) ends: Vec<EndReason>,
    /// Ended sends that the test has not taken yet.
    pub(super) sent: VecDeque<Sent>,
    pub(super) closed: bool,
    socket: Option<Socket>,
    closing: bool,
    accept: Option<InFlight>,
    receive: Option<InFlight>,
    send: Option<InFlight>,
}

/// An ended send.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) chain: Chain,
    pub(super) sent: usize,
    pub(super) end: Option<EndReason>,
}

/// An operation in flight.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    mode: CompletionMode,
    /// The bytes of a send, or a receive's limit.
    len: usize,
    /// Bytes that a receive has taken.
    received: usize,
    /// Bytes by which a receive may exceed `len`.
    ahead: usize,
    cancelled: bool,
}

impl<N: TestNetwork> PortChecker<N> {
    /// A new port with a listener.
    pub(super) fn new(setup: Setup) -> Self {
        let mut network = N::new(setup);
        let pool = network.port().pool().clone();
        let socket = network.listen(Key(LISTENER));
        let mut checker = Self {
            network,
            pool,
            listener: Link { socket, key: LISTENER },
            accepted: VecDeque::new(),
            posted: Vec::new(),
            keep_buffers: false,
            received_from: Vec::new(),
            records: BTreeMap::new(),
            log: VecDeque::new(),
            completions: Vec::with_capacity(64),
            next_key: 1,
            provided_max: setup.port.receive_buffers_max,
        };
        checker.records.insert(LISTENER, Record { socket: Some(socket), ..Record::default() });
        checker
    }

    /// Sets the most completions of a dequeue.
    pub(super) fn completions_max(&mut self, capacity: usize) {
        self.completions = Vec::with_capacity(capacity);
    }

    /// A connection: its socket in the port, and its peer.
    pub(super) fn link(&mut self) -> (Link, N::Peer) {
        self.accept(CompletionMode::Oneshot);
        let peer = self.network.connect();
        self.until("a connection to be accepted", |checker| !checker.accepted.is_empty());
        let (stream, address) = self.accepted.pop_front().unwrap();
        assert_eq!(address, peer.address(), "an accepted connection has its peer's address");
        let link = self.associate(stream).ok().expect("the table has a free slot");
        (link, peer)
    }

    /// `count` connections.
    pub(super) fn links(&mut self, count: usize) -> Vec<(Link, N::Peer)> {
        (0..count).map(|_| self.link()).collect()
    }

    /// Associates a connection with the port, under a new key.
    pub(super) fn associate(
        &mut self,
        stream: Stream<N>,
    ) -> Result<Link, AssociateError<Stream<N>>> {
        let key = self.next_key;
        let socket = self.network.port().associate(stream, Key(key))?;
        self.next_key += 1;
        self.records.insert(key, Record { socket: Some(socket), ..Record::default() });
        self.note(format!("{key}: associated as {socket:?}"));
        Ok(Link { socket, key })
    }

    /// Submits an operation, and records that it is in flight.
    pub(super) fn submit(&mut self, link: Link, operation: Operation) -> Result<(), SubmitError> {
        let kind = operation.kind();
        let (mode, len) = match &operation {
            Operation::Accept(mode) => (*mode, 0),
            Operation::Receive { mode, bytes_max } => (*mode, *bytes_max as usize),
            Operation::Send(chain) => (CompletionMode::Oneshot, chain.len()),
            Operation::Close => (CompletionMode::Oneshot, 0),
        };
        let result = self.network.port().submit(link.socket, operation);
        let outcome = result.as_ref().map_err(|error| error.kind);
        self.note(format!("{}: submit {kind:?} {mode:?} {len}: {outcome:?}", link.key));
        if let Err(error) = &result {
            assert_eq!(error.operation.kind(), kind, "an error returns the operation");
            return result;
        }
        let record = self.records.get_mut(&link.key).unwrap();
        assert!(!record.closing, "{kind:?} was submitted to a closing socket");
        if kind == OperationKind::Close {
            record.closing = true;
        } else {
            let one_buffer = self.pool.buffer_size_bytes() as usize;
            let may_exceed =
                N::RECEIVES_AHEAD && mode == CompletionMode::Multishot && len > one_buffer;
            let ahead = if may_exceed { self.provided_max as usize * one_buffer } else { 0 };
            let in_flight = InFlight { mode, len, received: 0, ahead, cancelled: false };
            let before = record.in_flight(kind).replace(in_flight);
            assert!(before.is_none(), "a second {kind:?} was submitted");
        }
        result
    }

    pub(super) fn accept(&mut self, mode: CompletionMode) {
        self.submit(self.listener, Operation::Accept(mode)).unwrap();
    }

    pub(super) fn receive(&mut self, link: Link, mode: CompletionMode) {
        self.submit(link, Operation::receive(mode)).unwrap();
    }

    /// A receive of at most `bytes_max` bytes.
    pub(super) fn receive_max(&mut self, link: Link, mode: CompletionMode, bytes_max: u32) {
        self.submit(link, Operation::Receive { mode, bytes_max }).unwrap();
    }

    /// Waits until the receive in flight on the link ends without bytes, and returns its end.
    pub(super) fn receive_end(&mut self, link: Link) -> EndReason {
        let before = self.of(link).ends.len();
        self.until("a receive to end", |checker| checker.of(link).ends.len() > before);
        assert!(!self.in_flight(link, OperationKind::Receive));
        self.of(link).ends[before]
    }

    /// Sends a copy of `bytes`.
    pub(super) fn send(&mut self, link: Link, bytes: &[u8]) {
        let chain = self.pool.chain_of(bytes, Owner::SendQueue).unwrap();
        self.submit(link, Operation::Send(chain)).unwrap();
    }

    pub(super) fn close(&mut self, link: Link) {
        self.submit(link, Operation::Close).unwrap();
    }

    pub(super) fn cancel(&mut self, link: Link, kind: OperationKind) {
        self.note(format!("{}: cancel {kind:?}", link.key));
        self.network.port().cancel(link.socket, kind);
        if let Some(in_flight) = self.records.get_mut(&link.key).unwrap().in_flight(kind) {
            in_flight.cancelled = true;
        }
    }

    pub(super) fn shutdown(&mut self, link: Link) {
        self.note(format!("{}: shutdown", link.key));
        self.network.port().shutdown(link.socket);
    }

    /// Dequeues until `condition` holds, or panics with the last completions at the limit.
    pub(super) fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let mut wait_limit = N::wait_limit();
        while !condition(self) {
            if wait_limit.is_over() {
                let log: Vec<_> = self.log.iter().map(String::as_str).collect();
                let (ledger, counters) = (self.pool.ledger(), self.network.port().counters());
                let log = log.join("\n");
                panic!("gave up waiting for {what}\n{ledger:?}\n{counters:?}\nlast:\n{log}");
            }
            self.round(ROUND);
        }
    }

    /// Dequeues once and returns the number of completions.
    pub(super) fn round(&mut self, timeout: Duration) -> usize {
        let mut completions = std::mem::take(&mut self.completions);
        let capacity = completions.capacity();
        self.network.port().dequeue(&mut completions, Some(timeout)).unwrap();
        assert_eq!(completions.capacity(), capacity, "completions stay within the capacity");
        let count = completions.len();
        for completion in completions.drain(..) {
            self.check_completion(completion);
        }
        self.completions = completions;
        let ledger = self.pool.ledger();
        assert_eq!(ledger.total(), self.pool.capacity(), "{ledger:?}");
        assert_eq!(ledger.free, self.pool.free_count(), "{ledger:?}");
        count
    }

    /// Dequeues five times; panics if there is a completion.
    pub(super) fn stays_quiet(&mut self, what: &str) {
        for _ in 0..5 {
            let count = self.round(ROUND);
            assert_eq!(count, 0, "{what}, but there was {:?}", self.log.back());
        }
    }

    pub(super) fn of(&mut self, link: Link) -> &mut Record {
        self.records.get_mut(&link.key).unwrap()
    }

    pub(super) fn in_flight(&mut self, link: Link, kind: OperationKind) -> bool {
        self.of(link).in_flight(kind).is_some()
    }

    /// Waits until the send in flight on the link has ended, and returns it.
    pub(super) fn sent(&mut self, link: Link) -> Sent {
        self.until("a send to be over", |checker| !checker.of(link).sent.is_empty());
        self.of(link).sent.pop_front().unwrap()
    }

    /// Sends all of `bytes`, by several sends if they are short.
    pub(super) fn send_whole(&mut self, link: Link, bytes: &[u8]) {
        self.send(link, bytes);
        let done = self.continue_send(link);
        assert!(done, "a send was continued to its end");
    }

    /// Waits for the send in flight and submits its rest, until all is sent. `false` if it failed.
    fn continue_send(&mut self, link: Link) -> bool {
        loop {
            let Sent { mut chain, sent, end } = self.sent(link);
            if end.is_some() {
                return false;
            }
            chain.advance(sent);
            if chain.is_empty() {
                return true;
            }
            self.submit(link, Operation::Send(chain)).unwrap();
        }
    }

    /// Closes the link and waits until it is closed.
    pub(super) fn close_and_wait(&mut self, link: Link) {
        self.close(link);
        self.until("a link to be closed", |checker| checker.of(link).closed);
    }

    /// The peer writes all of `bytes`, with dequeues in between.
    pub(super) fn peer_writes(&mut self, peer: &mut N::Peer, bytes: &[u8]) {
        let mut written = 0;
        self.until("a peer to write", |_checker| {
            written += peer.try_write(&bytes[written..]);
            written == bytes.len()
        });
    }

    /// The peer reads `len` bytes, with dequeues in between.
    pub(super) fn peer_reads(&mut self, peer: &mut N::Peer, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.until("a peer to read", |_checker| {
            while bytes.len() < len {
                let len_left = len - bytes.len();
                match peer.try_read(&mut bytes, len_left.min(READ_BYTES)) {
                    PeerRead::Bytes(_) => {}
                    PeerRead::WouldBlock => return false,
                    end @ (PeerRead::Eof | PeerRead::Reset) => {
                        panic!("{end:?} after {} of {len} bytes", bytes.len())
                    }
                }
            }
            true
        });
        bytes
    }

    /// The peer reads to the end, with dequeues in between. Returns the bytes and the end.
    pub(super) fn peer_reads_to_end(&mut self, peer: &mut N::Peer) -> (Vec<u8>, PeerRead) {
        let mut bytes = Vec::new();
        let mut end = None;
        self.until("a peer to see the end", |_checker| {
            end = read_to_end(peer, &mut bytes);
            end.is_some()
        });
        (bytes, end.unwrap())
    }

    /// Closes all sockets, and checks that all operations have ended and all buffers are free.
    pub(super) fn finish(mut self) {
        let open: Vec<_> = (self.records.iter())
            .filter(|(_, record)| !record.closing)
            .map(|(key, record)| Link { socket: record.socket.unwrap(), key: *key })
            .collect();
        for link in open {
            self.close(link);
        }
        self.until("all sockets to be closed", |checker| {
            checker.records.values().all(|record| record.closed)
        });
        self.stays_quiet("all sockets are closed");
        assert_eq!(
            self.network.port().counters().stale_completions,
            0,
            "completions of no operation"
        );
        self.drop_port();
    }

    /// Drops the port and all its completions, and checks that all buffers are free.
    pub(super) fn drop_port(self) -> BufferPool {
        let Self { network, pool, records, accepted, completions, .. } = self;
        drop(network);
        drop((records, accepted, completions));
        assert_eq!(pool.free_count(), pool.capacity(), "{:?}", pool.ledger());
        if let Some(large) = pool.large() {
            assert_eq!(large.free_count(), large.capacity(), "large: {:?}", large.ledger());
            overwrite_free_buffers(large);
        }
        overwrite_free_buffers(&pool);
        pool
    }

    /// Drops the port as the last owner of its pool, with its operations in flight, and checks that
    /// the pool was freed.
    pub(super) fn drop_port_and_pool(self) {
        let Self { network, pool, records, accepted, completions, .. } = self;
        let view = pool.ledger_view();
        let large = pool.large().map(|large| large.ledger_view());
        drop((pool, records, accepted, completions));
        assert!(!view.is_last(), "the port has a handle to its pool");
        drop(network);
        assert!(view.is_last(), "the pool was not freed: {view:?}");
        assert!(large.is_none_or(|large| large.is_last()), "the large buffers were not freed");
    }

    fn check_completion(&mut self, completion: Completion<<N::Port as Port>::Stream, u64>) {
        let key = completion.key.0;
        self.note(format!("{key}: {:?}", completion.outcome));
        if let Outcome::Posted(packet) = completion.outcome {
            assert_eq!(key, 0, "a posted packet has key 0");
            self.posted.push(packet);
            return;
        }
        let record = self.records.get_mut(&key).expect("a completion with a key in use");
        assert!(!record.closed, "{:?} under key {key} after Closed", completion.outcome);
        match completion.outcome {
            Outcome::Accepted { stream, peer, last } => {
                record.check_shot(OperationKind::Accept, last, 0);
                self.accepted.push_back((stream, peer));
            }
            Outcome::Received { buffer, last } => {
                record.check_shot(OperationKind::Receive, last, buffer.len());
                assert!(!buffer.is_empty(), "a receive completed with an empty buffer");
                record.received.extend_from_slice(&buffer);
                record.receives += 1;
                self.received_from.push(key);
                if self.keep_buffers {
                    record.buffers.push(buffer);
                }
            }
            Outcome::AcceptEnded(end) => record.check_end(OperationKind::Accept, end),
            Outcome::ReceiveEnded(end) => record.check_end(OperationKind::Receive, end),
            Outcome::Sent { chain, sent, end } => record.take_sent(Sent { chain, sent, end }),
            Outcome::Closed => {
                let in_flight = (record.accept, record.receive, record.send);
                assert!(record.closing, "Closed without a Close");
                assert!(
                    matches!(in_flight, (None, None, None)),
                    "Closed before {in_flight:?} have completed"
                );
                record.closed = true;
            }
            Outcome::Posted(_) => unreachable!("looked at above"),
        }
    }

    fn note(&mut self, line: String) {
        if self.log.len() == LOG_LINES {
            self.log.pop_front();
        }
        self.log.push_back(line);
    }
}

impl Record {
    fn in_flight(&mut self, kind: OperationKind) -> &mut Option<InFlight> {
        match kind {
            OperationKind::Accept => &mut self.accept,
            OperationKind::Receive => &mut self.receive,
            OperationKind::Send => &mut self.send,
            OperationKind::Close => unreachable!("a close is noted apart"),
        }
    }

    /// Checks a completion of an accept with a connection, or of a receive with `len` bytes.
    fn check_shot(&mut self, kind: OperationKind, last: bool, len: usize) {
        let closing = self.closing;
        let Some(in_flight) = self.in_flight(kind) else {
            panic!("{kind:?} completed, but none was in flight");
        };
        in_flight.received += len;
        let in_flight = *in_flight;
        assert!(
            kind == OperationKind::Accept || in_flight.received <= in_flight.len + in_flight.ahead,
            "{in_flight:?} exceeds its limit"
        );
        if in_flight.mode != CompletionMode::Multishot {
            assert!(last, "{in_flight:?} completes once");
        } else if last {
            let has_cause = in_flight.cancelled || closing || in_flight.is_whole();
            assert!(has_cause, "{in_flight:?} ended without a cause");
        } else if kind == OperationKind::Receive && in_flight.ahead == 0 {
            assert!(!in_flight.is_whole(), "{in_flight:?} is at its limit and has not ended");
        }
        if last {
            *self.in_flight(kind) = None;
        }
    }

    /// Checks the end of an accept without a connection, or of a receive without bytes.
    fn check_end(&mut self, kind: OperationKind, end: EndReason) {
        let closing = self.closing;
        let Some(in_flight) = self.in_flight(kind).take() else {
            panic!("{kind:?} ended with {end:?}, but none was in flight");
        };
        let is_zero_byte = kind == OperationKind::Receive && in_flight.len == 0;
        match end {
            EndReason::Cancelled => {
                let reached_its_limit = in_flight.ahead > 0 && in_flight.is_whole();
                let has_cause = in_flight.cancelled || closing || reached_its_limit;
                assert!(has_cause, "{in_flight:?} was not cancelled");
            }
            EndReason::NotReady => {
                assert_eq!(in_flight.mode, CompletionMode::IfReady, "{in_flight:?}")
            }
            EndReason::PeerClosed => assert_eq!(kind, OperationKind::Receive),
            EndReason::Readable => assert!(is_zero_byte, "{in_flight:?} is not of 0 bytes"),
            EndReason::Failed(_) => {}
        }
        self.ends.push(end);
    }

    fn take_sent(&mut self, done: Sent) {
        let closing = self.closing;
        let in_flight = self.send.take().expect("a send completed, but none was in flight");
        assert_eq!(done.chain.len(), in_flight.len, "the chain is returned with all its bytes");
        assert!(done.sent <= in_flight.len, "{done:?}");
        match done.end {
            None => assert!(done.sent > 0, "a send sent nothing and has no end"),
            Some(EndReason::Cancelled) => {
                assert!(in_flight.cancelled || closing, "it was not cancelled")
            }
            Some(EndReason::Failed(_)) => {}
            Some(end) => panic!("{end:?} is no end of a send"),
        }
        if done.end.is_some() {
            assert!(done.sent < in_flight.len, "all was sent, so nothing failed: {done:?}");
        }
        self.sent.push_back(done);
    }
}

impl InFlight {
    /// Whether a receive has reached its limit.
    fn is_whole(&self) -> bool {
        self.received >= self.len
    }
}

/// Reads the bytes that are there; returns the end if it is reached.
pub(super) fn read_to_end(peer: &mut impl Peer, bytes: &mut Vec<u8>) -> Option<PeerRead> {
    loop {
        match peer.try_read(bytes, READ_BYTES) {
            PeerRead::Bytes(_) => {}
            PeerRead::WouldBlock => return None,
            end @ (PeerRead::Eof | PeerRead::Reset) => return Some(end),
        }
    }
}

/// Waits, without a port, until the peer reads the end.
pub(super) fn end_of<N: TestNetwork>(peer: &mut N::Peer) -> (Vec<u8>, PeerRead) {
    let mut wait_limit = N::wait_limit();
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = read_to_end(peer, &mut bytes) {
            return (bytes, end);
        }
        assert!(!wait_limit.is_over(), "the peer has not read the end");
        std::thread::yield_now();
    }
}

/// Acquires every free buffer, writes to it, and releases it.
///
/// In builds with debug assertions the pool thereby checks that no free buffer was written.
pub(super) fn overwrite_free_buffers(pool: &BufferPool) {
    let bytes = vec![0x11; pool.buffer_size_bytes() as usize];
    let mut buffers: Vec<_> = std::iter::from_fn(|| pool.acquire(Owner::Application)).collect();
    for buffer in &mut buffers {
        buffer.append(&bytes);
    }
    assert!(buffers.iter().all(|buffer| **buffer == bytes), "a buffer was written by other code");
}

/// Bytes `from` to `from + len` of the stream with this number. Streams differ from each other, and
/// no part of one repeats within 64 KiB.
pub(super) fn pattern(stream: u64, from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|offset| pattern_byte(stream, offset)).collect()
}

/// Checks that `bytes` are the stream's from `from` on.
pub(super) fn assert_pattern(stream: u64, from: usize, bytes: &[u8]) {
    let differs =
        (bytes.iter().enumerate()).find(|(i, byte)| **byte != pattern_byte(stream, from + i));
    assert!(differs.is_none(), "stream {stream} differs at byte {from} + {differs:?}");
}

fn pattern_byte(stream: u64, offset: usize) -> u8 {
    let mixed = (offset as u64 + (stream << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed.to_be_bytes()[2]
}

/// The listener's key. Those of links count from 1.
const LISTENER: u64 = 1 << 40;

/// The timeout of a dequeue: short, because peers act only between dequeues.
pub(super) const ROUND: Duration = Duration::from_millis(1);

/// The most bytes that a peer reads at once.
const READ_BYTES: usize = 16 * 1024;

/// Lines of the log that a failure shows.
const LOG_LINES: usize = 60;
