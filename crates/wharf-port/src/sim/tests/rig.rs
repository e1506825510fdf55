//! A minimal echo server on a simulated port, its clients, and a check of every completion.
//!
//! Every client sends a text of its own. The bytes that the server receives and the client reads
//! must be a prefix of that text, and the whole text unless a fault or the rig has broken the
//! connection. Any deviation from the contract is an `Err`, not a panic, so that a test can report
//! the planted bug that it found.

use super::super::*;
use crate::memory::chain::Chain;
use crate::memory::pool::{BufferPool, PoolConfig};
use crate::port::completion::{Completion, EndReason, Outcome};
use crate::port::contract::{Completions, Port, PortConfig};
use crate::port::operation::{CompletionMode, Key, Operation, OperationKind, Socket};
use std::collections::BTreeMap;
use std::net::SocketAddr;

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

pub(super) type Verdict = Result<(), String>;

/// The configuration of a run.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) world: WorldConfig,
    pub(super) clients: u64,
    pub(super) text_len: usize,
    pub(super) buffers: u32,
    pub(super) provided_max: u32,
    /// The probability that the rig itself cancels, closes, resets or posts after a dequeue, in
    /// millionths.
    pub(super) action_ppm: u32,
    /// Which acquire of a buffer for a receive fails; 0 if none does.
    pub(super) fail_acquire: u32,
}

impl Plan {
    /// No faults.
    pub(super) fn without_faults(seed: u64) -> Self {
        Self {
            world: WorldConfig::new(seed),
            clients: 6,
            text_len: 700,
            buffers: 16,
            provided_max: 8,
            action_ppm: 0,
            fail_acquire: 0,
        }
    }

    /// Random faults of this seed.
    pub(super) fn with_faults(seed: u64) -> Self {
        let mut rng = Rng::new(!seed);
        let mut plan = Self::without_faults(seed);
        plan.world.faults = Faults::random(&mut rng);
        plan.action_ppm = rng.pick(&[0, 10_000, 100_000]);
        plan.clients = 1 + rng.below(10);
        plan.buffers = rng.pick(&[2, 5, 16, 64]);
        plan.provided_max = rng.pick(&[1, 2, 32]);
        plan.world.provides_buffers = rng.below(2) == 0;
        plan.text_len = rng.pick(&[1, 63, 64, 65, 700]);
        plan
    }
}

pub(super) struct Rig {
    pub(super) world: World,
    pub(super) port: SimPort<u64>,
    pub(super) pool: BufferPool,
    pub(super) completed: u64,
    pub(super) fail_acquire_left: u32,
    /// Clients that have read all of their text.
    pub(super) whole: u64,
    listener: Socket,
    plan: Plan,
    rng: Rng,
    completions: Completions<SimPort<u64>>,
    links: BTreeMap<u64, Link>,
    next_key: u64,
    clients: Vec<Client>,
    by_address: BTreeMap<SocketAddr, usize>,
    accepting: bool,
    listener_closed: bool,
    stopping: bool,
    posted: u64,
    got: u64,
}

struct Link {
    socket: Socket,
    client: usize,
    received: usize,
    queue: Chain,
    receiving: bool,
    receive_cancelled: bool,
    mode: CompletionMode,
    /// Bytes that the receive may still take.
    bytes_left: usize,
    /// Bytes that it has taken beyond its limit.
    excess: usize,
    /// Bytes of the send in flight.
    sending: Option<usize>,
    ended: bool,
    closing: bool,
}

struct Client {
    handle: Option<SimClient>,
    written: usize,
    read: usize,
    shut: bool,
    over: bool,
    /// The rig or a fault has broken the connection.
    broken: bool,
}

/// The byte at `position` of a client's text.
pub(super) fn pattern_byte(client: usize, position: usize) -> u8 {
    u8::try_from((client * 131 + position * 7 + position / 251) % 256).unwrap()
}

/// One run from beginning to end.
pub(super) fn run(plan: Plan) -> Result<Rig, String> {
    let mut rig = Rig::new(plan);
    rig.run_clients()?;
    Ok(rig)
}

impl Rig {
    fn new(plan: Plan) -> Self {
        let world = World::new(plan.world.clone());
        let config = PoolConfig { buffer_size_bytes: 64, ..PoolConfig::new(plan.buffers) };
        let pool = BufferPool::new(config).unwrap();
        let config = PortConfig { receive_buffers_max: plan.provided_max, ..PortConfig::new(64) };
        let mut port = SimPort::new(&world, config, pool.clone()).unwrap();
        let listener = world.listen(ADDRESS.parse().unwrap()).unwrap();
        let listener = port.associate_listener(listener, Key(0)).unwrap();
        pool.fail_nth_acquire(plan.fail_acquire);
        Self {
            world,
            port,
            pool,
            completed: 0,
            fail_acquire_left: 0,
            whole: 0,
            listener,
            rng: Rng::new(plan.world.seed ^ 0x5EED),
            plan,
            completions: Vec::with_capacity(8),
            links: BTreeMap::new(),
            next_key: 1,
            clients: Vec::new(),
            by_address: BTreeMap::new(),
            accepting: false,
            listener_closed: false,
            stopping: false,
            posted: 0,
            got: 0,
        }
    }

    fn run_clients(&mut self) -> Verdict {
        self.accept()?;
        for tag in 0..self.plan.clients {
            let handle = self.world.connect(ADDRESS.parse().unwrap(), tag).unwrap();
            self.by_address.insert(handle.address().unwrap(), self.clients.len());
            self.clients.push(Client {
                handle: Some(handle),
                written: 0,
                read: 0,
                shut: false,
                over: false,
                broken: false,
            });
            self.client(self.clients.len() - 1)?;
        }
        self.steps()?;
        // Connections that are not finished wait for bytes that a fault has lost; a server would
        // close them. A client that still waits after that is an error.
        self.world.set_faults(Faults::none());
        self.plan.action_ppm = 0;
        self.close_faulted()?;
        self.steps()?;
        for (index, client) in self.clients.iter().enumerate() {
            let is_whole = client.over || client.broken || self.may_lose_bytes(index);
            ensure!(is_whole, "client {index} got {} of {}", client.read, client.written);
            self.whole += u64::from(client.read == self.plan.text_len);
        }
        for _ in 0..4 {
            self.post();
            self.steps()?;
        }
        ensure!(self.got == self.posted, "{} of {} packets were dequeued", self.got, self.posted);
        let ledger = self.pool.ledger();
        let provided = self.port.provided_buffers();
        ensure!(ledger.kernel_receive == provided, "nothing is there to receive: {ledger:?}");
        self.stop()
    }

    fn stop(&mut self) -> Verdict {
        self.stopping = true;
        self.submit(self.listener, Operation::Close)?;
        for key in self.links.keys().copied().collect::<Vec<_>>() {
            self.close(key)?;
        }
        self.steps()?;
        ensure!(self.listener_closed && !self.accepting, "the listener did not close");
        ensure!(self.links.is_empty(), "{} links did not close", self.links.len());
        self.fail_acquire_left = self.pool.fail_nth_acquire(0);
        self.clients.clear();
        while self.world.advance() {}
        let ledger = self.pool.ledger();
        let released = ledger.free + self.port.provided_buffers();
        ensure!(released == self.pool.capacity(), "not all buffers are free: {ledger:?}");
        ensure!(self.world.connections() == 0, "{} connections", self.world.connections());
        ensure!(self.port.counters().stale_completions == 0, "stale completions");
        Ok(())
    }

    /// Runs until no port is runnable, no client is ready, and the clock does not move.
    fn steps(&mut self) -> Verdict {
        for _ in 0..STEPS_MAX {
            if self.port.is_runnable() {
                self.turn()?;
            } else if let Some(tag) = self.world.next_ready_client() {
                self.client(usize::try_from(tag).unwrap())?;
            } else if !self.world.advance() {
                return Ok(());
            }
        }
        Err(format!("no end after {STEPS_MAX} steps"))
    }

    fn turn(&mut self) -> Verdict {
        let mut completions = std::mem::take(&mut self.completions);
        self.port.dequeue(&mut completions, None).unwrap();
        ensure!(completions.len() <= 8, "more completions than the capacity");
        for completion in completions.drain(..) {
            self.completed += 1;
            self.handle(completion)?;
        }
        self.completions = completions;
        let ledger = self.pool.ledger();
        ensure!(ledger.total() == self.pool.capacity(), "{ledger:?}");
        ensure!(
            ledger.free == self.pool.free_count(),
            "{ledger:?}, {} free",
            self.pool.free_count()
        );
        if self.rng.chance_ppm(self.plan.action_ppm) {
            self.random_action()?;
        }
        Ok(())
    }

    fn handle(&mut self, completion: Completion<SimStream, u64>) -> Verdict {
        let key = completion.key.0;
        match completion.outcome {
            Outcome::Posted(packet) => {
                ensure!(packet == self.got && key == 0, "packet {packet} after {}", self.got);
                self.got += 1;
                Ok(())
            }
            Outcome::Accepted { stream, peer, last } => {
                ensure!(self.accepting, "a connection without an accept");
                self.accepting = !last;
                self.open(stream, peer)?;
                if last { self.accept() } else { Ok(()) }
            }
            Outcome::AcceptEnded(_) => {
                ensure!(self.accepting, "an accept ended twice");
                self.accepting = false;
                if self.stopping { Ok(()) } else { self.accept() }
            }
            Outcome::Closed if key == 0 => {
                ensure!(!self.accepting && !self.listener_closed, "the listener closed wrongly");
                self.listener_closed = true;
                Ok(())
            }
            Outcome::Closed => {
                let Some(link) = self.links.remove(&key) else {
                    return Err(format!("{key} closed twice"));
                };
                ensure!(link.closing, "{key} closed by itself");
                ensure!(!link.receiving && link.sending.is_none(), "{key} closed too early");
                Ok(())
            }
            Outcome::Received { buffer, last } => {
                self.received(key, &buffer, last)?;
                let Some(link) = self.links.get_mut(&key) else { return Ok(()) };
                if !link.closing {
                    ensure!(link.queue.push(&self.pool, buffer).is_ok(), "no entry for a buffer");
                    self.send(key)?;
                }
                self.receive(key)
            }
            Outcome::ReceiveEnded(end) => self.receive_ended(key, end),
            Outcome::Sent { chain, sent, end } => self.sent(key, chain, sent, end),
        }
    }

    fn open(&mut self, stream: SimStream, peer: SocketAddr) -> Verdict {
        let client = self.by_address[&peer];
        let Ok(socket) = self.port.associate(stream, Key(self.next_key)) else {
            return Err("the table is full".into());
        };
        let link = Link {
            socket,
            client,
            received: 0,
            queue: Chain::new(),
            receiving: false,
            receive_cancelled: false,
            mode: CompletionMode::Multishot,
            bytes_left: 0,
            excess: 0,
            sending: None,
            ended: false,
            closing: false,
        };
        self.links.insert(self.next_key, link);
        self.next_key += 1;
        self.receive(self.next_key - 1)
    }

    fn received(&mut self, key: u64, bytes: &[u8], last: bool) -> Verdict {
        let Some(link) = self.links.get_mut(&key) else {
            return Err(format!("bytes for {key}, which is closed"));
        };
        ensure!(link.receiving, "{key} received without a receive");
        ensure!(!bytes.is_empty(), "{key} received nothing");
        for byte in bytes {
            let expected = pattern_byte(link.client, link.received);
            ensure!(*byte == expected, "{key} byte {} is {byte}", link.received);
            link.received += 1;
        }
        let written = self.clients[link.client].written;
        ensure!(link.received <= written, "{key}: {} of {written} bytes", link.received);
        link.excess += bytes.len().saturating_sub(link.bytes_left);
        link.bytes_left = link.bytes_left.saturating_sub(bytes.len());
        let may_exceed = self.plan.world.provides_buffers && link.mode == CompletionMode::Multishot;
        let excess_max =
            if may_exceed { 64 * self.port.provided_buffers_max() as usize } else { 0 };
        ensure!(link.excess <= excess_max, "{key} received {} too many", link.excess);
        let is_over = link.mode != CompletionMode::Multishot || link.bytes_left == 0;
        ensure!(!is_over || last || may_exceed, "{key} goes on");
        let may_end = is_over || link.receive_cancelled || link.closing;
        ensure!(!last || may_end, "{key} ended by itself");
        link.receiving = !last;
        Ok(())
    }

    fn receive_ended(&mut self, key: u64, end: EndReason) -> Verdict {
        let Some(link) = self.links.get_mut(&key) else {
            return Err(format!("a receive of {key} ended, which is closed"));
        };
        ensure!(link.receiving, "{key} ended a receive twice");
        link.receiving = false;
        let client = &self.clients[link.client];
        match end {
            EndReason::PeerClosed => {
                let broken =
                    client.broken || client.handle.as_ref().is_none_or(SimClient::may_lose_bytes);
                ensure!(client.shut || broken, "{key}: an end too early");
                let all = broken || link.received == client.written;
                ensure!(all, "{key}: an end after {} bytes", link.received);
                link.ended = true;
                self.finish_if_done(key)
            }
            EndReason::Cancelled => {
                let asked = link.receive_cancelled || link.closing;
                ensure!(asked, "{key}: it was not cancelled");
                self.receive(key)
            }
            EndReason::Failed(_) => {
                self.clients[link.client].broken = true;
                self.close(key)
            }
            EndReason::NotReady => Err(format!("{key}: not asked to be ready")),
            EndReason::Readable => {
                ensure!(link.bytes_left == 0, "{key}: not asked whether there is something");
                let written = self.clients[link.client].written;
                ensure!(link.received < written, "{key}: there is nothing");
                self.receive(key)
            }
        }
    }

    fn sent(&mut self, key: u64, mut chain: Chain, sent: usize, end: Option<EndReason>) -> Verdict {
        let Some(link) = self.links.get_mut(&key) else {
            return Err(format!("a send of {key} ended, which is closed"));
        };
        ensure!(link.sending.take() == Some(chain.len()), "{key}: not what was sent");
        ensure!(sent <= chain.len(), "{key}: sent {sent} of {}", chain.len());
        let whole = sent == chain.len();
        ensure!(!whole || end.is_none(), "{key}: all was sent, and {end:?}");
        ensure!(sent > 0 || end.is_some(), "{key}: a short send of nothing");
        if let Some(EndReason::Failed(_)) = end {
            self.clients[link.client].broken = true;
            return self.close(key);
        }
        chain.advance(sent);
        chain.append_chain(std::mem::take(&mut link.queue));
        link.queue = chain;
        self.send(key)?;
        self.finish_if_done(key)
    }

    /// Closes the link if the peer has ended and all is sent.
    fn finish_if_done(&mut self, key: u64) -> Verdict {
        let link = &self.links[&key];
        let is_done = link.ended && link.sending.is_none() && link.queue.is_empty();
        if is_done && !link.closing {
            self.port.shutdown(link.socket);
            return self.close(key);
        }
        Ok(())
    }

    fn accept(&mut self) -> Verdict {
        self.accepting = true;
        self.submit(self.listener, Operation::Accept(CompletionMode::Multishot))
    }

    fn receive(&mut self, key: u64) -> Verdict {
        let Some(link) = self.links.get_mut(&key) else { return Ok(()) };
        if link.receiving || link.closing || link.ended {
            return Ok(());
        }
        (link.receiving, link.receive_cancelled) = (true, false);
        let socket = link.socket;
        let mut receive = (CompletionMode::Multishot, u32::MAX);
        if self.plan.action_ppm > 0 {
            let mode = self.rng.pick(&[
                CompletionMode::Multishot,
                CompletionMode::Multishot,
                CompletionMode::Oneshot,
            ]);
            receive = (mode, self.rng.pick(&[0, 1, 64, 100, u32::MAX]));
        }
        let (mode, bytes_max) = receive;
        (link.mode, link.bytes_left, link.excess) = (mode, bytes_max as usize, 0);
        self.submit(socket, Operation::Receive { mode, bytes_max })
    }

    fn send(&mut self, key: u64) -> Verdict {
        let Some(link) = self.links.get_mut(&key) else { return Ok(()) };
        if link.sending.is_some() || link.closing || link.queue.is_empty() {
            return Ok(());
        }
        let chain = std::mem::take(&mut link.queue);
        link.sending = Some(chain.len());
        let socket = link.socket;
        self.submit(socket, Operation::Send(chain))
    }

    fn close(&mut self, key: u64) -> Verdict {
        let Some(link) = self.links.get_mut(&key) else { return Ok(()) };
        if std::mem::replace(&mut link.closing, true) {
            return Ok(());
        }
        drop(std::mem::take(&mut link.queue));
        let socket = link.socket;
        self.submit(socket, Operation::Close)
    }

    fn submit(&mut self, socket: Socket, operation: Operation) -> Verdict {
        self.port.submit(socket, operation).map_err(|error| error.to_string())
    }

    /// The client reads and writes until both block.
    fn client(&mut self, index: usize) -> Verdict {
        let faulted = self.may_lose_bytes(index);
        let text_len = self.plan.text_len;
        let client = &mut self.clients[index];
        let Some(handle) = client.handle.as_mut() else { return Ok(()) };
        let mut target = [0; 100];
        loop {
            match handle.try_read(&mut target) {
                Ok(0) => {
                    let whole = client.read == client.written && client.shut;
                    ensure!(whole || client.broken || faulted, "client {index}: an early end");
                    client.over = true;
                    break;
                }
                Ok(count) => {
                    for byte in &target[..count] {
                        let wrong = *byte != pattern_byte(index, client.read);
                        ensure!(!wrong, "client {index}: byte {} is {byte}", client.read);
                        client.read += 1;
                    }
                    ensure!(client.read <= client.written, "client {index}: more than it sent");
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    ensure!(client.broken || faulted, "client {index}: {error}");
                    client.over = true;
                    break;
                }
            }
        }
        while client.written < text_len {
            let len = (text_len - client.written).min(100);
            let text: Vec<u8> = (client.written..client.written + len)
                .map(|position| pattern_byte(index, position))
                .collect();
            match handle.try_write(&text) {
                Ok(count) => client.written += count,
                Err(_) => break,
            }
        }
        if client.read == text_len && !std::mem::replace(&mut client.shut, true) {
            handle.shutdown_write();
        }
        Ok(())
    }

    /// A random action that a server or a client may take at any time.
    fn random_action(&mut self) -> Verdict {
        let keys: Vec<u64> = self.links.keys().copied().collect();
        match self.rng.below(8) {
            0..3 if !keys.is_empty() => {
                let key = self.rng.pick(&keys);
                // New bytes race the cancel.
                self.client(self.links[&key].client)?;
                let link = self.links.get_mut(&key).unwrap();
                link.receive_cancelled = true;
                self.port.cancel(link.socket, OperationKind::Receive);
            }
            3 if !keys.is_empty() => {
                let link = &self.links[&self.rng.pick(&keys)];
                self.port.cancel(link.socket, OperationKind::Send);
            }
            4 if !keys.is_empty() => {
                let key = self.rng.pick(&keys);
                let client = self.links[&key].client;
                self.clients[client].broken = true;
                return self.close(key);
            }
            5 => {
                let client = self.rng.below_len(self.clients.len());
                self.clients[client].broken = true;
                if let Some(handle) = self.clients[client].handle.take() {
                    handle.reset();
                }
            }
            6 => self.port.cancel(self.listener, OperationKind::Accept),
            _ => self.post(),
        }
        Ok(())
    }

    fn post(&mut self) {
        let poster = self.port.poster();
        for _ in 0..1 + self.rng.below(20) {
            poster.post(self.posted).unwrap();
            self.posted += 1;
            if self.rng.below(2) == 0 {
                break;
            }
        }
    }

    fn close_faulted(&mut self) -> Verdict {
        for key in self.links.keys().copied().collect::<Vec<_>>() {
            let client = self.links[&key].client;
            if self.may_lose_bytes(client) || self.clients[client].broken {
                self.close(key)?;
            }
        }
        Ok(())
    }

    fn may_lose_bytes(&self, index: usize) -> bool {
        self.clients[index].handle.as_ref().is_none_or(SimClient::may_lose_bytes)
    }
}

pub(super) const ADDRESS: &str = "127.0.0.1:7";
const STEPS_MAX: u32 = 200_000;
