//! Settings, one method each, and the start.

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

/// The entry: [`Server::builder`].
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

/// The settings of a server. Nothing is checked, allocated or opened before [`start`](Self::start).
#[must_use]
pub struct Builder<H, S, W> {
    pub(crate) handler: H,
    pub(crate) settings: Settings,
    addresses: Vec<(ListenerId, String)>,
    types: PhantomData<fn() -> (S, W)>,
}

/// How long [`Builder::serve`] lets links finish.
const DRAIN: Duration = Duration::from_secs(10);

impl<H, S, W> Builder<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// Adds an address to listen on, such as `127.0.0.1:9527`, `[::1]:9527` or `localhost:9527`;
    /// port 0 lets the system choose. At least one is needed.
    pub fn listen(self, address: impl Into<String>) -> Self {
        self.listen_as(ListenerId(0), address)
    }

    /// As [`listen`](Self::listen), with a number by which [`Link::origin`](crate::Link::origin)
    /// tells the listeners apart.
    pub fn listen_as(mut self, listener: ListenerId, address: impl Into<String>) -> Self {
        self.addresses.push((listener, address.into()));
        self
    }

    /// The most open links; 1 to 16,777,215. Default 3,000.
    pub fn links_max(mut self, links: u32) -> Self {
        self.settings.links = links;
        self
    }

    /// How many buffers there are for links and posts, for all shards together; those that wait to be
    /// received into come on top. Default 10,000, or more where the other settings need more.
    ///
    /// Each link is guaranteed one for its input, and the [grant](Self::grant_bytes), rounded up to
    /// buffers, for its output. An eighth is for posts, in smaller pieces: see
    /// [`Recipients::post`](crate::Recipients::post). The rest, the surplus, is lent to links, in both
    /// directions: see [`loan_wait`](Self::loan_wait). [`plan`](Self::plan) shows the figures;
    /// [`start`](Self::start) refuses, with the figures, if it is not enough for one link of each shard
    /// to hold [`input_bytes`](Self::input_bytes) and [`output_bytes`](Self::output_bytes) at once.
    pub fn buffer_count(mut self, buffers: u32) -> Self {
        self.settings.buffers = Some(buffers);
        self
    }

    /// Bytes of a buffer, 64 to 1,048,576. Default 2,048.
    pub fn buffer_size_bytes(mut self, bytes: u32) -> Self {
        self.settings.buffer_size_bytes = bytes;
        self
    }

    /// How long a link may wait for a loan while the surplus is used up. Then the links that have held
    /// most for the longest without progress are closed, as many as it takes:
    /// [`Limit`](crate::DisconnectReason::Limit) if that is unread input,
    /// [`SlowReader`](crate::DisconnectReason::SlowReader) if it is unsent output. A link that waits for
    /// nothing but a loan for its own reply is spared. Loans are granted in order of waiting. Default 1 s.
    pub fn loan_wait(mut self, time: Duration) -> Self {
        self.settings.loan_wait = time;
        self
    }

    /// How many bytes a link may hold unread before it is not read from, and so the longest message that
    /// [`Input::take`](crate::Input::take) can return; 1 to 1 GiB. Default 65,536.
    pub fn input_bytes(mut self, bytes: u32) -> Self {
        self.settings.input_bytes = bytes;
        self
    }

    /// How many bytes can be queued on a link; at least two grants and two buffers, at most 1 GiB. Half
    /// of it is the high-water mark: posts stop there, and above it `on_receive` is not called. Default
    /// 262,144.
    pub fn output_bytes(mut self, bytes: u32) -> Self {
        self.settings.send_queue_bytes = bytes;
        self
    }

    /// The grant: the spare capacity that callbacks find whatever others do, and so the longest reply that
    /// needs no care. (One of up to half of [`output_bytes`](Self::output_bytes) is refused only when
    /// buffers are short.) Default: one buffer. A larger one raises what each link is guaranteed.
    pub fn grant_bytes(mut self, bytes: u32) -> Self {
        self.settings.grant_bytes = Some(bytes);
        self
    }

    /// Declares frames that the handler takes: `start` refuses if the longest is longer than
    /// [`input_bytes`](Self::input_bytes).
    pub fn frames(mut self, decoder: impl Decoder) -> Self {
        let max = decoder.frame_max().unwrap_or(0);
        self.settings.frame_max = self.settings.frame_max.max(max);
        self
    }

    /// How long a link may wait for its peer before [`Handler::on_idle`]. Default 60 s; zero disables it.
    ///
    /// Only what the peer sends ends the wait. A server that pushes to peers which listen and say nothing
    /// disables it, or has `on_idle` answer `Keep`.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle = timeout;
        self
    }

    /// How long a peer may take nothing of what is queued before the link is closed as a slow reader.
    /// Default 30 s; zero disables it for links that are open (closing ones always have 30 s).
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.settings.stall = timeout;
        self
    }

    /// How long a [`Reply`](crate::Reply) may be out before its link is closed with
    /// [`HandlerError`](crate::DisconnectReason::HandlerError). Default 60 s; zero disables it.
    pub fn answer_timeout(mut self, timeout: Duration) -> Self {
        self.settings.answer = timeout;
        self
    }

    /// What happens to posts that find no capacity on a link. Default [`WhenSlow::Skip`].
    pub fn when_slow(mut self, policy: WhenSlow) -> Self {
        self.settings.when_slow = policy;
        self
    }

    /// What to do with connections while all links are taken. Default [`WhenFull::Wait`].
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.settings.when_full = policy;
        self
    }

    /// How many shards, each a thread with its own port, links and buffers; 1 to 256. Default:
    /// one for each core.
    pub fn shards(mut self, shards: u32) -> Self {
        self.settings.shards = shards;
        self
    }

    /// How many connections the system completes before they are accepted. Default 1,024; the
    /// system has a limit of its own (`net.core.somaxconn`).
    pub fn backlog(mut self, connections: u32) -> Self {
        self.settings.backlog = connections;
        self
    }

    /// Insists on a back end. Default: what the variable `WHARF_BACKEND` says, or else io_uring
    /// where it works, and epoll elsewhere.
    pub fn back_end(mut self, back_end: BackEnd) -> Self {
        self.settings.back_end = Some(back_end);
        self
    }

    /// The memory that the start will allocate, as a sum with named terms.
    #[must_use]
    pub fn plan(&self) -> MemoryPlan {
        let listeners = u32::try_from(self.addresses.len()).unwrap_or(u32::MAX);
        self.settings.plan(engine::link_size_bytes::<S>(), listeners)
    }

    /// Starts the server and returns when it accepts links.
    ///
    /// # Errors
    ///
    /// [`StartError`], whose text says what to do. Nothing is left behind then.
    ///
    /// # Platforms
    ///
    /// The soft limit for open files is raised to the hard one if the links need it.
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
        // Each thread has a part of it: the last one that ends calls `on_stop`.
        let threads = start_shards::<ServiceOf<H, S, W>>(
            chosen.back_end,
            &shared,
            &handler,
            &started,
            listeners,
        )?;
        Ok(RunningServer { shared, chosen, addresses, plan, files_raised, threads })
    }

    /// Serves until SIGINT or SIGTERM, for programs that do nothing else: then drains for up to 10 s; a
    /// second signal ends the process.
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
        // A panic here is reported by the hook, and changes nothing.
        let _reported = catch_unwind(AssertUnwindSafe(|| self.handler.on_stop(&self.server)));
    }
}
