//! The server: a builder collects the settings, starts one thread for each shard and returns a handle.

mod back_end;
pub(crate) mod builder;
mod ends;
mod files;
mod listen;
mod machine;
mod running;
mod signals;

pub use back_end::BackEndChoice;
pub use builder::{Builder, Server};
pub use running::{RunningServer, StopReport, Waited};
pub use signals::{StopSignal, StopSignals};
