//! Promise: a port that is dropped as the last owner of its pool leaves neither memory nor
//! descriptors, whatever is in flight.
//!
//! Method: many ports are dropped one after the other, in a process of its own, which counts its open
//! descriptors and its mapped memory before and after.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod util;

use std::net::{TcpListener, TcpStream};
use std::time::Duration;
use wharf_port::epoll::EpollPort;
use wharf_port::memory::{BufferPool, Owner, PoolConfig};
use wharf_port::port::{CompletionMode, Completions, Key, Operation, Port, PortConfig, PortError};
use wharf_port::shared_port::{SharedConfig, SharedOperation, SharedPort};
use wharf_port::uring::UringPort;

/// 4 MiB.
const POOL: u32 = 2048;
const PORTS: usize = 20;

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn mapped_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn use_and_drop<P>(make: fn(PortConfig, BufferPool) -> Result<P, PortError>)
where
    P: Port<Packet = u64, Stream = TcpStream, Listener = TcpListener>,
{
    let pool = BufferPool::new(PoolConfig::new(POOL)).unwrap();
    let mut port = make(PortConfig::new(8), pool).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _unread = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let link = port.associate(stream, Key(1)).unwrap();
    let listener = port.associate_listener(listener, Key(2)).unwrap();
    let bytes = vec![7; 3 << 20];
    let chain = port.pool().chain_of(&bytes, Owner::SendQueue).unwrap();
    port.submit(link, Operation::Send(chain)).unwrap();
    port.submit(link, Operation::receive(CompletionMode::Multishot)).unwrap();
    port.submit(listener, Operation::Accept(CompletionMode::Multishot)).unwrap();
    let mut completions = Completions::<P>::with_capacity(8);
    port.dequeue(&mut completions, Some(Duration::from_millis(1))).unwrap();
    port.poster().post(1).unwrap();
}

fn use_and_drop_shared() {
    let mut config = SharedConfig::new(2, 8);
    config.pool = PoolConfig::new(POOL / 2);
    let port = SharedPort::<u64>::new(config).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _unread = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    port.associate(listener.accept().unwrap().0, Key(1)).unwrap();
    port.associate_listener(listener, Key(2)).unwrap();
    // The thread ends with operations in flight on both seats.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut worker = port.worker();
            for _ in 0..2 {
                assert!(worker.dequeue(None).unwrap());
                let completion = worker.next_completion().unwrap();
                let operation = match completion.key {
                    Key(1) => SharedOperation::receive(CompletionMode::Multishot),
                    _ => SharedOperation::Accept(CompletionMode::Multishot),
                };
                worker.submit(completion.socket.unwrap(), operation).unwrap();
            }
            assert!(!worker.dequeue(Some(Duration::from_millis(1))).unwrap());
        });
    });
    port.post(1).unwrap();
}

fn leaves_nothing(use_and_drop: impl Fn()) {
    use_and_drop();
    let (descriptors, mapped) = (open_descriptors(), mapped_kib());
    for _ in 0..PORTS {
        use_and_drop();
    }
    assert_eq!(open_descriptors(), descriptors, "descriptors stay");
    let grown = mapped_kib().saturating_sub(mapped);
    assert!(grown < 8 << 10, "{grown} KiB stay of {PORTS} ports with pools of 4 MiB");
}

#[test]
fn a_port_that_is_dropped_as_the_last_owner_of_its_pool_leaves_no_memory_and_no_descriptor() {
    leaves_nothing(|| use_and_drop::<EpollPort<u64>>(EpollPort::new));
    if util::has_uring() {
        leaves_nothing(|| use_and_drop::<UringPort<u64>>(UringPort::new));
    }
    leaves_nothing(use_and_drop_shared);
}
