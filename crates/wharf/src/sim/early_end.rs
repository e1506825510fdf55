//! Why a client may end early: a fault of the world, a request of the workload, or the client itself.
//!
//! Each cause must be one of this client's end: a fault of its connection, silence or unread
//! bytes for as long as the timeout that ended it, and so on. All times are the world's, so a jump of
//! the clock is a cause only if it crossed the end's timeout.

use crate::engine::inspect::ensure;
use crate::handler::Handler;
use crate::sim::checker::{ConnectionHistory, ConnectionStatus, IdleRecord};
use crate::sim::failure::{EarlyEndCause, EarlyEndCounts};
use crate::sim::simulation::{Peer, Simulation};
use crate::vocabulary::policy::WhenFull;
use crate::vocabulary::reason::DisconnectReason;
use std::time::Duration;
use wharf_port::port::Time;
use wharf_port::sim::{GivenUp, Traffic};

/// The state at a stop.
#[derive(Clone, Debug)]
pub(super) struct StopRecord {
    pub(super) at: Time,
    pub(super) drain: Duration,
    /// Bytes that had arrived at the server by then, by client.
    pub(super) delivered: Vec<u64>,
}

impl StopRecord {
    /// Bytes of this client that had arrived at the server by then.
    pub(super) fn delivered_by(&self, client: usize) -> u64 {
        self.delivered.get(client).copied().unwrap_or(0)
    }
}

impl<H, S, W> Simulation<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    /// Checks that each client that ended early has a cause, and that the handler was called with all
    /// that had arrived where the peer ended the link.
    pub(super) fn check_clients(&self) -> Result<EarlyEndCounts, String> {
        let mut counts = EarlyEndCounts::default();
        for (number, peer) in self.clients.iter().enumerate() {
            let history = self.checker.history(number);
            self.check_input(number, &peer.traffic.get(), &history)?;
            let Some(how) = &peer.ended_early else { continue };
            match self.early_end_cause(peer, &history) {
                Some(cause) => counts.add(cause),
                None => {
                    let status = history.status;
                    let idle = history.idle.map_or_else(String::new, |note| format!(", {note:?}"));
                    let link = history.link.map_or_else(String::new, |link| format!(" {link}"));
                    return Err(format!(
                        "client {number} ended early {how}; at the server: {status:?}{link}{idle}"
                    ));
                }
            }
        }
        self.check_refusals()?;
        Ok(counts)
    }

    /// Checks that the handler was called with all bytes that had arrived before the peer ended or
    /// reset the link, or, if the server stops, before the stop.
    fn check_input(
        &self,
        number: usize,
        traffic: &Traffic,
        history: &ConnectionHistory,
    ) -> Result<(), String> {
        use DisconnectReason::{PeerClosed, PeerReset};
        let by_peer = matches!(history.status, ConnectionStatus::Over(PeerClosed | PeerReset));
        if !by_peer || history.panicked {
            return Ok(());
        }
        let least = match &self.stop_record {
            Some(stop) => stop.delivered_by(number),
            None => traffic.to_server,
        };
        ensure!(
            history.unhandled(least) == 0 && history.received <= traffic.to_server,
            "client {number}: {least} bytes had arrived when it left ({:?}), but {} were handled",
            history.status,
            history.received
        );
        Ok(())
    }

    fn early_end_cause(&self, peer: &Peer, history: &ConnectionHistory) -> Option<EarlyEndCause> {
        use DisconnectReason::{HandlerError, HandlerPanic, Idle, Kicked, Limit, SlowReader};
        if peer.faulted {
            return Some(EarlyEndCause::Fault);
        }
        let traffic = peer.traffic.get();
        let did_not_read = was_unread_for(&traffic, self.stall_max());
        match history.status {
            ConnectionStatus::Open(_) => None,
            ConnectionStatus::Unseen => self.cause_if_unseen(&traffic),
            ConnectionStatus::Over(HandlerPanic) => {
                history.panicked.then_some(EarlyEndCause::Panicked)
            }
            ConnectionStatus::Over(Kicked) => history.is_kicked.then_some(EarlyEndCause::Kicked),
            ConnectionStatus::Over(Idle) => {
                self.was_idle(peer, history).then_some(EarlyEndCause::Idle)
            }
            ConnectionStatus::Over(HandlerError) if self.was_late(history) => {
                Some(EarlyEndCause::LateReply)
            }
            ConnectionStatus::Over(SlowReader) if did_not_read => Some(EarlyEndCause::SlowReader),
            ConnectionStatus::Over(SlowReader) if peer.kicked => Some(EarlyEndCause::Kicked),
            ConnectionStatus::Over(SlowReader) => self.cause_if_revoked(peer, history),
            ConnectionStatus::Over(Limit) => self
                .cause_if_revoked(peer, history)
                .or_else(|| self.cause_if_closing(peer, history)),
            status @ ConnectionStatus::Over(_) if is_closing(status) => {
                self.cause_if_closing(peer, history)
            }
            ConnectionStatus::Over(_) => None,
        }
    }

    /// The cause of a client without callbacks; `check_refusals` compares their number with the
    /// server's counters.
    fn cause_if_unseen(&self, traffic: &Traffic) -> Option<EarlyEndCause> {
        let refuses = self.settings.when_full == WhenFull::Refuse;
        if refuses && !traffic.turned_away && self.stats().refused_full > 0 {
            return Some(EarlyEndCause::Refused);
        }
        self.stop_record.as_ref().map(|_| EarlyEndCause::Stopped)
    }

    /// Checks that the clients without callbacks, except those that the system rejected, were refused
    /// and counted.
    fn check_refusals(&self) -> Result<(), String> {
        let is_refused = |(number, peer): &(usize, &Peer)| {
            let lost = peer.faulted || peer.traffic.get().turned_away;
            peer.ended_early.is_some()
                && !lost
                && self.checker.status(*number) == ConnectionStatus::Unseen
        };
        let refused = self.clients.iter().enumerate().filter(is_refused).count() as u64;
        let stats = self.stats();
        let [full, stopping] = [stats.refused_full, stats.refused_stopping];
        ensure!(
            refused <= full + stopping,
            "{refused} clients reached no handler, but {full} were refused for lack of a slot, and \
             {stopping} because of the stop"
        );
        Ok(())
    }

    /// The cause of a client whose link was closing: the link keeps its first reason.
    fn cause_if_closing(&self, peer: &Peer, history: &ConnectionHistory) -> Option<EarlyEndCause> {
        if history.is_kicked {
            // A graceful close that became an immediate one.
            return Some(EarlyEndCause::Kicked);
        }
        let traffic = peer.traffic.get();
        let stops = history.status == ConnectionStatus::Over(DisconnectReason::ServerStopping);
        if stops && self.stop_record.is_some() && peer.lacks_of_stop == 0 {
            return Some(EarlyEndCause::Stopped);
        }
        let is_forced = self.stop_record.as_ref().is_some_and(|stop| was_forced(stop, &traffic));
        if is_forced && (history.is_held || self.may_force(&traffic)) {
            return Some(EarlyEndCause::DrainedOut);
        }
        let lacks = if stops { peer.lacks_of_stop } else { peer.lacks };
        let is_all_sent = traffic.by_client + lacks <= traffic.from_server;
        if has_lingered(&traffic) && is_all_sent {
            return Some(EarlyEndCause::Lingered);
        }
        let did_not_read = was_unread_for(&traffic, self.stall_max());
        did_not_read
            .then_some(EarlyEndCause::SlowReader)
            .or_else(|| self.cause_if_revoked(peer, history))
    }

    /// Whether the server waited for the client for the idle timeout: the handler was called with all
    /// that had arrived, except for the latest bytes, and the client lacks no reply to these.
    fn was_idle(&self, peer: &Peer, history: &ConnectionHistory) -> bool {
        let (idle_ns, way_max_ns) = (nanos(self.settings.idle), self.faults.way_max_ns());
        let is_delayed = self.faults.step_max_ns() > 0;
        let is_over = |note: &IdleRecord| {
            let mut rested_ns = note.at_ns.saturating_sub(note.moved_ns);
            if is_delayed {
                // A delayed operation begins only after a pause, so the server does not see its bytes
                // at once.
                rested_ns -= self.pauses.within(note.moved_ns, note.at_ns);
            }
            let owes = note.unhandled > 0 && rested_ns > way_max_ns;
            note.silent_ns >= idle_ns && !owes
        };
        idle_ns > 0 && history.idle.as_ref().is_some_and(is_over) && peer.lacks_of_handled == 0
    }

    /// Whether a reply was deferred for the answer timeout.
    fn was_late(&self, history: &ConnectionHistory) -> bool {
        let answer_ns = nanos(self.settings.answer);
        answer_ns > 0 && history.reply_ns >= answer_ns
    }

    /// Whether the engine revoked the loans of this link, and its client had not read for `loan_wait`,
    /// or had sent only a part of a message.
    fn cause_if_revoked(&self, peer: &Peer, history: &ConnectionHistory) -> Option<EarlyEndCause> {
        let is_revoked = history.link.is_some_and(|link| self.shared.revoked.contains(link));
        let is_incomplete = history.status == ConnectionStatus::Over(DisconnectReason::Limit)
            && history.is_incomplete();
        let wait = self.settings.loan_wait;
        let traffic = peer.traffic.get();
        // If the network transferred nothing, that looks the same to the server.
        let is_slow = self.faults.way_max_ns() >= nanos(wait)
            && traffic.given_up.is_some_and(|then| then.untaken_ns >= nanos(wait));
        // If the handler held the link back, that looks the same to the server.
        let keeps = history.is_held || history.leaves_input;
        // Where replies of other links are out for so long, all that hold loans may wait for capacity,
        // and then one of these is closed.
        let lacks_capacity = history.awaits_capacity && self.replies_take >= wait;
        let unread = was_unread_for(&traffic, wait);
        let holds = is_incomplete || is_slow || unread || keeps || lacks_capacity;
        (is_revoked && holds).then_some(EarlyEndCause::Loan)
    }

    /// Whether the drain timeout may force-close the link: it still made progress, or waited for its
    /// client.
    fn may_force(&self, traffic: &Traffic) -> bool {
        // Where the world's clock jumps, the pauses of that time are not known, so all count.
        let paused_ns = |at_ns: u64, rested_ns: u64| {
            if self.jumps {
                self.pauses.within(0, u64::MAX)
            } else {
                self.pauses.within(at_ns.saturating_sub(rested_ns), at_ns)
            }
        };
        let rested_ns =
            |then: GivenUp| then.rested_ns.saturating_sub(paused_ns(then.at_ns, then.rested_ns));
        let wait_max_ns = nanos(self.wait_max());
        traffic.given_up.is_some_and(|then| then.unread || rested_ns(then) <= wait_max_ns)
    }

    /// Maximum time for which a client that reads waits for the server's next step, on the steady
    /// clock and without pauses of the process:
    ///
    /// ```text
    ///   2 s + 3 × loan_wait + (8 + links of a shard) × (2 × latency + 4 × longest delay)
    ///     + links of a shard × what replies take
    /// ```
    ///
    /// A step is a receive, a send (begin and end) and the transfer, each of which can be delayed. Each
    /// link of the shard may precede the client's in the queue for buffers, with one such step. Loans
    /// are revoked after `loan_wait`, and those of the next links after as much again; where a handler
    /// leaves input unread, that may be each link of the shard. The rest is for late timers and for
    /// time in turns.
    pub(super) fn wait_max(&self) -> Duration {
        let latency = Duration::from_nanos(self.faults.latency_ns);
        let step = 2 * latency + 4 * Duration::from_nanos(self.faults.step_max_ns());
        let settings = &self.settings;
        let links = settings.links_per_shard();
        let holders = if self.holds_input { links } else { 0 };
        let replies = links * self.replies_take;
        let waits = (3 + holders) * settings.loan_wait;
        Duration::from_secs(2) + waits + (8 + links) * step + replies
    }

    /// Checks that no client waits longer than [`wait_max`](Self::wait_max) for a server that has
    /// something to do for it: bytes that have arrived, or a reply.
    pub(super) fn check_waits(&self) -> Result<(), String> {
        let wait_max_ns = nanos(self.wait_max());
        for (number, peer) in self.clients.iter().enumerate() {
            let Some(client) = &peer.client else { continue };
            let traffic = peer.traffic.get();
            self.check_slot_wait(number, peer)?;
            let opened_ns = self.checker.history(number).opened_steady_ns;
            let waited_ns = self.ran_since(traffic.moved_steady_ns.max(opened_ns));
            if waited_ns <= wait_max_ns || traffic.faulted || peer.traffic.waits_for_client() {
                continue;
            }
            let unread = traffic.to_server - traffic.by_server;
            let history = self.checker.history(number);
            // While its own handler holds the link back, the server can do nothing.
            if !matches!(history.status, ConnectionStatus::Open(_)) || history.is_held {
                continue;
            }
            ensure!(
                unread == 0 && client.lacks(traffic.by_server) == 0,
                "client {number} waits too long: no transfer for {:.3} s, though {unread} bytes have \
                 arrived and it waits for {} (at the server: {:?})",
                waited_ns as f64 / 1e9,
                client.waits_for(),
                history.status
            );
        }
        Ok(())
    }

    /// How long the process has run since a time of the steady clock.
    fn ran_since(&self, from_ns: u64) -> u64 {
        let now_ns = self.world.steady_ns();
        now_ns.saturating_sub(from_ns + self.pauses.within(from_ns, now_ns))
    }

    /// Checks that no connection waits longer than for a step of the server while a slot is free.
    fn check_slot_wait(&self, number: usize, peer: &Peer) -> Result<(), String> {
        let Some(free_slot_since_ns) = self.free_slot_since_ns else { return Ok(()) };
        let traffic = peer.traffic.get();
        let waits = self.checker.status(number) == ConnectionStatus::Unseen && !traffic.closed;
        let waited_ns = self.ran_since(free_slot_since_ns.max(peer.connected_ns));
        ensure!(
            !waits || traffic.faulted || waited_ns <= nanos(self.wait_max()),
            "client {number} has waited for a slot for {:.3} s while one was free",
            waited_ns as f64 / 1e9
        );
        Ok(())
    }

    /// Time for which a client may leave bytes unread before its link is closed as a slow reader.
    fn stall_max(&self) -> Duration {
        let stall = self.settings.stall;
        if stall.is_zero() { CLOSING_STALL } else { stall.min(CLOSING_STALL) }
    }
}

/// Whether the server force-closed the link at the drain timeout.
fn was_forced(stop: &StopRecord, traffic: &Traffic) -> bool {
    let until = stop.at.saturating_add(stop.drain);
    traffic.given_up.is_some_and(|then| then.at_ns >= until.0)
}

/// Reasons of links that were closing gracefully.
fn is_closing(status: ConnectionStatus) -> bool {
    use DisconnectReason::{
        HandlerClosed, HandlerError, Limit, OutputFull, PeerClosed, ServerStopping,
    };
    let closing = [HandlerClosed, HandlerError, Limit, OutputFull, PeerClosed, ServerStopping];
    matches!(status, ConnectionStatus::Over(reason) if closing.contains(&reason))
}

fn has_lingered(traffic: &Traffic) -> bool {
    let lingered_ns = traffic.given_up.and_then(|then| then.lingered_ns);
    lingered_ns.is_some_and(|lingered_ns| lingered_ns >= nanos(LINGER))
}

/// Whether bytes had been unread at the client for so long when the server closed the link.
fn was_unread_for(traffic: &Traffic, time: Duration) -> bool {
    traffic.given_up.is_some_and(|then| then.unread_ns >= nanos(time))
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Maximum time for which a closing link waits for its peer to read.
const CLOSING_STALL: Duration = Duration::from_secs(30);
/// Maximum time of a lingering close.
const LINGER: Duration = Duration::from_secs(2);
