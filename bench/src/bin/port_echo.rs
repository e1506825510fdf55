//! An echo on the port without the framework: `port_echo ADDRESS own|shared RUNNING [THREADS]`.
//!
//! `own`: RUNNING threads, each with a `Port` of its own, to which connections go in turn. `shared`:
//! THREADS threads (default: 2 x RUNNING + 2) on one `SharedPort`, of which RUNNING run at once.
//! Nothing blocks. The operations are the same: a multishot receive, and a send of a copy.

use std::net::{TcpListener, TcpStream};
use std::thread;
use wharf_port::SystemPort;
use wharf_port::memory::{BufferPool, Owner, PoolConfig};
use wharf_port::port::{CompletionMode, Key, Operation, Outcome, Port, PortConfig};
use wharf_port::shared_port::{SharedConfig, SharedOperation, SharedOutcome, SharedPort, Worker};

/// Connections of each port or seat.
const LINKS: u32 = 16_000;
const BUFFERS: u32 = 2048;
const COMPLETIONS: usize = 128;

fn main() {
    let mut args = std::env::args().skip(1);
    let listener = TcpListener::bind(args.next().expect("an address")).expect("it is free");
    let kind = args.next().expect("own or shared");
    let running = args.next().map_or(1, |text| text.parse().expect("a number"));
    let threads = args.next().map_or(2 * running + 2, |text| text.parse().expect("a number"));
    match kind.as_str() {
        "own" => own(&listener, running),
        "shared" => shared(&listener, running, threads),
        _ => panic!("own or shared"),
    }
}

fn sizes() -> (PortConfig, PoolConfig) {
    (PortConfig::new(LINKS), PoolConfig::new(BUFFERS))
}

fn own(listener: &TcpListener, running: u32) {
    let posters: Vec<_> = (0..running)
        .map(|_| {
            let (send, receive) = std::sync::mpsc::channel();
            thread::spawn(move || {
                let (port, pool) = sizes();
                let pool = BufferPool::new(pool).expect("memory");
                let port = SystemPort::<TcpStream>::new(port, pool.clone()).expect("a port");
                send.send(port.poster()).expect("main waits");
                serve_own(port, &pool);
            });
            receive.recv().expect("it sends")
        })
        .collect();
    for poster in posters.iter().cycle() {
        let (stream, _) = listener.accept().expect("a connection");
        poster.post(stream).expect("space in the inbox");
    }
}

fn serve_own(mut port: SystemPort<TcpStream>, pool: &BufferPool) {
    let mut completions = Vec::with_capacity(COMPLETIONS);
    let mut sockets = Vec::new();
    loop {
        port.dequeue(&mut completions, None).expect("completions");
        for completion in completions.drain(..) {
            let socket = usize::try_from(completion.key.0).ok().and_then(|at| sockets.get(at));
            match (completion.outcome, socket.copied()) {
                (Outcome::Posted(stream), _) => {
                    let key = Key(sockets.len() as u64);
                    let socket = port.associate(stream, key).expect("a slot");
                    sockets.push(socket);
                    let receive = Operation::receive(CompletionMode::Multishot);
                    port.submit(socket, receive).expect("a receive");
                }
                (Outcome::Received { buffer, .. }, Some(socket)) => {
                    let echo = pool.chain_of(&buffer, Owner::SendQueue).expect("buffers");
                    port.submit(socket, Operation::Send(echo)).expect("one message at a time");
                }
                _ => {}
            }
        }
    }
}

fn shared(listener: &TcpListener, running: u32, threads: u32) {
    let mut config = SharedConfig::new(running, LINKS);
    (config.port, config.pool) = sizes();
    let port = SharedPort::<()>::new(config).expect("a port");
    for _ in 0..threads {
        let worker = port.worker();
        thread::spawn(move || serve_shared(worker));
    }
    loop {
        let (stream, _) = listener.accept().expect("a connection");
        port.associate(stream, Key(0)).expect("space in the inbox");
    }
}

fn serve_shared(mut worker: Worker<()>) {
    loop {
        worker.dequeue(None).expect("completions");
        loop {
            let Some(completion) = worker.next_completion() else { break };
            let operation = match completion.outcome {
                SharedOutcome::Associated => SharedOperation::receive(CompletionMode::Multishot),
                SharedOutcome::Received { buffer, .. } => {
                    SharedOperation::Send(worker.chain_of(&buffer).expect("buffers"))
                }
                _ => continue,
            };
            let socket = completion.socket.expect("of a socket");
            worker.submit(socket, operation).expect("one message at a time");
        }
    }
}
