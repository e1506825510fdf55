//! Every limit of a server, and the sum of the memory that they make.

use crate::error::StartError;
use crate::link::LINKS_PER_SHARD_MAX;
use crate::server::BackEnd;
use std::fmt;
use std::time::Duration;
use wharf_port::memory::PoolConfig;
use wharf_port::port::PortConfig;

/// What to do with connections while the table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// Leave them in the system's backlog until there is room.
    Wait,
    /// Accept them and close them at once.
    Refuse,
}

/// The settings of a server, as [`Builder`](crate::Builder) collects them.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) back_end: Option<BackEnd>,
    pub(crate) shards: u32,
    pub(crate) links: u32,
    pub(crate) buffers: u32,
    pub(crate) buffer_size_bytes: u32,
    pub(crate) send_queue_bytes: u32,
    pub(crate) input_bytes: u32,
    /// `None`: one buffer.
    pub(crate) grant_bytes: Option<u32>,
    pub(crate) loan_wait: Duration,
    pub(crate) stall: Duration,
    pub(crate) idle: Duration,
    pub(crate) when_full: WhenFull,
    pub(crate) backlog: u32,
}

/// Connections that the system completes before they are accepted; it caps it at
/// net.core.somaxconn, 4,096 by default.
const BACKLOG: u32 = 1024;
/// Packets that wait for one shard: posts from other threads, and connections from the accepting
/// shard.
const INBOX_CAPACITY: u32 = 4096;
/// Entries for shared buffers in the links' queues, for each link: broadcasts that one link can
/// have waiting while all others have as many.
const SHARED_ENTRIES_PER_LINK: u32 = 4;
const SHARDS_MAX: u32 = 256;
/// Some hundred buffers keep a core busy and stay in its cache.
const WINDOW_MAX: u32 = 512;

impl Default for Settings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            back_end: None,
            shards: u32::try_from(cores).unwrap_or(1).min(SHARDS_MAX),
            links: 3_000,
            buffers: 10_000,
            buffer_size_bytes: 2_048,
            send_queue_bytes: 256 * 1024,
            input_bytes: 64 * 1024,
            grant_bytes: None,
            loan_wait: Duration::from_secs(1),
            stall: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            when_full: WhenFull::Wait,
            backlog: BACKLOG,
        }
    }
}

impl Settings {
    /// # Errors
    ///
    /// All faults at once.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        let mut faults = Vec::new();
        let mut range = |name: &str, value: u32, low: u32, high: u32| {
            if !(low..=high).contains(&value) {
                faults.push(format!("{name} is {value}, but must be from {low} to {high}"));
            }
        };
        range("shards", self.shards, 1, SHARDS_MAX);
        range("links", self.links, 1, LINKS_PER_SHARD_MAX);
        range("buffers", self.buffers, 1, 1 << 24);
        range("buffer_size", self.buffer_size_bytes, 64, 1 << 20);
        range("send_queue", self.send_queue_bytes, 1, 1 << 30);
        range("backlog", self.backlog, 1, 65_535);
        let needed = self.shards.saturating_mul(4).saturating_add(1);
        if self.buffers < needed {
            faults.push(format!(
                "buffers is {}, but {} shards need at least {needed}",
                self.buffers, self.shards
            ));
        }
        if self.links < self.shards {
            faults.push(format!(
                "links is {}, but each of {} shards needs one",
                self.links, self.shards
            ));
        }
        if faults.is_empty() { Ok(()) } else { Err(StartError::Settings(faults)) }
    }

    pub(crate) fn links_per_shard(&self) -> u32 {
        self.links.div_ceil(self.shards)
    }

    /// Buffers for messages that cross threads or go to many links: an eighth, at least one.
    pub(crate) fn post_pool(&self) -> PoolConfig {
        let buffers = (self.buffers / 8).max(1);
        let mut pool = PoolConfig::new(buffers);
        pool.buffer_size_bytes = self.buffer_size_bytes;
        // A broadcast waits once in each shard's inbox.
        pool.shared_entries = buffers.saturating_mul(self.shards);
        pool
    }

    pub(crate) fn shard_pool(&self) -> PoolConfig {
        let buffers = (self.buffers - self.post_pool().buffers) / self.shards;
        let mut pool = PoolConfig::new(buffers);
        pool.buffer_size_bytes = self.buffer_size_bytes;
        pool.shared_entries = self.links_per_shard().saturating_mul(SHARED_ENTRIES_PER_LINK);
        pool
    }

    /// Buffers that a shard's port may keep for receiving: a quarter, so that there is always more
    /// to answer with than can come in at once.
    pub(crate) fn receive_window(&self) -> u32 {
        (self.shard_pool().buffers / 4).clamp(1, WINDOW_MAX)
    }

    pub(crate) fn port(&self, listeners: u32) -> PortConfig {
        let mut port = PortConfig::new(self.links_per_shard() + listeners);
        port.receive_window = self.receive_window();
        port.inbox_capacity = INBOX_CAPACITY;
        port
    }

    /// Descriptors that the server may have open at once.
    pub(crate) fn files(&self, listeners: u32) -> u64 {
        // Standard streams and what the program itself opens; a ring or epoll and an eventfd a
        // shard; and as many connections as can be between the system and the table.
        64 + u64::from(self.links) + u64::from(listeners) + 4 * u64::from(self.shards)
    }

    pub(crate) fn plan(&self, link_size_bytes: usize, listeners: u32) -> MemoryPlan {
        let shards = u64::from(self.shards);
        let places = u64::from(self.links_per_shard()) + u64::from(listeners);
        let window = self.shard_pool().size_bytes();
        MemoryPlan {
            terms: vec![
                ("buffers of the shards", shards * window),
                ("buffers for posts and broadcasts", self.post_pool().size_bytes()),
                ("links", shards * places * link_size_bytes as u64),
                ("ports", shards * wharf_port::table_size_bytes(&self.port(listeners))),
                ("inboxes", shards * u64::from(INBOX_CAPACITY) * 96),
                // Touched pages of a thread that handles messages; what handlers do comes on top.
                ("stacks", shards * 64 * 1024),
            ],
        }
    }
}

/// The memory that a server takes at start, as a sum with named terms.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryPlan {
    /// What for, and how many bytes.
    pub terms: Vec<(&'static str, u64)>,
}

impl MemoryPlan {
    /// The sum, in bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.terms.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, bytes) in &self.terms {
            writeln!(f, "{bytes:>14}  {name}")?;
        }
        write!(f, "{:>14}  in all", self.total_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_reported_at_once() {
        let settings = Settings { links: 0, buffer_size_bytes: 8, ..Settings::default() };
        let text = settings.check().unwrap_err().to_string();
        assert!(text.contains("links is 0") && text.contains("buffer_size is 8"), "{text}");
    }

    #[test]
    fn a_shard_needs_buffers_and_a_link() {
        let text = |settings: Settings| settings.check().unwrap_err().to_string();
        let few = Settings { shards: 2, buffers: 8, ..Settings::default() };
        assert!(text(few).contains("2 shards need at least 9"));
        let few = Settings { shards: 4, links: 3, ..Settings::default() };
        assert!(text(few).contains("each of 4 shards needs one"));
    }

    #[test]
    fn the_pools_use_no_more_buffers_than_set() {
        for (shards, buffers) in [(1, 5), (2, 9), (3, 1000), (16, 10_000)] {
            let settings = Settings { shards, buffers, ..Settings::default() };
            settings.check().unwrap();
            let (shard, post) = (settings.shard_pool().buffers, settings.post_pool().buffers);
            assert!(shard >= 2 && post >= 1 && shard * shards + post <= buffers);
        }
    }

    #[test]
    fn the_plan_is_the_sum_of_its_terms() {
        let plan = Settings::default().plan(200, 1);
        assert_eq!(plan.total_bytes(), plan.terms.iter().map(|term| term.1).sum::<u64>());
        assert!(plan.total_bytes() > 10_000 * 2048);
        assert!(plan.to_string().ends_with("in all"));
    }
}
