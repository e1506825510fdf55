//! The handler of chat: lines for all, whispers for one, and links that throw each other out.
//!
//! A client's line is one of
//!
//! ```text
//!   L<client> <number> <padding>   for all others
//!   W<target> <client>             for the target only, posted through the server's handle
//!   K<target>                      throws the target out
//!   Q                              says "bye" and closes
//! ```

use crate::plan::Plan;
use crate::talk::{Chance, number_of};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use wharf::sim::Rng;
use wharf::{DisconnectReason, Handler, Link, LinkId, Result, WorkerId};

#[derive(Debug)]
pub(crate) struct Chat {
    chance: Chance,
    tally: Arc<Tally>,
}

/// What handler and clients count together.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Broadcasts that did not reach every shard.
    pub(crate) refused: AtomicU64,
    /// Lines that a client missed between two that it got of the same speaker.
    pub(crate) gaps: AtomicU64,
    /// The last name of each client; it may be stale.
    names: Box<[OnceLock<LinkId>]>,
    /// The clients that were thrown out.
    pub(crate) kicked: Box<[AtomicBool]>,
}

impl Tally {
    pub(crate) fn new(clients: u32) -> Arc<Self> {
        let names = (0..clients).map(|_| OnceLock::new()).collect();
        let kicked = (0..clients).map(|_| AtomicBool::new(false)).collect();
        let (refused, gaps) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { refused, gaps, names, kicked })
    }
}

impl Chat {
    pub(crate) fn new(plan: &Plan, tally: Arc<Tally>) -> Self {
        Self { chance: Chance::new(plan), tally }
    }

    fn obey(&self, link: &mut Link<'_, Vec<u8>>, line: &[u8]) -> Result {
        let Some((kind, rest)) = line.split_first() else { return Err("an empty line".into()) };
        match kind {
            b'L' => {
                if link.broadcast(line).is_err() {
                    self.tally.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
            b'W' => {
                if let Some(target) = self.target(rest) {
                    let _may_be_gone = link.server().send(target, line);
                }
            }
            b'K' => {
                if let (Some(number), Some(target)) = (number(rest), self.target(rest))
                    && link.server().close(target).is_ok()
                {
                    self.tally.kicked[number].store(true, Ordering::Relaxed);
                }
            }
            b'Q' => {
                link.send(FAREWELL)?;
                link.close();
            }
            other => panic!("a line of kind {other}: {}", String::from_utf8_lossy(line)),
        }
        Ok(())
    }

    fn target(&self, rest: &[u8]) -> Option<LinkId> {
        self.tally.names.get(number(rest)?)?.get().copied()
    }
}

impl Handler for Chat {
    type Worker = Rng;
    type State = Vec<u8>;

    fn on_worker_start(&self, worker: WorkerId) -> io::Result<Rng> {
        Ok(self.chance.rng(worker))
    }

    fn on_connect(&self, rng: &mut Rng, link: &mut Link<'_, Vec<u8>>) -> Result {
        self.chance.panic(rng);
        if let Some(name) = self.tally.names.get(number_of(link.peer())) {
            assert!(name.set(link.id()).is_ok(), "a client has connected twice");
        }
        Ok(())
    }

    fn on_receive(&self, rng: &mut Rng, link: &mut Link<'_, Vec<u8>>, data: &[u8]) -> Result {
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            link.state().extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(link.state());
                self.chance.panic(rng);
                self.obey(link, &line)?;
            }
        }
        Ok(())
    }

    fn on_disconnect(&self, rng: &mut Rng, link: &mut Link<'_, Vec<u8>>, _: DisconnectReason) {
        // Its own name is stale when the post arrives; another link may be in its place by then.
        let farewell = format!("W{} 0\n", number_of(link.peer()));
        let _for_nobody = link.server().send(link.id(), farewell.as_bytes());
        self.chance.panic(rng);
    }
}

/// What a client that quits is told last.
pub(crate) const FAREWELL: &[u8] = b"bye\n";

/// The number at the beginning of these bytes.
pub(crate) fn number(bytes: &[u8]) -> Option<usize> {
    let end = bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()
}
