//! Promise: programs that keep to the interface lose nothing, never wait without end, and are refused
//! nothing within their grant.
//!
//! Method: thirteen small servers run in the model under random pieces, outputs of a few hundred bytes, and
//! clients that stop reading; each client checks every byte that it reads. The handlers are in
//! `handlers/`, the clients' texts in `talks.rs`: the engine runs the same ones in `tests/same_bytes/`.
#![cfg(test)]
#![expect(clippy::disallowed_types, reason = "programs share values between workers as they like")]

mod chat;
#[path = "../common/mod.rs"]
mod common;
mod database;
mod handlers;
mod proxy;
mod push;
mod talks;

use common::{Check, SEEDS, find, small};
use handlers::{deferred, download, echo, frames, http, keyvalue, patient, redis, stream};
use talks::Talk;
use wharf_model as api;
use wharf_model::{Client, Handler, LinkEnd, Model, ModelBug, Rng};

/// Runs one client of `handler` for each seed, and checks what it reads.
pub(crate) fn check<H, S, W>(
    seeds: u64,
    handler: impl Fn() -> H,
    talk: impl Fn(&mut Rng, &str) -> Talk,
) where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    check_with(seeds, |_| (handler(), |_: &mut Rng| false), talk);
}

/// As [`check`], with a part of the program beside its handler.
pub(crate) fn check_with<H, S, W, O>(
    seeds: u64,
    start: impl Fn(u64) -> (H, O),
    talk: impl Fn(&mut Rng, &str) -> Talk,
) where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
    O: FnMut(&mut Rng) -> bool,
{
    for seed in 1..=seeds {
        let mut rng = Rng::new(seed);
        let settings = small(&mut rng);
        let (handler, other) = start(seed);
        let mut model = Model::new(handler, settings.clone());
        let buffers = model.free_buffers();
        let link = model.connect();
        let Talk { text, expected, reason, must_finish } = talk(&mut rng, "a");
        let ends = rng.once_in(2) || must_finish;
        let mut clients = [Client::new(link, text, ends)];
        wharf_model::run_with(&mut model, &mut clients, &mut rng, other);
        let (heard, view) = (&clients[0].heard, model.link(link));
        let (len, all) = (heard.len(), expected.len());
        assert!(*heard == expected, "seed {seed}: heard {len} of {all} bytes; {view:?}");
        assert!(view.unread_max <= settings.input_bytes, "seed {seed}: {view:?}");
        let refused = u32::from(reason == "output_full");
        assert_eq!(
            (view.refused, model.panics()),
            (refused, 0),
            "seed {seed}: refused in the grant"
        );
        match view.end {
            LinkEnd::Over(end) => assert_eq!(end.name(), reason, "seed {seed}"),
            _ => assert!(!ends && reason == talks::PEER_CLOSED, "seed {seed}: {view:?}"),
        }
        let quiet = view.unread_bytes == 0 && view.unsent_bytes == 0;
        assert!(!quiet || model.free_buffers() == buffers, "seed {seed}: a buffer is missing");
        assert!(!quiet || model.lent().sum() == 0, "seed {seed}: a loan is left");
    }
}

/// The checks of one program with one client.
mod one_client {
    use super::*;

    pub(super) fn echo(seeds: u64) {
        check(seeds, || echo::Echo, talks::echo);
    }

    pub(super) fn keyvalue(seeds: u64) {
        check(seeds, keyvalue::Store::default, talks::keyvalue);
    }

    pub(super) fn redis(seeds: u64) {
        check(seeds, redis::Store::default, talks::redis);
    }

    pub(super) fn http(seeds: u64) {
        check(seeds, || http::Hello, talks::http);
    }

    pub(super) fn frames(seeds: u64) {
        check(seeds, || frames::Notes, talks::frames);
    }

    pub(super) fn download(seeds: u64) {
        let files = talks::files();
        let start = || download::Files(files.clone());
        check(seeds, start, |rng, _| talks::download(rng, &files));
    }

    pub(super) fn stream(seeds: u64) {
        check(seeds, || stream::Stream, talks::stream);
    }

    pub(super) fn patient(seeds: u64) {
        check(seeds, || patient::Patient, talks::lines);
    }

    pub(super) fn deferred(seeds: u64) {
        let never = |text: &str| text.lines().any(|line| line == "never");
        let start = |seed| {
            let (oracle, mut answers) = deferred::Oracle::new(1, seed);
            let mut now_ms = 0;
            let other = move |rng: &mut Rng| {
                now_ms += rng.below(40) as u64;
                answers.go_on(now_ms) == Some(now_ms)
            };
            (oracle, other)
        };
        // The clock does not advance, so a missing call or loan would be waited for indefinitely.
        let talk = |rng: &mut Rng, name: &str| loop {
            let talk = talks::deferred(rng, name);
            if !never(str::from_utf8(&talk.text).unwrap()) {
                return talk;
            }
        };
        check_with(seeds, start, talk);
    }
}

const CHECKS: &[Check] = &[
    ("echo", one_client::echo),
    ("keyvalue", one_client::keyvalue),
    ("redis", one_client::redis),
    ("http", one_client::http),
    ("frames", one_client::frames),
    ("database", database::run),
    ("download", one_client::download),
    ("proxy", proxy::run),
    ("stream", one_client::stream),
    ("patient", one_client::patient),
    ("deferred", one_client::deferred),
    ("push", push::run),
    ("chat", chat::run),
];

#[test]
fn echo_loses_nothing() {
    one_client::echo(SEEDS);
}

#[test]
fn keyvalue_sends_replies_above_the_grant() {
    one_client::keyvalue(SEEDS);
}

#[test]
fn redis_pipelines_large_values() {
    one_client::redis(SEEDS);
}

#[test]
fn http_pipelines_until_it_closes() {
    one_client::http(SEEDS);
}

#[test]
fn frames_are_handled_in_batches() {
    one_client::frames(SEEDS);
}

#[test]
fn database_calls_come_again_in_the_pool_in_order() {
    database::run(SEEDS);
}

#[test]
fn download_sends_files_whole_and_one_after_the_other() {
    one_client::download(SEEDS);
}

#[test]
fn stream_goes_on_after_the_peers_half_has_ended() {
    one_client::stream(SEEDS);
}

#[test]
fn patient_is_called_when_more_may_be_queued() {
    one_client::patient(SEEDS);
}

#[test]
fn proxy_passes_both_directions_and_each_half_ends_by_itself() {
    proxy::run(SEEDS);
}

#[test]
fn deferred_replies_keep_their_order_and_outlast_a_half_close() {
    one_client::deferred(SEEDS);
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
fn planted_bugs_are_found_by_programs() {
    let bugs = [
        ModelBug::NoCallAfterTaking,
        ModelBug::NeverWritable,
        ModelBug::WaitsForOwnOutput,
        ModelBug::CloseDropsQueued,
        ModelBug::ReplyCausesNoCall,
    ];
    find(&bugs, CHECKS);
}
