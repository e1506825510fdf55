//! The state that the shards and handles of one server share.

pub(crate) mod accepted;
pub(crate) mod current;
pub(crate) mod handle;
pub(crate) mod marks;
pub(crate) mod message;
pub(crate) mod packets;
pub(crate) mod payload;
pub(crate) mod quota;
pub(crate) mod reply;
pub(crate) mod running;
pub(crate) mod service_thread;

use crate::limits::Settings;
use crate::shared::accepted::{Accepted, Connection};
use crate::shared::marks::{Mark, Marks};
use crate::shared::payload::{DoesNotFit, Parts, Payload};
use crate::shared::quota::{Quotas, Refusal};
use crate::shared::reply::ReplyCell;
use crate::shared::running::RunningCallback;
use crate::shared::service_thread::{ServiceShared, StalledCallback};
use crate::stats::{ShardStats, Stats, sum};
use crate::vocabulary::error::PostError;
use crate::vocabulary::id::{LinkKey, ServerId};
use crate::vocabulary::origin::ListenerId;
use crate::vocabulary::policy::WhenSlow;
use crate::vocabulary::reason::DisconnectReason;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use wharf_port::memory::{
    BufferCounts, LedgerView, MemoryError, Message, MessageBuilder, MessageLedgerView, MessagePool,
    MessagePoolConfig, NoBuffers, try_table, try_with_capacity,
};
use wharf_port::port::{Port, Poster};

#[expect(
    clippy::disallowed_types,
    reason = "held while a broadcast is put into the shards' inboxes; no callback runs meanwhile"
)]
type Lock<T> = std::sync::Mutex<T>;

/// A port whose packets are commands.
pub(crate) trait ShardPort:
    Port<Packet = Command<<Self as Port>::Stream>, Stream: Connection>
{
}

impl<P: Port<Packet = Command<<P as Port>::Stream>, Stream: Connection>> ShardPort for P {}

/// A command to a shard. `S` is the type of a connection.
#[derive(Debug)]
pub(crate) enum Command<S: Connection> {
    /// Open a link for this connection, for which a slot is reserved.
    OpenLink(Accepted<S>),
    /// Queue a message on a link.
    Post { link: LinkKey, message: Message },
    /// Queue a message on every open link. All shards handle broadcasts in the order of `number`.
    Broadcast {
        message: Message,
        except: Option<LinkKey>,
        when_slow: Option<WhenSlow>,
        number: u64,
    },
}

/// The sending side of a shard's inbox, independent of the type of its connections.
pub(crate) trait ShardPoster: Send + Sync {
    fn post(&self, link: LinkKey, message: Message) -> Result<(), PostError>;
    /// Without waking the shard.
    fn broadcast(
        &self,
        message: Message,
        except: Option<LinkKey>,
        when_slow: Option<WhenSlow>,
        number: u64,
    ) -> Result<(), PostError>;
    fn wake(&self);
}

impl<S: Connection + Send> ShardPoster for Poster<Command<S>> {
    fn post(&self, link: LinkKey, message: Message) -> Result<(), PostError> {
        self.post(Command::Post { link, message }).map_err(|error| refusal(&error))
    }

    fn broadcast(
        &self,
        message: Message,
        except: Option<LinkKey>,
        when_slow: Option<WhenSlow>,
        number: u64,
    ) -> Result<(), PostError> {
        let command = Command::Broadcast { message, except, when_slow, number };
        self.post_quietly(command).map_err(|error| refusal(&error))
    }

    fn wake(&self) {
        Self::wake(self);
    }
}

fn refusal<T>(error: &wharf_port::port::PostError<T>) -> PostError {
    match error {
        wharf_port::port::PostError::Closed(_) => PostError::Closed,
        _ => PostError::Full,
    }
}

/// The shared state of one server.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: ServerId,
    pub(crate) settings: Settings,
    /// The listeners' ids and addresses.
    pub(crate) listeners: OnceLock<Box<[(ListenerId, SocketAddr)]>>,
    /// The number of the last broadcast; locked while a broadcast is posted to all inboxes, which
    /// orders them.
    broadcasting: Lock<u64>,
    /// The number of the last broadcast that is in all inboxes.
    broadcast: AtomicU64,
    /// Posts that were skipped before they reached a shard, counted for each link.
    missed: AtomicU64,
    pub(crate) shards: Box<[Shard]>,
    /// The pools for posted messages: one for each shard, and the last for all other threads.
    pub(crate) post_pools: Box<[PostPool]>,
    /// Number of messages that failed with `Full` because their sender's buffers were used up.
    posts_refused: AtomicU64,
    pub(crate) service: ServiceShared,
    /// Links that were closed to revoke their loans.
    #[cfg(feature = "sim")]
    pub(crate) revoked: crate::acts::Revoked,
    stopping: AtomicBool,
    /// The drain timeout in nanoseconds.
    drain_ns: AtomicU64,
}

/// The part of a shard that other threads use.
pub(crate) struct Shard {
    pub(crate) stats: Arc<ShardStats>,
    /// Slots that are in use or reserved for a connection.
    pub(crate) slots_taken: AtomicU32,
    /// Its thread has ended.
    pub(crate) ended: AtomicBool,
    pub(crate) running: RunningCallback,
    /// There are packets for its worker.
    has_packets: AtomicBool,
    /// Its callback runs for longer than a callback should.
    is_stalled: AtomicBool,
    /// Requests to the shard's links, and the generations of the live links.
    pub(crate) marks: Marks,
    /// The capacity for posts of each link.
    pub(crate) quotas: Quotas,
    /// The cells through which threads return deferred replies.
    pub(crate) replies: Box<[ReplyCell]>,
    poster_and_ledger: OnceLock<(Box<dyn ShardPoster>, LedgerView)>,
}

impl Shard {
    /// Whether there are packets for the worker.
    #[inline]
    pub(crate) fn has_packets(&self) -> bool {
        self.has_packets.load(Ordering::Relaxed)
    }

    /// As [`has_packets`](Self::has_packets), and forgets it: the worker takes them now.
    #[inline]
    pub(crate) fn takes_packets(&self) -> bool {
        self.has_packets() && self.has_packets.swap(false, Ordering::AcqRel)
    }
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard").field("slots_taken", &self.slots_taken).finish_non_exhaustive()
    }
}

impl Shard {
    fn new(settings: &Settings) -> Result<Self, MemoryError> {
        let slots = settings.links_per_shard();
        let replies = (0..slots).map(|_| ReplyCell::new());
        Ok(Self {
            stats: Arc::default(),
            slots_taken: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            running: RunningCallback::default(),
            has_packets: AtomicBool::new(false),
            is_stalled: AtomicBool::new(false),
            marks: Marks::new(slots)?,
            quotas: Quotas::new(slots, settings.post_entries())?,
            replies: try_table("the cells of replies", replies)?,
            poster_and_ledger: OnceLock::new(),
        })
    }
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Result<Self, MemoryError> {
        let count = settings.shards as usize;
        let mut shards = try_with_capacity("the shards", count)?;
        let mut post_pools = try_with_capacity("the pools for posts", count + 1)?;
        for _ in 0..count {
            shards.push(Shard::new(&settings)?);
            post_pools.push(PostPool::new(settings.post_pool())?);
        }
        post_pools.push(PostPool::new(settings.post_pool())?);
        Ok(Self {
            id: ServerId::next(),
            listeners: OnceLock::new(),
            broadcasting: Lock::new(0),
            broadcast: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            shards: shards.into(),
            post_pools: post_pools.into(),
            settings,
            posts_refused: AtomicU64::new(0),
            service: ServiceShared::default(),
            #[cfg(feature = "sim")]
            revoked: crate::acts::Revoked::default(),
            stopping: AtomicBool::new(false),
            drain_ns: AtomicU64::new(0),
        })
    }

    /// Sets a shard's poster and ledger; once, before the shard's first turn.
    pub(crate) fn register_shard(
        &self,
        shard: usize,
        poster: Box<dyn ShardPoster>,
        buffers: LedgerView,
    ) {
        let _set_once = self.shards[shard].poster_and_ledger.set((poster, buffers));
    }

    pub(crate) fn poster(&self, shard: usize) -> Option<&dyn ShardPoster> {
        Some(&*self.shards.get(shard)?.poster_and_ledger.get()?.0)
    }

    /// A listener's id and address.
    pub(crate) fn listener(&self, number: u16) -> (ListenerId, SocketAddr) {
        let nowhere = (ListenerId(0), SocketAddr::from(([0, 0, 0, 0], 0)));
        let listeners = self.listeners.get();
        listeners.and_then(|all| all.get(usize::from(number))).copied().unwrap_or(nowhere)
    }

    /// Whether the link is alive; it may end at any time after the call.
    pub(crate) fn is_alive(&self, link: LinkKey) -> bool {
        self.shards
            .get(link.shard())
            .is_some_and(|shard| shard.marks.is_alive(link.index(), link.generation()))
    }

    /// Sets a mark of a link and wakes its shard, unless the link has ended.
    pub(crate) fn mark(&self, link: LinkKey, mark: Mark) {
        if let Some(shard) = self.shards.get(link.shard())
            && shard.marks.set(link.index(), link.generation(), mark)
        {
            self.wake(link.shard());
        }
    }

    /// Sets a mark of every link but one, and wakes all shards.
    pub(crate) fn mark_all(&self, except: Option<LinkKey>, mark: Mark) {
        for (shard, others) in self.shards.iter().enumerate() {
            let except = except.filter(|link| link.shard() == shard);
            others.marks.set_all(except.map(|link| (link.index(), link.generation())), mark);
        }
        self.wake_all();
    }

    pub(crate) fn wake(&self, shard: usize) {
        if let Some(poster) = self.poster(shard) {
            poster.wake();
        }
    }

    /// Copies a payload into a message that any shard can send, in buffers of the pool of this thread's
    /// shard, or of the pool for all other threads.
    pub(crate) fn copy_to_post_pool(&self, payload: &impl Payload) -> Result<Message, PostError> {
        if let Some(message) = payload.message() {
            return self.check_post_len(message.len()).map(|()| message.inner.clone());
        }
        let pool = &self.post_pools[current::shard_of(self.id).unwrap_or(self.shards.len())];
        let made = match payload.piece() {
            Some(piece) => {
                self.check_post_len(piece.len())?;
                if !self.takes_budget(piece.len()) {
                    return Err(PostError::Full);
                }
                pool.make(|pool| pool.message_of(piece))
            }
            None => self.build_message(pool, payload),
        };
        made.inspect_err(|error| {
            if *error == PostError::Full {
                // The shards then close a link that holds messages without progress: see
                // `revoke_messages`.
                self.posts_refused.fetch_add(1, Ordering::Relaxed);
                self.wake_all();
            }
        })
    }

    fn build_message(&self, pool: &PostPool, payload: &impl Payload) -> Result<Message, PostError> {
        let message = match pool.make(MessagePool::builder) {
            Err(PostError::Closed) => return Err(PostError::Closed),
            made => made.ok(),
        };
        let mut building = Building { message, len: 0 };
        payload.write(&mut building).map_err(|DoesNotFit| PostError::TooLarge)?;
        self.check_post_len(building.len)?;
        if !self.takes_budget(building.len) {
            return Err(PostError::Full);
        }
        building.message.map(MessageBuilder::finish).ok_or(PostError::Full)
    }

    /// In a callback, takes the buffers for `len` bytes from the link's budget of posts for this turn;
    /// returns whether it sufficed.
    fn takes_budget(&self, len: usize) -> bool {
        let buffers = len.div_ceil(self.settings.post_buffer_size() as usize).max(1);
        current::take(self.id, u32::try_from(buffers).unwrap_or(u32::MAX))
    }

    fn check_post_len(&self, len: usize) -> Result<(), PostError> {
        let fits = len <= self.settings.post_bytes_max();
        if fits { Ok(()) } else { Err(PostError::TooLarge) }
    }

    pub(crate) fn posts_refused(&self) -> u64 {
        self.posts_refused.load(Ordering::Relaxed)
    }

    /// Counts a post that a link missed.
    pub(crate) fn note_missed(&self, link: LinkKey) {
        self.count_missed(1);
        self.shards[link.shard()].quotas.note_missed(link.index(), link.generation());
    }

    /// Whether all threads have ended.
    pub(crate) fn has_stopped(&self) -> bool {
        self.service.ended.load(Ordering::Acquire) && self.shards_have_ended()
    }

    /// Counts a post that all links but one missed.
    pub(crate) fn note_all_missed(&self, except: Option<LinkKey>) {
        for shard in 0..self.shards.len() {
            self.note_all_of_shard_missed(shard, except);
        }
    }

    fn note_all_of_shard_missed(&self, shard: usize, except: Option<LinkKey>) {
        let except = except.filter(|link| link.shard() == shard);
        let except = except.map(|link| (link.index(), link.generation()));
        self.count_missed(self.shards[shard].quotas.note_all_missed(except));
    }

    fn count_missed(&self, links: u64) {
        self.missed.fetch_add(links, Ordering::Relaxed);
    }

    /// Posts a message to one link. An accepted message will be queued there, unless the link ends.
    pub(crate) fn post(
        &self,
        link: LinkKey,
        message: Message,
        when_slow: Option<WhenSlow>,
    ) -> Result<(), PostError> {
        let (index, generation, len) = (link.index(), link.generation(), message.len());
        let poster = self.poster(link.shard()).ok_or(PostError::Closed)?;
        let quotas = &self.shards[link.shard()].quotas;
        match quotas.accept(index, generation, len) {
            Ok(()) => {}
            Err(Refusal::Ended) => return Err(PostError::Closed),
            Err(Refusal::Full { disconnects }) => {
                if when_slow.map_or(disconnects, |policy| policy == WhenSlow::Disconnect) {
                    self.mark(link, Mark::TOO_SLOW);
                }
                return Err(PostError::Full);
            }
        }
        poster.post(link, message).inspect_err(|_| {
            quotas.forget(index, generation, len);
            quotas.release_entries(1);
        })
    }

    /// Posts a message to every link.
    ///
    /// All links get broadcasts in the same order. No shard handles a broadcast before it is in every
    /// inbox, so a post in response to it is behind it in every inbox.
    pub(crate) fn broadcast(
        &self,
        message: &Message,
        except: Option<LinkKey>,
        when_slow: Option<WhenSlow>,
    ) -> Result<(), PostError> {
        let mut result = Ok(());
        let mut last = self.broadcasting.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        for number in 0..self.shards.len() {
            // Before the start a shard has no poster and no links.
            let Some(poster) = self.poster(number) else { continue };
            let posted = poster.broadcast(message.clone(), except, when_slow, *last);
            if posted == Err(PostError::Full) {
                self.note_all_of_shard_missed(number, except);
            }
            result = result.and(posted);
        }
        // Release: a shard that loads this number finds the broadcast in its inbox, before later
        // packets.
        self.broadcast.store(*last, Ordering::Release);
        drop(last);
        self.wake_all();
        result
    }

    /// Whether the broadcast with this number is in every inbox.
    pub(crate) fn is_broadcast(&self, number: u64) -> bool {
        self.broadcast.load(Ordering::Acquire) >= number
    }

    /// Number of free slots of all shards together.
    pub(crate) fn free_slots(&self) -> u32 {
        // SeqCst: ordered with `slot_wanted`, see `release_slot`.
        let taken: u32 =
            self.shards.iter().map(|shard| shard.slots_taken.load(Ordering::SeqCst)).sum();
        self.settings.links.saturating_sub(taken)
    }

    /// There are packets for a worker: wakes its shard.
    pub(crate) fn note_packets(&self, worker: usize) {
        if let Some(shard) = self.shards.get(worker) {
            // Release, and before the wake-up: the shard that it wakes sees the flag, and who sees the
            // flag finds the packet.
            shard.has_packets.store(true, Ordering::Release);
            self.wake(worker);
        }
    }

    /// The callbacks that have not returned.
    pub(crate) fn stalled(&self) -> Vec<StalledCallback> {
        self.service.stalled()
    }

    /// Notes that the callback of a shard does not return, or that none does so any more.
    pub(crate) fn note_stall(&self, shard: usize, callback: Option<StalledCallback>) {
        self.shards[shard].is_stalled.store(callback.is_some(), Ordering::Relaxed);
        self.service.note_stall(shard, callback);
    }

    /// Whether all shards' threads have ended.
    pub(crate) fn shards_have_ended(&self) -> bool {
        self.shards.iter().all(|shard| shard.ended.load(Ordering::Acquire))
    }

    /// Reserves a slot of the shard with the fewest links, except those that are full; `None` if no slot
    /// is free.
    pub(crate) fn reserve_slot(&self, full: &[bool]) -> Option<usize> {
        if self.free_slots() == 0 {
            return None;
        }
        let slots = self.settings.links_per_shard();
        let taken = |shard: usize| self.shards[shard].slots_taken.load(Ordering::Relaxed);
        // One whose callback does not return only if the others are full.
        let order =
            |shard: &usize| (self.shards[*shard].is_stalled.load(Ordering::Relaxed), taken(*shard));
        let has_room = |shard: &usize| taken(*shard) < slots && !full[*shard];
        let shard = (0..self.shards.len()).filter(has_room).min_by_key(order)?;
        self.shards[shard].slots_taken.fetch_add(1, Ordering::SeqCst);
        Some(shard)
    }

    /// Releases a reserved slot that was not used. Only the service thread calls it, so it needs no
    /// wake-up.
    pub(crate) fn cancel_slot(&self, shard: usize) {
        self.shards[shard].slots_taken.fetch_sub(1, Ordering::SeqCst);
    }

    /// Releases a slot, and wakes the service thread if it waits for one.
    ///
    /// `arm_listeners` stores `slot_wanted` and then counts; this function decrements the count and
    /// then loads the flag. All four are `SeqCst`, so one of the two sees the other's store.
    pub(crate) fn release_slot(&self, shard: usize) {
        self.shards[shard].slots_taken.fetch_sub(1, Ordering::SeqCst);
        let wanted = &self.service.slot_wanted;
        if wanted.load(Ordering::SeqCst) && wanted.swap(false, Ordering::SeqCst) {
            self.service.wake();
        }
    }

    /// Starts the drain of all shards with the timeout `drain`; a later call can only shorten it, see
    /// `check_stop`.
    pub(crate) fn stop(&self, drain: Duration) {
        let drain_ns = u64::try_from(drain.as_nanos()).unwrap_or(u64::MAX);
        self.drain_ns.store(drain_ns, Ordering::Relaxed);
        // Release pairs with the acquire in `stopping`.
        self.stopping.store(true, Ordering::Release);
        self.wake_all();
        self.service.wake();
    }

    /// The service thread posts no more connections, so the shards may end.
    pub(crate) fn end_accepting(&self) {
        // AcqRel: a shard that loads `true` finds all posted connections in its inbox.
        if !self.service.has_posted_all.swap(true, Ordering::AcqRel) {
            self.wake_all();
        }
    }

    pub(crate) fn is_accepting(&self) -> bool {
        !self.service.has_posted_all.load(Ordering::Acquire)
    }

    fn wake_all(&self) {
        for shard in 0..self.shards.len() {
            if let Some(poster) = self.poster(shard) {
                poster.wake();
            }
        }
    }

    /// The drain timeout, if the server is stopping.
    pub(crate) fn stopping(&self) -> Option<Duration> {
        let stopping = self.stopping.load(Ordering::Acquire);
        stopping.then(|| Duration::from_nanos(self.drain_ns.load(Ordering::Relaxed)))
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats {
            links_max: self.settings.links,
            missed: self.missed.load(Ordering::Relaxed),
            post_buffers: self
                .post_pools
                .iter()
                .fold(BufferCounts::default(), |all, posts| sum(all, posts.ledger())),
            ..Stats::default()
        };
        stats.add_service(&self.service.stats);
        for shard in &self.shards {
            stats.add(&shard.stats, shard.slots_taken.load(Ordering::Relaxed));
            let ledger = shard
                .poster_and_ledger
                .get()
                .map_or(BufferCounts::default(), |(_, buffers)| buffers.ledger());
            stats.buffers = sum(stats.buffers, ledger);
        }
        stats
    }

    /// Releases the pools for posts, when all workers are gone.
    pub(crate) fn release_post_pools(&self) {
        self.post_pools.iter().for_each(PostPool::release);
    }

    /// Counts the end of a link.
    pub(crate) fn count_close(&self, shard: u8, reason: DisconnectReason) {
        self.shards[usize::from(shard)].stats.closes[reason as usize].add(1);
    }
}

/// The pool for posted messages of one sender: a shard, or all other threads together.
#[derive(Debug)]
pub(crate) struct PostPool {
    /// `None` when the server has ended, of which handles may remain.
    pool: RwLock<Option<MessagePool>>,
    ledger: MessageLedgerView,
}

impl PostPool {
    fn new(config: MessagePoolConfig) -> Result<Self, MemoryError> {
        let pool = MessagePool::new(config)?;
        Ok(Self { ledger: pool.ledger_view(), pool: RwLock::new(Some(pool)) })
    }

    /// Makes a message. No user code runs in `make`, which is called under the lock.
    pub(crate) fn make<M>(
        &self,
        make: impl FnOnce(&MessagePool) -> Result<M, NoBuffers>,
    ) -> Result<M, PostError> {
        match &*self.pool.read().unwrap_or_else(PoisonError::into_inner) {
            Some(pool) => make(pool).map_err(|_| PostError::Full),
            None => Err(PostError::Closed),
        }
    }

    pub(crate) fn ledger(&self) -> BufferCounts {
        self.ledger.ledger()
    }

    #[cfg(feature = "sim")]
    pub(crate) fn free_count(&self) -> u32 {
        let pool = self.pool.read().unwrap_or_else(PoisonError::into_inner);
        pool.as_ref().map_or(0, MessagePool::free_count)
    }

    /// Releases the pool; its counts stay.
    fn release(&self) {
        self.pool.write().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// A message that is built from several parts.
struct Building {
    /// `None` if the pool had too few buffers.
    message: Option<MessageBuilder>,
    len: usize,
}

impl Parts for Building {
    fn add(&mut self, bytes: &[u8]) {
        self.len = self.len.saturating_add(bytes.len());
        self.message.take_if(|message| message.write(bytes).is_err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_port::memory::{BufferPool, PoolConfig};

    /// The packets of an inbox, each with whether the broadcast was published when it arrived.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Seen {
        Broadcast { number: u64, is_published: bool },
        Wake { is_published: bool },
    }

    struct Watching {
        shared: Arc<OnceLock<Arc<Shared>>>,
        seen: Log,
    }

    impl Watching {
        fn is_published(&self, number: u64) -> bool {
            self.shared.get().unwrap().is_broadcast(number)
        }

        fn note(&self, seen: Seen) {
            self.seen.lock().unwrap().push(seen);
        }
    }

    impl ShardPoster for Watching {
        fn post(&self, _: LinkKey, _: Message) -> Result<(), PostError> {
            Ok(())
        }

        fn broadcast(
            &self,
            _: Message,
            _: Option<LinkKey>,
            _: Option<WhenSlow>,
            number: u64,
        ) -> Result<(), PostError> {
            let is_published = self.is_published(number);
            self.note(Seen::Broadcast { number, is_published });
            // Time for other threads to post in between, if they could.
            std::thread::yield_now();
            Ok(())
        }

        fn wake(&self) {
            let number = self.seen.lock().unwrap().iter().rev().find_map(|seen| match seen {
                Seen::Broadcast { number, .. } => Some(*number),
                Seen::Wake { .. } => None,
            });
            let is_published = self.is_published(number.unwrap());
            self.note(Seen::Wake { is_published });
        }
    }

    type Log = Arc<Lock<Vec<Seen>>>;

    /// A server of three shards without threads, and what their inboxes see.
    fn watched() -> (Arc<Shared>, Vec<Log>) {
        let settings = Settings { shards: 3, ..Settings::default() };
        let shared = Arc::new(Shared::new(settings).unwrap());
        let known = Arc::new(OnceLock::from(Arc::clone(&shared)));
        let pool = BufferPool::new(PoolConfig::new(1)).unwrap();
        let seen: Vec<Log> = (0..3).map(|_| Arc::default()).collect();
        for (shard, seen) in seen.iter().enumerate() {
            let (shared_later, seen) = (Arc::clone(&known), Arc::clone(seen));
            let poster = Watching { shared: shared_later, seen };
            shared.register_shard(shard, Box::new(poster), pool.ledger_view());
        }
        (shared, seen)
    }

    #[test]
    fn a_broadcast_is_told_of_when_it_is_in_every_inbox() {
        let (shared, seen) = watched();
        let message = shared.copy_to_post_pool(&"to all").unwrap();
        shared.broadcast(&message, None, None).unwrap();
        let expected =
            [Seen::Broadcast { number: 1, is_published: false }, Seen::Wake { is_published: true }];
        for seen in seen {
            assert_eq!(*seen.lock().unwrap(), expected);
        }
    }

    #[test]
    fn broadcasts_of_many_threads_have_one_order_in_all_inboxes() {
        let (shared, seen) = watched();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let message = shared.copy_to_post_pool(&"to all").unwrap();
                        shared.broadcast(&message, None, None).unwrap();
                    }
                });
            }
        });
        for seen in seen {
            let seen = seen.lock().unwrap();
            let numbers: Vec<u64> = seen
                .iter()
                .filter_map(|seen| match seen {
                    Seen::Broadcast { number, is_published } => {
                        assert!(!is_published, "{number} came to another inbox first");
                        Some(*number)
                    }
                    Seen::Wake { .. } => None,
                })
                .collect();
            assert_eq!(numbers, (1..=400).collect::<Vec<_>>());
        }
    }
}
