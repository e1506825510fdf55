//! The threads of the shards and the service thread: start them, wait for their end.

use crate::engine;
use crate::engine::packets::{Packets, Sources, Ticker};
use crate::engine::service_thread::ServiceThread;
use crate::engine::worker::{Turn, Worker};
use crate::guard::{catch_user_panic, said};
use crate::limits::{MemoryPlan, Settings};
use crate::server::back_end::BackEndChoice;
use crate::server::ends::Ends;
use crate::service::Service;
use crate::shared::handle::Handle;
use crate::shared::service_thread::StalledCallback;
use crate::shared::{Command, ShardPort, Shared};
use crate::stats::Stats;
use crate::vocabulary::address::Address;
use crate::vocabulary::back_end::BackEnd;
use crate::vocabulary::error::{Error, Result, StartError};
use crate::vocabulary::origin::ListenerId;
use std::fmt;
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
#[cfg(target_os = "linux")]
use wharf_port::epoll::EpollPort;
#[cfg(windows)]
use wharf_port::iocp::IocpPort;
use wharf_port::memory::{BufferPool, LedgerView, try_with_capacity};
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
    pub(super) threads: Threads,
    pub(super) ends: Arc<Ends>,
}

impl fmt::Debug for RunningServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningServer")
            .field("addresses", &self.addresses)
            .field("back_end", &self.chosen)
            .finish_non_exhaustive()
    }
}

/// Time after the drain timeout in which the threads end whose callbacks return.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// How often a thread that waits for the end looks whether there was a stop.
const LOOK_EVERY: Duration = Duration::from_millis(500);

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

    /// Waits until all threads have ended. `false`: some have not 5 s after the drain timeout.
    pub(super) fn ends_in_time(&self) -> bool {
        let mut stopping = Duration::ZERO;
        while !self.ends.wait(LOOK_EVERY) {
            let Some(drain) = self.shared.stopping() else { continue };
            stopping += LOOK_EVERY;
            if stopping > drain.saturating_add(STUCK_AFTER) {
                return false;
            }
        }
        true
    }

    /// Waits until the server has stopped, at most for `timeout`. A callback that does not return holds
    /// up the end of its server, and a thread cannot be ended from outside: after a
    /// [`stop`](Handle::stop) a program can wait for somewhat more than the drain timeout, report the
    /// callbacks, and end.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(self, timeout: Duration) -> Result<Waited> {
        if self.ends.wait(timeout) {
            return self.wait().map(Waited::Stopped);
        }
        let stalled = self.shared.stalled();
        Ok(Waited::Running { server: self, stalled })
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
                    failures.push(format!("a thread of the server panicked{}", said(&*payload)))
                }
            }
        }
        // Ports mostly fail for the same reason.
        failures.dedup();
        if failures.is_empty() {
            Ok(StopReport { stats: self.shared.stats() })
        } else {
            Err(Error::msg(failures.join("; ")))
        }
    }
}

/// What [`RunningServer::wait_timeout`] found.
#[derive(Debug)]
#[non_exhaustive]
pub enum Waited {
    /// The server has stopped.
    Stopped(StopReport),
    /// It runs.
    #[non_exhaustive]
    Running {
        /// The server, to wait on.
        server: RunningServer,
        /// The callbacks that have not returned: see [`Handle::stalled`].
        stalled: Vec<StalledCallback>,
    },
}

/// A step of a thread's start. Each begins when all threads have done the one before.
enum Step {
    /// The port is made.
    Port,
    /// The worker is made.
    Worker(Ready),
    /// The service thread is made.
    Service,
}

/// A shard that could turn now.
struct Ready {
    shard: usize,
    poster: Poster<Command<TcpStream>>,
    buffers: LedgerView,
}

/// What a thread does when all have done a step.
enum Next {
    Step,
    Begin,
    /// As `Begin`, for the service thread.
    Listen {
        listeners: Vec<TcpListener>,
        posters: Box<[Poster<Command<TcpStream>>]>,
    },
}

/// Makes the shards' workers and the service thread on the selected back end, each on its thread, for so
/// many listeners and with these packets.
pub(super) fn prepare_shards<V: Service>(
    back_end: BackEnd,
    shared: &Arc<Shared>,
    handler: &Arc<V::Handler>,
    alive: &Alive,
    given: (u32, Packets<V::Context>),
) -> Result<Prepared, StartError> {
    match back_end {
        #[cfg(target_os = "linux")]
        BackEnd::Uring => prepare_on::<_, V>(UringPort::new, shared, handler, alive, given),
        #[cfg(target_os = "linux")]
        BackEnd::Epoll => prepare_on::<_, V>(EpollPort::new, shared, handler, alive, given),
        #[cfg(windows)]
        BackEnd::Iocp => prepare_on::<_, V>(IocpPort::new, shared, handler, alive, given),
        // `choose` has probed it before.
        other => Err(StartError::back_end(&other.to_string(), "it is one of another system")),
    }
}

/// A value that is dropped when the last thread has ended.
pub(super) type Alive = Arc<dyn Send + Sync>;
/// A port for the system's sockets.
trait TcpPort: ShardPort<Stream = TcpStream, Listener = TcpListener> {}

impl<P: ShardPort<Stream = TcpStream, Listener = TcpListener>> TcpPort for P {}

type Make<P> = fn(PortConfig, BufferPool) -> std::result::Result<P, PortError>;
pub(super) type Threads = Vec<JoinHandle<std::result::Result<(), String>>>;

/// Threads whose workers are made, and that wait to begin. If this is dropped, they end.
pub(super) struct Prepared {
    threads: Threads,
    ends: Arc<Ends>,
    nexts: Vec<Sender<Next>>,
    posters: Vec<Poster<Command<TcpStream>>>,
}

impl Prepared {
    /// For the threads of so many shards and the service thread, of which none is started.
    fn new(shards: usize) -> Result<Self, StartError> {
        let (threads, nexts) = (table_of_shards(shards + 1)?, table_of_shards(shards + 1)?);
        let posters = table_of_shards(shards)?;
        Ok(Self { threads, nexts, posters, ends: Arc::default() })
    }

    /// Lets the threads begin.
    pub(super) fn begin(
        mut self,
        listeners: Vec<TcpListener>,
    ) -> Result<(Threads, Arc<Ends>), StartError> {
        let posters = std::mem::take(&mut self.posters).into();
        let Some((service, shards)) = self.nexts.split_last() else {
            unreachable!("the service thread is the last")
        };
        shards.iter().try_for_each(|next| next.send(Next::Begin)).map_err(|_| died())?;
        service.send(Next::Listen { listeners, posters }).map_err(|_| died())?;
        Ok((std::mem::take(&mut self.threads), Arc::clone(&self.ends)))
    }

    /// Waits until every thread has done a step, and says what they have made.
    fn wait(&self, reports: &Receiver<Result<Step, StartError>>) -> Result<Vec<Ready>, StartError> {
        let mut ready = table_of_shards(self.threads.len())?;
        for _ in &self.threads {
            if let Step::Worker(shard) = reports.recv().map_err(|_| died())?? {
                ready.push(shard);
            }
        }
        Ok(ready)
    }

    fn next_step(&self) -> Result<(), StartError> {
        self.nexts.iter().try_for_each(|next| next.send(Next::Step)).map_err(|_| died())
    }
}

fn table_of_shards<T>(count: usize) -> Result<Vec<T>, StartError> {
    let table = try_with_capacity("the table of shards", count);
    table.map_err(|error| StartError::buffers(&error))
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // Threads that wait for what is next end.
        self.nexts.clear();
        for thread in self.threads.drain(..) {
            let _its_error_is_not_the_first = thread.join();
        }
    }
}

fn prepare_on<P, V>(
    make: Make<P>,
    shared: &Arc<Shared>,
    handler: &Arc<V::Handler>,
    alive: &Alive,
    (listeners, packets): (u32, Packets<V::Context>),
) -> Result<Prepared, StartError>
where
    P: TcpPort + 'static,
    V: Service,
{
    let (report, reports) = channel();
    let mut prepared = Prepared::new(shared.shards.len())?;
    let mut steps = || {
        let (next, nexts) = channel();
        prepared.nexts.push(next);
        Steps { report: report.clone(), nexts }
    };
    let stack = shared.settings.stack_size_bytes(engine::sizes::<V::State, V::Context>());
    let Packets { workers, tickers } = packets;
    for (shard, packets) in workers.into_iter().enumerate() {
        // There are at most 256 shards.
        let number = u8::try_from(shard).unwrap_or(u8::MAX);
        let steps = steps();
        let (shared, handler, alive) = (Arc::clone(shared), Arc::clone(handler), Arc::clone(alive));
        let running = prepared.ends.add();
        let body = move || {
            let _running = running;
            // Dropped after the worker and this thread's share of the handler.
            let (_alive, handler) = (alive, handler);
            // A panic of the handler here becomes an error of `start`.
            let made = AssertUnwindSafe(|| {
                make_worker::<P, V>(number, make, &handler, &shared, packets, &steps)
            });
            let worker = catch_unwind(made).unwrap_or_else(|payload| {
                catch_user_panic(|| drop(payload));
                Err(died())
            });
            run(number, worker, &shared, steps)
        };
        let thread = std::thread::Builder::new().name(format!("wharf-{shard}")).stack_size(stack);
        prepared.threads.push(thread.spawn(body).map_err(StartError::thread)?);
    }
    let service = {
        let (steps, shared, alive) = (steps(), Arc::clone(shared), Arc::clone(alive));
        let running = prepared.ends.add();
        move || {
            let (_running, _alive) = (running, alive);
            run_service(make_service(make, listeners, tickers, &shared, &steps), &shared, steps)
        }
    };
    let thread = std::thread::Builder::new().name("wharf-service".to_owned());
    prepared.threads.push(thread.spawn(service).map_err(StartError::thread)?);
    drop(report);
    prepared.wait(&reports)?;
    prepared.next_step()?;
    let mut ready = prepared.wait(&reports)?;
    ready.sort_by_key(|ready| ready.shard);
    for Ready { shard, poster, buffers } in ready {
        shared.register_shard(shard, Box::new(poster.clone()), buffers);
        prepared.posters.push(poster);
    }
    Ok(prepared)
}

fn died() -> StartError {
    StartError::handler("a shard's thread panicked before it was ready")
}

/// A shard's side of its start.
struct Steps {
    report: Sender<Result<Step, StartError>>,
    nexts: Receiver<Next>,
}

impl Steps {
    /// Reports a step, and waits until all shards have done it.
    fn done(&self, step: Step) -> Result<Next, StartError> {
        let _nobody_waits = self.report.send(Ok(step));
        // The error of another shard is the one that `start` returns.
        self.nexts.recv().map_err(|_| died())
    }
}

fn make_worker<P, V>(
    shard: u8,
    make: Make<P>,
    handler: &Arc<V::Handler>,
    shared: &Arc<Shared>,
    packets: Sources<V::Context>,
    steps: &Steps,
) -> Result<Worker<P, V>, StartError>
where
    P: TcpPort,
    V: Service,
{
    let pool = BufferPool::new(shared.settings.shard_pool())
        .map_err(|error| StartError::buffers(&error))?;
    let port = make(shared.settings.port(), pool).map_err(|error| StartError::port(&error))?;
    steps.done(Step::Port)?;
    Worker::new(shard, port, Arc::clone(handler), Arc::clone(shared), packets)
}

/// The body of a shard's thread: a loop around `turn`.
fn run<P, V>(
    shard: u8,
    worker: Result<Worker<P, V>, StartError>,
    shared: &Arc<Shared>,
    steps: Steps,
) -> std::result::Result<(), String>
where
    P: TcpPort,
    V: Service,
{
    let mut worker = match worker {
        Ok(worker) => worker,
        Err(error) => {
            let _nobody_waits = steps.report.send(Err(error));
            return Ok(());
        }
    };
    let (poster, buffers) = worker.poster_and_ledger();
    let ready = Ready { shard: shard.into(), poster, buffers };
    let Ok(Next::Begin) = steps.done(Step::Worker(ready)) else { return Ok(()) };
    drop(steps);
    // When this thread ends, also by a panic, the server stops.
    let _guard = StopOnDrop { shared, ended: &shared.shards[usize::from(shard)].ended };
    while worker.turn().map_err(|error| error.to_string())? == Turn::Continue {}
    worker.failure().map_or(Ok(()), Err)
}

fn make_service<P: TcpPort>(
    make: Make<P>,
    listeners: u32,
    tickers: Vec<Ticker>,
    shared: &Arc<Shared>,
    steps: &Steps,
) -> Result<ServiceThread<P>, StartError> {
    let pool =
        BufferPool::new(Settings::service_pool()).map_err(|error| StartError::buffers(&error))?;
    let port =
        make(Settings::service_port(listeners), pool).map_err(|error| StartError::port(&error))?;
    steps.done(Step::Port)?;
    let service = ServiceThread::new(port, listeners, Arc::clone(shared), tickers)
        .map_err(|error| StartError::buffers(&error))?;
    let poster = service.poster();
    shared.service.register(move || poster.wake());
    Ok(service)
}

/// The body of the service thread.
fn run_service<P: TcpPort>(
    service: Result<ServiceThread<P>, StartError>,
    shared: &Arc<Shared>,
    steps: Steps,
) -> std::result::Result<(), String> {
    let mut service = match service {
        Ok(service) => service,
        Err(error) => {
            let _nobody_waits = steps.report.send(Err(error));
            return Ok(());
        }
    };
    let Ok(Next::Listen { listeners, posters }) = steps.done(Step::Service) else { return Ok(()) };
    drop(steps);
    let _guard = StopOnDrop { shared, ended: &shared.service.ended };
    service.listen(listeners, posters)?;
    while service.turn().map_err(|error| error.to_string())? == Turn::Continue {}
    Ok(())
}

struct StopOnDrop<'a> {
    shared: &'a Shared,
    /// Set when the thread has ended.
    ended: &'a AtomicBool,
}

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        if self.shared.stopping().is_none() {
            self.shared.stop(Duration::ZERO);
        }
        self.ended.store(true, Ordering::Release);
        // It ends after the shards.
        self.shared.service.wake();
        if self.shared.service.ended.load(Ordering::Acquire) {
            // Else the shards would wait for connections of a service thread that has failed.
            self.shared.end_accepting();
        }
    }
}
