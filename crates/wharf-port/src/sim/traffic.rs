//! What has gone over a connection, and when: kept beyond the connection's end, so that whoever
//! judges a run can ask how it came to that end.

use super::connection::{CLIENT, SERVER};
use std::sync::{Arc, PoisonError};

/// What has gone over one connection so far.
///
/// Times are on the links' clock of the server's port, unless they say otherwise: the steady clock, which
/// leaves out how far [`ClockJump`](super::FaultKind::ClockJump) has moved the world's, plus what
/// [the server may count of a jump](super::World::link_ns).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Bytes that have reached the server's system.
    pub to_server: u64,
    /// Bytes that the server's port has received.
    pub by_server: u64,
    /// Bytes that the server has sent.
    pub from_server: u64,
    /// Bytes that have reached the client's system.
    pub to_client: u64,
    /// Bytes that the client has read.
    pub by_client: u64,
    /// Something has struck the connection that no program could mend.
    pub harmed: bool,
    /// A reset has reached the server; none by chance, but one of the client's system.
    pub reset: bool,
    /// The server's system ended it before it was accepted: its listener was closed, for example.
    pub turned_away: bool,
    /// The server's side is closed, whoever did that.
    pub closed: bool,
    /// The client's end has arrived at the server, after all of its bytes.
    pub client_ended: bool,
    /// When the server sent its end.
    pub end_ns: Option<u64>,
    /// When bytes or an end last moved, on the steady clock; at least when it was the client that
    /// bytes waited for.
    pub moved_steady_ns: u64,
    /// How it stood when the server gave it up.
    pub given_up: Option<GivenUp>,
    /// When something last arrived at the client.
    taken_ns: u64,
    /// Since when bytes have waited at the client.
    unread_since_ns: Option<u64>,
    /// The longest time that bytes have lately waited there, and when it ended.
    waited_ns: u64,
    waited_until_steady_ns: u64,
}

/// How a connection stood at the moment when the server asked for its close: what comes later,
/// while the close is on its way, is no cause of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GivenUp {
    /// When that was, on the world's clock.
    pub at_ns: u64,
    /// Whether bytes waited at the client.
    pub unread: bool,
    /// For how long some had waited without its reading any; or had until lately, because what the
    /// client then makes room for takes a moment to arrive, and the server sees nothing before.
    pub unread_ns: u64,
    /// How long nothing had arrived at the client.
    pub untaken_ns: u64,
    /// How long nothing had moved, on the steady clock.
    pub rested_ns: u64,
    /// How long the server had waited for the client's end after its own; `None` before that.
    pub lingered_ns: Option<u64>,
}

/// A view of a connection's [`Traffic`] that stays good when the connection is gone.
#[derive(Clone, Debug, Default)]
pub struct TrafficWatch(Arc<Lock<Traffic>>);

#[expect(clippy::disallowed_types, reason = "as for the world itself")]
type Lock<T> = std::sync::Mutex<T>;

/// A world's clocks, as a connection sees them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    pub(super) now_ns: u64,
    pub(super) steady_ns: u64,
    pub(super) link_ns: u64,
    /// What happened so long ago, on the steady clock, was lately.
    pub(super) lately_ns: u64,
}

impl TrafficWatch {
    /// What went over it so far.
    #[must_use]
    pub fn get(&self) -> Traffic {
        *self.lock()
    }

    /// Whether bytes wait at the client.
    #[must_use]
    pub fn waits_for_client(&self) -> bool {
        self.lock().unread_since_ns.is_some()
    }

    /// The server is asked for something from now on, at `steady_ns`: only then a wait begins.
    pub fn asked(&self, steady_ns: u64) {
        self.lock().moved_steady_ns = steady_ns;
    }

    /// The client has connected, or the server's port has taken the connection.
    pub(super) fn opened(&self, steady_ns: u64) {
        self.lock().moved_steady_ns = steady_ns;
    }

    pub(super) fn note(&self, act: impl FnOnce(&mut Traffic)) {
        act(&mut self.lock());
    }

    /// Bytes, or an end, have reached a side.
    pub(super) fn arrived(&self, side: usize, count: usize, clocks: Clocks) {
        let mut traffic = self.lock();
        if side == SERVER {
            traffic.to_server += count as u64;
        } else {
            traffic.to_client += count as u64;
            traffic.taken_ns = clocks.link_ns;
            if count > 0 {
                traffic.unread_since_ns.get_or_insert(clocks.link_ns);
            }
        }
        // What reaches a server that was waited for is no progress of the server's.
        if side == CLIENT || traffic.by_server + count as u64 == traffic.to_server {
            traffic.moved_steady_ns = clocks.steady_ns;
        }
    }

    /// A side has read bytes, and `rest` are left.
    pub(super) fn read(&self, side: usize, count: usize, rest: usize, clocks: Clocks) {
        let mut traffic = self.lock();
        traffic.moved_steady_ns = clocks.steady_ns;
        if side == SERVER {
            traffic.by_server += count as u64;
        } else {
            traffic.by_client += count as u64;
            traffic.end_wait(clocks);
            traffic.unread_since_ns = (rest > 0).then_some(clocks.link_ns);
        }
    }

    /// The server asks for the connection's close.
    pub(super) fn give_up(&self, clocks: Clocks) {
        let mut traffic = self.lock();
        let given_up = GivenUp {
            at_ns: clocks.now_ns,
            unread: traffic.unread_since_ns.is_some(),
            unread_ns: traffic.unread_ns(clocks).max(traffic.waited_lately_ns(clocks)),
            untaken_ns: clocks.link_ns.saturating_sub(traffic.taken_ns),
            rested_ns: clocks.steady_ns.saturating_sub(traffic.moved_steady_ns),
            lingered_ns: traffic.end_ns.map(|end| clocks.link_ns.saturating_sub(end)),
        };
        traffic.given_up.get_or_insert(given_up);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Traffic> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Traffic {
    fn unread_ns(&self, clocks: Clocks) -> u64 {
        self.unread_since_ns.map_or(0, |since_ns| clocks.link_ns.saturating_sub(since_ns))
    }

    fn waited_lately_ns(&self, clocks: Clocks) -> u64 {
        let ago_ns = clocks.steady_ns.saturating_sub(self.waited_until_steady_ns);
        if ago_ns <= clocks.lately_ns { self.waited_ns } else { 0 }
    }

    /// The client reads what has waited.
    fn end_wait(&mut self, clocks: Clocks) {
        let waited_ns = self.unread_ns(clocks);
        if waited_ns >= self.waited_lately_ns(clocks) {
            (self.waited_ns, self.waited_until_steady_ns) = (waited_ns, clocks.steady_ns);
        }
    }
}
