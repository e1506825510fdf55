//! Random workloads against the real engine on simulated ports, with an oracle for every byte.
//!
//! A seed says all: the workload, the server's settings, what goes wrong, and what each client does.
//! See [`plan`] for what is drawn, `wharf::sim` for what is checked.
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
