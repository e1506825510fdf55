//! Jobs for later: another callback or another thread sends deferred replies and resumes paused links.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use wharf::sim::{Rng, Time};
use wharf::{Handle, LinkId, PostError, Reply};

/// A job.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) client: usize,
    /// The request's number among those of its client.
    pub(crate) number: usize,
    pub(crate) delay: Duration,
    pub(crate) task: Task,
}

#[derive(Debug)]
pub(crate) enum Task {
    /// Sends this.
    Send(Reply, Vec<u8>),
    /// Sends this last.
    Close(Reply, Vec<u8>),
    /// Says that there is no reply.
    Nothing(Reply),
    /// Drops the reply.
    Drop(Reply),
    /// Sends this, which is longer than the reserved capacity.
    TooLong(Reply, Vec<u8>),
    /// Sends something to a link that was closed by an error.
    AfterError(Reply),
    /// Does nothing, ever.
    Never(Reply),
    /// Ends a pause.
    Resume(Handle, LinkId),
    /// Wakes a link that is not paused.
    Wake(Handle, LinkId),
}

/// The jobs of one run.
#[derive(Debug)]
pub(crate) struct Board {
    state: Lock<State>,
    /// Requests of each client that have a reply or need none.
    answered: Box<[AtomicUsize]>,
    /// Requests of each client for which the link was woken, and those before.
    woken: Box<[AtomicUsize]>,
}

#[expect(clippy::disallowed_types, reason = "callbacks of all shards and a thread share the jobs")]
type Lock<T> = std::sync::Mutex<T>;

#[derive(Debug)]
struct State {
    rng: Rng,
    now: Time,
    jobs: Vec<(Time, Job)>,
    /// Replies that are never sent.
    kept: Vec<Reply>,
}

impl Board {
    pub(crate) fn new(seed: u64, clients: u32) -> Arc<Self> {
        let (jobs, kept) = (Vec::new(), Vec::new());
        let state = State { rng: Rng::new(seed ^ 0xB0A2D), now: Time::default(), jobs, kept };
        let [answered, woken] =
            [(); 2].map(|()| (0..clients).map(|_| AtomicUsize::new(0)).collect());
        Arc::new(Self { state: Lock::new(state), answered, woken })
    }

    /// The number of requests of this client with a reply.
    pub(crate) fn answered(&self, client: usize) -> usize {
        self.answered[client].load(Ordering::Relaxed)
    }

    /// Notes that the requests of this client up to this one have their replies.
    pub(crate) fn note_answered(&self, client: usize, number: usize) {
        self.answered[client].fetch_max(number + 1, Ordering::Relaxed);
    }

    /// The number of requests of this client for which its link was woken.
    pub(crate) fn woken(&self, client: usize) -> usize {
        self.woken[client].load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, job: Job) {
        let mut state = self.state();
        if let Task::Never(reply) = job.task {
            return state.kept.push(reply);
        }
        let due = state.now.saturating_add(job.delay);
        state.jobs.push((due, job));
    }

    /// Runs one of the jobs that are due, in a callback, at random.
    pub(crate) fn help(&self, rng: &mut Rng) {
        if rng.below(4) == 0
            && let Some(job) = self.state().take()
        {
            self.run(job);
        }
    }

    /// Runs one of the jobs that are due, in the other thread. Returns the latest time of the next call.
    pub(crate) fn go_on(&self, now: Time) -> Option<Time> {
        self.state().now = now;
        let job = self.state().take();
        let did_something = job.is_some();
        if let Some(job) = job {
            self.run(job);
        }
        let next = self.state().jobs.iter().map(|(due, _)| *due).min();
        if did_something { Some(now) } else { next }
    }

    fn run(&self, job: Job) {
        let Job { client, number, task, .. } = job;
        // The client may have the reply as soon as it is sent.
        let is_answer = !matches!(task, Task::Never(_) | Task::AfterError(_) | Task::Wake(..));
        if is_answer {
            self.note_answered(client, number);
        }
        match task {
            // The link may have ended; then its client reports why.
            Task::Send(reply, bytes) => {
                let _closed = if number % 3 == 0 {
                    let text = String::from_utf8_lossy(&bytes);
                    write!(reply, "{text}")
                } else {
                    let (one, two) = bytes.split_at(bytes.len() / 3);
                    reply.send((one, two))
                };
            }
            Task::Close(reply, bytes) => {
                let _closed = reply.close(bytes);
            }
            Task::Nothing(reply) => reply.none(),
            Task::Drop(reply) => drop(reply),
            Task::TooLong(reply, bytes) => {
                let sent = reply.send(bytes);
                let is_refused = matches!(sent, Err(PostError::TooLarge | PostError::Closed));
                assert!(is_refused, "client {client}: a reply that was too long: {sent:?}");
            }
            Task::AfterError(reply) => {
                let sent = reply.send("late");
                assert_eq!(sent, Err(PostError::Closed), "client {client}: after an error");
            }
            Task::Never(_) => {}
            Task::Resume(server, link) => server.link(link).resume(),
            Task::Wake(server, link) => {
                self.woken[client].fetch_max(number + 1, Ordering::Relaxed);
                server.link(link).resume();
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// One of the jobs that are due.
    fn take(&mut self) -> Option<Job> {
        let now = self.now;
        let due = self.jobs.iter().filter(|(due, _)| *due <= now).count();
        if due == 0 {
            return None;
        }
        let nth = self.rng.below_len(due);
        let is_due = self.jobs.iter().enumerate().filter(|(_, (due, _))| *due <= now);
        let at = is_due.map(|(at, _)| at).nth(nth)?;
        Some(self.jobs.swap_remove(at).1)
    }
}
