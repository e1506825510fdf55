//! A thread pool: bounded, growing and shrinking, with a context for each thread. It works alone,
//! without a server.
//!
//! ```
//! use std::time::Duration;
//! use wharf::thread_pool::{StopMode, ThreadPool};
//!
//! # fn main() -> wharf::Result {
//! let pool = ThreadPool::builder().threads_max(8).start()?;
//! pool.submit(|_| println!("on a thread of the pool"))?;
//! let sum = pool.submit_for(|_| (1..=100).sum::<u32>())?;
//! assert_eq!(sum.wait()?, 5_050);
//!
//! let report = pool.stop(StopMode::RunQueued, Duration::from_secs(5));
//! assert!(report.jobs.is_empty() && report.threads.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! Each thread can have a context, such as a database connection, that it makes for itself and lends to
//! its jobs:
//!
//! ```
//! # use wharf::thread_pool::ThreadPool;
//! # struct Connection;
//! # impl Connection {
//! #     fn open() -> wharf::Result<Self> { Ok(Self) }
//! #     fn count(&mut self, _: &str) -> u64 { 7 }
//! # }
//! # fn main() -> wharf::Result {
//! let pool = ThreadPool::builder().threads_min(2).context(Connection::open).start()?;
//! let users = pool.submit_for(|database| database.count("users"))?;
//! assert_eq!(users.wait()?, 7);
//! # Ok(())
//! # }
//! ```
//!
//! # For readers who know `QueueUserWorkItem`
//!
//! | flag | here |
//! | --- | --- |
//! | `WT_EXECUTEDEFAULT` | [`ThreadPool::submit`], or [`submit_for`](ThreadPool::submit_for) for a result |
//! | `WT_EXECUTELONGFUNCTION` | [`ThreadPool::submit_long`]: a thread is started for it at once if none sleeps |
//! | `WT_EXECUTEINPERSISTENTTHREAD` | [`ThreadPool::persistent`]: one named thread, always the same, which the flag does not guarantee; its jobs may be long |
//! | `WT_EXECUTEINIOTHREAD` | a packet to a worker, which is such a thread: [`inbox`](crate::inbox), [`Poster::try_post`](crate::Poster::try_post), [`OnPost`](crate::OnPost). The packet can be a boxed function |
//! | `WT_TRANSFER_IMPERSONATION` | not here: a job runs with the rights of the process. A job that impersonates a client must revert before it returns |
//!
//! As there, the pool starts more threads when all are busy, and ends those that have been idle. Other
//! than there, its queue is bounded, the numbers of threads are the program's, a panic ends no thread,
//! and there is a stop.
//!
//! # When something runs out
//!
//! | what | what happens |
//! | --- | --- |
//! | threads | jobs wait in the queue; below [`threads_max`](Builder::threads_max) another thread is started |
//! | the queue | the submission fails with the job, waits, or runs the job itself: [`WhenQueueFull`] |
//! | time at the stop | what is queued is returned, threads that still run a job are left behind and named: [`ThreadPool::stop`] |
//! | a thread that the system does not start | logged; the job waits for the other threads |
//! | a panic in a job | counted; its task fails, its thread makes another context |
//! | a context that cannot be made | the start fails; later it is logged, counted, and tried again after 1 s |

mod builder;
mod clock;
pub(crate) mod core;
mod error;
mod jobs;
mod persistent;
mod pool;
mod queue_times;
mod record;
mod schedule;
mod stats;
mod task;
mod thread;

pub use builder::Builder;
pub use error::{RejectReason, Rejected, StartError};
pub use jobs::WhenQueueFull;
pub use persistent::PersistentThread;
pub use pool::{BusyThread, StopReport, ThreadPool};
pub use queue_times::QueueTimes;
pub use record::blocking;
pub use schedule::StopMode;
pub use stats::PoolStats;
pub use task::{Job, Task, TaskError};
