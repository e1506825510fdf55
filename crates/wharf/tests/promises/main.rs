//! The promises of a server, each file one; every test on both back ends, with real sockets.
//!
//! One program for all: they link once, and those that wait do so beside each other. What counts
//! allocations, or measures times beside thousands of clients, is a program of its own.
#![cfg(target_os = "linux")]
#![cfg(test)]

#[path = "../util/mod.rs"]
mod util;

mod back_pressure;
mod broadcast;
mod close;
mod deferred;
mod echo;
mod ends;
mod errors;
mod handle;
mod idle;
mod input;
mod large_message;
mod limits;
mod many_links;
mod order;
mod output;
mod panics;
mod pause;
mod pinned_posts;
mod posts;
mod recipients;
mod shares;
mod shutdown;
mod slow_readers;
mod start;
mod states;
mod stats;
mod what_came_before_a_reset;
mod who_reads_gets_all;
mod worker_context;
