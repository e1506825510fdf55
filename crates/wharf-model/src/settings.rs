//! The settings of a model, and their check.

use crate::shares::{Guarantee, Shares};

/// The settings of one shard. Times are in milliseconds; 0: never.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "of this project's tests only")]
pub struct Settings {
    /// Bytes of a buffer.
    pub buffer_size_bytes: usize,
    /// Buffers of the shard: guarantees and surplus.
    pub buffer_count: usize,
    /// Buffers of the posts' own account.
    pub post_buffers: usize,
    /// Maximum of open links.
    pub links_max: usize,
    /// Bytes that a link may hold unread, and so the longest message that can be taken whole.
    pub input_bytes: usize,
    /// Bytes that can be queued on a link. Half of them is the high-water mark.
    pub output_bytes: usize,
    /// The spare capacity that a callback always finds.
    pub grant_bytes: usize,
    /// Maximum of buffers of one send; they are held until it completes.
    pub send_buffers_max: usize,
    /// Calls of `on_receive` for one link in one turn.
    pub calls_per_turn_max: usize,
    /// Entries of the shard's inbox.
    pub posts_max: usize,
    /// Time for which a link waits for a loan before others are closed for it.
    pub loan_wait_ms: u64,
    /// Time for which a link waits for its peer before `on_idle`.
    pub idle_timeout_ms: u64,
    /// Time for which a peer may take none of the queued bytes. Closing links always have 30 s.
    pub stall_timeout_ms: u64,
    /// Maximum time of a deferred reply.
    pub answer_timeout_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            buffer_size_bytes: 64,
            buffer_count: 0,
            post_buffers: 1_000,
            links_max: 16,
            input_bytes: 400,
            output_bytes: 400,
            grant_bytes: 100,
            send_buffers_max: 4,
            calls_per_turn_max: 64,
            posts_max: 1_000,
            loan_wait_ms: 1_000,
            idle_timeout_ms: 0,
            stall_timeout_ms: 0,
            answer_timeout_ms: 0,
        }
        .with_surplus(1_000)
    }
}

impl Settings {
    /// As many buffers as leave `surplus` beside all guarantees.
    #[must_use]
    pub fn with_surplus(self, surplus: usize) -> Self {
        let guaranteed = self.links_max * self.guarantee().sum();
        Self { buffer_count: guaranteed + surplus, ..self }
    }

    /// The smallest surplus with which [`check`](Self::check) succeeds: one link with a full input
    /// and a full output.
    #[must_use]
    pub fn surplus_min(&self) -> usize {
        let guarantee = self.guarantee();
        let size = self.buffer_size_bytes;
        self.input_bytes.div_ceil(size).saturating_sub(guarantee.input)
            + self.output_bytes.div_ceil(size).saturating_sub(guarantee.output)
    }

    /// What each link is guaranteed.
    #[must_use]
    pub fn guarantee(&self) -> Guarantee {
        Guarantee::new(self.buffer_size_bytes, self.grant_bytes)
    }

    /// The shares of these settings.
    ///
    /// # Errors
    ///
    /// The settings that do not fit together, with their values.
    pub fn check(&self) -> Result<Shares, String> {
        if self.buffer_size_bytes < 64 {
            return Err(format!("{} bytes are no buffer: 64 at least", self.buffer_size_bytes));
        }
        if self.output_bytes < 2 * self.grant_bytes {
            let Self { output_bytes, grant_bytes, .. } = self;
            return Err(format!(
                "an output of {output_bytes} holds no two grants of {grant_bytes}"
            ));
        }
        let guaranteed = self.links_max * self.guarantee().sum();
        let surplus = self.buffer_count.checked_sub(guaranteed);
        let needed = self.surplus_min();
        let surplus = surplus.filter(|surplus| *surplus >= needed).ok_or_else(|| {
            let count = self.buffer_count;
            format!(
                "{count} buffers are too few: {guaranteed} are guaranteed, and one link with a \
                 full input and output needs {needed} more"
            )
        })?;
        Ok(Shares::new(self, surplus))
    }
}
