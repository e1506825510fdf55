//! The shards' threads: start them, wait for their end.

use crate::engine::worker::{Turn, Worker};
use crate::limits::MemoryPlan;
use crate::server::back_end::BackEndChoice;
use crate::service::Service;
use crate::shared::handle::Handle;
use crate::shared::{Command, ShardPort, Shared};
use crate::stats::Stats;
use crate::vocabulary::address::Address;
use crate::vocabulary::back_end::BackEnd;
use crate::vocabulary::error::{Error, Result, StartError};
use crate::vocabulary::origin::ListenerId;
use std::any::Any;
use std::fmt;
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
#[cfg(target_os = "linux")]
use wharf_port::epoll::EpollPort;
#[cfg(windows)]
use wharf_port::iocp::IocpPort;
use wharf_port::memory::{BufferPool, LedgerView};
use wharf_port::port::{PortConfig, PortError, Poster};
#[cfg(target_os = "linux")]
use wharf_port::uring::UringPort;

/// A running server.
///
/// Dropping it does not stop the server. [`Handle::stop`] does; [`wait`](Self::wait) then returns the
/// result.
pub struct RunningServer {
    pub(super) shared: Arc<Shared>,
    pub(super) chosen: BackEndChoice,
    pub(super) addresses: Vec<(ListenerId, Address)>,
    pub(super) plan: MemoryPlan,
    pub(super) files_raised: Option<(u64, u64)>,
    pub(super) threads: Vec<JoinHandle<std::result::Result<(), String>>>,
}

impl fmt::Debug for RunningServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningServer")
            .field("addresses", &self.addresses)
            .field("back_end", &self.chosen)
            .finish_non_exhaustive()
    }
}

/// How a server ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// The counters at the end; [`Stats::forced_closes`] is the number of links that the drain timeout
    /// force-closed.
    pub stats: Stats,
}

impl RunningServer {
    /// A handle of the server, for any thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    /// The addresses on which the server listens; for port 0 with the port that the system chose.
    #[must_use]
    pub fn local_addresses(&self) -> &[(ListenerId, Address)] {
        &self.addresses
    }

    /// The selected back end, and the reason if it is the fallback.
    #[must_use]
    pub fn back_end(&self) -> &BackEndChoice {
        &self.chosen
    }

    /// The memory that the server allocated at start.
    #[must_use]
    pub fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    /// The soft limit for open files before and after, if it was raised.
    #[must_use]
    pub fn files_raised(&self) -> Option<(u64, u64)> {
        self.files_raised
    }

    /// Whether all threads of the server have ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits until the server has stopped.
    ///
    /// # Errors
    ///
    /// The server stopped by itself: a port failed, a shard's thread panicked, or `on_worker_start`
    /// failed after a panic of the handler.
    pub fn wait(self) -> Result<StopReport> {
        let mut failures = Vec::new();
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => failures.push(reason),
                Err(payload) => {
                    failures.push(format!("a shard's thread panicked{}", said(&payload)))
                }
            }
        }
        if failures.is_empty() {
            Ok(StopReport { stats: self.shared.stats() })
        } else {
            Err(Error::msg(failures.join("; ")))
        }
    }
}

/// A shard's report that its worker is made.
struct Ready {
    shard: usize,
    poster: Poster<Command<TcpStream>>,
    buffers: LedgerView,
}

/// The answer, when all shards have reported.
struct Begin {
    listeners: Vec<TcpListener>,
    posters: Box<[Poster<Command<TcpStream>>]>,
}

/// Starts the shards' threads on the selected back end, and returns when all workers are made.
pub(super) fn start_shards<V: Service>(
    back_end: BackEnd,
    shared: &Arc<Shared>,
    handler: &Arc<V::Handler>,
    alive: &Alive,
    listeners: Vec<TcpListener>,
) -> Result<Vec<JoinHandle<std::result::Result<(), String>>>, StartError> {
    match back_end {
        #[cfg(target_os = "linux")]
        BackEnd::Uring => start_on::<_, V>(UringPort::new, shared, handler, alive, listeners),
        #[cfg(target_os = "linux")]
        BackEnd::Epoll => start_on::<_, V>(EpollPort::new, shared, handler, alive, listeners),
        #[cfg(windows)]
        BackEnd::Iocp => start_on::<_, V>(IocpPort::new, shared, handler, alive, listeners),
        // `choose` has called `available` before.
        other => Err(StartError::back_end(&other.to_string(), "it is one of another system")),
    }
}

/// A value that is dropped when the last thread has ended.
pub(super) type Alive = Arc<dyn Send + Sync>;
/// A port for the system's sockets.
trait TcpPort: ShardPort<Stream = TcpStream, Listener = TcpListener> {}

impl<P: ShardPort<Stream = TcpStream, Listener = TcpListener>> TcpPort for P {}

type Make<P> = fn(PortConfig, BufferPool) -> std::result::Result<P, PortError>;
type Threads = Vec<JoinHandle<std::result::Result<(), String>>>;

fn start_on<P, V>(
    make: Make<P>,
    shared: &Arc<Shared>,
    handler: &Arc<V::Handler>,
    alive: &Alive,
    listeners: Vec<TcpListener>,
) -> Result<Threads, StartError>
where
    P: TcpPort + 'static,
    V: Service,
{
    let (report, reports) = channel();
    let mut threads = Threads::new();
    let mut begins = Vec::new();
    let listener_count = u32::try_from(listeners.len()).unwrap_or(u32::MAX);
    let mut started = Ok(());
    for shard in 0..shared.shards.len() {
        // There are at most 256 shards.
        let number = u8::try_from(shard).unwrap_or(u8::MAX);
        let (begin, begun) = channel();
        let (report, shared, handler) = (report.clone(), Arc::clone(shared), Arc::clone(handler));
        let config = shared.settings.port(listener_count);
        let alive = Arc::clone(alive);
        let body = move || {
            // Dropped after the worker.
            let _alive = alive;
            // A panic of the handler here becomes an error of `start`.
            let made =
                AssertUnwindSafe(|| make_worker::<P, V>(number, make, config, &handler, &shared));
            let worker = catch_unwind(made).unwrap_or_else(|_| Err(died()));
            run(number, worker, &shared, report, &begun)
        };
        match std::thread::Builder::new().name(format!("wharf-{shard}")).spawn(body) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                started = Err(StartError::thread(error));
                break;
            }
        }
        begins.push(begin);
    }
    drop(report);
    let begun = started.and_then(|()| begin_all(shared, &reports, begins, listeners));
    if begun.is_err() {
        // Their `Begin` senders are dropped, so the threads that wait for `Begin` end.
        for thread in threads.drain(..) {
            let _its_error_is_not_the_first = thread.join();
        }
    }
    begun.map(|()| threads)
}

/// Waits until every shard has reported, and then sends `Begin` to all.
fn begin_all(
    shared: &Shared,
    reports: &Receiver<Result<Ready, StartError>>,
    begins: Vec<Sender<Begin>>,
    listeners: Vec<TcpListener>,
) -> Result<(), StartError> {
    let mut posters: Vec<Option<Poster<_>>> = begins.iter().map(|_| None).collect();
    for _ in 0..begins.len() {
        let ready: Ready = reports.recv().map_err(|_| died())??;
        shared.register_shard(ready.shard, Box::new(ready.poster.clone()), ready.buffers);
        posters[ready.shard] = Some(ready.poster);
    }
    let posters: Box<[_]> = posters.into_iter().flatten().collect();
    let mut listeners = Some(listeners);
    for begin in begins {
        let listeners = listeners.take().unwrap_or_default();
        begin.send(Begin { listeners, posters: posters.clone() }).map_err(|_| died())?;
    }
    Ok(())
}

/// The text of a panic behind a colon; empty if its payload is no text.
fn said(payload: &Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.map_or_else(String::new, |text| format!(": {text}"))
}

fn died() -> StartError {
    StartError::handler("a shard's thread panicked before it was ready")
}

fn make_worker<P, V>(
    shard: u8,
    make: Make<P>,
    config: PortConfig,
    handler: &Arc<V::Handler>,
    shared: &Arc<Shared>,
) -> Result<Worker<P, V>, StartError>
where
    P: TcpPort,
    V: Service,
{
    let pool = BufferPool::new(shared.settings.shard_pool())
        .map_err(|error| StartError::buffers(&error))?;
    let port = make(config, pool).map_err(|error| StartError::port(&error.to_string()))?;
    Worker::new(shard, port, Arc::clone(handler), Arc::clone(shared))
        .map_err(|reason| StartError::handler(&reason))
}

/// The body of a shard's thread: a loop around `turn`.
fn run<P, V>(
    shard: u8,
    worker: Result<Worker<P, V>, StartError>,
    shared: &Arc<Shared>,
    report: Sender<Result<Ready, StartError>>,
    begun: &Receiver<Begin>,
) -> std::result::Result<(), String>
where
    P: TcpPort,
    V: Service,
{
    let mut worker = match worker {
        Ok(worker) => worker,
        Err(error) => {
            let _nobody_waits = report.send(Err(error));
            return Ok(());
        }
    };
    let (poster, buffers) = worker.poster_and_ledger();
    let _nobody_waits = report.send(Ok(Ready { shard: shard.into(), poster, buffers }));
    drop(report);
    let Ok(begin) = begun.recv() else { return Ok(()) };
    // When this thread ends, also by a panic, the server stops.
    let _guard = StopOnDrop { shared, shard };
    worker.listen(begin.listeners, begin.posters)?;
    while worker.turn().map_err(|error| error.to_string())? == Turn::Continue {}
    worker.failure().map_or(Ok(()), Err)
}

struct StopOnDrop<'a> {
    shared: &'a Shared,
    shard: u8,
}

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        if self.shared.stopping().is_none() {
            self.shared.stop(Duration::ZERO);
        }
        if self.shard == 0 {
            self.shared.end_accepting();
        }
        self.shared.shards[usize::from(self.shard)].ended.store(true, Ordering::Release);
    }
}
