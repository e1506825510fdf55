//! The nine steps of a completion port, by themselves: an echo server on the port alone.
//!
//! The comments name the Win32 calls that each step stands for. On Windows they are what runs; on
//! Linux it is io_uring, or epoll where io_uring is refused. The server in `wharf` does all of
//! this for you; this is how it works below.

#![expect(clippy::print_stdout, reason = "a program that says where it listens")]

use std::error::Error;
use std::net::TcpListener;
use wharf_port::SystemPort;
use wharf_port::memory::{BufferPool, Owner, PoolConfig};
use wharf_port::port::{Key, Operation, Outcome, Port, PortConfig, Shots, Socket};

const LINKS: u32 = 1000;
const LISTENER: Key = Key(u64::MAX);

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9527".to_owned());

    // Step 1: make the port. CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 0)
    // The memory for all that will ever be in flight is taken here, too.
    let pool = BufferPool::new(PoolConfig::new(4 * LINKS))?;
    let mut port = SystemPort::<()>::new(PortConfig::new(LINKS + 1), pool.clone())?;

    // Steps 2 and 3: as many threads as cores, each in GetQueuedCompletionStatus. A port here
    // belongs to one thread, so this program has one of each. GetSystemInfo, CreateThread
    let mut completions = Vec::with_capacity(256);

    // Step 4: a listening socket. WSASocket, bind, listen
    let listener = TcpListener::bind(address)?;
    println!("{} on {}: try nc", port.name(), listener.local_addr()?);
    let listener = port.associate_listener(listener, LISTENER)?;

    // Step 5: accept; this one goes on for as long as the port lives. AcceptEx
    port.submit(listener, Operation::Accept(Shots::Many))?;

    // Per-handle data: what is kept for each socket. The key that comes with each completion says
    // which one is meant; here it is the place in this table. PER_HANDLE_DATA
    let mut sockets: Vec<Option<Socket>> = vec![None; LINKS as usize];

    loop {
        // Wait for completions, several at a time. GetQueuedCompletionStatusEx(..., INFINITE)
        port.dequeue(&mut completions, None)?;
        for completion in completions.drain(..) {
            let place = usize::try_from(completion.key.0).unwrap_or(usize::MAX);
            let socket = sockets.get(place).copied().flatten();
            match completion.outcome {
                Outcome::Accepted { stream, .. } => {
                    // Step 6: a place for its data; without one the connection is dropped here.
                    let free = sockets.iter().position(Option::is_none);
                    let Some(place) = free else { continue };
                    // Step 7: associate it with the port, under a key of its own.
                    // CreateIoCompletionPort(Accept, CompletionPort, PerHandleData, 0)
                    let socket = port.associate(stream, Key(place as u64))?;
                    sockets[place] = Some(socket);
                    // Step 8: the first operation. WSARecv
                    // Per-operation data, the OVERLAPPED and the buffer behind it, is the port's.
                    port.submit(socket, Operation::receive(Shots::One))?;
                }
                Outcome::Received { buffer, .. } => {
                    // Send back what came. WSASend
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
                    let receive = Operation::receive(Shots::One);
                    port.submit(socket, if all { receive } else { Operation::Send(chain) })?;
                }
                Outcome::Sent { .. } | Outcome::ReceiveEnded(_) => {
                    // The peer is gone. Close says when nothing is in flight any more, so that no
                    // OVERLAPPED and no buffer is freed too early. closesocket, and wait
                    if let Some(socket) = socket {
                        port.submit(socket, Operation::Close)?;
                    }
                }
                Outcome::Closed => sockets[place] = None,
                Outcome::AcceptEnded(end) => return Err(format!("accept: {end:?}").into()),
                // What another thread posts, to end this one for example.
                // PostQueuedCompletionStatus
                Outcome::Posted(()) => return Ok(()),
                _ => {}
            }
        }
        // Step 9: and so on.
    }
}
