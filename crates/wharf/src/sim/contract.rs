//! Checks the callbacks: which link each belongs to, and what happened on each connection.
//!
//! The promises for the calls of one link are in `rules.rs`. Both keep records of their own and use
//! none of the engine's.

use crate::acts::{Act, Watch, Whom};
use crate::engine::ensure;
use crate::sim::rules::{Facts, Glance, Limits, Outcome, Rest, Rules};
use crate::vocabulary::id::{LinkId, LinkKey};
use crate::vocabulary::reason::DisconnectReason;
use std::net::IpAddr;
use std::sync::{OnceLock, PoisonError};
use wharf_port::port::Time;
use wharf_port::sim::{TrafficWatch, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Connect,
    Receive,
    Writable,
    End,
    Idle,
    Drain,
    Disconnect(DisconnectReason),
}

/// The state of a client's connection at the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fate {
    /// No callback of it was called.
    #[default]
    Unseen,
    Open(LinkId),
    Over(DisconnectReason),
}

/// The record of one connection at the server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Story {
    pub(super) fate: Fate,
    /// The link's id, after it was opened.
    pub(super) link: Option<LinkId>,
    /// Bytes that the handler has taken.
    pub(super) received: u64,
    /// Bytes that the handler was called with, taken or not.
    seen: u64,
    /// The last call with new bytes, or the opening of the link, on the links' clock.
    heard_link_ns: u64,
    /// The unread bytes that count as handled.
    rest: Rest,
    /// The handler left input unread and asked for nothing.
    pub(super) leaves_input: bool,
    /// The handler itself holds back calls, or the end of the link.
    pub(super) is_held: bool,
    /// Another link or thread has requested its close.
    pub(super) is_kicked: bool,
    /// The longest time of a deferred reply, on the links' clock.
    pub(super) reply_ns: u64,
    /// One of its callbacks panicked as planned.
    pub(super) panicked: bool,
    /// When the link was opened, on the steady clock; time in the backlog does not count.
    pub(super) opened_steady_ns: u64,
    /// The last call of `on_idle`.
    pub(super) idle: Option<IdleNote>,
}

impl Story {
    /// Whether the handler waits for the rest of a message.
    pub(super) fn is_incomplete(&self) -> bool {
        matches!(self.rest, Rest::Wants(wants) if wants > 0)
    }

    /// How many of the first `delivered` bytes the handler must have been called with.
    pub(super) fn unhandled(&self, delivered: u64) -> u64 {
        let unread = delivered.saturating_sub(self.received);
        let is_handled = match self.rest {
            Rest::Wants(wants) => unread < wants,
            // Bytes behind those that it left cannot be received.
            Rest::Left(left) => left > 0 || unread == 0,
        };
        if is_handled { 0 } else { unread }
    }
}

/// The state of a link at a call of `on_idle`.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdleNote {
    /// Time without new bytes for the handler, on the links' clock.
    pub(super) silent_ns: u64,
    /// Bytes that had arrived at the server, but not at the handler.
    pub(super) unhandled: u64,
    /// Time without any transfer, on the steady clock.
    pub(super) rested_ns: u64,
}

/// A callback's link and its worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) event: Event,
    pub(super) link: LinkId,
    /// The connection's number, by its peer's address.
    pub(super) connection: usize,
    /// The shard whose worker runs it.
    pub(super) worker: usize,
    pub(super) is_revoked: bool,
    pub(super) is_stopping: bool,
}

#[derive(Debug)]
pub(super) struct Contract {
    world: World,
    limits: Limits,
    fault: OnceLock<String>,
    watch: Watch,
    book: Lock<Book>,
}

#[expect(
    clippy::disallowed_types,
    reason = "one handler serves all shards of a simulation; not in a server's path"
)]
type Lock<T> = std::sync::Mutex<T>;

#[derive(Debug, Default)]
struct Book {
    /// By shard and slot.
    lives: Vec<Vec<Life>>,
    /// By the connections' numbers.
    stories: Vec<Story>,
    watches: Vec<TrafficWatch>,
    /// By shard.
    turns: Vec<u64>,
    /// The shard whose turn runs.
    turning: Option<usize>,
    /// The end of the drain timeout.
    drained_out_at: Option<Time>,
    tally: Tally,
    /// A log of calls and requests, if one was asked for.
    log: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) connects: u64,
    pub(super) disconnects: u64,
    pub(super) planned_panics: u64,
    /// Number of links' states that were made and not dropped.
    pub(super) states: u64,
}

/// The last link of a slot.
#[derive(Debug, Default)]
struct Life {
    generation: u32,
    connection: usize,
    /// Between a successful `on_connect` and `on_disconnect`.
    open: bool,
    /// Whether a callback runs.
    busy: bool,
    /// Since the begin of `on_connect`.
    rules: Option<Rules>,
}

impl Contract {
    pub(super) fn new(world: World, shards: u32, slots: u32, limits: Limits) -> Self {
        let records = || (0..slots).map(|_| Life::default()).collect();
        let lives = (0..shards).map(|_| records()).collect();
        let turns = (0..shards).map(|_| 0).collect();
        let book = Lock::new(Book { lives, turns, ..Book::default() });
        Self { world, limits, fault: OnceLock::new(), watch: Watch::new(), book }
    }

    /// Adds a client that has connected.
    pub(super) fn watch(&self, traffic: TrafficWatch) {
        self.book().watches.push(traffic);
    }

    /// Notes the shard whose turn runs; `None` after it.
    pub(super) fn note_turn(&self, shard: Option<usize>) {
        let mut book = self.book();
        book.turning = shard;
        if let Some(shard) = shard {
            book.turns[shard] += 1;
        }
    }

    /// Notes a stop, and when the server force-closes its links.
    pub(super) fn note_stop(&self, until: Time) {
        self.book().drained_out_at = Some(until);
    }

    /// Starts the log.
    pub(super) fn keep_log(&self) {
        self.book().log = Some(Vec::new());
    }

    /// Takes the log.
    pub(super) fn take_log(&self) -> Vec<String> {
        self.book().log.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Handles the requests from outside of callbacks.
    pub(super) fn listen(&self) {
        let told = self.watch.take();
        if !told.is_empty() {
            let mut book = self.book();
            told.into_iter().for_each(|(whom, act)| self.hear(&mut book, None, whom, act));
        }
    }

    pub(super) fn enter(&self, call: &Call, at: Glance) {
        self.listen();
        let mut book = self.book();
        book.log(|| format!("{} {:?}: {at:?}", call.link, call.event));
        let facts = self.facts(&book, call);
        if let Err(what) = self.begin(&mut book, call, at, &facts) {
            self.fail(format!("link {}: {:?} {what}", call.link, call.event));
        }
        if call.event == Event::Idle {
            book.note_idle(call.connection, facts.link_ns, self.world.steady_ns());
        }
        let story = story_of(&mut book.stories, call.connection);
        let seen = story.received + at.unread as u64;
        if seen > story.seen {
            (story.seen, story.heard_link_ns) = (seen, facts.link_ns);
        }
    }

    fn begin(&self, book: &mut Book, call: &Call, at: Glance, facts: &Facts) -> Result<(), String> {
        let key = call.link.key();
        let (shard, slot) = (key.shard(), key.index() as usize);
        ensure!(book.turning == Some(shard), "in the turn of shard {:?}", book.turning);
        ensure!(call.worker == shard, "by worker {}", call.worker);
        let life = &mut book.lives[shard][slot];
        let was_busy = std::mem::replace(&mut life.busy, true);
        ensure!(!was_busy, "while another callback runs");
        if call.event == Event::Connect {
            let is_next = !life.open && key.generation() > life.generation;
            ensure!(is_next, "but its slot has generation {}, {}", life.generation, life.state());
            life.generation = key.generation();
            life.connection = call.connection;
            life.rules = Some(Rules::new(self.limits, at, facts));
        }
        let is_it = life.generation == key.generation();
        let is_open = life.open || call.event == Event::Connect;
        ensure!(
            is_it && is_open,
            "but its slot has generation {}, {}",
            life.generation,
            life.state()
        );
        ensure!(life.connection == call.connection, "with the peer {}", call.connection);
        life.rules.as_mut().map_or(Ok(()), |rules| rules.begin(call.event, at, facts))
    }

    /// Handles the return of a callback; a failed connect ends the link.
    pub(super) fn leave(&self, call: &Call, mut at: Glance, outcome: Outcome) {
        let told = self.watch.take();
        let mut book = self.book();
        for (whom, act) in told {
            if let (Whom::Own, Act::Defers { unread }) = (whom, act) {
                // No callback follows.
                at.unread = unread;
            }
            self.hear(&mut book, Some(call), whom, act);
        }
        book.log(|| format!("{} {:?} -> {outcome:?}: {at:?}", call.link, call.event));
        let facts = self.facts(&book, call);
        let steady_ns = self.world.steady_ns();
        let Book { lives, stories, tally, .. } = &mut *book;
        let key = call.link.key();
        let life = &mut lives[key.shard()][key.index() as usize];
        life.busy = false;
        let story = story_of(stories, call.connection);
        if let Some(rules) = &mut life.rules {
            let taken = rules.unread_at_begin().saturating_sub(at.unread);
            if let Err(what) = rules.end(call.event, outcome, at, &facts) {
                self.fail(format!("link {}: {:?} {what}", call.link, call.event));
            }
            if matches!(call.event, Event::Receive | Event::End) {
                story.received += taken as u64;
            }
            (story.rest, story.is_held) = (rules.rest(), rules.is_held());
            story.leaves_input = rules.leaves_input();
            story.reply_ns = rules.reply_ns(&facts);
        }
        match (call.event, outcome) {
            (Event::Connect, Outcome::Closes(reason)) => story.fate = Fate::Over(reason),
            (Event::Connect, _) => {
                tally.connects += 1;
                life.open = true;
                (story.fate, story.link) = (Fate::Open(call.link), Some(call.link));
                (story.opened_steady_ns, story.heard_link_ns) = (steady_ns, facts.link_ns);
            }
            (Event::Disconnect(reason), _) => {
                tally.disconnects += 1;
                (life.open, life.rules) = (false, None);
                story.fate = Fate::Over(reason);
            }
            _ => {}
        }
    }

    /// Handles a request, from the callback `by` or from outside of callbacks.
    fn hear(&self, book: &mut Book, by: Option<&Call>, whom: Whom, act: Act) {
        book.log(|| format!("  {whom:?} {act:?}"));
        match whom {
            Whom::Own => {
                if let Some(call) = by {
                    self.hear_of(book, call.link, act, true);
                }
            }
            Whom::Link(link) => self.hear_of(book, link, act, false),
            Whom::AllBut(except) => {
                let all = book.stories.iter().filter_map(|story| match story.fate {
                    Fate::Open(link) if Some(link) != except => Some(link),
                    _ => None,
                });
                for link in all.collect::<Vec<_>>() {
                    self.hear_of(book, link, act, false);
                }
            }
        }
    }

    fn hear_of(&self, book: &mut Book, link: LinkId, act: Act, is_own: bool) {
        let key = link.key();
        let slot = book.lives.get(key.shard()).and_then(|of| of.get(key.index() as usize));
        let Some(life) = slot.filter(|life| life.generation == key.generation()) else { return };
        let connection = life.connection;
        let facts = self.facts_of(book, key, connection);
        if matches!(act, Act::Reply(_) | Act::ReplyAndClose(_) | Act::Resume)
            && let Some(traffic) = book.watches.get(connection)
        {
            // From now on the server owes the link something.
            traffic.asked(self.world.steady_ns());
        }
        let life = &mut book.lives[key.shard()][key.index() as usize];
        if let Some(rules) = &mut life.rules {
            rules.hear_of(act, is_own, &facts);
            let (is_held, is_kicked) = (rules.is_held(), rules.is_kicked());
            let story = story_of(&mut book.stories, connection);
            (story.is_held, story.is_kicked) = (is_held, is_kicked);
        }
    }

    fn facts(&self, book: &Book, call: &Call) -> Facts {
        Facts {
            is_revoked: call.is_revoked,
            is_stopping: call.is_stopping,
            ..self.facts_of(book, call.link.key(), call.connection)
        }
    }

    fn facts_of(&self, book: &Book, link: LinkKey, connection: usize) -> Facts {
        let traffic = book.watches.get(connection).map(TrafficWatch::get).unwrap_or_default();
        let drained_out_at = book.drained_out_at;
        Facts {
            link_ns: self.link_ns(link),
            steady_ns: self.world.steady_ns(),
            turn: book.turns.get(link.shard()).copied().unwrap_or(0),
            from_server: traffic.from_server,
            peer_has_ended: traffic.client_ended,
            is_broken: traffic.harmed || traffic.reset,
            is_stopping: false,
            is_drained_out: drained_out_at.is_some_and(|until| until <= self.world.now()),
            is_revoked: false,
        }
    }

    /// The clock of the link's shard.
    fn link_ns(&self, link: LinkKey) -> u64 {
        // Shards and their ports are made in the same order.
        self.world.link_ns(u32::try_from(link.shard()).unwrap_or(0))
    }

    pub(super) fn note_planned_panic(&self, connection: usize) {
        let mut book = self.book();
        book.tally.planned_panics += 1;
        story_of(&mut book.stories, connection).panicked = true;
    }

    /// Counts a link's state that was made or dropped.
    pub(super) fn note_state(&self, is_made: bool) {
        let states = &mut self.book().tally.states;
        *states = if is_made { *states + 1 } else { states.saturating_sub(1) };
    }

    /// Stores the first failure.
    pub(super) fn fail(&self, what: String) {
        let _only_the_first_counts = self.fault.set(what);
    }

    pub(super) fn fault(&self) -> Option<&String> {
        self.fault.get()
    }

    pub(super) fn fate(&self, connection: usize) -> Fate {
        self.story(connection).fate
    }

    pub(super) fn story(&self, connection: usize) -> Story {
        self.book().stories.get(connection).copied().unwrap_or_default()
    }

    pub(super) fn tally(&self) -> Tally {
        self.book().tally
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Life {
    fn state(&self) -> &'static str {
        if self.open { "open" } else { "closed" }
    }
}

impl Book {
    fn log(&mut self, text: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(text());
        }
    }

    fn note_idle(&mut self, connection: usize, link_ns: u64, steady_ns: u64) {
        let Some(traffic) = self.watches.get(connection).map(TrafficWatch::get) else { return };
        let story = story_of(&mut self.stories, connection);
        story.idle = Some(IdleNote {
            silent_ns: link_ns.saturating_sub(story.heard_link_ns),
            unhandled: story.unhandled(traffic.to_server),
            rested_ns: steady_ns.saturating_sub(traffic.moved_steady_ns),
        });
    }
}

fn story_of(stories: &mut Vec<Story>, connection: usize) -> &mut Story {
    if stories.len() <= connection {
        stories.resize(connection + 1, Story::default());
    }
    &mut stories[connection]
}

/// The connection's number: the world gives the nth connection the address 10.0.0.0 plus n.
pub(super) fn number_of(peer: Option<IpAddr>) -> usize {
    match peer {
        Some(IpAddr::V4(address)) => (u32::from(address) & 0x00FF_FFFF) as usize,
        _ => usize::MAX,
    }
}
