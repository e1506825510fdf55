//! Checks the promises for the calls of one link.
//!
//! The records contain what each callback was called with, what it requested, and what the world has
//! transferred; nothing of the engine's.

use crate::acts::Act;
use crate::engine::inspect::ensure;
use crate::sim::checker::Event;
use crate::vocabulary::reason::DisconnectReason;
use std::fmt;
use std::time::{Duration, Instant};

/// The settings that the promises depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) grant_bytes: usize,
    pub(super) output_bytes: usize,
    pub(super) idle: Duration,
}

/// What a callback sees of its link at its begin or end.
#[derive(Clone, Copy)]
pub(super) struct LinkView {
    /// The links' clock.
    pub(super) now: Instant,
    /// Unread bytes; 0 in a callback without input.
    pub(super) unread: usize,
    pub(super) is_ended: bool,
    pub(super) unsent: usize,
    pub(super) spare: usize,
    pub(super) has_grant: bool,
    /// Sent bytes, as the link counts them.
    pub(super) sent_bytes: u64,
}

impl fmt::Debug for LinkView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unread, unsent, spare, .. } = self;
        let ended = if self.is_ended { ", ended" } else { "" };
        write!(f, "{unread} unread{ended}, {unsent} unsent, capacity for {spare}")
    }
}

/// The state of the world at the same time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// The clock of the link's shard.
    pub(super) link_ns: u64,
    /// The clock that does not jump, without the pauses of the process.
    pub(super) ran_ns: u64,
    /// The turn of the link's shard.
    pub(super) turn: u64,
    /// Bytes that the simulated kernel has taken from the server.
    pub(super) from_server: u64,
    /// The end of the peer's stream has arrived.
    pub(super) peer_has_ended: bool,
    /// The connection was reset, or has a fault with the same effect.
    pub(super) is_broken: bool,
    /// Whether the server is stopping, and whether the drain timeout has ended.
    pub(super) is_stopping: bool,
    pub(super) is_drained_out: bool,
    /// The engine has revoked the link's loans.
    pub(super) is_revoked: bool,
}

/// The outcome of a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The link stays open.
    Stays,
    /// The link closes for this reason when all is handled and sent.
    Ends(DisconnectReason),
    /// Only `on_disconnect` follows, with this reason.
    Closes(DisconnectReason),
}

/// The state of a deferred reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Deferred {
    #[default]
    No,
    /// It is not sent yet.
    Out,
    /// It was sent with so many bytes, and is or will be queued.
    Came(usize),
    /// It closes the link for this reason.
    Closes(DisconnectReason),
}

/// A pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    No,
    /// A resume of another thread may have ended it; the order of the two is unknown.
    Perhaps,
    Yes,
}

/// Why an `on_writable` is due.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    is_owed: bool,
    /// The output had too little capacity, or the handler called `notify`.
    is_for_capacity: bool,
    /// Bytes that `ensure` asked for.
    ensures: usize,
    /// The capacity was not there when the callback had returned.
    is_short: bool,
}

/// The state after the last `on_receive`.
#[derive(Clone, Copy, Debug)]
struct LastCall {
    took: bool,
    /// Bytes that it asked for, from the first unread one; 0: none.
    wants: usize,
    ensures: usize,
    /// Nothing was unsent at its begin and at its end.
    output_is_idle: bool,
    end: LinkView,
    from_server: u64,
}

/// The record of one link.
#[derive(Debug)]
pub(super) struct Rules {
    limits: Limits,
    begin: LinkView,
    /// The requests of the running callback.
    wants: usize,
    ensures: usize,
    pause: Pause,
    /// A resume of another thread may be applied until this turn.
    resumes_until: u64,
    deferred: Deferred,
    /// Since when a reply is deferred, and the longest time of one.
    deferred_since_ns: Option<u64>,
    reply_ns: u64,
    /// A reply was deferred when the link was closed.
    closes_deferred: bool,
    is_finished: bool,
    is_kicked: bool,
    /// When an abort was first requested.
    aborted_ns: Option<u64>,
    closes: Option<DisconnectReason>,
    ends: Option<DisconnectReason>,
    wakes: bool,
    owed: Owed,
    last: Option<LastCall>,
    end_called: bool,
    drain_called: bool,
    /// `on_drain` has returned `Keep`.
    is_kept: bool,
    turn: u64,
    calls: u32,
    /// Bytes that callbacks and replies have queued.
    queued: u64,
    /// The last time of new bytes, or of a call of `on_idle`.
    heard: Instant,
    heard_ns: u64,
    /// Since when a pause or a deferred reply stops the idle timeout, and the time of earlier ones.
    blocked_since_ns: Option<u64>,
    blocked_ns: u64,
}

impl Rules {
    pub(super) fn new(limits: Limits, begin: LinkView, facts: &Facts) -> Self {
        Self {
            limits,
            begin,
            wants: 0,
            ensures: 0,
            pause: Pause::No,
            resumes_until: 0,
            deferred: Deferred::No,
            deferred_since_ns: None,
            reply_ns: 0,
            closes_deferred: false,
            is_finished: false,
            is_kicked: false,
            aborted_ns: None,
            closes: None,
            ends: None,
            wakes: false,
            owed: Owed::default(),
            last: None,
            end_called: false,
            drain_called: false,
            is_kept: false,
            turn: 0,
            calls: 0,
            queued: 0,
            heard: begin.now,
            heard_ns: facts.link_ns,
            blocked_since_ns: None,
            blocked_ns: 0,
        }
    }

    /// Handles the begin of a callback.
    pub(super) fn begin(
        &mut self,
        event: Event,
        at: LinkView,
        facts: &Facts,
    ) -> Result<(), String> {
        (self.begin, self.wants, self.ensures) = (at, 0, 0);
        if let Event::Disconnect(reason) = event {
            return self.begin_disconnect(reason, facts);
        }
        if let Some(reason) = self.closes {
            return Err(format!("though the link was closed ({reason:?})"));
        }
        // Queued bytes can have been sent only through the world.
        let least = self.queued.saturating_sub(facts.from_server);
        ensure!(
            facts.is_broken || at.unsent as u64 >= least,
            "with {} bytes unsent, but {least} at least are",
            at.unsent
        );
        match event {
            Event::Connect | Event::Disconnect(_) => Ok(()),
            Event::Receive => self.begin_receive(at, facts),
            Event::Writable => self.begin_writable(at),
            Event::End => self.begin_end(at, facts),
            Event::Idle => self.begin_idle(at, facts),
            Event::Drain => self.begin_drain(at, facts),
        }
    }

    fn begin_receive(&mut self, at: LinkView, facts: &Facts) -> Result<(), String> {
        ensure!(at.unread > 0, "without input");
        self.check_held()?;
        if let Deferred::Came(len) = std::mem::take(&mut self.deferred) {
            self.queued += len as u64;
        }
        let high_water = self.limits.output_bytes / 2;
        let least = self.queued.saturating_sub(facts.from_server);
        ensure!(
            self.is_finished || facts.is_broken || least <= high_water as u64,
            "with {least} bytes unsent at least, above the high-water mark of {high_water}"
        );
        ensure!(
            self.is_finished || facts.is_broken || at.unsent <= high_water,
            "with {} bytes unsent, above the high-water mark of {high_water}",
            at.unsent
        );
        ensure!(self.is_finished || at.has_grant, "without the grant");
        self.check_grant(at)?;
        if self.turn != facts.turn {
            (self.turn, self.calls) = (facts.turn, 0);
        }
        self.calls += 1;
        ensure!(self.calls <= CALLS_A_TURN, "for the {}th time in one turn", self.calls);
        self.check_cause(at, facts)?;
        let is_due = self.owed.is_for_capacity && self.owed.is_short && !self.ensures_only();
        let is_first = is_due && !facts.is_broken;
        ensure!(
            !is_first || self.is_finished || at.spare < self.limits.grant_bytes,
            "before the on_writable that is due, with capacity for {}",
            at.spare
        );
        let is_more = self.last.is_none_or(|last| at.unread > last.end.unread);
        if is_more {
            self.note_input(at, facts);
        }
        self.wakes = false;
        Ok(())
    }

    /// Checks that the call has a cause.
    fn check_cause(&self, at: LinkView, facts: &Facts) -> Result<(), String> {
        let Some(last) = &self.last else { return Ok(()) };
        let is_ensured = last.ensures > 0 && at.spare >= last.ensures;
        // A resume of another thread may be applied only now.
        let wakes = self.wakes || facts.turn <= self.resumes_until;
        // The output of a broken link takes everything.
        if last.took || wakes || is_ensured || facts.is_broken {
            return Ok(());
        }
        if last.wants > 0 {
            ensure!(
                at.unread >= last.wants,
                "with {} bytes, but the last call asked for {}",
                at.unread,
                last.wants
            );
            return Ok(());
        }
        let is_more = at.unread > last.end.unread;
        let may_queue_more = at.spare > last.end.spare
            || at.unsent < last.end.unsent
            || at.sent_bytes > last.end.sent_bytes
            || facts.from_server > last.from_server;
        ensure!(
            is_more || may_queue_more,
            "for nothing: the last call took nothing of {} bytes, no more came, and no more may be \
             queued",
            last.end.unread
        );
        Ok(())
    }

    fn begin_writable(&mut self, at: LinkView) -> Result<(), String> {
        let Owed { is_owed, ensures, .. } = std::mem::take(&mut self.owed);
        ensure!(is_owed, "though none is due");
        let needed = ensures.max(self.limits.grant_bytes);
        ensure!(
            self.is_finished || at.spare >= needed,
            "with capacity for {}, but {needed} were asked for",
            at.spare
        );
        self.wakes = true;
        Ok(())
    }

    fn begin_end(&mut self, at: LinkView, facts: &Facts) -> Result<(), String> {
        ensure!(!std::mem::replace(&mut self.end_called, true), "again");
        ensure!(at.is_ended, "though the input has not ended");
        ensure!(facts.peer_has_ended || facts.is_broken, "though the peer has not ended");
        self.check_held()?;
        let is_owed = self.owed.is_for_capacity && !self.ensures_only();
        ensure!(!is_owed, "though on_writable is due");
        let is_handled = at.unread == 0
            || self.last.is_some_and(|last| {
                let is_seen = at.unread == last.end.unread && last.output_is_idle;
                !last.took && (last.wants > at.unread || is_seen)
            });
        ensure!(is_handled, "though {} bytes are unread and not handled", at.unread);
        self.check_grant(at)
    }

    fn begin_drain(&mut self, at: LinkView, facts: &Facts) -> Result<(), String> {
        ensure!(!std::mem::replace(&mut self.drain_called, true), "again");
        ensure!(facts.is_stopping, "though the server does not stop");
        self.check_grant(at)
    }

    fn begin_idle(&mut self, at: LinkView, facts: &Facts) -> Result<(), String> {
        let idle = self.limits.idle;
        ensure!(!idle.is_zero(), "though there is no idle timeout");
        self.check_held()?;
        ensure!(at.unsent == 0, "with {} bytes unsent", at.unsent);
        let silent = at.now.saturating_duration_since(self.heard);
        ensure!(silent >= idle, "after {silent:?}");
        let waited_ns = facts.link_ns.saturating_sub(self.heard_ns);
        let waited = Duration::from_nanos(waited_ns.saturating_sub(self.blocked_ns));
        ensure!(waited >= idle, "after {waited:?} in which the peer owed something");
        self.check_grant(at)?;
        self.note_input(at, facts);
        Ok(())
    }

    fn begin_disconnect(&self, reason: DisconnectReason, facts: &Facts) -> Result<(), String> {
        use DisconnectReason::{
            HandlerClosed, HandlerError, HandlerPanic, Idle, Kicked, Limit, OutputFull, PeerClosed,
            PeerReset, ServerStopping, SlowReader,
        };
        let by_reply = match self.deferred {
            // The answer timeout has ended.
            Deferred::Out => Some(HandlerError),
            Deferred::Closes(reason) => Some(reason),
            Deferred::No | Deferred::Came(_) => None,
        };
        let is_due = match reason {
            _ if Some(reason) == self.closes => true,
            HandlerError if self.closes_deferred => true,
            HandlerClosed | HandlerError => self.closes.is_none() && by_reply == Some(reason),
            HandlerPanic | OutputFull | Idle => false,
            Kicked => self.is_kicked,
            Limit => facts.is_revoked,
            PeerClosed => self.closes.is_none() && self.end_called,
            PeerReset => facts.is_broken,
            ServerStopping => facts.is_stopping && (self.drain_called || facts.is_drained_out),
            SlowReader => self.closes.is_none_or(|closes| closes != OutputFull),
            _ => true,
        };
        let waited_ns = self.aborted_ns.map_or(0, |at_ns| facts.ran_ns.saturating_sub(at_ns));
        ensure!(waited_ns <= ABORT_NS, "only {waited_ns} ns after its abort");
        ensure!(
            is_due,
            "for no cause: closed for {:?}, ending for {:?}, deferred {:?}, kicked {}, drained {}",
            self.closes,
            self.ends,
            self.deferred,
            self.is_kicked,
            self.drain_called
        );
        Ok(())
    }

    /// Checks that neither a pause nor a deferred reply holds back the input.
    fn check_held(&self) -> Result<(), String> {
        ensure!(self.pause != Pause::Yes, "though the link is paused");
        let is_out = matches!(self.deferred, Deferred::Out | Deferred::Closes(_));
        ensure!(!is_out, "though a reply is deferred ({:?})", self.deferred);
        Ok(())
    }

    fn check_grant(&self, at: LinkView) -> Result<(), String> {
        let grant = self.limits.grant_bytes;
        ensure!(
            self.is_finished || at.spare >= grant,
            "with capacity for {}, but {grant} are granted",
            at.spare
        );
        Ok(())
    }

    /// Whether the only due `on_writable` is for `ensure`, whose capacity `on_receive` may have used.
    fn ensures_only(&self) -> bool {
        self.owed.ensures > 0
    }

    fn note_input(&mut self, at: LinkView, facts: &Facts) {
        (self.heard, self.heard_ns, self.blocked_ns) = (at.now, facts.link_ns, 0);
    }

    /// The longest time of a deferred reply.
    pub(super) fn reply_ns(&self, facts: &Facts) -> u64 {
        let is_out_ns =
            self.deferred_since_ns.map_or(0, |since_ns| facts.link_ns.saturating_sub(since_ns));
        self.reply_ns.max(is_out_ns)
    }

    /// Handles a request of the running callback or of other code.
    pub(super) fn handle_request(&mut self, act: Act, is_own: bool, facts: &Facts) {
        if matches!(act, Act::Reply(_) | Act::ReplyAndClose(_) | Act::ReplyDropped) {
            self.reply_ns = self.reply_ns(facts);
            self.deferred_since_ns = None;
        }
        if act == Act::Abort {
            self.aborted_ns.get_or_insert(facts.ran_ns);
        }
        match act {
            Act::Pause if facts.turn > self.resumes_until => self.pause = Pause::Yes,
            Act::Pause => self.pause = Pause::Perhaps,
            Act::Resume => {
                (self.pause, self.wakes) = (Pause::No, true);
                if !is_own {
                    self.resumes_until = facts.turn + RESUME_TURNS;
                }
            }
            Act::Close | Act::Abort if is_own => self.close(DisconnectReason::HandlerClosed),
            Act::Close | Act::Abort => self.is_kicked = true,
            Act::IdleTimeout(time) => self.limits.idle = time,
            Act::Wants(bytes) => {
                self.wants = if self.wants == 0 { bytes } else { self.wants.min(bytes) };
            }
            Act::Defers { .. } => {
                (self.deferred, self.deferred_since_ns) = (Deferred::Out, Some(facts.link_ns));
            }
            Act::Ensures(bytes) => {
                self.ensures = self.ensures.max(bytes);
                (self.owed.is_owed, self.owed.ensures) = (true, self.owed.ensures.max(bytes));
            }
            Act::Owes => (self.owed.is_owed, self.owed.is_for_capacity) = (true, true),
            Act::PostRefused => self.owed.is_owed = true,
            Act::Finish => self.is_finished = true,
            Act::Limit(bytes) => self.limits.output_bytes = bytes,
            Act::Reply(bytes) if self.deferred == Deferred::Out => {
                (self.deferred, self.wakes) = (Deferred::Came(bytes), true);
            }
            Act::ReplyAndClose(_) if self.deferred == Deferred::Out => {
                self.deferred = Deferred::Closes(DisconnectReason::HandlerClosed);
            }
            Act::ReplyDropped if self.deferred == Deferred::Out => {
                self.deferred = Deferred::Closes(DisconnectReason::HandlerError);
            }
            Act::Reply(_) | Act::ReplyAndClose(_) | Act::ReplyDropped => {}
        }
        if !is_own {
            self.note_blocked(facts);
        }
    }

    /// Handles the return of a callback, after its requests.
    pub(super) fn end(
        &mut self,
        event: Event,
        outcome: Outcome,
        at: LinkView,
        facts: &Facts,
    ) -> Result<(), String> {
        let begin = self.begin;
        ensure!(at.unsent >= begin.unsent, "and bytes left before it had returned");
        ensure!(at.unread <= begin.unread, "and bytes came before it had returned");
        self.queued += (at.unsent - begin.unsent) as u64;
        self.owed.is_short = at.spare < self.owed.ensures.max(self.limits.grant_bytes);
        if event == Event::Receive {
            // A deferred reply holds back the input, which then yields nothing.
            let took = at.unread < begin.unread;
            self.last = Some(LastCall {
                took,
                wants: self.wants,
                ensures: self.ensures,
                output_is_idle: begin.unsent == 0 && at.unsent == 0,
                end: at,
                from_server: facts.from_server,
            });
        }
        match outcome {
            Outcome::Stays => self.is_kept |= event == Event::Drain,
            Outcome::Ends(reason) => self.ends = self.ends.or(Some(reason)),
            Outcome::Closes(reason) => {
                // The close does not wait for a deferred reply.
                self.deferred = Deferred::No;
                self.closes = None;
                self.close(reason);
            }
        }
        self.note_blocked(facts);
        Ok(())
    }

    fn close(&mut self, reason: DisconnectReason) {
        if self.closes.is_none() {
            self.closes_deferred = self.deferred != Deferred::No;
            self.closes = Some(reason);
        }
    }

    /// Notes whether a pause or a deferred reply stops the idle timeout from now on.
    fn note_blocked(&mut self, facts: &Facts) {
        let is_blocked = self.pause == Pause::Yes || self.deferred == Deferred::Out;
        match (is_blocked, self.blocked_since_ns) {
            (true, None) => self.blocked_since_ns = Some(facts.link_ns),
            (false, Some(since_ns)) => {
                self.blocked_since_ns = None;
                let since_ns = since_ns.max(self.heard_ns);
                self.blocked_ns += facts.link_ns.saturating_sub(since_ns);
            }
            _ => {}
        }
    }

    pub(super) fn unread_at_begin(&self) -> usize {
        self.begin.unread
    }

    /// The unread bytes that count as handled by the last `on_receive`.
    pub(super) fn rest(&self) -> Rest {
        match &self.last {
            Some(last) if !last.took && last.wants > 0 => Rest::Wants(last.wants as u64),
            Some(last) if !last.took && last.output_is_idle => Rest::Left(last.end.unread as u64),
            _ => Rest::Wants(0),
        }
    }

    /// Whether the last `on_receive` left bytes and asked for nothing.
    pub(super) fn leaves_input(&self) -> bool {
        let left = |last: LastCall| {
            let asked = last.wants > 0 || last.ensures > 0;
            !last.took && !asked && last.end.unread > 0
        };
        self.last.is_some_and(left)
    }

    pub(super) fn is_kicked(&self) -> bool {
        self.is_kicked
    }

    /// Whether the last `on_receive` asked for capacity that was not there.
    pub(super) fn awaits_capacity(&self) -> bool {
        self.last.is_some_and(|last| last.ensures > 0)
    }

    /// Whether the handler itself holds back calls, or the end of the link.
    pub(super) fn is_held(&self) -> bool {
        self.pause != Pause::No || self.is_kept || self.deferred == Deferred::Out
    }
}

/// The unread bytes that count as handled.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rest {
    /// Any number below this.
    Wants(u64),
    /// Exactly this number.
    Left(u64),
}

impl Default for Rest {
    fn default() -> Self {
        Self::Wants(0)
    }
}

/// Maximum of calls of `on_receive` for one link in one turn.
const CALLS_A_TURN: u32 = 64;
/// Maximum time from an abort to the end of the link: it does not wait for the peer, but the close may
/// be delayed.
const ABORT_NS: u64 = 1_500_000_000;
/// Turns after which a shard has handled the requests of other threads.
const RESUME_TURNS: u64 = 64;
