//! What clients send to the programs, and what they must read, drawn from a seed. Each client has a name,
//! so that several can use one server and each can still check every byte.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use wharf_model::Rng;

/// What a client sends, and what it must read.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    pub(crate) text: Vec<u8>,
    pub(crate) expected: Vec<u8>,
    /// Why its link ends.
    pub(crate) reason: &'static str,
    /// It says so much that the end of its stream must follow, for the rest is an incomplete message.
    pub(crate) must_finish: bool,
}

impl Talk {
    fn new(text: impl Into<Vec<u8>>, expected: impl Into<Vec<u8>>) -> Self {
        let (text, expected) = (text.into(), expected.into());
        Self { text, expected, reason: PEER_CLOSED, must_finish: false }
    }

    /// The program ends the link at a random one of `count` messages. Returns at which; `count` if it
    /// does not.
    fn draw_end(rng: &mut Rng, count: usize) -> usize {
        if rng.once_in(3) { rng.below(count) } else { count }
    }
}

pub(crate) const PEER_CLOSED: &str = "peer_closed";

pub(crate) fn echo(rng: &mut Rng, _: &str) -> Talk {
    let text = rng.letters(20_000);
    Talk::new(text.clone(), text)
}

/// The longest message.
pub(crate) const MESSAGE_MAX: usize = 4_000;

pub(crate) fn messages(rng: &mut Rng, _: &str) -> Talk {
    let (mut text, mut replies) = (Vec::new(), Vec::new());
    let len_max = rng.pick(&[10, 500, MESSAGE_MAX]);
    for _ in 0..rng.below(20) {
        let mut body = rng.letters(len_max);
        let prefix = u32::try_from(body.len()).unwrap().to_be_bytes();
        text.extend([&prefix[..], &body].concat());
        body.reverse();
        replies.extend([&prefix[..], &body].concat());
    }
    if !rng.once_in(4) {
        return Talk::new(text, replies);
    }
    // A length that is too long.
    text.extend(u32::MAX.to_be_bytes());
    Talk { reason: "limit", ..Talk::new(text, replies) }
}

pub(crate) fn keyvalue(rng: &mut Rng, name: &str) -> Talk {
    let (mut text, mut replies, mut values) = (Vec::new(), String::new(), BTreeMap::new());
    let mut reason = PEER_CLOSED;
    let count = rng.below(80);
    let end = Talk::draw_end(rng, count);
    for n in 0..count {
        let is_open = reason == PEER_CLOSED;
        if n == end {
            let (line, reply, why) = match rng.below(3) {
                0 => (vec![b'x'; 350], "", "limit"),
                1 => (b"SET \xff\n".to_vec(), "", "handler_error"),
                _ => (b"FILL\n".to_vec(), "full\n", "output_full"),
            };
            text.extend(line);
            replies += reply;
            reason = why;
            continue;
        }
        let key = format!("{name}{}", rng.below(30));
        let (line, reply) = match rng.below(4) {
            0 => {
                let value = String::from_utf8(rng.letters(30)).unwrap() + "x";
                let line = format!("SET {key} {value}\n");
                values.insert(key, value);
                (line, "OK\n".to_owned())
            }
            1 => {
                let value = values.get(&key).map_or("NIL", String::as_str);
                (format!("GET {key}\r\n"), format!("{value}\n"))
            }
            2 => ("what\n".to_owned(), "ERR\n".to_owned()),
            _ => (format!("KEYS {name}\n"), values.keys().flat_map(|key| [key, "\n"]).collect()),
        };
        text.extend(line.bytes());
        if is_open {
            replies += &reply;
        }
    }
    Talk { reason, ..Talk::new(text, replies) }
}

pub(crate) fn frames(rng: &mut Rng, _: &str) -> Talk {
    let (mut text, mut replies) = (Vec::new(), Vec::new());
    let mut notes: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let count = rng.pick(&[0_u32, 3, 20, 79]);
    let end = Talk::draw_end(rng, count as usize);
    let mut is_open = true;
    for number in 0..count {
        let key = rng.pick(&[0_u32, 1, 2, 3, 4]);
        let (kind, note, reply) = if rng.once_in(2) {
            (1, Vec::new(), notes.get(&key).cloned().unwrap_or_default())
        } else {
            let note = rng.letters(80);
            notes.insert(key, note.clone());
            (2, note, b"ok".to_vec())
        };
        is_open &= number as usize != end;
        // Where it ends, a number is left out.
        let skipped = u32::from(!is_open);
        let body = [&[kind][..], &key.to_be_bytes(), &note].concat();
        text.extend(frame(number + skipped, &body));
        if is_open {
            replies.extend(frame(number, &reply));
        }
    }
    let reason = if is_open { PEER_CLOSED } else { "handler_error" };
    Talk { reason, ..Talk::new(text, replies) }
}

fn frame(number: u32, rest: &[u8]) -> Vec<u8> {
    let len = u32::try_from(4 + rest.len()).unwrap();
    [&len.to_be_bytes()[..], &number.to_be_bytes(), rest].concat()
}

pub(crate) fn http(rng: &mut Rng, _: &str) -> Talk {
    let (mut text, mut replies) = (Vec::new(), Vec::new());
    let mut is_open = true;
    for _ in 0..rng.below(40) {
        let body = rng.letters(900);
        let (path, close) = (rng.pick(&["/", "/x"]), rng.once_in(20));
        let connection = if close { "Connection: close\r\n" } else { "" };
        let len = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n{connection}\r\n");
        text.extend([head.as_bytes(), &body, b"GET / HTTP/1.1\r\n\r\n"].concat());
        if is_open {
            replies.extend(b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nnot here\n");
        }
        is_open &= !close;
        if is_open {
            replies.extend(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n");
        }
    }
    let must_finish = is_open && rng.once_in(4);
    if must_finish {
        text.extend(b"GET / HTTP/1.1\r\nHost: half");
        replies.extend(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
    }
    let reason = if is_open { PEER_CLOSED } else { "handler_closed" };
    Talk { reason, must_finish, ..Talk::new(text, replies) }
}

pub(crate) fn redis(rng: &mut Rng, name: &str) -> Talk {
    let (mut text, mut replies) = (Vec::new(), Vec::new());
    let mut values: HashMap<String, Vec<u8>> = HashMap::new();
    let mut number = 0;
    let mut reason = PEER_CLOSED;
    let count = rng.below(60);
    let end = Talk::draw_end(rng, count);
    for n in 0..count {
        if n == end {
            let (command, why) = if rng.once_in(2) {
                ("*2\r\n$4\r\nINCR\r\n$9999999999\r\n", "limit")
            } else {
                ("?\r\n", "handler_error")
            };
            text.extend(command.bytes());
            reason = why;
        }
        let key = format!("{name}{}", rng.pick(&["a", "b", "c", "d"]));
        let key_len = key.len();
        let reply = match rng.below(4) {
            0 => {
                text.extend(b"*1\r\n$4\r\nPING\r\n");
                b"+PONG\r\n".to_vec()
            }
            1 => {
                let len_max = rng.pick(&[4, 50, 5_000]);
                let value = rng.letters(len_max);
                let len = value.len();
                let head = format!("*3\r\n$3\r\nset\r\n${key_len}\r\n{key}\r\n${len}\r\n");
                text.extend([head.as_bytes(), &value, b"\r\n"].concat());
                values.insert(key, value);
                b"+OK\r\n".to_vec()
            }
            2 => {
                text.extend(format!("*2\r\n$3\r\nGET\r\n${key_len}\r\n{key}\r\n").bytes());
                match values.get(&key) {
                    Some(value) => {
                        let head = format!("${}\r\n", value.len());
                        [head.as_bytes(), value, b"\r\n"].concat()
                    }
                    None => b"$-1\r\n".to_vec(),
                }
            }
            _ => {
                number += 1;
                let key_len = 1 + name.len();
                text.extend(format!("*2\r\n$4\r\nINCR\r\n${key_len}\r\nN{name}\r\n").bytes());
                format!(":{number}\r\n").into_bytes()
            }
        };
        if reason == PEER_CLOSED {
            replies.extend(reply);
        }
    }
    Talk { reason, ..Talk::new(text, replies) }
}

/// The files that there are to download.
pub(crate) fn files() -> Vec<Arc<[u8]>> {
    let mut rng = Rng::new(77);
    [1, 10, 200, 3_000, 20_000].map(|len| rng.letters(len).into()).into()
}

pub(crate) fn download(rng: &mut Rng, files: &[Arc<[u8]>]) -> Talk {
    let (mut text, mut replies) = (Vec::new(), Vec::new());
    let count = rng.below(6);
    let end = Talk::draw_end(rng, count);
    let mut is_open = true;
    for request in 0..count {
        is_open &= request != end;
        let number = if request == end { files.len() } else { rng.below(files.len()) };
        text.extend(format!("{number}\n").bytes());
        if is_open {
            let file = &files[number];
            replies.extend([format!("{}\n", file.len()).as_bytes(), file].concat());
        }
    }
    let reason = if is_open { PEER_CLOSED } else { "handler_error" };
    Talk { reason, ..Talk::new(text, replies) }
}

/// The longest question.
pub(crate) const QUESTION_MAX: usize = 300;

pub(crate) fn deferred(rng: &mut Rng, name: &str) -> Talk {
    let (mut text, mut replies) = (String::new(), String::new());
    let mut reason = PEER_CLOSED;
    let count = rng.below(40);
    let end = Talk::draw_end(rng, count);
    for n in 0..count {
        let question = if n == end && rng.once_in(2) {
            reason = "handler_closed";
            replies += "goodbye\n";
            "bye".to_owned()
        } else if n == end {
            reason = "handler_error";
            rng.pick(&["drop", "never"]).to_owned()
        } else if rng.once_in(3) {
            "none".to_owned()
        } else {
            let question = format!("say {name}{n}");
            if reason == PEER_CLOSED {
                replies += &format!("{name}{n}, 42.\n");
            }
            question
        };
        text += &question;
        text += "\n";
    }
    Talk { reason, ..Talk::new(text, replies) }
}

/// Lines that come back.
pub(crate) fn lines(rng: &mut Rng, name: &str) -> Talk {
    let text: String = (0..rng.below(40))
        .map(|n| format!("{name}{n} {}\n", String::from_utf8(rng.letters(80)).unwrap()))
        .collect();
    Talk::new(text.clone(), text)
}

/// Numbers of bytes of a stream.
pub(crate) fn stream(rng: &mut Rng, _: &str) -> Talk {
    let numbers: Vec<usize> = (0..rng.below(8)).map(|_| rng.below(2_000)).collect();
    let text: String = numbers.iter().map(|number| format!("{number}\n")).collect();
    Talk { must_finish: true, ..Talk::new(text, stream_part(0, numbers.iter().sum())) }
}

/// So many bytes of a stream, from this one.
pub(crate) fn stream_part(position: usize, len: usize) -> Vec<u8> {
    (position..position + len).map(|at| b"abcdefghijklmnopqrstuvwxyz"[at % 26]).collect()
}

/// How long it takes to reply to a question.
pub(crate) fn delay_ms(seed: u64, question: &str) -> u64 {
    let hash = question.bytes().fold(seed, |hash, byte| hash.wrapping_mul(31) + u64::from(byte));
    Rng::new(hash).pick(&[0, 0, 1, 5, 40, 300])
}

/// What each hears first in a room.
pub(crate) const GREETING: &str = "hello\n";
/// The longest line in a room.
pub(crate) const SAYING_MAX: usize = 60;

/// What the client of a room says: lines that begin with its name.
pub(crate) fn room(rng: &mut Rng, name: &str) -> String {
    (0..rng.below(30))
        .map(|_| format!("{name} {}\n", String::from_utf8(rng.letters(SAYING_MAX - 3)).unwrap()))
        .collect()
}

/// Says what is no login, and then logs in; hears so many pushes.
pub(crate) fn push(rng: &mut Rng, name: &str, pushes: usize, stops: bool) -> Talk {
    let noise = rng.below(20);
    let text = "what\n".repeat(noise) + &format!("LOGIN {name}\n");
    let pushes: String = (0..pushes).map(|n| format!("PUSH {n}\n")).collect();
    let bye = if stops { "BYE\n" } else { "" };
    let expected = "ERR\n".repeat(noise) + "OK\n" + &pushes + bye;
    let reason = if stops { "server_stopping" } else { "kicked" };
    Talk { reason, ..Talk::new(text, expected) }
}
