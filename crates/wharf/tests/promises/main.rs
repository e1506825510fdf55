//! The promises of a server, one a file; every test on both back ends, with real sockets.
//!
//! One program for all: one link time, and tests that wait run in parallel. Tests that count
//! allocations, or measure times beside thousands of clients, are programs of their own.
#![cfg(target_os = "linux")]
#![cfg(test)]

#[path = "../util/mod.rs"]
mod util;

mod after_the_stop;
mod back_pressure;
mod blocked;
mod broadcast;
mod close;
mod deferred;
mod drops;
mod echo;
mod ends;
mod errors;
mod foreign_ids;
mod handle;
mod idle;
mod inherited_sockets;
mod input;
mod large_message;
mod large_states;
mod limits;
mod logs;
mod many_links;
mod order;
mod output;
mod packets;
mod panics;
mod pause;
mod pinned_posts;
mod posts;
mod process_pause;
mod proxy_protocol;
mod recipients;
mod shares;
mod shutdown;
mod slow_readers;
mod start;
mod start_back_end;
mod start_files;
mod start_listen;
mod start_memory;
mod start_settings;
mod start_signals;
mod states;
mod stats;
mod what_came_before_a_reset;
mod who_reads_gets_all;
mod worker_context;
