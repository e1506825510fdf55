//! The handlers of echo and big: they know what each client says, and check that it comes.

use crate::outbox::Outbox;
use crate::plan::{ClientPlan, Plan, Workload};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use wharf::sim::{PlannedPanic, Rng};
use wharf::{DisconnectReason, Handler, Idle, Link, Result, WorkerId};

#[derive(Debug)]
pub(crate) struct Talk {
    plan: Plan,
    chance: Chance,
}

#[derive(Debug, Default)]
pub(crate) struct TalkState {
    client: usize,
    plan: Option<Box<ClientPlan>>,
    received: usize,
    /// What has come of the next message of big.
    message: Vec<u8>,
    outbox: Outbox,
    quits: bool,
}

impl Talk {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self { plan: plan.clone(), chance: Chance::new(plan) }
    }

    fn echo(&self, link: &mut Link<'_, TalkState>, data: &[u8], quit_at: Option<usize>) -> Result {
        let before = link.state().received - data.len();
        let wanted = quit_at.map_or(data.len(), |at| at.saturating_sub(before).min(data.len()));
        Outbox::send(link, &data[..wanted], self.plan.piece, |state| &mut state.outbox)?;
        if quit_at.is_some_and(|at| link.state().received >= at) {
            link.state().quits = true;
        }
        Ok(())
    }

    fn reverse(&self, link: &mut Link<'_, TalkState>, data: &[u8]) -> Result {
        link.state().message.extend_from_slice(data);
        loop {
            let message = &mut link.state().message;
            let Some(prefix) = message.first_chunk::<4>() else { return Ok(()) };
            let end = 4 + u32::from_be_bytes(*prefix) as usize;
            if message.len() < end {
                return Ok(());
            }
            let mut answer: Vec<u8> = message.drain(..end).collect();
            answer[4..].reverse();
            Outbox::send(link, &answer, self.plan.piece, |state| &mut state.outbox)?;
        }
    }
}

fn close_if_done(link: &mut Link<'_, TalkState>) {
    if link.state().quits && link.state().outbox.is_empty() {
        link.close();
    }
}

impl Handler for Talk {
    type Worker = Rng;
    type State = TalkState;

    fn on_worker_start(&self, worker: WorkerId) -> io::Result<Rng> {
        Ok(self.chance.rng(worker))
    }

    fn on_connect(&self, rng: &mut Rng, link: &mut Link<'_, TalkState>) -> Result {
        self.chance.panic(rng);
        let client = number_of(link.peer());
        let plan = ClientPlan::of(&self.plan, client);
        *link.state() = TalkState { client, plan: Some(Box::new(plan)), ..TalkState::default() };
        Ok(())
    }

    fn on_receive(&self, rng: &mut Rng, link: &mut Link<'_, TalkState>, data: &[u8]) -> Result {
        let state = link.state();
        let place = state.received;
        state.received += data.len();
        let (client, quit_at) = (state.client, state.plan.as_ref().and_then(|plan| plan.quit_at));
        let text = state.plan.as_ref().map_or(&[][..], |plan| &plan.text);
        let wanted = text.get(place..place + data.len());
        assert!(wanted == Some(data), "client {client}: wrong bytes at {place}: {data:02x?}");
        self.chance.panic(rng);
        if self.plan.workload == Workload::Big {
            self.reverse(link, data)?;
        } else {
            self.echo(link, data, quit_at)?;
        }
        close_if_done(link);
        Ok(())
    }

    fn on_sent(&self, rng: &mut Rng, link: &mut Link<'_, TalkState>) -> Result {
        self.chance.panic(rng);
        if let Some(piece) = self.plan.piece {
            Outbox::flush(link, piece, |state| &mut state.outbox)?;
        }
        close_if_done(link);
        Ok(())
    }

    fn on_idle(&self, rng: &mut Rng, link: &mut Link<'_, TalkState>) -> Idle {
        self.chance.panic(rng);
        if link.state().received % 2 == 0 { Idle::Keep } else { Idle::Close }
    }

    fn on_disconnect(&self, rng: &mut Rng, link: &mut Link<'_, TalkState>, _: DisconnectReason) {
        assert!(link.send(b"late").is_err(), "a closed link takes bytes");
        let (totals, received) = (link.totals(), link.state().received);
        assert!(totals.received_bytes >= received as u64, "{totals:?}, {received} received");
        self.chance.panic(rng);
    }
}

/// Panics by chance.
#[derive(Debug)]
pub(crate) struct Chance {
    seed: u64,
    ppm: u32,
    drawn: AtomicU64,
}

impl Chance {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self { seed: plan.config.seed, ppm: plan.panic_ppm, drawn: AtomicU64::new(0) }
    }

    /// A worker's own chance; another one after a panic.
    pub(crate) fn rng(&self, worker: WorkerId) -> Rng {
        let drawn = self.drawn.fetch_add(1, Ordering::Relaxed);
        Rng::new(self.seed ^ (drawn << 8) ^ worker.index() as u64)
    }

    pub(crate) fn panic(&self, rng: &mut Rng) {
        if rng.strikes(self.ppm) {
            std::panic::resume_unwind(Box::new(PlannedPanic));
        }
    }
}

/// The number of the client at this address.
pub(crate) fn number_of(peer: SocketAddr) -> usize {
    match peer.ip() {
        IpAddr::V4(address) => (u32::from(address) & 0x00FF_FFFF) as usize,
        IpAddr::V6(_) => usize::MAX,
    }
}
