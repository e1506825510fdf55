//! The builder: one method for each setting, and `start`.

use crate::engine;
use crate::engine::callbacks::call_for;
use crate::engine::packets::{Every, PacketPlans, Packets};
use crate::guard::catch_user_panic;
use crate::handler::{Handler, OnPost};
use crate::limits::{AskedBackEnd, MemoryPlan, Settings};
use crate::link::framing::Decoder;
use crate::server::back_end::choose;
use crate::server::files::Reservation;
use crate::server::running::{Alive, RunningServer, prepare_shards};
use crate::server::signals::StopSignals;
use crate::server::{listen, machine};
use crate::service::ServiceOf;
use crate::shared::Shared;
use crate::shared::handle::Handle;
use crate::shared::packets::Inbox;
use crate::shared::service_thread::StalledCallback;
use crate::vocabulary::address::Address;
use crate::vocabulary::back_end::BackEnd;
use crate::vocabulary::error::{Error, Result, StartError, StartErrorKind};
use crate::vocabulary::origin::ListenerId;
use crate::vocabulary::policy::WhenFull;
use crate::vocabulary::policy::WhenSlow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

/// The entry point of the crate: [`Server::builder`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Server;

impl Server {
    /// A server for `handler` with the default settings and no listener.
    pub fn builder<H, S, W>(handler: H) -> Builder<H, S, W>
    where
        H: Handler<S, W>,
        S: Send + 'static,
        W: 'static,
    {
        let settings = Settings::default();
        let (addresses, packets) = (Vec::new(), PacketPlans(Vec::new()));
        Builder { handler, settings, addresses, packets, types: PhantomData }
    }
}

/// The settings of a server. Only [`start`](Self::start) checks them, allocates memory and opens
/// sockets.
#[must_use]
pub struct Builder<H, S, W> {
    pub(crate) handler: H,
    pub(crate) settings: Settings,
    addresses: Vec<(ListenerId, String)>,
    pub(crate) packets: PacketPlans<H, W>,
    types: PhantomData<fn() -> (S, W)>,
}

/// Drain timeout of [`Builder::serve`].
const DRAIN: Duration = Duration::from_secs(10);

impl<H, S, W> Builder<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// Adds an address to listen on, such as `127.0.0.1:9527`, `[::1]:9527`, `[fe80::1%eth0]:9527` or
    /// `localhost:9527`; with port 0 the system chooses a port. A server needs at least one address.
    ///
    /// `0.0.0.0` stands for all IPv4 addresses of the machine, and `[::]` for all IPv6 addresses: see
    /// [`dual_stack`](Self::dual_stack). Of a name with several addresses, the server listens on those
    /// that the machine has, and logs a warning for the others; it needs at least one. They have the
    /// same port.
    pub fn listen(self, address: impl Into<String>) -> Self {
        self.listen_as(ListenerId(0), address)
    }

    /// As [`listen`](Self::listen), with a number by which [`Link::origin`](crate::Link::origin)
    /// tells the listeners apart.
    pub fn listen_as(mut self, listener: ListenerId, address: impl Into<String>) -> Self {
        self.addresses.push((listener, address.into()));
        self
    }

    /// Whether listeners on IPv6 addresses accept IPv4, too. Default false: a server listens on
    /// `0.0.0.0` and on `[::]`, with the same port, to accept both. With true, `[::]` accepts both on
    /// one listener; the addresses of IPv4 peers are then written as IPv6, such as `::ffff:192.0.2.7`.
    pub fn dual_stack(mut self, dual_stack: bool) -> Self {
        self.settings.dual_stack = dual_stack;
        self
    }

    /// Maximum number of open links, 1 to 16,777,215, and at least one for each shard. Default 3,000.
    pub fn links_max(mut self, links: u32) -> Self {
        self.settings.links = links;
        self
    }

    /// Number of buffers for links and posts, of all shards together, 1 to 16,777,216; the port's
    /// receive buffers are added to it. Default 10,000, or more where the other settings need more.
    ///
    /// Each link is guaranteed one for its input, and the [grant](Self::grant_bytes), rounded up to
    /// buffers, for its output. An eighth, or what the longest post needs if that is more, is for posts
    /// and divided into smaller buffers: see [`Recipients::post`](crate::Recipients::post). The rest is
    /// the surplus, which links borrow for input and for output: see [`loan_wait`](Self::loan_wait).
    /// [`plan`](Self::plan) shows the numbers. [`start`](Self::start) fails with the numbers if in each
    /// shard one link could not hold [`input_bytes`](Self::input_bytes) and
    /// [`output_bytes`](Self::output_bytes) at once.
    pub fn buffer_count(mut self, buffers: u32) -> Self {
        self.settings.buffers = Some(buffers);
        self
    }

    /// Size of a buffer in bytes, 64 to 1,048,576. Default 2,048.
    pub fn buffer_size_bytes(mut self, bytes: u32) -> Self {
        self.settings.buffer_size_bytes = bytes;
        self
    }

    /// Time that a link waits for a loan before the server revokes loans of other links. It then closes
    /// the links whose borrowed buffers, times the time without progress, are most, until the waiting
    /// links can borrow: with [`Limit`](crate::DisconnectReason::Limit) if more of these buffers hold
    /// unread input than unsent output, else with [`SlowReader`](crate::DisconnectReason::SlowReader).
    /// A link that only waits for a loan for its own reply is not closed, unless all that hold loans
    /// do. Loans are granted in the order of the requests. Default 1 s; zero is refused.
    pub fn loan_wait(mut self, time: Duration) -> Self {
        self.settings.loan_wait = time;
        self
    }

    /// Unread bytes of a link at which the server stops reading from it. That is also the longest
    /// message that [`Input::take`](crate::Input::take) can return. 1 to 1 GiB; default 65,536, or the
    /// longest of the declared [`frames`](Self::frames).
    pub fn input_bytes(mut self, bytes: u32) -> Self {
        (self.settings.input_bytes, self.settings.input_set) = (bytes, true);
        self
    }

    /// Maximum of unsent bytes of a link: at least two grants and two buffers, at most 1 GiB. Half of
    /// it is the high-water mark: a post must not exceed it, and above it `on_receive` is not called.
    /// Default 262,144, or more where the grant or the buffers need more.
    pub fn output_bytes(mut self, bytes: u32) -> Self {
        (self.settings.send_queue_bytes, self.settings.send_queue_set) = (bytes, true);
        self
    }

    /// The grant: the spare capacity that each callback with input finds, whatever other links hold. A
    /// reply of up to the grant cannot fail with [`Full`](crate::SendError::Full); a longer one, of up
    /// to half of [`output_bytes`](Self::output_bytes), fails only if no buffers can be borrowed. 1
    /// byte to half of `output_bytes`; default: one buffer. A larger grant raises the guaranteed
    /// buffers of each link.
    pub fn grant_bytes(mut self, bytes: u32) -> Self {
        self.settings.grant_bytes = Some(bytes);
        self
    }

    /// Declares frames that the handler takes: `start` fails if the longest frame has more than
    /// [`input_bytes`](Self::input_bytes), if that is set.
    pub fn frames(mut self, decoder: impl Decoder) -> Self {
        let max = decoder.frame_max().unwrap_or(0);
        self.settings.frame_max = self.settings.frame_max.max(max);
        self
    }

    /// Time that a link waits for its peer before the server calls [`Handler::on_idle`]. Default 60 s;
    /// zero disables it.
    ///
    /// Received bytes restart it; while the link has unsent bytes, a deferred reply or a pause, it
    /// stands still. A server whose peers only receive disables it, or returns `Keep` from `on_idle`.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle = timeout;
        self
    }

    /// Time in which the peer acknowledges none of the unsent bytes, before the server closes the link
    /// with [`SlowReader`](crate::DisconnectReason::SlowReader). Default 30 s. Zero disables it for
    /// open links; a closing link then has 30 s.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.settings.stall = timeout;
        self
    }

    /// Time from [`Input::defer`](crate::Input::defer) in which the [`Reply`](crate::Reply) must be
    /// sent, before the server closes its link with
    /// [`HandlerError`](crate::DisconnectReason::HandlerError). Default 60 s; zero disables it.
    pub fn answer_timeout(mut self, timeout: Duration) -> Self {
        self.settings.answer = timeout;
        self
    }

    /// Time after which a callback that has not returned is reported: once in the log, with its worker,
    /// link, unread bytes and time, in [`Stats::stalls`](crate::Stats::stalls), and in
    /// [`Handle::stalled`](crate::Handle::stalled) as long as it runs. Its shard gets new connections
    /// only when the others are full. Default 1 s; zero disables it. A report is up to a quarter late.
    pub fn report_callbacks_after(mut self, time: Duration) -> Self {
        self.settings.report_callbacks_after = time;
        self
    }

    /// Has the workers receive the packets that are posted into `inbox`: see [`inbox`](crate::inbox).
    /// May be called for several types of packets.
    pub fn inbox<P: Send + 'static>(mut self, inbox: Inbox<P>) -> Self
    where
        H: OnPost<P, W>,
    {
        self.settings.packet_bytes += inbox.size_bytes();
        self.packets.0.push(Box::new(inbox));
        self
    }

    /// Posts a clone of `packet` to each worker again and again: the first after `time`, 1 ms at least.
    /// The service thread keeps the time, and ticks that a busy worker has missed come as one. A panic of
    /// the clone fails the start, and later counts as one of [`on_post`](OnPost::on_post).
    pub fn every<P: Clone + Send + 'static>(mut self, time: Duration, packet: P) -> Self
    where
        H: OnPost<P, W>,
    {
        self.settings.packet_bytes += size_of::<P>() as u64;
        let every = time.max(Duration::from_millis(1));
        self.packets.0.push(Box::new(Every { every, packet }));
        self
    }

    /// What the server does with a post that exceeds the capacity of a link. Default
    /// [`WhenSlow::Skip`].
    pub fn when_slow(mut self, policy: WhenSlow) -> Self {
        self.settings.when_slow = policy;
        self
    }

    /// What the server does with connections while all links are in use. Default [`WhenFull::Wait`].
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.settings.when_full = policy;
        self
    }

    /// Number of shards, 1 to 256; each is a thread with its own port, links and buffers. Default: one
    /// for each core, at most 256, and no more than the other settings suffice for.
    pub fn shards(mut self, shards: u32) -> Self {
        (self.settings.shards, self.settings.shards_set) = (shards, true);
        self
    }

    /// Size of the stack of a shard's thread, which runs the handler: 262,144 to 1 GiB. Default
    /// 2,097,152. Space for copies of a link's state and a worker's context comes on top. The plan counts
    /// all of a size that is set, of the default only what the engine uses.
    pub fn stack_bytes(mut self, bytes: u32) -> Self {
        self.settings.stack_bytes = Some(bytes);
        self
    }

    /// The backlog of listen(2): connections that the kernel completes before the server accepts them;
    /// 1 to 65,535. Default 1,024. Linux reduces it to `net.core.somaxconn`.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.settings.backlog = connections;
        self
    }

    /// Trusts the proxies of a network, such as `10.0.0.0/8`, `fd00::/8` or `127.0.0.1`: their
    /// connections must begin with a header of the
    /// [PROXY protocol](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt), version 1 or 2.
    /// May be called several times. Default: no proxy is trusted, and a header is input like any other.
    ///
    /// [`Link::peer`](crate::Link::peer) is then the client that the header names, or the proxy itself
    /// if it names none (`UNKNOWN`, `LOCAL`, Unix addresses). The handler is called first when the
    /// header has arrived. The server closes a connection whose header is missing, malformed, longer
    /// than 1,024 bytes, or later than 5 s, and counts it in
    /// [`Stats::proxy_errors`](crate::Stats::proxy_errors). Connections from other addresses have no
    /// header. Anybody in the network can claim any address, so name the proxies alone.
    ///
    /// [`start`](Self::start) fails if the text is no network, or
    /// [`buffer_size_bytes`](Self::buffer_size_bytes) is less than 1,024.
    pub fn proxy_protocol(mut self, network: impl AsRef<str>) -> Self {
        self.settings.proxies.add(network.as_ref());
        self
    }

    /// Selects a back end; `start` fails if it is unavailable. Default: the value of the variable
    /// `WHARF_BACKEND`; without it that of [`best_back_end`](Self::best_back_end).
    pub fn back_end(mut self, back_end: BackEnd) -> Self {
        self.settings.back_end = AskedBackEnd::Named(back_end);
        self
    }

    /// Selects the best back end that is available, whatever the variable `WHARF_BACKEND` says: on
    /// Linux io_uring if its probe succeeds and each shard gets its ring, else epoll, and on Windows
    /// IOCP. [`RunningServer::back_end`] has the reason if it is not the first.
    pub fn best_back_end(mut self) -> Self {
        self.settings.back_end = AskedBackEnd::Best;
        self
    }

    /// The memory that `start` will allocate, as a sum with named terms.
    ///
    /// # Errors
    ///
    /// Settings that are out of range or contradict each other, all of them, as `start` does.
    pub fn plan(&self) -> Result<MemoryPlan, StartError> {
        let settings = self.settings.checked()?;
        let listeners = Settings::check_listeners(self.addresses.len().max(1))?;
        Ok(settings.plan(engine::sizes::<S, W>(), listeners))
    }

    /// Starts the server and returns when its shards run.
    ///
    /// # Errors
    ///
    /// [`StartError`], whose text names the remedy. The threads that `start` had started have ended
    /// then, and its sockets are closed.
    ///
    /// # Platforms
    ///
    /// On Unix `start` raises the soft limit for open files to the hard limit if the soft one is below
    /// what this server and the other servers of the process may open, and 64 more than are open.
    pub fn start(self) -> Result<RunningServer, StartError> {
        self.start_when(|| Ok(())).map(|(running, ())| running)
    }

    /// Starts the server. `ready` is called when all is made, before the first connection is accepted.
    fn start_when<T>(
        self,
        ready: impl FnOnce() -> Result<T, StartError>,
    ) -> Result<(RunningServer, T), StartError> {
        let Self { handler, settings, addresses, .. } = self;
        let handler = Unstarted(Some(Arc::new(handler)));
        let settings = settings.checked()?;
        Settings::check_listeners(addresses.len())?;
        let targets = listen::resolve_all(&addresses)?;
        let count = targets.iter().map(|(_, target)| target.addresses.len()).sum();
        let listener_count = Settings::check_listeners(count)?;
        let plan = settings.plan(engine::sizes::<S, W>(), listener_count);
        machine::check_memory(plan.total_bytes(), settings.shards + 1)?;
        let mut chosen = choose(settings.back_end)?;
        let shared = Shared::new(settings).map_err(|error| StartError::buffers(&error))?;
        let shared = Arc::new(shared);
        let files = Reservation::new(&shared, listener_count)?;
        let files_raised = files.raised;
        let started = Started::new(handler, Handle::new(Arc::clone(&shared)), files)?;
        let listening = listen::listen_all(&targets, &shared.settings)?;
        let bound = listening.iter().map(|listening| (listening.id, listening.address));
        let _set_once = shared.listeners.set(bound.clone().collect());
        let addresses = bound.map(|(id, address)| (id, Address::from(address))).collect();
        let listeners = listening.into_iter().map(|listening| listening.socket).collect();
        let handler = started.handler();
        let started: Alive = Arc::new(started);
        // Declared after `started`, so that it is dropped before it.
        let handler = handler;
        // Each thread holds a clone of `started`; the last thread that ends drops it, which calls
        // `on_stop`.
        let open_packets = || {
            let open = || Ok(Packets::open(&self.packets, &handler, &shared));
            let packets = call_for("the clone of a packet", open);
            let packets = packets.map_err(|reason| StartError::handler(&reason))?;
            packets.map_err(|error| StartError::buffers(&error))
        };
        let prepare = |back_end| {
            prepare_shards::<ServiceOf<H, S, W>>(
                back_end,
                &shared,
                &handler,
                &started,
                (listener_count, open_packets()?),
            )
        };
        let prepared = match prepare(chosen.back_end) {
            // The probe's ring is small: a limit can allow it and no larger one.
            Err(error) if error.kind() == StartErrorKind::BackEnd => {
                let fallback = chosen.fallback(shared.settings.back_end, &error);
                chosen = fallback.ok_or(error)?;
                prepare(chosen.back_end)
            }
            prepared => prepared,
        }?;
        let ready = ready()?;
        let (threads, ends) = prepared.begin(listeners)?;
        let running =
            RunningServer { shared, chosen, addresses, plan, files_raised, threads, ends };
        Ok((running, ready))
    }

    /// Starts the server and blocks until it has stopped, for programs that do nothing else. The first
    /// SIGINT or SIGTERM starts a drain of at most 10 s; the second ends the process with status 128 +
    /// its number.
    ///
    /// The signals are caught when the start has succeeded, as [`StopSignals::catch`] does, and no
    /// longer when this returns. If callbacks have not returned 5 s after the drain timeout, this returns
    /// an error that names them.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Self::start) and [`RunningServer::wait`].
    pub fn serve(self) -> Result {
        let catch = || {
            let signals = StopSignals::catch()?;
            let waker = signals.waker()?;
            Ok((signals, waker))
        };
        let (running, (mut signals, waker)) = self.start_when(|| {
            catch().map_err(|error| StartError::system("catching signals", error))
        })?;
        let handle = running.handle();
        let watch = move || {
            if signals.wait(None).is_some() {
                handle.stop(DRAIN);
                if let Some(signal) = signals.wait(None) {
                    std::process::exit(128 + signal.number());
                }
            }
        };
        let handle = running.handle();
        let watcher = std::thread::Builder::new().name("wharf-signals".to_owned()).spawn(watch);
        if watcher.is_err() {
            handle.stop(Duration::ZERO);
        }
        let stopped = if running.ends_in_time() {
            running.wait().map(drop)
        } else {
            Err(Error::msg(not_ended(&handle.stalled())))
        };
        waker.wake();
        let _it_cannot_panic = watcher?.join();
        stopped
    }
}

/// Why a server does not end.
fn not_ended(stalled: &[StalledCallback]) -> String {
    if stalled.is_empty() {
        return "the server does not end: on_stop or a drop of the handler's has not returned"
            .to_owned();
    }
    let callbacks: Vec<_> = stalled.iter().map(ToString::to_string).collect();
    format!("callbacks have not returned, and the server cannot end: {}", callbacks.join("; "))
}

impl<H, S, W> fmt::Debug for Builder<H, S, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A handler whose `on_start` has not succeeded. There are no counters that could take a panic of its
/// drop, which is only caught.
struct Unstarted<H>(Option<Arc<H>>);

impl<H> Drop for Unstarted<H> {
    fn drop(&mut self) {
        catch_user_panic(|| drop(self.0.take()));
    }
}

/// A handler whose `on_start` has succeeded; when this is dropped, `on_stop` is called, and the handler
/// is dropped.
struct Started<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// `None` in the drop.
    handler: Option<Arc<H>>,
    server: Handle,
    _files: Arc<Reservation>,
    types: PhantomData<fn() -> (S, W)>,
}

impl<H, S, W> Started<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    fn new(
        mut unstarted: Unstarted<H>,
        server: Handle,
        files: Arc<Reservation>,
    ) -> Result<Self, StartError> {
        let Some(handler) = &unstarted.0 else { unreachable!("only this and the drop take it") };
        match call_for("on_start", || handler.on_start(&server)) {
            Ok(()) => {
                let handler = unstarted.0.take();
                Ok(Self { handler, server, _files: files, types: PhantomData })
            }
            Err(reason) => Err(StartError::handler(&reason)),
        }
    }

    fn handler(&self) -> Arc<H> {
        let Some(handler) = &self.handler else { unreachable!("only the drop takes it") };
        Arc::clone(handler)
    }
}

impl<H, S, W> Drop for Started<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    fn drop(&mut self) {
        // The panic hook reports a panic in `on_stop`; the stop continues.
        let Some(handler) = self.handler.take() else { return };
        catch_user_panic(|| handler.on_stop(&self.server));
        if !catch_user_panic(|| drop(handler)) {
            self.server.count_handler_panic();
        }
        self.server.end();
    }
}
