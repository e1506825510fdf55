//! Promise: a handler's send is queued whole or not at all, never beyond the output's limit; a send
//! that does not fit fails at once, and the handler is called when there is capacity; a stream of
//! any length is sent in constant memory.
//!
//! Method: outputs of a few buffers, clients that read late, counted calls, and 64 MiB.

use crate::util;
use crate::util::functions::functions;
use crate::util::{
    Case, Pattern, TestServer, bytes, connect_small_share, each_back_end, eventually, expect_bytes,
    expect_end, finish, meanwhile, on_receive, read_back, read_pattern, resident_bytes, within,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wharf::DisconnectReason::{HandlerError, OutputFull, PeerClosed};
use wharf::{Copied, Error, ErrorKind as Kind, LengthPrefix, Output, Result, SendError};

each_back_end!(
    every_payload_is_one_message,
    what_is_refused_leaves_nothing_behind,
    a_text_is_written_whole_or_not_at_all,
    what_a_function_builds_is_sent_whole_or_not_at_all,
    what_fits_of_a_long_message_is_sent_and_the_rest_when_it_fits,
    sixty_four_mebibytes_are_read_from_a_source_in_constant_memory,
    a_source_is_read_as_far_as_asked_and_as_it_goes,
    a_source_sees_nothing_of_others,
    the_spare_capacity_is_a_promise,
    within_the_grant_nothing_is_refused,
    a_call_comes_only_below_the_high_water_mark_and_with_the_grant,
    what_ensure_asked_for_is_waited_for_by_what_is_unread,
    what_ensure_asked_for_is_waited_for_by_a_stream,
    ensure_tells_what_can_never_be,
    posts_leave_the_grant_and_what_ensure_asked_for,
    on_writable_comes_only_when_it_is_owed,
    each_notify_makes_one_call,
    a_finished_output_ends_the_stream_and_the_other_half_goes_on,
    a_limit_is_kept_and_is_two_grants_at_least,
    it_writes_as_a_socket_that_does_not_block,
);

/// The limit of the output in the tests below.
const OUTPUT: usize = 16 * 1024;

/// Waits for a line, and runs the reply of the test.
macro_rules! replies {
    ($state:ty, $reply:expr) => {
        functions::<$state>().on_receive(|link, input| {
            let Some(_) = input.line(20)? else { return Ok(()) };
            let reply: fn(&mut wharf::Link<'_, $state>) -> Result = $reply;
            reply(link)
        })
    };
}

/// The last digit of a number, as text.
fn digit(n: usize) -> u8 {
    b"0123456789"[n % 10]
}

fn ask(client: &mut TcpStream) {
    client.write_all(b"go\n").unwrap();
}

fn every_payload_is_one_message(case: &Case) {
    const FRAMES: LengthPrefix = LengthPrefix::new(2, 1_000);
    let handler = replies!((), |link| {
        let out = &mut link.out;
        out.send("text ")?;
        out.send(b"bytes ")?;
        out.send([b'a', b'r', b' '])?;
        out.send(vec![b'v'; 3])?;
        out.send(String::from(" string "))?;
        let borrowed = vec![b'w'; 3];
        out.send(&borrowed)?;
        out.send(format_args!(" {:>5} ", 42))?;
        out.send(("two ", b"parts "))?;
        out.send(("three ", vec![b'p'; 1], format_args!("{} ", "arts")))?;
        out.send(("f", ("o", "u"), "r ", [b'!']))?;
        out.send(FRAMES.of(("framed ", [b'x'; 300])))?;
        out.send("")?;
        let message = link.server.message(("shared ", [b's'; 3_000]))?;
        assert_eq!(message.len(), 3_007);
        link.out.send(&message)?;
        Ok(link.out.send(("and ", &message))?)
    });
    let server = TestServer::start(case.small(handler).buffer_size_bytes(256).buffer_count(400));
    let mut client = server.connect();
    ask(&mut client);
    expect_bytes(&mut client, b"text bytes ar vvv string www    42 two parts three parts four !");
    expect_bytes(&mut client, &[&307_u16.to_be_bytes()[..], b"framed ", &[b'x'; 300]].concat());
    let shared = [&b"shared "[..], &[b's'; 3_000]].concat();
    expect_bytes(&mut client, &[&shared, &b"and "[..], &shared].concat());
    finish(&mut client);
    server.stop();
}

fn what_is_refused_leaves_nothing_behind(case: &Case) {
    let handler = replies!((), |link| {
        let out = &mut link.out;
        out.send([b'a'; OUTPUT - 100])?;
        let queued = (out.unsent_bytes(), out.spare_capacity());
        assert_eq!(queued, (OUTPUT - 100, 100));
        assert_eq!(out.send([b'b'; 101]), Err(SendError::Full));
        assert_eq!(out.send(("b", [b'b'; 50], "b", [b'b'; 50])), Err(SendError::Full));
        assert_eq!(out.send(format_args!("{:101}", "b")), Err(SendError::Full));
        assert_eq!(out.send(LengthPrefix::new(4, 200).of([b'b'; 97])), Err(SendError::Full));
        assert_eq!(out.send(vec![b'b'; OUTPUT + 1]), Err(SendError::TooLarge));
        // A body that is too long for its frame.
        assert_eq!(out.send(LengthPrefix::new(4, 7).of([b'b'; 8])), Err(SendError::TooLarge));
        let shared = link.server.message([b'b'; 101])?;
        assert_eq!(link.out.send(&shared), Err(SendError::Full));
        assert_eq!((link.out.unsent_bytes(), link.out.spare_capacity()), queued);
        link.out.send([b'c'; 100])?;
        assert_eq!(link.out.send("d"), Err(SendError::Full));
        Ok(())
    });
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    for _ in 0..3 {
        ask(&mut client);
        expect_bytes(&mut client, &[[b'a'; OUTPUT - 100].as_slice(), &[b'c'; 100]].concat());
    }
    finish(&mut client);
    assert_eq!(server.stop().handler_panics, 0);
}

/// A `Display` that writes many pieces.
struct Pieces(usize);

impl std::fmt::Display for Pieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (0..self.0).try_for_each(|n| write!(f, "{},", n % 10))
    }
}

fn a_text_is_written_whole_or_not_at_all(case: &Case) {
    let handler = replies!((), |link| {
        let out = &mut link.out;
        write!(out, "{}.", Pieces(3_000))?;
        writeln!(out, "and {}", 1)?;
        let unsent = out.unsent_bytes();
        assert_eq!(unsent, 6_007);
        assert_eq!(write!(out, "{}", Pieces(6_000)), Err(SendError::Full));
        assert_eq!(write!(out, "{}", Pieces(10_000)), Err(SendError::TooLarge));
        assert_eq!(out.unsent_bytes(), unsent);
        Ok(write!(out, "{}", Pieces(4_000))?)
    });
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    ask(&mut client);
    expect_bytes(&mut client, format!("{}.and 1\n{}", Pieces(3_000), Pieces(4_000)).as_bytes());
    finish(&mut client);
    assert_eq!(server.stop().handler_panics, 0);
}

fn what_a_function_builds_is_sent_whole_or_not_at_all(case: &Case) {
    let build = |out: &mut Output<'_>, pieces: usize| {
        out.build(|to| (0..pieces).try_for_each(|n| to.write_all(&[digit(n); 4])))
    };
    let handler = functions::<()>().on_receive(move |link, input| {
        let Some(_) = input.line(20)? else { return Ok(()) };
        let out = &mut link.out;
        build(out, 2_000)?;
        let unsent = out.unsent_bytes();
        assert_eq!(unsent, 8_000);
        // Longer than the capacity.
        assert_eq!(build(out, 2_500).unwrap_err().kind(), Kind::OutputFull);
        assert!(build(out, 5_000).is_err());
        // An error of the closure.
        let error = out.build(|to| {
            to.write_all(b"half of it")?;
            Err(Error::msg("no more"))
        });
        assert_eq!(error.unwrap_err().to_string(), "no more");
        // An error that the closure ignores still counts.
        let error = out.build(|to| {
            let _full = to.write_all(&[0; OUTPUT]);
            Ok::<(), Error>(())
        });
        assert!(error.is_err());
        assert_eq!(out.unsent_bytes(), unsent);
        build(out, 1)
    });
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    ask(&mut client);
    let built: Vec<u8> = (0..2_000_usize).flat_map(|n| [digit(n); 4]).collect();
    expect_bytes(&mut client, &[&built, &b"0000"[..]].concat());
    finish(&mut client);
    assert_eq!(server.stop().handler_panics, 0);
}

fn what_fits_of_a_long_message_is_sent_and_the_rest_when_it_fits(case: &Case) {
    const LEN: usize = 1 << 20;
    fn more(out: &mut Output<'_>, sent: &mut usize, data: &[u8]) {
        let count = out.send_some(&data[*sent..]);
        *sent += count;
        assert!(out.unsent_bytes() <= OUTPUT, "{} bytes are queued", out.unsent_bytes());
        assert!(*sent == data.len() || out.spare_capacity() == 0, "not all that fits");
    }
    let data = Arc::new(bytes(1, LEN));
    let (first, rest) = (Arc::clone(&data), Arc::clone(&data));
    let handler = functions::<usize>()
        .on_receive(move |link, input| {
            if input.line(20)?.is_some() {
                more(&mut link.out, link.state, &first);
            }
            Ok(())
        })
        .on_writable(move |link| {
            assert!(link.out.spare_capacity() >= 2_048, "there is the grant");
            more(&mut link.out, link.state, &rest);
            Ok(())
        });
    let (handler, _, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = util::connect_small_window(server.address);
    ask(&mut client);
    eventually(|| server.stats().sent_bytes > 0, "it has begun");
    read_back(&client, &data);
    let stood = calls.writables();
    assert!(stood >= (LEN / OUTPUT / 2) as u64 && stood <= (LEN / 2_048) as u64, "{stood} calls");
    // When all is queued, no call is due.
    finish(&mut client);
    server.stop();
    assert_eq!(calls.writables(), stood);
}

/// A pattern of some length.
struct Source {
    pattern: Arc<Pattern>,
    at: u64,
    len: u64,
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.len - self.at).unwrap();
        let piece = self.pattern.piece(self.at, left.min(into.len()));
        into[..piece.len()].copy_from_slice(piece);
        self.at += piece.len() as u64;
        Ok(piece.len())
    }
}

fn sixty_four_mebibytes_are_read_from_a_source_in_constant_memory(case: &Case) {
    const LEN: u64 = 64 << 20;
    case.alone(|| {
        let _deadline = within(Duration::from_mins(1));
        let pattern = Arc::new(Pattern::new(1));
        let shared = Arc::clone(&pattern);
        let handler = functions::<Option<Source>>()
            .on_connect(move |link| {
                link.out.notify();
                Ok(Some(Source { pattern: Arc::clone(&shared), at: 0, len: LEN }))
            })
            .on_writable(|link| {
                let Some(source) = link.state else { return Ok(()) };
                let at = source.at;
                let copied = link.out.read_from(&mut *source, u64::MAX)?;
                assert_eq!(copied.bytes, source.at - at);
                if copied.ended {
                    *link.state = None;
                    link.out.finish();
                }
                Ok(())
            });
        let server = TestServer::start(case.builder(handler));
        let resident = resident_bytes();
        let mut client = server.connect();
        let got = read_pattern(&client, &pattern, LEN);
        assert_eq!(got.len, LEN, "{:?}", got.error);
        expect_end(&mut client);
        let grown = resident_bytes().saturating_sub(resident);
        assert!(grown < 8 << 20, "{grown} bytes more in memory");
        drop(client);
        assert_eq!(server.stop().sent_bytes, LEN);
    });
}

/// Returns the results of the test, one after the other.
struct Answers(std::vec::IntoIter<std::io::Result<&'static [u8]>>);

impl Read for Answers {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let answer = self.0.next().unwrap_or(Ok(b""))?;
        into[..answer.len()].copy_from_slice(answer);
        Ok(answer.len())
    }
}

fn a_source_is_read_as_far_as_asked_and_as_it_goes(case: &Case) {
    let handler = replies!((), |link| {
        let out = &mut link.out;
        // Only as much as asked for; the output does not know whether that was all.
        let copied = out.read_from(&mut [b'a'; 300].as_slice(), 200)?;
        assert_eq!(copied, Copied { bytes: 200, ended: false });
        let copied = out.read_from(&mut [b'b'; 300].as_slice(), 301)?;
        assert_eq!(copied, Copied { bytes: 300, ended: true });
        assert_eq!(out.read_from(&mut b"".as_slice(), 1)?, Copied { bytes: 0, ended: true });
        // A read that would block, and an interrupted one.
        let answers = vec![
            Ok(&b"one"[..]),
            Err(ErrorKind::Interrupted.into()),
            Ok(b"two"),
            Err(ErrorKind::WouldBlock.into()),
        ];
        let copied = out.read_from(Answers(answers.into_iter()), u64::MAX)?;
        assert_eq!(copied, Copied { bytes: 6, ended: false });
        // Bytes before an error are queued.
        let answers = vec![Ok(&b"three"[..]), Err(ErrorKind::InvalidData.into())];
        let error = out.read_from(Answers(answers.into_iter()), u64::MAX).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert_eq!(out.unsent_bytes(), 200 + 300 + 6 + 5);
        // More bytes than the capacity.
        let copied = out.read_from(std::io::repeat(b'r'), u64::MAX)?;
        assert_eq!(copied, Copied { bytes: (OUTPUT - 511) as u64, ended: false });
        assert_eq!(out.read_from(std::io::repeat(b'r'), 9)?, Copied { bytes: 0, ended: false });
        Ok(())
    });
    let (handler, _, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    ask(&mut client);
    let parts: [&[u8]; 4] = [&[b'a'; 200], &[b'b'; 300], b"onetwothree", &[b'r'; OUTPUT - 511]];
    expect_bytes(&mut client, &parts.concat());
    // The output was full before the source ended.
    eventually(|| calls.writables() == 1, "on_writable is called when there is capacity");
    finish(&mut client);
    let stats = server.stop();
    assert_eq!((calls.writables(), stats.handler_panics), (1, 0));
}

/// Reads the buffer that it should write into, and returns a larger count than it wrote.
struct Curious;

impl Read for Curious {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        assert!(!into.contains(&0xAB), "bytes of another link");
        into.fill(b'c');
        Ok(into.len() + 1_000)
    }
}

fn a_source_sees_nothing_of_others(case: &Case) {
    let handler = functions::<()>().on_receive(|link, input| {
        if input.chunk() == b"go\n" {
            input.consume(3);
            // The count is not trusted: an error, or the capacity at most.
            let before = link.out.unsent_bytes();
            let claimed = link.out.read_from(Curious, 3_000).map_or(0, |copied| copied.bytes);
            let queued = link.out.unsent_bytes() - before;
            assert!(queued <= 3_000 && claimed <= queued as u64, "{claimed}, {queued}");
            write!(link.out, "!{queued:06}")?;
        } else {
            input.forward(&mut link.out);
        }
        Ok(())
    });
    let server = TestServer::start(case.small(handler));
    let (mut secret, mut client) = (server.connect(), server.connect());
    // Every buffer has a part of it.
    util::exchange(&secret, &vec![0xAB; 400 * 1024], 1);
    for _ in 0..50 {
        ask(&mut client);
        let mut byte = [0];
        let mut count = 0;
        while {
            client.read_exact(&mut byte).unwrap();
            byte != *b"!"
        } {
            assert_eq!(byte, *b"c", "bytes of another link");
            count += 1;
        }
        expect_bytes(&mut client, format!("{count:06}").as_bytes());
    }
    finish(&mut client);
    finish(&mut secret);
    assert_eq!(server.stop().handler_panics, 0);
}

fn the_spare_capacity_is_a_promise(case: &Case) {
    const REQUESTS: usize = 50;
    let handler = functions::<usize>().on_receive(|link, input| {
        let Some(_) = input.line(20)? else { return Ok(()) };
        let spare = link.out.spare_capacity();
        assert!(spare >= 2_048, "{spare} bytes are less than the grant");
        if spare < OUTPUT {
            assert_eq!(link.out.send(vec![b'x'; spare + 1]), Err(SendError::Full));
        }
        // In parts of an odd length.
        for _ in 0..spare / 777 {
            link.out.send([b'y'; 777])?;
        }
        let rest = link.out.spare_capacity();
        assert_eq!(rest, spare % 777, "what was promised is there");
        link.out.send(vec![b'y'; rest])?;
        assert_eq!(link.out.spare_capacity(), 0);
        *link.state += 1;
        if *link.state == REQUESTS {
            link.close();
        }
        Ok(())
    });
    // Fewer buffers than all links can use.
    let server = TestServer::start(case.short(handler).links_max(8).buffer_count(48));
    let clients: Vec<_> = (0..8).map(|_| connect_small_share(server.address)).collect();
    for mut client in &clients {
        client.write_all(&b"go\n".repeat(REQUESTS)).unwrap();
    }
    eventually(|| server.stats().sends > 16, "they are called");
    std::thread::scope(|scope| {
        for mut client in &clients {
            scope.spawn(move || {
                let mut got = Vec::new();
                client.read_to_end(&mut got).unwrap();
                // Each call sends two KiB at least.
                assert!(got.len() >= REQUESTS * 2_048, "{} bytes", got.len());
                assert!(got.iter().all(|byte| *byte == b'y'));
            });
        }
    });
    drop(clients);
    assert_eq!(server.stop().handler_panics, 0);
}

fn within_the_grant_nothing_is_refused(case: &Case) {
    for grant in [2_048, 4_000, 8_192] {
        let handler = on_receive(move |link, input| {
            // Several in one call, each with a grant.
            while link.out.has_grant()
                && let Some(_) = input.line(20)?
            {
                link.out.send(vec![b'g'; grant])?;
            }
            Ok(())
        });
        let (record, links) = (Arc::clone(&handler.record), 6);
        let grant_bytes = u32::try_from(grant).unwrap();
        let builder = case.short(handler).links_max(links).grant_bytes(grant_bytes);
        let server = TestServer::start(builder.buffer_count(90));
        let clients: Vec<_> = (0..links).map(|_| connect_small_share(server.address)).collect();
        for mut client in &clients {
            client.write_all(&b"go\n".repeat(40)).unwrap();
        }
        let expected = vec![b'g'; 40 * grant];
        std::thread::scope(|scope| {
            let expected = &expected;
            for client in &clients {
                scope.spawn(move || read_back(client, expected));
            }
        });
        assert!(record.ends().is_empty(), "{:?}", record.ends());
        drop(clients);
        let stats = server.stop();
        assert_eq!(stats.send_errors, 0, "grant {grant}: {stats:?}");
    }
}

fn a_call_comes_only_below_the_high_water_mark_and_with_the_grant(case: &Case) {
    let handler = on_receive(|link, input| {
        assert!(link.out.has_grant());
        let unsent = link.out.unsent_bytes();
        assert!(unsent <= OUTPUT / 2, "called with {unsent} bytes of {OUTPUT} unsent");
        if input.line(20)?.is_some() {
            // Up to half of it is refused only if buffers are missing.
            link.out.send([b'h'; OUTPUT / 2])?;
            assert_eq!(link.out.has_grant(), unsent == 0);
        }
        Ok(())
    });
    let server = TestServer::start(case.small(handler));
    let mut client = connect_small_share(server.address);
    client.write_all(&b"go\n".repeat(40)).unwrap();
    eventually(|| server.stats().sends >= 2, "it has replied");
    read_back(&client, &vec![b'h'; 40 * OUTPUT / 2]);
    finish(&mut client);
    let stats = server.stop();
    assert_eq!((stats.handler_panics, stats.closed(OutputFull)), (0, 0));
}

/// More than half of an output.
const LARGE: usize = OUTPUT - 1_000;

fn what_ensure_asked_for_is_waited_for_by_what_is_unread(case: &Case) {
    for rewinds in [false, true] {
        let handler = functions::<()>().on_receive(move |link, input| {
            if rewinds {
                if input.line(20)?.is_none() {
                    return Ok(());
                }
                if !link.out.ensure(LARGE)? {
                    input.rewind();
                    return Ok(());
                }
            } else {
                if !link.out.ensure(LARGE)? || input.line(20)?.is_none() {
                    return Ok(());
                }
            }
            assert!(link.out.spare_capacity() >= LARGE);
            Ok(link.out.send([b'l'; LARGE])?)
        });
        let (handler, record, calls) = handler.watched();
        let server = TestServer::start(case.small(handler));
        let mut client = connect_small_share(server.address);
        let requests = 30;
        server.deliver(&client, &b"go\n".repeat(requests));
        eventually(|| calls.receives() > 1, "it has asked for more than there is");
        read_back(&client, &vec![b'l'; requests * LARGE]);
        assert!(record.ends().is_empty(), "{:?}", record.ends());
        // For each one call without and then one with success, and no more.
        let most = 2 * requests as u64 + 2;
        assert!(calls.receives() <= most, "{} calls for {requests} requests", calls.receives());
        finish(&mut client);
        assert_eq!(server.stop().handler_panics, 0);
    }
}

fn what_ensure_asked_for_is_waited_for_by_a_stream(case: &Case) {
    fn more(out: &mut Output<'_>, left: &mut usize) -> Result {
        while *left > 0 && out.ensure(LARGE)? {
            out.send([b'l'; LARGE])?;
            *left -= 1;
        }
        Ok(())
    }
    let handler = functions::<usize>()
        .on_receive(|link, input| {
            if input.line(20)?.is_some() {
                *link.state = 30;
            }
            more(&mut link.out, link.state)
        })
        .on_writable(|link| {
            assert!(link.out.spare_capacity() >= LARGE);
            more(&mut link.out, link.state)
        });
    let (handler, _, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = connect_small_share(server.address);
    ask(&mut client);
    eventually(|| server.stats().sent_bytes > 0, "it has begun");
    read_back(&client, &vec![b'l'; 30 * LARGE]);
    assert!((1..=30).contains(&calls.writables()), "{} calls", calls.writables());
    finish(&mut client);
    assert_eq!(server.stop().handler_panics, 0);
}

fn ensure_tells_what_can_never_be(case: &Case) {
    let handler = replies!((), |link| {
        assert_eq!(link.out.ensure(OUTPUT + 1), Err(SendError::TooLarge));
        assert_eq!(link.out.ensure(0), Ok(true));
        assert_eq!(link.out.ensure(OUTPUT), Ok(true));
        link.out.send("ok")?;
        assert_eq!(link.out.ensure(OUTPUT - 2), Ok(true));
        link.out.set_limit_bytes(8_192);
        assert_eq!(link.out.ensure(8_193), Err(SendError::TooLarge));
        link.out.finish();
        assert_eq!(link.out.ensure(1), Err(SendError::Closed));
        Err(SendError::Closed.into())
    });
    let (handler, record, _) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    ask(&mut client);
    expect_bytes(&mut client, b"ok");
    expect_end(&mut client);
    drop(client);
    record.expect(&[HandlerError]);
    server.stop();
}

/// A client reads slowly what others post to it without a pause; its own requests get replies.
fn posts_leave_the_grant_and_what_ensure_asked_for(case: &Case) {
    for reply in [2_048, LARGE] {
        let replied = Arc::<AtomicU64>::default();
        let count = Arc::clone(&replied);
        let handler = on_receive(move |link, input| {
            let Some(_) = input.line(20)? else { return Ok(()) };
            if reply > 2_048 && !link.out.ensure(reply)? {
                input.rewind();
                return Ok(());
            }
            link.out.send(vec![b'r'; reply])?;
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        let record = Arc::clone(&handler.record);
        // Enough buffers for posts, so that they fill their part of the output.
        let server = TestServer::start(case.small(handler).buffer_count(800));
        let mut client = connect_small_share(server.address);
        let id = record.id(0);
        let (mut piece, mut got) = ([0; 2_048], 0);
        for request in 1..=10 {
            // There is always a further post.
            let missed = server.stats().missed;
            while server.stats().missed == missed {
                server.handle.link(id).post([b'p'; 500]);
            }
            ask(&mut client);
            eventually(
                || {
                    server.handle.link(id).post([b'p'; 500]);
                    if replied.load(Ordering::SeqCst) < request {
                        let len = client.read(&mut piece).unwrap();
                        got += piece[..len].iter().filter(|byte| **byte == b'r').count();
                    }
                    replied.load(Ordering::SeqCst) == request
                },
                "the request is replied to",
            );
        }
        client.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        got += rest.iter().filter(|byte| **byte == b'r').count();
        assert_eq!(got, 10 * reply);
        record.expect(&[PeerClosed]);
        server.stop();
    }
}

fn on_writable_comes_only_when_it_is_owed(case: &Case) {
    let handler = functions::<()>().on_receive(|link, input| {
        let Some(line) = input.line(20)? else { return Ok(()) };
        match line {
            b"full" => assert_eq!(link.out.send([0; OUTPUT - 1]), Ok(())),
            b"refused" => {
                link.out.send([0; OUTPUT - 1])?;
                assert_eq!(link.out.send([0; 2]), Err(SendError::Full));
            }
            b"some" => assert_eq!(link.out.send_some(&[0; OUTPUT]), OUTPUT),
            b"more" => assert_eq!(link.out.send_some(&vec![0; OUTPUT + 1]), OUTPUT),
            b"source" => drop(link.out.read_from(&[0; 100][..], u64::MAX)?),
            b"ensured" => assert!(link.out.ensure(OUTPUT)?),
            b"not ensured" => {
                link.out.send([0; 2])?;
                assert!(!link.out.ensure(OUTPUT - 1)?);
            }
            _ => link.out.send("small")?,
        }
        Ok(())
    });
    let (handler, _, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    let tests: [(&str, usize, u64); 8] = [
        ("small", 5, 0),
        ("full", OUTPUT - 1, 0),
        ("some", OUTPUT, 0),
        ("source", 100, 0),
        ("ensured", 0, 0),
        ("refused", OUTPUT - 1, 1),
        ("more", OUTPUT, 1),
        ("not ensured", 2, 1),
    ];
    let (mut owed, mut sent) = (0, 0);
    for (word, len, calls_more) in tests {
        writeln!(client, "{word}").unwrap();
        client.read_exact(&mut vec![0; len]).unwrap();
        owed += calls_more;
        eventually(|| calls.writables() == owed, word);
        meanwhile(Duration::from_millis(20), || calls.writables() == owed, word);
        // The next call finds the output empty.
        sent += len as u64;
        eventually(|| server.stats().sent_bytes == sent, word);
    }
    finish(&mut client);
    let stats = server.stop();
    assert_eq!((calls.writables(), stats.handler_panics), (owed, 0));
}

fn each_notify_makes_one_call(case: &Case) {
    let handler = functions::<usize>()
        .on_receive(|link, input| {
            let Some(line) = input.line(20)? else { return Ok(()) };
            *link.state = std::str::from_utf8(line)?.parse()?;
            // Several in one call count as one.
            link.out.notify();
            link.out.notify();
            // It is called also while input is paused, and after the bytes of this call are sent.
            link.pause();
            Ok(link.out.send("notified ")?)
        })
        .on_writable(|link| {
            *link.state -= 1;
            if *link.state > 0 {
                link.out.notify();
            } else {
                link.resume();
            }
            Ok(write!(link.out, "{} ", link.state)?)
        });
    let (handler, _, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    client.write_all(b"1\n3\n200\n").unwrap();
    expect_bytes(&mut client, b"notified 0 notified 2 1 0 notified ");
    let all: String = (0..200).rev().map(|n| format!("{n} ")).collect();
    expect_bytes(&mut client, all.as_bytes());
    finish(&mut client);
    let stats = server.stop();
    assert_eq!((calls.writables(), stats.handler_panics), (204, 0));
}

fn a_finished_output_ends_the_stream_and_the_other_half_goes_on(case: &Case) {
    let received = Arc::<AtomicU64>::default();
    let count = Arc::clone(&received);
    let handler = functions::<bool>().on_receive(move |link, input| {
        if *link.state {
            assert_eq!(link.out.send("more"), Err(SendError::Closed));
            count.fetch_add(input.consume(usize::MAX) as u64, Ordering::SeqCst);
        } else if input.line(20)?.is_some() {
            link.out.send([b'f'; 10_000])?;
            link.out.finish();
            link.out.finish();
            *link.state = true;
            assert_eq!(link.out.send("more"), Err(SendError::Closed));
            assert_eq!(write!(link.out, "more"), Err(SendError::Closed));
            assert_eq!(link.out.send_some(b"more"), 0);
        }
        Ok(())
    });
    let (handler, record, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = util::connect_small_window(server.address);
    ask(&mut client);
    expect_bytes(&mut client, &[b'f'; 10_000]);
    expect_end(&mut client);
    // Its input is handled as before.
    let rest = bytes(1, 200_000);
    client.write_all(&rest).unwrap();
    eventually(|| received.load(Ordering::SeqCst) == 200_000, "all of it is received");
    assert!(record.ends().is_empty(), "{:?}", record.ends());
    client.shutdown(Shutdown::Write).unwrap();
    record.expect(&[PeerClosed]);
    let stats = server.stop();
    assert_eq!((calls.ends(), stats.handler_panics), (1, 0));
}

fn a_limit_is_kept_and_is_two_grants_at_least(case: &Case) {
    let handler = replies!((), |link| {
        let out = &mut link.out;
        assert_eq!(out.set_limit_bytes(0), 2 * 4_096);
        assert_eq!(out.set_limit_bytes(usize::MAX), OUTPUT);
        assert_eq!(out.set_limit_bytes(9_000), 9_000);
        assert_eq!(out.spare_capacity(), 9_000);
        assert_eq!(out.send([0; 9_001]), Err(SendError::TooLarge));
        out.send([b'x'; 9_000])?;
        assert_eq!(out.send("y"), Err(SendError::Full));
        // A lower limit does not remove queued bytes.
        assert_eq!(out.set_limit_bytes(8_500), 8_500);
        assert_eq!((out.unsent_bytes(), out.spare_capacity()), (9_000, 0));
        assert_eq!(out.set_limit_bytes(10_000), 10_000);
        assert_eq!(out.spare_capacity(), 1_000);
        Ok(out.send([b'z'; 1_000])?)
    });
    let server = TestServer::start(case.small(handler).grant_bytes(4_096).buffer_count(60));
    let mut client = server.connect();
    ask(&mut client);
    expect_bytes(&mut client, &[[b'x'; 9_000].as_slice(), &[b'z'; 1_000]].concat());
    finish(&mut client);
    assert_eq!(server.stop().handler_panics, 0);
}

fn it_writes_as_a_socket_that_does_not_block(case: &Case) {
    let handler = replies!((), |link| {
        let out: &mut dyn Write = &mut link.out;
        assert_eq!(out.write(b"")?, 0);
        assert_eq!(out.write(&[b'a'; 10_000])?, 10_000);
        assert_eq!(out.write(&[b'b'; 10_000])?, OUTPUT - 10_000);
        assert_eq!(out.write(b"c").unwrap_err().kind(), ErrorKind::WouldBlock);
        Ok(out.flush()?)
    });
    let (handler, _, calls) = handler.watched();
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    ask(&mut client);
    expect_bytes(&mut client, &[[b'a'; 10_000].as_slice(), &[b'b'; OUTPUT - 10_000]].concat());
    eventually(|| calls.writables() == 1, "it is called when there is capacity");
    finish(&mut client);
    assert_eq!(server.stop().handler_panics, 0);
}
