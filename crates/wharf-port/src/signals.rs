//! Signals that a program catches for a time; afterwards their actions are restored.
//!
//! The crate `signal-hook` cannot restore an action: a handler that it has set stays for the life of
//! the process.
//!
//! # Invariants
//!
//! - **INV-SIGNAL-1** The handler calls only `getpid` and `send`, and accesses only atomics and the thread's `errno`,
//!   which are async-signal-safe (signal-safety(7)).
//! - **INV-SIGNAL-2** A descriptor in `WRITERS` is open: it is removed, and no handler that may have
//!   loaded it runs any more (`RUNNING` was 0 since), before it is closed.
//! - **INV-SIGNAL-3** The action stored in `OLD` is one that the system had returned, and is set only
//!   for the signal that had it.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::ptr::{null, null_mut};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

#[expect(clippy::disallowed_types, reason = "held while actions are set; no shard does that")]
type Lock<T> = std::sync::Mutex<T>;

/// The write ends of all `CaughtSignals`; -1: none.
static WRITERS: [AtomicI32; 64] = [const { AtomicI32::new(-1) }; 64];
/// Handlers that run now.
static RUNNING: AtomicU32 = AtomicU32::new(0);
/// The process that catches signals. A process that was forked from it has the handler, the same
/// sockets, and perhaps a count of handlers that do not run in it.
static PROCESS: AtomicU32 = AtomicU32::new(0);
/// Of each signal that is caught: its number, the number of `CaughtSignals`, and its action before.
static OLD: Lock<Vec<(i32, u32, Action)>> = Lock::new(Vec::new());

/// An action of sigaction(2).
struct Action(libc::sigaction);

// SAFETY: an action is numbers and the address of a function, which any thread may call.
unsafe impl Send for Action {}

/// Signals that the process catches; when it is dropped, the actions before are restored.
#[derive(Debug)]
pub struct CaughtSignals {
    signals: Vec<i32>,
    /// Holds one byte for each signal: its number.
    bytes: UnixStream,
    writer: UnixStream,
}

/// Ends waits for signals, from any thread.
#[derive(Debug)]
pub struct Waker(UnixStream);

impl CaughtSignals {
    /// Catches those of `signals` that are not ignored: it replaces their actions. Several
    /// `CaughtSignals` of a process each get every signal.
    ///
    /// # Errors
    ///
    /// The system's, if no descriptors are left; or signals are caught 64 times already.
    pub fn catch(signals: &[i32]) -> io::Result<Self> {
        let (bytes, writer) = UnixStream::pair()?;
        let mut caught = Self { signals: Vec::new(), bytes, writer };
        let mut old = OLD.lock().unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        let before = PROCESS.swap(process, Ordering::SeqCst);
        if before != 0 && before != process {
            // A forked process: what catches signals in the other one does not catch them here.
            WRITERS.iter().for_each(|place| place.store(-1, Ordering::SeqCst));
            RUNNING.store(0, Ordering::SeqCst);
            old.iter_mut().for_each(|(_, holders, _)| *holders = 0);
        }
        let fd = caught.writer.as_raw_fd();
        let is_free = |place: &&AtomicI32| {
            place.compare_exchange(-1, fd, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        };
        if WRITERS.iter().find(is_free).is_none() {
            return Err(io::Error::other("signals are caught 64 times already"));
        }
        for &signal in signals {
            if let Some((_, holders, _)) = old.iter_mut().find(|(number, ..)| *number == signal) {
                *holders += 1;
            } else {
                let before = action_of(signal)?;
                if before.0.sa_sigaction == libc::SIG_IGN {
                    continue;
                }
                set_action(signal, &ours())?;
                old.push((signal, 1, before));
            }
            caught.signals.push(signal);
        }
        drop(old);
        Ok(caught)
    }

    /// Waits for the next signal, at most for `timeout`; without end if that is `None`. Meanwhile this
    /// thread does not block the signals. Returns `None` at the timeout, or when it was woken.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Option<i32> {
        let until = timeout.map(|timeout| now() + timeout);
        let _unblocked = Unblocked::new(&self.signals);
        let mut byte = [0];
        loop {
            // `set_read_timeout` fails only for zero.
            let left = until.map(|until| until.saturating_duration_since(now()));
            let left = left.map(|left| left.max(Duration::from_millis(1)));
            self.bytes.set_read_timeout(left).ok()?;
            match self.bytes.read(&mut byte) {
                Ok(_) => return (byte != [0]).then(|| byte[0].into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    /// What ends a wait.
    ///
    /// # Errors
    ///
    /// The system's, if no descriptors are left.
    pub fn waker(&self) -> io::Result<Waker> {
        Ok(Waker(self.writer.try_clone()?))
    }
}

impl Waker {
    /// Ends the wait for signals, or the next one.
    pub fn wake(&self) {
        // SAFETY: the byte is one byte, and lives; the descriptor is this one's. It fails only after the
        // end that is read was closed; SIGPIPE is not raised.
        unsafe { libc::send(self.0.as_raw_fd(), [0_u8].as_ptr().cast(), 1, libc::MSG_NOSIGNAL) };
    }
}

impl Drop for CaughtSignals {
    fn drop(&mut self) {
        let mut old = OLD.lock().unwrap_or_else(PoisonError::into_inner);
        for signal in &self.signals {
            let Some(at) = old.iter().position(|(number, ..)| number == signal) else { continue };
            old[at].1 = old[at].1.saturating_sub(1);
            if old[at].1 > 0 {
                continue;
            }
            let (_, _, before) = old.swap_remove(at);
            // An action that the program has set meanwhile stays.
            if action_of(*signal).is_ok_and(|now| now.0.sa_sigaction == ours().0.sa_sigaction) {
                let _it_was_set_before = set_action(*signal, &before);
            }
        }
        drop(old);
        let fd = self.writer.as_raw_fd();
        for place in &WRITERS {
            let _another = place.compare_exchange(fd, -1, Ordering::SeqCst, Ordering::SeqCst);
        }
        // INV-SIGNAL-2: a handler that starts from now on does not load the descriptor.
        while RUNNING.load(Ordering::SeqCst) > 0 && is_own_process() {
            std::thread::yield_now();
        }
    }
}

/// Whether this is the process that catches signals, and not one that was forked from it.
fn is_own_process() -> bool {
    // `std::process::id` is getpid(2), which is async-signal-safe.
    std::process::id() == PROCESS.load(Ordering::SeqCst)
}

#[expect(clippy::disallowed_methods, reason = "a wait for signals is not simulated")]
fn now() -> Instant {
    Instant::now()
}

/// Writes the signal's number to all `CaughtSignals`. In a forked process it does nothing: the sockets
/// are those of the process before the fork, which the signal does not concern.
extern "C" fn handle(signal: i32) {
    if !is_own_process() {
        return;
    }
    RUNNING.fetch_add(1, Ordering::SeqCst);
    // SAFETY: every thread has an `errno`, and it keeps its address.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; only this thread accesses it.
    let before = unsafe { *errno };
    let byte = u8::try_from(signal).unwrap_or(u8::MAX);
    for place in &WRITERS {
        let fd = place.load(Ordering::SeqCst);
        if fd >= 0 {
            // SAFETY: `byte` is one byte, and lives; the descriptor is open (INV-SIGNAL-2). If it is
            // full, signals are pending. SIGPIPE is not raised.
            unsafe {
                libc::send(fd, (&raw const byte).cast(), 1, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            };
        }
    }
    // SAFETY: as above.
    unsafe { *errno = before };
    RUNNING.fetch_sub(1, Ordering::SeqCst);
}

/// The action that calls `handle`; interrupted calls are restarted.
///
/// Not on the thread's alternate stack: `std::process::exit` unmaps that of the main thread, and a
/// program that exits on a signal may do so before the handler on the main thread has returned.
fn ours() -> Action {
    let mut action = empty_action();
    action.0.sa_sigaction = handle as *const () as usize;
    action.0.sa_flags = libc::SA_RESTART;
    action
}

/// The default action, with an empty mask.
fn empty_action() -> Action {
    // SAFETY: the type is numbers and an optional address, for which zero is valid.
    Action(unsafe { std::mem::zeroed() })
}

fn action_of(signal: i32) -> io::Result<Action> {
    let mut action = empty_action();
    // SAFETY: `action` is valid for writes; nothing is set.
    let done = unsafe { libc::sigaction(signal, null(), &raw mut action.0) };
    if done == 0 { Ok(action) } else { Err(io::Error::last_os_error()) }
}

fn set_action(signal: i32, action: &Action) -> io::Result<()> {
    // SAFETY: the action is ours, whose handler may run at any time and on any thread (INV-SIGNAL-1),
    // or one that the system had for this signal (INV-SIGNAL-3).
    let done = unsafe { libc::sigaction(signal, &raw const action.0, null_mut()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Signals that this thread does not block until this is dropped, whatever it blocked before.
struct Unblocked(libc::sigset_t);

impl Unblocked {
    fn new(signals: &[i32]) -> Self {
        // SAFETY: a set is numbers, for which zero is valid; on Linux it is the empty set.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        let mut before = set;
        for signal in signals {
            // SAFETY: `set` is valid for writes.
            unsafe { libc::sigaddset(&raw mut set, *signal) };
        }
        // SAFETY: both sets are valid, and the call changes the mask of this thread only.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, &raw mut before) };
        Self(before)
    }
}

impl Drop for Unblocked {
    fn drop(&mut self) {
        // SAFETY: the set is one that the call returned.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raise(signal: i32) {
        // SAFETY: the signal's action is the one that the test has set.
        assert_eq!(unsafe { libc::raise(signal) }, 0);
    }

    #[test]
    fn each_is_told_of_a_signal_and_the_action_before_is_restored() {
        // SIGWINCH: its default is to be ignored, and no other test uses it.
        const SIGNAL: i32 = libc::SIGWINCH;
        let action = || action_of(SIGNAL).unwrap().0.sa_sigaction;
        assert_eq!(action(), libc::SIG_DFL);
        let mut one = CaughtSignals::catch(&[SIGNAL]).unwrap();
        let mut other = CaughtSignals::catch(&[SIGNAL]).unwrap();
        raise(SIGNAL);
        assert_eq!((one.wait(None), other.wait(None)), (Some(SIGNAL), Some(SIGNAL)));
        drop(one);
        assert_ne!(action(), libc::SIG_DFL);
        raise(SIGNAL);
        assert_eq!(other.wait(None), Some(SIGNAL));
        assert_eq!(other.wait(Some(Duration::ZERO)), None);
        let waker = other.waker().unwrap();
        waker.wake();
        assert_eq!(other.wait(None), None);
        drop(other);
        waker.wake();
        assert_eq!(action(), libc::SIG_DFL);
        assert!(WRITERS.iter().all(|place| place.load(Ordering::SeqCst) == -1));
        a_forked_process_gives_its_signals_to_itself_only(SIGNAL);
    }

    /// Not a test of its own, because all that are caught get every signal.
    fn a_forked_process_gives_its_signals_to_itself_only(signal: i32) {
        let mut caught = CaughtSignals::catch(&[signal]).unwrap();
        // SAFETY: the child calls only what is async-signal-safe.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe { libc::raise(signal) };
            // SAFETY: as above; it ends the child.
            unsafe { libc::_exit(7) };
        }
        assert!(child > 0);
        let mut status = 0;
        // SAFETY: `status` is valid for writes.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(libc::WEXITSTATUS(status), 7);
        assert_eq!(caught.wait(Some(Duration::from_millis(50))), None);
        raise(signal);
        assert_eq!(caught.wait(None), Some(signal));
    }
}
