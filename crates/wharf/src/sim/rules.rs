//! What is promised for the calls of one link.
//!
//! A book of its own: it knows what each callback was given and what it asked for, and what the world
//! has moved, and trusts nothing that the engine keeps.

use crate::acts::Act;
use crate::engine::ensure;
use crate::sim::contract::Event;
use crate::vocabulary::reason::DisconnectReason;
use std::fmt;
use std::time::{Duration, Instant};

/// The settings that the promises are about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) grant_bytes: usize,
    pub(super) output_bytes: usize,
    pub(super) idle: Duration,
}

/// What a callback sees of its link when it begins or ends.
#[derive(Clone, Copy)]
pub(super) struct Glance {
    /// The links' clock.
    pub(super) now: Instant,
    /// Bytes that are unread; 0 in a callback that is shown no input.
    pub(super) unread: usize,
    pub(super) is_ended: bool,
    pub(super) unsent: usize,
    pub(super) spare: usize,
    pub(super) has_grant: bool,
    /// Bytes that have left, as the link counts them.
    pub(super) sent_bytes: u64,
}

impl fmt::Debug for Glance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unread, unsent, spare, .. } = self;
        let ended = if self.is_ended { ", ended" } else { "" };
        write!(f, "{unread} unread{ended}, {unsent} unsent, room for {spare}")
    }
}

/// What the world says meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// The links' clock as the link's shard may measure it.
    pub(super) link_ns: u64,
    /// The clock that does not jump.
    pub(super) steady_ns: u64,
    /// The turn of the link's shard.
    pub(super) turn: u64,
    /// Bytes that the system has taken from the server.
    pub(super) from_server: u64,
    /// The peer's end has arrived, after all of its bytes.
    pub(super) peer_has_ended: bool,
    /// The connection was reset, or struck by something like it.
    pub(super) is_broken: bool,
    /// The server was asked to stop, and the time for that is over.
    pub(super) is_stopping: bool,
    pub(super) is_drained_out: bool,
    /// The loan rule has closed it.
    pub(super) is_revoked: bool,
}

/// How a callback ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The link goes on.
    Stays,
    /// The link ends for this reason once all is handled and sent.
    Ends(DisconnectReason),
    /// Only `on_disconnect` follows, with this reason.
    Closes(DisconnectReason),
}

/// A reply that was deferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Deferred {
    #[default]
    No,
    /// It is out.
    Out,
    /// It has come with so many bytes, and is or will be queued.
    Came(usize),
    /// It closes the link for this reason.
    Closes(DisconnectReason),
}

/// A pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    No,
    /// A resume from elsewhere may have ended it: whether it was applied before or after it, nobody
    /// knows.
    Perhaps,
    Yes,
}

/// Why `on_writable` may be called.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    is_owed: bool,
    /// Because its own output had too little, or the handler asked for it.
    is_for_capacity: bool,
    /// What `ensure` asked for.
    ensures: usize,
    /// What was asked for was not there when the callback had returned.
    is_short: bool,
}

/// How the last `on_receive` left things.
#[derive(Clone, Copy, Debug)]
struct LastCall {
    took: bool,
    /// Bytes from the first unread one on that it asked for; 0: it did not.
    wants: usize,
    ensures: usize,
    /// Nothing was queued when it began and when it ended.
    output_is_idle: bool,
    end: Glance,
    from_server: u64,
}

/// The book of one link.
#[derive(Debug)]
pub(super) struct Rules {
    limits: Limits,
    begin: Glance,
    /// What the callback that runs asked for.
    wants: usize,
    ensures: usize,
    pause: Pause,
    /// A resume from elsewhere may be applied until this turn.
    resumes_until: u64,
    deferred: Deferred,
    /// Since when a reply is out, and the longest time that one was.
    deferred_since_ns: Option<u64>,
    reply_ns: u64,
    /// A reply was out when the link was closed.
    closes_deferred: bool,
    is_finished: bool,
    is_kicked: bool,
    /// When an abort was first asked for.
    aborted_ns: Option<u64>,
    closes: Option<DisconnectReason>,
    ends: Option<DisconnectReason>,
    wakes: bool,
    owed: Owed,
    last: Option<LastCall>,
    end_called: bool,
    drain_called: bool,
    /// `on_drain` has kept it.
    is_kept: bool,
    turn: u64,
    calls: u32,
    /// Bytes that callbacks and replies have queued.
    queued: u64,
    /// When something last came, or `on_idle` was called.
    heard: Instant,
    heard_ns: u64,
    /// Since when the peer owes nothing, and how long that was before.
    blocked_since_ns: Option<u64>,
    blocked_ns: u64,
}

impl Rules {
    pub(super) fn new(limits: Limits, begin: Glance, facts: &Facts) -> Self {
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

    /// A callback begins.
    pub(super) fn begin(&mut self, event: Event, at: Glance, facts: &Facts) -> Result<(), String> {
        (self.begin, self.wants, self.ensures) = (at, 0, 0);
        if let Event::Disconnect(reason) = event {
            return self.begin_disconnect(reason, facts);
        }
        if let Some(reason) = self.closes {
            return Err(format!("though the link was closed ({reason:?})"));
        }
        // What a callback has queued can have left only by the world.
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

    fn begin_receive(&mut self, at: Glance, facts: &Facts) -> Result<(), String> {
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
            "before the on_writable that is owed, with room for {}",
            at.spare
        );
        let is_more = self.last.is_none_or(|last| at.unread > last.end.unread);
        if is_more {
            self.hear(at, facts);
        }
        self.wakes = false;
        Ok(())
    }

    /// That the call is not one for nothing.
    fn check_cause(&self, at: Glance, facts: &Facts) -> Result<(), String> {
        let Some(last) = &self.last else { return Ok(()) };
        let is_ensured = last.ensures > 0 && at.spare >= last.ensures;
        // A resume from elsewhere may be applied only now.
        let wakes = self.wakes || facts.turn <= self.resumes_until;
        // What is broken takes all that is sent.
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

    fn begin_writable(&mut self, at: Glance) -> Result<(), String> {
        let Owed { is_owed, ensures, .. } = std::mem::take(&mut self.owed);
        ensure!(is_owed, "though none is owed");
        let needed = ensures.max(self.limits.grant_bytes);
        ensure!(
            self.is_finished || at.spare >= needed,
            "with room for {}, but {needed} were asked for",
            at.spare
        );
        self.wakes = true;
        Ok(())
    }

    fn begin_end(&mut self, at: Glance, facts: &Facts) -> Result<(), String> {
        ensure!(!std::mem::replace(&mut self.end_called, true), "again");
        ensure!(at.is_ended, "though the input has not ended");
        ensure!(facts.peer_has_ended || facts.is_broken, "though the peer has not ended");
        self.check_held()?;
        let is_owed = self.owed.is_for_capacity && !self.ensures_only();
        ensure!(!is_owed, "though on_writable is owed");
        let is_handled = at.unread == 0
            || self.last.is_some_and(|last| {
                let is_seen = at.unread == last.end.unread && last.output_is_idle;
                !last.took && (last.wants > at.unread || is_seen)
            });
        ensure!(is_handled, "though {} bytes are unread and not handled", at.unread);
        self.check_grant(at)
    }

    fn begin_drain(&mut self, at: Glance, facts: &Facts) -> Result<(), String> {
        ensure!(!std::mem::replace(&mut self.drain_called, true), "again");
        ensure!(facts.is_stopping, "though the server does not stop");
        self.check_grant(at)
    }

    fn begin_idle(&mut self, at: Glance, facts: &Facts) -> Result<(), String> {
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
        self.hear(at, facts);
        Ok(())
    }

    fn begin_disconnect(&self, reason: DisconnectReason, facts: &Facts) -> Result<(), String> {
        use DisconnectReason::{
            HandlerClosed, HandlerError, HandlerPanic, Idle, Kicked, Limit, OutputFull, PeerClosed,
            PeerReset, ServerStopping, SlowReader,
        };
        let by_reply = match self.deferred {
            // It was not sent in time.
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
        let waited_ns = self.aborted_ns.map_or(0, |at_ns| facts.steady_ns.saturating_sub(at_ns));
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

    /// That neither a pause nor a reply holds the input.
    fn check_held(&self) -> Result<(), String> {
        ensure!(self.pause != Pause::Yes, "though the link is paused");
        let is_out = matches!(self.deferred, Deferred::Out | Deferred::Closes(_));
        ensure!(!is_out, "though a reply is deferred ({:?})", self.deferred);
        Ok(())
    }

    fn check_grant(&self, at: Glance) -> Result<(), String> {
        let grant = self.limits.grant_bytes;
        ensure!(
            self.is_finished || at.spare >= grant,
            "with room for {}, but {grant} are granted",
            at.spare
        );
        Ok(())
    }

    /// Whether all that is owed is what `ensure` asked for, which `on_receive` may have used.
    fn ensures_only(&self) -> bool {
        self.owed.ensures > 0
    }

    fn hear(&mut self, at: Glance, facts: &Facts) {
        (self.heard, self.heard_ns, self.blocked_ns) = (at.now, facts.link_ns, 0);
    }

    /// The longest time that a reply was out.
    pub(super) fn reply_ns(&self, facts: &Facts) -> u64 {
        let is_out_ns =
            self.deferred_since_ns.map_or(0, |since_ns| facts.link_ns.saturating_sub(since_ns));
        self.reply_ns.max(is_out_ns)
    }

    /// What the callback that runs, or somebody else, asked for.
    pub(super) fn hear_of(&mut self, act: Act, is_own: bool, facts: &Facts) {
        if matches!(act, Act::Reply(_) | Act::ReplyAndClose(_) | Act::ReplyDropped) {
            self.reply_ns = self.reply_ns(facts);
            self.deferred_since_ns = None;
        }
        if act == Act::Abort {
            self.aborted_ns.get_or_insert(facts.steady_ns);
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

    /// The callback has returned, and what it asked for is known.
    pub(super) fn end(
        &mut self,
        event: Event,
        outcome: Outcome,
        at: Glance,
        facts: &Facts,
    ) -> Result<(), String> {
        let begin = self.begin;
        ensure!(at.unsent >= begin.unsent, "and bytes left before it had returned");
        ensure!(at.unread <= begin.unread, "and bytes came before it had returned");
        self.queued += (at.unsent - begin.unsent) as u64;
        self.owed.is_short = at.spare < self.owed.ensures.max(self.limits.grant_bytes);
        if event == Event::Receive {
            // What is deferred holds the input, so that nothing is shown of it any more.
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
                // It does not wait for its reply.
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

    /// Notes whether it is the peer's turn from now on.
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

    /// What of the unread bytes is handled by the last `on_receive`, which has left it.
    pub(super) fn rest(&self) -> Rest {
        match &self.last {
            Some(last) if !last.took && last.wants > 0 => Rest::Wants(last.wants as u64),
            Some(last) if !last.took && last.output_is_idle => Rest::Left(last.end.unread as u64),
            _ => Rest::Wants(0),
        }
    }

    /// Whether the last `on_receive` left something for no reason that it said.
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

    /// Whether its own handler keeps it from being called, or from ending.
    pub(super) fn is_held(&self) -> bool {
        self.pause != Pause::No || self.is_kept || self.deferred == Deferred::Out
    }
}

/// What of the unread bytes counts as handled.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rest {
    /// Any number below this.
    Wants(u64),
    /// So many.
    Left(u64),
}

impl Default for Rest {
    fn default() -> Self {
        Self::Wants(0)
    }
}

/// Calls of `on_receive` for one link in one turn.
const CALLS_A_TURN: u32 = 64;
/// A shard has looked at what others ask for after so many turns: its inbox is handed out then.
/// The longest time from an abort to the end: it waits for no peer, but the system may take its
/// time over the close.
const ABORT_NS: u64 = 1_500_000_000;

const RESUME_TURNS: u64 = 64;
