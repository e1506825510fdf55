//! The simulated port keeps its promises under every fault, one seed is one run, and each planted
//! fault is found.
//!
//! The method: an echo server of the simplest kind ([`rig`]) under faults that are drawn anew for
//! each seed, with an oracle that knows every byte.

mod plants;
mod rig;
mod shards;
mod speed;
mod window;

use super::*;
use rig::{Plan, run};

/// As many seeds as a test run can spare; more by `WHARF_SIM_SEEDS`.
fn seeds() -> u64 {
    std::env::var("WHARF_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

#[test]
fn without_faults_every_byte_comes_back() {
    let rig = run(Plan::calm(1)).unwrap();
    assert!(rig.completed > 50, "{}", rig.completed);
    assert_eq!(rig.world.counts().total(), 0);
}

#[test]
fn under_faults_no_byte_is_lost_or_altered_and_all_buffers_are_released() {
    let mut counts = FaultCounts::default();
    let (mut completed, mut clients, mut whole) = (0, 0, 0);
    for seed in 0..seeds() {
        let plan = Plan::stormy(seed);
        clients += plan.clients;
        match run(plan) {
            Ok(rig) => {
                completed += rig.completed;
                whole += rig.whole;
                counts.merge(&rig.world.counts());
            }
            Err(fault) => panic!("seed {seed}: {fault}"),
        }
    }
    println!("{} seeds, {completed} completions, {} faults:", seeds(), counts.total());
    println!("{counts}{whole} of {clients} clients got all of their text back");
    assert!(whole * 2 > clients, "too few live for the run to mean anything");
    for kind in FaultKind::ALL {
        assert!(counts.of(kind) > 0, "{kind:?} never struck");
    }
}

#[test]
fn one_seed_is_one_run() {
    let mut traces = Vec::new();
    for seed in 0..20 {
        let [one, two] = [(); 2].map(|()| {
            let rig = run(Plan::stormy(seed)).unwrap();
            (rig.world.trace(), rig.completed, rig.world.now(), rig.world.counts())
        });
        assert_eq!(one, two, "seed {seed}");
        traces.push(one.0);
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 20, "other seeds, other runs");
}

#[test]
fn any_one_acquire_may_fail() {
    let mut failed = 0;
    for number in 1.. {
        let plan = Plan { fail_take: number, ..Plan::calm(2) };
        let rig = run(plan).unwrap_or_else(|fault| panic!("take {number}: {fault}"));
        if rig.fail_take_left > 0 {
            break;
        }
        failed = number;
    }
    assert!(failed > 20, "only {failed} takes");
}

#[test]
fn a_reset_may_come_at_any_step() {
    let mut tried = 0;
    for step in 0.. {
        let mut plan = Plan::calm(3);
        plan.world.faults.reset_at_step = Some(step);
        plan.world.faults.latency_ns = 1000;
        let rig = run(plan).unwrap_or_else(|fault| panic!("reset at step {step}: {fault}"));
        if rig.world.counts().of(FaultKind::Reset) == 0 {
            break;
        }
        tried = step;
    }
    assert!(tried > 20, "only {tried} steps");
}
