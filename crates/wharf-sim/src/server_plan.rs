//! The server of a run: its settings.

use std::time::Duration;
use wharf::sim::{Rng, fits};
use wharf::{Builder, Handler, Input, Link, Result, Server, WhenFull};

/// The settings of a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerPlan {
    /// Shards.
    pub shards: u32,
    /// Maximum of links.
    pub links: u32,
    /// Buffers of all shards.
    pub buffers: u32,
    /// Bytes of a buffer.
    pub buffer_bytes: u32,
    /// Maximum of a link's unsent bytes.
    pub output_bytes: u32,
    /// Maximum of a link's unread bytes.
    pub input_bytes: u32,
    /// Bytes that a callback may always queue; `None`: one buffer.
    pub grant_bytes: Option<u32>,
    /// Time for which a link waits for a loan before loans are revoked.
    pub loan_wait: Duration,
    /// The stall timeout.
    pub stall: Duration,
    /// The idle timeout.
    pub idle: Duration,
    /// The answer timeout.
    pub answer: Duration,
    /// The policy for connections when no slot is free.
    pub when_full: WhenFull,
    /// The backlog of the listeners.
    pub backlog: u32,
}

impl ServerPlan {
    /// A server of two shards with 64 links.
    pub(crate) fn small() -> Self {
        Self {
            shards: 2,
            links: 64,
            buffers: 1_024,
            buffer_bytes: 512,
            output_bytes: 64 * 1024,
            input_bytes: 64 * 1024,
            grant_bytes: None,
            loan_wait: Duration::from_secs(1),
            stall: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            answer: Duration::from_secs(60),
            when_full: WhenFull::Wait,
            backlog: 1_024,
        }
    }

    /// A server for `handler` with these settings.
    pub fn builder<H, S, W>(&self, handler: H) -> Builder<H, S, W>
    where
        H: Handler<S, W>,
        S: Send + 'static,
        W: 'static,
    {
        let builder = Server::builder(handler)
            .shards(self.shards)
            .links_max(self.links)
            .buffer_count(self.buffers)
            .buffer_size_bytes(self.buffer_bytes)
            .output_bytes(self.output_bytes)
            .input_bytes(self.input_bytes)
            .loan_wait(self.loan_wait)
            .stall_timeout(self.stall)
            .idle_timeout(self.idle)
            .answer_timeout(self.answer)
            .when_full(self.when_full)
            .backlog(self.backlog);
        match self.grant_bytes {
            Some(grant_bytes) => builder.grant_bytes(grant_bytes),
            None => builder,
        }
    }

    /// Bytes that a callback may always queue.
    #[must_use]
    pub fn grant(&self) -> usize {
        self.grant_bytes.unwrap_or(self.buffer_bytes) as usize
    }

    /// Sets the least number of buffers, from `wanted` on, with which the server starts.
    pub(crate) fn fit(&mut self, wanted: u32) {
        let mut can_start = |buffers| {
            self.buffers = buffers;
            let nothing = |_: &mut Link<'_>, _: &mut Input<'_>| -> Result { Ok(()) };
            fits(&self.builder(nothing))
        };
        let (mut too_few, mut enough) = (wanted - 1, wanted);
        while !can_start(enough) && enough < BUFFERS_MAX {
            (too_few, enough) = (enough, enough * 2);
        }
        while enough - too_few > 1 {
            let middle = too_few + (enough - too_few) / 2;
            if can_start(middle) { enough = middle } else { too_few = middle }
        }
        self.buffers = enough;
    }
}

/// Sizes and numbers of buffers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) buffer_bytes: u32,
    pub(crate) output_bytes: u32,
    /// `None`: the minimum of the server.
    pub(crate) shard_buffers: Option<u32>,
    pub(crate) input_bytes: u32,
    pub(crate) grant_bytes: Option<u32>,
    /// Those of [`ServerPlan::small`].
    pub(crate) is_default: bool,
}

impl Sizes {
    pub(crate) fn random(rng: &mut Rng, slots: u32) -> Self {
        let buffer_bytes = rng.pick(&[64, 64, 100, 512, 512, 2_048, 4_096]);
        let queue_buffers = rng.pick(&[2, 4, 4, 16, 64]);
        let few = rng.below(6) == 0;
        let plenty = slots * rng.pick(&[1, 2, 3, 8]) + rng.pick(&[2, 8]);
        let two_granted = queue_buffers >= 4 && rng.below(6) == 0;
        Self {
            buffer_bytes,
            output_bytes: buffer_bytes * queue_buffers,
            shard_buffers: (!few).then_some(plenty),
            input_bytes: buffer_bytes * rng.pick(&[1, 4, 32]),
            grant_bytes: two_granted.then_some(2 * buffer_bytes),
            is_default: rng.below(40) == 0,
        }
    }

    pub(crate) fn apply(self, server: &mut ServerPlan) {
        if self.is_default {
            return server.fit(1);
        }
        server.buffer_bytes = self.buffer_bytes;
        server.output_bytes = self.output_bytes;
        server.input_bytes = self.input_bytes;
        server.grant_bytes = self.grant_bytes;
        server.fit(self.shard_buffers.map_or(1, |buffers| server.shards * buffers * 8 / 7 + 2));
    }
}

/// More buffers than any plan needs.
const BUFFERS_MAX: u32 = 1 << 20;
