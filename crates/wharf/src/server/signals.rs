//! The signals that ask a program to stop.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A signal that asks for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopSignal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: what a service manager sends.
    Terminate,
}

impl StopSignal {
    /// The signal's usual name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }

    /// The signal's number, which is the same on every Unix.
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

/// The stop signals of this process, from now on: they no longer end it, they are given here.
#[derive(Debug)]
pub struct StopSignals {
    /// A byte for each signal that came.
    bytes: UnixStream,
    /// The number of the last one.
    last: Arc<AtomicUsize>,
}

impl StopSignals {
    /// Catches SIGINT and SIGTERM for the rest of the program's life.
    ///
    /// # Errors
    ///
    /// The system's, if it has no descriptors left.
    pub fn catch() -> io::Result<Self> {
        let (bytes, writer) = UnixStream::pair()?;
        let last = Arc::new(AtomicUsize::new(0));
        for signal in [StopSignal::Interrupt, StopSignal::Terminate] {
            // In this order: who reads the byte then finds the number.
            let value = signal.number().unsigned_abs() as usize;
            signal_hook::flag::register_usize(signal.number(), Arc::clone(&last), value)?;
            signal_hook::low_level::pipe::register(signal.number(), writer.try_clone()?)?;
        }
        Ok(Self { bytes, last })
    }

    /// Waits for the next signal, at most for `timeout`; without end if that is `None`.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Option<StopSignal> {
        // The only refusal is of a time-out of zero, which would mean none.
        let timeout = timeout.map(|timeout| timeout.max(Duration::from_millis(1)));
        self.bytes.set_read_timeout(timeout).ok()?;
        loop {
            match self.bytes.read(&mut [0]) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        let number = self.last.load(Ordering::SeqCst);
        Some(if number == 2 { StopSignal::Interrupt } else { StopSignal::Terminate })
    }
}
