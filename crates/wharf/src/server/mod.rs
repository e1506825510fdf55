//! The server: settings in, threads and a handle out.

mod back_end;
mod builder;
mod handle;
mod listen;
mod machine;
mod running;
pub(crate) mod shared;
mod signals;

pub use back_end::{BackEnd, Chosen};
pub use builder::{Builder, Server};
pub use handle::Handle;
pub use running::{Running, Stopped};
pub use signals::{StopSignal, StopSignals};
