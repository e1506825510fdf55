//! Ctrl-C, Ctrl-Break, the close of the console and the system's shutdown: Windows' counterparts of
//! SIGINT and SIGTERM.
//!
//! # Invariants
//!
//! - **INV-CONSOLE-1** The function that the system calls accesses only a callback that is set
//!   before the function is registered and never changes.

use crate::port::error::OsError;
use std::sync::OnceLock;
use std::time::Duration;
use windows_sys::Win32::Foundation::{ERROR_ALREADY_EXISTS, GetLastError};
use windows_sys::Win32::System::Console::{
    CTRL_BREAK_EVENT, CTRL_C_EVENT, CTRL_CLOSE_EVENT, CTRL_SHUTDOWN_EVENT, SetConsoleCtrlHandler,
};

type Callback = Box<dyn Fn() -> bool + Send + Sync>;

static CALLBACK: OnceLock<Callback> = OnceLock::new();

/// How long the handler delays its return after a close or shutdown event. The system ends the
/// process at its own limit if that is shorter: 5 s by default for a close (HandlerRoutine page).
const HOLD: Duration = Duration::from_secs(30);

/// Registers `callback` for Ctrl-C, Ctrl-Break, the close of the console, and the system's
/// shutdown.
///
/// The system calls it on a new thread for each event, also several at once. It should only post a
/// packet or set a flag. If it returns false, the next handler is called, which by default ends the
/// process. Can be used once in a process.
///
/// After a close or a shutdown the system ends the process when the handler returns, so the handler
/// waits 30 s first: the program can stop until the system's limit (5 s by default), and ends
/// earlier by returning from `main`.
///
/// # Errors
///
/// [`OsError`] if it was used before, or if `SetConsoleCtrlHandler` fails.
pub fn on_stop(callback: impl Fn() -> bool + Send + Sync + 'static) -> Result<(), OsError> {
    if CALLBACK.set(Box::new(callback)).is_err() {
        return Err(OsError::new("SetConsoleCtrlHandler", ERROR_ALREADY_EXISTS.cast_signed()));
    }
    // SAFETY: `handle` has the required signature, lives as long as the process, and may be called
    // on any thread at any time (INV-CONSOLE-1; HandlerRoutine page).
    let done = unsafe { SetConsoleCtrlHandler(Some(handle), 1) };
    if done != 0 {
        return Ok(());
    }
    // SAFETY: reads a value of the calling thread; no condition.
    let code = unsafe { GetLastError() };
    Err(OsError::new("SetConsoleCtrlHandler", code.cast_signed()))
}

/// Returns 1 if the event was handled; after 0 the system calls the next handler.
extern "system" fn handle(signal: u32) -> i32 {
    let Some(holds) = holds(signal) else { return 0 };
    if let Some(callback) = CALLBACK.get() {
        // A panic must not unwind into the system; the panic hook reports it.
        let call = std::panic::AssertUnwindSafe(callback);
        if !std::panic::catch_unwind(call).unwrap_or(true) {
            return 0;
        }
    }
    if holds {
        std::thread::sleep(HOLD);
    }
    1
}

/// Whether the system ends the process when the handler returns; `None` if the event is not
/// handled. CTRL_LOGOFF_EVENT is not: services receive it when any user logs off.
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
        on_stop(|| CALLS.fetch_add(1, Ordering::Relaxed) < 2).unwrap();
        assert_eq!((handle(CTRL_C_EVENT), handle(CTRL_BREAK_EVENT)), (1, 1));
        assert_eq!((handle(CTRL_C_EVENT), handle(CTRL_LOGOFF_EVENT)), (0, 0));
        assert_eq!(CALLS.load(Ordering::Relaxed), 3);
        assert_eq!(holds(CTRL_CLOSE_EVENT), Some(true));
        assert_eq!(on_stop(|| true).unwrap_err().code(), 183);
    }
}
