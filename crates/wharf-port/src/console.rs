//! Ctrl-C, Ctrl-Break and the closing of the console: what SIGTERM means on Linux.
//!
//! # Invariants
//!
//! - **INV-CONSOLE-1** The function that the system calls touches nothing but a callback that is
//!   set before it is registered and never changes.

use crate::port::OsError;
use std::sync::OnceLock;
use std::time::Duration;
use windows_sys::Win32::Foundation::{ERROR_ALREADY_EXISTS, GetLastError};
use windows_sys::Win32::System::Console::{
    CTRL_BREAK_EVENT, CTRL_C_EVENT, CTRL_CLOSE_EVENT, CTRL_SHUTDOWN_EVENT, SetConsoleCtrlHandler,
};

type Callback = Box<dyn Fn() + Send + Sync>;

static CALLBACK: OnceLock<Callback> = OnceLock::new();

/// How long the system is kept from ending the process after its console was closed. The system
/// has a limit of its own, mostly 5 s, which counts if it is over first.
const HOLD: Duration = Duration::from_secs(30);

/// Has `callback` called whenever the process is asked to stop: by Ctrl-C, by Ctrl-Break, by the
/// closing of its console, or when the system shuts down.
///
/// It is called on a thread that the system makes for it, perhaps on several at once, and should
/// only pass the word on: post a packet, set a flag. Can be used once in a process.
///
/// After a close or a shutdown the system ends the process as soon as it has been told that the
/// signal is dealt with, so that is put off: the program has until the system's own limit (5 s as
/// a rule), and ends earlier by returning from `main`.
///
/// # Errors
///
/// [`OsError`] if it was used before, or if the system refuses.
pub fn on_stop(callback: impl Fn() + Send + Sync + 'static) -> Result<(), OsError> {
    if CALLBACK.set(Box::new(callback)).is_err() {
        return Err(OsError::new("SetConsoleCtrlHandler", ERROR_ALREADY_EXISTS.cast_signed()));
    }
    // SAFETY: `handle` has the signature asked for, lives as long as the process, and may be
    // called on any thread at any time (INV-CONSOLE-1; HandlerRoutine page).
    let done = unsafe { SetConsoleCtrlHandler(Some(handle), 1) };
    if done != 0 {
        return Ok(());
    }
    // SAFETY: reads a value of the calling thread; no condition.
    let code = unsafe { GetLastError() };
    Err(OsError::new("SetConsoleCtrlHandler", code.cast_signed()))
}

/// 1 says that the signal is dealt with; 0 leaves it to the next handler.
extern "system" fn handle(signal: u32) -> i32 {
    let Some(holds) = holds(signal) else { return 0 };
    if let Some(callback) = CALLBACK.get() {
        // A panic must not leave a function that the system called.
        let call = std::panic::AssertUnwindSafe(callback);
        let _reported_by_the_panic_hook = std::panic::catch_unwind(call);
    }
    if holds {
        std::thread::sleep(HOLD);
    }
    1
}

/// Whether the process ends once the signal is dealt with; `None` if the signal is not for us.
/// A logoff is not: services get it when any user leaves.
fn holds(signal: u32) -> Option<bool> {
    match signal {
        CTRL_C_EVENT | CTRL_BREAK_EVENT => Some(false),
        CTRL_CLOSE_EVENT | CTRL_SHUTDOWN_EVENT => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use windows_sys::Win32::System::Console::CTRL_LOGOFF_EVENT;

    #[test]
    fn a_stop_signal_calls_the_one_callback() {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        on_stop(|| {
            CALLS.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
        assert_eq!((handle(CTRL_C_EVENT), handle(CTRL_BREAK_EVENT)), (1, 1));
        assert_eq!(handle(CTRL_LOGOFF_EVENT), 0);
        assert_eq!(CALLS.load(Ordering::Relaxed), 2);
        assert_eq!(holds(CTRL_CLOSE_EVENT), Some(true));
        assert_eq!(on_stop(|| {}).unwrap_err().code(), 183);
    }
}
