//! A handler between the engine and the checked one. It passes every callback on, except for the
//! planted bug. Its own requests to links are not reported to the checks.

use crate::handler::Handler;
use crate::link::Link;
use crate::link::input::Input;
use crate::link::slot::Deferral;
use crate::shared::handle::Handle;
use crate::shared::marks::Mark;
use crate::shared::{PostPool, Shared};
use crate::sim::bug::{ActiveBug, EngineBug};
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::reason::{DisconnectReason, Verdict};
use crate::worker::Worker;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use wharf_port::memory::{Buffer, Chain, Message, Owner};
use wharf_port::port::Time;

#[derive(Debug)]
pub(super) struct Buggy<H> {
    pub(super) inner: H,
    pub(super) bug: ActiveBug,
    pub(super) shared: Arc<Shared>,
    /// Buffers for posts that the bug withholds.
    pub(super) held: Lock<Vec<Message>>,
}

#[expect(clippy::disallowed_types, reason = "one handler serves all shards of a simulation")]
type Lock<T> = std::sync::Mutex<T>;

/// A link's state; a bug can keep it beyond the link's end.
#[derive(Debug)]
pub(super) struct Kept<S>(Option<S>);

type BuggyLink<'a, S, W> = Link<'a, Kept<S>, W>;

impl<H> Buggy<H> {
    pub(super) fn new(inner: H, bug: Option<EngineBug>, shared: Arc<Shared>) -> Self {
        Self { inner, bug: ActiveBug::new(bug), shared, held: Lock::default() }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Vec<Message>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a callback of the inner handler, and then corrupts the engine's state if a bug takes
    /// effect.
    fn run<S, W, R>(
        &self,
        link: &mut BuggyLink<'_, S, W>,
        callback: impl FnOnce(&H, &mut Link<'_, S, W>) -> Result<R>,
    ) -> Result<R> {
        let result = callback(&self.inner, &mut inner_of(link));
        self.spoil(link);
        result
    }

    fn spoil<S, W>(&self, link: &mut BuggyLink<'_, S, W>) {
        let index = link.out.index;
        let core = &mut *link.out.core;
        let slot = &mut core.slots[index];
        if self.bug.is(EngineBug::ForgetClose) {
            slot.ending.close_requested = false;
        }
        if slot.ending.close_requested && self.bug.is(EngineBug::CloseDropsDeferred) {
            core.cancel_reply(index);
        } else if slot.ending.close_requested && self.bug.triggers(EngineBug::DropQueueAtClose) {
            slot.output.queue = Chain::new();
            core.settle(index);
        } else if self.bug.triggers(EngineBug::Miscount) {
            slot.loans.held.output += 1;
        }
    }

    /// Replaces the error of a callback, if a bug takes effect.
    fn spoil_error<S, W>(&self, link: &BuggyLink<'_, S, W>, error: Error) -> Result {
        let reason = DisconnectReason::of_error(&error);
        if reason == DisconnectReason::Limit && self.bug.is(EngineBug::TooLongIsHandlers) {
            return Err(Error::msg("too long"));
        }
        if reason == DisconnectReason::OutputFull && self.bug.is(EngineBug::FullBlamesPeer) {
            self.shared.mark(link.out.core.key(link.out.index), Mark::TOO_SLOW);
            return Ok(());
        }
        if self.bug.triggers(EngineBug::ErrorKeeps) { Ok(()) } else { Err(error) }
    }

    /// Calls the inner handler once more with the unread input, where the engine must not call it.
    fn call_again<S, W>(&self, link: &mut BuggyLink<'_, S, W>, input: &mut Input<'_>) -> Result
    where
        H: Handler<S, W>,
        S: Send + 'static,
        W: 'static,
    {
        let slot = &link.out.core.slots[link.out.index];
        let (is_paused, is_deferred) = (slot.input.paused, slot.deferral.is_some());
        let limit = self.shared.settings.send_queue_bytes as usize;
        let is_above = link.out.unsent_bytes() > limit / 2;
        let is_free = !is_paused && !is_deferred && !slot.ending.close_requested;
        let may_call = is_free && link.out.has_grant() && !is_above;
        let again = [
            (EngineBug::CallWhilePaused, is_paused && !input.is_empty()),
            (EngineBug::CallWhileDeferred, is_deferred),
            (EngineBug::CallWithoutGrant, is_free && !link.out.has_grant() && !input.is_empty()),
            (EngineBug::CallAboveHighWater, is_free && is_above && !input.is_empty()),
            (EngineBug::IgnoresTake, may_call && !input.is_empty()),
        ];
        if again.into_iter().any(|(bug, is_wrong)| is_wrong && self.bug.is(bug)) {
            return self.inner.on_receive(&mut inner_of(link), input);
        }
        if may_call && !input.is_empty() && self.bug.triggers(EngineBug::ForgetUnread) {
            // Pretends that the handler asked for more bytes.
            input.peek(input.len() + 1)?;
        }
        Ok(())
    }

    /// Takes all free buffers, if the bug `NoGuarantee` takes effect.
    fn take_guarantee<S, W>(&self, link: &BuggyLink<'_, S, W>) -> Vec<Buffer> {
        let pool = &link.out.core.pool;
        let triggers = self.bug.triggers(EngineBug::NoGuarantee);
        let take = || triggers.then(|| pool.acquire(Owner::Application)).flatten();
        std::iter::from_fn(take).collect()
    }
}

fn inner_of<'a, S, W>(link: &'a mut BuggyLink<'_, S, W>) -> Link<'a, S, W> {
    link.with_state(|Kept(state)| match state {
        Some(state) => state,
        None => unreachable!("it is taken at the end only"),
    })
}

impl<H, S, W> Handler<Kept<S>, W> for Buggy<H>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    fn on_start(&self, server: &Handle) -> Result {
        if self.bug.is(EngineBug::HoldPostBuffers) {
            let pools = self.shared.post_pools.iter();
            let message = |pool: &PostPool| pool.make(|pool| pool.message_of(&[0])).ok();
            let all = pools.flat_map(|pool| std::iter::from_fn(move || message(pool)));
            self.held().extend(all);
        }
        self.inner.on_start(server)
    }

    fn on_stop(&self, server: &Handle) {
        self.held().clear();
        self.inner.on_stop(server);
    }

    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<W> {
        self.inner.on_worker_start(worker)
    }

    fn on_connect(&self, link: &mut Link<'_, (), W>) -> Result<Kept<S>> {
        self.inner.on_connect(link).map(|state| Kept(Some(state)))
    }

    fn on_receive(&self, link: &mut BuggyLink<'_, S, W>, input: &mut Input<'_>) -> Result {
        let taken = self.take_guarantee(link);
        let result = self.run(link, |inner, link| inner.on_receive(link, input));
        drop(taken);
        match result {
            Ok(()) => self.call_again(link, input),
            Err(error) => self.spoil_error(link, error),
        }
    }

    fn on_writable(&self, link: &mut BuggyLink<'_, S, W>) -> Result {
        if self.bug.is(EngineBug::NeverWritable) {
            return Ok(());
        }
        let result = self.run(link, |inner, link| inner.on_writable(link));
        result.or_else(|error| self.spoil_error(link, error))
    }

    fn on_end(&self, link: &mut BuggyLink<'_, S, W>, input: &mut Input<'_>) -> Result<Verdict> {
        if self.bug.triggers(EngineBug::EndTwice) {
            self.run(link, |inner, link| inner.on_end(link, input))?;
        }
        self.run(link, |inner, link| inner.on_end(link, input))
    }

    fn on_idle(&self, link: &mut BuggyLink<'_, S, W>) -> Result<Verdict> {
        self.run(link, |inner, link| inner.on_idle(link))
    }

    fn on_drain(&self, link: &mut BuggyLink<'_, S, W>) -> Result<Verdict> {
        if self.bug.triggers(EngineBug::SkipDrain) {
            return Ok(Verdict::Close);
        }
        self.run(link, |inner, link| inner.on_drain(link))
    }

    fn on_disconnect(&self, link: &mut BuggyLink<'_, S, W>, reason: DisconnectReason) {
        self.inner.on_disconnect(&mut inner_of(link), reason);
        if self.bug.triggers(EngineBug::DisconnectTwice) {
            self.inner.on_disconnect(&mut inner_of(link), reason);
        } else if self.bug.triggers(EngineBug::LeakSlot) {
            // As if another thread still wrote a reply.
            let leaked =
                Deferral { bytes: 0, buffers: 0, since: Time::default(), is_cancelled: true };
            link.out.core.slots[link.out.index].deferral = Some(leaked);
        } else if self.bug.triggers(EngineBug::KeepSlotCount) {
            let shard = usize::from(link.out.core.shard);
            self.shared.shards[shard].slots_taken.fetch_add(1, Ordering::SeqCst);
        } else if self.bug.is(EngineBug::LoseSlotWake) {
            self.shared.service.slot_wanted.store(false, Ordering::SeqCst);
        } else if self.bug.triggers(EngineBug::KeepState) {
            let _kept = std::mem::ManuallyDrop::new(link.state.0.take());
        }
    }
}
