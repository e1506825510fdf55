//! Runs the handler's code, and stores its states and context.

use crate::handler::Handler;
use crate::link::Link;
use crate::link::core::ShardState;
use crate::link::output::Output;
use crate::service::Service;
use crate::shared::current;
use crate::shared::handle::Handle;
use crate::vocabulary::error::Result;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The handler with its states and context.
pub(super) struct Callbacks<V: Service> {
    pub(super) handler: Arc<V::Handler>,
    /// The server's handle, for callbacks.
    pub(super) server: Handle,
    /// `None` after a panic, if `on_worker_start` failed.
    pub(super) context: Option<V::Context>,
    /// The links' states, by slot; `None` until `on_connect` has returned one.
    pub(super) states: Box<[Option<V::State>]>,
}

impl<V: Service> Callbacks<V> {
    /// Runs a callback of a link; `None` if there is no context or no state.
    #[inline]
    pub(super) fn run<R>(
        &mut self,
        core: &mut ShardState,
        index: u32,
        callback: impl FnOnce(&V::Handler, &mut Link<'_, V::State, V::Context>) -> R,
    ) -> Option<std::thread::Result<R>> {
        let worker = self.context.as_mut()?;
        let state = self.states[index as usize].as_mut()?;
        let handler = &*self.handler;
        current::begin(core.shared.id, core.shard, core.post_budget(index));
        let mut link = Link { out: Output { core, index }, state, worker, server: &self.server };
        // A panic can leave only the handler's own state inconsistent: the link is closed and the
        // context made anew. The callback changes the engine's state through `Link`, whose methods
        // leave it consistent.
        Some(catch_unwind(AssertUnwindSafe(|| callback(handler, &mut link))))
    }

    /// Runs `on_connect` of a link.
    pub(super) fn run_connect(
        &mut self,
        core: &mut ShardState,
        index: u32,
    ) -> Option<std::thread::Result<Result<V::State>>> {
        let worker = self.context.as_mut()?;
        let handler = &*self.handler;
        current::begin(core.shared.id, core.shard, core.post_budget(index));
        let out = Output { core, index };
        let mut link = Link { out, state: &mut (), worker, server: &self.server };
        Some(catch_unwind(AssertUnwindSafe(|| handler.on_connect(&mut link))))
    }
}

/// Runs user code outside of callbacks, such as a drop, and catches its panic, which the panic hook
/// reports. Returns whether there was none.
pub(super) fn catch_user_panic(act: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(()) => true,
        Err(payload) => {
            // The drop of the payload could panic again.
            let _leaked = std::mem::ManuallyDrop::new(payload);
            false
        }
    }
}
