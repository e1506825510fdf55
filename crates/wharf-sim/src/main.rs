//! The program: runs seeds, and prints violations.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program prints")]

use clap::Parser;
use std::process::ExitCode;
use std::time::Instant;
use wharf::sim::{EarlyEndCounts, FaultCounts, FaultKind};
use wharf_sim::bugs;
use wharf_sim::plan::{Plan, PlantedBug, Workload};
use wharf_sim::run::run;

/// Runs seeds through the real engine on simulated ports.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Number of seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// echo, chat, big, post, framed, deferred, lines, stream or all.
    #[arg(long, default_value = "all")]
    workload: String,
    /// Run until so many completions were simulated, in place of --seeds.
    #[arg(long)]
    completions: Option<u64>,
    /// Plant a bug, and search the first seed whose checks fail; "all": each bug in turn.
    #[arg(long)]
    bug: Option<String>,
    /// Handlers panic at random.
    #[arg(long)]
    handler_panics: bool,
    /// Print each step (with --seed).
    #[arg(long)]
    trace: bool,
    /// Fail if a kind of fault was never injected.
    #[arg(long)]
    every_fault: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match try_main(&args) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("wharf-sim: {message}");
            ExitCode::from(2)
        }
    }
}

fn try_main(args: &Args) -> Result<ExitCode, String> {
    let workloads = match args.workload.as_str() {
        "all" => Workload::ALL.to_vec(),
        name => vec![name.parse()?],
    };
    if let Some(name) = &args.bug {
        return find_bugs(args, name);
    }
    Ok(run_seeds(args, &workloads))
}

/// The sums over all runs.
#[derive(Debug, Default)]
struct Sum {
    runs: u64,
    completions: u64,
    steps: u64,
    clients_completed: u64,
    clients_ended_early: u64,
    early_ends: EarlyEndCounts,
    virtual_ns: u128,
    faults: FaultCounts,
    violations: u64,
}

#[expect(clippy::disallowed_methods, reason = "the program's own speed is measured in real time")]
fn run_seeds(args: &Args, workloads: &[Workload]) -> ExitCode {
    let start = Instant::now();
    let mut sum = Sum::default();
    let seeds = match (args.seed, args.completions) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(_)) => args.from..u64::MAX,
        (None, None) => args.from..args.from.saturating_add(args.seeds),
    };
    let tracer: Option<fn(&str)> = args.trace.then_some(|line| println!("{line}"));
    for seed in seeds {
        for workload in workloads {
            let mut plan = Plan::from_seed(seed, *workload);
            if args.handler_panics {
                plan = plan.with_panics();
            }
            let panics = if args.handler_panics { " --handler-panics" } else { "" };
            plan.config.replay = Some(format!(
                "cargo run --release -p wharf-sim -- --seed {seed} --workload {workload}{panics} \
                 --trace"
            ));
            sum.runs += 1;
            if args.trace {
                println!("{plan:#?}");
            }
            match run(&plan, tracer) {
                Ok(report) => {
                    sum.completions += report.completions;
                    sum.steps += report.steps;
                    sum.clients_completed += report.clients_completed;
                    sum.clients_ended_early += report.clients_ended_early;
                    sum.early_ends.merge(&report.early_ends);
                    sum.virtual_ns += u128::from(report.time.0);
                    sum.faults.merge(&report.faults);
                }
                Err(failure) => {
                    sum.violations += 1;
                    println!("{workload}: {failure}");
                }
            }
        }
        if sum.violations >= VIOLATIONS_MAX
            || args.completions.is_some_and(|n| sum.completions >= n)
        {
            break;
        }
    }
    print(&sum, start.elapsed().as_secs_f64());
    let missing = FaultKind::ALL.into_iter().filter(|kind| sum.faults.of(*kind) == 0);
    let missing: Vec<_> = missing.map(|kind| format!("{kind:?}")).collect();
    if args.every_fault && !missing.is_empty() {
        println!("never injected: {}", missing.join(", "));
        return ExitCode::FAILURE;
    }
    if sum.violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(sum: &Sum, seconds: f64) {
    let Sum { runs, completions, steps, virtual_ns, faults, violations, .. } = sum;
    let (completed, early) = (sum.clients_completed, sum.clients_ended_early);
    print!("{faults}");
    println!("{:>10}  faults in all", faults.total());
    print!("{}", sum.early_ends);
    let share = 100.0 * early as f64 / (completed + early).max(1) as f64;
    println!("{completed:>10}  clients completed, {early} ended early: {share:.1} %");
    println!(
        "{completions:>10}  completions in {steps} steps, {runs} runs and {seconds:.1} s: {:.0}/s",
        *completions as f64 / seconds
    );
    println!("{:>10.1}  hours of simulated time", *virtual_ns as f64 / 3.6e12);
    println!("{violations:>10}  violations");
}

fn find_bugs(args: &Args, name: &str) -> Result<ExitCode, String> {
    let all: Vec<PlantedBug> =
        if name == "all" { PlantedBug::all().collect() } else { vec![name.parse()?] };
    // A planted bug may panic thousands of times.
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = 0;
    for planted in all {
        match bugs::find(planted, args.seeds) {
            Some((workload, failure)) => {
                println!(
                    "{:<26} seed {:>4} {workload:<6} {}",
                    planted.to_string(),
                    failure.seed,
                    failure.what
                );
            }
            None => {
                missed += 1;
                println!("{:<26} not found in {} seeds", planted.to_string(), args.seeds);
            }
        }
    }
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Violations after which the program stops.
const VIOLATIONS_MAX: u64 = 100_000;
