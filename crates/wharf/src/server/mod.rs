//! The server: settings in, threads and a handle out.

mod back_end;
mod builder;
pub(crate) mod current;
mod handle;
mod listen;
mod machine;
pub(crate) mod marks;
pub(crate) mod quota;
mod running;
pub(crate) mod shared;
mod signals;

pub use back_end::{BackEnd, Chosen};
pub use builder::{Builder, Server};
pub use handle::{Drain, Handle, Recipients};
pub use running::{RunningServer, StopReport};
pub use signals::{StopSignal, StopSignals};
