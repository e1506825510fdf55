//! The run of one seed.

use crate::board::Board;
use crate::chat::{Chat, Tally};
use crate::chat_client::ChatClient;
use crate::deferred::Deferred;
use crate::echo::EchoHandler;
use crate::echo_client::EchoClient;
use crate::framed::Framed;
use crate::lines::{Fulls, LineServer};
use crate::plan::{Plan, Workload};
use crate::post;
use crate::stream::Streams;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use wharf::sim::{Client, SimFailure, SimReport, Simulation};
use wharf::{Builder, Handler};

/// Runs a plan; `tracer` is called with a text for each step.
///
/// # Errors
///
/// What failed.
pub fn run(plan: &Plan, tracer: Option<fn(&str)>) -> Result<SimReport, SimFailure> {
    // A planted bug may make even the end of a simulation panic.
    let verdict = catch_unwind(AssertUnwindSafe(|| run_workload(plan, tracer)));
    verdict.unwrap_or_else(|payload| Err(failure(plan, &*payload)))
}

fn run_workload(plan: &Plan, tracer: Option<fn(&str)>) -> Result<SimReport, SimFailure> {
    let client = |number| EchoClient::new(plan, number);
    match plan.workload {
        Workload::Post => post::run_posts(plan, tracer),
        Workload::Echo | Workload::Big => {
            run_clients(begin(plan, EchoHandler::new(plan), tracer), plan, client)
        }
        Workload::Framed => {
            let builder = plan.server.builder(Framed::new(plan)).frames(Framed::frames(plan));
            run_clients(begin_with(plan, builder, tracer), plan, client)
        }
        Workload::Chat => chat(plan, tracer),
        Workload::Deferred => {
            let board = Board::new(plan.config.seed, plan.clients);
            let mut sim = begin(plan, Deferred::new(plan, Arc::clone(&board)), tracer);
            let thread = Arc::clone(&board);
            sim.run_beside(move |now| thread.go_on(now));
            run_clients(sim, plan, |number| {
                let board = Arc::clone(&board);
                EchoClient::new(plan, number).answered(move || board.answered(number))
            })
        }
        Workload::Lines => {
            let fulls = Fulls::new(plan.clients);
            let sim = begin(plan, LineServer::new(plan, Arc::clone(&fulls)), tracer);
            run_clients(sim, plan, |number| {
                let fulls = Arc::clone(&fulls);
                EchoClient::new(plan, number).served(move || fulls.of(number))
            })
        }
        Workload::Stream => run_clients(begin(plan, Streams::new(plan), tracer), plan, client),
    }
}

fn chat(plan: &Plan, tracer: Option<fn(&str)>) -> Result<SimReport, SimFailure> {
    let tally = Tally::new(plan.clients);
    let sim = begin(plan, Chat::new(plan, Arc::clone(&tally)), tracer);
    let client = |number| ChatClient::new(plan, number, Arc::clone(&tally));
    let report = run_clients(sim, plan, client)?;
    // A post that a link skips for lack of capacity is counted.
    let missed = tally.gaps.load(Ordering::Relaxed);
    let what = if missed > report.stats.missed {
        format!("{missed} lines were missed, but {} were counted", report.stats.missed)
    } else if !tally.have_one_order() {
        "two clients got lines in different orders".to_owned()
    } else {
        return Ok(report);
    };
    Err(SimFailure::new(plan.config.seed, &what, plan.config.replay.clone()))
}

fn begin<H, S, W>(plan: &Plan, handler: H, tracer: Option<fn(&str)>) -> Simulation<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    begin_with(plan, plan.server.builder(handler), tracer)
}

pub(crate) fn begin_with<H, S, W>(
    plan: &Plan,
    builder: Builder<H, S, W>,
    tracer: Option<fn(&str)>,
) -> Simulation<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    let mut sim = Simulation::with_config(plan.config.clone(), builder);
    if let Some(tracer) = tracer {
        sim.trace(tracer);
    }
    sim
}

fn run_clients<H, S, W, C>(
    mut sim: Simulation<H, S, W>,
    plan: &Plan,
    client: impl Fn(usize) -> C,
) -> Result<SimReport, SimFailure>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
    C: Client + 'static,
{
    let mut connected = 0;
    let mut waited = 0;
    let stops_at = plan.stop_after.unwrap_or(u64::MAX);
    while (connected < plan.clients || sim.clients_open() > 0) && sim.steps() < stops_at {
        if connected < plan.clients
            && (sim.clients_open() < plan.at_once || waited > STEPS_WITHOUT_CLIENT_MAX)
        {
            sim.connect(client(connected as usize));
            connected += 1;
            waited = 0;
        }
        waited += 1;
        if !sim.step()? {
            waited = STEPS_WITHOUT_CLIENT_MAX + 1;
        }
        if connected == plan.clients && waited > STEPS_WITHOUT_CLIENT_MAX {
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

/// Steps after which another client connects although others are open: a client with a fault may wait
/// indefinitely.
const STEPS_WITHOUT_CLIENT_MAX: u32 = 1_500;
