//! The nine steps of a completion port: an echo server on the port without `wharf`.
//!
//! The comments name the Win32 call of each step, which is what runs on Windows; on Linux it is
//! io_uring, or epoll where io_uring is not available. The server of `wharf` does these steps for
//! its handlers.

#![expect(clippy::print_stdout, reason = "a program that prints its address")]

use std::error::Error;
use std::net::TcpListener;
use wharf_port::SystemPort;
use wharf_port::memory::{BufferPool, Owner, PoolConfig};
use wharf_port::port::{CompletionMode, Key, Operation, Outcome, Port, PortConfig, Socket};

const LINKS: u32 = 1000;
const LISTENER: Key = Key(u64::MAX);

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9527".to_owned());

    // Step 1: create the port. CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 0)
    // This allocates all buffers and tables, too.
    let pool = BufferPool::new(PoolConfig::new(4 * LINKS))?;
    let mut port = SystemPort::<()>::new(PortConfig::new(LINKS + 1), pool.clone())?;

    // Steps 2 and 3: as many threads as cores, each in GetQueuedCompletionStatus. Here a port stays
    // on one thread, so this program has one of each. GetSystemInfo, CreateThread
    let mut completions = Vec::with_capacity(256);

    // Step 4: a listening socket. WSASocket, bind, listen
    let listener = TcpListener::bind(address)?;
    println!("{} on {}: try nc", port.name(), listener.local_addr()?);
    let listener = port.associate_listener(listener, LISTENER)?;

    // Step 5: accept, multishot: until the port is dropped. AcceptEx
    port.submit(listener, Operation::Accept(CompletionMode::Multishot))?;

    // Per-handle data: the state of each socket. The key of a completion identifies the socket; here
    // it is the index in this table. PER_HANDLE_DATA
    let mut sockets: Vec<Option<Socket>> = vec![None; LINKS as usize];

    loop {
        // Wait for completions, several at a time. GetQueuedCompletionStatusEx(..., INFINITE)
        port.dequeue(&mut completions, None)?;
        for completion in completions.drain(..) {
            let index = usize::try_from(completion.key.0).unwrap_or(usize::MAX);
            let socket = sockets.get(index).copied().flatten();
            match completion.outcome {
                Outcome::Accepted { stream, .. } => {
                    // Step 6: a free slot for its data; without one the connection is dropped here.
                    let free = sockets.iter().position(Option::is_none);
                    let Some(index) = free else { continue };
                    // Step 7: associate it with the port, under a key of its own.
                    // CreateIoCompletionPort(Accept, CompletionPort, PerHandleData, 0)
                    let socket = port.associate(stream, Key(index as u64))?;
                    sockets[index] = Some(socket);
                    // Step 8: the first operation. WSARecv
                    // The port has the per-operation data: the OVERLAPPED and the buffer.
                    port.submit(socket, Operation::receive(CompletionMode::Oneshot))?;
                }
                Outcome::Received { buffer, .. } => {
                    // Send the bytes back. WSASend
                    let echo = pool.chain_of(&buffer, Owner::SendQueue)?;
                    if let Some(socket) = socket {
                        port.submit(socket, Operation::Send(echo))?;
                    }
                }
                Outcome::Sent { mut chain, sent, end: None } => {
                    // A short send is continued; after a whole one the next receive is posted.
                    chain.advance(sent);
                    let Some(socket) = socket else { continue };
                    let all = chain.is_empty();
                    let receive = Operation::receive(CompletionMode::Oneshot);
                    port.submit(socket, if all { receive } else { Operation::Send(chain) })?;
                }
                Outcome::Sent { .. } | Outcome::ReceiveEnded(_) => {
                    // The connection has ended. The close completes when no operation is in flight,
                    // so that no OVERLAPPED and no buffer is freed too early. closesocket, and wait
                    if let Some(socket) = socket {
                        port.submit(socket, Operation::Close)?;
                    }
                }
                Outcome::Closed => sockets[index] = None,
                Outcome::AcceptEnded(end) => return Err(format!("accept: {end:?}").into()),
                // A packet of another thread, for example to end this one.
                // PostQueuedCompletionStatus
                Outcome::Posted(()) => return Ok(()),
                _ => {}
            }
        }
        // Step 9: repeat.
    }
}
