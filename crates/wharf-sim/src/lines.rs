//! Lines that ask for replies of many kinds, several at a time; an output has capacity for few of them.
//!
//! A request is a line, of some kinds with bytes after it; its reply is a line:
//!
//! ```text
//!   E <length> <letters>   as many letters, if there is capacity, else later
//!   F <length>             the same, but without capacity the link is closed
//!   S <length>             the same, in parts
//!   T <length>             number of `a` in so many bytes after it
//!   U                      number of bytes after it, up to `;;`
//!   H                      the first of the eight bytes after it
//!   N                      NOTIFIED, in an `on_writable` that `notify` asked for
//!   I                      IDLE_RAISED; the idle timeout is then an hour
//!   L <limit>              LIMITED; sets the limit of the output; is the first request
//!   C, Y, X                nothing: it closes, returns an error, is a line that is too long
//! ```

use crate::client_plan::letters;
use crate::echo::{PanicInjector, number_of};
use crate::plan::{Plan, Requests};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use wharf::sim::Rng;
use wharf::{
    Error, FixedSize, Handler, Input, Lines, Link, Output, Result, SendError, Verdict, Worker,
};

/// The requests of one client, about `len` bytes together.
pub(crate) fn requests(rng: &mut Rng, plan: &Plan, len: usize) -> Requests {
    let mut requests = Requests::default();
    // A request must not be longer than the bytes that a link may have unread.
    let after_max = plan.server.input_bytes as usize - 24;
    let mut reply_max = plan.message_max.max(8);
    if rng.below(4) == 0 {
        let limit = 2 * plan.server.grant();
        reply_max = reply_max.min(limit);
        requests.add(format!("L {limit}\n").as_bytes(), LIMITED);
    }
    while requests.text.len() < len {
        let number = requests.ends.len();
        let kind = rng.pick(b"EEEEEEEEFSSTTUUHHNNEEEEEEEEFSSTTUUHHNNICYX");
        let mut text = vec![kind];
        let mut reply = Vec::new();
        match kind {
            b'E' | b'F' | b'S' => {
                let longest = if kind == b'S' { 4 * reply_max } else { reply_max };
                let longest = longest.min(rng.pick(&[4, 40, 600, 100_000]));
                let asked = 2 + rng.below_len(longest - 1);
                text.extend(format!(" {asked}").bytes());
                if kind == b'E' && rng.below(2) == 0 {
                    text.push(b' ');
                    text.extend(letters(number, rng.below_len(plan.line_max() - 20)));
                }
                reply = line_of(asked);
            }
            b'T' => {
                let most = after_max.min(rng.pick(&[10, 300, 3_000]));
                let count = rng.below_len(most + 1);
                let after: Vec<u8> = letters(number, count).collect();
                text.extend(format!(" {count}").bytes());
                reply = format!("{}\n", count_of_a(&after)).into_bytes();
                end_line(rng, &mut text);
                text.extend(after);
            }
            b'U' => {
                let count = rng.below_len(after_max.min(plan.line_max()) - 2);
                end_line(rng, &mut text);
                text.extend(letters(number, count));
                text.extend(b";;");
                reply = format!("{count}\n").into_bytes();
            }
            b'H' => {
                end_line(rng, &mut text);
                text.extend(letters(number, 8));
                reply = vec![text[text.len() - 8], b'\n'];
            }
            b'N' => reply = NOTIFIED.to_vec(),
            b'I' => reply = IDLE_RAISED.to_vec(),
            b'X' => text.resize(plan.line_max() + 2, b'x'),
            _ => {}
        }
        if !matches!(kind, b'T' | b'U' | b'H' | b'X') {
            end_line(rng, &mut text);
        }
        requests.add(&text, &reply);
        if matches!(kind, b'C' | b'Y' | b'X') {
            requests.closes = true;
            requests.text.extend_from_slice(b"E 5\nE");
            break;
        }
    }
    requests
}

fn end_line(rng: &mut Rng, text: &mut Vec<u8>) {
    text.extend_from_slice(if rng.below(3) == 0 { b"\r\n" } else { b"\n" });
}

/// A line of `len` bytes, its end included.
fn line_of(len: usize) -> Vec<u8> {
    letters(len, len - 1).chain([b'\n']).collect()
}

fn count_of_a(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'a').count()
}

/// The number of requests after which the server has closed a client's link, because its output was full.
#[derive(Debug)]
pub(crate) struct Fulls(Box<[AtomicUsize]>);

impl Fulls {
    pub(crate) fn new(clients: u32) -> Arc<Self> {
        Arc::new(Self((0..clients).map(|_| AtomicUsize::new(usize::MAX)).collect()))
    }

    /// The number of this client; `usize::MAX` if its link was not closed for that.
    pub(crate) fn of(&self, client: usize) -> usize {
        self.0[client].load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(crate) struct LineServer {
    line_max: usize,
    fulls: Arc<Fulls>,
    panics: PanicInjector,
}

#[derive(Debug)]
pub(crate) struct LineState {
    client: usize,
    /// Requests that were taken.
    taken: usize,
    /// The rest of a reply, which is still to be queued.
    rest: Vec<u8>,
    /// The next `on_writable` sends `NOTIFIED`.
    is_notified: bool,
    /// The peer has ended its stream, and the next `on_writable` sends `LAST`.
    is_ended: bool,
}

type LineLink<'a> = Link<'a, LineState, Rng>;

/// The result of taking a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// The reply is sent, or will be.
    Done,
    /// It is left unread: it is incomplete, or there is no capacity for its reply.
    Left,
}

impl LineServer {
    pub(crate) fn new(plan: &Plan, fulls: Arc<Fulls>) -> Self {
        Self { line_max: plan.line_max(), fulls, panics: PanicInjector::new(plan) }
    }

    fn take(&self, link: &mut LineLink<'_>, input: &mut Input<'_>) -> Result<Taken> {
        input.mark();
        let line = if link.state.client.is_multiple_of(2) {
            input.line(self.line_max)?
        } else {
            input.frame(Lines::new(self.line_max))?
        };
        let Some(line) = line else { return Ok(Taken::Left) };
        let Some((kind, asked)) = read(line) else {
            panic!("no request: {:?}", String::from_utf8_lossy(line));
        };
        let taken = match kind {
            b'E' => self.reply(link, asked)?,
            b'F' => {
                if link.out.spare_capacity() < asked {
                    self.fulls.0[link.state.client].store(link.state.taken, Ordering::Relaxed);
                }
                link.out.send(line_of(asked))?;
                Taken::Done
            }
            b'S' => {
                link.state.rest = line_of(asked);
                send_rest(link.state, &mut link.out);
                Taken::Done
            }
            b'N' => {
                link.out.notify();
                link.state.is_notified = true;
                Taken::Done
            }
            b'I' => {
                link.set_idle_timeout(Duration::from_secs(3_600));
                link.out.send(IDLE_RAISED)?;
                Taken::Done
            }
            b'L' => {
                let limit = link.out.set_limit_bytes(asked);
                assert_eq!(limit, asked, "two grants are no limit");
                link.out.send(LIMITED)?;
                Taken::Done
            }
            b'C' => {
                link.close();
                Taken::Left
            }
            b'Y' => return Err(Error::msg("an error that was asked for")),
            kind => self.reply_to_bytes(link, input, kind, asked)?,
        };
        match taken {
            Taken::Done => link.state.taken += 1,
            Taken::Left => input.rewind(),
        }
        Ok(taken)
    }

    /// Queues a whole reply, in turn by each of the functions for that.
    fn reply(&self, link: &mut LineLink<'_>, len: usize) -> Result<Taken> {
        let reply = line_of(len);
        let (head, tail) = reply.split_at(len / 2);
        let number = link.state.taken;
        if number.is_multiple_of(5) {
            if !link.out.ensure(len)? {
                return Ok(Taken::Left);
            }
            let sent = link.out.send(&reply);
            assert_eq!(sent, Ok(()), "though {len} bytes were ensured");
            return Ok(Taken::Done);
        }
        let before = link.out.unsent_bytes();
        let sent = match number % 5 {
            1 => link.out.send((head, tail)),
            2 => write!(link.out, "{}", String::from_utf8_lossy(&reply)),
            3 => build(&mut link.out, head, tail)?,
            _ => link.out.send(reply.clone()),
        };
        match sent {
            Ok(()) => Ok(Taken::Done),
            Err(SendError::Full) => {
                let unsent = link.out.unsent_bytes();
                assert_eq!(unsent, before, "a part of the refused reply is queued");
                Ok(Taken::Left)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Replies to a request with bytes after the line.
    fn reply_to_bytes(
        &self,
        link: &mut LineLink<'_>,
        input: &mut Input<'_>,
        kind: u8,
        count: usize,
    ) -> Result<Taken> {
        let reply = match kind {
            b'T' => input.take(count)?.map(count_of_a),
            b'U' => input.until(b";;", self.line_max)?.map(<[u8]>::len),
            b'H' => {
                let Some(bytes) = input.frame(FixedSize::new(8))? else { return Ok(Taken::Left) };
                let first = bytes[0];
                link.out.send([first, b'\n'])?;
                return Ok(Taken::Done);
            }
            other => panic!("a request of kind {other}"),
        };
        let Some(reply) = reply else { return Ok(Taken::Left) };
        // Within the grant.
        writeln!(link.out, "{reply}")?;
        Ok(Taken::Done)
    }
}

fn build(out: &mut Output<'_>, head: &[u8], tail: &[u8]) -> Result<Result<(), SendError>> {
    let before = out.spare_capacity();
    let built = out.build(|into| into.write_all(head).and_then(|()| into.write_all(tail)));
    match built {
        Ok(()) => Ok(Ok(())),
        Err(error) => {
            let is_full = error.kind() == wharf::ErrorKind::OutputFull;
            let is_right = is_full && before < head.len() + tail.len();
            assert!(is_right, "a reply of {} bytes: {error}", head.len() + tail.len());
            Ok(Err(SendError::Full))
        }
    }
}

/// A request's kind, and the number in it.
fn read(line: &[u8]) -> Option<(u8, usize)> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split(' ');
    let kind = *words.next()?.as_bytes().first()?;
    let number = words.next().map_or(Some(0), |word| word.parse().ok())?;
    Some((kind, number))
}

fn send_rest(state: &mut LineState, out: &mut Output<'_>) {
    let sent = out.send_some(&state.rest);
    state.rest.drain(..sent);
}

impl Handler<LineState, Rng> for LineServer {
    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<Rng> {
        Ok(self.panics.rng(worker))
    }

    fn on_connect(&self, link: &mut Link<'_, (), Rng>) -> Result<LineState> {
        let client = number_of(&link.peer());
        Ok(LineState { client, taken: 0, rest: Vec::new(), is_notified: false, is_ended: false })
    }

    fn on_receive(&self, link: &mut LineLink<'_>, input: &mut Input<'_>) -> Result {
        self.panics.panic(link.worker);
        // While a reply is incomplete, the next request stays unread.
        while link.state.rest.is_empty()
            && !link.state.is_notified
            && link.out.has_grant()
            && self.take(link, input)? == Taken::Done
            && !link.state.client.is_multiple_of(3)
        {}
        Ok(())
    }

    fn on_writable(&self, link: &mut LineLink<'_>) -> Result {
        self.panics.panic(link.worker);
        if std::mem::take(&mut link.state.is_notified) {
            // There is a grant.
            link.out.send(NOTIFIED)?;
        }
        if !link.state.rest.is_empty() {
            send_rest(link.state, &mut link.out);
        }
        if link.state.is_ended {
            link.out.send(LAST)?;
            link.close();
        }
        Ok(())
    }

    fn on_end(&self, link: &mut LineLink<'_>, _: &mut Input<'_>) -> Result<Verdict> {
        self.panics.panic(link.worker);
        let LineState { client, rest, is_notified, .. } = &*link.state;
        assert!(rest.is_empty() && !is_notified, "client {client}: on_end before on_writable");
        if client % 3 == 1 {
            // `on_writable` sends `LAST` and closes; until then the link stays open.
            link.state.is_ended = true;
            link.out.notify();
            return Ok(Verdict::Keep);
        }
        // There is a grant.
        link.out.send(LAST)?;
        Ok(Verdict::Close)
    }

    fn on_drain(&self, link: &mut LineLink<'_>) -> Result<Verdict> {
        self.panics.panic(link.worker);
        if link.state.rest.is_empty() {
            // There is a grant.
            link.out.send(STOPPING)?;
        }
        Ok(Verdict::Close)
    }
}

/// Sent by the `on_writable` that `notify` asked for.
const NOTIFIED: &[u8] = b"n\n";
const IDLE_RAISED: &[u8] = b"i\n";
const LIMITED: &[u8] = b"l\n";
/// Sent when the peer has ended its stream.
pub(crate) const LAST: &[u8] = b"E\n";
/// Sent when the server begins to stop, between two replies.
pub(crate) const STOPPING: &[u8] = b"!\n";
