//! Servers of bytes and lines: echo, keyvalue, deferred, per_worker_state.

use super::common::{Example, PATIENCE, Pieces, Rng, assert_same, check, installed, program, run};
use super::each_back_end;
use super::skip::{lacks, skip};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::Instant;
use wharf::BackEnd;

each_back_end! {
    keyvalue_sends_replies_above_the_grant,
    keyvalue_repeats_a_line_whose_reply_does_not_fit_yet,
    deferred_replies_keep_their_order_and_outlast_a_half_close,
    deferred_questions_are_bounded,
    per_worker_state_replies_from_its_cache,
}

/// The quickstart has one address, so the back ends alternate, in a network of the test's own where
/// that can be had.
#[test]
fn echo_gives_back_what_it_gets() {
    if std::env::var_os(ROLE).is_none() && echo_in_its_own_network() {
        return;
    }
    let deadline = Instant::now() + PATIENCE;
    for back_end in [BackEnd::Uring, BackEnd::Epoll] {
        while let Err(error) = TcpListener::bind("127.0.0.1:9527") {
            if Instant::now() >= deadline {
                return lacks(format_args!("127.0.0.1:9527 is not free: {error}"));
            }
            std::thread::yield_now();
        }
        let Some(example) = Example::spawn(&mut program("echo"), back_end) else { continue };
        assert_eq!(example.port(), "9527");
        check(&example, |rng| {
            let text = rng.letters(100_000);
            (text.clone(), text)
        });
        if installed("nc", "-h") {
            let text: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
            let heard = run(Command::new("nc").args(["-N", "127.0.0.1", "9527"]), text.as_bytes());
            assert_same(heard.as_bytes(), text.as_bytes(), "nc");
        }
        example.stop();
    }
}

const ROLE: &str = "WHARF_TEST_ROLE";

/// Runs [`echo_gives_back_what_it_gets`] in a network where no other process listens; false if there can be none.
fn echo_in_its_own_network() -> bool {
    let in_network = |words: &[&str]| {
        let script = "ip link set lo up && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "sh", "-c", script, "sh"]).args(words);
        command.env(ROLE, "alone").output()
    };
    if !in_network(&["true"]).is_ok_and(|output| output.status.success()) {
        return false;
    }
    let tests = std::env::current_exe().unwrap();
    let test = "lines::echo_gives_back_what_it_gets";
    let output = in_network(&[tests.to_str().unwrap(), "--exact", test, "--nocapture"]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
    // A back end that is not there is told once more.
    errors.lines().filter(|line| line.contains("skipped, because ")).for_each(skip);
    true
}

fn keyvalue_sends_replies_above_the_grant(back_end: BackEnd) {
    let Some(example) = Example::start("keyvalue", back_end) else { return };
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    check(&example, |rng| {
        let (mut text, mut replies) = (String::new(), String::new());
        for _ in 0..rng.below(150) {
            // All keys together are much longer than the grant of one buffer.
            let key = format!("{:0>90}", rng.below(100));
            match rng.below(8) {
                0..4 => {
                    let value = String::from_utf8(rng.letters(800)).unwrap() + "x y";
                    text += &format!("SET {key} {value}\n");
                    replies += "OK\n";
                    values.insert(key, value);
                }
                4 | 5 => {
                    text += &format!("GET {key}\r\n");
                    replies += values.get(&key).map_or("NIL", String::as_str);
                    replies += "\n";
                }
                6 => {
                    text += "what\n";
                    replies += "ERR\n";
                }
                _ => {
                    text += "KEYS\n";
                    replies.extend(values.keys().flat_map(|key| [key, "\n"]));
                }
            }
        }
        (text.into_bytes(), replies.into_bytes())
    });
    assert!(values.keys().map(String::len).sum::<usize>() > 2_048, "not above the grant");
    let long = "x".repeat(1_025);
    assert_eq!(
        example.ask(format!("what\n{long}\n").as_bytes(), &mut Pieces::ByteByByte),
        b"ERR\n"
    );
    if installed("nc", "-h") {
        let port = example.port();
        let script = b"SET colour green and blue\nGET colour\nGET shape\nSET x\n";
        let heard = run(Command::new("nc").args(["-N", "127.0.0.1", &port]), script);
        assert_eq!(heard, "OK\ngreen and blue\nNIL\nERR\n");
    }
    example.stop();
}

/// Replies of which no two fit an output together: the second waits, and the handler is called
/// again with its line.
fn keyvalue_repeats_a_line_whose_reply_does_not_fit_yet(back_end: BackEnd) {
    let Some(example) = Example::start("keyvalue", back_end) else { return };
    let keys: Vec<String> = (0..200).map(|n| format!("{n:0>900}")).collect();
    let mut text: String = keys.iter().map(|key| format!("SET {key} x\n")).collect();
    text += &"KEYS\n".repeat(10);
    let list: String = keys.iter().flat_map(|key| [key, "\n"]).collect();
    let replies = "OK\n".repeat(keys.len()) + &list.repeat(10);
    for seed in 1..=3 {
        let heard = example.ask(text.as_bytes(), &mut Pieces::Random(Rng::new(seed), 5_000));
        assert_same(&heard, replies.as_bytes(), &format!("seed {seed}"));
    }
    example.stop();
}

fn deferred_replies_keep_their_order_and_outlast_a_half_close(back_end: BackEnd) {
    let Some(example) = Example::start("deferred", back_end) else { return };
    check(&example, |rng| {
        let (mut text, mut replies) = (String::new(), String::new());
        for n in 0..rng.below(5) {
            let question = format!("what is {n} times {}?", rng.below(1_000));
            text += &format!("{question}\n");
            replies += &format!("{question} 42.\n");
        }
        (text.into_bytes(), replies.into_bytes())
    });
    if installed("nc", "-h") {
        let port = example.port();
        let heard = run(Command::new("nc").args(["-N", "127.0.0.1", &port]), b"why?\nhow?\n");
        assert_eq!(heard, "why? 42.\nhow? 42.\n");
    }
    example.stop();
}

/// One question is computed and 100 wait; a client that asks more is refused at once.
fn deferred_questions_are_bounded(back_end: BackEnd) {
    let Some(example) = Example::start("deferred", back_end) else { return };
    let mut clients: Vec<_> = (0..200).map(|_| example.connect()).collect();
    for client in &mut clients {
        client.write_all(b"why?\n").unwrap();
    }
    clients.iter().for_each(|client| client.set_nonblocking(true).unwrap());
    let (mut refused, deadline) = (0, Instant::now() + PATIENCE);
    while refused < 50 {
        assert!(Instant::now() < deadline, "{refused} of 200 questions were refused");
        clients.retain_mut(|client| {
            let mut reply = [0; 100];
            // Replies are short, so each arrives as a whole.
            let Ok(len) = client.read(&mut reply) else { return true };
            let is_refusal = reply[..len] == *b"too many questions\n";
            assert!(is_refusal || reply[..len] == *b"why? 42.\n", "{:?}", &reply[..len]);
            refused += u32::from(is_refusal);
            false
        });
        std::thread::yield_now();
    }
    // Their replies come too late: no client waits for them.
    drop(clients);
}

fn per_worker_state_replies_from_its_cache(back_end: BackEnd) {
    let Some(example) = Example::start("per_worker_state", back_end) else { return };
    for seed in 1..=5 {
        let mut rng = Rng::new(seed);
        let mut pieces =
            if seed < 5 { Pieces::Random(Rng::new(seed), 30) } else { Pieces::ByteByByte };
        let numbers: Vec<_> = (0..200).map(|_| rng.pick(&[(27, 111), (1, 0), (97, 118)])).collect();
        let mut text: String = numbers.iter().map(|(number, _)| format!("{number}\n")).collect();
        text += "nonsense\n0\n4294967296\n";
        let heard = String::from_utf8(example.ask(text.as_bytes(), &mut pieces)).unwrap();
        // All on one link, so on one worker.
        let worker = if heard.contains("says worker 0\n") { 0 } else { 1 };
        let mut replies: String = numbers
            .iter()
            .map(|(number, steps)| format!("{number}: {steps} steps, says worker {worker}\n"))
            .collect();
        replies += &"a number from 1 to 4294967295, please\n".repeat(3);
        assert_same(heard.as_bytes(), replies.as_bytes(), &format!("seed {seed}"));
    }
    example.stop();
}
