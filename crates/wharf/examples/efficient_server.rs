//! The server that tutorials on completion ports end with: a completion port and a thread pool, joined.
//!
//! Workers dequeue from one shared port, as many at once as there are processors, and never block. What
//! blocks is a job of the pool, whose threads are as many as wait; each has a connection to a database
//! of its own. A job posts its answer to the port, and the worker that dequeues it sends it.
//!
//! Each text that a client sends is a question; Enter ends the server.

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    on_linux::main()
}

#[cfg(target_os = "linux")]
mod on_linux {
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::thread::JoinHandle;
    use std::time::Duration;
    use wharf::thread_pool::{StopMode, ThreadPool};
    use wharf_port::memory::{Message, MessagePool, MessagePoolConfig};
    use wharf_port::port::{CompletionMode, Key};
    use wharf_port::shared_port::{
        SharedCompletion, SharedConfig, SharedOperation, SharedOutcome, SharedPort, SharedSocket,
        Worker,
    };

    type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

    /// Of each seat.
    const LINKS: u32 = 1_000;
    const LISTENER: Key = Key(u64::MAX);

    /// What is posted to the port.
    enum Packet {
        Answer(SharedSocket, Message),
        /// Ends the worker that takes it.
        Stop,
    }

    struct Server {
        port: SharedPort<Packet>,
        pool: ThreadPool<Database>,
        messages: MessagePool,
    }

    /// Stands for a connection to a database.
    struct Database {
        queries: u64,
    }

    impl Database {
        fn query(&mut self, question: &[u8]) -> String {
            self.queries += 1;
            std::thread::sleep(Duration::from_millis(20));
            format!("answer {} of this connection: {} bytes\n", self.queries, question.len())
        }
    }

    pub(super) fn main() -> Result<(), Box<dyn std::error::Error>> {
        let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9527".to_owned());
        let processors = u32::try_from(std::thread::available_parallelism()?.get())?;
        let mut config = SharedConfig::new(processors, LINKS);
        // A place for the answer of each link, which has one question at a time, and for the end.
        config.port.inbox_capacity = processors * (LINKS + 1);
        let server = Arc::new(Server {
            port: SharedPort::new(config)?,
            pool: ThreadPool::builder()
                .threads_max(64)
                .context(|| Ok(Database { queries: 0 }))
                .start()?,
            messages: MessagePool::new(MessagePoolConfig::new(LINKS))?,
        });
        let listener = TcpListener::bind(address)?;
        server.port.associate_listener(listener, LISTENER).map_err(|_| "the inbox is full")?;
        let workers: Vec<_> = (0..processors).map(|_| spawn_worker(&server)).collect();

        std::io::stdin().read_line(&mut String::new())?;
        // Questions that were asked are answered; then each worker gets a packet that ends it.
        server.pool.stop(StopMode::RunQueued, Duration::from_secs(5));
        for _ in &workers {
            server.port.post(Packet::Stop).map_err(|_| "the inbox is full")?;
        }
        for worker in workers {
            let ended = worker.join().map_err(|_| "a worker has panicked")?;
            ended.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "an example of threads that a program has itself"
    )]
    fn spawn_worker(server: &Arc<Server>) -> JoinHandle<Result> {
        let server = Arc::clone(server);
        std::thread::spawn(move || {
            let mut worker = server.port.worker();
            loop {
                worker.dequeue(None)?;
                while let Some(completion) = worker.next_completion() {
                    if !server.handle(&worker, completion)? {
                        return Ok(());
                    }
                }
            }
        })
    }

    impl Server {
        /// Returns whether the worker goes on.
        fn handle(
            self: &Arc<Self>,
            worker: &Worker<Packet>,
            completion: SharedCompletion<'_, Packet>,
        ) -> Result<bool> {
            let (socket, operation) = match (completion.outcome, completion.socket) {
                (SharedOutcome::Posted(Packet::Stop), _) => return Ok(false),
                (SharedOutcome::Posted(Packet::Answer(socket, message)), _) => {
                    (socket, SharedOperation::SendMessage(message))
                }
                (SharedOutcome::Associated, Some(socket)) if completion.key == LISTENER => {
                    (socket, SharedOperation::Accept(CompletionMode::Multishot))
                }
                (SharedOutcome::Accepted { stream, peer, .. }, _) => {
                    // Without a free slot the connection is dropped.
                    let _full = worker.associate(stream, Key(peer.port().into()));
                    return Ok(true);
                }
                (SharedOutcome::Received { buffer, .. }, Some(socket)) => {
                    self.ask(socket, buffer.to_vec());
                    return Ok(true);
                }
                (SharedOutcome::Associated, Some(socket)) => {
                    (socket, SharedOperation::receive(CompletionMode::Oneshot))
                }
                (SharedOutcome::Sent { mut chain, sent, end: None }, Some(socket)) => {
                    chain.advance(sent);
                    // The next question, when all of the answer is sent.
                    let next = if chain.is_empty() {
                        SharedOperation::receive(CompletionMode::Oneshot)
                    } else {
                        SharedOperation::Send(chain)
                    };
                    (socket, next)
                }
                (SharedOutcome::Sent { .. } | SharedOutcome::ReceiveEnded(_), Some(socket)) => {
                    (socket, SharedOperation::Close)
                }
                (SharedOutcome::AcceptEnded(end), _) => {
                    return Err(format!("accept: {end:?}").into());
                }
                _ => return Ok(true),
            };
            // The link may have ended before its answer came.
            let _it_has_ended = worker.submit(socket, operation);
            Ok(true)
        }

        /// Has the pool answer a question; with a full queue the answer says so.
        fn ask(self: &Arc<Self>, socket: SharedSocket, question: Vec<u8>) {
            let server = Arc::clone(self);
            let job = move |database: &mut Database| {
                server.answer(socket, &database.query(&question));
            };
            if self.pool.submit_long(job).is_err() {
                self.answer(socket, "busy\n");
            }
        }

        fn answer(&self, socket: SharedSocket, text: &str) {
            match self.messages.message_of(text.as_bytes()) {
                // The inbox has a place for it.
                Ok(message) => drop(self.port.post(Packet::Answer(socket, message))),
                Err(_no_buffers) => drop(self.port.worker().submit(socket, SharedOperation::Close)),
            }
        }
    }
}
