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
    use super::StopSignal::{self, Interrupt, Terminate};
    use std::io;
    use std::time::Duration;
    use wharf_port::signals::CaughtSignals;
    pub(in crate::server) use wharf_port::signals::Waker;

    /// The stop signals of this process: until this is dropped they do not end it, they are given here.
    ///
    /// Each of several is given every signal.
    #[derive(Debug)]
    pub struct StopSignals(CaughtSignals);

    impl StopSignals {
        /// Catches SIGINT and SIGTERM, except one that is ignored. Handlers that the program has set
        /// are not called meanwhile; they are restored when this is dropped.
        ///
        /// # Errors
        ///
        /// The system's, if it has no descriptors left.
        pub fn catch() -> io::Result<Self> {
            CaughtSignals::catch(&[Interrupt.number(), Terminate.number()]).map(Self)
        }

        /// Waits for the next signal, at most for `timeout`; without end if that is `None`. If this
        /// thread blocks the signals, as the program's parent can have left them, it does not while it
        /// waits.
        pub fn wait(&mut self, timeout: Option<Duration>) -> Option<StopSignal> {
            let number = self.0.wait(timeout)?;
            Some(if number == Interrupt.number() { Interrupt } else { Terminate })
        }

        /// What ends a wait from another thread.
        pub(in crate::server) fn waker(&self) -> io::Result<Waker> {
            self.0.waker()
        }
    }
}

#[cfg(windows)]
mod windows {
    use super::StopSignal;
    use std::io;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::sync::{Arc, PoisonError, Weak};
    use std::time::Duration;

    #[expect(clippy::disallowed_types, reason = "held while a signal is given; no shard does that")]
    type Lock<T> = std::sync::Mutex<T>;
    /// False wakes, and is no signal.
    type Sender = SyncSender<bool>;

    /// Those to whom signals are given; `None` before the first.
    static CAUGHT: Lock<Option<Vec<Weak<Sender>>>> = Lock::new(None);

    /// The stop signals of this process: until this is dropped they do not end it, they are given here.
    ///
    /// Each of several is given every signal.
    #[derive(Debug)]
    pub struct StopSignals {
        signals: Receiver<bool>,
        sender: Arc<Sender>,
    }

    impl StopSignals {
        /// Catches Ctrl-C, Ctrl-Break and the closing of the console.
        ///
        /// # Errors
        ///
        /// The system's.
        pub fn catch() -> io::Result<Self> {
            let mut caught = CAUGHT.lock().unwrap_or_else(PoisonError::into_inner);
            if caught.is_none() {
                wharf_port::console::on_stop(give)?;
            }
            let (sender, signals) = sync_channel(8);
            let sender = Arc::new(sender);
            let all = caught.get_or_insert_default();
            all.retain(|other| other.strong_count() > 0);
            all.push(Arc::downgrade(&sender));
            Ok(Self { signals, sender })
        }

        /// Waits for the next signal, at most for `timeout`; without end if that is `None`.
        pub fn wait(&mut self, timeout: Option<Duration>) -> Option<StopSignal> {
            let is_signal = match timeout {
                Some(timeout) => self.signals.recv_timeout(timeout).ok()?,
                None => self.signals.recv().ok()?,
            };
            is_signal.then_some(StopSignal::Interrupt)
        }

        /// What ends a wait from another thread.
        #[expect(clippy::unnecessary_wraps, reason = "the same as on other systems")]
        pub(in crate::server) fn waker(&self) -> io::Result<Waker> {
            Ok(Waker(Sender::clone(&self.sender)))
        }
    }

    /// Gives a signal to all; false if there are none, so that the system does what it did before.
    fn give() -> bool {
        let caught = CAUGHT.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_given = false;
        for sender in caught.iter().flatten().filter_map(Weak::upgrade) {
            // Eight signals are queued; one more changes nothing.
            let _enough = sender.try_send(true);
            is_given = true;
        }
        is_given
    }

    /// What ends a wait for signals.
    #[derive(Debug)]
    pub(in crate::server) struct Waker(Sender);

    impl Waker {
        pub(in crate::server) fn wake(&self) {
            // If the queue is full, the waiter has signals to read.
            let _full_or_closed = self.0.try_send(false);
        }
    }
}
