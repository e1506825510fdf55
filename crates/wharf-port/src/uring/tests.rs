//! Properties of this back end only; `conformance` tests the promises of every port.

use super::{Stage, UringPort};

use super::setup::probe;
use crate::conformance::network::lacks;
use crate::memory::ledger::Owner;
use crate::memory::pool::{BufferPool, PoolConfig};
use crate::port::completion::{EndReason, Outcome};
use crate::port::contract::{Completions, Port, PortConfig};
use crate::port::operation::{CompletionMode, Key, Operation};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

/// A port with one connection, and the connection's peer. `None` if io_uring is not available; then
/// it prints the reason.
fn linked(pool: &BufferPool) -> Option<(UringPort<u64>, crate::port::Socket, TcpStream)> {
    if let Err(error) = probe() {
        lacks(&error.to_string());
        return None;
    }
    let mut port = UringPort::new(PortConfig::new(8), pool.clone()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let peer = TcpStream::connect(address).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let socket = port.associate(stream, Key(7)).unwrap();
    Some((port, socket, peer))
}

fn next(port: &mut UringPort<u64>) -> Outcome<TcpStream, u64> {
    let mut completions = Completions::<UringPort<u64>>::with_capacity(1);
    for _ in 0..1000 {
        port.dequeue(&mut completions, Some(Duration::from_millis(10))).unwrap();
        if let Some(completion) = completions.pop() {
            return completion.outcome;
        }
    }
    panic!("nothing completed in 10 s: {port:?}");
}

#[test]
fn a_chain_of_many_buffers_leaves_as_vectored_sends() {
    let pool = BufferPool::new(PoolConfig::new(256)).unwrap();
    let Some((mut port, socket, mut peer)) = linked(&pool) else { return };
    let bytes: Vec<u8> = (0..200_u32 * 1000).map(|i| i.to_le_bytes()[0]).collect();
    let mut chain = pool.chain_of(&bytes, Owner::SendQueue).unwrap();
    assert!(chain.entry_count() as usize > super::vectors::VECTORS_MAX);
    let reader = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut read = vec![0; bytes.len()];
            peer.read_exact(&mut read).unwrap();
            read
        });
        while !chain.is_empty() {
            port.submit(socket, Operation::Send(chain)).unwrap();
            let Outcome::Sent { chain: rest, sent, end: None } = next(&mut port) else {
                panic!("the send failed")
            };
            assert!(sent > 2048, "one buffer at a time is not vectored: {sent}");
            chain = rest;
            chain.advance(sent);
        }
        reader.join().unwrap()
    });
    assert!(reader == bytes, "the bytes differ");
    drop(port);
    assert_eq!(pool.free_count(), 256);
}

/// Attempts fail together when the provided buffers are in completions that were not processed yet.
#[test]
fn attempts_that_fail_in_one_dequeue_keep_their_order() {
    let pool = BufferPool::new(PoolConfig::new(8)).unwrap();
    let Some((mut port, first, peer)) = linked(&pool) else { return };
    let (mut sockets, mut peers) = (vec![first], vec![peer]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for key in 1..4 {
        peers.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (stream, _) = listener.accept().unwrap();
        sockets.push(port.associate(stream, Key(key)).unwrap());
    }
    let mut one = Completions::<UringPort<u64>>::with_capacity(1);
    let mut turn = |port: &mut UringPort<u64>| {
        port.dequeue(&mut one, Some(Duration::ZERO)).unwrap();
        one.pop().map(|completion| (completion.key, completion.outcome))
    };
    // Three sockets that will wait, and one that takes their buffers.
    for socket in &sockets {
        port.submit(*socket, Operation::receive(CompletionMode::Multishot)).unwrap();
    }
    // With one provided buffer, without which the receives would fail at once; then it is filled.
    port.set_receive_buffers(1);
    assert!(turn(&mut port).is_none());
    port.set_receive_buffers(0);
    peers[3].write_all(b"!").unwrap();
    let (Key(3), Outcome::Received { .. }) = turn(&mut port).unwrap() else { panic!("{port:?}") };
    let mut held_buffers: Vec<_> =
        std::iter::from_fn(|| pool.acquire(Owner::Application)).collect();
    for peer in &mut peers[..3] {
        peer.write_all(b"waits").unwrap();
    }
    // A packet fills the vector, so that the three failures stay in the completion queue.
    port.inbox.packets_first_next();
    port.poster().post(1).unwrap();
    let posted = turn(&mut port).unwrap();
    assert!(matches!(posted.1, Outcome::Posted(1)), "{posted:?}");
    assert!(port.waiting.is_empty());
    // The fourth takes four buffers.
    port.set_receive_buffers(4);
    held_buffers.truncate(held_buffers.len() - 4);
    peers[3].write_all(&[7; 4 * 2048]).unwrap();
    let mut kept = vec![turn(&mut port).unwrap()];
    assert_eq!((port.waiting.len(), port.buffer_ring.provided_count()), (3, 3));
    // All three have an attempt in the kernel, and none finds a buffer.
    port.set_receive_buffers(0);
    while kept.len() < 4 {
        kept.push(turn(&mut port).unwrap());
    }
    assert!(turn(&mut port).is_none());
    assert_eq!((port.attempts, port.buffer_ring.provided_count()), (0, 0));
    for socket in &sockets[..3] {
        let receive = port.sockets.get_mut(*socket).unwrap().state.input.unwrap();
        assert_eq!(receive.stage, Stage::WaitingForBuffer);
    }
    assert!(kept.iter().all(|(key, _)| *key == Key(3)), "{kept:?}");
    port.set_receive_buffers(1);
    drop(held_buffers);
    let served: Vec<_> = (0..3)
        .map(|_| {
            loop {
                if let Some((key, _)) = turn(&mut port) {
                    break key;
                }
            }
        })
        .collect();
    assert_eq!(served, [Key(7), Key(1), Key(2)], "the order in which they began to wait");
}

#[test]
fn a_multishot_receive_keeps_one_operation_in_the_kernel() {
    let pool = BufferPool::new(PoolConfig::new(64)).unwrap();
    let Some((mut port, socket, mut peer)) = linked(&pool) else { return };
    port.submit(socket, Operation::receive(CompletionMode::Multishot)).unwrap();
    for round in 0..50 {
        peer.write_all(&[round; 10]).unwrap();
        let Outcome::Received { buffer, last: false } = next(&mut port) else { panic!("{port:?}") };
        assert_eq!(&*buffer, [round; 10]);
        assert_eq!(port.in_kernel, 1);
    }
    drop(peer);
    assert!(matches!(next(&mut port), Outcome::ReceiveEnded(EndReason::PeerClosed)));
    assert_eq!(port.in_kernel, 0);
}

/// A listener whose accept the kernel rejects, as one without multishot accept would.
#[test]
fn one_listener_without_multishot_accept_leaves_the_others_theirs() {
    if let Err(error) = probe() {
        return lacks(&error.to_string());
    }
    let pool = BufferPool::new(PoolConfig::new(8)).unwrap();
    let mut port = UringPort::new(PortConfig::new(8), pool).unwrap();
    let [rejected, accepting] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let address = accepting.local_addr().unwrap();
    let handle = rejected.try_clone().unwrap();
    let rejected = port.associate_listener(rejected, Key(1)).unwrap();
    // Accepts on it now fail with EINVAL.
    rustix::net::shutdown(&handle, rustix::net::Shutdown::Both).unwrap();
    let accept = || Operation::Accept(CompletionMode::Multishot);
    port.submit(rejected, accept()).unwrap();
    let Outcome::AcceptEnded(EndReason::Failed(error)) = next(&mut port) else { panic!() };
    assert_eq!(error.code(), libc::EINVAL);
    let accepting = port.associate_listener(accepting, Key(2)).unwrap();
    port.submit(accepting, accept()).unwrap();
    for _ in 0..3 {
        let _peer = TcpStream::connect(address).unwrap();
        assert!(matches!(next(&mut port), Outcome::Accepted { last: false, .. }));
        assert!(port.ring.submission().is_empty(), "the accept was armed anew");
    }
    // The first one is tried as multishot once, and then no more.
    port.submit(rejected, accept()).unwrap();
    let enters = port.enters;
    assert!(matches!(next(&mut port), Outcome::AcceptEnded(EndReason::Failed(_))));
    assert_eq!(port.enters, enters.wrapping_add(1));
}

/// Each accept fails with an error of a single connection, as under a security module.
#[test]
fn an_accept_that_always_fails_ends_and_can_be_tried_again() {
    if let Err(error) = probe() {
        return lacks(&error.to_string());
    }
    let pool = BufferPool::new(PoolConfig::new(8)).unwrap();
    let mut port = UringPort::new(PortConfig::new(8), pool).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let kept = listener.try_clone().unwrap();
    let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = port.associate_listener(listener, Key(1)).unwrap();
    // An accept on a datagram socket fails with EOPNOTSUPP.
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    port.state_mut(socket).fd = datagrams.into();
    for _ in 0..2 {
        port.submit(socket, Operation::Accept(CompletionMode::Multishot)).unwrap();
        let Outcome::AcceptEnded(EndReason::Failed(error)) = next(&mut port) else { panic!() };
        assert_eq!(error.code(), libc::EOPNOTSUPP);
    }
    port.state_mut(socket).fd = kept.into();
    port.submit(socket, Operation::Accept(CompletionMode::Multishot)).unwrap();
    assert!(matches!(next(&mut port), Outcome::Accepted { last: false, .. }));
}

/// Threads of the kernel that serve this thread's rings; it makes one for each operation that blocks.
fn kernel_threads() -> usize {
    // SAFETY: the call has no condition.
    let thread = unsafe { libc::gettid() };
    let name = format!("iou-wrk-{thread}\n");
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|comm| *comm == name).count()
}

/// 30 peers that read a little at a time, from sockets with small send buffers, each with a send of
/// megabytes in flight.
#[test]
fn slow_peers_of_long_sends_take_no_threads_of_the_kernel() {
    if let Err(error) = probe() {
        return lacks(&error.to_string());
    }
    const PEERS: usize = 30;
    const BUFFER: u32 = 1 << 20;
    const READ_BYTES: usize = 512;
    let config = PoolConfig { buffer_size_bytes: BUFFER, ..PoolConfig::new(2 * 30 + 2) };
    let pool = BufferPool::new(config).unwrap();
    let mut port = UringPort::new(PortConfig::new(64), pool.clone()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let bytes = vec![7; 2 << 20];
    let mut peers: Vec<_> = (0..)
        .map(Key)
        .take(PEERS)
        .map(|key| {
            let peer = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            let peer = peer.unwrap();
            peer.set_recv_buffer_size(2304).unwrap();
            peer.connect(&listener.local_addr().unwrap().into()).unwrap();
            let (stream, _) = listener.accept().unwrap();
            socket2::SockRef::from(&stream).set_send_buffer_size(4608).unwrap();
            let socket = port.associate(stream, key).unwrap();
            let chain = pool.chain_of(&bytes, Owner::SendQueue).unwrap();
            port.submit(socket, Operation::Send(chain)).unwrap();
            peer.set_nonblocking(true).unwrap();
            (socket, TcpStream::from(peer))
        })
        .collect();
    let mut completions = Completions::<UringPort<u64>>::with_capacity(64);
    let mut read = [0; READ_BYTES];
    // The kernel left a send to a thread when it had tried 128 times to send the rest.
    for _ in 0..1_500 {
        for (_, peer) in &mut peers {
            let _none_yet = peer.read(&mut read);
        }
        port.dequeue(&mut completions, Some(Duration::from_millis(1))).unwrap();
        for completion in completions.drain(..) {
            let Outcome::Sent { mut chain, sent, end: None } = completion.outcome else { panic!() };
            chain.advance(sent);
            let socket = peers[usize::try_from(completion.key.0).unwrap()].0;
            if !chain.is_empty() {
                port.submit(socket, Operation::Send(chain)).unwrap();
            }
        }
        assert_eq!(kernel_threads(), 0);
    }
}
