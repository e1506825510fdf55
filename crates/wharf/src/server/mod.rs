//! The server: settings in, threads and a handle out.

mod back_end;
mod builder;
mod listen;
mod machine;
mod running;
mod signals;

pub use back_end::Chosen;
pub use builder::{Builder, Server};
pub use running::{RunningServer, StopReport};
pub use signals::{StopSignal, StopSignals};
