//! Jobs that are a plain struct, as the server has them.

use super::*;
use std::sync::mpsc::{Receiver, Sender, channel};

/// A job that says that it runs, and waits until it may end.
#[derive(Debug)]
struct Numbered {
    number: u64,
    begins: Sender<u64>,
    ends: Receiver<()>,
}

struct Plain;

impl Work for Plain {
    type Job = Numbered;
    type Context = u64;

    fn make_context(&self, slot: usize) -> Result<u64, Error> {
        Ok(slot as u64)
    }

    fn run(&self, context: &mut u64, job: Numbered) {
        assert!(*context < 2);
        job.begins.send(job.number).unwrap();
        // Also when the test has dropped the sender.
        let _ended = job.ends.recv();
    }

    fn tag(&self, job: &Numbered) -> u64 {
        job.number
    }

    fn context_failed(&self, _: usize, error: &Error) {
        unreachable!("{error}")
    }
}

fn config(queue_capacity: usize) -> Config {
    Config {
        name: "plain".to_owned(),
        limits: Limits { threads_min: 2, threads_max: 2, queue_capacity },
        idle_timeout: Duration::from_secs(10),
        stack_bytes: None,
    }
}

#[test]
fn a_watchdog_sees_which_job_runs_and_since_when() {
    let core = Core::start(Plain, config(4)).unwrap();
    assert_eq!(core.current().count(), 0);
    let (begins, began) = channel();
    let (end, ends) = channel();
    let before = core.now_ns();
    core.try_submit(Numbered { number: 1 << 40, begins: begins.clone(), ends }, false).unwrap();
    began.recv().unwrap();
    let current: Vec<_> = core.current().collect();
    let [(slot, job)] = current[..] else { panic!("{current:?}") };
    assert_eq!(job.tag, 1 << 40);
    assert!((before..=core.now_ns()).contains(&job.began_ns));
    assert_eq!(core.thread_name(slot), format!("plain-{slot}"));
    drop(end);
    while core.current().count() > 0 {
        std::thread::yield_now();
    }
    // A full queue returns the job.
    let jobs: Vec<_> = (0..7)
        .map(|number| {
            let (end, ends) = channel();
            (end, core.try_submit(Numbered { number, begins: begins.clone(), ends }, false))
        })
        .collect();
    let (job, refusal) = jobs.into_iter().find_map(|(_, job)| job.err()).unwrap();
    assert_eq!(refusal, Refusal::Full);
    assert!((4..7).contains(&job.number));
}

#[test]
fn a_stop_names_the_jobs_of_the_threads_that_it_leaves_behind() {
    let core = Core::start(Plain, config(4)).unwrap();
    let (begins, began) = channel();
    let ends: Vec<_> = (0..3)
        .map(|number| {
            let (end, ends) = channel();
            let job = Numbered { number, begins: begins.clone(), ends };
            core.try_submit(job, false).unwrap();
            end
        })
        .collect();
    let mut numbers = [began.recv().unwrap(), began.recv().unwrap()];
    numbers.sort_unstable();
    let left = core.stop(StopMode::RunQueued, Duration::from_millis(1));
    let mut tags: Vec<_> = left.threads.iter().map(|(_, job)| job.unwrap().tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, numbers);
    assert_eq!(left.jobs.iter().map(|job| job.number).collect::<Vec<_>>(), [2]);
    // They end when their jobs do, and then a stop leaves none.
    drop(ends);
    let left = core.stop(StopMode::RunQueued, Duration::MAX);
    assert!(left.threads.is_empty() && left.jobs.is_empty());
}

#[test]
fn a_queue_or_a_stack_that_the_system_cannot_give_fails_the_start() {
    let failure = Core::start(Plain, config(usize::MAX)).unwrap_err();
    assert!(matches!(failure, Failure::Memory), "{failure:?}");
    // More than the address space has.
    let config = Config { stack_bytes: Some(1 << 60), ..config(4) };
    let failure = Core::start(Plain, config).unwrap_err();
    assert!(matches!(failure, Failure::Thread(_)), "{failure:?}");
}
