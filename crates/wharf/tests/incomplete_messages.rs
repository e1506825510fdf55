//! Promise: clients that hold incomplete messages, and read nothing, take nothing from others: those
//! are answered as before, newcomers are served, and whole messages go through.
//!
//! Method: a handler that leaves its input unread until a message is whole, 300 to 3,000 clients
//! that never complete one, and 50 beside them that echo.
#![cfg(target_os = "linux")]
#![cfg(test)]

mod util;

use std::io::Write;
use std::time::Duration;
use util::attack::Attack;
use util::{Case, PATIENCE, TestServer, bytes, each_back_end, expect_bytes, finish, now, within};
use wharf::DisconnectReason::Limit;
use wharf::{Handler, Input, LengthPrefix, Link, Result};

each_back_end!(
    a_megabyte_that_comes_in_small_pieces_comes_whole,
    three_hundred_incomplete_messages_harm_nobody,
    a_thousand_incomplete_messages_harm_nobody,
    three_thousand_incomplete_messages_harm_nobody,
    three_hundred_incomplete_messages_of_peers_that_do_not_read_harm_nobody,
    a_thousand_incomplete_messages_of_peers_that_do_not_read_harm_nobody,
    three_thousand_incomplete_messages_of_peers_that_do_not_read_harm_nobody,
);

/// Echoes messages that begin with their length (four bytes, little-endian, themselves counted).
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

/// A message of so many bytes, its length included.
fn message(seed: u64, len: usize) -> Vec<u8> {
    let mut message = bytes(seed, len);
    message[..4].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
    message
}

const WHOLE: usize = 64 * 1024;

/// What one segment on an Ethernet carries. Each comes in a buffer of its own: 725 buffers, if that
/// were all that is in them, where the link can have 512.
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
    // Answers that are not read hold output as well.
    for seed in 0..whole_ones_before {
        sends.extend(message(seed as u64, 16 * 1024));
    }
    sends.extend(&message(99, WHOLE)[..WHOLE - 1]);
    let (small, whole) = (message(2, 64), message(1, WHOLE));
    let newcomers =
        [(small.as_slice(), Duration::from_secs(2)), (whole.as_slice(), Duration::from_secs(3))];
    // A whole message waits behind those that came before it.
    let newcomers = if attackers <= 300 { &newcomers } else { &newcomers[..1] };
    let attack = Attack { attackers, shards, sends: &sends, message: &small, newcomers };
    attack.run(case, || Whole);
}

fn three_hundred_incomplete_messages_harm_nobody(case: &Case) {
    run(case, 300, &[1, 2, 3, 8], 0);
}

fn a_thousand_incomplete_messages_harm_nobody(case: &Case) {
    run(case, 1_000, &[1, 2, 3, 8], 0);
}

fn three_thousand_incomplete_messages_harm_nobody(case: &Case) {
    run(case, 3_000, &[1, 2, 3, 8], 0);
}

fn three_hundred_incomplete_messages_of_peers_that_do_not_read_harm_nobody(case: &Case) {
    run(case, 300, &[1, 2, 3, 8], 12);
}

fn a_thousand_incomplete_messages_of_peers_that_do_not_read_harm_nobody(case: &Case) {
    run(case, 1_000, &[1, 2, 3, 8], 12);
}

fn three_thousand_incomplete_messages_of_peers_that_do_not_read_harm_nobody(case: &Case) {
    run(case, 3_000, &[1, 2, 3, 8], 12);
}
