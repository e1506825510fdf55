//! Settings, one method each, and the start.

use super::back_end::{BackEnd, choose};
use super::running::{Running, Stopped, start_shards};
use super::shared::Shared;
use super::signals::StopSignals;
use super::{listen, machine};
use crate::engine;
use crate::error::{Result, StartError};
use crate::handler::Handler;
use crate::limits::{MemoryPlan, Settings, WhenFull};
use std::sync::Arc;
use std::time::Duration;

/// The entrance: [`Server::builder`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Server;

impl Server {
    /// A server with the default settings, which listens nowhere yet.
    pub fn builder() -> Builder {
        Builder { settings: Settings::default(), addresses: Vec::new() }
    }
}

/// The settings of a server to be. Nothing is checked, taken or opened before
/// [`start`](Self::start).
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    pub(crate) settings: Settings,
    addresses: Vec<String>,
}

/// How long [`Builder::serve`] lets links finish.
const DRAIN: Duration = Duration::from_secs(10);

impl Builder {
    /// Adds an address to listen on, such as `127.0.0.1:9527`, `[::1]:9527` or `localhost:9527`;
    /// port 0 lets the system choose. At least one is needed.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// The most links at a time. Default 3,000.
    pub fn links(mut self, links: u32) -> Self {
        self.settings.links = links;
        self
    }

    /// How many buffers there are for links and posts, for all shards together; those that wait to be
    /// received into come on top. Default 10,000, or more where the other settings need more.
    ///
    /// Each link is guaranteed one for unread input, and the [grant](Self::grant_bytes) for unsent
    /// output. An eighth is for posted messages. The rest is lent to links, in both directions: see
    /// [`loan_wait`](Self::loan_wait). [`start`](Self::start) refuses, with the figures, if it
    /// is not enough for one link of each shard to hold `input_bytes` and `send_queue` at once.
    pub fn buffers(mut self, buffers: u32) -> Self {
        self.settings.buffers = Some(buffers);
        self
    }

    /// Bytes in a buffer, 64 to 1,048,576: the most that one `on_receive` gets. Default 2,048.
    pub fn buffer_size(mut self, bytes: u32) -> Self {
        self.settings.buffer_size_bytes = bytes;
        self
    }

    /// The most bytes that can wait to be sent on a link, and so the largest message; at least two
    /// buffers and twice the [grant](Self::grant_bytes). Default 262,144.
    ///
    /// Half of it is the high-water mark. Above that the handler is not called with input, which
    /// stays unread until the peer has read, and posted messages and broadcasts are left out.
    pub fn send_queue(mut self, bytes: u32) -> Self {
        self.settings.send_queue_bytes = bytes;
        self
    }

    /// How long a link may send nothing before [`Handler::on_idle`] is called, which closes it by
    /// default. Zero: for ever. Default 60 s.
    pub fn idle(mut self, timeout: Duration) -> Self {
        self.settings.idle = timeout;
        self
    }

    /// The most bytes that a link may hold unread before it is not read from. Default 65,536.
    pub fn input_bytes(mut self, bytes: u32) -> Self {
        self.settings.input_bytes = bytes;
        self
    }

    /// The grant: the room for its answer that a callback finds, whatever other links do, rounded
    /// up to buffers. Default: one buffer. A larger one raises what each link is guaranteed.
    pub fn grant_bytes(mut self, bytes: u32) -> Self {
        self.settings.grant_bytes = Some(bytes);
        self
    }

    /// How long a link may wait for buffers beyond its guarantee while all that can be lent is out.
    /// Then the links that have held most for the longest without progress are closed, as many as
    /// it takes. Default 1 s.
    pub fn loan_wait(mut self, time: Duration) -> Self {
        self.settings.loan_wait = time;
        self
    }

    /// How long a peer may take nothing of what is queued before its link is closed as a slow
    /// reader. Default 30 s; zero disables it for open links (closing ones always have 30 s).
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.settings.stall = timeout;
        self
    }

    /// How many shards, each a thread with its own port, links and buffers; 1 to 256. Default:
    /// one for each core.
    pub fn shards(mut self, shards: u32) -> Self {
        self.settings.shards = shards;
        self
    }

    /// What to do with connections while all links are taken. Default [`WhenFull::Wait`].
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.settings.when_full = policy;
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

    /// The memory that a server with these settings takes at start, as a sum with named terms.
    #[must_use]
    pub fn plan<H: Handler>(&self) -> MemoryPlan {
        let listeners = u32::try_from(self.addresses.len()).unwrap_or(u32::MAX);
        self.settings.plan(engine::link_size_bytes::<H::State>(), listeners)
    }

    /// Starts the server and returns when it takes links.
    ///
    /// # Errors
    ///
    /// [`StartError`], whose text says what to do. Nothing is left behind then.
    ///
    /// # Platforms
    ///
    /// The soft limit for open files is raised to the hard one if the links need it.
    pub fn start<H: Handler>(self, handler: H) -> Result<Running, StartError> {
        self.settings.check()?;
        if self.addresses.is_empty() {
            return Err(StartError::Settings(vec!["there is no address to listen on".to_owned()]));
        }
        let mut addresses = Vec::new();
        for text in &self.addresses {
            addresses.extend(listen::resolve(text)?);
        }
        let listener_count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let plan = self.settings.plan(engine::link_size_bytes::<H::State>(), listener_count);
        let needed = plan.total_bytes();
        if let Some(available) = machine::memory_available().filter(|there| *there < needed) {
            return Err(StartError::Memory { needed, available });
        }
        let files_raised = machine::ensure_files(self.settings.files(listener_count))?;
        let chosen = choose(self.settings.back_end)?;
        let mut listeners = Vec::new();
        for address in addresses {
            listeners.push(listen::listen(address, self.settings.backlog)?);
        }
        let addresses = listeners.iter().map(std::net::TcpListener::local_addr);
        let addresses = addresses
            .collect::<std::io::Result<_>>()
            .map_err(|source| StartError::System { doing: "getsockname", source })?;
        let shared = Arc::new(Shared::new(self.settings).map_err(StartError::Buffers)?);
        let threads = start_shards(chosen.back_end, &shared, &Arc::new(handler), listeners)?;
        Ok(Running { shared, chosen, addresses, plan, files_raised, threads })
    }

    /// Serves until SIGINT or SIGTERM, for programs that do nothing else: drains for up to 10 s
    /// then, and a second signal ends the process at once.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Self::start) and [`Running::wait`].
    pub fn serve<H: Handler>(self, handler: H) -> Result {
        let mut signals = StopSignals::catch()?;
        let running = self.start(handler)?;
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
        let Stopped { .. } = running.wait()?;
        Ok(())
    }
}
