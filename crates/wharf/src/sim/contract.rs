//! The callbacks' contract, kept in a book of its own: it trusts nothing that the engine keeps.

use crate::handler::DisconnectReason;
use crate::link::LinkId;
use std::net::{IpAddr, SocketAddr};
use std::sync::{OnceLock, PoisonError};
use std::time::Duration;
use wharf_port::port::Time;

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

#[derive(Debug)]
pub(super) struct Contract {
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
    fates: Vec<Fate>,
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
    pub(super) fn new(shards: u32, places: u32, idle: Duration) -> Self {
        let lives = (0..shards).map(|_| vec![Life::default(); places as usize]).collect();
        let book = Lock::new(Book { lives, ..Book::default() });
        Self { idle, fault: OnceLock::new(), book }
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
    }

    /// A callback has returned; a connect may have been refused.
    pub(super) fn leave(&self, event: Event, id: LinkId, refused: Option<DisconnectReason>) {
        let mut book = self.book();
        let Book { lives, fates, tally } = &mut *book;
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
        if fates.len() <= life.connection {
            fates.resize(life.connection + 1, Fate::Unseen);
        }
        fates[life.connection] = fate;
    }

    pub(super) fn note_planned_panic(&self) {
        self.book().tally.planned_panics += 1;
    }

    /// Notes the first thing that did not hold.
    pub(super) fn fail(&self, what: String) {
        let _only_the_first_counts = self.fault.set(what);
    }

    pub(super) fn fault(&self) -> Option<&String> {
        self.fault.get()
    }

    pub(super) fn fate(&self, connection: usize) -> Fate {
        self.book().fates.get(connection).copied().unwrap_or_default()
    }

    pub(super) fn tally(&self) -> Tally {
        self.book().tally
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The world gives the nth connection the address 10.0.0.0 plus n.
fn number_of(peer: SocketAddr) -> usize {
    match peer.ip() {
        IpAddr::V4(address) => (u32::from(address) & 0x00FF_FFFF) as usize,
        IpAddr::V6(_) => usize::MAX,
    }
}
