//! The traffic of a connection and its times, kept beyond the connection's end, so that a check can
//! find why the connection ended.

use super::connection::{CLIENT, SERVER};
use std::sync::{Arc, PoisonError};

/// The traffic of one connection so far.
///
/// Times are on the links' clock of the server's port, unless they say otherwise: the steady clock,
/// which leaves out how far [`ClockJump`](super::FaultKind::ClockJump) has moved the world's, plus
/// what [the server may count of a jump](super::World::link_ns).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Bytes that have arrived at the server's system.
    pub to_server: u64,
    /// Bytes that the server's port has received.
    pub by_server: u64,
    /// Bytes that the server has sent.
    pub from_server: u64,
    /// Bytes that have arrived at the client's system.
    pub to_client: u64,
    /// Bytes that the client has read.
    pub by_client: u64,
    /// A fault was injected after which bytes may be missing.
    pub faulted: bool,
    /// A reset has arrived at the server.
    pub reset: bool,
    /// The server's system has reset it before it was accepted: the listener was closed, for
    /// example.
    pub turned_away: bool,
    /// The server's side is closed.
    pub closed: bool,
    /// The client's end of stream has arrived at the server.
    pub client_ended: bool,
    /// When the server has shut down its sending.
    pub end_ns: Option<u64>,
    /// When bytes or an end last arrived or were read, on the steady clock. An arrival at the
    /// server counts only if the server had read all earlier bytes.
    pub moved_steady_ns: u64,
    /// The state when the server submitted the close.
    pub given_up: Option<GivenUp>,
    /// When bytes or an end last arrived at the client.
    taken_ns: u64,
    /// Since when arrived bytes are unread at the client.
    unread_since_ns: Option<u64>,
    /// The longest recent time that bytes were unread there, and when it ended.
    waited_ns: u64,
    waited_until_steady_ns: u64,
}

/// The state of a connection when the server submitted its close. Later events are not a cause of
/// the close.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GivenUp {
    /// The time of the submit, on the world's clock.
    pub at_ns: u64,
    /// Whether arrived bytes were unread at the client.
    pub unread: bool,
    /// How long the client had not read although bytes had arrived. A wait that ended less than
    /// [`Faults::way_max_ns`](super::Faults::way_max_ns) before counts, too, because the server
    /// learns of the client's read only after that time.
    pub unread_ns: u64,
    /// Time since bytes or an end arrived at the client.
    pub untaken_ns: u64,
    /// Time since bytes or an end arrived or were read, on the steady clock.
    pub rested_ns: u64,
    /// Time since the server has shut down its sending; `None` if it has not.
    pub lingered_ns: Option<u64>,
}

/// A view of a connection's [`Traffic`], valid after the connection has ended.
#[derive(Clone, Debug, Default)]
pub struct TrafficWatch(Arc<Lock<Traffic>>);

#[expect(clippy::disallowed_types, reason = "as for the world's state")]
type Lock<T> = std::sync::Mutex<T>;

/// A world's clocks, as they count for a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    pub(super) now_ns: u64,
    pub(super) steady_ns: u64,
    pub(super) link_ns: u64,
    /// A wait that ended up to this long before, on the steady clock, is recent.
    pub(super) lately_ns: u64,
}

impl TrafficWatch {
    /// The traffic so far.
    #[must_use]
    pub fn get(&self) -> Traffic {
        *self.lock()
    }

    /// Whether arrived bytes are unread at the client.
    #[must_use]
    pub fn waits_for_client(&self) -> bool {
        self.lock().unread_since_ns.is_some()
    }

    /// Sets the time from which the server's inactivity counts to `steady_ns`.
    pub fn asked(&self, steady_ns: u64) {
        self.lock().moved_steady_ns = steady_ns;
    }

    /// The client has connected, or the connection was associated with the server's port.
    pub(super) fn opened(&self, steady_ns: u64) {
        self.lock().moved_steady_ns = steady_ns;
    }

    pub(super) fn note(&self, act: impl FnOnce(&mut Traffic)) {
        act(&mut self.lock());
    }

    /// Bytes or an end have arrived at a side.
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
        // Bytes that arrive while the server has unread ones are not the server's progress.
        if side == CLIENT || traffic.by_server + count as u64 == traffic.to_server {
            traffic.moved_steady_ns = clocks.steady_ns;
        }
    }

    /// A side has read bytes, and `rest` arrived ones are unread.
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

    /// The server has submitted the close.
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

    /// The client has read: records how long bytes were unread.
    fn end_wait(&mut self, clocks: Clocks) {
        let waited_ns = self.unread_ns(clocks);
        if waited_ns >= self.waited_lately_ns(clocks) {
            (self.waited_ns, self.waited_until_steady_ns) = (waited_ns, clocks.steady_ns);
        }
    }
}
