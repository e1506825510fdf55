//! The simulated port keeps its promises under every fault, a seed determines the run, and the
//! tests find each planted bug.
//!
//! The method: a minimal echo server ([`rig`]) under random faults for each seed, and a check of
//! every byte.

mod bugs;
mod provided;
mod rig;
mod shards;
mod speed;

use super::*;
use rig::{Plan, run};

/// The number of seeds: 300, or `WHARF_SIM_SEEDS`.
fn seeds() -> u64 {
    std::env::var("WHARF_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

#[test]
fn without_faults_every_byte_comes_back() {
    let rig = run(Plan::without_faults(1)).unwrap();
    assert!(rig.completed > 50, "{}", rig.completed);
    assert_eq!(rig.world.fault_counts().total(), 0);
}

#[test]
fn under_faults_no_byte_is_lost_or_altered_and_all_buffers_are_released() {
    let mut counts = FaultCounts::default();
    let (mut completed, mut clients, mut whole) = (0, 0, 0);
    for seed in 0..seeds() {
        let plan = Plan::with_faults(seed);
        clients += plan.clients;
        match run(plan) {
            Ok(rig) => {
                completed += rig.completed;
                whole += rig.whole;
                counts.merge(&rig.world.fault_counts());
            }
            Err(fault) => panic!("seed {seed}: {fault}"),
        }
    }
    println!("{} seeds, {completed} completions, {} faults:", seeds(), counts.total());
    println!("{counts}{whole} of {clients} clients got all of their text back");
    assert!(whole * 2 > clients, "too few clients got their text for the run to be a test");
    for kind in FaultKind::ALL {
        assert!(counts.of(kind) > 0, "{kind:?} was never injected");
    }
}

#[test]
fn one_seed_is_one_run() {
    let mut traces = Vec::new();
    for seed in 0..20 {
        let [one, two] = [(); 2].map(|()| {
            let rig = run(Plan::with_faults(seed)).unwrap();
            (rig.world.trace(), rig.completed, rig.world.now(), rig.world.fault_counts())
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
        let plan = Plan { fail_acquire: number, ..Plan::without_faults(2) };
        let rig = run(plan).unwrap_or_else(|fault| panic!("acquire {number}: {fault}"));
        if rig.fail_acquire_left > 0 {
            break;
        }
        failed = number;
    }
    assert!(failed > 20, "only {failed} acquires");
}

#[test]
fn a_reset_may_come_at_any_step() {
    let mut tried = 0;
    for step in 0.. {
        let mut plan = Plan::without_faults(3);
        plan.world.faults.reset_at_step = Some(step);
        plan.world.faults.latency_ns = 1000;
        let rig = run(plan).unwrap_or_else(|fault| panic!("reset at step {step}: {fault}"));
        if rig.world.fault_counts().of(FaultKind::Reset) == 0 {
            break;
        }
        tried = step;
    }
    assert!(tried > 20, "only {tried} steps");
}
