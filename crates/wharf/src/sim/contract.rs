//! The callbacks' contract, kept in a book of its own: it trusts nothing that the engine keeps.

use crate::handler::DisconnectReason;
use crate::link::LinkId;
use std::net::{IpAddr, SocketAddr};
use std::sync::{OnceLock, PoisonError};
use std::time::Duration;
use wharf_port::port::Time;
use wharf_port::sim::{TrafficWatch, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Connect,
    Receive,
    Sent,
    Idle,
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
    /// Bytes that the handler has consumed.
    pub(super) received: u64,
    /// Bytes that it has seen, consumed or not.
    seen: u64,
    /// It was last called with more, or the link was opened, on the links' clock.
    pub(super) heard_link_ns: u64,
    /// Bytes that must be unread before the next call is of use to it.
    wanted: u64,
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
        self.wanted > 0
    }

    /// How many of the first `delivered` bytes the handler should have had a call for.
    pub(super) fn unhandled(&self, delivered: u64) -> u64 {
        let rest = delivered.saturating_sub(self.received);
        if rest < self.wanted { 0 } else { rest }
    }
}

/// The links that the engine closed because they held what others waited for.
#[derive(Debug, Default)]
pub(crate) struct Revoked(Lock<Vec<LinkId>>);

impl Revoked {
    pub(crate) fn note(&self, link: LinkId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(link);
    }

    pub(super) fn contains(&self, link: LinkId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&link)
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

#[derive(Debug)]
pub(super) struct Contract {
    world: World,
    idle: Duration,
    fault: OnceLock<String>,
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
    tally: Tally,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) connects: u64,
    pub(super) disconnects: u64,
    pub(super) planned_panics: u64,
}

/// The last link in a place.
#[derive(Clone, Copy, Debug, Default)]
struct Life {
    generation: u32,
    connection: usize,
    /// Between a successful `on_connect` and `on_disconnect`.
    open: bool,
    /// A callback runs.
    busy: bool,
    heard: Time,
}

impl Contract {
    pub(super) fn new(world: World, shards: u32, places: u32, idle: Duration) -> Self {
        let lives = (0..shards).map(|_| vec![Life::default(); places as usize]).collect();
        let book = Lock::new(Book { lives, ..Book::default() });
        Self { world, idle, fault: OnceLock::new(), book }
    }

    /// Another client has connected.
    pub(super) fn watch(&self, traffic: TrafficWatch) {
        self.book().watches.push(traffic);
    }

    pub(super) fn enter(&self, event: Event, id: LinkId, peer: SocketAddr, now: Time) {
        let mut book = self.book();
        let life = &mut book.lives[id.shard()][id.index() as usize];
        if std::mem::replace(&mut life.busy, true) {
            self.fail(format!("link {id}: {event:?} while another callback runs"));
        }
        if event == Event::Connect {
            if life.open || id.generation() <= life.generation {
                self.fail(format!("link {id}: on_connect, but its place has {life:?}"));
            }
            let connection = number_of(peer);
            *life = Life { generation: id.generation(), connection, open: false, ..*life };
        } else if !life.open || life.generation != id.generation() {
            self.fail(format!("link {id}: {event:?}, but its place has {life:?}"));
        } else if life.connection != number_of(peer) {
            self.fail(format!("link {id}: {event:?} with the peer {peer}"));
        }
        if event == Event::Idle && now.since(life.heard) < self.idle {
            self.fail(format!("link {id}: idle after {:?}", now.since(life.heard)));
        }
        if matches!(event, Event::Connect | Event::Receive | Event::Idle) {
            life.heard = now;
        }
        if event == Event::Idle {
            let (link_ns, steady_ns) = (self.link_ns(id), self.world.steady_ns());
            book.note_idle(number_of(peer), link_ns, steady_ns);
        }
    }

    /// A callback has returned; a connect may have been refused.
    pub(super) fn leave(&self, event: Event, id: LinkId, refused: Option<DisconnectReason>) {
        let mut book = self.book();
        let Book { lives, stories, tally, .. } = &mut *book;
        let life = &mut lives[id.shard()][id.index() as usize];
        life.busy = false;
        let fate = match (event, refused) {
            (Event::Connect, None) => {
                tally.connects += 1;
                life.open = true;
                Fate::Open(id)
            }
            (Event::Connect, Some(reason)) => Fate::Over(reason),
            (Event::Disconnect(reason), _) => {
                tally.disconnects += 1;
                life.open = false;
                Fate::Over(reason)
            }
            (Event::Receive | Event::Sent | Event::Idle, _) => return,
        };
        let story = story_of(stories, life.connection);
        story.fate = fate;
        if matches!(fate, Fate::Open(_)) {
            story.link = Some(id);
            story.opened_steady_ns = self.world.steady_ns();
            story.heard_link_ns = self.link_ns(id);
        }
    }

    /// The handler is called with so many unread bytes.
    pub(super) fn note_input(&self, id: LinkId, peer: SocketAddr, unread: usize) {
        let link_ns = self.link_ns(id);
        let mut book = self.book();
        let story = story_of(&mut book.stories, number_of(peer));
        let seen = story.received + unread as u64;
        if seen > story.seen {
            (story.seen, story.heard_link_ns) = (seen, link_ns);
        }
    }

    /// It has consumed some, and waits for more or not.
    pub(super) fn note_consumed(&self, peer: SocketAddr, count: usize, wanted: usize) {
        let mut book = self.book();
        let story = story_of(&mut book.stories, number_of(peer));
        story.received += count as u64;
        story.wanted = if count > 0 { 0 } else { wanted as u64 };
    }

    /// The clock by which the link's shard may measure it.
    fn link_ns(&self, id: LinkId) -> u64 {
        // Shards and their ports are made in the same order.
        self.world.link_ns(u32::try_from(id.shard()).unwrap_or(0))
    }

    pub(super) fn note_planned_panic(&self, peer: SocketAddr) {
        let mut book = self.book();
        book.tally.planned_panics += 1;
        story_of(&mut book.stories, number_of(peer)).panicked = true;
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

impl Book {
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
fn number_of(peer: SocketAddr) -> usize {
    match peer.ip() {
        IpAddr::V4(address) => (u32::from(address) & 0x00FF_FFFF) as usize,
        IpAddr::V6(_) => usize::MAX,
    }
}
