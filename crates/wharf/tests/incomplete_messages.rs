//! Promise: clients that hold incomplete messages, and read nothing, take nothing from others: those
//! are answered as before, newcomers are served, and whole messages go through.
//!
//! Method: a handler that leaves its input unread until a message is whole, 273 to 3,000 clients
//! that never complete one, and 50 beside them that echo.
#![cfg(target_os = "linux")]
#![cfg(test)]

mod util;

use std::time::Duration;
use util::attack::Attack;
use util::{Case, bytes, each_back_end};
use wharf::{Handler, Input, Link, Result};

each_back_end!(
    a_whole_message_behind_273_incomplete_ones_is_answered,
    three_hundred_incomplete_messages_harm_nobody,
    a_thousand_incomplete_messages_harm_nobody,
    three_thousand_incomplete_messages_harm_nobody,
    three_hundred_incomplete_messages_of_peers_that_do_not_read_harm_nobody,
    a_thousand_incomplete_messages_of_peers_that_do_not_read_harm_nobody,
);

/// Echoes messages that begin with their length (four bytes, little-endian, themselves counted).
struct Whole;

impl Handler for Whole {
    type Worker = ();
    type State = ();

    fn on_receive(&self, (): &mut (), _: &mut Link<'_, ()>, _: &[u8]) -> Result {
        unreachable!("on_input takes all")
    }

    fn on_input(&self, (): &mut (), link: &mut Link<'_, ()>, input: &mut Input<'_>) -> Result {
        let Ok(head) = first(input, 4).try_into() else {
            input.want(4);
            return Ok(());
        };
        let len = u32::from_le_bytes(head) as usize;
        if input.len() < len {
            input.want(len);
            return Ok(());
        }
        link.send(&first(input, len))?;
        input.consume(len);
        Ok(())
    }
}

/// The first `len` unread bytes, or all.
fn first(input: &Input<'_>, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    for chunk in input.chunks() {
        bytes.extend_from_slice(&chunk[..chunk.len().min(len - bytes.len())]);
        if bytes.len() == len {
            break;
        }
    }
    bytes
}

/// A message of so many bytes, its length included.
fn message(seed: u64, len: usize) -> Vec<u8> {
    let mut message = bytes(seed, len);
    message[..4].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
    message
}

const WHOLE: usize = 64 * 1024;
const SERVED_WITHIN: Duration = Duration::from_secs(2);

fn run(case: &Case, attackers: u32, shards: &[u32], whole_ones_before: usize) {
    let mut sends = Vec::new();
    // Answers that are not read hold output as well.
    for seed in 0..whole_ones_before {
        sends.extend(message(seed as u64, 16 * 1024));
    }
    sends.extend(&message(99, WHOLE)[..WHOLE - 1]);
    let message = message(2, 64);
    let newcomer = (message.as_slice(), SERVED_WITHIN);
    let attack = Attack { attackers, shards, sends: &sends, message: &message, newcomer };
    attack.run(case, || Whole);
}

fn a_whole_message_behind_273_incomplete_ones_is_answered(case: &Case) {
    let (whole, small) = (message(1, WHOLE), message(2, 64));
    let attack = Attack {
        attackers: 273,
        shards: &[1, 2, 3, 8],
        sends: &whole[..WHOLE - 1],
        message: &small,
        newcomer: (&whole, Duration::from_secs(3)),
    };
    attack.run(case, || Whole);
}

fn three_hundred_incomplete_messages_harm_nobody(case: &Case) {
    run(case, 300, &[1, 2, 3, 8], 0);
}

fn a_thousand_incomplete_messages_harm_nobody(case: &Case) {
    run(case, 1_000, &[1, 3], 0);
}

fn three_thousand_incomplete_messages_harm_nobody(case: &Case) {
    run(case, 3_000, &[2], 0);
}

fn three_hundred_incomplete_messages_of_peers_that_do_not_read_harm_nobody(case: &Case) {
    run(case, 300, &[1, 2, 3, 8], 12);
}

fn a_thousand_incomplete_messages_of_peers_that_do_not_read_harm_nobody(case: &Case) {
    run(case, 1_000, &[2], 12);
}
