//! Promise: the engine and the model run the same programs, and their clients get the same bytes, and their
//! links end for the same reasons.
//!
//! Method: a seed draws what the clients send, in which pieces, and when they do not read. Its program, of
//! which there is one source for both, runs in the model, and on the engine's simulated ports with 1, 2 and
//! 3 shards. Nothing is injected that breaks a connection. Where posts may be skipped, runs are compared if
//! neither side has skipped any. Each comparison is shown to fail, by a planted bug on either side.
#![cfg(test)]
#![expect(clippy::disallowed_types, reason = "programs share values between workers as they like")]
#![expect(clippy::duplicate_mod, reason = "one source of the handlers is compiled for each side")]

mod engine;
mod model;
mod plan;
#[path = "../programs/talks.rs"]
mod talks;

use plan::{Buffers, Plan, Program};
use std::collections::BTreeMap;
use wharf::sim::EngineBug;
use wharf_model::ModelBug;

/// The results of one run's clients.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// What each client got, as far as the program determines it.
    pub(crate) heard: Vec<Vec<u8>>,
    /// Why each link ended, by the number of its client.
    pub(crate) reasons: BTreeMap<usize, &'static str>,
    /// Posts that were skipped.
    pub(crate) missed: u64,
    /// What the run found wrong by itself.
    pub(crate) failure: Option<String>,
}

/// A difference, or that there is none: whether the bytes could be compared.
type Compared = Result<bool, String>;

/// Compares what both sides show.
fn compare(plan: &Plan, engine: &Outcome, model: &Outcome) -> Compared {
    if let Some(failure) = &engine.failure {
        return Err(failure.clone());
    }
    if engine.missed + model.missed > 0 {
        return Ok(false);
    }
    for (number, client) in plan.clients.iter().enumerate() {
        let sides = [("engine", engine), ("model", model)];
        for (name, outcome) in sides {
            let (heard, expected) = (&outcome.heard[number], &client.expected);
            let reason = outcome.reasons.get(&number);
            let same = heard.iter().zip(expected).take_while(|(one, other)| one == other).count();
            let (len, all) = (heard.len(), expected.len());
            if heard != expected {
                return Err(format!(
                    "{name}: client {number} got {len} of {all} bytes, {same} of them right, ended by {reason:?}"
                ));
            }
        }
        let [engine, model] = sides.map(|(_, outcome)| outcome.reasons.get(&number));
        if engine != model || model != Some(&client.reason) {
            let reason = client.reason;
            return Err(format!(
                "client {number}: ended by {engine:?} on the engine, {model:?} in the model, not {reason}"
            ));
        }
    }
    Ok(true)
}

/// Runs the seeds of a program on both sides.
fn check(program: Program) {
    check_plans(program, |seed| Plan::new(program, seed));
}

fn check_plans(program: Program, plan: impl Fn(u64) -> Plan) {
    let (mut failed, mut compared) = (Vec::new(), 0);
    for seed in 0..SEEDS {
        let plan = plan(seed);
        let model = model::run(&plan);
        for shards in 1..=SHARDS_MAX {
            let engine = engine::run(&plan, shards, None);
            match compare(&plan, &engine, &model) {
                Ok(is_compared) => compared += u64::from(is_compared),
                Err(what) => failed.push(format!("seed {seed}, {shards} shards, {what}")),
            }
        }
    }
    let count = failed.len();
    assert!(failed.is_empty(), "{program:?}: {count} failures\n{}", failed.join("\n"));
    let all = SEEDS * SHARDS_MAX as u64;
    println!("{program:?}: {compared} of {all} runs compared");
    let skips = matches!(program, Program::Push | Program::Room);
    assert!(compared == all || (skips && compared >= all / 3), "{compared} of {all} compared");
}

/// A planted bug of the model makes the comparison fail.
fn finds_in_model(program: Program, bug: ModelBug) {
    let is_found = |seed| {
        let plan = Plan::new(program, seed);
        let model = bug.plant(|| model::run(&plan));
        compare(&plan, &engine::run(&plan, 1, None), &model).is_err()
    };
    assert!((0..BUG_SEEDS).any(is_found), "{program:?} does not find {bug:?} in the model");
}

/// A planted bug of the engine makes the comparison fail, by other bytes or by the engine's own checks.
fn finds_in_engine(program: Program, bug: EngineBug) {
    let is_found = |seed| {
        let plan = Plan::new(program, seed);
        compare(&plan, &engine::run(&plan, 2, Some(bug)), &model::run(&plan)).is_err()
    };
    assert!((0..BUG_SEEDS).any(is_found), "{program:?} does not find {bug:?} in the engine");
}

#[test]
fn echo_shows_the_same_bytes() {
    check(Program::Echo);
}

#[test]
fn messages_of_many_buffers_show_the_same_bytes() {
    check(Program::Messages);
}

#[test]
fn messages_of_many_buffers_show_the_same_bytes_with_the_fewest_buffers() {
    let fewest = |seed| Plan { buffers: Buffers::Scarce(0), ..Plan::new(Program::Messages, seed) };
    check_plans(Program::Messages, fewest);
}

#[test]
fn keyvalue_shows_the_same_bytes() {
    check(Program::Keyvalue);
}

#[test]
fn frames_show_the_same_bytes() {
    check(Program::Frames);
}

#[test]
fn http_shows_the_same_bytes() {
    check(Program::Http);
}

#[test]
fn redis_shows_the_same_bytes() {
    check(Program::Redis);
}

#[test]
fn download_shows_the_same_bytes() {
    check(Program::Download);
}

#[test]
fn stream_shows_the_same_bytes() {
    check(Program::Stream);
}

#[test]
fn patient_shows_the_same_bytes() {
    check(Program::Patient);
}

#[test]
fn paused_shows_the_same_bytes() {
    check(Program::Paused);
}

#[test]
fn deferred_shows_the_same_bytes() {
    check(Program::Deferred);
}

#[test]
fn push_shows_the_same_bytes() {
    check(Program::Push);
}

#[test]
fn room_shows_the_same_bytes() {
    check(Program::Room);
}

#[test]
fn each_comparison_finds_a_bug_of_the_model() {
    finds_in_model(Program::Echo, ModelBug::CloseDropsQueued);
    finds_in_model(Program::Messages, ModelBug::NeverWritable);
    finds_in_model(Program::Keyvalue, ModelBug::NoCallAfterTaking);
    finds_in_model(Program::Keyvalue, ModelBug::FullBlamesPeer);
    finds_in_model(Program::Frames, ModelBug::CloseDropsQueued);
    finds_in_model(Program::Http, ModelBug::CloseDropsQueued);
    finds_in_model(Program::Redis, ModelBug::NeverWritable);
    finds_in_model(Program::Download, ModelBug::NeverWritable);
    finds_in_model(Program::Stream, ModelBug::NeverWritable);
    finds_in_model(Program::Patient, ModelBug::CapacityCausesNoCall);
    finds_in_model(Program::Paused, ModelBug::CloseDropsQueued);
    finds_in_model(Program::Deferred, ModelBug::ReplyCausesNoCall);
    finds_in_model(Program::Deferred, ModelBug::DroppedReplyIsNone);
    finds_in_model(Program::Deferred, ModelBug::DeferralLeavesInput);
    finds_in_model(Program::Push, ModelBug::CloseDropsQueued);
    finds_in_model(Program::Room, ModelBug::NoCallAfterTaking);
}

#[test]
fn each_comparison_finds_a_bug_of_the_engine() {
    finds_in_engine(Program::Echo, EngineBug::LoseRest);
    finds_in_engine(Program::Messages, EngineBug::ForgetUnread);
    finds_in_engine(Program::Keyvalue, EngineBug::FullBlamesPeer);
    finds_in_engine(Program::Frames, EngineBug::IgnoresTake);
    finds_in_engine(Program::Http, EngineBug::ForgetClose);
    finds_in_engine(Program::Redis, EngineBug::LoseRest);
    finds_in_engine(Program::Download, EngineBug::NeverWritable);
    finds_in_engine(Program::Stream, EngineBug::NeverWritable);
    finds_in_engine(Program::Patient, EngineBug::ForgetUnread);
    finds_in_engine(Program::Paused, EngineBug::CallWhilePaused);
    finds_in_engine(Program::Deferred, EngineBug::CallWhileDeferred);
    finds_in_engine(Program::Push, EngineBug::ForgetSend);
    finds_in_engine(Program::Room, EngineBug::BroadcastToSender);
}

/// Seeds of each program.
const SEEDS: u64 = 100;
/// Seeds with which a planted bug must be found.
const BUG_SEEDS: u64 = 40;
const SHARDS_MAX: usize = 3;
