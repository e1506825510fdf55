//! Promise: input is taken as lines, frames or bytes, however the network splits it; bytes that are
//! not taken stay, in order, and the handler is called again for them.
//!
//! Method: handlers that test one function each; messages of many lengths in buffers of 64 bytes,
//! in pieces of every length; counted calls.

use crate::util;
use crate::util::functions::functions;
use crate::util::{
    Case, Hold, Mutex, Random, TestServer, bytes, each_back_end, eventually, expect_bytes,
    expect_end, finish, meanwhile, on_receive, unacknowledged,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use wharf::{
    Builder, Decoder, Delimiter, Error, Extent, FixedSize, Handler, Input, LengthPrefix, Lines,
    Link, Peek, Result, TooLong, Verdict,
};

each_back_end!(
    a_line_comes_without_its_end_however_it_is_split,
    what_comes_before_a_byte_string_comes_without_it_however_it_is_split,
    bytes_are_taken_and_peeked_at_in_one_slice,
    frames_of_each_decoder_come_whole_however_they_are_split,
    frames_of_a_decoder_of_the_program_come_whole_however_they_are_split,
    a_decoder_may_have_no_maximum,
    a_decoder_that_remembers_is_lent,
    what_take_asked_for_is_waited_for,
    what_take_asked_for_counts_from_the_first_unread_byte_after_a_rewind,
    what_is_not_taken_stays_and_comes_again_with_what_comes,
    a_call_that_took_something_is_repeated,
    a_rewind_goes_back_to_the_mark,
    a_rewind_does_not_go_behind_what_was_forwarded,
    bodies_between_heads_are_forwarded,
    a_forward_moves_what_the_output_takes_and_the_rest_stays,
    a_sink_takes_what_it_can_and_the_rest_stays,
    it_reads_as_a_socket_that_does_not_block,
    what_is_too_long_ends_the_link_by_a_limit_after_what_is_queued,
    what_is_as_long_as_allowed_comes,
    a_handler_may_reply_to_what_is_too_long,
    one_turn_makes_64_calls_for_a_link_and_then_those_of_others,
    what_is_unread_is_limited,
);

/// Small buffers: a message needs many.
fn in_small_buffers<H, S, W>(case: &Case, handler: H) -> Builder<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    case.short(handler).links_max(4).buffer_size_bytes(64).buffer_count(2_000)
}

/// Sends each piece of the stream when the server has received the one before.
fn deliver_in_pieces(server: &TestServer, client: &TcpStream, stream: &[u8], lens: &[usize]) {
    let (mut rest, mut lens) = (stream, lens.iter().cycle());
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((*lens.next().unwrap()).min(rest.len()));
        server.deliver(client, piece);
        rest = after;
    }
}

/// Checks that the replies are the same for all pieces of the stream.
fn check_however_split<H: Handler>(
    case: &Case,
    handler: impl Fn() -> H,
    stream: &[u8],
    replies: &[u8],
) {
    assert!(stream.len() < 4_096 && replies.len() < 8_192, "as much as is taken unread");
    let server = TestServer::start(in_small_buffers(case, handler()));
    let mut random = Random(stream.len() as u64);
    let mut splits: Vec<Vec<usize>> = vec![vec![1], vec![64], vec![63, 2], vec![stream.len()]];
    for longest in [4, 40, 400] {
        splits.push((0..50).map(|_| 1 + random.below(longest)).collect());
    }
    for lens in splits {
        let mut client = server.connect();
        deliver_in_pieces(&server, &client, stream, &lens);
        let mut got = vec![0; replies.len()];
        client.read_exact(&mut got).unwrap();
        let told = || (String::from_utf8_lossy(&got), String::from_utf8_lossy(replies));
        assert!(got == replies, "{lens:?}: {:?}", told());
        finish(&mut client);
    }
    server.stop();
}

/// Replies to each message with the message in brackets.
fn bracket(
    link: &mut Link<'_>,
    input: &mut Input<'_>,
    next: impl for<'a> Fn(&'a mut Input<'_>) -> Result<Option<&'a [u8]>>,
) -> Result {
    while let Some(message) = next(input)? {
        link.out.send(("[", message, "]"))?;
    }
    Ok(())
}

fn bracketed<'a>(messages: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    messages.into_iter().flat_map(|message| [b"[", message, b"]"].concat()).collect()
}

fn a_line_comes_without_its_end_however_it_is_split(case: &Case) {
    let long = [b'x'; 300];
    let lines: [&[u8]; 10] =
        [b"a", b"", b"b", b"", b"c\rd", b"\r", &long[..63], &long[..64], &long[..127], &long];
    let ends: [&[u8]; 10] =
        [b"\n", b"\n", b"\r\n", b"\r\n", b"\n", b"\r\n", b"\n", b"\r\n", b"\r\n", b"\n"];
    let stream: Vec<u8> =
        lines.iter().zip(ends).flat_map(|(line, end)| [line, end].concat()).collect();
    let handler = || on_receive(|link, input| bracket(link, input, |input| Ok(input.line(300)?)));
    check_however_split(case, handler, &stream, &bracketed(lines));
}

fn what_comes_before_a_byte_string_comes_without_it_however_it_is_split(case: &Case) {
    // Ends that begin several times, and bytes that resemble them.
    let heads: [&[u8]; 6] = [b"GET /", b"", b"aaaa", b"a\r\n\r", b"\r\n\r", &[b'h'; 200]];
    let stream: Vec<u8> = heads.iter().flat_map(|head| [head, &b"\r\n\r\n"[..]].concat()).collect();
    let handler = || {
        on_receive(|link, input| bracket(link, input, |input| Ok(input.until(b"\r\n\r\n", 300)?)))
    };
    check_however_split(case, handler, &stream, &bracketed(split(&stream, b"\r\n\r\n")));
    let handler =
        || on_receive(|link, input| bracket(link, input, |input| Ok(input.until(b"aab", 300)?)));
    let stream = b"aabaaabaaaabxaaxaabab aab";
    check_however_split(case, handler, stream, &bracketed(split(stream, b"aab")));
}

/// The bytes before each `end`.
fn split<'a>(mut stream: &'a [u8], end: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    while let Some(at) = stream.windows(end.len()).position(|bytes| bytes == end) {
        parts.push(&stream[..at]);
        stream = &stream[at + end.len()..];
    }
    parts
}

/// A length of two bytes, and a message; peeks before it takes.
fn bytes_are_taken_and_peeked_at_in_one_slice(case: &Case) {
    let lens = [0_u16, 1, 61, 62, 63, 64, 65, 200, 700];
    let messages: Vec<Vec<u8>> =
        lens.iter().map(|len| bytes(u64::from(*len), usize::from(*len))).collect();
    let stream: Vec<u8> = lens
        .iter()
        .zip(&messages)
        .flat_map(|(len, m)| [&len.to_be_bytes()[..], m].concat())
        .collect();
    let handler = || {
        on_receive(|link, input| {
            while let Some(head) = input.peek(2)? {
                let len = 2 + usize::from(u16::from_be_bytes([head[0], head[1]]));
                let unread = input.len();
                let Some(seen) = input.peek(len)?.map(<[u8]>::to_vec) else { return Ok(()) };
                assert_eq!(input.len(), unread, "a peek takes nothing");
                let taken = input.take(len)?.ok_or(Error::msg("it was there"))?;
                assert!(taken == seen && taken.len() == len, "peek and take differ");
                link.out.send(("[", &taken[2..], "]"))?;
                assert_eq!(input.len(), unread - len, "what is taken is gone");
            }
            Ok(())
        })
    };
    let replies = bracketed(messages.iter().map(Vec::as_slice));
    check_however_split(case, handler, &stream, &replies);
}

/// Echoes frames by its decoder's encoder.
macro_rules! check_frames {
    ($case:expr, $decoder:expr, $stream:expr) => {
        let handler = || {
            on_receive(|link, input| {
                while let Some(body) = input.frame($decoder)? {
                    link.out.send($decoder.of(body))?;
                }
                Ok(())
            })
        };
        let stream: Vec<u8> = $stream;
        check_however_split($case, handler, &stream, &stream);
    };
}

fn bodies() -> impl Iterator<Item = Vec<u8>> {
    [0, 1, 2, 60, 63, 64, 65, 120, 250].into_iter().map(|len| bytes(len as u64, len))
}

fn frames_of_each_decoder_come_whole_however_they_are_split(case: &Case) {
    const BIG: LengthPrefix = LengthPrefix::new(4, 250);
    check_frames!(case, BIG, frames(|body| (4, body.len(), 0, false)));
    const LITTLE: LengthPrefix = LengthPrefix::new(2, 250).little_endian();
    check_frames!(case, LITTLE, frames(|body| (2, body.len(), 0, true)));
    const BYTE: LengthPrefix = LengthPrefix::new(1, 250);
    check_frames!(case, BYTE, frames(|body| (1, body.len(), 0, false)));
    const WIDE: LengthPrefix = LengthPrefix::new(8, 250);
    check_frames!(case, WIDE, frames(|body| (8, body.len(), 0, false)));
    // The length counts itself.
    const ITSELF: LengthPrefix = LengthPrefix::new(4, 250).adjustment(-4);
    check_frames!(case, ITSELF, frames(|body| (4, body.len() + 4, 0, false)));
    const ENDED: Delimiter = Delimiter::new(b"--", 250);
    check_frames!(case, ENDED, texts(b"--"));
    const LINES: Lines = Lines::new(250);
    check_frames!(case, LINES, texts(b"\n"));
    const FIXED: FixedSize = FixedSize::new(100);
    check_frames!(case, FIXED, (0..5).flat_map(|seed| bytes(seed, 100)).collect());
    // The body begins with the header: three bytes, and the length.
    const HEADED: LengthPrefix = LengthPrefix::new(2, 250).offset(3).with_header();
    let handler = || {
        on_receive(|link, input| {
            while let Some(message) = input.frame(HEADED)? {
                link.out.send(message)?;
            }
            Ok(())
        })
    };
    let stream = frames(|body| (2, body.len(), 3, false));
    check_however_split(case, handler, &stream, &stream);
    // The header of a sent frame has its first bytes before the length.
    const OFFSET: LengthPrefix = LengthPrefix::new(2, 250).offset(3);
    let handler = || {
        on_receive(|link, input| {
            while let Some(body) = input.frame(OFFSET)? {
                link.out.send(OFFSET.of(("abc", body)))?;
            }
            Ok(())
        })
    };
    check_however_split(case, handler, &stream, &stream);
}

/// Each body with its length: width, value, header bytes before, little-endian.
fn frames(head: impl Fn(&[u8]) -> (usize, usize, usize, bool)) -> Vec<u8> {
    let frame = |body: Vec<u8>| {
        let (width, len, offset, little_endian) = head(&body);
        let mut length = (len as u64).to_be_bytes()[8 - width..].to_vec();
        if little_endian {
            length.reverse();
        }
        [&b"abc"[..offset], &length, &body].concat()
    };
    bodies().flat_map(frame).collect()
}

/// Bodies of letters, each with an end.
fn texts(end: &[u8]) -> Vec<u8> {
    let letters = |body: Vec<u8>| body.iter().map(|byte| b'a' + byte % 26).collect::<Vec<_>>();
    bodies().flat_map(|body| [&letters(body), end].concat()).collect()
}

/// Spaces, two bytes with the length of a text, the text, and a full stop.
struct Spoken;

impl Decoder for Spoken {
    fn extent(&mut self, input: &Peek<'_>) -> Result<Extent> {
        let spaces = (0..input.len()).take_while(|at| input.byte(*at) == Some(b' ')).count();
        if spaces > 0 {
            return Ok(Extent::Skip(spaces));
        }
        let Some(len) = input.array(0).map(u16::from_be_bytes) else {
            assert!(input.len() < 2);
            return Ok(Extent::More(2));
        };
        Ok(Extent::Frame { head: 2, len: len.into(), tail: 1 })
    }
}

fn frames_of_a_decoder_of_the_program_come_whole_however_they_are_split(case: &Case) {
    let bodies: Vec<_> = bodies().collect();
    let frame = |(spaces, body): (usize, &Vec<u8>)| {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&b" ".repeat(spaces % 4 * 30), &len[..], body, b"."].concat()
    };
    let stream: Vec<u8> = bodies.iter().enumerate().flat_map(frame).collect();
    let handler = || on_receive(|link, input| bracket(link, input, |input| input.frame(Spoken)));
    let replies = bracketed(bodies.iter().map(Vec::as_slice));
    check_however_split(case, handler, &stream, &replies);
}

/// Frames between brackets; it counts the bytes that it scanned.
#[derive(Default)]
struct Brackets {
    looked_at: usize,
    seen: usize,
}

impl Decoder for Brackets {
    fn extent(&mut self, input: &Peek<'_>) -> Result<Extent> {
        while let Some(byte) = input.byte(self.seen) {
            self.looked_at += 1;
            self.seen += 1;
            if byte == b']' {
                let len = std::mem::take(&mut self.seen);
                return Ok(Extent::Frame { head: 1, len: len - 2, tail: 1 });
            }
        }
        Ok(Extent::More(self.seen + 1))
    }
}

/// One input is at most one frame long.
fn a_decoder_may_have_no_maximum(case: &Case) {
    const TO_COMMA: Delimiter = Delimiter::new(b",", usize::MAX);
    let handler = on_receive(|link, input| {
        while link.out.has_grant()
            && let Some(part) = input.frame(TO_COMMA)?
        {
            link.out.send((part, ";"))?;
        }
        Ok(())
    });
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.write_all(b"one,tw").unwrap();
    expect_bytes(&mut client, b"one;");
    client.write_all(b"o,").unwrap();
    expect_bytes(&mut client, b"two;");
    finish(&mut client);
    server.stop();
}

fn a_decoder_that_remembers_is_lent(case: &Case) {
    let handler = functions::<Brackets>().on_receive(|link, input| {
        while let Some(body) = input.frame(&mut *link.state)? {
            link.out.send((body, " "))?;
        }
        if input.is_empty() {
            write!(link.out, "{}", link.state.looked_at)?;
        }
        Ok(())
    });
    let server = TestServer::start(in_small_buffers(case, handler));
    let mut client = server.connect();
    let stream = [&b"["[..], &[b'x'; 200], b"][][ab]"].concat();
    deliver_in_pieces(&server, &client, &stream, &[1]);
    expect_bytes(&mut client, &[b'x'; 200]);
    // Each byte once. The input is empty after each of the three.
    expect_bytes(&mut client, b" 202 204ab 208");
    finish(&mut client);
    server.stop();
}

fn what_take_asked_for_is_waited_for(case: &Case) {
    let handler = functions::<()>().on_receive(|link, input| {
        if let Some(ten) = input.take(10)? {
            link.out.send(ten)?;
        }
        Ok(())
    });
    let (handler, _, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    for (ten, rounds) in b"0123456789abcdefghijABCDEFGHIJ".chunks(10).zip(1..) {
        for byte in ten.chunks(1) {
            server.deliver(&client, byte);
            // Further bytes make no call, either.
            server.handle.all().try_post("+").unwrap();
            if byte != &ten[9..] {
                expect_bytes(&mut client, b"+");
            }
        }
        let mut last = [0; 11];
        client.read_exact(&mut last).unwrap();
        let reply: Vec<u8> = last.into_iter().filter(|byte| *byte != b'+').collect();
        assert_eq!(reply, ten);
        // A call for the first byte, and one when all had arrived.
        assert_eq!(calls.receives(), 2 * rounds);
    }
    finish(&mut client);
    server.stop();
    assert_eq!(calls.receives(), 6);
}

fn what_take_asked_for_counts_from_the_first_unread_byte_after_a_rewind(case: &Case) {
    let handler = functions::<()>().on_receive(|link, input| {
        let Some(head) = input.line(20)?.map(<[u8]>::to_vec) else { return Ok(()) };
        match input.frame(FixedSize::new(4))? {
            Some(body) => link.out.send(("<", head, ":", body))?,
            None => input.rewind(),
        }
        Ok(())
    });
    let (handler, _, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    server.deliver(&client, b"h1\nbod1h2\nbo");
    expect_bytes(&mut client, b"<h1:bod1");
    // The first head and body, and the second head.
    eventually(|| calls.receives() == 2, "it was called for the rest");
    server.deliver(&client, b"d");
    server.deliver(&client, b"2");
    expect_bytes(&mut client, b"<h2:bod2");
    assert_eq!(calls.receives(), 3, "it waited for seven bytes");
    finish(&mut client);
    server.stop();
}

fn what_is_not_taken_stays_and_comes_again_with_what_comes(case: &Case) {
    let handler = functions::<()>().on_receive(|link, input| {
        if input.len() == 10 {
            assert_eq!(input.chunk().first(), Some(&b'0'));
            input.forward(&mut link.out);
        }
        Ok(())
    });
    let (handler, _, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    for (byte, count) in b"0123456789".chunks(1).zip(1..) {
        server.deliver(&client, byte);
        eventually(|| calls.receives() == count, "it is called for what came");
    }
    expect_bytes(&mut client, b"0123456789");
    meanwhile(util::BLOCKED_AFTER / 4, || calls.receives() == 10, "called for nothing");
    finish(&mut client);
    server.stop();
}

fn a_call_that_took_something_is_repeated(case: &Case) {
    let handler = functions::<()>().on_receive(|link, input| {
        let byte = input.chunk()[0];
        assert_eq!(input.consume(1), 1);
        Ok(link.out.send([byte])?)
    });
    let (handler, _, calls) = handler.watched();
    let server = TestServer::start(in_small_buffers(case, handler));
    let (mut client, data) = (server.connect(), bytes(2, 3_000));
    client.write_all(&data).unwrap();
    expect_bytes(&mut client, &data);
    finish(&mut client);
    server.stop();
    assert_eq!(calls.receives(), 3_000);
}

fn a_rewind_goes_back_to_the_mark(case: &Case) {
    // To the beginning of the call, and to the mark.
    let handler = functions::<bool>().on_receive(|link, input| {
        if input.len() < 8 {
            return Ok(());
        }
        let Some(first) = input.take(3)?.map(<[u8]>::to_vec) else { return Ok(()) };
        if *link.state {
            input.mark();
        }
        let _taken_and_not = (input.consume(2), input.take(3)?.is_some());
        assert!(input.is_empty());
        input.rewind();
        let left = input.len();
        link.out.send(("(", first, ")"))?;
        write!(link.out, "{left}")?;
        if !std::mem::replace(link.state, true) {
            // Rewound bytes count as not taken.
            link.resume();
        } else {
            input.forward(&mut link.out);
        }
        Ok(())
    });
    let (handler, _, calls) = handler.watched();
    let server = TestServer::start(in_small_buffers(case, handler));
    let mut client = server.connect();
    server.deliver(&client, b"abcdefgh");
    expect_bytes(&mut client, b"(abc)8(abc)5defgh");
    assert_eq!(calls.receives(), 2);
    finish(&mut client);
    server.stop();
}

fn a_rewind_does_not_go_behind_what_was_forwarded(case: &Case) {
    let handler = on_receive(|link, input| {
        let Some(_) = input.take(2)? else { return Ok(()) };
        input.forward_up_to(&mut link.out, 3);
        let _taken = input.take(1)?.is_some();
        input.rewind();
        Ok(())
    });
    let server = TestServer::start(in_small_buffers(case, handler));
    let (mut client, data) = (server.connect(), b"--abc--def--ghi-");
    server.deliver(&client, data);
    // After the third of them one byte is left, too few for two.
    expect_bytes(&mut client, b"abcdefghi");
    finish(&mut client);
    server.stop();
}

/// A line with a number, and as many bytes.
fn bodies_between_heads_are_forwarded(case: &Case) {
    let handler = functions::<usize>().on_receive(|link, input| {
        if *link.state > 0 {
            let count = input.forward_up_to(&mut link.out, *link.state);
            *link.state -= count;
        } else if let Some(head) = input.line(10)? {
            *link.state = std::str::from_utf8(head)?.parse()?;
            link.out.send((head, ":"))?;
        }
        Ok(())
    });
    let server = TestServer::start(in_small_buffers(case, handler));
    let client = server.connect();
    let lens = [0, 1, 5, 63, 64, 65, 1_000, 4_096, 20_000, 200_000];
    let message = |end: &str| {
        let parts = lens.iter().map(|len| {
            let body = bytes(*len as u64, *len);
            [format!("{len}{end}").as_bytes(), &body].concat()
        });
        parts.collect::<Vec<_>>().concat()
    };
    let (say, hear) = (message("\n"), message(":"));
    std::thread::scope(|scope| {
        scope.spawn(|| { &client }.write_all(&say).unwrap());
        util::read_back(&client, &hear);
    });
    drop(client);
    server.stop();
}

fn a_forward_moves_what_the_output_takes_and_the_rest_stays(case: &Case) {
    const QUEUED_MAX: usize = 4_096;
    let handler = functions::<()>()
        .on_connect(|link| {
            assert_eq!(link.out.set_limit_bytes(QUEUED_MAX), QUEUED_MAX);
            Ok(())
        })
        .on_receive(|link, input| {
            let (unread, unsent) = (input.len(), link.out.unsent_bytes());
            let spare = link.out.spare_capacity();
            let count = input.forward(&mut link.out);
            assert!(count <= spare, "{count} of {unread} were moved, {spare} were free");
            assert_eq!((input.len(), link.out.unsent_bytes()), (unread - count, unsent + count));
            assert!(link.out.unsent_bytes() <= QUEUED_MAX);
            assert!(input.is_empty() || link.out.spare_capacity() == 0, "there was more to move");
            Ok(())
        });
    let server = TestServer::start(case.small(handler));
    let (client, data) = (util::connect_small_window(server.address), bytes(3, 1 << 20));
    util::exchange(&client, &data, 3);
    drop(client);
    server.stop();
}

/// Takes some bytes, then none.
struct Sink {
    taken: Vec<u8>,
    most: usize,
    refuses_with: ErrorKind,
}

impl Write for &mut Sink {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let len = data.len().min(7).min(self.most - self.taken.len());
        self.taken.extend_from_slice(&data[..len]);
        if len == 0 && !data.is_empty() { Err(self.refuses_with.into()) } else { Ok(len) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn a_sink_takes_what_it_can_and_the_rest_stays(case: &Case) {
    let handler = functions::<()>().on_receive(|link, input| {
        if input.len() < 200 {
            return Ok(());
        }
        let mut sink = Sink { taken: Vec::new(), most: 150, refuses_with: ErrorKind::WouldBlock };
        assert_eq!((input.write_to(&mut sink)?, input.len()), (150, 50));
        link.out.send(&sink.taken)?;
        let mut all = Vec::new();
        assert_eq!((input.write_to(&mut all)?, input.len()), (50, 0));
        Ok(link.out.send(&all)?)
    });
    let server = TestServer::start(in_small_buffers(case, handler));
    let (mut client, data) = (server.connect(), bytes(4, 200));
    deliver_in_pieces(&server, &client, &data, &[90]);
    expect_bytes(&mut client, &data);
    finish(&mut client);
    server.stop();
    // Another error is passed on by the handler.
    let handler = functions::<()>().on_receive(|_, input| {
        let mut sink = Sink { taken: Vec::new(), most: 5, refuses_with: ErrorKind::StorageFull };
        let error = input.write_to(&mut sink).unwrap_err();
        assert_eq!((error.kind(), sink.taken.as_slice()), (ErrorKind::StorageFull, &b"01234"[..]));
        Err(error.into())
    });
    let (handler, record, _) = handler.watched();
    let server = TestServer::start(in_small_buffers(case, handler));
    let mut client = server.connect();
    client.write_all(b"0123456789").unwrap();
    expect_end(&mut client);
    drop(client);
    record.expect(&[wharf::DisconnectReason::HandlerError]);
    server.stop();
}

fn it_reads_as_a_socket_that_does_not_block(case: &Case) {
    let handler = functions::<()>()
        .on_receive(|link, input| {
            let mut piece = [0; 50];
            loop {
                match input.read(&mut piece) {
                    Ok(0) => return Ok(()),
                    Ok(len) => link.out.send(&piece[..len])?,
                    Err(error) => {
                        assert!(input.is_empty() && !input.is_ended(), "{error}");
                        assert_eq!(error.kind(), ErrorKind::WouldBlock);
                        return Ok(());
                    }
                }
            }
        })
        .on_end(|link, input| {
            assert!(input.is_empty() && input.is_ended());
            assert_eq!((input.read(&mut [0; 50])?, input.chunk()), (0, &b""[..]));
            link.out.send("the end")?;
            Ok(Verdict::Close)
        });
    let server = TestServer::start(in_small_buffers(case, handler));
    let (mut client, data) = (server.connect(), bytes(5, 1_000));
    deliver_in_pieces(&server, &client, &data, &[1, 64, 99]);
    expect_bytes(&mut client, &data);
    client.shutdown(Shutdown::Write).unwrap();
    expect_bytes(&mut client, b"the end");
    expect_end(&mut client);
    server.stop();
}

/// Maximum of a link's unread bytes.
const INPUT: usize = 4_096;

type Question = fn(&mut Input<'_>) -> Result<Option<Vec<u8>>>;

/// Calls one function after a line, and replies with its result.
fn asks(question: Question) -> impl Handler<bool> {
    functions::<bool>().on_receive(move |link, input| {
        if !*link.state {
            let Some(_) = input.line(10)? else { return Ok(()) };
            *link.state = true;
            link.out.send("asked")?;
        } else if let Some(message) = question(input)? {
            write!(link.out, "{}", message.len())?;
        }
        Ok(())
    })
}

fn owned(message: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
    Ok(message.map(<[u8]>::to_vec))
}

fn what_is_too_long_ends_the_link_by_a_limit_after_what_is_queued(case: &Case) {
    let long = [b'x'; 101];
    let frame = |len: u32| len.to_be_bytes().to_vec();
    let tests: [(Question, Vec<u8>); 12] = [
        (|input| owned(input.line(100)?), [&long[..], b"\n"].concat()),
        // Before its end has arrived: more bytes than a line and its end can have.
        (|input| owned(input.line(100)?), [b'x'; 102].to_vec()),
        (|input| owned(input.until(b"--", 100)?), [&long[..], b"--"].concat()),
        (|input| owned(input.until(b"--", 100)?), [b'x'; 102].to_vec()),
        (|input| owned(input.frame(LengthPrefix::new(4, 100))?), frame(101)),
        (|input| owned(input.frame(LengthPrefix::new(4, 100))?), frame(u32::MAX)),
        (|input| owned(input.frame(Lines::new(100))?), [&long[..], b"\n"].concat()),
        (|input| owned(input.frame(Delimiter::new(b"--", 100))?), [b'x'; 102].to_vec()),
        // Requests that no input can fulfil.
        (|input| owned(input.take(INPUT + 1)?), b"x".to_vec()),
        (|input| owned(input.peek(INPUT + 1)?), b"x".to_vec()),
        (|input| owned(input.until(b"--", INPUT - 1)?), b"x".to_vec()),
        (|input| owned(input.frame(LengthPrefix::new(4, 1 << 20))?), frame(5_000)),
    ];
    for (question, stream) in tests {
        let handler = functions::<()>().on_receive(move |link, input| {
            link.out.send("queued")?;
            question(input)?;
            link.out.send("not refused")?;
            input.consume(usize::MAX);
            Ok(())
        });
        let (handler, record, _) = handler.watched();
        let server = TestServer::start(case.small(handler).input_bytes(4_096));
        let mut client = server.connect();
        client.write_all(&stream).unwrap();
        expect_bytes(&mut client, b"queued");
        expect_end(&mut client);
        drop(client);
        record.expect(&[wharf::DisconnectReason::Limit]);
        server.stop();
    }
}

fn what_is_as_long_as_allowed_comes(case: &Case) {
    let long = [b'x'; INPUT];
    let line = |len: usize, end: &[u8]| [&long[..len], end].concat();
    let frame = |head: &[u8], len: usize| [head, &long[..len]].concat();
    let whole = u32::try_from(INPUT - 4).unwrap();
    let tests: [(Question, Vec<u8>, &[u8]); 10] = [
        (|input| owned(input.line(100)?), line(100, b"\n"), b"100"),
        (|input| owned(input.line(100)?), line(100, b"\r\n"), b"100"),
        (|input| owned(input.line(INPUT - 2)?), line(INPUT - 2, b"\r\n"), b"4094"),
        (|input| owned(input.until(b"--", INPUT - 2)?), line(INPUT - 2, b"--"), b"4094"),
        (|input| owned(input.take(INPUT)?), long.to_vec(), b"4096"),
        (|input| owned(input.frame(FixedSize::new(INPUT))?), long.to_vec(), b"4096"),
        (|input| owned(input.frame(Lines::new(INPUT - 2))?), line(INPUT - 2, b"\r\n"), b"4094"),
        (
            |input| owned(input.frame(Delimiter::new(b"--", INPUT - 2))?),
            line(INPUT - 2, b"--"),
            b"4094",
        ),
        (
            |input| owned(input.frame(LengthPrefix::new(4, INPUT - 4))?),
            frame(&whole.to_be_bytes(), INPUT - 4),
            b"4092",
        ),
        (
            |input| owned(input.frame(LengthPrefix::new(4, INPUT).adjustment(-4).with_header())?),
            frame(&u32::try_from(INPUT).unwrap().to_be_bytes(), INPUT - 4),
            b"4096",
        ),
    ];
    for (question, stream, reply) in tests {
        let server = TestServer::start(case.small(asks(question)).input_bytes(4_096));
        let mut client = server.connect();
        client.write_all(b"\n").unwrap();
        expect_bytes(&mut client, b"asked");
        for _ in 0..3 {
            client.write_all(&stream).unwrap();
            expect_bytes(&mut client, reply);
        }
        finish(&mut client);
        server.stop();
    }
}

fn a_handler_may_reply_to_what_is_too_long(case: &Case) {
    let handler = functions::<()>().on_receive(|link, input| {
        match input.line(10) {
            Ok(None) => return Ok(()),
            Ok(Some(line)) => link.out.send(line)?,
            Err(error) => {
                assert_eq!((error, error.max()), (TooLong::new(10), 10));
                write!(link.out, "at most {}", error.max())?;
                link.close();
            }
        }
        Ok(())
    });
    let (handler, record, _) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.write_all(b"0123456789\nand this is longer").unwrap();
    expect_bytes(&mut client, b"0123456789at most 10");
    expect_end(&mut client);
    drop(client);
    record.expect(&[wharf::DisconnectReason::HandlerClosed]);
    server.stop();
}

fn one_turn_makes_64_calls_for_a_link_and_then_those_of_others(case: &Case) {
    const MANY: usize = 5_000;
    let hold = Hold::default();
    let (held, lines) = (hold.clone(), Arc::<Mutex<Vec<u8>>>::default());
    let log = Arc::clone(&lines);
    let handler = on_receive(move |_, input| {
        match input.line(9)? {
            Some(b"hold") => held.enter(),
            Some(who) => log.lock().unwrap().extend(who),
            None => {}
        }
        Ok(())
    });
    let server = TestServer::start(case.builder(handler));
    let (mut holds, mut many) = (server.connect(), server.connect());
    let mut others: Vec<_> = (0..4).map(|_| server.connect()).collect();
    server.wait_for_links(6);
    holds.write_all(b"hold\n").unwrap();
    hold.wait();
    // All has arrived when the worker continues.
    many.write_all(&b"M\n".repeat(MANY)).unwrap();
    others.iter_mut().for_each(|other| other.write_all(b"o\n").unwrap());
    eventually(|| others.iter().chain([&many]).all(|s| unacknowledged(s) == 0), "all has arrived");
    hold.release();
    eventually(|| lines.lock().unwrap().len() == MANY + 4, "all lines are handled");
    let lines = lines.lock().unwrap().clone();
    let last = lines.iter().rposition(|who| *who == b'o').unwrap();
    // Other links are called in the turn in which their input is received: this one, or the next.
    let before = lines[..last].iter().filter(|who| **who == b'M').count();
    assert!(before <= 2 * 64, "{before} calls for one link before those for others");
    holds.shutdown(Shutdown::Both).unwrap();
    drop((holds, many, others));
    server.stop();
}

fn what_is_unread_is_limited(case: &Case) {
    let server = TestServer::start(case.small(on_receive(|_, _| Ok(()))));
    let client = server.connect();
    let pattern = util::Pattern::new(1);
    let written = util::write_until_blocked(&client, &pattern, u64::MAX);
    let (received, in_port) = (server.stats().received_bytes, util::receive_buffer_bytes(&server));
    assert!(written > received, "more than it takes was sent");
    assert!(received >= 8 * 1024, "{received} bytes are fewer than may be unread");
    assert!(received <= 8 * 1024 + in_port, "{received} bytes received, {in_port} in the port");
    server.handle.all().abort();
    drop(client);
    server.stop();
}
