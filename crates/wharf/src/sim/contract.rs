//! The callbacks' contract: which link each belongs to, and what went on at each connection.
//!
//! What is promised for the calls of one link is in `rules.rs`. Both are kept beside the engine, and
//! trust nothing that it keeps.

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

/// How a client's connection went at the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fate {
    /// The handler has not seen it.
    #[default]
    Unseen,
    Open(LinkId),
    Over(DisconnectReason),
}

/// What happened to one connection at the server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Story {
    pub(super) fate: Fate,
    /// Its name, once it was open.
    pub(super) link: Option<LinkId>,
    /// Bytes that the handler has taken.
    pub(super) received: u64,
    /// Bytes that it has seen, taken or not.
    seen: u64,
    /// It was last called with more, or the link was opened, on the links' clock.
    heard_link_ns: u64,
    /// What of the unread bytes counts as handled.
    rest: Rest,
    /// Its handler leaves input unread, and has not said why.
    pub(super) leaves_input: bool,
    /// Its own handler keeps it from being called, or from ending.
    pub(super) is_held: bool,
    /// Somebody else has asked for its close.
    pub(super) is_kicked: bool,
    /// The longest time that a reply was out, on the links' clock.
    pub(super) reply_ns: u64,
    /// A planned panic struck one of its callbacks.
    pub(super) panicked: bool,
    /// When the link was opened, on the steady clock: in the backlog nobody waits for a handler.
    pub(super) opened_steady_ns: u64,
    /// The last time that it was taken for idle.
    pub(super) idle: Option<IdleNote>,
}

impl Story {
    /// Whether its handler waits for the rest of what it has left unread.
    pub(super) fn is_incomplete(&self) -> bool {
        matches!(self.rest, Rest::Wants(wants) if wants > 0)
    }

    /// How many of the first `delivered` bytes the handler should have had a call for.
    pub(super) fn unhandled(&self, delivered: u64) -> u64 {
        let unread = delivered.saturating_sub(self.received);
        let is_handled = match self.rest {
            Rest::Wants(wants) => unread < wants,
            // What is behind what it left cannot be reached.
            Rest::Left(left) => left > 0 || unread == 0,
        };
        if is_handled { 0 } else { unread }
    }
}

/// How a link stood when its handler was told that it is idle.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdleNote {
    /// How long the handler had been given nothing, on the links' clock.
    pub(super) silent_ns: u64,
    /// Bytes that had reached the server, but not the handler.
    pub(super) unhandled: u64,
    /// How long nothing had moved, on the steady clock.
    pub(super) rested_ns: u64,
}

/// Whose callback it is, and where it runs.
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
    /// By shard and place.
    lives: Vec<Vec<Life>>,
    /// By the connections' numbers.
    stories: Vec<Story>,
    watches: Vec<TrafficWatch>,
    /// By shard.
    turns: Vec<u64>,
    /// The shard that turns.
    turning: Option<usize>,
    /// When a stop's time is over.
    drained_out_at: Option<Time>,
    tally: Tally,
    /// What was called and asked for, if somebody wants to read it.
    log: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) connects: u64,
    pub(super) disconnects: u64,
    pub(super) planned_panics: u64,
    /// Links' states that were made and not dropped.
    pub(super) states: u64,
}

/// The last link in a place.
#[derive(Debug, Default)]
struct Life {
    generation: u32,
    connection: usize,
    /// Between a successful `on_connect` and `on_disconnect`.
    open: bool,
    /// A callback runs.
    busy: bool,
    /// Since `on_connect` has begun.
    rules: Option<Rules>,
}

impl Contract {
    pub(super) fn new(world: World, shards: u32, places: u32, limits: Limits) -> Self {
        let places = || (0..places).map(|_| Life::default()).collect();
        let lives = (0..shards).map(|_| places()).collect();
        let turns = (0..shards).map(|_| 0).collect();
        let book = Lock::new(Book { lives, turns, ..Book::default() });
        Self { world, limits, fault: OnceLock::new(), watch: Watch::new(), book }
    }

    /// Another client has connected.
    pub(super) fn watch(&self, traffic: TrafficWatch) {
        self.book().watches.push(traffic);
    }

    /// A shard turns, or `None` does any more.
    pub(super) fn note_turn(&self, shard: Option<usize>) {
        let mut book = self.book();
        book.turning = shard;
        if let Some(shard) = shard {
            book.turns[shard] += 1;
        }
    }

    /// The server was asked to stop, and this is when its links are closed by force.
    pub(super) fn note_stop(&self, until: Time) {
        self.book().drained_out_at = Some(until);
    }

    /// From now on there is a log.
    pub(super) fn keep_log(&self) {
        self.book().log = Some(Vec::new());
    }

    /// What was called and asked for since the last time.
    pub(super) fn take_log(&self) -> Vec<String> {
        self.book().log.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Takes up what was asked for outside of callbacks.
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
        let (shard, place) = (key.shard(), key.index() as usize);
        ensure!(book.turning == Some(shard), "in the turn of shard {:?}", book.turning);
        ensure!(call.worker == shard, "by worker {}", call.worker);
        let life = &mut book.lives[shard][place];
        let was_busy = std::mem::replace(&mut life.busy, true);
        ensure!(!was_busy, "while another callback runs");
        if call.event == Event::Connect {
            let is_next = !life.open && key.generation() > life.generation;
            ensure!(is_next, "but its place has generation {}, {}", life.generation, life.state());
            life.generation = key.generation();
            life.connection = call.connection;
            life.rules = Some(Rules::new(self.limits, at, facts));
        }
        let is_it = life.generation == key.generation();
        let is_open = life.open || call.event == Event::Connect;
        ensure!(
            is_it && is_open,
            "but its place has generation {}, {}",
            life.generation,
            life.state()
        );
        ensure!(life.connection == call.connection, "with the peer {}", call.connection);
        life.rules.as_mut().map_or(Ok(()), |rules| rules.begin(call.event, at, facts))
    }

    /// A callback has returned; a connect may have been refused.
    pub(super) fn leave(&self, call: &Call, mut at: Glance, outcome: Outcome) {
        let told = self.watch.take();
        let mut book = self.book();
        for (whom, act) in told {
            if let (Whom::Own, Act::Defers { unread }) = (whom, act) {
                // It is hidden from then on.
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

    /// Somebody asks for something, in the callback `by` or outside of any.
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
        let place = book.lives.get(key.shard()).and_then(|of| of.get(key.index() as usize));
        let Some(life) = place.filter(|life| life.generation == key.generation()) else { return };
        let connection = life.connection;
        let facts = self.facts_of(book, key, connection);
        if matches!(act, Act::Reply(_) | Act::ReplyAndClose(_) | Act::Resume)
            && let Some(traffic) = book.watches.get(connection)
        {
            // From now on the server owes it something.
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

    /// The clock by which the link's shard may measure it.
    fn link_ns(&self, link: LinkKey) -> u64 {
        // Shards and their ports are made in the same order.
        self.world.link_ns(u32::try_from(link.shard()).unwrap_or(0))
    }

    pub(super) fn note_planned_panic(&self, connection: usize) {
        let mut book = self.book();
        book.tally.planned_panics += 1;
        story_of(&mut book.stories, connection).panicked = true;
    }

    /// A link's state was made or dropped.
    pub(super) fn note_state(&self, is_made: bool) {
        let states = &mut self.book().tally.states;
        *states = if is_made { *states + 1 } else { states.saturating_sub(1) };
    }

    /// Notes the first thing that did not hold.
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

/// The world gives the nth connection the address 10.0.0.0 plus n.
pub(super) fn number_of(peer: Option<IpAddr>) -> usize {
    match peer {
        Some(IpAddr::V4(address)) => (u32::from(address) & 0x00FF_FFFF) as usize,
        _ => usize::MAX,
    }
}
