//! Promise: `wharf::thread_pool` does what its documentation says: it grows and shrinks, keeps a context
//! for each thread, bounds its queue, survives panics, and stops without losing a job.
//!
//! Method: the public interface only. Jobs wait at gates that the test opens, so that each situation
//! lasts until it was seen; what happens on other threads is waited for with a deadline.
#![cfg(test)]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "jobs and the test share what was seen; a deadline is real time"
)]

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};
use wharf::Error;
use wharf::thread_pool::{
    RejectReason, StartError, StopMode, TaskError, ThreadPool, WhenQueueFull, blocking,
};

/// Maximum time for which a test waits.
const PATIENCE: Duration = Duration::from_secs(20);

#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not seen in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Jobs wait here until it is opened, or dropped. Declare it after the pool, which waits for the jobs.
struct Gate(Arc<Door>);

#[derive(Default)]
struct Door {
    open: Mutex<bool>,
    opened: Condvar,
    /// How many have come to it.
    came: AtomicUsize,
}

impl Gate {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn open(&self) {
        *self.0.open.lock().unwrap() = true;
        self.0.opened.notify_all();
    }

    /// What a job calls to wait.
    fn wait(&self) -> impl Fn() + Send + Sync + use<> {
        let door = Arc::clone(&self.0);
        move || {
            door.came.fetch_add(1, Ordering::SeqCst);
            let closed = |open: &mut bool| !*open;
            drop(door.opened.wait_while(door.open.lock().unwrap(), closed).unwrap());
        }
    }

    /// Waits until this many jobs have come to the gate.
    #[track_caller]
    fn wait_for(&self, jobs: usize) {
        eventually("jobs at the gate", || self.0.came.load(Ordering::SeqCst) == jobs);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// Submits a job that waits at the gate, and waits until it does.
#[track_caller]
fn occupy<W>(pool: &ThreadPool<W>, gate: &Gate) {
    let before = gate.0.came.load(Ordering::SeqCst);
    let wait = gate.wait();
    pool.submit(move |_| wait()).unwrap();
    gate.wait_for(before + 1);
}

fn thread_name() -> String {
    std::thread::current().name().unwrap().to_owned()
}

fn thread_id() -> ThreadId {
    std::thread::current().id()
}

type Log<T> = Arc<Mutex<Vec<T>>>;

/// A pool of one thread, with a queue for two.
fn one_thread(when_full: WhenQueueFull) -> ThreadPool {
    ThreadPool::builder().threads_max(1).queue_capacity(2).when_full(when_full).start().unwrap()
}

/// A closed gate with a job at it, and two more jobs that wait in the queue; what they wrote.
fn fill<W>(pool: &ThreadPool<W>, gate: &Gate) -> Log<u32> {
    occupy(pool, gate);
    let log = Log::default();
    for number in 1..=2 {
        let log = Arc::clone(&log);
        pool.submit(move |_| log.lock().unwrap().push(number)).unwrap();
    }
    log
}

// Submitting

#[test]
fn a_job_runs_on_a_thread_of_the_pool() {
    let pool = ThreadPool::builder().name("mine").threads_max(2).start().unwrap();
    let name = pool.submit_for(|_| thread_name()).unwrap().wait().unwrap();
    assert_eq!(name, "mine-0");
    let (send, ran) = channel();
    pool.submit(move |_| send.send(thread_name()).unwrap()).unwrap();
    assert!(ran.recv_timeout(PATIENCE).unwrap().starts_with("mine-"));
}

#[test]
fn one_thread_runs_jobs_in_the_order_of_their_submission() {
    let pool = ThreadPool::builder().threads_max(1).start().unwrap();
    let log: Log<u32> = Log::default();
    for number in 0..500 {
        let log = Arc::clone(&log);
        pool.submit(move |_| log.lock().unwrap().push(number)).unwrap();
    }
    pool.stop(StopMode::RunQueued, PATIENCE);
    assert_eq!(*log.lock().unwrap(), (0..500).collect::<Vec<_>>());
}

#[test]
fn a_task_has_the_result_of_its_job() {
    let pool = ThreadPool::builder().start().unwrap();
    let gate = Gate::new();
    let wait = gate.wait();
    let task = pool.submit_for(move |_| {
        wait();
        "the result".to_owned()
    });
    let task = task.unwrap();
    assert!(!task.is_finished());
    let task = task.wait_timeout(Duration::from_millis(1)).expect_err("its job waits");
    gate.open();
    let result = task.wait_timeout(PATIENCE).expect("its job has returned");
    assert_eq!(result, Ok("the result".to_owned()));
    let task = pool.submit_for(|_| 7).unwrap();
    eventually("a finished task", || task.is_finished());
    assert_eq!(task.wait(), Ok(7));
}

#[test]
fn a_dropped_task_leaves_its_job_alone() {
    let pool = ThreadPool::builder().start().unwrap();
    let ran = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ran);
    drop(pool.submit_for(move |_| seen.store(true, Ordering::SeqCst)).unwrap());
    drop(pool);
    assert!(ran.load(Ordering::SeqCst));
}

#[test]
fn jobs_can_submit_jobs() {
    let pool = Arc::new(ThreadPool::builder().threads_max(1).start().unwrap());
    let (inner, (send, ran)) = (Arc::clone(&pool), channel());
    pool.submit(move |_| inner.submit(move |_| send.send(()).unwrap()).unwrap()).unwrap();
    ran.recv_timeout(PATIENCE).unwrap();
}

// Threads

#[test]
fn a_pool_starts_with_its_minimum_of_threads() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let factory = move || Ok(count.fetch_add(1, Ordering::SeqCst));
    let pool = ThreadPool::builder().threads_min(3).context(factory).start().unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 3);
    assert_eq!(pool.stats().threads, 3);
}

#[test]
fn work_that_waits_while_every_thread_is_busy_starts_threads_up_to_the_maximum() {
    let pool = ThreadPool::builder().threads_max(5).start().unwrap();
    let gate = Gate::new();
    for _ in 0..8 {
        let wait = gate.wait();
        pool.submit(move |_| wait()).unwrap();
    }
    gate.wait_for(5);
    let stats = pool.stats();
    assert_eq!((stats.threads, stats.running, stats.waiting), (5, 5, 3));
    gate.open();
    gate.wait_for(8);
}

#[test]
fn a_long_job_starts_a_thread_at_once() {
    let pool = ThreadPool::builder().threads_max(4).start().unwrap();
    let gate = Gate::new();
    occupy(&pool, &gate);
    for threads in 2..=4 {
        let wait = gate.wait();
        pool.submit_long(move |_| wait()).unwrap();
        assert_eq!(pool.stats().threads, threads);
    }
    gate.wait_for(4);
    pool.submit_long(|_| ()).unwrap();
    assert_eq!((pool.stats().threads, pool.stats().waiting), (4, 1), "the maximum");
}

#[test]
fn idle_threads_above_the_minimum_end() {
    let pool = ThreadPool::builder().threads_min(2).threads_max(6);
    let pool = pool.idle_timeout(Duration::from_millis(20)).start().unwrap();
    let gate = Gate::new();
    (0..6).for_each(|_| occupy(&pool, &gate));
    assert_eq!(pool.stats().threads, 6);
    gate.open();
    let mut seen = 6;
    eventually("the minimum of threads", || {
        seen = seen.min(pool.stats().threads);
        seen == 2
    });
    // The pool grows and shrinks again.
    let gate = Gate::new();
    (0..6).for_each(|_| occupy(&pool, &gate));
    gate.open();
    eventually("the minimum of threads", || pool.stats().threads == 2);
}

#[test]
fn a_busy_thread_does_not_end() {
    let pool = ThreadPool::builder().threads_max(2).idle_timeout(Duration::from_millis(5));
    let pool = pool.start().unwrap();
    let gate = Gate::new();
    occupy(&pool, &gate);
    let wait = gate.wait();
    let task = pool.submit_for(move |_| {
        wait();
        thread_id()
    });
    gate.wait_for(2);
    let started = Instant::now();
    eventually("ten idle timeouts", || started.elapsed() > Duration::from_millis(50));
    assert_eq!(pool.stats().threads, 2);
    gate.open();
    task.unwrap().wait().unwrap();
}

#[test]
fn no_job_is_lost_while_threads_come_and_go() {
    let pool = ThreadPool::builder().threads_max(4).queue_capacity(8);
    let pool = pool.idle_timeout(Duration::from_nanos(1)).start().unwrap();
    let ran = Arc::new(AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for number in 0..3_000 {
                    let ran = Arc::clone(&ran);
                    pool.submit(move |_| {
                        ran.fetch_add(1, Ordering::SeqCst);
                    })
                    .unwrap();
                    if number % 64 == 0 {
                        // Time for threads to fall asleep and end.
                        let before = pool.stats().completed;
                        eventually("progress", || {
                            pool.stats().completed > before.saturating_sub(1)
                        });
                    }
                }
            });
        }
    });
    let report = pool.stop(StopMode::RunQueued, PATIENCE);
    assert_eq!(ran.load(Ordering::SeqCst), 9_000);
    assert_eq!(report.stats.completed, 9_000);
}

#[test]
fn few_threads_do_the_work_at_low_load() {
    let pool = ThreadPool::builder().threads_min(6).threads_max(6).start().unwrap();
    let mut jobs: HashMap<ThreadId, u32> = HashMap::new();
    for _ in 0..2_000 {
        *jobs.entry(pool.submit_for(|_| thread_id()).unwrap().wait().unwrap()).or_default() += 1;
    }
    let mut jobs: Vec<u32> = jobs.into_values().collect();
    jobs.sort_unstable_by(|a, b| b.cmp(a));
    // In turn, each would run a sixth. The thread of one job may fall asleep only after the next job.
    let rest: u32 = jobs.iter().skip(4).sum();
    assert!(rest < 200, "{jobs:?}");
}

// Contexts

/// A context that may not leave its thread, and says so if it does.
struct Bound {
    thread: ThreadId,
    uses: Rc<Cell<u32>>,
    log: Log<(&'static str, ThreadId)>,
}

impl Bound {
    fn new(log: &Log<(&'static str, ThreadId)>) -> Self {
        log.lock().unwrap().push(("made", thread_id()));
        Self { thread: thread_id(), uses: Rc::default(), log: Arc::clone(log) }
    }

    fn use_it(&self) -> u32 {
        assert_eq!(self.thread, thread_id());
        self.uses.set(self.uses.get() + 1);
        self.uses.get()
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.log.lock().unwrap().push(("dropped", thread_id()));
    }
}

#[test]
fn a_context_is_made_used_and_dropped_on_its_thread() {
    let log = Log::default();
    let seen = Arc::clone(&log);
    let pool = ThreadPool::builder().threads_min(2).threads_max(2);
    let pool = pool.context(move || Ok(Bound::new(&seen))).start().unwrap();
    let gate = Gate::new();
    (0..2).for_each(|_| occupy(&pool, &gate));
    gate.open();
    let tasks: Vec<_> = (0..10).map(|_| pool.submit_for(|own| own.use_it()).unwrap()).collect();
    assert!(tasks.into_iter().all(|task| task.wait().unwrap() > 0));
    pool.stop(StopMode::RunQueued, PATIENCE);
    let log = log.lock().unwrap();
    let of = |what| {
        let threads = log.iter().filter(|(event, _)| *event == what);
        threads.map(|(_, thread)| *thread).collect::<HashSet<_>>()
    };
    assert_eq!(log.len(), 4);
    assert_eq!(of("made").len(), 2, "each thread has its own");
    assert_eq!(of("made"), of("dropped"));
    assert!(!of("made").contains(&thread_id()));
}

#[test]
fn after_a_panic_of_a_job_its_thread_has_another_context() {
    let log = Log::default();
    let seen = Arc::clone(&log);
    let pool = ThreadPool::builder().threads_max(1);
    let pool = pool.context(move || Ok(Bound::new(&seen))).start().unwrap();
    let uses = |own: &mut Bound| own.use_it();
    assert_eq!(pool.submit_for(uses).unwrap().wait(), Ok(1));
    assert_eq!(pool.submit_for(uses).unwrap().wait(), Ok(2));
    let task = pool.submit_for(|_| -> u32 { panic!("on purpose, number {}", 1) }).unwrap();
    assert_eq!(task.wait(), Err(TaskError::Panicked(": on purpose, number 1".to_owned())));
    assert_eq!(pool.submit_for(uses).unwrap().wait(), Ok(1), "a new context");
    pool.submit(|_| std::panic::panic_any(7)).unwrap();
    assert_eq!(pool.submit_for(uses).unwrap().wait(), Ok(1), "a new context");
    let stats = pool.stop(StopMode::RunQueued, PATIENCE).stats;
    assert_eq!((stats.completed, stats.panicked), (4, 2));
    let events: Vec<_> = log.lock().unwrap().iter().map(|(event, _)| *event).collect();
    assert_eq!(events, ["made", "dropped"].repeat(3));
}

/// A context, or a panic's payload, whose drop panics.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("in a drop, on purpose");
        }
    }
}

#[test]
fn panics_in_drops_end_no_thread() {
    let pool = ThreadPool::builder().threads_max(1).context(|| Ok(Bomb)).start().unwrap();
    pool.submit(|_| panic!("on purpose")).unwrap();
    pool.submit(|_| std::panic::panic_any(Bomb)).unwrap();
    assert_eq!(pool.submit_for(|_| 7).unwrap().wait(), Ok(7));
    let report = pool.stop(StopMode::RunQueued, PATIENCE);
    assert_eq!((report.stats.panicked, report.stats.threads), (2, 0));
    assert!(report.threads.is_empty());
}

#[test]
fn a_context_that_cannot_be_made_fails_the_start() {
    let (made, dropped) = (Arc::new(AtomicUsize::new(0)), Log::default());
    let (count, log) = (Arc::clone(&made), Arc::clone(&dropped));
    let factory = move || match count.fetch_add(1, Ordering::SeqCst) {
        2 => Err(Error::msg("the database is down")),
        _ => Ok(Bound::new(&log)),
    };
    let error = ThreadPool::builder().threads_min(4).context(factory).start().unwrap_err();
    assert!(matches!(error, StartError::Context(_)), "{error:?}");
    assert_eq!(error.to_string(), "cannot make a thread's context: the database is down");
    // The threads have ended, and their contexts are dropped.
    assert_eq!(made.load(Ordering::SeqCst), 4);
    let events = dropped.lock().unwrap();
    assert_eq!(events.iter().filter(|(event, _)| *event == "dropped").count(), 3);
}

#[test]
fn a_factory_that_panics_fails_the_start() {
    let factory = || -> wharf::Result<()> { panic!("on purpose") };
    let error = ThreadPool::builder().context(factory).start().unwrap_err();
    assert_eq!(error.to_string(), "cannot make a thread's context: panicked: on purpose");
}

/// Contexts that can be made until `fails` is set.
fn unreliable(fails: &Arc<AtomicBool>) -> impl Fn() -> wharf::Result<u32> + Send + Sync + use<> {
    let fails = Arc::clone(fails);
    move || match fails.load(Ordering::SeqCst) {
        true => Err(Error::msg("the database is down")),
        false => Ok(7),
    }
}

#[test]
fn a_context_that_cannot_be_made_later_is_tried_again() {
    let fails = Arc::new(AtomicBool::new(false));
    let pool = ThreadPool::builder().threads_max(3).context(unreliable(&fails)).start().unwrap();
    fails.store(true, Ordering::SeqCst);
    pool.submit(|_| panic!("on purpose")).unwrap();
    eventually("a failure", || pool.stats().context_failures == 1);
    let task = pool.submit_for(|context| *context).unwrap();
    // Meanwhile no other thread is started, which would fail as well.
    assert_eq!(pool.stats().threads, 1);
    fails.store(false, Ordering::SeqCst);
    assert_eq!(task.wait(), Ok(7));
    assert_eq!(pool.stats().context_failures, 1);
}

#[test]
fn a_stop_does_not_wait_for_a_context_that_cannot_be_made() {
    let fails = Arc::new(AtomicBool::new(false));
    let pool = ThreadPool::builder().threads_max(1).context(unreliable(&fails)).start().unwrap();
    fails.store(true, Ordering::SeqCst);
    pool.submit(|_| panic!("on purpose")).unwrap();
    eventually("a failure", || pool.stats().context_failures == 1);
    pool.submit(|_| ()).unwrap();
    // Less than the second after which the thread would try again.
    let report = pool.stop(StopMode::RunQueued, Duration::from_millis(500));
    assert_eq!(report.jobs.len(), 1, "what no thread could run is returned");
    assert!(report.threads.is_empty());
}

// The queue

#[test]
fn fail_returns_the_job() {
    let pool = one_thread(WhenQueueFull::Fail);
    let gate = Gate::new();
    let log = fill(&pool, &gate);
    let text = "the job itself".to_owned();
    let rejected = pool.submit(move |_| assert_eq!(text, "the job itself")).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::Full);
    (rejected.job)(&mut ());
    let rejected = pool.submit_for(|_| 7).unwrap_err();
    assert_eq!((rejected.job)(&mut ()), 7);
    assert_eq!(pool.submit_long(|_| ()).unwrap_err().reason, RejectReason::Full);
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.rejected, stats.waiting), (3, 3, 2));
    gate.open();
    pool.stop(StopMode::RunQueued, PATIENCE);
    assert_eq!(*log.lock().unwrap(), [1, 2]);
}

#[test]
fn wait_waits_until_a_thread_takes_a_job() {
    let pool = one_thread(WhenQueueFull::Wait);
    let gate = Gate::new();
    fill(&pool, &gate);
    std::thread::scope(|scope| {
        let (send, submitted) = channel();
        for _ in 0..3 {
            let (pool, send) = (&pool, send.clone());
            scope.spawn(move || {
                pool.submit(|_| ()).unwrap();
                send.send(()).unwrap();
            });
        }
        let early = submitted.recv_timeout(Duration::from_millis(20));
        assert_eq!(early, Err(RecvTimeoutError::Timeout));
        assert_eq!((pool.stats().waiting, pool.stats().submitted), (2, 3));
        gate.open();
        (0..3).for_each(|_| submitted.recv_timeout(PATIENCE).unwrap());
    });
    let stats = pool.stop(StopMode::RunQueued, PATIENCE).stats;
    assert_eq!((stats.completed, stats.rejected), (6, 0));
}

#[test]
fn wait_does_not_wait_on_a_thread_of_the_pool_itself() {
    let pool = Arc::new(one_thread(WhenQueueFull::Wait));
    let gate = Gate::new();
    let (inner, wait) = (Arc::clone(&pool), gate.wait());
    let task = pool.submit_for(move |_| {
        wait();
        inner.submit(|_| ()).unwrap_err().reason
    });
    gate.wait_for(1);
    (0..2).for_each(|_| pool.submit(|_| ()).unwrap());
    gate.open();
    assert_eq!(task.unwrap().wait(), Ok(RejectReason::Full));
}

#[test]
fn a_stop_ends_the_wait_for_capacity() {
    let pool = one_thread(WhenQueueFull::Wait);
    let gate = Gate::new();
    fill(&pool, &gate);
    std::thread::scope(|scope| {
        let (send, began) = channel();
        let pool = &pool;
        let waiting = scope.spawn(move || {
            send.send(()).unwrap();
            pool.submit(|_| ()).unwrap_err().reason
        });
        began.recv_timeout(PATIENCE).unwrap();
        let report = pool.stop(StopMode::ReturnQueued, Duration::from_millis(20));
        assert_eq!(report.jobs.len(), 2);
        assert_eq!(waiting.join().unwrap(), RejectReason::Stopping);
    });
}

#[test]
fn run_in_caller_runs_the_job_in_the_caller_with_a_context_of_its_own() {
    let log = Log::default();
    let seen = Arc::clone(&log);
    let pool = ThreadPool::builder().threads_max(1).queue_capacity(2);
    let pool = pool.when_full(WhenQueueFull::RunInCaller);
    let pool = pool.context(move || Ok(Bound::new(&seen))).start().unwrap();
    let gate = Gate::new();
    fill(&pool, &gate);
    let task = pool.submit_for(|own| (own.use_it(), thread_id())).unwrap();
    assert!(task.is_finished());
    assert_eq!(task.wait(), Ok((1, thread_id())));
    assert_eq!(log.lock().unwrap()[1..], [("made", thread_id()), ("dropped", thread_id())]);
    // A panic is caught as on a thread of the pool.
    pool.submit(|_| panic!("on purpose")).unwrap();
    let stats = pool.stats();
    assert_eq!((stats.run_in_caller, stats.submitted, stats.rejected), (2, 5, 0));
    assert_eq!((stats.completed, stats.panicked), (1, 1));
    assert_eq!(stats.queue_times.count(), 1, "only what a thread began");
}

#[test]
fn run_in_caller_returns_the_job_if_there_is_no_context_for_it() {
    let fails = Arc::new(AtomicBool::new(false));
    let pool = ThreadPool::builder().threads_max(1).queue_capacity(2);
    let pool = pool.when_full(WhenQueueFull::RunInCaller).context(unreliable(&fails));
    let pool = pool.start().unwrap();
    let gate = Gate::new();
    fill(&pool, &gate);
    fails.store(true, Ordering::SeqCst);
    let rejected = pool.submit_for(|context| *context + 1).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::NoContext);
    assert_eq!((rejected.job)(&mut 7), 8);
    assert_eq!((pool.stats().run_in_caller, pool.stats().rejected), (0, 1));
}

// Persistent threads

#[test]
fn a_persistent_thread_runs_its_jobs_in_order_and_never_ends() {
    let pool = ThreadPool::builder().threads_max(4).idle_timeout(Duration::from_nanos(1));
    let made = Arc::new(AtomicUsize::new(0));
    let contexts = Arc::clone(&made);
    let factory = move || {
        contexts.fetch_add(1, Ordering::SeqCst);
        Ok(Cell::new(0_u32))
    };
    let pool = pool.context(factory).start().unwrap();
    let database = pool.persistent("database").unwrap();
    assert_eq!(database.name(), "database");
    let log: Log<(u32, String)> = Log::default();
    let number = |count: &mut Cell<u32>| {
        count.set(count.get() + 1);
        count.get()
    };
    for _ in 0..300 {
        let log = Arc::clone(&log);
        database
            .submit(move |count| log.lock().unwrap().push((number(count), thread_name())))
            .unwrap();
    }
    // The same name is the same thread.
    let same = pool.persistent("database").unwrap();
    assert_eq!(same.submit_for(number).unwrap().wait(), Ok(301));
    let expected: Vec<_> = (1..=300).map(|number| (number, "database".to_owned())).collect();
    assert_eq!(*log.lock().unwrap(), expected);
    let other = pool.persistent("other").unwrap();
    assert_eq!(other.submit_for(number).unwrap().wait(), Ok(1));
    assert_eq!(database.stats().threads, 1);
    eventually("statistics of its own", || database.stats().completed == 301);
    assert_eq!(pool.stats().submitted, 0);
    assert_eq!(made.load(Ordering::SeqCst), 3, "one each, and one for the pool's own thread");
}

#[test]
fn a_persistent_thread_has_the_pools_policy_but_never_runs_in_the_caller() {
    for policy in [WhenQueueFull::Fail, WhenQueueFull::RunInCaller] {
        let pool = ThreadPool::builder().queue_capacity(1).when_full(policy).start().unwrap();
        let own = pool.persistent("own").unwrap();
        let gate = Gate::new();
        let wait = gate.wait();
        own.submit(move |()| wait()).unwrap();
        gate.wait_for(1);
        own.submit(|()| ()).unwrap();
        if policy == WhenQueueFull::Fail {
            let rejected = own.submit_for(|()| 7).unwrap_err();
            assert_eq!(rejected.reason, RejectReason::Full);
            assert_eq!((rejected.job)(&mut ()), 7);
            assert_eq!(own.submit(|()| ()).unwrap_err().reason, RejectReason::Full);
        } else {
            std::thread::scope(|scope| {
                let task = scope.spawn(|| own.submit_for(|()| thread_name()).unwrap().wait());
                gate.open();
                assert_eq!(task.join().unwrap(), Ok("own".to_owned()));
            });
        }
    }
}

#[test]
fn a_persistent_thread_stops_with_its_pool() {
    let pool = ThreadPool::builder().start().unwrap();
    let own = pool.persistent("own").unwrap();
    let gate = Gate::new();
    let wait = gate.wait();
    own.submit(move |()| wait()).unwrap();
    gate.wait_for(1);
    own.submit(|()| ()).unwrap();
    let report = pool.stop(StopMode::ReturnQueued, Duration::ZERO);
    assert_eq!(report.jobs.len(), 1);
    assert!(report.threads.iter().any(|thread| thread.name == "own"));
    assert_eq!(own.submit(|()| ()).unwrap_err().reason, RejectReason::Stopping);
    assert!(matches!(pool.persistent("own"), Err(StartError::Stopping)));
    assert!(matches!(pool.persistent("new"), Err(StartError::Stopping)));
}

#[test]
fn a_dropped_pool_waits_for_its_persistent_threads() {
    let pool = ThreadPool::builder().start().unwrap();
    let own = pool.persistent("own").unwrap();
    let gate = Gate::new();
    let (wait, ran) = (gate.wait(), Arc::new(AtomicUsize::new(0)));
    own.submit(move |()| wait()).unwrap();
    let count = Arc::clone(&ran);
    own.submit(move |()| _ = count.fetch_add(1, Ordering::SeqCst)).unwrap();
    std::thread::scope(|scope| {
        let dropping = scope.spawn(move || drop(pool));
        let is_rejected = || own.submit(|()| ()).is_err();
        eventually("the stop", is_rejected);
        let started = Instant::now();
        eventually("some time", || started.elapsed() > Duration::from_millis(20));
        assert!(!dropping.is_finished());
        gate.open();
        dropping.join().unwrap();
    });
    assert_eq!((ran.load(Ordering::SeqCst), own.stats().threads), (1, 0));
    assert_eq!(own.submit(|()| ()).unwrap_err().reason, RejectReason::Stopping);
}

#[test]
fn a_persistent_thread_that_starts_during_the_stop_ends() {
    let gate = Gate::new();
    let (wait, first) = (gate.wait(), AtomicBool::new(true));
    let factory = move || {
        // The pool's own thread does not wait.
        if !first.swap(false, Ordering::SeqCst) {
            wait();
        }
        Ok(())
    };
    let pool = ThreadPool::builder().context(factory).start().unwrap();
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| pool.persistent("own"));
        gate.wait_for(1);
        pool.stop(StopMode::RunQueued, PATIENCE);
        gate.open();
        assert!(matches!(starting.join().unwrap(), Err(StartError::Stopping)));
    });
}

#[test]
fn a_persistent_thread_whose_context_cannot_be_made_is_not_there() {
    let fails = Arc::new(AtomicBool::new(false));
    let pool = ThreadPool::builder().context(unreliable(&fails)).start().unwrap();
    assert!(matches!(pool.persistent("\0"), Err(StartError::Settings(_))));
    fails.store(true, Ordering::SeqCst);
    assert!(matches!(pool.persistent("own"), Err(StartError::Context(_))));
    fails.store(false, Ordering::SeqCst);
    assert_eq!(pool.persistent("own").unwrap().submit_for(|own| *own).unwrap().wait(), Ok(7));
}

// Stopping

#[test]
fn run_queued_runs_all_and_then_fails_submissions() {
    let pool = one_thread(WhenQueueFull::Wait);
    let gate = Gate::new();
    let log = fill(&pool, &gate);
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| pool.stop(StopMode::RunQueued, PATIENCE));
        eventually("the stop", || {
            pool.submit(|_| ()).is_err_and(|rejected| rejected.reason == RejectReason::Stopping)
        });
        assert!(!stop.is_finished());
        gate.open();
        let report = stop.join().unwrap();
        assert!(report.jobs.is_empty() && report.threads.is_empty());
        assert_eq!((report.stats.threads, report.stats.completed), (0, 3));
    });
    assert_eq!(*log.lock().unwrap(), [1, 2]);
    let rejected = pool.submit_for(|_| 7).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::Stopping);
    assert_eq!(pool.stop(StopMode::RunQueued, PATIENCE).stats.threads, 0, "a second time");
}

#[test]
fn return_queued_returns_jobs_which_can_be_run() {
    let pool = one_thread(WhenQueueFull::Wait);
    let gate = Gate::new();
    occupy(&pool, &gate);
    let first = pool.submit_for(|_| 1).unwrap();
    let second = pool.submit_for(|_| 2).unwrap();
    let mut report = pool.stop(StopMode::ReturnQueued, Duration::from_millis(1));
    assert_eq!(report.jobs.len(), 2);
    assert!(!first.is_finished());
    // In the order of their submission.
    report.jobs.remove(0).run(&mut ());
    assert_eq!(first.wait(), Ok(1));
    drop(report);
    assert_eq!(second.wait(), Err(TaskError::NotRun));
}

#[test]
fn at_the_timeout_a_stop_returns_jobs_and_leaves_threads_behind() {
    let log = Log::default();
    let seen = Arc::clone(&log);
    let pool = ThreadPool::builder().name("mine").threads_min(2).threads_max(2);
    let pool = pool.context(move || Ok(Bound::new(&seen))).start().unwrap();
    let gate = Gate::new();
    occupy(&pool, &gate);
    // The other thread ends.
    assert_eq!(pool.submit_for(|own| own.use_it()).unwrap().wait(), Ok(1));
    eventually("one busy thread", || pool.busy_threads().len() == 1);
    let busy = pool.busy_threads();
    let report = pool.stop(StopMode::RunQueued, Duration::from_millis(30));
    let left = report.threads.iter().find(|thread| thread.running.is_some()).unwrap();
    assert_eq!(left.name, busy[0].name);
    assert!(left.running.unwrap() >= Duration::from_millis(30));
    eventually("the end of the other thread", || pool.stats().threads == 1);
    let dropped = || log.lock().unwrap().iter().filter(|(event, _)| *event == "dropped").count();
    assert_eq!(dropped(), 1);
    // When its job returns, it ends as any other.
    gate.open();
    eventually("the last context's drop", || dropped() == 2);
    eventually("its end", || pool.stats().threads == 0);
    assert_eq!(pool.stats().completed, 2);
}

#[test]
fn queued_jobs_are_returned_at_the_timeout() {
    let pool = one_thread(WhenQueueFull::Wait);
    let gate = Gate::new();
    let log = fill(&pool, &gate);
    let report = pool.stop(StopMode::RunQueued, Duration::from_millis(5));
    assert_eq!(report.jobs.len(), 2);
    gate.open();
    drop(pool);
    assert!(log.lock().unwrap().is_empty(), "a job that was returned does not run");
}

#[test]
fn a_drop_runs_what_is_queued() {
    let ran = Arc::new(AtomicUsize::new(0));
    let pool = ThreadPool::builder().threads_max(3).start().unwrap();
    for _ in 0..500 {
        let ran = Arc::clone(&ran);
        pool.submit(move |_| {
            ran.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
    }
    drop(pool);
    assert_eq!(ran.load(Ordering::SeqCst), 500);
}

#[test]
fn jobs_may_stop_their_own_pool_also_two_at_once() {
    let pool = ThreadPool::builder().threads_min(2).threads_max(2).start().unwrap();
    let pool = Arc::new(pool);
    let gate = Gate::new();
    let tasks: Vec<_> = (0..2)
        .map(|_| {
            let (inner, wait) = (Arc::clone(&pool), gate.wait());
            let task = pool.submit_for(move |_| {
                wait();
                inner.stop(StopMode::RunQueued, Duration::MAX).threads.len()
            });
            task.unwrap()
        })
        .collect();
    gate.wait_for(2);
    gate.open();
    for task in tasks {
        let others = task.wait_timeout(PATIENCE).expect("the stop returns").unwrap();
        assert!(others <= 1);
    }
    eventually("the end of both threads", || pool.stats().threads == 0);
}

#[test]
fn a_job_may_drop_its_own_pool() {
    let pool = Arc::new(ThreadPool::builder().threads_max(1).start().unwrap());
    let gate = Gate::new();
    let (inner, wait, (send, ran)) = (Arc::clone(&pool), gate.wait(), channel());
    let task = pool.submit_for(move |_| {
        wait();
        drop(inner);
    });
    // What is queued runs nevertheless.
    pool.submit(move |_| send.send(()).unwrap()).unwrap();
    drop(pool);
    gate.open();
    task.unwrap().wait().unwrap();
    ran.recv_timeout(PATIENCE).unwrap();
}

// Statistics and settings

#[test]
fn blocked_threads_are_told_from_running_ones() {
    let pool = ThreadPool::builder().threads_max(3).start().unwrap();
    let gate = Gate::new();
    occupy(&pool, &gate);
    let (wait, nested) = (gate.wait(), gate.wait());
    pool.submit(move |_| blocking(wait)).unwrap();
    pool.submit(move |_| blocking(|| blocking(nested))).unwrap();
    gate.wait_for(3);
    let stats = pool.stats();
    assert_eq!((stats.threads, stats.running, stats.blocked), (3, 1, 2));
    gate.open();
    eventually("their end", || pool.stats().completed == 3);
    assert_eq!((pool.stats().running, pool.stats().blocked), (0, 0));
    assert_eq!(blocking(|| 7), 7, "elsewhere it changes nothing");
}

#[test]
fn a_panic_ends_the_blocking_it_comes_from() {
    let pool = ThreadPool::builder().threads_max(1).start().unwrap();
    let task = pool.submit_for(|_| blocking(|| -> u32 { panic!("on purpose") })).unwrap();
    assert!(task.wait().is_err());
    let gate = Gate::new();
    occupy(&pool, &gate);
    assert_eq!((pool.stats().running, pool.stats().blocked), (1, 0));
}

#[test]
fn the_time_that_jobs_waited_is_in_the_statistics() {
    let pool = one_thread(WhenQueueFull::Wait);
    let gate = Gate::new();
    fill(&pool, &gate);
    let before = pool.stats();
    assert_eq!(before.queue_times.count(), 1);
    let started = Instant::now();
    let waited = Duration::from_millis(10);
    eventually("some time", || started.elapsed() > waited);
    gate.open();
    let stats = pool.stop(StopMode::RunQueued, PATIENCE).stats;
    assert_eq!((stats.submitted, stats.completed, stats.queue_times.count()), (3, 3, 3));
    let times = stats.queue_times.since(&before.queue_times);
    assert_eq!(times.count(), 2);
    assert!(times.percentile(0.01) > waited, "{times:?}");
}

#[test]
fn settings_out_of_range_are_all_named() {
    let error = ThreadPool::builder()
        .name("a\0b")
        .threads_min(5)
        .threads_max(4)
        .queue_capacity(0)
        .idle_timeout(Duration::ZERO)
        .stack_bytes(1)
        .start()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "settings of the thread pool: threads_min is 5 and threads_max 4, but 1 <= threads_min <= \
         threads_max <= 4096 must hold; queue_capacity is 0, use 1 to 16777216; idle_timeout is \
         zero, use more; stack_bytes is 1, use 65536 to 1073741824; the name is \"a\\0b\", use at \
         least one character and no NUL"
    );
    assert!(ThreadPool::builder().threads_min(0).start().is_err());
    assert!(ThreadPool::builder().threads_max(4_097).start().is_err());
}
