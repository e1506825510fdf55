//! Jobs beside a server, on threads of their own: each thread has its database, one writes the journal.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it shows what its jobs do")]
use std::time::Duration;
use wharf::Result;
use wharf::thread_pool::{StopMode, ThreadPool, WhenQueueFull, blocking};

/// What each thread opens for itself; it need not be `Send`.
struct Database;

impl Database {
    fn open() -> Result<Self> {
        Ok(Self)
    }

    fn price_of(&mut self, item: &str) -> Result<u64> {
        // The statistics count the thread as blocked while it waits for the answer.
        let bytes = blocking(|| item.bytes().map(u64::from).sum::<u64>());
        if bytes == 0 { Err(wharf::Error::msg("an item has a name")) } else { Ok(bytes) }
    }
}

fn main() -> Result {
    let pool = ThreadPool::builder()
        .name("shop")
        .threads_min(2)
        .threads_max(16)
        .queue_capacity(1_000)
        .when_full(WhenQueueFull::Wait)
        .context(Database::open)
        .start()?;

    // With a result.
    let price = pool.submit_for(|database| database.price_of("apple"))?;
    println!("an apple: {}", price.wait()??);

    // Without one. A panic is caught and counted, and its thread opens another database.
    for item in ["pear", "plum", "fig"] {
        pool.submit(move |database| match database.price_of(item) {
            Ok(price) => println!("a {item}: {price}"),
            Err(error) => eprintln!("a {item}: {error}"),
        })?;
    }

    // A job that takes long does not keep others from a thread.
    pool.submit_long(|_| println!("stock taken"))?;

    // One thread, always the same, in order: for what only one thread may touch.
    let journal = pool.persistent("journal")?;
    for line in 1..=3 {
        journal.submit(move |_| println!("journal: line {line}"))?;
    }

    let report = pool.stop(StopMode::RunQueued, Duration::from_secs(10));
    let stats = report.stats;
    println!("{} jobs, {} not run", stats.completed, report.jobs.len());
    for thread in report.threads {
        eprintln!("{} still runs its job", thread.name);
    }
    Ok(())
}
