//! What has gone over a connection, and when: kept beyond the connection's end, so that whoever
//! judges a run can ask how it came to that end.

use super::core::{CLIENT, SERVER};
use std::sync::{Arc, PoisonError};

/// What has gone over one connection so far. Times are on the world's clock unless it says steady:
/// the steady clock leaves out how far [`ClockJump`](super::FaultKind::ClockJump) has moved it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Bytes that have reached the server's system.
    pub to_server: u64,
    /// Bytes that the server's port has received.
    pub by_server: u64,
    /// Bytes that have reached the client's system.
    pub to_client: u64,
    /// Bytes that the client has read.
    pub by_client: u64,
    /// Something has struck the connection that no program could mend.
    pub harmed: bool,
    /// A reset has reached the server; none by chance, but one of the client's system.
    pub reset: bool,
    /// The longest time in which nothing reached the server.
    pub silent_ns: u64,
    /// The longest time for which bytes waited at the client without its reading any.
    pub unread_ns: u64,
    /// When the server sent its end.
    pub end_ns: Option<u64>,
    /// When the server let go of the connection.
    pub gone_ns: Option<u64>,
    /// When bytes or an end last moved, on the steady clock; at least when it was the client that
    /// bytes waited for.
    pub moved_steady_ns: u64,
    /// How it stood when the server gave it up.
    pub given_up: Option<GivenUp>,
    /// Since when something last reached the server.
    heard_ns: u64,
    /// Since when bytes have waited at the client.
    unread_since_ns: Option<u64>,
}

/// How a connection stood at the moment when the server asked for its close: what comes later,
/// while the close is on its way, is no cause of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GivenUp {
    /// When that was.
    pub at_ns: u64,
    /// How long bytes had waited at the client; `None` if none did.
    pub unread_ns: Option<u64>,
    /// How long nothing had moved, on the steady clock.
    pub rested_ns: u64,
}

/// A view of a connection's [`Traffic`] that stays good when the connection is gone.
#[derive(Clone, Debug, Default)]
pub struct TrafficWatch(Arc<Lock<Traffic>>);

#[expect(clippy::disallowed_types, reason = "as for the world itself")]
type Lock<T> = std::sync::Mutex<T>;

/// Both clocks of a world.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    pub(super) now_ns: u64,
    pub(super) steady_ns: u64,
}

impl TrafficWatch {
    /// What went over it so far.
    #[must_use]
    pub fn get(&self) -> Traffic {
        *self.lock()
    }

    /// What went over it until `now`, silence and unread bytes up to that moment included.
    #[must_use]
    pub fn at(&self, now: crate::port::Time) -> Traffic {
        let mut traffic = self.get();
        traffic.note_waits(now.0);
        traffic
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

    pub(super) fn opened(&self, clocks: Clocks) {
        let mut traffic = self.lock();
        (traffic.heard_ns, traffic.moved_steady_ns) = (clocks.now_ns, clocks.steady_ns);
    }

    pub(super) fn note(&self, act: impl FnOnce(&mut Traffic)) {
        act(&mut self.lock());
    }

    /// Bytes, or an end, have reached a side.
    pub(super) fn arrived(&self, side: usize, count: usize, clocks: Clocks) {
        let mut traffic = self.lock();
        if side == SERVER {
            traffic.to_server += count as u64;
            if traffic.gone_ns.is_none() {
                traffic.silent_ns =
                    traffic.silent_ns.max(clocks.now_ns.saturating_sub(traffic.heard_ns));
            }
            traffic.heard_ns = clocks.now_ns;
        } else {
            traffic.to_client += count as u64;
            if count > 0 {
                traffic.unread_since_ns.get_or_insert(clocks.now_ns);
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
            traffic.note_waits(clocks.now_ns);
            traffic.unread_since_ns = (rest > 0).then_some(clocks.now_ns);
        }
    }

    /// The server asks for the connection's close.
    pub(super) fn give_up(&self, clocks: Clocks) {
        let mut traffic = self.lock();
        let given_up = GivenUp {
            at_ns: clocks.now_ns,
            unread_ns: traffic.unread_since_ns.map(|since| clocks.now_ns.saturating_sub(since)),
            rested_ns: clocks.steady_ns.saturating_sub(traffic.moved_steady_ns),
        };
        traffic.given_up.get_or_insert(given_up);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Traffic> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Traffic {
    fn note_waits(&mut self, now_ns: u64) {
        // What comes after the server has let go is nobody's fault.
        let until_ns = self.gone_ns.unwrap_or(now_ns).min(now_ns);
        self.silent_ns = self.silent_ns.max(until_ns.saturating_sub(self.heard_ns));
        if let Some(since_ns) = self.unread_since_ns {
            self.unread_ns = self.unread_ns.max(until_ns.saturating_sub(since_ns));
        }
    }
}
