//! The handlers of echo and big: they have the plan of each client, and check the bytes that it sends.

use crate::outbox::Outbox;
use crate::plan::{ClientPlan, Plan, Workload};
use std::io::Read;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use wharf::sim::{PlannedPanic, Rng};
use wharf::{
    Address, DisconnectReason, Handler, Input, Link, Output, Result, SendError, Verdict, Worker,
};

#[derive(Debug)]
pub(crate) struct EchoHandler {
    plan: Plan,
    panics: PanicInjector,
}

#[derive(Debug)]
pub(crate) struct EchoState {
    client: usize,
    plan: ClientPlan,
    received: usize,
    /// The received part of the next message of big.
    message: Vec<u8>,
    outbox: Outbox,
    quits: bool,
}

impl EchoHandler {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self { plan: plan.clone(), panics: PanicInjector::new(plan) }
    }

    /// Sends the unread bytes back, or a part of them, at most `most` bytes. Returns their number.
    fn echo(
        &self,
        link: &mut Link<'_, EchoState, Rng>,
        input: &mut Input<'_>,
        most: usize,
    ) -> Result<usize> {
        let Link { out, state, .. } = link;
        let before = input.len();
        if let Some(piece) = self.plan.piece
            && state.plan.way % 2 == 0
        {
            let len = input.chunk().len().min(most);
            state.outbox.send(out, &input.chunk()[..len], Some(piece))?;
            return Ok(input.consume(len));
        }
        match state.plan.way % 6 {
            0 if most >= before => input.forward(out),
            0 | 1 => input.forward_up_to(out, most.min(1 + state.received % 97)),
            2 => {
                let len = input.chunk().len().min(most).min(out.spare_capacity());
                out.send(&input.chunk()[..len])?;
                input.consume(len)
            }
            3 => {
                let sent = out.send_some(&input.chunk()[..input.chunk().len().min(most)]);
                input.consume(sent)
            }
            4 if most >= before => input.write_to(&mut *out)?,
            _ => read(out, input, most)?,
        };
        Ok(before - input.len())
    }

    fn reverse(&self, link: &mut Link<'_, EchoState, Rng>) -> Result {
        let EchoState { message, outbox, .. } = &mut *link.state;
        while let Some(prefix) = message.first_chunk::<4>() {
            let end = 4 + u32::from_be_bytes(*prefix) as usize;
            if message.len() < end {
                break;
            }
            let mut reply: Vec<u8> = message.drain(..end).collect();
            reply[4..].reverse();
            outbox.send(&mut link.out, &reply, self.plan.piece)?;
        }
        Ok(())
    }
}

/// Echoes as a program that uses `Read`, with an array of its own.
fn read(out: &mut Output<'_>, input: &mut Input<'_>, most: usize) -> Result<usize> {
    let mut bytes = [0; 100];
    let len = bytes.len().min(most).min(out.spare_capacity());
    let len = input.read(&mut bytes[..len])?;
    out.send(&bytes[..len])?;
    Ok(len)
}

/// Checks that the unread bytes are the client's at this offset, as far as `peek` shows them at once: a
/// link may have more than `input_bytes` unread if a receive was not cancelled in time.
pub(crate) fn check_unread(
    input: &mut Input<'_>,
    client: usize,
    text: &[u8],
    offset: usize,
    input_bytes: u32,
) {
    let len = input.len().min(input_bytes as usize);
    let Ok(Some(unread)) = input.peek(len) else {
        panic!("client {client}: {len} bytes are unread, but cannot be seen");
    };
    let wanted = text.get(offset..offset + len);
    assert!(wanted == Some(unread), "client {client}: wrong bytes at {offset}: {unread:02x?}");
}

fn close_if_done(link: &mut Link<'_, EchoState, Rng>) {
    if link.state.quits && link.state.outbox.is_empty() {
        link.close();
    }
}

impl Handler<EchoState, Rng> for EchoHandler {
    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<Rng> {
        Ok(self.panics.rng(worker))
    }

    fn on_connect(&self, link: &mut Link<'_, (), Rng>) -> Result<EchoState> {
        self.panics.panic(link.worker);
        let client = number_of(&link.peer());
        let plan = ClientPlan::for_client(&self.plan, client);
        let (message, outbox) = (Vec::new(), Outbox::default());
        Ok(EchoState { client, plan, received: 0, message, outbox, quits: false })
    }

    fn on_receive(&self, link: &mut Link<'_, EchoState, Rng>, input: &mut Input<'_>) -> Result {
        let EchoState { client, plan, received, quits, .. } = &*link.state;
        check_unread(input, *client, &plan.text, *received, self.plan.server.input_bytes);
        self.panics.panic(link.worker);
        if *quits {
            // The outbox is sent first.
            return Ok(());
        }
        if self.plan.workload == Workload::Big {
            let chunk = input.chunk();
            link.state.message.extend_from_slice(chunk);
            let len = chunk.len();
            link.state.received += input.consume(len);
            return self.reverse(link);
        }
        let quit_at = plan.quit_at.unwrap_or(usize::MAX);
        let most = quit_at.saturating_sub(*received);
        // Several pieces in one call, each taken with a grant.
        loop {
            let left = most.min(quit_at - link.state.received);
            let count = self.echo(link, input, left)?;
            link.state.received += count;
            let goes_on = link.state.plan.way >= 30 && count > 0 && !input.is_empty();
            if !goes_on || link.state.received >= quit_at || !link.out.has_grant() {
                break;
            }
        }
        link.state.quits = link.state.received >= quit_at;
        close_if_done(link);
        Ok(())
    }

    fn on_writable(&self, link: &mut Link<'_, EchoState, Rng>) -> Result {
        self.panics.panic(link.worker);
        if let Some(piece) = self.plan.piece {
            link.state.outbox.flush(&mut link.out, piece)?;
        }
        close_if_done(link);
        Ok(())
    }

    fn on_end(
        &self,
        link: &mut Link<'_, EchoState, Rng>,
        input: &mut Input<'_>,
    ) -> Result<Verdict> {
        self.panics.panic(link.worker);
        let EchoState { client, outbox, plan, .. } = &*link.state;
        assert!(input.is_ended() && outbox.is_empty(), "client {client}: on_end before the end");
        match plan.way % 5 {
            0 => link.close(),
            1 => link.out.finish(),
            _ => return Ok(Verdict::Close),
        }
        Ok(Verdict::Keep)
    }

    fn on_idle(&self, link: &mut Link<'_, EchoState, Rng>) -> Result<Verdict> {
        self.panics.panic(link.worker);
        Ok(if link.state.received.is_multiple_of(2) { Verdict::Keep } else { Verdict::Close })
    }

    fn on_drain(&self, link: &mut Link<'_, EchoState, Rng>) -> Result<Verdict> {
        self.panics.panic(link.worker);
        Ok(if link.state.plan.way % 8 == 7 { Verdict::Keep } else { Verdict::Close })
    }

    fn on_disconnect(&self, link: &mut Link<'_, EchoState, Rng>, _: DisconnectReason) {
        assert_eq!(link.out.send(b"late"), Err(SendError::Closed), "a closed link takes bytes");
        let (totals, received) = (link.totals(), link.state.received);
        assert!(totals.received_bytes >= received as u64, "{totals:?}, {received} received");
        self.panics.panic(link.worker);
    }
}

/// Panics by chance.
#[derive(Debug)]
pub(crate) struct PanicInjector {
    seed: u64,
    ppm: u32,
    drawn: AtomicU64,
}

impl PanicInjector {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self { seed: plan.config.seed, ppm: plan.panic_ppm, drawn: AtomicU64::new(0) }
    }

    /// The random numbers of a worker context; a new context gets others.
    pub(crate) fn rng(&self, worker: &Worker<'_>) -> Rng {
        let drawn = self.drawn.fetch_add(1, Ordering::Relaxed);
        Rng::new(self.seed ^ (drawn << 8) ^ worker.id().index() as u64)
    }

    pub(crate) fn panic(&self, rng: &mut Rng) {
        if rng.chance_ppm(self.ppm) {
            std::panic::resume_unwind(Box::new(PlannedPanic));
        }
    }
}

/// The number of the client at this address.
pub(crate) fn number_of(peer: &Address) -> usize {
    match peer.ip() {
        Some(IpAddr::V4(address)) => (u32::from(address) & 0x00FF_FFFF) as usize,
        _ => usize::MAX,
    }
}
