//! Runs the handler's code, and stores its states and context.

use crate::engine::packets::Sources;
use crate::guard::catch_user_panic;
use crate::handler::Handler;
use crate::link::Link;
use crate::link::core::ShardState;
use crate::link::input::{Asked, Input, Terms};
use crate::link::output::Output;
use crate::link::unread::Unread;
use crate::service::Service;
use crate::shared::Shared;
use crate::shared::current;
use crate::shared::handle::Handle;
use crate::vocabulary::error::Result;
use crate::vocabulary::origin::WorkerId;
use crate::worker::Worker;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use wharf_port::memory::{MemoryError, try_table, try_with_capacity};

/// The callbacks of one shard.
pub(super) struct Callbacks<V: Service> {
    user: User<V>,
    /// Where packets come from.
    packets: Sources<V::Context>,
    /// Memory for input slices that lie in several buffers.
    scratch: Vec<u8>,
    /// The error with which the shard stopped the server.
    failure: Option<String>,
}

/// The handler with its states and context.
struct User<V: Service> {
    handler: Arc<V::Handler>,
    /// The server's handle, for callbacks.
    server: Handle,
    /// `None` after a panic, if `on_worker_start` failed.
    context: Option<V::Context>,
    /// The links' states, by slot; `None` until `on_connect` has returned one.
    states: Box<[Option<V::State>]>,
}

impl<V: Service> Callbacks<V> {
    /// For a shard with `slots` slots, without a context.
    pub(super) fn new(
        handler: Arc<V::Handler>,
        shared: &Arc<Shared>,
        slots: u32,
        packets: Sources<V::Context>,
    ) -> std::result::Result<Self, MemoryError> {
        let user = User {
            handler,
            server: Handle::new(Arc::clone(shared)),
            context: None,
            states: try_table("the states of links", (0..slots).map(|_| None))?,
        };
        let scratch = try_with_capacity("joined input", shared.settings.input_bytes as usize)?;
        Ok(Self { user, packets, scratch, failure: None })
    }

    /// Runs a callback of a link; `None` if there is no context.
    #[inline]
    pub(super) fn run<R>(
        &mut self,
        core: &mut ShardState,
        index: u32,
        callback: impl FnOnce(&V::Handler, &mut Link<'_, V::State, V::Context>) -> R,
    ) -> Option<std::thread::Result<R>> {
        self.user.run(core, index, 0, callback)
    }

    /// As [`run`](Self::run), for a callback with input; returns as well what it asked for.
    #[inline]
    pub(super) fn run_with_input<R>(
        &mut self,
        core: &mut ShardState,
        index: u32,
        (unread, terms): (&mut Unread, Terms),
        callback: impl FnOnce(&V::Handler, &mut Link<'_, V::State, V::Context>, &mut Input<'_>) -> R,
    ) -> (Option<std::thread::Result<R>>, Asked) {
        let mut input = Input::new(unread, terms, &mut self.scratch);
        let result = self
            .user
            .run(core, index, input.len(), |handler, link| callback(handler, link, &mut input));
        (result, input.finish())
    }

    /// Runs `on_connect` of a link.
    pub(super) fn run_connect(
        &mut self,
        core: &mut ShardState,
        index: u32,
    ) -> Option<std::thread::Result<Result<V::State>>> {
        let worker = self.user.context.as_mut()?;
        let handler = &*self.user.handler;
        current::begin(core.shared.id, core.shard, core.post_budget(index));
        core.running().begin(index, core.slots[index].generation, 0);
        let out = Output { core, index };
        let mut link = Link { out, state: &mut (), worker, server: &self.user.server };
        Some(catch_unwind(AssertUnwindSafe(|| handler.on_connect(&mut link))))
    }

    /// Stores the state that `on_connect` has returned.
    pub(super) fn set_state(&mut self, index: u32, state: V::State) {
        self.user.states[index as usize] = Some(state);
    }

    /// Drops a link's state, which runs user code.
    pub(super) fn drop_state(&mut self, core: &ShardState, index: u32) {
        let state = self.user.states[index as usize].take();
        drop_user_value(core, state);
    }

    pub(super) fn source_count(&self) -> usize {
        self.packets.0.len()
    }

    /// Calls `on_post` with the next packet of a source; returns whether there was one.
    pub(super) fn deliver_packet(&mut self, core: &ShardState, source: usize) -> bool {
        let Some(context) = self.user.context.as_mut() else { return false };
        let mut worker = view(core, context, &self.user.server);
        core.running().begin_packet();
        let packets = &mut self.packets.0[source];
        let delivered = catch_unwind(AssertUnwindSafe(|| packets.deliver(&mut worker)));
        delivered.unwrap_or_else(|payload| {
            catch_user_panic(|| drop(payload));
            self.renew_context(core);
            true
        })
    }

    /// Makes a worker context, and drops the old one.
    pub(super) fn make_context(&mut self, core: &ShardState) -> Result<(), String> {
        // After a panic the old context may be inconsistent.
        drop_user_value(core, self.user.context.take());
        let mut unit = ();
        let mut worker = view(core, &mut unit, &self.user.server);
        let handler = &self.user.handler;
        let name = format_args!("on_worker_start of worker {}", worker.id());
        self.user.context = Some(call_for(name, || handler.on_worker_start(&mut worker))?);
        Ok(())
    }

    /// Makes a new context after a panic; if that fails, stops the server.
    #[cold]
    pub(super) fn renew_context(&mut self, core: &ShardState) {
        core.stats().handler_panics.add(1);
        if let Err(reason) = self.make_context(core) {
            tracing::error!(reason, "on_worker_start failed after a panic, stopping the server");
            self.failure = Some(reason);
            core.shared.stop(Duration::ZERO);
        }
    }

    /// Takes the error with which the shard stopped the server, if it did.
    pub(super) fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    /// Drops all states and the context, at the end of the shard.
    pub(super) fn drop_all(&mut self, core: &ShardState) {
        // One by one: a second panic of a drop during the first would abort the process.
        for state in &mut self.user.states {
            drop_user_value(core, state.take());
        }
        drop_user_value(core, self.user.context.take());
        core.stats().handler_panics.add(self.packets.drop_all());
    }
}

impl<V: Service> User<V> {
    #[inline]
    fn run<R>(
        &mut self,
        core: &mut ShardState,
        index: u32,
        unread: usize,
        callback: impl FnOnce(&V::Handler, &mut Link<'_, V::State, V::Context>) -> R,
    ) -> Option<std::thread::Result<R>> {
        let worker = self.context.as_mut()?;
        let Some(state) = &mut self.states[index as usize] else {
            unreachable!("a callback of a link without a state")
        };
        let handler = &*self.handler;
        current::begin(core.shared.id, core.shard, core.post_budget(index));
        core.running().begin(index, core.slots[index].generation, unread);
        let mut link = Link { out: Output { core, index }, state, worker, server: &self.server };
        // A panic can leave only the handler's own state inconsistent: the link is closed and the
        // context made anew. The callback changes the engine's state through `Link`, whose methods
        // leave it consistent.
        Some(catch_unwind(AssertUnwindSafe(|| callback(handler, &mut link))))
    }
}

/// A shard's worker, as a callback without a link sees it.
fn view<'a, W>(core: &ShardState, context: &'a mut W, server: &'a Handle) -> Worker<'a, W> {
    let (id, count) = (WorkerId::of_shard(core.shard), core.shared.shards.len());
    Worker { context, server, id, count, now: core.instant() }
}

/// Drops a user's value, and counts the panic if its drop panics.
fn drop_user_value<T>(core: &ShardState, value: Option<T>) {
    if !catch_user_panic(|| drop(value)) {
        core.stats().handler_panics.add(1);
    }
}

/// Calls a function of the handler that has no link. Says why it failed: its error is the user's, whose
/// `Debug` and drop can panic as well.
pub(crate) fn call_for<T>(
    name: impl fmt::Display,
    call: impl FnOnce() -> Result<T>,
) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let mut reason = format!("{name} failed");
            catch_user_panic(|| reason += &format!(": {error:?}"));
            // Not in the same call: a second panic during the first would abort the process.
            catch_user_panic(|| drop(error));
            Err(reason)
        }
        Err(payload) => {
            catch_user_panic(|| drop(payload));
            Err(format!("{name} panicked"))
        }
    }
}
