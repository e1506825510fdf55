//! The workload of posts: another thread posts messages, to one link or to all, and the clients only
//! read. A message that was accepted for a link that reads must arrive, in order, also after a stop.
//!
//! A message is its length and its number, four bytes each, and a pattern. The driver keeps the unread
//! bytes of a client within half of its link's output, which is what posts may use, and broadcasts only
//! when the clients have read everything: so no message may be dropped or skipped. A post may be refused
//! only while the inbox can be full, or the buffers for posts are in use.

use crate::echo::number_of;
use crate::plan::{Plan, pattern_byte};
use crate::run::begin_with;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wharf::sim::{Client, ClientId, Next, Rng, SimClient, SimFailure, SimReport, Simulation, Time};
use wharf::{Handler, Input, Link, LinkId, PostError, Result};

/// The handler: it reports the ids of the links.
#[derive(Debug)]
struct Post {
    ids: Arc<[OnceLock<LinkId>]>,
}

impl Handler for Post {
    fn on_connect(&self, link: &mut Link<'_>) -> Result {
        if let Some(id) = self.ids.get(number_of(&link.peer())) {
            assert!(id.set(link.id()).is_ok(), "a client has connected twice");
        }
        Ok(())
    }

    fn on_receive(&self, _: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        input.consume(usize::MAX);
        Ok(())
    }
}

/// The messages that a client must still get.
#[derive(Debug, Default)]
struct Owed {
    messages: VecDeque<Message>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    number: u32,
    len: usize,
    /// It was posted to some shards only, perhaps not to that of this client.
    perhaps: bool,
}

impl Owed {
    fn add(&mut self, message: Message) {
        self.bytes += message.len;
        self.messages.push_back(message);
    }

    fn missing(&self) -> usize {
        self.messages.iter().filter(|message| !message.perhaps).count()
    }
}

#[derive(Debug)]
struct Reader {
    owed: Rc<RefCell<Owed>>,
    bytes: Vec<u8>,
    read: usize,
}

impl Reader {
    fn take(&mut self) -> Result<(), String> {
        while let Some(prefix) = self.bytes.first_chunk::<8>() {
            let [a, b, c, d, e, f, g, h] = *prefix;
            let len = u32::from_be_bytes([a, b, c, d]) as usize;
            let number = u32::from_be_bytes([e, f, g, h]);
            if self.bytes.len() < len.max(8) {
                return Ok(());
            }
            let mut owed = self.owed.borrow_mut();
            loop {
                let Some(next) = owed.messages.pop_front() else {
                    return Err(format!(
                        "post {number}, which is for another client or a repetition"
                    ));
                };
                owed.bytes -= next.len;
                if next.number == number {
                    break;
                }
                if !next.perhaps {
                    return Err(format!("post {} is missing before {number}", next.number));
                }
            }
            if message(number, len) != self.bytes[..len] {
                return Err(format!("post {number} is garbled"));
            }
            self.bytes.drain(..len);
            self.read += 1;
        }
        Ok(())
    }
}

impl Client for Reader {
    fn ready(&mut self, connection: &mut SimClient, _: Time) -> Result<Next, String> {
        let mut buffer = [0; 4096];
        loop {
            let how = match connection.try_read(&mut buffer) {
                Ok(0) if self.owed.borrow().missing() == 0 => return Ok(Next::Close),
                Ok(0) => "by an end of stream",
                Ok(count) => {
                    self.bytes.extend_from_slice(&buffer[..count]);
                    self.take()?;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Next::Wait),
                Err(_) => "by a reset",
            };
            return Ok(Next::EndedEarly(format!("{how}, before {}", self.waits_for())));
        }
    }

    fn lacks(&self, _: u64) -> u64 {
        let owed = self.owed.borrow();
        let due = owed.messages.iter().filter(|message| !message.perhaps);
        let bytes: usize = due.map(|message| message.len).sum();
        let missing = usize::from(owed.missing() > 0);
        bytes.saturating_sub(self.bytes.len()).max(missing) as u64
    }

    fn waits_for(&self) -> String {
        format!("{} more posts ({} received)", self.owed.borrow().missing(), self.read)
    }
}

/// Runs a plan.
pub(crate) fn run_posts(plan: &Plan, tracer: Option<fn(&str)>) -> Result<SimReport, SimFailure> {
    let ids: Arc<[OnceLock<LinkId>]> = (0..plan.clients).map(|_| OnceLock::new()).collect();
    let builder = plan.server.builder(Post { ids: Arc::clone(&ids) });
    let mut sim = begin_with(plan, builder, tracer);
    let mut driver = Driver {
        rng: Rng::new(plan.config.seed ^ 0x9057),
        clients: Vec::new(),
        ids,
        posted: 0,
        accepted: 0,
        packets: u64::from(plan.clients),
        inbox_capacity: plan.config.inbox_capacity.unwrap_or(INBOX_CAPACITY),
        post_buffers: sim.stats().post_buffers.free,
        unread_max: plan.message_max,
    };
    for _ in 0..plan.clients {
        let owed = Rc::default();
        let id = sim.connect(Reader { owed: Rc::clone(&owed), bytes: Vec::new(), read: 0 });
        driver.clients.push((id, owed));
    }
    let mut steps = 0;
    while steps < STEPS_MAX && driver.posted < plan.posts {
        steps += 1;
        if !sim.step()? || steps % 16 == 0 {
            driver.post(&sim, plan).map_err(|what| failure(plan, &what))?;
        }
    }
    for _ in 0..plan.burst {
        driver.post_to_one(&sim, 8).map_err(|what| failure(plan, &what))?;
    }
    if driver.accepted == 0 && driver.packets > driver.clients.len() as u64 {
        return Err(failure(plan, "every post was refused"));
    }
    sim.stop(DRAIN)?;
    sim.finish()
}

struct Driver {
    rng: Rng,
    clients: Vec<(ClientId, Rc<RefCell<Owed>>)>,
    ids: Arc<[OnceLock<LinkId>]>,
    posted: u32,
    accepted: u32,
    /// Packets that an inbox may contain: connections, and each post once for each shard.
    packets: u64,
    /// Capacity of each inbox.
    inbox_capacity: u32,
    /// The buffers for posts of all senders together.
    post_buffers: u32,
    /// Maximum of a client's unread bytes.
    unread_max: usize,
}

impl Driver {
    fn post(&mut self, sim: &Simulation<Post>, plan: &Plan) -> Result<(), String> {
        let all_read = self.clients.iter().all(|(id, owed)| {
            sim.may_lose_bytes(*id)
                || (self.ids[id.index()].get().is_some() && owed.borrow().messages.is_empty())
        });
        if all_read && self.rng.below(2) == 0 {
            let len = 8 + self.rng_len(plan.text_max);
            self.broadcast(sim, len)
        } else {
            let len = 8 + self.rng_len(plan.text_max / 4);
            self.post_to_one(sim, len)
        }
    }

    fn rng_len(&mut self, most: usize) -> usize {
        self.rng.below_len(most.min(self.unread_max.saturating_sub(8)) + 1)
    }

    fn post_to_one(&mut self, sim: &Simulation<Post>, len: usize) -> Result<(), String> {
        let (id, owed) = &self.clients[self.rng.below_len(self.clients.len())];
        let Some(link) = self.ids[id.index()].get() else { return Ok(()) };
        if owed.borrow().bytes + len > self.unread_max {
            return Ok(());
        }
        let (number, owed) = (self.posted, Rc::clone(owed));
        let (id, may_be_gone) = (*id, sim.may_lose_bytes(*id));
        self.posted += 1;
        self.packets += u64::from(!may_be_gone);
        match sim.handle().link(*link).try_post(message(number, len)) {
            Ok(()) => {
                self.accepted += 1;
                owed.borrow_mut().add(Message { number, len, perhaps: false });
                sim.owe(id);
                Ok(())
            }
            Err(PostError::Closed) if may_be_gone => Ok(()),
            Err(error) => self.check_refusal(sim, len, error),
        }
    }

    /// Checks that the inbox or the buffers for posts can be the cause of a refusal.
    fn check_refusal(
        &self,
        sim: &Simulation<Post>,
        len: usize,
        error: PostError,
    ) -> Result<(), String> {
        let stats = sim.stats();
        // Each shard has as many as all other threads together, and no handler posts here.
        let shards = u32::try_from(stats.workers.len()).unwrap_or(u32::MAX);
        let of_shards = self.post_buffers / (shards + 1) * shards;
        let free = stats.post_buffers.free.saturating_sub(of_shards) as usize;
        let inbox_may_be_full = self.packets >= u64::from(self.inbox_capacity);
        let is_limited =
            error == PostError::Full && (inbox_may_be_full || free * BUFFER_BYTES_MIN < len);
        let number = self.posted - 1;
        if is_limited {
            return Ok(());
        }
        Err(format!("post {number} of {len} bytes was refused: {error}, with {free} buffers free"))
    }

    fn broadcast(&mut self, sim: &Simulation<Post>, len: usize) -> Result<(), String> {
        let number = self.posted;
        self.posted += 1;
        self.packets += 1;
        let posted = sim.handle().all().try_post(message(number, len));
        let perhaps = posted.is_err();
        self.accepted += u32::from(!perhaps);
        for (id, owed) in &self.clients {
            if self.ids[id.index()].get().is_some() {
                owed.borrow_mut().add(Message { number, len, perhaps });
                sim.owe(*id);
            }
        }
        posted.or_else(|error| self.check_refusal(sim, len, error))
    }
}

fn failure(plan: &Plan, what: &str) -> SimFailure {
    SimFailure::new(plan.config.seed, what, plan.config.replay.clone())
}

fn message(number: u32, len: usize) -> Vec<u8> {
    let mut message = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    message.extend(number.to_be_bytes());
    message.extend((8..len).map(|offset| pattern_byte(number as usize, offset)));
    message
}

/// Longer than all delays of the posts together.
const DRAIN: Duration = Duration::from_secs(600);
const STEPS_MAX: u64 = 30_000;
/// The default of a server.
const INBOX_CAPACITY: u32 = 4_096;
/// The smallest buffers of a plan.
const BUFFER_BYTES_MIN: usize = 64;
