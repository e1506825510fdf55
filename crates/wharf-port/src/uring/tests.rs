//! What only this back end has to prove; the promises of every port are tested in `conformance`.

use super::{UringPort, probe};
use crate::memory::{BufferPool, Owner, PoolConfig};
use crate::port::{Completions, Key, Operation, Outcome, Port, PortConfig, Shots};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// A port with one accepted link, and the other end of the link. `None`, with a line that says why,
/// where io_uring is refused.
fn linked(pool: &BufferPool) -> Option<(UringPort<u64>, crate::port::Socket, TcpStream)> {
    if let Err(error) = probe() {
        println!("skipped, because {error}");
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
    assert!(chain.entries() as usize > super::vectors::VECTORS_MAX);
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
    assert_eq!(pool.free(), 256);
}

#[test]
fn a_receive_of_many_shots_keeps_one_operation_in_the_kernel() {
    let pool = BufferPool::new(PoolConfig::new(64)).unwrap();
    let Some((mut port, socket, mut peer)) = linked(&pool) else { return };
    port.submit(socket, Operation::receive(Shots::Many)).unwrap();
    for round in 0..50 {
        peer.write_all(&[round; 10]).unwrap();
        let Outcome::Received { buffer, last: false } = next(&mut port) else { panic!("{port:?}") };
        assert_eq!(&*buffer, [round; 10]);
        assert_eq!(port.in_kernel, 1);
    }
    drop(peer);
    assert!(matches!(next(&mut port), Outcome::ReceiveEnded(crate::port::End::PeerClosed)));
    assert_eq!(port.in_kernel, 0);
}
