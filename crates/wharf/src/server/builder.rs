//! The builder: one method for each setting, and `start`.

use crate::engine;
use crate::handler::Handler;
use crate::limits::{MemoryPlan, Settings};
use crate::link::framing::Decoder;
use crate::server::back_end::choose;
use crate::server::running::{Alive, RunningServer, StopReport, start_shards};
use crate::server::signals::StopSignals;
use crate::server::{listen, machine};
use crate::service::ServiceOf;
use crate::shared::Shared;
use crate::shared::handle::Handle;
use crate::vocabulary::address::Address;
use crate::vocabulary::back_end::BackEnd;
use crate::vocabulary::error::{Result, StartError};
use crate::vocabulary::origin::ListenerId;
use crate::vocabulary::policy::WhenFull;
use crate::vocabulary::policy::WhenSlow;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
        Builder { handler, settings, addresses: Vec::new(), types: PhantomData }
    }
}

/// The settings of a server. Only [`start`](Self::start) checks them, allocates memory and opens
/// sockets.
#[must_use]
pub struct Builder<H, S, W> {
    pub(crate) handler: H,
    pub(crate) settings: Settings,
    addresses: Vec<(ListenerId, String)>,
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
    /// Adds an address to listen on, such as `127.0.0.1:9527`, `[::1]:9527` or `localhost:9527`; with
    /// port 0 the system chooses a port. A server needs at least one address.
    pub fn listen(self, address: impl Into<String>) -> Self {
        self.listen_as(ListenerId(0), address)
    }

    /// As [`listen`](Self::listen), with a number by which [`Link::origin`](crate::Link::origin)
    /// tells the listeners apart.
    pub fn listen_as(mut self, listener: ListenerId, address: impl Into<String>) -> Self {
        self.addresses.push((listener, address.into()));
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
    /// do. Loans are granted in the order of the requests. Default 1 s.
    pub fn loan_wait(mut self, time: Duration) -> Self {
        self.settings.loan_wait = time;
        self
    }

    /// Unread bytes of a link at which the server stops reading from it. That is also the longest
    /// message that [`Input::take`](crate::Input::take) can return. 1 to 1 GiB; default 65,536.
    pub fn input_bytes(mut self, bytes: u32) -> Self {
        self.settings.input_bytes = bytes;
        self
    }

    /// Maximum of unsent bytes of a link: at least two grants and two buffers, at most 1 GiB. Half of
    /// it is the high-water mark: a post must not exceed it, and above it `on_receive` is not called.
    /// Default 262,144.
    pub fn output_bytes(mut self, bytes: u32) -> Self {
        self.settings.send_queue_bytes = bytes;
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
    /// [`input_bytes`](Self::input_bytes).
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
    /// for each core, at most 256.
    pub fn shards(mut self, shards: u32) -> Self {
        self.settings.shards = shards;
        self
    }

    /// The backlog of listen(2): connections that the kernel completes before the server accepts them;
    /// 1 to 65,535. Default 1,024. Linux reduces it to `net.core.somaxconn`.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.settings.backlog = connections;
        self
    }

    /// Selects a back end; `start` fails if it is unavailable. Default: the value of the variable
    /// `WHARF_BACKEND`; without it, on Linux io_uring if its probe succeeds, else epoll, and on Windows
    /// IOCP.
    pub fn back_end(mut self, back_end: BackEnd) -> Self {
        self.settings.back_end = Some(back_end);
        self
    }

    /// The memory that `start` will allocate, as a sum with named terms.
    #[must_use]
    pub fn plan(&self) -> MemoryPlan {
        let listeners = u32::try_from(self.addresses.len()).unwrap_or(u32::MAX);
        self.settings.plan(engine::link_size_bytes::<S>(), listeners)
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
    /// On Unix `start` raises the soft limit for open files to the hard limit if the links need more
    /// than the soft one.
    pub fn start(self) -> Result<RunningServer, StartError> {
        self.settings.check()?;
        if self.addresses.is_empty() {
            let fault = "there is no address to listen on; call Builder::listen".to_owned();
            return Err(StartError::settings(&[fault]));
        }
        let mut addresses = Vec::new();
        for (listener, text) in &self.addresses {
            addresses
                .extend(listen::resolve(text)?.into_iter().map(|address| (*listener, address)));
        }
        let listener_count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let plan = self.settings.plan(engine::link_size_bytes::<S>(), listener_count);
        let needed = plan.total_bytes();
        if let Some(available) = machine::memory_available().filter(|there| *there < needed) {
            return Err(StartError::memory(needed, available));
        }
        let files_raised = machine::ensure_files(self.settings.files(listener_count))?;
        let chosen = choose(self.settings.back_end)?;
        let shared = Shared::new(self.settings).map_err(|error| StartError::buffers(&error))?;
        let shared = Arc::new(shared);
        let started = Started::new(Arc::new(self.handler), Handle::new(Arc::clone(&shared)))?;
        let mut listeners = Vec::new();
        let mut bound = Vec::new();
        for (name, address) in addresses {
            let listener = listen::listen(address, shared.settings.backlog)?;
            let address =
                listener.local_addr().map_err(|error| StartError::system("getsockname", error))?;
            bound.push((name, address));
            listeners.push(listener);
        }
        let addresses = bound.iter().map(|(name, address)| (*name, Address::from(*address)));
        let addresses = addresses.collect();
        let _set_once = shared.listeners.set(bound.into());
        let handler = Arc::clone(&started.handler);
        let started: Alive = Arc::new(started);
        // Each thread holds a clone of it; the last thread that ends drops it, which calls `on_stop`.
        let threads = start_shards::<ServiceOf<H, S, W>>(
            chosen.back_end,
            &shared,
            &handler,
            &started,
            listeners,
        )?;
        Ok(RunningServer { shared, chosen, addresses, plan, files_raised, threads })
    }

    /// Starts the server and blocks until it has stopped, for programs that do nothing else. The first
    /// SIGINT or SIGTERM starts a drain of at most 10 s; the second ends the process with status 128 +
    /// its number.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Self::start) and [`RunningServer::wait`].
    pub fn serve(self) -> Result {
        let mut signals = StopSignals::catch()?;
        let running = self.start()?;
        let handle = running.handle();
        let watch = move || {
            if signals.wait(None).is_some() {
                handle.stop(DRAIN);
            }
            if let Some(signal) = signals.wait(None) {
                std::process::exit(128 + signal.number());
            }
        };
        std::thread::Builder::new().name("wharf-signals".to_owned()).spawn(watch)?;
        let StopReport { .. } = running.wait()?;
        Ok(())
    }
}

impl<H, S, W> fmt::Debug for Builder<H, S, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A handler whose `on_start` has succeeded; when this is dropped, `on_stop` is called.
struct Started<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    handler: Arc<H>,
    server: Handle,
    types: PhantomData<fn() -> (S, W)>,
}

impl<H, S, W> Started<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    fn new(handler: Arc<H>, server: Handle) -> Result<Self, StartError> {
        match catch_unwind(AssertUnwindSafe(|| handler.on_start(&server))) {
            Ok(Ok(())) => Ok(Self { handler, server, types: PhantomData }),
            Ok(Err(error)) => Err(StartError::handler(&format!("on_start failed: {error:?}"))),
            Err(_) => Err(StartError::handler("on_start panicked")),
        }
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
        let _reported = catch_unwind(AssertUnwindSafe(|| self.handler.on_stop(&self.server)));
    }
}
