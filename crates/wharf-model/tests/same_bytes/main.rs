//! Promise: the engine and the model run the same programs, and their clients get the same bytes.
//!
//! Method: a seed draws what the clients say, in which pieces, and when they do not read. Its program
//! runs on the engine's simulated port and in the model. Each client must get what the program says, byte
//! by byte, in both; no link is closed but by its peer. Nothing is injected that breaks a connection.
#![cfg(test)]
#![expect(clippy::disallowed_types, reason = "the engine's handler notes why links end")]

mod engine;
mod model;
mod plan;
mod program;

use plan::{Outputs, Plan};
use program::Program;
use std::collections::BTreeMap;

/// What became of the clients of one run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// What each client got.
    pub(crate) heard: Vec<Vec<u8>>,
    /// Why each link ended, by the number of its client.
    pub(crate) reasons: BTreeMap<usize, &'static str>,
    /// What the run found wrong by itself.
    pub(crate) failure: Option<String>,
}

fn compare(program: Program, outputs: Outputs) {
    let mut failed = Vec::new();
    for seed in 0..SEEDS {
        let plan = Plan::new(program, outputs, seed);
        let outcomes = [("engine", engine::run(&plan)), ("model", model::run(&plan))];
        for (name, outcome) in &outcomes {
            if let Err(what) = check(&plan, outcome) {
                failed.push(format!("seed {seed}, {name}: {what}"));
            }
        }
        let [(_, engine), (_, model)] = &outcomes;
        if failed.is_empty() {
            assert_eq!(engine, model, "seed {seed}");
        }
    }
    assert!(failed.is_empty(), "{} failures, {}", failed.len(), failed.join("\n"));
}

/// Whether each client got what the program says, and was closed by its peer.
fn check(plan: &Plan, outcome: &Outcome) -> Result<(), String> {
    if let Some(failure) = &outcome.failure {
        return Err(failure.clone());
    }
    for (number, client) in plan.clients.iter().enumerate() {
        let (heard, expected) = (&outcome.heard[number], &client.expected);
        if heard != expected {
            let same = heard.iter().zip(expected).take_while(|(one, other)| one == other).count();
            let (len, all) = (heard.len(), expected.len());
            let reason = outcome.reasons.get(&number);
            return Err(format!(
                "client {number} got {len} of {all} bytes, {same} of them right, ended by {reason:?}"
            ));
        }
        let reason = outcome.reasons.get(&number);
        if reason != Some(&"peer_closed") {
            return Err(format!("client {number} ended by {reason:?}"));
        }
    }
    Ok(())
}

#[test]
fn echo_shows_the_same_bytes() {
    compare(Program::Echo, Outputs::Roomy);
}

#[test]
fn messages_of_many_buffers_show_the_same_bytes() {
    compare(Program::Messages, Outputs::Roomy);
}

#[test]
fn reversed_messages_of_many_buffers_show_the_same_bytes() {
    compare(Program::Reversed, Outputs::Roomy);
}

#[test]
fn echo_through_a_tight_output_shows_the_same_bytes() {
    compare(Program::Echo, Outputs::Tight);
}

#[test]
fn messages_through_a_tight_output_show_the_same_bytes() {
    compare(Program::Messages, Outputs::Tight);
}

#[test]
fn reversed_messages_through_a_tight_output_show_the_same_bytes() {
    compare(Program::Reversed, Outputs::Tight);
}

const SEEDS: u64 = 40;
