//! One seed from beginning to end.

use crate::chat::{Chat, Tally};
use crate::chat_client::ChatClient;
use crate::framed::Framed;
use crate::plan::{Plan, Workload};
use crate::post;
use crate::talk::Talk;
use crate::talker::Talker;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use wharf::Handler;
use wharf::sim::{Client, SimFailure, SimReport, Simulation};

/// Runs a plan; `tracer` is told each step.
///
/// # Errors
///
/// What did not hold.
pub fn run(plan: &Plan, tracer: Option<fn(&str)>) -> Result<SimReport, SimFailure> {
    // A planted fault may make even the end of a simulation panic.
    let verdict = catch_unwind(AssertUnwindSafe(|| run_workload(plan, tracer)));
    verdict.unwrap_or_else(|payload| Err(failure(plan, &*payload)))
}

fn run_workload(plan: &Plan, tracer: Option<fn(&str)>) -> Result<SimReport, SimFailure> {
    match plan.workload {
        Workload::Post => post::play(plan, tracer),
        Workload::Echo | Workload::Big => {
            play(plan, Talk::new(plan), tracer, |number| Talker::new(plan, number))
        }
        Workload::Framed => {
            play(plan, Framed::new(plan), tracer, |number| Talker::new(plan, number))
        }
        Workload::Chat => {
            let tally = Tally::new(plan.clients);
            let handler = Chat::new(plan, Arc::clone(&tally));
            let client = |number| ChatClient::new(plan, number, Arc::clone(&tally));
            let report = play(plan, handler, tracer, client)?;
            // Who misses a line was left out for want of room, and that was counted.
            let gaps = tally.gaps.load(Ordering::Relaxed);
            let refused = tally.refused.load(Ordering::Relaxed);
            let skips = report.stats.broadcast_skips + refused * u64::from(plan.clients);
            if gaps > skips {
                let what = format!("{gaps} lines were missed, but {skips} skipped at most");
                return Err(SimFailure::new(plan.config.seed, &what, plan.config.replay.clone()));
            }
            Ok(report)
        }
    }
}

fn play<H: Handler, C: Client + 'static>(
    plan: &Plan,
    handler: H,
    tracer: Option<fn(&str)>,
    client: impl Fn(usize) -> C,
) -> Result<SimReport, SimFailure> {
    let mut sim = Simulation::with(plan.config.clone(), handler);
    if let Some(tracer) = tracer {
        sim.trace(tracer);
    }
    let mut connected = 0;
    let mut waited = 0;
    let stops_at = plan.stop_after.unwrap_or(u64::MAX);
    while (connected < plan.clients || sim.clients_open() > 0) && sim.steps() < stops_at {
        if connected < plan.clients && (sim.clients_open() < plan.at_once || waited > PATIENCE) {
            sim.connect(client(connected as usize));
            connected += 1;
            waited = 0;
        }
        waited += 1;
        if !sim.step()? {
            waited = PATIENCE + 1;
        }
        if connected == plan.clients && waited > PATIENCE {
            break;
        }
    }
    if plan.stop_after.is_some() {
        sim.stop(Duration::from_millis(plan.config.seed % 3_000))?;
    }
    sim.finish()
}

fn failure(plan: &Plan, payload: &dyn Any) -> SimFailure {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    SimFailure::new(plan.config.seed, text, plan.config.replay.clone())
}

/// Steps without a new client, after which one comes all the same: those that are there may wait
/// for ever, because a fault has struck them.
const PATIENCE: u32 = 1_500;
