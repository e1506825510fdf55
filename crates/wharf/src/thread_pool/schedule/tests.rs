//! Every interleaving of submitters, threads and a stop, down to the sections under the lock and the
//! wake-ups between them: threads of a model take one step each in every possible order, and no order
//! may lose a job, run one twice, or leave one waiting while a thread sleeps.

use super::*;
use std::collections::HashSet;

/// What one thread of the model does next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Thread {
    /// The slot has none.
    None,
    Started,
    Making {
        /// After a failure.
        again: bool,
    },
    /// Its context could not be made.
    Waiting,
    Taking,
    Running(u8),
    Asleep {
        expires: bool,
    },
    /// It drops its context.
    Ending,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Model {
    schedule: Schedule<u8>,
    threads: Vec<Thread>,
    /// The call that the thread of a slot has to do before its next step.
    calls: Vec<Call>,
    /// The calls of threads that have ended, and of submitters.
    other_calls: Vec<Call>,
    /// The wake-up tokens of `std::thread::park`.
    tokens: Vec<bool>,
    /// Jobs that are not yet submitted, by submitter; odd ones are long.
    to_submit: Vec<Vec<u8>>,
    ran: Vec<u8>,
    returned: Vec<u8>,
    rejected: Vec<u8>,
    stop: Option<StopMode>,
    /// The stop has released the lock and has not yet woken the threads.
    unpark_all: bool,
    /// How many contexts, starts of threads and jobs may still fail.
    failures: usize,
    start_was_refused: bool,
    /// The first threads have had the lock.
    has_begun: bool,
}

struct Case {
    limits: Limits,
    to_submit: Vec<Vec<u8>>,
    stop: Option<StopMode>,
    failures: usize,
}

fn limits(threads_min: usize, threads_max: usize, queue_capacity: usize) -> Limits {
    Limits { threads_min, threads_max, queue_capacity }
}

impl Model {
    fn new(case: &Case) -> Self {
        let mut schedule = Schedule::new(case.limits).unwrap();
        let mut threads = vec![Thread::None; case.limits.threads_max];
        for slot in schedule.begin() {
            threads[slot] = Thread::Started;
        }
        schedule.open();
        Self {
            schedule,
            calls: vec![Call::Nothing; threads.len()],
            other_calls: Vec::new(),
            tokens: vec![false; threads.len()],
            threads,
            to_submit: case.to_submit.clone(),
            ran: Vec::new(),
            returned: Vec::new(),
            rejected: Vec::new(),
            stop: case.stop,
            unpark_all: false,
            failures: case.failures,
            start_was_refused: false,
            has_begun: false,
        }
    }

    /// All that can happen next. Steps that only pass time are apart.
    fn nexts(&self) -> (Vec<Self>, Vec<Self>) {
        let (mut steps, mut times) = (Vec::new(), Vec::new());
        for submitter in 0..self.to_submit.len() {
            if !self.to_submit[submitter].is_empty() {
                steps.push(self.clone().after(|model| model.submit(submitter)));
            }
        }
        for call in 0..self.other_calls.len() {
            for fails in self.failing() {
                steps.push(self.clone().after(|model| {
                    let call = model.other_calls.remove(call);
                    let next = model.perform(call, fails);
                    model.other_calls.extend(next);
                }));
            }
        }
        if let Some(mode) = self.stop {
            steps.push(self.clone().after(|model| {
                model.stop = None;
                model.returned.extend(model.schedule.stop(mode));
                model.unpark_all = true;
            }));
        }
        if self.unpark_all {
            steps.push(self.clone().after(|model| {
                model.unpark_all = false;
                model.tokens.fill(true);
            }));
        }
        for slot in 0..self.threads.len() {
            self.thread_steps(slot, &mut steps, &mut times);
        }
        (steps, times)
    }

    fn failing(&self) -> Vec<bool> {
        if self.failures > 0 { vec![false, true] } else { vec![false] }
    }

    fn after(mut self, step: impl FnOnce(&mut Self)) -> Self {
        step(&mut self);
        self
    }

    fn submit(&mut self, submitter: usize) {
        let job = self.to_submit[submitter].remove(0);
        match self.schedule.push(job, 0, job % 2 == 1) {
            Ok(Call::Nothing) => {}
            Ok(call) => self.other_calls.push(call),
            Err((job, _)) => self.rejected.push(job),
        }
    }

    /// Does a call; returns the one that follows from it.
    fn perform(&mut self, call: Call, fails: bool) -> Option<Call> {
        match call {
            Call::Nothing => {}
            Call::Wake(slot) => self.tokens[slot] = true,
            Call::Start(slot) if fails => {
                self.failures -= 1;
                self.start_was_refused = true;
                return Some(self.schedule.start_failed(slot))
                    .filter(|call| *call != Call::Nothing);
            }
            Call::Start(slot) => {
                assert_eq!(self.threads[slot], Thread::None, "two threads in a slot");
                self.threads[slot] = Thread::Started;
            }
        }
        None
    }

    fn thread_steps(&self, slot: usize, steps: &mut Vec<Self>, times: &mut Vec<Self>) {
        let call = self.calls[slot];
        if call != Call::Nothing {
            for fails in self.failing() {
                steps.push(self.clone().after(|model| {
                    model.calls[slot] = Call::Nothing;
                    let next = model.perform(call, fails);
                    model.calls[slot] = next.unwrap_or(Call::Nothing);
                }));
            }
            return;
        }
        match self.threads[slot].clone() {
            Thread::None => {}
            Thread::Started => steps.push(self.clone().after(|model| {
                let makes = model.schedule.arrive();
                model.make(slot, makes);
                model.has_begun |= model.schedule.starting == 0;
            })),
            Thread::Making { .. } => {
                for fails in self.failing() {
                    steps.push(self.clone().after(|model| model.made(slot, fails)));
                }
            }
            Thread::Waiting => {
                times.push(self.clone().after(|model| match model.schedule.retry() {
                    true => model.threads[slot] = Thread::Making { again: true },
                    false => model.threads[slot] = Thread::Ending,
                }))
            }
            Thread::Taking => steps.push(self.clone().after(|model| {
                let next = model.schedule.take(slot);
                model.go_on(slot, next);
            })),
            Thread::Running(job) => {
                for panics in self.failing() {
                    steps.push(self.clone().after(|model| model.ran(slot, job, panics)));
                }
            }
            Thread::Ending => steps.push(self.clone().after(|model| model.end(slot))),
            Thread::Asleep { expires } => self.sleep_steps(slot, expires, steps, times),
        }
    }

    fn sleep_steps(
        &self,
        slot: usize,
        expires: bool,
        steps: &mut Vec<Self>,
        times: &mut Vec<Self>,
    ) {
        if self.tokens[slot] {
            steps.push(self.clone().after(|model| {
                model.tokens[slot] = false;
                // Under one lock.
                if model.schedule.wake(slot) {
                    let next = model.schedule.take(slot);
                    model.go_on(slot, next);
                }
            }));
        }
        if expires {
            times.push(self.clone().after(|model| {
                let next = match model.schedule.wake(slot) {
                    true => model.schedule.take(slot),
                    false => model.schedule.expire(slot),
                };
                model.go_on(slot, next);
            }));
        }
    }

    fn make(&mut self, slot: usize, makes: Option<Call>) {
        match makes {
            Some(call) => {
                self.calls[slot] = call;
                self.threads[slot] = Thread::Making { again: false };
            }
            None => self.end(slot),
        }
    }

    fn made(&mut self, slot: usize, fails: bool) {
        if !fails {
            let next = self.schedule.take_first(slot);
            return self.go_on(slot, next);
        }
        self.failures -= 1;
        match self.schedule.context_failed() {
            true => self.threads[slot] = Thread::Waiting,
            false => self.threads[slot] = Thread::Ending,
        }
    }

    fn go_on(&mut self, slot: usize, next: Next<u8>) {
        match next {
            Next::Run(job, call) => {
                self.calls[slot] = call;
                self.threads[slot] = Thread::Running(job.job);
            }
            Next::Sleep { expires } => self.threads[slot] = Thread::Asleep { expires },
            Next::End => self.threads[slot] = Thread::Ending,
        }
    }

    fn ran(&mut self, slot: usize, job: u8, panics: bool) {
        self.ran.push(job);
        self.ran.sort_unstable();
        if panics {
            self.failures -= 1;
            let makes = self.schedule.make_context();
            self.make(slot, makes);
        } else {
            self.threads[slot] = Thread::Taking;
        }
    }

    fn end(&mut self, slot: usize) {
        self.threads[slot] = Thread::None;
        // A later thread of this slot may find the token of this one.
        match self.schedule.end(slot) {
            Call::Nothing => {}
            call => self.other_calls.push(call),
        }
    }

    fn check(&self) {
        let Schedule { jobs, idle, free, coming, making, broken, .. } = &self.schedule;
        let is_called = jobs.is_empty() || idle.is_empty() || *coming > 0;
        assert!(is_called, "INV-CALL: {self:#?}");
        let grows = self.schedule.phase != Phase::Running
            || jobs.len() <= *making
            || !idle.is_empty()
            || free.is_empty()
            || *coming > 0
            // Growth goes on when a context could be made.
            || *broken > 0
            || self.threads.contains(&Thread::Making { again: true })
            // It is not busy, and calls the next thread if it leaves a job.
            || self.threads.contains(&Thread::Taking)
            || self.start_was_refused;
        assert!(grows, "INV-GROW: {self:#?}");
        assert!(jobs.len() <= self.schedule.limits.queue_capacity);
        let is_there =
            |thread: &&Thread| !matches!(thread, Thread::None | Thread::Started | Thread::Ending);
        let there = self.threads.iter().filter(is_there).count();
        let has_min = there >= self.schedule.limits.threads_min || self.schedule.is_stopping();
        assert!(has_min || !self.has_begun, "INV-MIN: {self:#?}");
    }

    /// Nothing more happens, unless time passes.
    fn check_end(&self, case: &Case) {
        let mut all: Vec<u8> = [&self.ran[..], &self.returned, &self.rejected].concat();
        if case.stop.is_some() {
            assert!(self.threads.iter().all(|thread| *thread == Thread::None), "{self:#?}");
            // Without a context nothing can run; the stop returns it then.
            assert!(self.schedule.jobs.is_empty() || case.failures > 0, "{self:#?}");
            all.extend(self.schedule.jobs.iter().map(|queued| queued.job));
        } else if self.schedule.broken == 0 {
            assert!(self.schedule.jobs.is_empty(), "a job waits: {self:#?}");
        } else {
            return;
        }
        all.sort_unstable();
        let mut submitted: Vec<u8> = case.to_submit.concat();
        submitted.sort_unstable();
        assert_eq!(all, submitted, "{self:#?}");
    }
}

/// Goes through all interleavings; returns the number of states, and of those at an end.
fn explore(case: &Case) -> (usize, usize) {
    let first = Model::new(case);
    let mut seen = HashSet::from([first.clone()]);
    let (mut open, mut ends) = (vec![first], 0);
    while let Some(model) = open.pop() {
        model.check();
        let (steps, times) = model.nexts();
        if steps.is_empty() && times.iter().all(|_| !model.has_waiting()) {
            model.check_end(case);
            ends += 1;
        }
        for next in steps.into_iter().chain(times) {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    (seen.len(), ends)
}

impl Model {
    fn has_waiting(&self) -> bool {
        self.threads.contains(&Thread::Waiting)
    }
}

#[test]
fn no_interleaving_loses_a_job_or_a_wake_up() {
    for (limits, to_submit) in [
        (limits(1, 1, 2), vec![vec![0, 2], vec![4, 6]]),
        (limits(1, 2, 4), vec![vec![0, 2], vec![4]]),
        (limits(2, 2, 4), vec![vec![0, 2], vec![4]]),
        (limits(1, 3, 4), vec![vec![0, 2, 4]]),
        (limits(1, 2, 4), vec![vec![1, 2], vec![3]]),
    ] {
        let case = Case { limits, to_submit, stop: None, failures: 0 };
        let (states, ends) = explore(&case);
        assert!(states > 100 && ends > 0, "{states} states, {ends} ends");
    }
}

#[test]
fn no_interleaving_with_a_stop_loses_a_job_or_a_thread() {
    for stop in [StopMode::RunQueued, StopMode::ReturnQueued] {
        for (limits, to_submit) in [
            (limits(1, 1, 2), vec![vec![0, 2], vec![4]]),
            (limits(1, 2, 4), vec![vec![0], vec![2, 3]]),
            (limits(2, 2, 4), vec![vec![0, 2]]),
        ] {
            explore(&Case { limits, to_submit, stop: Some(stop), failures: 0 });
        }
    }
}

#[test]
fn no_interleaving_with_failures_loses_a_job_or_a_thread() {
    for stop in [None, Some(StopMode::RunQueued), Some(StopMode::ReturnQueued)] {
        for (limits, to_submit) in [
            (limits(1, 1, 2), vec![vec![0, 2]]),
            (limits(1, 2, 4), vec![vec![0, 2]]),
            (limits(1, 2, 4), vec![vec![1], vec![2]]),
        ] {
            explore(&Case { limits, to_submit, stop, failures: 2 });
        }
    }
}

/// A schedule of `max` threads that sleep, in the order of their slots.
fn asleep(limits: Limits) -> Schedule<u8> {
    let mut schedule = Schedule::new(limits).unwrap();
    for slot in schedule.begin().into_iter().rev() {
        assert_eq!(schedule.arrive(), Some(Call::Nothing));
        assert!(matches!(schedule.take_first(slot), Next::Sleep { .. }));
    }
    schedule.open();
    schedule
}

#[test]
fn the_thread_that_fell_asleep_last_is_woken_first() {
    let mut schedule = asleep(limits(3, 3, 8));
    for _ in 0..5 {
        assert_eq!(schedule.push(0, 0, false), Ok(Call::Wake(2)));
        assert!(schedule.wake(2));
        assert!(matches!(schedule.take(2), Next::Run(_, Call::Nothing)));
        assert_eq!(schedule.take(2), Next::Sleep { expires: false });
    }
}

#[test]
fn a_burst_calls_one_thread_which_calls_the_next() {
    let mut schedule = asleep(limits(2, 3, 8));
    assert_eq!(schedule.push(0, 0, false), Ok(Call::Wake(1)));
    assert_eq!(schedule.push(1, 0, false), Ok(Call::Nothing));
    assert_eq!(schedule.push(2, 0, false), Ok(Call::Nothing));
    assert!(schedule.wake(1));
    assert!(matches!(schedule.take(1), Next::Run(_, Call::Wake(0))));
    assert!(schedule.wake(0));
    assert!(matches!(schedule.take(0), Next::Run(_, Call::Start(2))));
    assert_eq!(schedule.arrive(), Some(Call::Nothing));
}

#[test]
fn a_thread_that_makes_its_context_is_counted_on() {
    let mut schedule = Schedule::new(limits(1, 3, 8)).unwrap();
    schedule.begin();
    schedule.open();
    assert_eq!(schedule.push(0, 0, false), Ok(Call::Nothing), "the first thread is coming");
    assert_eq!(schedule.arrive(), Some(Call::Nothing));
    assert_eq!(schedule.push(1, 0, false), Ok(Call::Start(1)));
    assert_eq!(schedule.arrive(), Some(Call::Nothing), "one job for each of the two");
    assert!(matches!(schedule.take_first(0), Next::Run(_, Call::Nothing)));
    assert!(matches!(schedule.take_first(1), Next::Run(_, Call::Nothing)));
}

#[test]
fn a_thread_without_a_context_tries_again_while_it_is_needed() {
    let mut schedule = asleep(limits(1, 2, 8));
    assert_eq!(schedule.push(0, 0, true), Ok(Call::Wake(0)));
    assert_eq!(schedule.push(1, 0, true), Ok(Call::Start(1)));
    assert_eq!(schedule.arrive(), Some(Call::Nothing));
    // Above the minimum while work waits.
    assert!(schedule.context_failed() && schedule.retry());
    assert!(schedule.wake(0));
    assert!(matches!(schedule.take(0), Next::Run(..)));
    assert!(matches!(schedule.take(0), Next::Run(..)));
    // Above the minimum when none waits.
    assert!(schedule.context_failed() && !schedule.retry());
    assert_eq!(schedule.end(1), Call::Nothing);
    // At the minimum.
    assert_eq!(schedule.make_context(), Some(Call::Nothing), "after a panic");
    assert!(schedule.context_failed() && schedule.retry());
}

#[test]
fn a_thread_whose_idle_timeout_passes_stays_while_work_waits() {
    let mut schedule = asleep(limits(1, 2, 8));
    assert_eq!(schedule.push(0, 0, true), Ok(Call::Wake(0)));
    assert_eq!(schedule.push(1, 0, true), Ok(Call::Start(1)));
    assert_eq!(schedule.arrive(), Some(Call::Nothing));
    assert!(matches!(schedule.take_first(1), Next::Run(..)));
    assert!(schedule.wake(0));
    assert!(matches!(schedule.take(0), Next::Run(..)));
    assert_eq!(schedule.take(0), Next::Sleep { expires: true });
    assert_eq!(schedule.take(1), Next::Sleep { expires: true });
    assert_eq!(schedule.push(2, 0, false), Ok(Call::Wake(1)));
    assert_eq!(schedule.expire(0), Next::Sleep { expires: true }, "thread 1 may call it");
    assert!(schedule.wake(1));
    assert!(matches!(schedule.take(1), Next::Run(..)));
    assert_eq!(schedule.expire(0), Next::End);
}

#[test]
fn a_thread_makes_no_context_for_a_pool_that_stops() {
    let mut schedule = asleep(limits(1, 2, 8));
    assert_eq!(schedule.push(0, 0, true), Ok(Call::Wake(0)));
    assert_eq!(schedule.push(1, 0, true), Ok(Call::Start(1)));
    assert_eq!(schedule.stop(StopMode::RunQueued), []);
    assert_eq!(schedule.stop(StopMode::ReturnQueued), [0, 1]);
    assert_eq!(schedule.arrive(), None);
    assert_eq!(schedule.end(1), Call::Nothing);
    assert!(schedule.wake(0));
    assert_eq!(schedule.take(0), Next::End);
}

#[test]
fn a_long_job_calls_a_thread_also_while_another_is_coming() {
    let mut schedule = asleep(limits(1, 3, 8));
    assert_eq!(schedule.push(0, 0, false), Ok(Call::Wake(0)));
    assert_eq!(schedule.push(1, 0, false), Ok(Call::Nothing));
    assert_eq!(schedule.push(2, 0, true), Ok(Call::Start(1)));
    assert_eq!(schedule.push(3, 0, true), Ok(Call::Start(2)));
    assert_eq!(schedule.push(4, 0, true), Ok(Call::Nothing), "the maximum");
}
