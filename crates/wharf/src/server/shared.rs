//! What the shards of one server and its handles share.

use crate::error::SendError;
use crate::handler::DisconnectReason;
use crate::limits::Settings;
use crate::link::LinkId;
use crate::plant::{EnginePlant, Planted};
use crate::stats::{ShardStats, Stats, sum};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wharf_port::memory::{Ledger, LedgerView, MemoryError, Message, MessagePool};
use wharf_port::port::{PostError, Poster};

/// A command from one thread to a shard. `S` is a connection.
#[derive(Debug)]
pub(crate) enum Command<S> {
    /// Take over this connection, for which a place has been counted.
    Adopt {
        stream: S,
        peer: SocketAddr,
    },
    Send {
        link: LinkId,
        message: Message,
    },
    Broadcast {
        message: Message,
        except: Option<LinkId>,
    },
    Close {
        link: LinkId,
    },
}

/// A shard's inbox, without the type of its connections.
pub(crate) trait Inlet: Send + Sync {
    fn send(&self, link: LinkId, message: Message) -> Result<(), SendError>;
    fn broadcast(&self, message: Message, except: Option<LinkId>) -> Result<(), SendError>;
    fn close(&self, link: LinkId) -> Result<(), SendError>;
    fn wake(&self);
}

impl<S: Send> Inlet for Poster<Command<S>> {
    fn send(&self, link: LinkId, message: Message) -> Result<(), SendError> {
        self.post(Command::Send { link, message }).map_err(|error| refusal(&error))
    }

    fn broadcast(&self, message: Message, except: Option<LinkId>) -> Result<(), SendError> {
        self.post(Command::Broadcast { message, except }).map_err(|error| refusal(&error))
    }

    fn close(&self, link: LinkId) -> Result<(), SendError> {
        self.post(Command::Close { link }).map_err(|error| refusal(&error))
    }

    fn wake(&self) {
        Self::wake(self);
    }
}

fn refusal<T>(error: &PostError<T>) -> SendError {
    match error {
        PostError::Closed(_) => SendError::Gone,
        _ => SendError::Busy,
    }
}

/// One server.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) shards: Box<[Shard]>,
    /// Buffers for messages that cross threads or go to many links: each shard's own, and those
    /// of all other threads.
    pub(crate) posts: Box<[MessagePool]>,
    /// How often a message was refused because its sender's buffers were used up.
    posts_refused: AtomicU64,
    /// The accepting shard waits for a place to become free.
    pub(crate) room_wanted: AtomicBool,
    /// Says no, always, outside of a simulation.
    pub(crate) planted: Planted,
    /// Links that the loan rule has closed.
    #[cfg(feature = "sim")]
    pub(crate) revoked: crate::sim::Revoked,
    stopping: AtomicBool,
    /// The accepting shard may still hand connections over.
    accepting: AtomicBool,
    /// How long the drain may take, in nanoseconds.
    drain_ns: AtomicU64,
}

/// What others see of a shard.
pub(crate) struct Shard {
    pub(crate) stats: Arc<ShardStats>,
    /// Places taken or promised.
    pub(crate) open: AtomicU32,
    /// The generation of each place's last link: lets a stale name be refused at once.
    generations: Box<[AtomicU32]>,
    reached: OnceLock<(Box<dyn Inlet>, LedgerView)>,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard").field("open", &self.open).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Result<Self, MemoryError> {
        let places = settings.links_per_shard();
        let shard = |_| Shard {
            stats: Arc::default(),
            open: AtomicU32::new(0),
            generations: (0..places).map(|_| AtomicU32::new(0)).collect(),
            reached: OnceLock::new(),
        };
        let posts = (0..=settings.shards).map(|_| MessagePool::new(settings.post_pool()));
        Ok(Self {
            shards: (0..settings.shards).map(shard).collect(),
            posts: posts.collect::<Result<_, _>>()?,
            settings,
            posts_refused: AtomicU64::new(0),
            room_wanted: AtomicBool::new(false),
            planted: Planted::default(),
            #[cfg(feature = "sim")]
            revoked: crate::sim::Revoked::default(),
            stopping: AtomicBool::new(false),
            accepting: AtomicBool::new(true),
            drain_ns: AtomicU64::new(0),
        })
    }

    /// Says how a shard is reached; once, before the server is running.
    pub(crate) fn connect(&self, shard: usize, inlet: Box<dyn Inlet>, buffers: LedgerView) {
        let _set_once = self.shards[shard].reached.set((inlet, buffers));
    }

    pub(crate) fn inlet(&self, shard: usize) -> Option<&dyn Inlet> {
        Some(&*self.shards.get(shard)?.reached.get()?.0)
    }

    /// Notes that a place has a new link, or (with the next generation) none.
    pub(crate) fn note_generation(&self, link: LinkId, alive: bool) {
        let place = &self.shards[link.shard()].generations[link.index() as usize];
        place.store(if alive { link.generation() } else { 0 }, Ordering::Relaxed);
    }

    /// Whether the link is alive, as far as another thread can know.
    pub(crate) fn is_alive(&self, link: LinkId) -> bool {
        self.shards
            .get(link.shard())
            .and_then(|shard| shard.generations.get(link.index() as usize))
            .is_some_and(|place| {
                place.load(Ordering::Relaxed) == link.generation()
                    || self.planted.is(EnginePlant::SkipGeneration)
            })
    }

    /// The sender of posts that is no shard: any other thread.
    pub(crate) fn outside(&self) -> usize {
        self.shards.len()
    }

    /// A copy of `data` that any shard can send, out of the sender's own buffers.
    pub(crate) fn message(&self, sender: usize, data: &[u8]) -> Result<Message, SendError> {
        if data.len() > self.settings.high_water_bytes() as usize {
            return Err(SendError::TooLarge);
        }
        if self.planted.is(EnginePlant::RefusePosts) {
            return Err(SendError::NoBuffers);
        }
        self.posts[sender].message_of(data).map_err(|_| {
            // The shards look who keeps messages from coming home.
            self.posts_refused.fetch_add(1, Ordering::Relaxed);
            self.wake_all();
            SendError::NoBuffers
        })
    }

    pub(crate) fn posts_refused(&self) -> u64 {
        self.posts_refused.load(Ordering::Relaxed)
    }

    /// Posts a broadcast to every shard but one.
    pub(crate) fn broadcast_to_shards(
        &self,
        message: &Message,
        except: Option<LinkId>,
        skip: Option<u8>,
    ) -> Result<(), SendError> {
        let mut result = Ok(());
        for shard in 0..self.shards.len() {
            if skip.map(usize::from) == Some(shard) {
                continue;
            }
            let posted = match self.inlet(shard) {
                Some(inlet) => inlet.broadcast(message.clone(), except),
                None => Err(SendError::Gone),
            };
            result = result.and(posted);
        }
        result
    }

    /// Places that are free in all shards together.
    pub(crate) fn room(&self) -> u32 {
        // SeqCst: ordered with `room_wanted`, see `give_place_back`.
        let open: u32 = self.shards.iter().map(|shard| shard.open.load(Ordering::SeqCst)).sum();
        self.settings.links.saturating_sub(open)
    }

    /// Takes a place in the shard with the fewest links; `None` if every place is taken.
    pub(crate) fn take_place(&self) -> Option<usize> {
        if self.room() == 0 {
            return None;
        }
        let places = self.settings.links_per_shard();
        let open = |shard: &usize| self.shards[*shard].open.load(Ordering::Relaxed);
        let shard = (0..self.shards.len()).min_by_key(open)?;
        if open(&shard) >= places {
            return None;
        }
        self.shards[shard].open.fetch_add(1, Ordering::SeqCst);
        Some(shard)
    }

    /// Gives back a place that was not used after all; nobody waits for that but who took it.
    pub(crate) fn leave_place(&self, shard: usize) {
        self.shards[shard].open.fetch_sub(1, Ordering::SeqCst);
    }

    /// Gives a place back, and wakes the accepting shard if it waits for one.
    ///
    /// That shard first says that it wants room and then counts; here the count changes first and
    /// the wish is read after. All four are `SeqCst`, so one of the two sees the other.
    pub(crate) fn give_place_back(&self, shard: usize) {
        if self.planted.strikes(EnginePlant::LosePlace) {
            return;
        }
        self.shards[shard].open.fetch_sub(1, Ordering::SeqCst);
        if self.room_wanted.load(Ordering::SeqCst)
            && self.room_wanted.swap(false, Ordering::SeqCst)
            && !self.planted.is(EnginePlant::ForgetRoomWake)
            && let Some(inlet) = self.inlet(0)
        {
            inlet.wake();
        }
    }

    /// Asks all shards to drain within `drain`; a later call changes how long that may take.
    pub(crate) fn stop(&self, drain: Duration) {
        let drain_ns = u64::try_from(drain.as_nanos()).unwrap_or(u64::MAX);
        self.drain_ns.store(drain_ns, Ordering::Relaxed);
        // Release pairs with the acquire in `stopping`.
        self.stopping.store(true, Ordering::Release);
        self.wake_all();
    }

    /// The accepting shard hands nothing over any more: the others may end.
    pub(crate) fn end_accepting(&self) {
        // AcqRel: what was handed over before is in the inboxes for whoever sees it.
        if self.accepting.swap(false, Ordering::AcqRel) {
            self.wake_all();
        }
    }

    pub(crate) fn is_accepting(&self) -> bool {
        self.accepting.load(Ordering::Acquire)
    }

    fn wake_all(&self) {
        for shard in 0..self.shards.len() {
            if let Some(inlet) = self.inlet(shard) {
                inlet.wake();
            }
        }
    }

    /// How long the drain may take, if the server is stopping.
    pub(crate) fn stopping(&self) -> Option<Duration> {
        let stopping = self.stopping.load(Ordering::Acquire);
        stopping.then(|| Duration::from_nanos(self.drain_ns.load(Ordering::Relaxed)))
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats {
            links_limit: self.settings.links,
            post_buffers: self
                .posts
                .iter()
                .fold(Ledger::default(), |all, posts| sum(all, posts.ledger())),
            ..Stats::default()
        };
        for shard in &self.shards {
            stats.add(&shard.stats, shard.open.load(Ordering::Relaxed));
            let ledger =
                shard.reached.get().map_or(Ledger::default(), |(_, buffers)| buffers.ledger());
            stats.buffers = sum(stats.buffers, ledger);
        }
        stats
    }

    /// Counts a link's end.
    pub(crate) fn count_close(&self, shard: u8, reason: DisconnectReason) {
        self.shards[usize::from(shard)].stats.closes[reason as usize].add(1);
    }
}
