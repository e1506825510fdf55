//! The price of a submission to a thread pool, and the time until an idle pool runs the job:
//! `pools --rounds 15 --jobs 20000`.
//!
//! `wharf::thread_pool`, `rayon::ThreadPool::spawn`, `threadpool` and tokio's `spawn_blocking`, all with
//! two threads (`--threads`), take turns in each round: A B C D A B C D. The output has the median of the
//! rounds, and the quartiles:
//!
//! - ns of a submission, from one thread and from two at once: the jobs add 1 to a counter; the clock
//!   runs until the last submission has returned, and the next measurement waits until all jobs have run;
//! - ns for a job from the first submission until the last job has run;
//! - the same with a pool whose threads are busy, so that no submission wakes one: what the queue costs;
//! - us from a submission until the job runs, while the pool has been idle for 200 us: the median and the
//!   99th percentile of a round.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

const IDLE: Duration = Duration::from_micros(200);

/// A pool of the comparison.
trait Pool: Sync {
    fn spawn(&self, job: impl FnOnce() + Send + 'static);
}

struct Wharf(wharf::thread_pool::ThreadPool);
struct Tokio(tokio::runtime::Runtime);

impl Pool for Wharf {
    fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        self.0.submit(move |()| job()).expect("the pool runs");
    }
}

impl Pool for rayon::ThreadPool {
    fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        self.spawn(job);
    }
}

impl Pool for threadpool::ThreadPool {
    fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        self.execute(job);
    }
}

impl Pool for Tokio {
    fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        drop(self.0.spawn_blocking(job));
    }
}

#[derive(Clone, Copy)]
struct Options {
    rounds: usize,
    jobs: u64,
    latencies: usize,
    threads: usize,
}

/// What a round has measured of one pool.
struct Figures([f64; 6]);

const NAMES: [&str; 6] = [
    "submit, 1 thread, ns",
    "submit, 2 threads, ns",
    "run, 1 thread, ns/job",
    "submit, busy, ns",
    "idle p50, us",
    "idle p99, us",
];

fn main() {
    let options = parse();
    let wharf = wharf::thread_pool::ThreadPool::builder()
        .threads_min(options.threads)
        .threads_max(options.threads)
        .queue_capacity(usize::try_from(options.jobs).expect("a number"))
        .start()
        .expect("the pool starts");
    let wharf = Wharf(wharf);
    let rayon =
        rayon::ThreadPoolBuilder::new().num_threads(options.threads).build().expect("it starts");
    let threadpool = threadpool::ThreadPool::new(options.threads);
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(options.threads)
        .build()
        .expect("it starts");
    let tokio = Tokio(tokio);
    let mut results: [(&str, Vec<Figures>); 4] =
        ["wharf", "rayon", "threadpool", "tokio"].map(|name| (name, Vec::new()));
    // The first round only warms up.
    for round in 0..=options.rounds {
        let figures = [
            measure(&wharf, options),
            measure(&rayon, options),
            measure(&threadpool, options),
            measure(&tokio, options),
        ];
        if round > 0 {
            for ((_, all), figures) in results.iter_mut().zip(figures) {
                all.push(figures);
            }
        }
    }
    println!(
        "{} rounds, {} jobs, {} latencies, {} threads: median (q1-q3)",
        options.rounds, options.jobs, options.latencies, options.threads
    );
    print!("{:<22}", "");
    results.iter().for_each(|(name, _)| print!("{name:>26}"));
    println!();
    for (figure, name) in NAMES.iter().enumerate() {
        print!("{name:<22}");
        for (_, all) in &results {
            let [q1, median, q3] = quartiles(all.iter().map(|figures| figures.0[figure]).collect());
            print!("{:>26}", format!("{median:.1} ({q1:.1}-{q3:.1})"));
        }
        println!();
    }
}

fn parse() -> Options {
    let mut options = Options { rounds: 15, jobs: 20_000, latencies: 300, threads: 2 };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().and_then(|value| value.parse().ok()).expect("a number");
        match flag.as_str() {
            "--rounds" => options.rounds = value,
            "--jobs" => options.jobs = u64::try_from(value).expect("a number"),
            "--latencies" => options.latencies = value,
            "--threads" => options.threads = value,
            _ => panic!("unknown flag {flag}"),
        }
    }
    options
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

fn measure<P: Pool>(pool: &P, options: Options) -> Figures {
    let (one, all) = submissions(pool, options.jobs, 1);
    let (two, _) = submissions(pool, options.jobs, 2);
    let busy = while_busy(pool, options);
    let [median, high] = latencies(pool, options.latencies);
    Figures([one, two, all, busy, median, high])
}

/// ns of a submission, and for a job until all have run.
fn submissions<P: Pool>(pool: &P, jobs: u64, submitters: u64) -> (f64, f64) {
    let ran = Arc::new(AtomicU64::new(0));
    let each = jobs / submitters;
    let start = Instant::now();
    let spent: f64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..submitters)
            .map(|_| {
                scope.spawn(|| {
                    let start = Instant::now();
                    for _ in 0..each {
                        let ran = Arc::clone(&ran);
                        pool.spawn(move || {
                            ran.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                    start.elapsed().as_nanos() as f64
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
    });
    wait_for(&ran, each * submitters);
    let all = start.elapsed().as_nanos() as f64;
    (spent / (each * submitters) as f64, all / (each * submitters) as f64)
}

/// ns of a submission while each thread of the pool is in a job.
fn while_busy<P: Pool>(pool: &P, options: Options) -> f64 {
    let (began, begins) = sync_channel(options.threads);
    let release = Arc::new(AtomicBool::new(false));
    for _ in 0..options.threads {
        let (began, release) = (began.clone(), Arc::clone(&release));
        pool.spawn(move || {
            began.send(()).expect("the receiver waits");
            while !release.load(Ordering::Acquire) {
                std::thread::park_timeout(Duration::from_micros(100));
            }
        });
    }
    (0..options.threads).for_each(|_| begins.recv().expect("they begin"));
    let ran = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    for _ in 0..options.jobs {
        let ran = Arc::clone(&ran);
        pool.spawn(move || {
            ran.fetch_add(1, Ordering::Relaxed);
        });
    }
    let spent = start.elapsed().as_nanos() as f64 / options.jobs as f64;
    release.store(true, Ordering::Release);
    wait_for(&ran, options.jobs);
    spent
}

fn wait_for(ran: &AtomicU64, jobs: u64) {
    while ran.load(Ordering::Relaxed) < jobs {
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// us until an idle pool runs a job: median and 99th percentile.
fn latencies<P: Pool>(pool: &P, count: usize) -> [f64; 2] {
    let (send, receive) = sync_channel::<Duration>(1);
    let mut latencies: Vec<f64> = (0..count)
        .map(|_| {
            std::thread::sleep(IDLE);
            let (send, start) = (send.clone(), Instant::now());
            pool.spawn(move || {
                let latency = start.elapsed();
                send.send(latency).expect("the receiver waits");
            });
            receive.recv().expect("the job runs").as_secs_f64() * 1e6
        })
        .collect();
    latencies.sort_by(f64::total_cmp);
    [latencies[count / 2], latencies[count * 99 / 100]]
}
