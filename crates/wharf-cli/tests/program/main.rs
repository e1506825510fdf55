//! The program from outside, on both back ends: what it prints, answers and refuses, and how it ends.
//!
//! Each test starts the built binary on a port of the system's choice and reads the address from its
//! banner. Nothing sleeps for luck: all waits are for a condition, with a deadline.
//!
//! Whole outputs stand in `tests/snapshots`, with `[PLACEHOLDERS]` for what varies (`snapshot.rs`), so
//! that no word changes by accident. After a change on purpose, renew them with
//! `SNAPSHOTS=overwrite cargo test -p wharf-cli`, and read the difference before you commit it. Where
//! the variable `CI` is set they are only compared.
#![cfg(target_os = "linux")]
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "deadlines and the drain are in real time")]

mod apps;
mod clients;
mod common;
mod errors;
mod faults;
#[path = "../util/full_pipe.rs"]
mod full_pipe;
mod help;
mod screen;
mod shares;
#[path = "../../../wharf/tests/util/skip.rs"]
mod skip;
mod snapshot;
mod stop;
mod stuck;
mod terminal;
#[path = "../util/snapshot.rs"]
mod texts;
mod tmux;

/// Makes each function a test on io_uring and one on epoll.
macro_rules! each_back_end {
    ($($name:ident),+ $(,)?) => {
        mod uring { $(#[test] fn $name() { super::$name("uring"); })+ }
        mod epoll { $(#[test] fn $name() { super::$name("epoll"); })+ }
    };
}
use each_back_end;
