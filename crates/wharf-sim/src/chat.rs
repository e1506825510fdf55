//! The handler of chat: lines for all, lines for one link, and requests to close other links.
//!
//! A client's line is one of
//!
//! ```text
//!   L<client> <number> <padding>   for all others
//!   W<target> <client> <number>    for the target only, after so many lines for all
//!   K<target>                      closes the target's link
//!   A<target>                      aborts the target's link
//!   S<client> <number>             posted to the client itself, after a reply
//!   Q                              sends "bye" and closes
//! ```

use crate::echo::{PanicInjector, number_of};
use crate::plan::Plan;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use wharf::sim::Rng;
use wharf::{DisconnectReason, Error, Handler, Input, Link, LinkId, Result, WhenSlow, Worker};

#[derive(Debug)]
pub(crate) struct Chat {
    line_max: usize,
    panics: PanicInjector,
    tally: Arc<Tally>,
}

/// A line for all: its client, and its number.
pub(crate) type Said = (usize, u32);

/// What handler and clients count together.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Lines that a client missed between two that it got of the same sender.
    pub(crate) gaps: AtomicU64,
    /// The last link id of each client; it may be stale.
    ids: Box<[OnceLock<LinkId>]>,
    /// Lines for all that each client has sent.
    said: Box<[AtomicU32]>,
    /// The number of them before each client connected, by sender.
    came_after: Box<[OnceLock<Box<[u32]>>]>,
    /// The clients whose links another client has closed.
    pub(crate) kicked: Box<[AtomicBool]>,
    /// The lines for all that each client got, in order.
    heard: Box<[Lock<Vec<Said>>]>,
}

#[expect(clippy::disallowed_types, reason = "each client writes into its own")]
type Lock<T> = std::sync::Mutex<T>;

impl Tally {
    pub(crate) fn new(clients: u32) -> Arc<Self> {
        let ids = (0..clients).map(|_| OnceLock::new()).collect();
        let said = (0..clients).map(|_| AtomicU32::new(0)).collect();
        let came_after = (0..clients).map(|_| OnceLock::new()).collect();
        let kicked = (0..clients).map(|_| AtomicBool::new(false)).collect();
        let heard = (0..clients).map(|_| Lock::default()).collect();
        Arc::new(Self { gaps: AtomicU64::new(0), ids, said, came_after, kicked, heard })
    }

    /// The first of a sender's lines that this client can get.
    pub(crate) fn first_for(&self, client: usize, speaker: usize) -> u32 {
        let came_after = self.came_after[client].get();
        came_after.and_then(|lines| lines.get(speaker)).copied().unwrap_or(0)
    }

    pub(crate) fn note_heard(&self, client: usize, said: Said) {
        self.heard[client].lock().unwrap_or_else(PoisonError::into_inner).push(said);
    }

    /// Whether there is one order of all lines for all in which each client got those that it got.
    pub(crate) fn have_one_order(&self) -> bool {
        let mut after: BTreeMap<Said, Vec<Said>> = BTreeMap::new();
        let mut waits_for: BTreeMap<Said, u32> = BTreeMap::new();
        for heard in &self.heard {
            let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            for said in &*heard {
                waits_for.entry(*said).or_default();
            }
            for pair in heard.windows(2) {
                after.entry(pair[0]).or_default().push(pair[1]);
                *waits_for.entry(pair[1]).or_default() += 1;
            }
        }
        // Removes lines that no other must precede, until none is left or the rest is a cycle.
        let is_free = |(said, count): (&Said, &u32)| (*count == 0).then_some(*said);
        let mut free: Vec<Said> = waits_for.iter().filter_map(is_free).collect();
        let mut taken = 0;
        while let Some(said) = free.pop() {
            taken += 1;
            for next in after.get(&said).into_iter().flatten() {
                let count = waits_for.entry(*next).or_default();
                *count -= 1;
                if *count == 0 {
                    free.push(*next);
                }
            }
        }
        taken == waits_for.len()
    }
}

type ChatLink<'a> = Link<'a, usize, Rng>;

impl Chat {
    pub(crate) fn new(plan: &Plan, tally: Arc<Tally>) -> Self {
        Self { line_max: plan.chat_line_max(), panics: PanicInjector::new(plan), tally }
    }

    fn handle_line(&self, link: &mut ChatLink<'_>, line: &[u8]) -> Result {
        let Some((kind, rest)) = line.split_first() else { return Err(Error::msg("no line")) };
        match kind {
            b'L' => {
                self.tally.said[*link.state].fetch_add(1, Ordering::Relaxed);
                link.server.all().except(link.id()).post((line, b"\n"));
            }
            b'W' => {
                if let Some(target) = self.target(rest) {
                    link.server.link(target).post((line, b"\n"));
                }
            }
            b'K' | b'A' => {
                if let (Some(number), Some(target)) = (number(rest), self.target(rest)) {
                    self.tally.kicked[number].store(true, Ordering::Relaxed);
                    let target = link.server.link(target);
                    if *kind == b'K' { target.close() } else { target.abort() }
                }
            }
            b'S' => {
                // The post is queued after all that this callback queues.
                link.server.link(link.id()).post((line, b"\n"));
                link.out.send((b"R", rest, b"\n"))?;
            }
            b'Q' => {
                link.out.send(FAREWELL)?;
                link.close();
            }
            other => panic!("a line of kind {other}: {}", String::from_utf8_lossy(line)),
        }
        Ok(())
    }

    fn target(&self, rest: &[u8]) -> Option<LinkId> {
        self.tally.ids.get(number(rest)?)?.get().copied()
    }
}

impl Handler<usize, Rng> for Chat {
    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<Rng> {
        Ok(self.panics.rng(worker))
    }

    fn on_connect(&self, link: &mut Link<'_, (), Rng>) -> Result<usize> {
        self.panics.panic(link.worker);
        let client = number_of(&link.peer());
        if let Some(id) = self.tally.ids.get(client) {
            assert!(id.set(link.id()).is_ok(), "a client has connected twice");
            let said = self.tally.said.iter().map(|lines| lines.load(Ordering::Relaxed)).collect();
            let _it_is_the_first = self.tally.came_after[client].set(said);
        }
        if is_strict(client) {
            link.out.set_when_slow(WhenSlow::Disconnect);
        }
        Ok(client)
    }

    fn on_receive(&self, link: &mut ChatLink<'_>, input: &mut Input<'_>) -> Result {
        loop {
            let Some(line) = input.line(self.line_max)? else { return Ok(()) };
            let line = line.to_vec();
            self.panics.panic(link.worker);
            self.handle_line(link, &line)?;
            // Several lines in one call, each taken with a grant.
            if link.state.is_multiple_of(2) || line[0] == b'Q' || !link.out.has_grant() {
                return Ok(());
            }
        }
    }

    fn on_disconnect(&self, link: &mut ChatLink<'_>, _: DisconnectReason) {
        // Its id is stale when the post arrives, and another link may have its slot.
        link.server.link(link.id()).post(format!("W{} 0 0\n", link.state));
        self.panics.panic(link.worker);
    }
}

/// Whether this client's link ends where it misses a line.
pub(crate) fn is_strict(client: usize) -> bool {
    client % 8 == 5
}

/// The last bytes to a client that quits.
pub(crate) const FAREWELL: &[u8] = b"bye\n";

/// The number at the beginning of these bytes.
pub(crate) fn number(bytes: &[u8]) -> Option<usize> {
    let end = bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()
}
