//! Starts a program on the side whose `serve` the including module has.

use super::api::Handle;
use super::handlers::deferred::Oracle;
use super::handlers::download::Files;
use super::handlers::paused::{Paused, Resumer};
use super::handlers::push::{Online, Pusher};
use super::handlers::{echo, frames, http, keyvalue, messages, patient, redis, room, stream};
use super::serve;
use crate::Outcome;
use crate::plan::{Plan, Program};
use crate::talks;
use std::sync::Arc;

pub(crate) fn run(plan: &Plan) -> Outcome {
    match plan.program {
        Program::Echo => serve(plan, echo::Echo, no_thread),
        Program::Messages => serve(plan, messages::Reversed, no_thread),
        Program::Keyvalue => serve(plan, keyvalue::Store::default(), no_thread),
        Program::Frames => serve(plan, frames::Notes, no_thread),
        Program::Http => serve(plan, http::Hello, no_thread),
        Program::Redis => serve(plan, redis::Store::default(), no_thread),
        Program::Download => serve(plan, Files(talks::files()), no_thread),
        Program::Stream => serve(plan, stream::Stream, no_thread),
        Program::Patient => serve(plan, patient::Patient, no_thread),
        Program::Room => serve(plan, room::Room, no_thread),
        Program::Deferred => {
            let (oracle, mut answers) = Oracle::new(plan.clients.len(), plan.seed);
            serve(plan, oracle, |_| move |now_ms| answers.go_on(now_ms))
        }
        Program::Paused => {
            let (paused, lines) = Paused::new(plan.clients.len());
            serve(plan, paused, |server| {
                let mut resumer = Resumer { server, lines, seed: plan.seed, due: Vec::new() };
                move |now_ms| resumer.go_on(now_ms)
            })
        }
        Program::Push => {
            let online = Arc::new(Online::default());
            serve(plan, Arc::clone(&online), |server| {
                let mut pusher = Pusher {
                    server,
                    online,
                    users: plan.clients.len(),
                    pushes: plan.pushes,
                    pause_ms: plan.push_pause_ms,
                    stops: plan.stops,
                    pushed: 0,
                    next_ms: 0,
                };
                move |now_ms| pusher.go_on(now_ms)
            })
        }
    }
}

/// There is no part of the program beside its handler.
fn no_thread(_: Handle) -> impl FnMut(u64) -> Option<u64> {
    |_| None
}
