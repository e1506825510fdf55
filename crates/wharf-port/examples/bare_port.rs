//! The nine steps of a completion port, as its tutorials have them: worker threads, more than there
//! are processors, dequeue from one port, of which as many run at once as there are processors. A
//! worker that blocks gives its seat, the right to run, to one that waits.
//!
//! An echo server; a text that begins with `slow` is answered after a query that blocks for a while.
//! Enter ends it. The comments name the Win32 call of each step. `own_port.rs` is the same on a port
//! that one thread owns, which is what the server of `wharf` is built on.

#![cfg_attr(target_os = "linux", expect(clippy::print_stdout, reason = "prints its address"))]

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    on_linux::main()
}

/// On Windows the system's own port has a concurrency value.
#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod on_linux {
    use std::error::Error;
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;
    use wharf_port::memory::{MessagePool, MessagePoolConfig};
    use wharf_port::port::{CompletionMode, Key};
    use wharf_port::shared_port::{
        SharedCompletion, SharedConfig, SharedOperation, SharedOutcome, SharedPort, SharedSocket,
        Worker,
    };

    /// Of each seat.
    const LINKS: u32 = 1000;
    const LISTENER: Key = Key(u64::MAX);

    /// A packet that ends the worker that takes it.
    struct Stop;

    pub(super) fn main() -> Result<(), Box<dyn Error>> {
        let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9527".to_owned());

        // Step 2: the number of processors. GetSystemInfo
        let processors = u32::try_from(thread::available_parallelism()?.get())?;

        // Step 1: create the port; as many threads run at once as there are processors.
        // CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, processors)
        let port = SharedPort::new(SharedConfig::new(processors, LINKS))?;
        let answers = MessagePool::new(MessagePoolConfig::new(LINKS))?;

        thread::scope(|scope| {
            // Step 3: worker threads. Some block, so there are more of them than processors.
            // CreateThread
            let workers: Vec<_> = (0..2 * processors + 2)
                .map(|_| port.worker())
                .map(|worker| scope.spawn(|| serve(worker, &answers)))
                .collect();

            let result = run(&port, &address, workers.len());
            if result.is_err() {
                port.close();
            }
            for worker in workers {
                worker
                    .join()
                    .map_err(|_| "a worker has panicked")?
                    .map_err(|error| error.to_string())?;
            }
            result
        })
    }

    fn run(port: &SharedPort<Stop>, address: &str, workers: usize) -> Result<(), Box<dyn Error>> {
        // Step 4: a listening socket; its accepts complete on the port, too. WSASocket, bind, listen
        let listener = TcpListener::bind(address)?;
        println!("{} on {}: try nc", port.name(), listener.local_addr()?);
        port.associate_listener(listener, LISTENER).map_err(|_| "the inbox is full")?;

        if std::io::stdin().read_line(&mut String::new())? > 0 {
            // The orderly end: a packet for each worker. PostQueuedCompletionStatus
            for _ in 0..workers {
                port.post(Stop).map_err(|_| "the inbox is full")?;
            }
        }
        Ok(())
    }

    /// ServerWorkerThread
    fn serve(
        mut worker: Worker<Stop>,
        answers: &MessagePool,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        loop {
            // Waits for completions; the thread that began last to wait is released first.
            // GetQueuedCompletionStatus(..., INFINITE)
            worker.dequeue(None)?;
            loop {
                let Some(completion) = worker.next_completion() else { break };
                match handle(&worker, completion)? {
                    Next::Dequeue => {}
                    Next::Query(socket, text) => {
                        // Another worker runs meanwhile, with this one's seat.
                        let answer = worker.blocking(|| query(&text));
                        // A message can be sent on any socket, whichever seat this worker has now.
                        let send = SharedOperation::SendMessage(answers.message_of(&answer)?);
                        worker.submit(socket, send).map_err(|error| error.kind)?;
                    }
                    Next::End => return Ok(()),
                }
            }
        }
    }

    /// What a worker does when it has handled a completion.
    enum Next {
        Dequeue,
        Query(SharedSocket, Vec<u8>),
        End,
    }

    /// The completion names the socket and its key, which here is no more than a number.
    /// PER_HANDLE_DATA, PER_IO_OPERATION_DATA
    fn handle(
        worker: &Worker<Stop>,
        completion: SharedCompletion<'_, Stop>,
    ) -> Result<Next, Box<dyn Error + Send + Sync>> {
        let operation = match completion.outcome {
            // Step 5: accept, multishot. AcceptEx
            SharedOutcome::Associated if completion.key == LISTENER => {
                SharedOperation::Accept(CompletionMode::Multishot)
            }
            SharedOutcome::Accepted { stream, peer, .. } => {
                // Steps 6 and 7: a key for it, and associate it with the port. Without a free slot
                // the connection is dropped. CreateIoCompletionPort(Accept, CompletionPort, ...)
                let _full = worker.associate(stream, Key(peer.port().into()));
                return Ok(Next::Dequeue);
            }
            // Step 8: the first operation. WSARecv
            SharedOutcome::Associated => SharedOperation::receive(CompletionMode::Oneshot),
            SharedOutcome::Received { buffer, .. } => match completion.socket {
                Some(socket) if buffer.starts_with(b"slow") => {
                    return Ok(Next::Query(socket, buffer.to_vec()));
                }
                // Send the bytes back. WSASend
                _ => SharedOperation::Send(worker.chain_of(&buffer)?),
            },
            SharedOutcome::Sent { mut chain, sent, end: None } => {
                // A short send is continued; after a whole one the next receive is posted.
                chain.advance(sent);
                if chain.is_empty() {
                    SharedOperation::receive(CompletionMode::Oneshot)
                } else {
                    SharedOperation::Send(chain)
                }
            }
            // The connection has ended. The close completes when no operation is in flight.
            // closesocket, and wait
            SharedOutcome::Sent { .. } | SharedOutcome::ReceiveEnded(_) => SharedOperation::Close,
            SharedOutcome::AcceptEnded(end) => return Err(format!("accept: {end:?}").into()),
            SharedOutcome::Posted(Stop) => return Ok(Next::End),
            _ => return Ok(Next::Dequeue),
        };
        if let Some(socket) = completion.socket {
            worker.submit(socket, operation).map_err(|error| error.kind)?;
        }
        // Step 9: repeat.
        Ok(Next::Dequeue)
    }

    /// Stands for a call that blocks, such as one of a database.
    fn query(text: &[u8]) -> Vec<u8> {
        thread::sleep(Duration::from_millis(50));
        text.to_ascii_uppercase()
    }
}
