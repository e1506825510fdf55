//! The handler and what it keeps, and how user code is run.

use crate::handler::Handler;
use crate::link::Link;
use crate::link::core::Core;
use crate::link::output::Output;
use crate::service::Service;
use crate::shared::current;
use crate::shared::handle::Handle;
use crate::vocabulary::error::Result;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What callbacks belong to: the handler, and what it keeps.
pub(super) struct Callbacks<V: Service> {
    pub(super) handler: Arc<V::Handler>,
    /// The server, as callbacks reach it.
    pub(super) server: Handle,
    /// `None` after a panic, if no fresh one could be made.
    pub(super) context: Option<V::Context>,
    /// The links' states, by place; `None` until `on_connect` has made one.
    pub(super) states: Box<[Option<V::State>]>,
}

impl<V: Service> Callbacks<V> {
    /// Runs a callback for a link; `None` if there is nothing to run it with.
    #[inline]
    pub(super) fn run<R>(
        &mut self,
        core: &mut Core,
        index: u32,
        callback: impl FnOnce(&V::Handler, &mut Link<'_, V::State, V::Context>) -> R,
    ) -> Option<std::thread::Result<R>> {
        let worker = self.context.as_mut()?;
        let state = self.states[index as usize].as_mut()?;
        let handler = &*self.handler;
        current::begin(core.shared.id, core.shard, core.post_budget(index));
        let mut link = Link { out: Output { core, index }, state, worker, server: &self.server };
        // What a panic leaves half done is the handler's own state: the link is closed and the
        // context made anew; the engine's state changes only through `Link`, which is consistent
        // after each of its calls.
        Some(catch_unwind(AssertUnwindSafe(|| callback(handler, &mut link))))
    }

    /// Runs `on_connect`, for a link that has no state yet.
    pub(super) fn run_connect(
        &mut self,
        core: &mut Core,
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

/// Runs what may be the user's code, outside of callbacks; a panic in it is reported by the panic
/// hook and changes nothing. Says whether there was none.
pub(super) fn guarded(act: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(()) => true,
        Err(payload) => {
            // Its own drop could panic again.
            let _leaked = std::mem::ManuallyDrop::new(payload);
            false
        }
    }
}
