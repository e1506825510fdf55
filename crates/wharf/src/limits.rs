//! The settings of a server: defaults, ranges, and the memory that they add up to.

use crate::proxy::{HEADER_BYTES_MAX, ProxySources};
use crate::shares::{Division, Needs};
use crate::vocabulary::back_end::BackEnd;
use crate::vocabulary::error::StartError;
use crate::vocabulary::id::LINKS_PER_SHARD_MAX;
use crate::vocabulary::policy::{WhenFull, WhenSlow};
use std::fmt;
use std::time::Duration;
use wharf_port::memory::{MessagePoolConfig, PoolConfig};
use wharf_port::port::PortConfig;

/// The back end that the program asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskedBackEnd {
    /// That of the variable `WHARF_BACKEND`, else the best that works.
    Variable,
    /// The best that works, whatever the variable says.
    Best,
    Named(BackEnd),
}

/// The settings of a server, as [`Builder`](crate::Builder) collects them.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) back_end: AskedBackEnd,
    pub(crate) shards: u32,
    /// The number of shards was set, and not taken from the number of cores.
    pub(crate) shards_set: bool,
    /// Size of a shard's stack beside the copies of states; `None`: [`STACK_BYTES`].
    pub(crate) stack_bytes: Option<u32>,
    pub(crate) links: u32,
    /// `None`: [`Needs::buffers_default`].
    pub(crate) buffers: Option<u32>,
    pub(crate) buffer_size_bytes: u32,
    /// If it was not set, [`checked`](Self::checked) raises it as far as the other settings need; the
    /// same of `send_queue_bytes`.
    pub(crate) input_bytes: u32,
    pub(crate) input_set: bool,
    pub(crate) send_queue_bytes: u32,
    pub(crate) send_queue_set: bool,
    /// `None`: one buffer.
    pub(crate) grant_bytes: Option<u32>,
    pub(crate) loan_wait: Duration,
    pub(crate) stall: Duration,
    pub(crate) idle: Duration,
    /// The answer timeout.
    pub(crate) answer: Duration,
    pub(crate) report_callbacks_after: Duration,
    /// Memory of the queues of packets of one worker.
    pub(crate) packet_bytes: u64,
    pub(crate) when_slow: WhenSlow,
    /// The longest frame that the handler has declared.
    pub(crate) frame_max: usize,
    pub(crate) when_full: WhenFull,
    pub(crate) backlog: u32,
    /// Listeners on IPv6 addresses accept IPv4, too.
    pub(crate) dual_stack: bool,
    pub(crate) proxies: ProxySources,
    /// Maximum of packets in a shard's inbox: posts, and connections from the service thread.
    pub(crate) inbox_capacity: u32,
}

/// The backlog of listen(2). Linux reduces it to net.core.somaxconn, 4,096 by default.
const BACKLOG: u32 = 1024;
const INBOX_CAPACITY: u32 = 4096;
/// Maximum of shared messages in one link's queue. Further posts are copied into buffers that the link
/// borrows, or skipped.
pub(crate) const MESSAGES_PER_LINK: u32 = 4;
/// Links of a shard for which there are entries for [`MESSAGES_PER_LINK`] messages each. Each further
/// link has one entry.
const LINKS_WITH_ALL_MESSAGES: u32 = 1_024;
/// Size of a buffer for posts, at most that of the others; at least an eighth of that, so that at most
/// `POST_BUFFERS_MAX` take the memory of one other buffer.
const POST_BUFFER_SIZE: u32 = 512;
const POST_BUFFERS_MAX: u32 = 8;
/// Maximum of posts to single links that one shard has accepted and not sent.
const POSTS_ACCEPTED_MAX: u32 = 2_048;
/// A large receive buffer has the size of `LARGE_TIMES` others, at most `LARGE_SIZE_MAX`.
const LARGE_TIMES: u32 = 16;
const LARGE_SIZE_MAX: u32 = 32 * 1024;
/// Memory of the large buffers of all shards: 3.5 MiB.
const LARGE_BYTES: u32 = 14 << 18;
const SHARDS_MAX: u32 = 256;
const BUFFERS_MAX: u32 = 1 << 24;
/// Maximum of an input, an output and a grant.
const BYTES_MAX: u32 = 1 << 30;
/// Size of a shard's stack if it is not set: that of std.
const STACK_BYTES: u32 = 2 << 20;
/// What of it the pages take that the engine touches; those of the handler's own calls are added.
const STACK_BYTES_TOUCHED: u32 = 64 << 10;
/// Maximum of addresses that a server listens on.
const LISTENERS_MAX: usize = 1_024;

impl Default for Settings {
    fn default() -> Self {
        Self::for_cores(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }
}

impl Settings {
    /// The defaults on a machine with so many cores.
    fn for_cores(cores: usize) -> Self {
        Self {
            back_end: AskedBackEnd::Variable,
            shards: u32::try_from(cores).unwrap_or(SHARDS_MAX).clamp(1, SHARDS_MAX),
            shards_set: false,
            stack_bytes: None,
            links: 3_000,
            buffers: None,
            buffer_size_bytes: 2_048,
            input_bytes: 64 * 1024,
            input_set: false,
            send_queue_bytes: 256 * 1024,
            send_queue_set: false,
            grant_bytes: None,
            loan_wait: Duration::from_secs(1),
            stall: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            answer: Duration::from_secs(60),
            report_callbacks_after: Duration::from_secs(1),
            packet_bytes: 0,
            when_slow: WhenSlow::Skip,
            frame_max: 0,
            when_full: WhenFull::Wait,
            backlog: BACKLOG,
            dual_stack: false,
            proxies: ProxySources::default(),
            inbox_capacity: INBOX_CAPACITY,
        }
    }

    /// Size of the stack of a shard's thread.
    pub(crate) fn stack_size_bytes(&self, sizes: Sizes) -> usize {
        self.stack_bytes.unwrap_or(STACK_BYTES) as usize + sizes.stack
    }

    /// These settings, if a server can have them. What was not set is made to fit the rest: the input
    /// holds the longest frame, the output two grants and two buffers, and there are as many shards as
    /// the other settings suffice for, at most one for each core.
    ///
    /// # Errors
    ///
    /// One error that names all faults.
    pub(crate) fn checked(&self) -> Result<Self, StartError> {
        let mut settings = self.clone();
        if !settings.input_set {
            let frame = u32::try_from(settings.frame_max).unwrap_or(u32::MAX);
            settings.input_bytes = settings.input_bytes.max(frame.min(BYTES_MAX));
        }
        if !settings.send_queue_set {
            let least = settings.grant_bytes.unwrap_or(0).max(settings.buffer_size_bytes);
            let least = least.saturating_mul(2).min(BYTES_MAX);
            settings.send_queue_bytes = settings.send_queue_bytes.max(least);
        }
        while !settings.shards_set && settings.shards > 1 && settings.check().is_err() {
            settings.shards -= 1;
        }
        settings.check().map(|()| settings)
    }

    /// The one check of all settings. What is computed of them relies on it.
    ///
    /// # Errors
    ///
    /// One error that names all faults.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        let mut faults = Vec::new();
        let mut range = |name: &str, value: u32, low: u32, high: u32| {
            if !(low..=high).contains(&value) {
                faults.push(format!("{name} is {value}, but must be from {low} to {high}"));
            }
        };
        range("shards", self.shards, 1, SHARDS_MAX);
        range("links_max", self.links, 1, LINKS_PER_SHARD_MAX);
        range("buffer_count", self.buffers.unwrap_or(1), 1, BUFFERS_MAX);
        range("buffer_size_bytes", self.buffer_size_bytes, 64, 1 << 20);
        range("input_bytes", self.input_bytes, 1, BYTES_MAX);
        range("output_bytes", self.send_queue_bytes, 1, BYTES_MAX);
        range("grant_bytes", self.grant_bytes.unwrap_or(1), 1, BYTES_MAX);
        range("backlog", self.backlog, 1, 65_535);
        range("stack_bytes", self.stack_bytes.unwrap_or(STACK_BYTES), 256 << 10, BYTES_MAX);
        if self.loan_wait.is_zero() {
            // Links that wait for a loan would wait without end if zero disabled it, as it does the other
            // timeouts.
            faults.push("loan_wait is 0, but must be longer".to_owned());
        }
        if (1..self.shards).contains(&self.links) {
            faults.push(format!(
                "links_max is {}, but each of {} shards needs one",
                self.links, self.shards
            ));
        }
        // Twice the grant: `on_receive` is called while up to half of the output limit is used, and the
        // grant must fit then.
        let (name, grant) = match self.grant_bytes {
            Some(grant) if grant > self.buffer_size_bytes => ("grant_bytes", grant),
            _ => ("buffer_size_bytes", self.buffer_size_bytes),
        };
        if grant > self.send_queue_bytes / 2 {
            faults.push(format!(
                "{name} is {grant}, but output_bytes, which is {}, must be twice that at least",
                self.send_queue_bytes
            ));
        }
        if self.frame_max > self.input_bytes as usize {
            faults.push(format!(
                "the handler takes frames of up to {} bytes, but input_bytes is {}: raise it, or lower \
                 the frames' maximum",
                self.frame_max, self.input_bytes
            ));
        }
        faults.extend(self.proxies.faults());
        if !self.proxies.is_empty() && (self.buffer_size_bytes as usize) < HEADER_BYTES_MAX {
            faults.push(format!(
                "buffer_size_bytes is {}, but must be at least {HEADER_BYTES_MAX}, because the header of \
                 the PROXY protocol must fit in a buffer",
                self.buffer_size_bytes
            ));
        }
        if faults.is_empty() {
            faults.extend(self.buffers_that_lack());
        }
        if faults.is_empty() { Ok(()) } else { Err(StartError::settings(&faults)) }
    }

    /// Checks the number of addresses to listen on.
    ///
    /// # Errors
    ///
    /// There is none, or there are too many.
    pub(crate) fn check_listeners(count: usize) -> Result<u32, StartError> {
        match u32::try_from(count) {
            Ok(0) => {
                let fault = "there is no address to listen on; call Builder::listen".to_owned();
                Err(StartError::settings(&[fault]))
            }
            Ok(listeners) if count <= LISTENERS_MAX => Ok(listeners),
            _ => {
                let fault = format!(
                    "{count} addresses to listen on, but must be from 1 to {LISTENERS_MAX}"
                );
                Err(StartError::settings(&[fault]))
            }
        }
    }

    /// The fault of too few or too many buffers, with the numbers.
    fn buffers_that_lack(&self) -> Option<String> {
        let needs = self.needs();
        let (there, least) = (self.buffers(), needs.buffers_min());
        let Needs { shards, links, grant, input_max, output_max, .. } = needs;
        if there >= least && there <= BUFFERS_MAX {
            return None;
        }
        Some(format!(
            "buffer_count is {there}, but must be from {least} to {BUFFERS_MAX}: each of {shards} shards \
             has {links} links, each guaranteed 1 buffer of input and {grant} of output, and must \
             be able to lend one link {input_max} for input_bytes and {output_max} for output_bytes; \
             use more buffers, fewer links or fewer shards, or lower input_bytes or \
             output_bytes"
        ))
    }

    /// The timeouts of links; zero: disabled.
    pub(crate) fn timeouts(&self) -> [Duration; 4] {
        [self.idle, self.stall, self.answer, self.loan_wait]
    }

    pub(crate) fn links_per_shard(&self) -> u32 {
        self.links.div_ceil(self.shards)
    }

    /// The high-water mark: above so many used bytes of a link's output `on_receive` is not called, and
    /// no post is queued.
    pub(crate) fn high_water_bytes(&self) -> u32 {
        (self.send_queue_bytes / 2).max(1)
    }

    /// The grant in bytes; by default one buffer.
    pub(crate) fn grant_bytes(&self) -> u32 {
        self.grant_bytes.unwrap_or(self.buffer_size_bytes)
    }

    /// Size of a buffer for posts. A post takes whole buffers and most posts are short, so these are
    /// smaller than the others.
    pub(crate) fn post_buffer_size(&self) -> u32 {
        (self.buffer_size_bytes / POST_BUFFERS_MAX)
            .max(self.buffer_size_bytes.min(POST_BUFFER_SIZE))
    }

    /// Number of buffers for posts of each sender: a shard, or all other threads together.
    pub(crate) fn post_buffers(&self) -> u32 {
        let bytes = u64::from(self.division().posts) * u64::from(self.buffer_size_bytes);
        let count = bytes.div_ceil(u64::from(self.post_buffer_size()));
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Buffers that posts of one link's callbacks may take in a turn: a quarter of the shard's, or what
    /// the longest post needs if that is more.
    pub(crate) fn post_budget(&self) -> u32 {
        let longest = self.high_water_bytes().div_ceil(self.post_buffer_size());
        (self.post_buffers() / 4).max(longest)
    }

    /// Maximum of posts to single links that one shard has accepted and not sent: as many as there are
    /// buffers for posts, at most [`POSTS_ACCEPTED_MAX`].
    pub(crate) fn post_entries(&self) -> u32 {
        self.post_buffers().saturating_mul(self.shards + 1).min(POSTS_ACCEPTED_MAX)
    }

    /// The longest post in bytes.
    pub(crate) fn post_bytes_max(&self) -> usize {
        self.high_water_bytes() as usize
    }

    /// Buffers for links and posts, without those of the ports.
    pub(crate) fn buffers(&self) -> u32 {
        self.buffers.unwrap_or_else(|| self.needs().buffers_default())
    }

    fn needs(&self) -> Needs {
        let buffers = |bytes: u32| bytes.div_ceil(self.buffer_size_bytes);
        Needs {
            shards: self.shards,
            links: self.links_per_shard(),
            grant: self.grant_bytes.map_or(1, buffers),
            input_max: buffers(self.input_bytes),
            output_max: buffers(self.send_queue_bytes),
            post_max: buffers(self.high_water_bytes()),
        }
    }

    pub(crate) fn division(&self) -> Division {
        self.needs().divide(self.buffers())
    }

    /// The pool of one sender of posts: a shard, or all other threads together.
    pub(crate) fn post_pool(&self) -> MessagePoolConfig {
        let mut pool = MessagePoolConfig::new(self.post_buffers());
        pool.buffer_size_bytes = self.post_buffer_size();
        pool
    }

    /// Number and size of a shard's large receive buffers: its part of [`LARGE_BYTES`], at most a
    /// quarter of the memory of its other buffers. None if they would be less than twice as large as
    /// the others.
    fn large_buffers(&self) -> (u32, u32) {
        let size = (LARGE_TIMES * self.buffer_size_bytes).min(LARGE_SIZE_MAX);
        let others = u64::from(self.division().pool()) * u64::from(self.buffer_size_bytes);
        let most = u32::try_from(others / 4 / u64::from(size)).unwrap_or(u32::MAX);
        let count = (LARGE_BYTES / size / self.shards).min(most);
        // A port uses half of them at most, so it needs two.
        let are_of_use = size >= 2 * self.buffer_size_bytes && count >= 2;
        if are_of_use { (count, size) } else { (0, 0) }
    }

    pub(crate) fn shard_pool(&self) -> PoolConfig {
        let mut pool = PoolConfig::new(self.division().pool());
        pool.buffer_size_bytes = self.buffer_size_bytes;
        (pool.large_buffers, pool.large_size_bytes) = self.large_buffers();
        let links = self.links_per_shard();
        pool.shared_entries = links
            + (MESSAGES_PER_LINK - 1) * links.min(LINKS_WITH_ALL_MESSAGES)
            + self.post_entries();
        pool
    }

    /// The port of a shard.
    pub(crate) fn port(&self) -> PortConfig {
        let mut port = PortConfig::new(self.links_per_shard());
        port.receive_buffers_max = self.division().receive_buffers;
        port.inbox_capacity = self.inbox_capacity;
        port
    }

    /// The port of the service thread. It only accepts, and its inbox only wakes it.
    pub(crate) fn service_port(listeners: u32) -> PortConfig {
        let mut port = PortConfig::new(listeners);
        (port.receive_buffers_max, port.inbox_capacity) = (1, 1);
        port
    }

    /// The pool that the service thread's port must have.
    pub(crate) fn service_pool() -> PoolConfig {
        let mut pool = PoolConfig::new(1);
        (pool.buffer_size_bytes, pool.shared_entries) = (64, 0);
        pool
    }

    /// Maximum of descriptors that the server has open.
    pub(crate) fn files(&self, listeners: u32) -> u64 {
        // 4 for each shard and for the service thread: a ring or an epoll, an eventfd, and accepted
        // connections that have no slot yet.
        u64::from(self.links) + u64::from(listeners) + 4 * (u64::from(self.shards) + 1)
    }

    /// The memory of the service thread: its port and pool, accepted connections that wait for a slot,
    /// and what it touches of its stack.
    fn service_bytes(&self, listeners: u32) -> u64 {
        wharf_port::table_size_bytes(&Self::service_port(listeners))
            + Self::service_pool().size_bytes()
            + u64::from(listeners + self.backlog) * 64
            + u64::from(STACK_BYTES_TOUCHED)
    }

    /// The memory of these settings, which are checked.
    pub(crate) fn plan(&self, sizes: Sizes, listeners: u32) -> MemoryPlan {
        let division = self.division();
        let shards = u64::from(self.shards);
        let slots = u64::from(self.links_per_shard());
        let pool = self.shard_pool();
        let size_bytes = u64::from(self.buffer_size_bytes).next_multiple_of(64);
        let buffers = |count: u32| shards * u64::from(count) * size_bytes;
        let large = shards * u64::from(pool.large_buffers) * u64::from(pool.large_size_bytes);
        let tables = shards * pool.size_bytes() - buffers(pool.buffers) - large;
        MemoryPlan {
            guaranteed_buffers: shards * u64::from(division.guarantees()),
            surplus_buffers: shards * u64::from(division.surplus),
            terms: vec![
                ("buffers guaranteed to links", buffers(division.guarantees())),
                ("buffers lent to links (surplus)", buffers(division.surplus)),
                ("receive windows", buffers(division.receive_buffers)),
                ("large buffers to receive into", large),
                ("tables of these buffers", tables),
                ("buffers for posts and broadcasts", (shards + 1) * self.post_pool().size_bytes()),
                ("links", shards * slots * sizes.link as u64),
                ("ports", shards * wharf_port::table_size_bytes(&self.port())),
                ("memory for messages in several buffers", shards * u64::from(self.input_bytes)),
                ("inboxes", shards * (u64::from(self.inbox_capacity) * 96 + self.packet_bytes)),
                (
                    "stacks",
                    shards
                        * u64::from(self.stack_bytes.unwrap_or(STACK_BYTES_TOUCHED))
                            .max(sizes.stack as u64),
                ),
                ("service thread", self.service_bytes(listeners)),
            ],
        }
    }
}

/// The sizes of a handler's types, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Of one link in the engine's tables.
    pub(crate) link: usize,
    /// Of what a shard's stack has for states and contexts.
    pub(crate) stack: usize,
}

/// The memory that a server allocates at start, as a sum with named terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    terms: Vec<(&'static str, u64)>,
    guaranteed_buffers: u64,
    surplus_buffers: u64,
}

impl MemoryPlan {
    /// The terms: the purpose and the bytes.
    pub fn terms(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.terms.iter().copied()
    }

    /// Number of buffers that are guaranteed to links.
    #[must_use]
    pub fn guaranteed_buffers(&self) -> u64 {
        self.guaranteed_buffers
    }

    /// Number of buffers that can be lent to links.
    #[must_use]
    pub fn surplus_buffers(&self) -> u64 {
        self.surplus_buffers
    }

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
        assert!(
            text.contains("links_max is 0") && text.contains("buffer_size_bytes is 8"),
            "{text}"
        );
    }

    #[test]
    fn a_shard_needs_a_link() {
        let few = Settings { shards: 4, links: 3, ..Settings::default() };
        assert!(few.check().unwrap_err().to_string().contains("each of 4 shards needs one"));
    }

    #[test]
    fn too_few_buffers_are_refused_with_the_figures_and_one_more_is_enough() {
        let shape = Settings { shards: 2, links: 64, ..Settings::default() };
        let least = shape.needs().buffers_min();
        let with = |buffers| Settings { buffers: Some(buffers), ..shape.clone() };
        with(least).check().unwrap();
        let text = with(least - 1).check().unwrap_err().to_string();
        for part in [
            format!("buffer_count is {}", least - 1),
            format!("from {least} to"),
            "2 shards".into(),
        ] {
            assert!(text.contains(&part), "{part}: {text}");
        }
    }

    #[test]
    fn any_number_of_links_starts_with_default_buffers() {
        for shards in [1, 2, 3, 8, 64] {
            for links in [64, 3_000, 5_001, 100_000] {
                Settings { shards, links, ..Settings::default() }.check().unwrap();
            }
        }
        let large =
            Settings { send_queue_bytes: 8 << 20, input_bytes: 1 << 20, ..Settings::default() };
        large.check().unwrap();
    }

    #[test]
    fn the_pools_use_no_more_buffers_than_set_and_the_receive_buffers() {
        for (shards, buffers) in [(1, 7_200), (2, 8_000), (3, 9_000), (16, 40_000)] {
            let settings = Settings { shards, buffers: Some(buffers), ..Settings::default() };
            settings.check().unwrap();
            let Division { receive_buffers, posts, .. } = settings.division();
            let links = shards * (settings.shard_pool().buffers - receive_buffers - 1);
            assert!(links + posts * (shards + 1) <= buffers);
        }
    }

    #[test]
    fn default_settings_take_32_mb_up_to_4_shards_and_2_mib_for_each_further_one() {
        for shards in 1..=64 {
            let settings = Settings { shards, ..Settings::default() };
            let plan = settings.plan(crate::engine::sizes::<[u64; 8], ()>(), 1);
            let most = 32_000_000 + (2 << 20) * u64::from(shards.saturating_sub(4));
            assert!(plan.total_bytes() <= most, "{shards} shards: {plan}");
        }
    }

    /// `SplitMix64`.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        }

        /// Any number, of any magnitude; often one where something changes.
        #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
        fn number(&mut self) -> u32 {
            const EDGES: [u32; 12] =
                [0, 1, 63, 64, 256, 257, 65_535, 1 << 20, 1 << 24, 1 << 30, u32::MAX - 1, u32::MAX];
            let edge = EDGES[self.next() as usize % EDGES.len()];
            match self.next() % 4 {
                0 => edge,
                1 => edge.wrapping_add(self.next() as u32 % 3).wrapping_sub(1),
                _ => self.next() as u32 >> (self.next() % 32),
            }
        }

        fn often(&mut self, usual: u32) -> u32 {
            if self.next().is_multiple_of(3) { self.number() } else { usual }
        }

        fn settings(&mut self) -> Settings {
            let usual = Settings::for_cores(self.number() as usize % 300);
            let shards = self.next().is_multiple_of(2).then(|| self.number());
            Settings {
                shards: shards.unwrap_or(usual.shards),
                shards_set: shards.is_some(),
                links: self.often(usual.links),
                buffers: self.next().is_multiple_of(2).then(|| self.number()),
                buffer_size_bytes: self.often(usual.buffer_size_bytes),
                input_bytes: self.often(usual.input_bytes),
                input_set: self.next().is_multiple_of(2),
                send_queue_bytes: self.often(usual.send_queue_bytes),
                send_queue_set: self.next().is_multiple_of(2),
                grant_bytes: self.next().is_multiple_of(2).then(|| self.number()),
                backlog: self.often(usual.backlog),
                stack_bytes: self.next().is_multiple_of(2).then(|| self.number()),
                frame_max: self.often(0) as usize,
                loan_wait: Duration::from_nanos(u64::from(self.often(1_000_000_000))),
                ..usual
            }
        }
    }

    /// Whatever the settings, they are refused or there is a plan, and nothing overflows.
    #[test]
    fn any_settings_are_refused_or_have_a_plan() {
        let mut random = Random(15);
        let (mut plans, mut faults) = (0, 0);
        for _ in 0..20_000 {
            let settings = random.settings();
            let Ok(settings) = settings.checked() else {
                faults += 1;
                continue;
            };
            plans += 1;
            let plan = settings.plan(Sizes { link: 400, stack: 0 }, 1 + random.number() % 1_024);
            assert!(plan.total_bytes() < 1 << 50, "{settings:?}: {plan}");
            // The ranges that the pools of buffers and posts state.
            let (pool, posts) = (settings.shard_pool(), settings.post_pool());
            for buffers in [pool.buffers, posts.buffers] {
                assert!((1..=BUFFERS_MAX).contains(&buffers), "{settings:?}: {pool:?} {posts:?}");
            }
            assert!(pool.large_buffers == 0 || pool.large_size_bytes > pool.buffer_size_bytes);
            assert!(settings.port().receive_buffers_max >= 1);
            assert!(settings.output_holds_two_grants_and_two_buffers(), "{settings:?}");
        }
        assert!(plans > 1_000 && faults > 1_000, "{plans} plans, {faults} faults");
    }

    impl Settings {
        fn output_holds_two_grants_and_two_buffers(&self) -> bool {
            let least = self.grant_bytes().max(self.buffer_size_bytes);
            u64::from(self.send_queue_bytes) >= 2 * u64::from(least)
        }
    }

    #[test]
    fn defaults_fit_what_is_set_on_1_to_256_cores() {
        for cores in 1..=256 {
            let defaults = Settings::for_cores(cores);
            let cores = u32::try_from(cores).unwrap();
            assert_eq!(defaults.checked().unwrap().shards, cores);
            for links in 1..=300 {
                let few = Settings { links, ..defaults.clone() }.checked().unwrap();
                assert_eq!(few.shards, links.min(cores));
            }
            let few = Settings {
                links: 4,
                buffers: Some(40),
                input_bytes: 8 * 1024,
                send_queue_bytes: 16 * 1024,
                ..defaults.clone()
            };
            few.checked().unwrap();
            let large =
                Settings { send_queue_bytes: 8 << 20, input_bytes: 1 << 20, ..defaults.clone() };
            large.checked().unwrap();
            for size in [64, 300, 2_048, 100 << 10, 256 << 10, 1 << 20] {
                // Alone, and with each other.
                let (buffer, grant, frame) = (size, size.max(100), size as usize + 1);
                let fits = |settings: Settings| settings.checked().unwrap();
                let buffers = fits(Settings { buffer_size_bytes: buffer, ..defaults.clone() });
                assert!(buffers.send_queue_bytes >= (2 * buffer).max(256 << 10));
                let grants = fits(Settings { grant_bytes: Some(grant), ..defaults.clone() });
                assert!(grants.send_queue_bytes >= (2 * grant).max(256 << 10));
                let frames = fits(Settings { frame_max: frame, ..defaults.clone() });
                assert_eq!(frames.input_bytes as usize, frame.max(64 << 10));
                fits(Settings {
                    buffer_size_bytes: buffer,
                    grant_bytes: Some(grant),
                    frame_max: frame,
                    links: 7,
                    ..defaults.clone()
                });
            }
            // What was set stays.
            let set =
                Settings { buffer_size_bytes: 1 << 20, send_queue_set: true, ..defaults.clone() };
            assert!(
                set.checked().unwrap_err().to_string().contains("buffer_size_bytes is 1048576")
            );
            let set = Settings { frame_max: 1 << 20, input_set: true, ..defaults.clone() };
            assert!(set.checked().unwrap_err().to_string().contains("input_bytes is 65536"));
            let set = Settings { links: 1, shards_set: true, ..defaults };
            assert_eq!(set.checked().is_ok(), cores == 1);
        }
        assert_eq!(Settings::for_cores(100_000).checked().unwrap().shards, SHARDS_MAX);
    }

    #[test]
    fn a_fault_names_the_setting_its_value_and_the_range() {
        let text = |settings: Settings| settings.checked().unwrap_err().to_string();
        let usual = Settings::default;
        let faults = [
            (
                Settings { links: u32::MAX, ..usual() },
                "links_max is 4294967295",
                "from 1 to 16777215",
            ),
            (Settings { buffers: Some(0), ..usual() }, "buffer_count is 0", "from 1 to 16777216"),
            (
                Settings { send_queue_bytes: 2_047, send_queue_set: true, ..usual() },
                "output_bytes, which is 2047",
                "buffer_size_bytes is 2048",
            ),
            (Settings { loan_wait: Duration::ZERO, ..usual() }, "loan_wait is 0", "longer"),
        ];
        for (settings, value, range) in faults {
            let text = text(settings);
            assert!(text.contains(value) && text.contains(range), "{text}");
        }
        let none = Settings { shards: 0, shards_set: true, ..usual() };
        assert!(text(none).contains("shards is 0, but must be from 1 to 256"));
        assert_eq!(Settings::check_listeners(1_024).unwrap(), 1_024);
        for (count, part) in [(0, "no address"), (1_025, "from 1 to 1024"), (usize::MAX, "1024")] {
            let text = Settings::check_listeners(count).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn the_plan_is_the_sum_of_its_terms() {
        let plan = Settings::default().plan(Sizes { link: 200, stack: 0 }, 1);
        assert_eq!(plan.total_bytes(), plan.terms.iter().map(|term| term.1).sum::<u64>());
        assert!(plan.total_bytes() > 10_000 * 2048);
        assert!(plan.to_string().ends_with("in all"));
    }
}
