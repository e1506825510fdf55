//! A fixed budget of seeds, in each workload, with and without panics of the handler; and the seeds
//! that once failed. `WHARF_SIM_SEEDS` raises the budget.

use wharf::sim::{FaultCounts, FaultKind};
use wharf_sim::plan::{Plan, Workload};
use wharf_sim::run::run;

fn seeds() -> u64 {
    std::env::var("WHARF_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

#[test]
fn under_faults_every_client_gets_what_was_promised() {
    let mut faults = FaultCounts::default();
    let (mut completions, mut completed, mut early) = (0, 0, 0);
    for workload in Workload::ALL {
        for seed in 0..seeds() {
            let report = run(&Plan::from_seed(seed, workload), None)
                .unwrap_or_else(|failure| panic!("{workload}: {failure}"));
            faults.merge(&report.faults);
            completions += report.completions;
            completed += report.clients_completed;
            early += report.clients_ended_early;
        }
    }
    println!(
        "{faults}{completions} completions, {completed} clients completed, {early} ended early"
    );
    assert!(completed > early, "too few clients complete for the run to mean anything");
    for kind in FaultKind::ALL {
        assert!(faults.of(kind) > 0, "{kind:?} was never injected");
    }
}

#[test]
fn a_panic_of_the_handler_costs_its_own_link() {
    let mut panics = 0;
    for workload in Workload::ALL {
        for seed in 0..seeds() / 3 {
            let plan = Plan::from_seed(seed, workload).with_panics();
            let report = run(&plan, None).unwrap_or_else(|failure| panic!("{workload}: {failure}"));
            panics += report.stats.handler_panics;
        }
    }
    assert!(panics > 50, "only {panics} panics");
}

#[test]
fn seeds_that_once_failed_do_not_fail_again() {
    let lines = include_str!("../regressions.txt").lines();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (workload, seed) = line.split_once(' ').unwrap();
        let plan = Plan::from_seed(seed.parse().unwrap(), workload.parse().unwrap());
        run(&plan, None).unwrap_or_else(|failure| panic!("{line}: {failure}"));
    }
}

#[test]
fn one_seed_is_one_run() {
    for workload in Workload::ALL {
        for seed in 0..5 {
            let [one, two] = [(); 2].map(|()| {
                let report = run(&Plan::from_seed(seed, workload), None).unwrap();
                (report.trace, report.steps, report.completions, report.time, report.faults)
            });
            assert_eq!(one, two, "{workload} seed {seed}");
        }
    }
}
