//! Promise: clients that hold incomplete messages, and read nothing, take nothing from other links:
//! these get their replies as before, newcomers are served, and whole messages get their loans.
//!
//! Method: a handler that leaves its input unread until a message is complete, 300 to 3,000 clients
//! that never complete one, and 50 beside them that echo.
#![cfg(target_os = "linux")]
#![cfg(test)]

mod util;

use std::io::Write;
use std::time::Duration;
use util::attack::Attack;
use util::{
    Case, PATIENCE, TestServer, bytes, each_back_end, eventually, expect_bytes, finish, now,
    on_receive, within,
};
use wharf::DisconnectReason::Limit;
use wharf::{Handler, Input, LengthPrefix, Link, Result};

each_back_end!(
    a_megabyte_that_comes_in_small_pieces_comes_whole,
    a_link_that_leaves_its_input_and_asks_for_nothing_stops_no_other,
    a_message_that_begins_in_a_consumed_buffer_finds_its_loan,
    three_hundred_incomplete_messages_delay_no_other_link,
    a_thousand_incomplete_messages_delay_no_other_link,
    three_thousand_incomplete_messages_delay_no_other_link,
    three_hundred_incomplete_messages_of_peers_that_do_not_read_delay_no_other_link,
    a_thousand_incomplete_messages_of_peers_that_do_not_read_delay_no_other_link,
    three_thousand_incomplete_messages_of_peers_that_do_not_read_delay_no_other_link,
);

/// Echoes messages that begin with their length: four bytes, little-endian, which count as well.
struct Whole;

const FRAMES: LengthPrefix =
    LengthPrefix::new(4, 1 << 20).little_endian().adjustment(-4).with_header();

impl Handler for Whole {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let Some(message) = input.frame(FRAMES)? else { return Ok(()) };
        if link.out.ensure(message.len())? {
            link.out.send(message)?;
        } else {
            input.rewind();
        }
        Ok(())
    }
}

/// A message of `len` bytes, with its length.
fn message(seed: u64, len: usize) -> Vec<u8> {
    let mut message = bytes(seed, len);
    message[..4].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
    message
}

const WHOLE: usize = 64 * 1024;

/// Waits for as many bytes as a link can hold, without asking for them.
struct Waits;

impl Handler for Waits {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        if input.len() == WHOLE {
            input.consume(WHOLE);
            link.out.send("whole")?;
        }
        Ok(())
    }
}

/// Each link holds what it borrowed before its handler asked for anything; a later link waits for
/// `loan_wait`, and not indefinitely.
fn a_link_that_leaves_its_input_and_asks_for_nothing_stops_no_other(case: &Case) {
    let _deadline = within(Duration::from_mins(1));
    let builder = case.builder(Waits).links_max(16).buffer_count(400);
    let server = TestServer::start(builder.loan_wait(Duration::from_millis(300)));
    let data = bytes(1, WHOLE);
    let mut holders: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for holder in &mut holders {
        holder.write_all(&data[..WHOLE - 1]).unwrap();
    }
    eventually(
        || server.stats().received_bytes > 4 * WHOLE as u64,
        "they hold all that can be lent",
    );
    let mut other = server.connect();
    other.write_all(&data).unwrap();
    expect_bytes(&mut other, b"whole");
    assert!(server.stats().loans_revoked > 0, "{:?}", server.stats());
    drop((holders, other));
    server.stop();
}

/// On the smallest shard, beside a link that has borrowed all that is lent without a request.
fn a_message_that_begins_in_a_consumed_buffer_finds_its_loan(case: &Case) {
    const FRAMES: LengthPrefix = LengthPrefix::new(4, WHOLE - 4);
    let handler = on_receive(|link, input| {
        if input.chunk().first() == Some(&b'-') {
            return Ok(());
        }
        if let Some(frame) = input.frame(FRAMES)? {
            let len = frame.len();
            writeln!(link.out, "{len}")?;
        }
        Ok(())
    });
    let _deadline = within(Duration::from_mins(1));
    let builder = case.builder(handler).links_max(4).buffer_count(298);
    let server = TestServer::start(builder.loan_wait(Duration::from_secs(20)));
    let mut holder = server.connect();
    holder.write_all(&[b'-'; 8_000]).unwrap();
    eventually(
        || server.stats().received_bytes >= 6_000,
        "it holds all that is lent without a request",
    );
    let mut other = server.connect();
    let mut frames = Vec::new();
    for len in [100, WHOLE - 4] {
        frames.extend(u32::try_from(len).unwrap().to_be_bytes());
        frames.extend(vec![1; len]);
    }
    other.write_all(&frames).unwrap();
    expect_bytes(&mut other, format!("100\n{}\n", WHOLE - 4).as_bytes());
    assert_eq!(server.stats().loans_revoked, 0, "{:?}", server.stats());
    drop((holder, other));
    server.stop();
}

/// The bytes of one Ethernet segment. Each arrives in a buffer of its own: 725 buffers, if none
/// were merged, where the link can have 512.
fn a_megabyte_that_comes_in_small_pieces_comes_whole(case: &Case) {
    const PIECE: usize = 1_448;
    let _deadline = within(Duration::from_mins(1));
    let message = message(1, 1 << 20);
    for shards in [4, 8] {
        let builder = case.builder(Whole).shards(shards).input_bytes(1 << 20).output_bytes(2 << 20);
        let server = TestServer::start(builder);
        let mut stream = server.connect();
        let mut sent = 0;
        for piece in message.chunks(PIECE) {
            stream.write_all(piece).unwrap();
            sent += piece.len() as u64;
            let end = now() + PATIENCE;
            loop {
                let stats = server.stats();
                let told = format!("{sent} bytes on {shards} shards: {stats:?}");
                assert!(now() < end && stats.closed(Limit) == 0, "{told}");
                if stats.received_bytes == sent {
                    break;
                }
                std::thread::yield_now();
            }
        }
        expect_bytes(&mut stream, &message);
        finish(&mut stream);
        let stats = server.stop();
        assert_eq!(
            (stats.closed(Limit), stats.loans_revoked),
            (0, 0),
            "{shards} shards: {stats:?}"
        );
    }
}

fn run(case: &Case, attackers: u32, shards: &[u32], whole_ones_before: usize) {
    let mut sends = Vec::new();
    // Replies that are not read hold output buffers as well.
    for seed in 0..whole_ones_before {
        sends.extend(message(seed as u64, 16 * 1024));
    }
    sends.extend(&message(99, WHOLE)[..WHOLE - 1]);
    let (small, whole) = (message(2, 64), message(1, WHOLE));
    let newcomers =
        [(small.as_slice(), Duration::from_secs(2)), (whole.as_slice(), Duration::from_secs(3))];
    // A whole message waits behind earlier ones.
    let newcomers = if attackers <= 300 { &newcomers } else { &newcomers[..1] };
    let attack = Attack { attackers, shards, sends: &sends, message: &small, newcomers };
    attack.run(case, || Whole);
}

fn three_hundred_incomplete_messages_delay_no_other_link(case: &Case) {
    run(case, 300, &[1, 8], 0);
}

fn a_thousand_incomplete_messages_delay_no_other_link(case: &Case) {
    run(case, 1_000, &[3], 0);
}

fn three_thousand_incomplete_messages_delay_no_other_link(case: &Case) {
    run(case, 3_000, &[2], 0);
}

fn three_hundred_incomplete_messages_of_peers_that_do_not_read_delay_no_other_link(case: &Case) {
    run(case, 300, &[2], 12);
}

fn a_thousand_incomplete_messages_of_peers_that_do_not_read_delay_no_other_link(case: &Case) {
    run(case, 1_000, &[1], 12);
}

fn three_thousand_incomplete_messages_of_peers_that_do_not_read_delay_no_other_link(case: &Case) {
    run(case, 3_000, &[8], 12);
}
