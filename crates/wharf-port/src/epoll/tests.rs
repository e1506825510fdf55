//! Properties of this back end only: edge-triggered events, partial sends, the queues. Real sockets
//! on loopback; every wait has a deadline.

use super::EpollPort;
use crate::memory::chain::Chain;
use crate::memory::ledger::Owner;
use crate::memory::pool::{BufferPool, PoolConfig};
use crate::port::completion::{Completion, EndReason, Outcome};
use crate::port::contract::{Completions, Port, PortConfig};
use crate::port::operation::{
    CompletionMode, Key, Operation, OperationKind, Socket, SubmitErrorKind,
};
use rustix::net::{SendFlags, sockopt};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

type TestPort = EpollPort<u32>;
type TestOutcome = Outcome<TcpStream, u32>;

const SIZE: usize = 2048;
const DEADLINE: Duration = Duration::from_secs(20);

fn port(sockets: u32, buffers: u32) -> TestPort {
    let pool = BufferPool::new(PoolConfig::new(buffers)).unwrap();
    EpollPort::new(PortConfig::new(sockets), pool).unwrap()
}

/// A connection: the port's side, and the peer.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    peer.set_nodelay(true).unwrap();
    peer.set_read_timeout(Some(DEADLINE)).unwrap();
    (ours, peer)
}

/// Dequeues until `done` returns true for a completion.
fn run(
    port: &mut TestPort,
    mut done: impl FnMut(&mut TestPort, Completion<TcpStream, u32>) -> bool,
) {
    let mut completions = Completions::<TestPort>::with_capacity(8);
    let start = port.now();
    loop {
        port.dequeue(&mut completions, Some(Duration::from_secs(1))).unwrap();
        let mut is_done = false;
        for completion in completions.drain(..) {
            is_done |= done(port, completion);
        }
        if is_done {
            return;
        }
        assert!(port.now().duration_since(start) < DEADLINE, "{port:?}");
    }
}

/// The next completion; there must be only one in the port.
fn next(port: &mut TestPort) -> (Key, TestOutcome) {
    let mut next = None;
    run(port, |_, completion| {
        assert!(next.is_none(), "after {next:?}: {completion:?}");
        next = Some((completion.key, completion.outcome));
        true
    });
    next.unwrap()
}

/// Dequeues nothing twice, because every second dequeue may omit `epoll_wait`.
fn assert_quiet(port: &mut TestPort) {
    let mut completions = Completions::<TestPort>::with_capacity(8);
    for _ in 0..2 {
        port.dequeue(&mut completions, Some(Duration::ZERO)).unwrap();
        assert!(completions.is_empty(), "{completions:?}");
    }
}

fn receive(port: &mut TestPort, socket: Socket, mode: CompletionMode) {
    port.submit(socket, Operation::receive(mode)).unwrap();
}

fn chain(port: &TestPort, data: &[u8]) -> Chain {
    port.pool().chain_of(data, Owner::SendQueue).unwrap()
}

/// Bytes in which a comparison finds a lost, repeated or moved part.
fn pattern(len: usize) -> Vec<u8> {
    (0_u32..).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).take(len).collect()
}

#[test]
fn what_is_behind_a_full_buffer_is_received_without_another_edge() {
    let mut port = port(1, 4);
    let (ours, mut peer) = pair();
    let sent = pattern(2 * SIZE + 5);
    peer.write_all(&sent).unwrap();
    let socket = port.associate(ours, Key(1)).unwrap();
    receive(&mut port, socket, CompletionMode::Multishot);
    let mut got = Vec::new();
    run(&mut port, |_, completion| {
        let Outcome::Received { buffer, last: false } = completion.outcome else { panic!() };
        got.extend_from_slice(&buffer);
        got.len() == sent.len()
    });
    assert_eq!(got, sent);
    assert_quiet(&mut port);
    // Exactly one full buffer: no bytes after it, and the next byte is a new event.
    peer.write_all(&sent[..SIZE]).unwrap();
    assert!(matches!(next(&mut port).1, Outcome::Received { buffer, .. } if buffer.len() == SIZE));
    assert_quiet(&mut port);
    peer.write_all(b"x").unwrap();
    assert!(matches!(next(&mut port).1, Outcome::Received { buffer, .. } if *buffer == *b"x"));
}

#[test]
fn the_end_behind_a_short_receive_is_seen_without_another_edge() {
    let mut port = port(1, 4);
    let (ours, mut peer) = pair();
    peer.write_all(b"bye").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let socket = port.associate(ours, Key(1)).unwrap();
    assert_quiet(&mut port);
    receive(&mut port, socket, CompletionMode::Oneshot);
    assert!(matches!(next(&mut port).1, Outcome::Received { last: true, .. }));
    // Every further receive reports the end.
    for mode in [CompletionMode::Oneshot, CompletionMode::Multishot, CompletionMode::IfReady] {
        receive(&mut port, socket, mode);
        assert!(matches!(next(&mut port).1, Outcome::ReceiveEnded(EndReason::PeerClosed)));
    }
}

#[test]
fn bytes_behind_an_urgent_one_are_received() {
    let mut port = port(1, 8);
    let (ours, mut peer) = pair();
    let socket = port.associate(ours, Key(1)).unwrap();
    receive(&mut port, socket, CompletionMode::Multishot);
    peer.write_all(b"before").unwrap();
    rustix::net::send(&peer, b"!", SendFlags::OOB).unwrap();
    peer.write_all(b"behind").unwrap();
    let mut got = Vec::new();
    run(&mut port, |_, completion| {
        let Outcome::Received { buffer, .. } = completion.outcome else { panic!() };
        got.extend_from_slice(&buffer);
        got.ends_with(b"behind")
    });
    assert_eq!(got, b"beforebehind");
    assert_quiet(&mut port);
}

#[test]
fn a_reset_ends_the_receive_once_and_fails_the_send() {
    let mut port = port(1, 4);
    let (ours, peer) = pair();
    let socket = port.associate(ours, Key(1)).unwrap();
    receive(&mut port, socket, CompletionMode::Multishot);
    assert_quiet(&mut port);
    sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
    drop(peer);
    let (_, outcome) = next(&mut port);
    let Outcome::ReceiveEnded(EndReason::Failed(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((error.call(), error.code()), ("recv", libc::ECONNRESET));
    assert_quiet(&mut port);
    let bytes = chain(&port, b"too late");
    port.submit(socket, Operation::Send(bytes)).unwrap();
    let (_, outcome) = next(&mut port);
    let Outcome::Sent { chain, sent: 0, end: Some(EndReason::Failed(error)) } = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((chain.len(), error.call(), error.code()), (8, "send", libc::EPIPE));
}

#[test]
fn if_ready_answers_at_once_and_sees_bytes_whose_edge_is_not_fetched_yet() {
    let mut port = port(1, 4);
    let (ours, mut peer) = pair();
    let socket = port.associate(ours, Key(1)).unwrap();
    receive(&mut port, socket, CompletionMode::IfReady);
    assert!(matches!(next(&mut port).1, Outcome::ReceiveEnded(EndReason::NotReady)));
    peer.write_all(b"now").unwrap();
    receive(&mut port, socket, CompletionMode::IfReady);
    assert!(matches!(next(&mut port).1, Outcome::Received { last: true, .. }));
    receive(&mut port, socket, CompletionMode::IfReady);
    assert!(matches!(next(&mut port).1, Outcome::ReceiveEnded(EndReason::NotReady)));
}

/// A port, a connection on which a send of `len` bytes stops half-way, and the submitted bytes.
fn stuck(len: usize) -> (TestPort, Socket, TcpStream, Vec<u8>) {
    let mut port = port(1, u32::try_from(len.div_ceil(SIZE)).unwrap());
    let (ours, peer) = pair();
    sockopt::set_socket_send_buffer_size(&ours, 4096).unwrap();
    let socket = port.associate(ours, Key(7)).unwrap();
    let data = pattern(len);
    let bytes = chain(&port, &data);
    port.submit(socket, Operation::Send(bytes)).unwrap();
    assert_quiet(&mut port);
    let again = Operation::Send(Chain::new());
    assert_eq!(port.submit(socket, again).unwrap_err().kind, SubmitErrorKind::WrongOperation);
    (port, socket, peer, data)
}

#[test]
fn a_send_that_stopped_half_way_goes_on_when_the_socket_is_writable() {
    let (mut port, _, mut peer, data) = stuck(1 << 20);
    let mut got = vec![0; data.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| peer.read_exact(&mut got).unwrap());
        let (key, outcome) = next(&mut port);
        let Outcome::Sent { chain, sent, end: None } = outcome else { panic!("{outcome:?}") };
        assert_eq!((key, sent, chain.len()), (Key(7), data.len(), data.len()));
    });
    assert!(got == data);
    assert_eq!(port.pool().free_count(), port.pool().capacity());
}

#[test]
fn a_cancelled_send_says_what_was_sent() {
    let (mut port, socket, mut peer, data) = stuck(4 << 20);
    port.cancel(socket, OperationKind::Send);
    port.cancel(socket, OperationKind::Send);
    let (_, outcome) = next(&mut port);
    let Outcome::Sent { chain, sent, end: Some(EndReason::Cancelled) } = outcome else { panic!() };
    assert_eq!(chain.len(), data.len());
    port.submit(socket, Operation::Close).unwrap();
    assert!(matches!(next(&mut port).1, Outcome::Closed));
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert!(got == data[..sent], "{sent} bytes said, {} came", got.len());
}

#[test]
fn a_shutdown_ends_a_send_that_waits_for_the_socket() {
    let (mut port, socket, mut peer, data) = stuck(4 << 20);
    port.shutdown(socket);
    let (_, outcome) = next(&mut port);
    let Outcome::Sent { sent, end: Some(EndReason::Failed(error)), .. } = outcome else { panic!() };
    assert_eq!(error.code(), libc::EPIPE);
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert!(got == data[..sent]);
}

#[test]
fn close_completes_everything_first_and_with_a_capacity_of_one() {
    let (mut port, socket, peer, data) = stuck(4 << 20);
    receive(&mut port, socket, CompletionMode::Multishot);
    port.submit(socket, Operation::Close).unwrap();
    for operation in [Operation::Close, Operation::receive(CompletionMode::Oneshot)] {
        assert_eq!(port.submit(socket, operation).unwrap_err().kind, SubmitErrorKind::Closing);
    }
    let mut completions = Completions::<TestPort>::with_capacity(1);
    let mut outcomes = Vec::new();
    for _ in 0..3 {
        port.dequeue(&mut completions, None).unwrap();
        outcomes.push(completions.pop().unwrap().outcome);
    }
    assert!(matches!(outcomes[0], Outcome::ReceiveEnded(EndReason::Cancelled)));
    let Outcome::Sent { sent, end: Some(EndReason::Cancelled), .. } = &outcomes[1] else {
        panic!()
    };
    assert!(*sent < data.len());
    assert!(matches!(outcomes[2], Outcome::Closed));
    let stale = port.submit(socket, Operation::Close).unwrap_err();
    assert_eq!(stale.kind, SubmitErrorKind::StaleSocket);
    drop(peer);
    assert_quiet(&mut port);
}

#[test]
fn an_ended_operation_is_in_flight_until_it_is_dequeued() {
    let mut port = port(1, 4);
    let (ours, _peer) = pair();
    let socket = port.associate(ours, Key(1)).unwrap();
    receive(&mut port, socket, CompletionMode::Multishot);
    for _ in 0..3 {
        port.cancel(socket, OperationKind::Receive);
        let again = port.submit(socket, Operation::receive(CompletionMode::Multishot)).unwrap_err();
        assert_eq!(again.kind, SubmitErrorKind::AlreadyInFlight);
    }
    port.cancel(socket, OperationKind::Accept);
    assert!(matches!(next(&mut port).1, Outcome::ReceiveEnded(EndReason::Cancelled)));
    receive(&mut port, socket, CompletionMode::Multishot);
    assert_quiet(&mut port);
}

#[test]
fn a_copy_of_a_closed_descriptor_does_not_report_to_the_slot() {
    let mut port = port(1, 4);
    let (ours, mut peer) = pair();
    let copy = ours.try_clone().unwrap();
    let socket = port.associate(ours, Key(1)).unwrap();
    port.submit(socket, Operation::Close).unwrap();
    assert!(matches!(next(&mut port).1, Outcome::Closed));
    peer.write_all(b"late").unwrap();
    let (ours, _peer) = pair();
    port.associate(ours, Key(2)).unwrap();
    assert_quiet(&mut port);
    assert_eq!(port.counters().stale_completions, 0);
    drop(copy);
}

#[test]
fn three_sockets_use_one_buffer_in_fifo_order() {
    let mut port = port(3, 1);
    let mut peers = Vec::new();
    for key in 0..3 {
        let (ours, mut peer) = pair();
        let socket = port.associate(ours, Key(key)).unwrap();
        receive(&mut port, socket, CompletionMode::Multishot);
        peer.write_all(&pattern(3 * SIZE)).unwrap();
        peers.push(peer);
    }
    let mut turns = Vec::new();
    while turns.len() < 9 {
        // The buffer is released before the next dequeue, which must not sleep.
        let (Key(key), Outcome::Received { last: false, .. }) = next(&mut port) else { panic!() };
        turns.push(key);
    }
    let first = &turns[..3];
    assert_eq!(turns, [first, first, first].concat(), "in the order in which they began to wait");
    assert!(port.counters().buffer_waits >= 3);
    assert_quiet(&mut port);
    assert_eq!(port.pool().free_count(), 1);
}

#[test]
fn closed_sockets_do_not_fill_the_queue_for_buffers() {
    let mut port = port(2, 1);
    let held = port.pool().acquire(Owner::Application).unwrap();
    for _ in 0..20 {
        let (ours, mut peer) = pair();
        peer.write_all(b"x").unwrap();
        let socket = port.associate(ours, Key(1)).unwrap();
        receive(&mut port, socket, CompletionMode::Multishot);
        while !port.supply.has_waiters() {
            assert_quiet(&mut port);
        }
        port.submit(socket, Operation::Close).unwrap();
        run(&mut port, |_, completion| matches!(completion.outcome, Outcome::Closed));
    }
    assert!(!port.supply.has_waiters());
    drop(held);
    assert_quiet(&mut port);
}

#[test]
fn posts_wake_a_sleeper_and_lose_nothing() {
    let mut port = port(1, 1);
    let posters: Vec<_> = (0..3).map(|_| port.poster()).collect();
    let mut seen = Vec::new();
    std::thread::scope(|scope| {
        for (name, poster) in (0..).zip(posters) {
            scope.spawn(move || {
                for n in 0..1000 {
                    let mut packet = name * 1000 + n;
                    while let Err(back) = poster.post(packet) {
                        packet = back.into_packet();
                        std::thread::yield_now();
                    }
                }
            });
        }
        run(&mut port, |_, completion| {
            let Outcome::Posted(packet) = completion.outcome else { panic!() };
            seen.push(packet);
            seen.len() == 3000
        });
    });
    seen.sort_unstable();
    assert_eq!(seen, (0..3000).collect::<Vec<_>>());
    let counters = port.counters();
    assert!(counters.wakeups <= counters.waits, "{counters:?}");
}

#[test]
fn a_bare_wake_ends_the_next_wait() {
    let mut port = port(1, 1);
    port.poster().wake();
    let mut completions = Completions::<TestPort>::with_capacity(1);
    port.dequeue(&mut completions, None).unwrap();
    assert!(completions.is_empty());
    std::thread::scope(|scope| {
        let poster = port.poster();
        scope.spawn(move || poster.wake());
        port.dequeue(&mut completions, None).unwrap();
    });
}

#[test]
fn a_socket_that_always_has_work_does_not_keep_the_others_out() {
    let mut port = port(2, 16);
    let (ours, mut reader) = pair();
    let (quiet, mut quiet_peer) = pair();
    let busy = port.associate(ours, Key(1)).unwrap();
    let quiet = port.associate(quiet, Key(2)).unwrap();
    receive(&mut port, quiet, CompletionMode::Multishot);
    std::thread::scope(|scope| {
        scope.spawn(move || std::io::copy(&mut reader, &mut std::io::sink()).unwrap());
        let bytes = chain(&port, &[0; 64]);
        port.submit(busy, Operation::Send(bytes)).unwrap();
        quiet_peer.write_all(b"me, too").unwrap();
        let mut rounds = 0;
        run(&mut port, |port, completion| match completion.outcome {
            Outcome::Sent { chain, .. } => {
                rounds += 1;
                port.submit(busy, Operation::Send(chain)).unwrap();
                false
            }
            outcome => matches!(outcome, Outcome::Received { .. }),
        });
        assert!(rounds < 1000, "{rounds} sends before one receive");
        port.submit(busy, Operation::Close).unwrap();
        run(&mut port, |_, completion| matches!(completion.outcome, Outcome::Closed));
    });
}

/// Descriptors are per process, so the test runs itself again in a process with few of them.
#[test]
fn an_accept_without_descriptors_fails_once_and_can_be_tried_again() {
    if std::env::var_os("WHARF_TEST_FEW_FILES").is_none() {
        let name = "epoll::tests::an_accept_without_descriptors_fails_once_and_can_be_tried_again";
        let child = Command::new("sh")
            .args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\""])
            .arg(std::env::current_exe().unwrap())
            .arg(name)
            .env("WHARF_TEST_FEW_FILES", "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let mut port = port(1, 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let _peers: Vec<_> = (0..2).map(|_| TcpStream::connect(address).unwrap()).collect();
    let socket = port.associate_listener(listener, Key(1)).unwrap();
    let held_buffers: Vec<_> =
        std::iter::from_fn(|| File::open("/dev/null").ok()).take(99).collect();
    assert!(held_buffers.len() < 99, "the descriptors must run out");
    for _ in 0..2 {
        port.submit(socket, Operation::Accept(CompletionMode::Multishot)).unwrap();
        let (_, outcome) = next(&mut port);
        let Outcome::AcceptEnded(EndReason::Failed(error)) = outcome else { panic!("{outcome:?}") };
        assert_eq!((error.call(), error.is_exhaustion()), ("accept4", true));
        assert_quiet(&mut port);
    }
    drop(held_buffers);
    port.submit(socket, Operation::Accept(CompletionMode::Oneshot)).unwrap();
    assert!(matches!(next(&mut port).1, Outcome::Accepted { last: true, .. }));
    port.submit(socket, Operation::Accept(CompletionMode::Multishot)).unwrap();
    assert!(matches!(next(&mut port).1, Outcome::Accepted { last: false, .. }));
    assert_quiet(&mut port);
}

/// Each accept fails with an error of a single connection, as under a seccomp filter.
#[test]
fn an_accept_that_always_fails_ends_and_can_be_tried_again() {
    let mut port = port(1, 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let kept = listener.try_clone().unwrap();
    let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = port.associate_listener(listener, Key(1)).unwrap();
    // accept(2) on a datagram socket fails with EOPNOTSUPP.
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    port.sockets.get_mut(socket).unwrap().state.fd = datagrams.into();
    for _ in 0..2 {
        port.submit(socket, Operation::Accept(CompletionMode::Multishot)).unwrap();
        let (_, outcome) = next(&mut port);
        let Outcome::AcceptEnded(EndReason::Failed(error)) = outcome else { panic!("{outcome:?}") };
        assert_eq!((error.call(), error.code()), ("accept4", libc::EOPNOTSUPP));
        assert_quiet(&mut port);
    }
    port.sockets.get_mut(socket).unwrap().state.fd = kept.into();
    port.submit(socket, Operation::Accept(CompletionMode::Multishot)).unwrap();
    assert!(matches!(next(&mut port).1, Outcome::Accepted { last: false, .. }));
}

#[test]
fn a_full_table_gives_the_stream_back_and_a_wrong_operation_is_refused() {
    let mut port = port(1, 1);
    let (ours, _peer) = pair();
    let (other, _other_peer) = pair();
    let local = other.local_addr().unwrap();
    let socket = port.associate(ours, Key(1)).unwrap();
    let refused = port.associate(other, Key(2)).unwrap_err();
    assert_eq!((refused.socket.local_addr().unwrap(), refused.error), (local, None));
    for operation in [Operation::Accept(CompletionMode::Multishot), Operation::Send(Chain::new())] {
        let refused = port.submit(socket, operation).unwrap_err();
        assert_eq!(refused.kind, SubmitErrorKind::WrongOperation);
    }
}

/// A minimal echo server on one port.
struct Echo {
    port: TestPort,
    links: Vec<Option<Link>>,
    opened: usize,
    closed: usize,
    /// Sent to when a receive waits for a buffer for the first time.
    on_pause: Option<SyncSender<()>>,
}

struct Link {
    socket: Socket,
    queue: Chain,
    is_sending: bool,
}

impl Echo {
    fn new(links: u32, buffers: u32) -> (Self, SocketAddr) {
        let mut port = port(links + 1, buffers);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let listener = port.associate_listener(listener, Key(u64::MAX)).unwrap();
        port.submit(listener, Operation::Accept(CompletionMode::Multishot)).unwrap();
        (Self { port, links: Vec::new(), opened: 0, closed: 0, on_pause: None }, address)
    }

    /// Serves until `links` links were opened and closed.
    fn serve(&mut self, links: usize) {
        let start = self.port.now();
        let mut completions = Completions::<TestPort>::with_capacity(16);
        while self.closed < links {
            self.port.dequeue(&mut completions, Some(Duration::from_secs(1))).unwrap();
            for completion in completions.drain(..) {
                self.handle(completion);
            }
            if self.port.counters().buffer_waits > 0
                && let Some(pause) = self.on_pause.take()
            {
                pause.send(()).unwrap();
            }
            let waited = self.port.now().duration_since(start);
            assert!(waited < DEADLINE, "{} opened, {} closed", self.opened, self.closed);
        }
        assert_eq!((self.opened, self.closed), (links, links));
        assert_eq!(self.port.sockets.sockets().count(), 1, "the listener");
        assert_eq!(self.port.pool().free_count(), self.port.pool().capacity());
        assert_eq!(self.port.counters().stale_completions, 0);
    }

    fn handle(&mut self, completion: Completion<TcpStream, u32>) {
        let slot = usize::try_from(completion.key.0).unwrap();
        match completion.outcome {
            Outcome::Accepted { stream, last: false, .. } => {
                // Small, so that sends block soon when the peer does not read.
                sockopt::set_socket_send_buffer_size(&stream, 16 << 10).unwrap();
                let key = Key(self.links.len() as u64);
                let socket = self.port.associate(stream, key).unwrap();
                receive(&mut self.port, socket, CompletionMode::Multishot);
                self.links.push(Some(Link { socket, queue: Chain::new(), is_sending: false }));
                self.opened += 1;
            }
            Outcome::Received { buffer, last: false } => {
                let link = self.links[slot].as_mut().unwrap();
                link.queue.push(self.port.pool(), buffer).unwrap();
                self.flush(slot);
            }
            Outcome::Sent { chain, sent, end: None } => {
                assert_eq!(sent, chain.len());
                self.links[slot].as_mut().unwrap().is_sending = false;
                self.flush(slot);
            }
            Outcome::ReceiveEnded(EndReason::PeerClosed) => {
                let socket = self.links[slot].as_ref().unwrap().socket;
                self.port.submit(socket, Operation::Close).unwrap();
            }
            Outcome::Closed => {
                assert!(self.links[slot].take().is_some());
                self.closed += 1;
            }
            other => panic!("{other:?}"),
        }
    }

    fn flush(&mut self, slot: usize) {
        let link = self.links[slot].as_mut().unwrap();
        if !link.is_sending && !link.queue.is_empty() {
            let chain = std::mem::take(&mut link.queue);
            self.port.submit(link.socket, Operation::Send(chain)).unwrap();
            link.is_sending = true;
        }
    }
}

#[test]
fn echo_of_eight_mib_to_a_slow_reader() {
    // 64 buffers hold 128 KiB of the 8 MiB, so receives wait for buffers.
    let (mut echo, address) = Echo::new(1, 64);
    let data = pattern(8 << 20);
    std::thread::scope(|scope| {
        let mut reader = TcpStream::connect(address).unwrap();
        let mut writer = reader.try_clone().unwrap();
        let (data, (sender, pause)) = (&data, sync_channel(1));
        echo.on_pause = Some(sender);
        scope.spawn(move || writer.write_all(data).unwrap());
        scope.spawn(move || {
            pause.recv().unwrap();
            let mut got = vec![0; data.len()];
            for piece in got.chunks_mut(4096) {
                reader.read_exact(piece).unwrap();
                std::thread::yield_now();
            }
            assert!(got == *data);
            reader.shutdown(Shutdown::Both).unwrap();
        });
        echo.serve(1);
    });
    assert!(echo.on_pause.is_none());
}

#[test]
fn two_hundred_links_come_and_go() {
    let (mut echo, address) = Echo::new(3, 8);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for n in 0_u32..200 {
                let mut peer = TcpStream::connect(address).unwrap();
                let message = pattern(n as usize * 37 + 1);
                peer.write_all(&message).unwrap();
                let mut got = vec![0; message.len()];
                peer.read_exact(&mut got).unwrap();
                assert_eq!(got, message);
            }
        });
        echo.serve(200);
    });
}
