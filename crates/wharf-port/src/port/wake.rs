//! The wake state of a port's owner: which notification has to end its sleep.
//!
//! ```text
//!            clear                fall_asleep
//!   NOTIFIED ─────► AWAKE ─────────────────────► ASLEEP
//!       ▲  notify     │          notify: the caller wakes │
//!       └─────────────┴───────────────────────────────────┘
//! ```
//!
//! A poster puts its packet into the queue and then notifies; the owner clears, then takes packets,
//! and falls asleep only from AWAKE. So a notification follows each packet that the owner did not
//! take, and keeps the owner awake or wakes it. Notifications of one sleep make one wake-up.

use crate::sync::{AtomicU8, Ordering};

const AWAKE: u8 = 0;
const NOTIFIED: u8 = 1;
const ASLEEP: u8 = 2;

/// The state of one owner; see the module's drawing.
#[derive(Debug)]
pub(crate) struct WakeState {
    state: AtomicU8,
}

/// Ends a wait in a system call.
pub(crate) trait Wake: Send + Sync {
    /// Ends the current wait, or the next one. Called from any thread.
    fn wake(&self);

    /// The port is gone: releases what the wake-up holds of the system.
    fn close(&self) {}
}

impl WakeState {
    pub(crate) fn new() -> Self {
        Self { state: AtomicU8::new(AWAKE) }
    }

    /// Notifies the owner; `true` if it sleeps, and then the caller must wake it.
    pub(crate) fn notify(&self) -> bool {
        // Release: pairs with the acquire in `clear` and `fall_asleep`, after which the owner sees
        // what was posted before. Every change is a read-modify-write, so no notification is lost.
        self.state.swap(NOTIFIED, Ordering::AcqRel) == ASLEEP
    }

    /// Whether the owner sleeps.
    #[cfg(any(target_os = "linux", all(test, windows)))]
    pub(crate) fn is_asleep(&self) -> bool {
        self.state.load(Ordering::Acquire) == ASLEEP
    }

    /// The owner takes the notification before it takes packets; `true` if there was one.
    pub(crate) fn clear(&self) -> bool {
        // The relaxed load avoids a locked instruction while there is no notification. If it misses
        // one, `fall_asleep` fails.
        self.state.load(Ordering::Relaxed) != AWAKE
            && self.state.swap(AWAKE, Ordering::AcqRel) == NOTIFIED
    }

    /// The owner announces that it will sleep; `false` if it must not, because it was notified.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_notification_of_a_sleep_wakes() {
        let state = WakeState::new();
        assert!(!state.notify());
        assert!(!state.fall_asleep());
        assert!(state.clear());
        assert!(state.fall_asleep());
        assert!(state.notify());
        assert!(!state.notify());
        assert!(state.clear());
        assert!(!state.clear());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::sync::AtomicU32;
    use loom::sync::Arc;
    use loom::sync::{Condvar, Mutex};

    /// Two posters and an owner that sleeps on a condition variable: if a wake-up could be lost,
    /// loom would find an order in which the owner never wakes, and report the deadlock.
    #[test]
    fn no_packet_is_left_behind_a_sleeping_owner() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let state = Arc::new(WakeState::new());
            let posted = Arc::new(AtomicU32::new(0));
            let wake = Arc::new((Mutex::new(false), Condvar::new()));
            let posters: Vec<_> = (0..2)
                .map(|_| {
                    let (state, posted, wake) = (state.clone(), posted.clone(), wake.clone());
                    loom::thread::spawn(move || {
                        posted.fetch_add(1, Ordering::Relaxed);
                        if state.notify() {
                            *wake.0.lock().unwrap() = true;
                            wake.1.notify_one();
                        }
                    })
                })
                .collect();
            let mut seen = 0;
            while seen < 2 {
                state.clear();
                seen += posted.swap(0, Ordering::Relaxed);
                if seen < 2 && state.fall_asleep() {
                    let mut is_set = wake.0.lock().unwrap();
                    while !*is_set {
                        is_set = wake.1.wait(is_set).unwrap();
                    }
                    *is_set = false;
                }
            }
            for poster in posters {
                poster.join().unwrap();
            }
        });
    }
}
