//! The handler of framed: it leaves a frame unread until it is complete, and sends it back whole.
//!
//! A frame is the length of its body, four bytes, and the body: up to as much as a link may have
//! unread, which may be many buffers. If there is no capacity for the reply, a handler without an outbox
//! leaves the frame unread, and the engine calls it again.

use crate::echo::{PanicInjector, check_unread, number_of};
use crate::outbox::Outbox;
use crate::plan::{ClientPlan, Plan};
use wharf::sim::Rng;
use wharf::{Handler, Input, LengthPrefix, Link, Result, SendError, Verdict, Worker};

#[derive(Debug)]
pub(crate) struct Framed {
    plan: Plan,
    frames: LengthPrefix,
    panics: PanicInjector,
}

#[derive(Debug)]
pub(crate) struct FramedState {
    client: usize,
    plan: ClientPlan,
    taken: usize,
    /// Bytes of a body that are still to be forwarded; its head has been sent.
    left: usize,
    outbox: Outbox,
}

type FramedLink<'a> = Link<'a, FramedState, Rng>;

impl Framed {
    pub(crate) fn new(plan: &Plan) -> Self {
        let frames = Self::frames(plan);
        Self { plan: plan.clone(), frames, panics: PanicInjector::new(plan) }
    }

    /// The frames that clients of this plan send.
    pub(crate) fn frames(plan: &Plan) -> LengthPrefix {
        LengthPrefix::new(HEAD, plan.message_max - HEAD)
    }

    fn reply(&self, link: &mut FramedLink<'_>, input: &mut Input<'_>) -> Result {
        if let Some(piece) = self.plan.piece {
            let Some(body) = input.frame(self.frames)? else { return Ok(()) };
            let len = u32::try_from(body.len())?;
            let frame = [&len.to_be_bytes(), body].concat();
            return link.state.outbox.send(&mut link.out, &frame, Some(piece));
        }
        match link.state.plan.way % 5 {
            0 => self.send_or_rewind(link, input),
            1 => self.ensure_and_send(link, input),
            2 => take_parts(link, input),
            3 => self.send_several(link, input),
            _ => forward_body(link, input),
        }
    }

    /// Sends a frame back, or leaves it unread if there is no capacity.
    fn send_or_rewind(&self, link: &mut FramedLink<'_>, input: &mut Input<'_>) -> Result {
        let Some(body) = input.frame(self.frames)? else { return Ok(()) };
        match link.out.send(self.frames.of(body)) {
            Ok(()) => {}
            Err(SendError::Full) => input.rewind(),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Asks for capacity before it takes the frame.
    fn ensure_and_send(&self, link: &mut FramedLink<'_>, input: &mut Input<'_>) -> Result {
        let Some(head) = input.peek(HEAD)? else { return Ok(()) };
        let len = head.first_chunk::<HEAD>().map_or(0, |head| u32::from_be_bytes(*head));
        if !link.out.ensure(HEAD + len as usize)? {
            return Ok(());
        }
        if let Some(body) = input.frame(self.frames)? {
            let sent = link.out.send(self.frames.of(body));
            assert_eq!(sent, Ok(()), "though {len} bytes were ensured");
        }
        Ok(())
    }

    /// Sends several frames back in one call, each with a grant.
    fn send_several(&self, link: &mut FramedLink<'_>, input: &mut Input<'_>) -> Result {
        while link.out.has_grant() {
            input.mark();
            let Some(body) = input.frame(self.frames)? else { break };
            match link.out.send(self.frames.of(body)) {
                Ok(()) => {}
                Err(SendError::Full) => {
                    input.rewind();
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Takes the head and then the body; if the body is incomplete, neither.
fn take_parts(link: &mut FramedLink<'_>, input: &mut Input<'_>) -> Result {
    let Some(head) = input.take(HEAD)? else { return Ok(()) };
    let Some(head) = head.first_chunk::<HEAD>().copied() else { return Ok(()) };
    let Some(body) = input.take(u32::from_be_bytes(head) as usize)? else {
        input.rewind();
        return Ok(());
    };
    match link.out.send((head, body)) {
        Ok(()) => {}
        Err(SendError::Full) => input.rewind(),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Sends the head and forwards the body in parts; begins only when the body is complete, because the
/// client expects replies to complete frames only.
fn forward_body(link: &mut FramedLink<'_>, input: &mut Input<'_>) -> Result {
    if link.state.left == 0 {
        let Some(head) = input.peek(HEAD)? else { return Ok(()) };
        let Some(head) = head.first_chunk::<HEAD>().copied() else { return Ok(()) };
        let len = u32::from_be_bytes(head) as usize;
        if input.peek(HEAD + len)?.is_none() {
            return Ok(());
        }
        let is_taken = input.take(HEAD)?.is_some();
        assert!(is_taken, "bytes that peek has shown cannot be taken");
        // A head is within the grant.
        link.out.send(head)?;
        link.state.left = len;
        input.mark();
    }
    let moved = input.forward_up_to(&mut link.out, link.state.left);
    link.state.left -= moved;
    // `rewind` does not restore forwarded bytes.
    input.rewind();
    Ok(())
}

impl Handler<FramedState, Rng> for Framed {
    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<Rng> {
        Ok(self.panics.rng(worker))
    }

    fn on_connect(&self, link: &mut Link<'_, (), Rng>) -> Result<FramedState> {
        self.panics.panic(link.worker);
        let client = number_of(&link.peer());
        let plan = ClientPlan::for_client(&self.plan, client);
        Ok(FramedState { client, plan, taken: 0, left: 0, outbox: Outbox::default() })
    }

    fn on_receive(&self, link: &mut FramedLink<'_>, input: &mut Input<'_>) -> Result {
        let FramedState { client, plan, taken, .. } = &*link.state;
        check_unread(input, *client, &plan.text, *taken, self.plan.server.input_bytes);
        self.panics.panic(link.worker);
        let before = input.len();
        self.reply(link, input)?;
        link.state.taken += before - input.len();
        Ok(())
    }

    fn on_writable(&self, link: &mut FramedLink<'_>) -> Result {
        self.panics.panic(link.worker);
        match self.plan.piece {
            Some(piece) => link.state.outbox.flush(&mut link.out, piece),
            None => Ok(()),
        }
    }

    fn on_end(&self, link: &mut FramedLink<'_>, input: &mut Input<'_>) -> Result<Verdict> {
        self.panics.panic(link.worker);
        let FramedState { client, plan, taken, left, outbox, .. } = &*link.state;
        check_unread(input, *client, &plan.text, *taken, self.plan.server.input_bytes);
        let is_done = *left == 0 && outbox.is_empty();
        assert!(is_done, "client {client}: on_end before all of a frame is sent back");
        let is_whole = input.frame(self.frames).is_ok_and(|frame| frame.is_some());
        assert!(!is_whole, "client {client}: on_end before a whole frame is handled");
        Ok(Verdict::Close)
    }
}

/// Bytes of a length.
const HEAD: usize = 4;
