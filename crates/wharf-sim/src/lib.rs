//! Random workloads against the real engine on simulated ports, and a check of every byte.
//!
//! A seed determines the workload, the server's settings, the faults, and the behavior of each client.
//! [`plan`] draws them, `wharf::sim` has the checks.
#![forbid(unsafe_code)]

mod board;
pub mod bugs;
mod chat;
mod chat_client;
mod client_plan;
mod deferred;
mod echo;
mod echo_client;
mod framed;
mod lines;
mod outbox;
pub mod plan;
mod post;
pub mod run;
mod server_plan;
mod stream;
