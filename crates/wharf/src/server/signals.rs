//! The signals that stop a program.

#[cfg(unix)]
pub use unix::StopSignals;
#[cfg(windows)]
pub use windows::StopSignals;

/// A stop signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopSignal {
    /// SIGINT (Ctrl-C). On Windows Ctrl-C, Ctrl-Break and the closing of the console.
    Interrupt,
    /// SIGTERM, which service managers send. Never on Windows.
    Terminate,
}

impl StopSignal {
    /// The signal's name, such as `SIGINT`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }

    /// The signal's number, which is the same on every Unix: 2 or 15.
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

#[cfg(unix)]
mod unix {
    use super::StopSignal;
    use std::io::{self, Read};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// The stop signals of this process, from now on: they no longer end it, they are given here.
    #[derive(Debug)]
    pub struct StopSignals {
        /// Holds one byte for each caught signal.
        bytes: UnixStream,
        /// The number of the last signal.
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
                // Handlers run in the order of registration: the number is stored before the byte is
                // written.
                let value = signal.number().unsigned_abs() as usize;
                signal_hook::flag::register_usize(signal.number(), Arc::clone(&last), value)?;
                signal_hook::low_level::pipe::register(signal.number(), writer.try_clone()?)?;
            }
            Ok(Self { bytes, last })
        }

        /// Waits for the next signal, at most for `timeout`; without end if that is `None`.
        pub fn wait(&mut self, timeout: Option<Duration>) -> Option<StopSignal> {
            // `set_read_timeout` fails only for zero.
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
}

#[cfg(windows)]
mod windows {
    use super::StopSignal;
    use std::io;
    use std::sync::mpsc::{Receiver, sync_channel};
    use std::time::Duration;

    /// The stop signals of this process, from now on: they no longer end it, they are given here.
    #[derive(Debug)]
    pub struct StopSignals {
        signals: Receiver<()>,
    }

    impl StopSignals {
        /// Catches Ctrl-C, Ctrl-Break and the closing of the console for the rest of the program's
        /// life. Once in a process.
        ///
        /// # Errors
        ///
        /// The system's, or if it was used before.
        pub fn catch() -> io::Result<Self> {
            let (sender, signals) = sync_channel(8);
            wharf_port::console::on_stop(move || {
                // Eight signals are queued; one more changes nothing.
                let _enough = sender.try_send(());
            })?;
            Ok(Self { signals })
        }

        /// Waits for the next signal, at most for `timeout`; without end if that is `None`.
        pub fn wait(&mut self, timeout: Option<Duration>) -> Option<StopSignal> {
            match timeout {
                Some(timeout) => self.signals.recv_timeout(timeout).ok()?,
                None => self.signals.recv().ok()?,
            }
            Some(StopSignal::Interrupt)
        }
    }
}
