//! The promises of a server, one a file; every test on both back ends, with real sockets.
//!
//! One program for all: one link time, and tests that wait run in parallel. Tests that count
//! allocations, or measure times beside thousands of clients, are programs of their own.
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
