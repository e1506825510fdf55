//! Deferred replies: another callback or another thread sends them, drops them, or says that there is
//! none.
//!
//! A request is `<kind> <number> <length> <delay in ms>`, and ends with two empty lines. Its reply has as
//! many bytes as it asks for. The kinds are
//!
//! ```text
//!   n  at once                       o  none                      p  none, and the link is paused
//!   l  later                         c  later, and the last       d  dropped, which closes the link
//!   s  later, in the same callback   k  later, after a close()    t  longer than what is reserved
//!   m  later, after MEANWHILE at once   e  an error, so none         x  never
//!   w  at once, but it stays unread until the link is woken
//! ```

use crate::board::{Board, Job, Task};
use crate::client_plan::letters;
use crate::echo::{PanicInjector, number_of};
use crate::plan::{Plan, Requests};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use wharf::sim::Rng;
use wharf::{
    Delimiter, DisconnectReason, Error, Handler, Input, Link, PostError, Reply, Result, SendError,
    Verdict, Worker,
};

/// The requests of one client, about `len` bytes together.
pub(crate) fn requests(rng: &mut Rng, plan: &Plan, len: usize) -> Requests {
    let mut requests = Requests::default();
    let reply_max = plan.message_max.saturating_sub(MEANWHILE.len()).max(1);
    while requests.text.len() < len {
        let number = requests.ends.len();
        let is_last = rng.below(24) == 0;
        let kind = if is_last {
            let may_be_lost = plan.has_slow_replies() && !plan.server.answer.is_zero();
            let never = if may_be_lost { b'x' } else { b'd' };
            rng.pick(&[b'c', b'd', b'k', b't', b'e', never])
        } else {
            rng.pick(b"nnlllllssmopw")
        };
        let reply_len = reply_max.min(rng.pick(&[1, 20, 500, 5_000]));
        // A reservation has whole buffers.
        let beside = if kind == b'm' { plan.server.buffer_bytes as usize } else { 0 };
        let reply_len = reply_len.min(reply_max.saturating_sub(beside)).max(HEAD_MAX);
        let slow_ms = if plan.has_slow_replies() { 5_000 } else { 40 };
        let delay_ms = rng.pick(&[0, 0, 0, 0, 1, 40, slow_ms]);
        let request = Request { kind, number, len: reply_len, delay_ms };
        requests.add(&request.text(), &request.expected());
        if is_last {
            requests.closes = true;
            // The server discards this.
            requests.text.extend_from_slice(b"n 0 20 0\r\n\r\nn 0 ");
            break;
        }
    }
    requests
}

#[derive(Clone, Copy, Debug)]
struct Request {
    kind: u8,
    number: usize,
    len: usize,
    delay_ms: u64,
}

impl Request {
    fn text(self) -> Vec<u8> {
        let Self { kind, number, len, delay_ms } = self;
        format!("{} {number} {len} {delay_ms}\r\n\r\n", char::from(kind)).into_bytes()
    }

    fn read(text: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.split(' ');
        let kind = *words.next()?.as_bytes().first()?;
        let mut number = || words.next()?.parse().ok();
        let (nth, len, delay_ms) = (number()?, number()?, number()?);
        let is_one = words.next().is_none();
        let delay_ms = delay_ms as u64;
        is_one.then_some(Self { kind, number: nth, len, delay_ms })
    }

    fn reply(self) -> Vec<u8> {
        let mut reply = format!("{} ", self.number).into_bytes();
        let rest = self.len.saturating_sub(reply.len() + 1);
        reply.extend(letters(self.number, rest));
        reply.push(b'\n');
        reply
    }

    /// The bytes that the client gets.
    fn expected(self) -> Vec<u8> {
        match self.kind {
            b'n' | b'l' | b's' | b'c' | b'k' | b'w' => self.reply(),
            b'm' => [MEANWHILE, &self.reply()].concat(),
            _ => Vec::new(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Deferred {
    grant: usize,
    buffer: usize,
    board: Arc<Board>,
    panics: PanicInjector,
}

#[derive(Debug)]
pub(crate) struct DeferredState {
    client: usize,
    /// The next request's number.
    next: usize,
    takes_several: bool,
    /// The next request stays unread until the link is woken.
    waits: bool,
    /// After the end of the peer's stream: requests that are still to be taken.
    left: Option<usize>,
}

type DeferredLink<'a> = Link<'a, DeferredState, Rng>;

impl Deferred {
    pub(crate) fn new(plan: &Plan, board: Arc<Board>) -> Self {
        let (grant, buffer) = (plan.server.grant(), plan.server.buffer_bytes as usize);
        Self { grant, buffer, board, panics: PanicInjector::new(plan) }
    }

    /// Takes one request. Returns whether another one may be taken in this call.
    fn take(&self, link: &mut DeferredLink<'_>, input: &mut Input<'_>) -> Result<bool> {
        input.mark();
        let Some(text) = input.frame(REQUESTS)? else { return Ok(false) };
        let Some(request) = Request::read(text) else {
            panic!("no request: {}", String::from_utf8_lossy(text));
        };
        let DeferredState { client, next, .. } = *link.state;
        assert_eq!(request.number, next, "client {client}: a request is lost or repeated");
        let goes_on = match request.kind {
            b'w' if !self.is_woken(link, request) => None,
            b'n' | b'w' => self.reply_now(link, input, request)?,
            b'p' => {
                link.pause();
                self.add(link, request, Task::Resume(link.server.clone(), link.id()));
                Some(false)
            }
            _ => self.defer(link, input, request)?,
        };
        match goes_on {
            Some(goes_on) => {
                link.state.next += 1;
                link.state.waits = false;
                let left = link.state.left.map(|left| left - 1);
                link.state.left = left;
                if left == Some(0) {
                    // A deferred reply is still sent.
                    link.close();
                }
                Ok(goes_on && left != Some(0))
            }
            None => {
                // The next call takes the same request.
                input.rewind();
                Ok(false)
            }
        }
    }

    /// Whether the link was woken for this request; adds the job that wakes it, if there is none.
    fn is_woken(&self, link: &mut DeferredLink<'_>, request: Request) -> bool {
        if !std::mem::replace(&mut link.state.waits, true) {
            self.add(link, request, Task::Wake(link.server.clone(), link.id()));
        }
        self.board.woken(link.state.client) > request.number
    }

    fn reply_now(
        &self,
        link: &mut DeferredLink<'_>,
        input: &Input<'_>,
        request: Request,
    ) -> Result<Option<bool>> {
        if !link.out.ensure(request.len)? {
            return Ok(None);
        }
        self.board.note_answered(link.state.client, request.number);
        link.out.send(request.reply())?;
        Ok(Some(!input.is_empty()))
    }

    /// `None`: there is no capacity for the reply.
    fn defer(
        &self,
        link: &mut DeferredLink<'_>,
        input: &mut Input<'_>,
        request: Request,
    ) -> Result<Option<bool>> {
        let needed = request.len + MEANWHILE.len() + self.buffer;
        if request.kind == b'm' && !link.out.ensure(needed)? {
            return Ok(None);
        }
        let had_grant = link.out.has_grant();
        let reply = match input.defer(&mut link.out, request.len) {
            Ok(reply) => reply,
            Err(SendError::Full) => {
                let is_granted = had_grant && request.len <= self.grant;
                assert!(!is_granted, "no capacity for {} bytes within the grant", request.len);
                // Without this there may be no further call: it says which capacity the handler needs.
                link.out.ensure(request.len)?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        assert_eq!(reply.link(), link.id(), "a reply for another link");
        assert!(input.is_empty(), "a deferred reply does not hold the input");
        self.panics.panic(link.worker);
        self.start(link, request, reply)?;
        Ok(Some(false))
    }

    fn start(&self, link: &mut DeferredLink<'_>, request: Request, reply: Reply) -> Result {
        let client = link.state.client;
        let bytes = request.reply();
        let task = match request.kind {
            b'l' => Task::Send(reply, bytes),
            b's' => {
                self.board.note_answered(client, request.number);
                let sent = reply.send(&bytes);
                assert!(matches!(sent, Ok(()) | Err(PostError::Closed)), "{sent:?}");
                return Ok(());
            }
            b'm' => {
                link.out.send(MEANWHILE)?;
                Task::Send(reply, bytes)
            }
            b'o' => Task::Nothing(reply),
            b'c' if request.number.is_multiple_of(2) => Task::Close(reply, bytes),
            b'c' | b'k' => {
                link.close();
                Task::Send(reply, bytes)
            }
            b'd' => Task::Drop(reply),
            b't' => Task::TooLong(reply, [bytes.as_slice(), b"!"].concat()),
            b'x' => Task::Never(reply),
            b'e' => {
                self.add(link, request, Task::AfterError(reply));
                return Err(Error::msg("an error that was asked for"));
            }
            other => panic!("client {client}: a request of kind {other}"),
        };
        self.add(link, request, task);
        Ok(())
    }

    fn add(&self, link: &DeferredLink<'_>, request: Request, task: Task) {
        let Request { number, delay_ms, .. } = request;
        let delay = Duration::from_millis(delay_ms);
        self.board.add(Job { client: link.state.client, number, delay, task });
    }
}

impl Handler<DeferredState, Rng> for Deferred {
    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<Rng> {
        Ok(self.panics.rng(worker))
    }

    fn on_connect(&self, link: &mut Link<'_, (), Rng>) -> Result<DeferredState> {
        let client = number_of(&link.peer());
        let takes_several = client.is_multiple_of(2);
        Ok(DeferredState { client, next: 0, takes_several, waits: false, left: None })
    }

    fn on_receive(&self, link: &mut DeferredLink<'_>, input: &mut Input<'_>) -> Result {
        self.board.help(link.worker);
        self.panics.panic(link.worker);
        while self.take(link, input)? && link.state.takes_several && link.out.has_grant() {}
        Ok(())
    }

    fn on_writable(&self, link: &mut DeferredLink<'_>) -> Result {
        self.board.help(link.worker);
        Ok(())
    }

    fn on_end(&self, link: &mut DeferredLink<'_>, input: &mut Input<'_>) -> Result<Verdict> {
        self.board.help(link.worker);
        if link.state.waits {
            // The requests that it left unread follow.
            let mut rest = Vec::new();
            input.read_to_end(&mut rest)?;
            input.rewind();
            let ends = rest.windows(END.len()).filter(|bytes| *bytes == END);
            link.state.left = Some(ends.count());
            return Ok(Verdict::Keep);
        }
        let is_whole = input.frame(REQUESTS).is_ok_and(|frame| frame.is_some());
        assert!(!is_whole, "client {}: on_end before a request is handled", link.state.client);
        Ok(Verdict::Close)
    }

    fn on_idle(&self, link: &mut DeferredLink<'_>) -> Result<Verdict> {
        self.board.help(link.worker);
        // The link waits to be woken, not for its peer.
        Ok(if link.state.waits { Verdict::Keep } else { Verdict::Close })
    }

    fn on_disconnect(&self, link: &mut DeferredLink<'_>, _: DisconnectReason) {
        self.board.help(link.worker);
    }
}

/// The end of a request: four bytes, so that it can be in two buffers.
const REQUESTS: Delimiter = Delimiter::new(END, 60);
const END: &[u8] = b"\r\n\r\n";
/// Sent at once, before a deferred reply.
const MEANWHILE: &[u8] = b"wait\n";
/// Bytes that a reply needs for its number.
const HEAD_MAX: usize = 8;
