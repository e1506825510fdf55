//! The limit for open files, which all servers of the process share with the program.

use crate::shared::Shared;
use crate::vocabulary::error::StartError;
#[cfg(unix)]
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};

#[expect(clippy::disallowed_types, reason = "held while a server is started, by no shard")]
type Lock<T> = std::sync::Mutex<T>;

/// The reservations of all servers that start or run.
static RESERVATIONS: Lock<Vec<Weak<Reservation>>> = Lock::new(Vec::new());

/// Descriptors for files that the program opens later.
#[cfg(unix)]
const SPARE: u64 = 64;

/// The descriptors that a server may open. Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    shared: Arc<Shared>,
    /// The soft limit before and after, if it was raised.
    pub(super) raised: Option<(u64, u64)>,
}

impl Reservation {
    /// Raises the soft limit for open files to the hard limit if this server, the other servers of
    /// the process and the program need more.
    ///
    /// It raises to the hard limit and not to what is needed, because the program opens files as well.
    ///
    /// # Errors
    ///
    /// The hard limit is too low.
    pub(super) fn new(shared: &Arc<Shared>, listeners: u32) -> Result<Arc<Self>, StartError> {
        // Locked to the end, so that two servers that start at once count each other.
        let mut all = RESERVATIONS.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        let others = all.iter().filter_map(Weak::upgrade).map(|other| other.unopened()).sum();
        let raised = raise_limit(shared.settings.files(listeners), others)?;
        let reservation = Arc::new(Self { shared: Arc::clone(shared), raised });
        all.push(Arc::downgrade(&reservation));
        Ok(reservation)
    }

    /// Descriptors that the server may still open; its listeners are open.
    fn unopened(&self) -> u64 {
        let taken = |shard: &crate::shared::Shard| shard.slots_taken.load(Ordering::Relaxed);
        let taken: u64 = self.shared.shards.iter().map(|shard| u64::from(taken(shard))).sum();
        self.shared.settings.files(0).saturating_sub(taken)
    }
}

/// The addresses on which the servers of this process listen.
pub(super) fn listening() -> Vec<SocketAddr> {
    let all = RESERVATIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let servers = all.iter().filter_map(Weak::upgrade);
    let listeners = |server: Arc<Reservation>| match server.shared.listeners.get() {
        Some(listeners) => listeners.iter().map(|(_, address)| *address).collect(),
        None => Vec::new(),
    };
    servers.flat_map(listeners).collect()
}

#[cfg(unix)]
fn raise_limit(own: u64, others: u64) -> Result<Option<(u64, u64)>, StartError> {
    let limit = getrlimit(Resource::Nofile);
    // `None` means no limit.
    let soft = limit.current.unwrap_or(u64::MAX);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let open = open_files(soft);
    if soft >= own + others + open + SPARE {
        return Ok(None);
    }
    if hard < own + others + open + SPARE {
        return Err(StartError::open_files(own, others, open + SPARE, hard));
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .map_err(|error| StartError::system("setrlimit(NOFILE)", error.into()))?;
    Ok(Some((soft, hard)))
}

/// Descriptors that the process has open.
#[cfg(unix)]
fn open_files(soft: u64) -> u64 {
    let folders = ["/proc/self/fd", "/dev/fd"];
    match folders.iter().find_map(|folder| Some(std::fs::read_dir(folder).ok()?.count())) {
        // One of them is the folder's.
        Some(count) => u64::try_from(count).unwrap_or(u64::MAX).saturating_sub(1),
        // No descriptor is free, or the system has no such folder.
        None if std::fs::File::open("/dev/null").is_err() => soft,
        None => 0,
    }
}

/// Windows has no limit for open sockets except memory.
#[cfg(windows)]
#[expect(clippy::unnecessary_wraps, reason = "the same as on other systems")]
fn raise_limit(_: u64, _: u64) -> Result<Option<(u64, u64)>, StartError> {
    Ok(None)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_need_above_the_hard_limit_is_refused_with_the_figures() {
        let Some(hard) = getrlimit(Resource::Nofile).maximum else {
            let said =
                writeln!(std::io::stderr(), "skipped, because there is no limit for open files");
            return said.unwrap();
        };
        let error = raise_limit(hard, 7).unwrap_err().to_string();
        for part in [&format!("{hard} for this server"), "7 for other servers", "ulimit -Hn"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert_eq!(raise_limit(1, 1).unwrap(), None);
    }
}
