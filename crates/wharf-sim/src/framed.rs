//! The handler of framed: it leaves a frame unread until all of it is there, and sends it back whole.
//!
//! A frame is the length of its body, four bytes, and the body: up to as much as a link may have
//! unread, so that it takes many buffers. Where an answer finds no room, a handler that is not patient
//! leaves the frame unread once more: the engine promises another call.

use crate::outbox::Outbox;
use crate::plan::{ClientPlan, Plan};
use crate::talk::{Chance, number_of};
use std::io;
use wharf::sim::Rng;
use wharf::{Handler, Input, Link, Result, SendError, WorkerId};

#[derive(Debug)]
pub(crate) struct Framed {
    plan: Plan,
    chance: Chance,
}

#[derive(Debug, Default)]
pub(crate) struct FramedState {
    client: usize,
    text: Vec<u8>,
    consumed: usize,
    outbox: Outbox,
}

impl Framed {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self { plan: plan.clone(), chance: Chance::new(plan) }
    }

    /// Whether the frame has found room.
    fn answer(&self, link: &mut Link<'_, FramedState>, frame: &[u8]) -> Result<bool> {
        if self.plan.piece.is_some() {
            Outbox::send(link, frame, self.plan.piece, |state| &mut state.outbox)?;
            return Ok(true);
        }
        match link.send(frame) {
            Ok(()) => Ok(true),
            Err(SendError::QueueFull | SendError::NoBuffers) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Handler for Framed {
    type Worker = Rng;
    type State = FramedState;

    fn on_worker_start(&self, worker: WorkerId) -> io::Result<Rng> {
        Ok(self.chance.rng(worker))
    }

    fn on_connect(&self, rng: &mut Rng, link: &mut Link<'_, FramedState>) -> Result {
        self.chance.panic(rng);
        let client = number_of(link.peer());
        let text = ClientPlan::of(&self.plan, client).text;
        *link.state() = FramedState { client, text, ..FramedState::default() };
        Ok(())
    }

    fn on_receive(&self, _: &mut Rng, _: &mut Link<'_, FramedState>, _: &[u8]) -> Result {
        unreachable!("on_input takes all")
    }

    fn on_input(
        &self,
        rng: &mut Rng,
        link: &mut Link<'_, FramedState>,
        input: &mut Input<'_>,
    ) -> Result {
        let unread: Vec<u8> = input.chunks().flatten().copied().collect();
        let FramedState { client, text, consumed, .. } = link.state();
        let wanted = text.get(*consumed..*consumed + unread.len());
        assert!(
            wanted == Some(&unread),
            "client {client}: wrong bytes at {consumed}: {unread:02x?}"
        );
        self.chance.panic(rng);
        let Some(prefix) = unread.first_chunk::<4>() else {
            input.want(4);
            return Ok(());
        };
        let end = 4 + u32::from_be_bytes(*prefix) as usize;
        let Some(frame) = unread.get(..end) else {
            input.want(end);
            return Ok(());
        };
        if self.answer(link, frame)? {
            link.state().consumed += end;
            input.consume(end);
        }
        Ok(())
    }

    fn on_sent(&self, rng: &mut Rng, link: &mut Link<'_, FramedState>) -> Result {
        self.chance.panic(rng);
        match self.plan.piece {
            Some(piece) => Outbox::flush(link, piece, |state| &mut state.outbox),
            None => Ok(()),
        }
    }
}
