//! Promise: programs that keep to the interface lose nothing, never stand still, and are refused
//! nothing within their grant.
//!
//! Method: eleven small servers run in the model under random pieces, outputs of a few hundred bytes, and
//! clients that stop reading; each client knows every byte that it must hear.
#![cfg(test)]
#![expect(clippy::disallowed_types, reason = "programs share values between workers as they like")]

mod chat;
#[path = "../common/mod.rs"]
mod common;
mod database;
mod deferred;
mod download;
mod echo;
mod frames;
mod http;
mod keyvalue;
mod proxy;
mod push;
mod redis;

use common::{Check, SEEDS, find, is_over, small};
use wharf_model::{Client, Fault, Handler, Model, Rng};

/// Runs one client of `handler` for each seed, and checks what it hears. `talk` draws what it says, and
/// what it must hear.
pub(crate) fn check<H, S, W>(
    seeds: u64,
    handler: impl Fn() -> H,
    talk: impl Fn(&mut Rng) -> (Vec<u8>, Vec<u8>),
) where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    check_with(seeds, || (handler(), |_: &mut Rng| false), talk);
}

/// As [`check`], with a part of the program beside its handler.
pub(crate) fn check_with<H, S, W, O>(
    seeds: u64,
    start: impl Fn() -> (H, O),
    talk: impl Fn(&mut Rng) -> (Vec<u8>, Vec<u8>),
) where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
    O: FnMut(&mut Rng) -> bool,
{
    for seed in 1..=seeds {
        let mut rng = Rng::new(seed);
        let settings = small(&mut rng);
        let (handler, other) = start();
        let mut model = Model::new(handler, settings.clone());
        let buffers = model.free_buffers();
        let link = model.connect();
        let (text, expected) = talk(&mut rng);
        let ends = rng.once_in(2);
        let mut clients = [Client::new(link, text, ends)];
        wharf_model::run_with(&mut model, &mut clients, &mut rng, other);
        let (heard, view) = (&clients[0].heard, model.link(link));
        let (len, all) = (heard.len(), expected.len());
        assert!(*heard == expected, "seed {seed}: heard {len} of {all} bytes; {view:?}");
        assert!(view.unread_max <= settings.input_bytes, "seed {seed}: {view:?}");
        assert_eq!((view.refused, model.panics()), (0, 0), "seed {seed}: refused in the grant");
        assert!(!ends || is_over(view.end), "seed {seed}: {view:?}");
        let quiet = view.unread_bytes == 0 && view.unsent_bytes == 0;
        assert!(!quiet || model.free_buffers() == buffers, "seed {seed}: a buffer is missing");
        assert!(!quiet || model.lent().sum() == 0, "seed {seed}: a loan is left");
    }
}

const CHECKS: &[Check] = &[
    ("echo", echo::run),
    ("keyvalue", keyvalue::run),
    ("redis", redis::run),
    ("http", http::run),
    ("frames", frames::run),
    ("database", database::run),
    ("download", download::run),
    ("proxy", proxy::run),
    ("deferred", deferred::run),
    ("push", push::run),
    ("chat", chat::run),
];

#[test]
fn echo_loses_nothing() {
    echo::run(SEEDS);
}

#[test]
fn keyvalue_sends_replies_above_the_grant() {
    keyvalue::run(SEEDS);
}

#[test]
fn redis_pipelines_large_values() {
    redis::run(SEEDS);
}

#[test]
fn http_pipelines_until_it_closes() {
    http::run(SEEDS);
}

#[test]
fn frames_are_handled_in_batches() {
    frames::run(SEEDS);
}

#[test]
fn database_calls_come_again_in_the_pool_in_order() {
    database::run(SEEDS);
}

#[test]
fn download_sends_files_whole_and_one_after_the_other() {
    download::run(SEEDS);
}

#[test]
fn proxy_passes_both_directions_and_each_half_ends_by_itself() {
    proxy::run(SEEDS);
}

#[test]
fn deferred_replies_keep_their_order_and_outlast_a_half_close() {
    deferred::run(SEEDS);
}

#[test]
fn push_reaches_users_by_name_or_is_counted() {
    push::run(SEEDS);
}

#[test]
fn chat_goes_on_until_the_server_stops() {
    chat::run(SEEDS);
}

#[test]
fn planted_faults_are_found_by_programs() {
    let faults = [
        Fault::NoCallAfterTaking,
        Fault::NeverWritable,
        Fault::WaitsForOwnOutput,
        Fault::CloseDropsQueued,
        Fault::ReplyCallsNobody,
    ];
    find(&faults, CHECKS);
}
