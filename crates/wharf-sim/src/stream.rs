//! Long replies that are read from a source as there is capacity, and long requests that are taken in
//! parts.
//!
//! ```text
//!   G <length>   so many letters
//!   B <length>   half as many, then an error of the source
//!   P <length>   takes so many bytes; replies with the number of `a` in them
//!   Q            closes
//! ```

use crate::client_plan::letters;
use crate::echo::{PanicInjector, number_of};
use crate::plan::{Plan, Requests, pattern_byte};
use std::io::{self, ErrorKind, Read, Write};
use wharf::sim::Rng;
use wharf::{Error, Handler, Input, Link, Result, Verdict, Worker};

/// The requests of one client.
pub(crate) fn requests(rng: &mut Rng, plan: &Plan, len: usize) -> Requests {
    let mut requests = Requests::default();
    for number in 0..1 + rng.below_len(4) {
        let most = plan.message_max.min(rng.pick(&[100, 20_000, 2_000_000]));
        let kind = rng.pick(b"GGGGGPPPPPQB");
        // A source with an error has more bytes than it returns.
        let asked = rng.below_len(most + 1).max(if kind == b'B' { 1 } else { 0 });
        let mut text = format!("{} {asked}\n", char::from(kind)).into_bytes();
        let reply: Vec<u8> = match kind {
            b'G' => letters(asked, asked).collect(),
            b'B' => letters(asked, asked / 2).collect(),
            b'P' => {
                // A small socket buffer needs a round trip for every few bytes.
                let asked = asked.min(8 * len);
                text = format!("P {asked}\n").into_bytes();
                let behind = letters(number, asked);
                let start = text.len();
                text.extend(behind);
                let count = text[start..].iter().filter(|byte| **byte == b'a').count();
                format!("{count}\n").into_bytes()
            }
            _ => Vec::new(),
        };
        requests.add(&text, &reply);
        if matches!(kind, b'Q' | b'B') {
            requests.closes = true;
            requests.text.extend_from_slice(b"G 10\nP");
            break;
        }
    }
    requests
}

/// Returns letters in pieces; at times it would block.
#[derive(Debug)]
struct Source {
    len: usize,
    at: usize,
    /// The offset of its error.
    breaks_at: usize,
    reads: usize,
    /// The last read would have blocked.
    is_blocked: bool,
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        self.is_blocked = self.reads.is_multiple_of(7) && self.at != self.breaks_at;
        if self.at == self.breaks_at {
            return Err(io::Error::other("the source is broken"));
        }
        if self.is_blocked {
            return Err(ErrorKind::WouldBlock.into());
        }
        if self.reads.is_multiple_of(11) {
            return Err(ErrorKind::Interrupted.into());
        }
        let most = if self.reads.is_multiple_of(3) { 37 } else { usize::MAX };
        let until = self.len.min(self.breaks_at);
        let count = into.len().min(until - self.at).min(most);
        for (offset, byte) in into[..count].iter_mut().enumerate() {
            *byte = b'a' + pattern_byte(self.len, self.at + offset) % 26;
        }
        self.at += count;
        Ok(count)
    }
}

#[derive(Debug)]
pub(crate) struct Streams {
    panics: PanicInjector,
}

/// The transfer of a link.
#[derive(Debug, Default)]
enum Transfer {
    #[default]
    None,
    Out(Source),
    In {
        left: usize,
        count: usize,
    },
}

#[derive(Debug)]
pub(crate) struct StreamState {
    client: usize,
    transfer: Transfer,
}

type StreamLink<'a> = Link<'a, StreamState, Rng>;

impl Streams {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self { panics: PanicInjector::new(plan) }
    }
}

/// Sends as much as there is capacity for.
fn send(link: &mut StreamLink<'_>) -> Result {
    let StreamState { client, transfer } = &mut *link.state;
    let Transfer::Out(source) = transfer else { return Ok(()) };
    let left = (source.len - source.at) as u64;
    if *client % 2 == 0 {
        let copied = link.out.read_from(&mut *source, left)?;
        let after = (source.len - source.at) as u64;
        assert_eq!(copied.bytes + after, left, "client {client}: bytes of the source are lost");
        assert!(!copied.ended || after == 0, "client {client}: an end that is not there");
    } else {
        copy(source, &mut link.out)?;
    }
    if source.at == source.len {
        *transfer = Transfer::None;
    } else if source.is_blocked {
        // There may be capacity, so no `on_writable` is due without this.
        link.out.notify();
    }
    Ok(())
}

/// Copies as a program that uses `Write` on a socket.
fn copy(source: &mut Source, mut out: impl Write) -> Result {
    let mut bytes = [0; 300];
    loop {
        let before = source.at;
        let count = match source.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut written = 0;
        while written < count {
            match out.write(&bytes[written..count]) {
                Ok(more) => written += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // Reads the rest again.
                    source.at = before + written;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Takes what has arrived.
fn take(link: &mut StreamLink<'_>, input: &mut Input<'_>) -> Result {
    let StreamState { client, transfer } = &mut *link.state;
    let Transfer::In { left, count } = transfer else { return Ok(()) };
    while *left > 0 && !input.is_empty() {
        let chunk = input.chunk();
        let len = chunk.len().min(*left);
        *count += chunk[..len].iter().filter(|byte| **byte == b'a').count();
        let consumed = input.consume(len);
        assert_eq!(consumed, len, "client {client}: unread bytes cannot be taken");
        *left -= len;
    }
    if *left == 0 {
        // Within the grant.
        writeln!(link.out, "{count}")?;
        *transfer = Transfer::None;
    }
    Ok(())
}

impl Handler<StreamState, Rng> for Streams {
    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<Rng> {
        Ok(self.panics.rng(worker))
    }

    fn on_connect(&self, link: &mut Link<'_, (), Rng>) -> Result<StreamState> {
        Ok(StreamState { client: number_of(&link.peer()), transfer: Transfer::None })
    }

    fn on_receive(&self, link: &mut StreamLink<'_>, input: &mut Input<'_>) -> Result {
        self.panics.panic(link.worker);
        match link.state.transfer {
            // During a reply the next request stays unread.
            Transfer::Out(_) => return Ok(()),
            Transfer::In { .. } => return take(link, input),
            Transfer::None => {}
        }
        let Some(line) = input.line(LINE_MAX)? else { return Ok(()) };
        let text = std::str::from_utf8(line)?;
        let (kind, len) = text.split_once(' ').ok_or(Error::msg("not a request"))?;
        let len: usize = len.parse()?;
        let source = |breaks_at| Source { len, at: 0, breaks_at, reads: 0, is_blocked: false };
        match kind {
            "G" => link.state.transfer = Transfer::Out(source(usize::MAX)),
            "B" => link.state.transfer = Transfer::Out(source(len / 2)),
            "P" => {
                link.state.transfer = Transfer::In { left: len, count: 0 };
                return take(link, input);
            }
            "Q" => {
                link.close();
                return Ok(());
            }
            other => panic!("client {}: a request of kind {other}", link.state.client),
        }
        send(link)
    }

    fn on_writable(&self, link: &mut StreamLink<'_>) -> Result {
        self.panics.panic(link.worker);
        send(link)
    }

    fn on_end(&self, link: &mut StreamLink<'_>, _: &mut Input<'_>) -> Result<Verdict> {
        self.panics.panic(link.worker);
        let StreamState { client, transfer } = &*link.state;
        let is_sent = !matches!(transfer, Transfer::Out(_));
        assert!(is_sent, "client {client}: on_end amid a reply");
        Ok(Verdict::Close)
    }
}

/// The longest request line.
const LINE_MAX: usize = 40;
