//! Promise: clients that read nothing, however many, take nothing from other links: these get their
//! replies as before, newcomers are served, and memory does not grow.
//!
//! Method: 300 to 3,000 clients flood an echo server and read nothing, beside 50 that echo.
#![cfg(target_os = "linux")]
#![cfg(test)]

mod util;

use std::time::Duration;
use util::attack::Attack;
use util::{Case, bytes, each_back_end, echo};

each_back_end!(
    three_hundred_that_read_nothing_delay_no_other_link,
    a_thousand_that_read_nothing_delay_no_other_link,
    three_thousand_that_read_nothing_delay_no_other_link,
);

/// More than a link and its sockets can hold, with small receive windows.
const FLOOD: usize = 512 * 1024;

fn run(case: &Case, attackers: u32, shards: &[u32]) {
    let (sends, message) = (bytes(1, FLOOD), bytes(2, 64));
    let newcomers = &[(message.as_slice(), Duration::from_secs(2))];
    let attack = Attack { attackers, shards, sends: &sends, message: &message, newcomers };
    attack.run(case, echo);
}

fn three_hundred_that_read_nothing_delay_no_other_link(case: &Case) {
    run(case, 300, &[1, 8]);
}

fn a_thousand_that_read_nothing_delay_no_other_link(case: &Case) {
    run(case, 1_000, &[2]);
}

fn three_thousand_that_read_nothing_delay_no_other_link(case: &Case) {
    run(case, 3_000, &[3]);
}
