//! redis: to a client of our own that pipelines, and to redis-cli.

use super::common::{Example, Pieces, Rng, assert_same, check, installed, run};
use super::each_back_end;
use std::collections::HashMap;
use std::process::Command;
use wharf::BackEnd;

each_back_end! {
    redis_pipelines_values_of_any_size,
    redis_refuses_what_it_does_not_understand,
    redis_cli_is_understood,
}

/// A command as clients send it.
fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut text = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        text.extend([format!("${}\r\n", word.len()).as_bytes(), word, b"\r\n"].concat());
    }
    text
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

fn redis_pipelines_values_of_any_size(back_end: BackEnd) {
    let Some(example) = Example::start("redis", back_end) else { return };
    let mut values: HashMap<&str, Vec<u8>> = HashMap::new();
    let mut count = 0;
    check(&example, |rng| {
        let (mut text, mut replies) = (Vec::new(), Vec::new());
        for _ in 0..rng.below(60) {
            let key = rng.pick(&["a", "b", "c", "d"]);
            match rng.below(4) {
                0 => {
                    text.extend(command(&[b"PING"]));
                    replies.extend(b"+PONG\r\n");
                }
                1 => {
                    let len_max = rng.pick(&[4, 50, 30_000]);
                    let value = rng.letters(len_max);
                    text.extend(command(&[b"set", key.as_bytes(), &value]));
                    values.insert(key, value);
                    replies.extend(b"+OK\r\n");
                }
                2 => {
                    text.extend(command(&[b"GET", key.as_bytes()]));
                    let value = values.get(key).map(|value| bulk(value));
                    replies.extend(value.unwrap_or(b"$-1\r\n".to_vec()));
                }
                _ => {
                    count += 1;
                    text.extend(command(&[b"INCR", b"N"]));
                    replies.extend(format!(":{count}\r\n").bytes());
                }
            }
        }
        (text, replies)
    });
    // Binary values, the longest ones, and several commands in flight.
    let value: Vec<u8> = (0..8_usize << 20).map(|n| (n ^ (n >> 8)).to_le_bytes()[0]).collect();
    let get = command(&[b"GET", b"large"]);
    let text = [&command(&[b"SET", b"large", &value])[..], &get, &command(&[b"PING"]), &get];
    let replies = [b"+OK\r\n", &bulk(&value)[..], b"+PONG\r\n", &bulk(&value)].concat();
    let heard = example.ask(&text.concat(), &mut Pieces::Random(Rng::new(1), 70_000));
    assert_same(&heard, &replies, "8 MiB");
    example.stop();
}

fn redis_refuses_what_it_does_not_understand(back_end: BackEnd) {
    let Some(example) = Example::start("redis", back_end) else { return };
    // Errors with a reply, after which the link stays open.
    let text = [
        command(&[b"SET", b"word", b"ten"]),
        command(&[b"INCR", b"word"]),
        command(&[b"SET", b"most", b"9223372036854775807"]),
        command(&[b"INCR", b"most"]),
        command(&[b"GET"]),
        command(&[b"FLUSHALL"]),
        command(&[b"SET", b"", b""]),
        command(&[b"GET", b""]),
    ];
    let number = "-ERR value is not an integer or out of range\r\n";
    let unknown = "-ERR unknown command or wrong number of arguments\r\n";
    let expected = format!("+OK\r\n{number}+OK\r\n{number}{unknown}{unknown}+OK\r\n$0\r\n\r\n");
    let heard = example.ask(&text.concat(), &mut Pieces::ByteByByte);
    assert_eq!(String::from_utf8_lossy(&heard), expected);
    // Errors that end the link, after the replies to all before.
    for last in ["PING\r\n", "*4\r\n", "*1\r\n$8388609\r\n", "*1\r\n$4\r\nPINGPONG\r\n", "*x\r\n"] {
        let text = [&command(&[b"PING"])[..], last.as_bytes(), &command(&[b"PING"])].concat();
        let heard = example.ask(&text, &mut Pieces::ByteByByte);
        assert_eq!(String::from_utf8_lossy(&heard), "+PONG\r\n", "{last:?}");
    }
    example.stop();
}

fn redis_cli_is_understood(back_end: BackEnd) {
    let Some(example) = Example::start("redis", back_end) else { return };
    if installed("redis-cli", "--version") {
        let port = example.port();
        let cli = |words: &[&str], input: &[u8]| {
            run(Command::new("redis-cli").args(["-p", &port]).args(words), input)
        };
        assert_eq!(cli(&["ping"], b""), "PONG\n");
        assert_eq!(cli(&["set", "colour", "green and blue"], b""), "OK\n");
        assert_eq!(cli(&["get", "colour"], b""), "green and blue\n");
        assert_eq!(cli(&["get", "shape"], b""), "\n");
        assert_eq!(cli(&["incr", "n"], b""), "1\n");
        assert_eq!(cli(&["-x", "set", "large"], &vec![b'x'; 1 << 20]), "OK\n");
        assert_eq!(cli(&["get", "large"], b""), "x".repeat(1 << 20) + "\n");
        assert_eq!(cli(&[], b"incr n\nget n\nping\n"), "2\n2\nPONG\n");
    }
    example.stop();
}
