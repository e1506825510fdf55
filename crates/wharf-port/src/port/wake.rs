//! The sleep of a port's owner, and who has to end it.
//!
//! ```text
//!            clear                fall_asleep
//!   NOTIFIED ─────► AWAKE ─────────────────────► ASLEEP
//!       ▲  mark       │            mark: the caller wakes │
//!       └─────────────┴───────────────────────────────────┘
//! ```
//!
//! A poster first makes its packet visible and then marks; the owner clears, then looks for
//! packets, and falls asleep only from AWAKE. So a packet that the owner did not see was followed by a
//! mark that keeps it awake or wakes it. Many marks make one wake-up.

use crate::sync::{AtomicU8, Ordering};

const AWAKE: u8 = 0;
const NOTIFIED: u8 = 1;
const ASLEEP: u8 = 2;

/// One owner's state; see the module's drawing.
#[derive(Debug)]
pub(crate) struct WakeState {
    state: AtomicU8,
}

/// Ends a wait in the system.
pub(crate) trait Wake: Send + Sync {
    /// Ends the wait that is going on, or the next one. Called from any thread.
    fn wake(&self);
}

impl WakeState {
    pub(crate) fn new() -> Self {
        Self { state: AtomicU8::new(AWAKE) }
    }

    /// Notes that there is something to see; `true` if the owner sleeps and the caller must wake it.
    pub(crate) fn notify(&self) -> bool {
        // Release: pairs with the acquire in `clear` and `fall_asleep`: what was posted before is
        // visible to the owner afterwards. Every change is a read-modify-write, so no mark is
        // overwritten unseen.
        self.state.swap(NOTIFIED, Ordering::AcqRel) == ASLEEP
    }

    /// The owner is about to look; `true` if there was a mark.
    pub(crate) fn clear(&self) -> bool {
        // The first look is a plain load, which costs nothing when nobody posts. A mark that it
        // does not see yet is seen by `fall_asleep`.
        self.state.load(Ordering::Relaxed) != AWAKE
            && self.state.swap(AWAKE, Ordering::AcqRel) == NOTIFIED
    }

    /// The owner is about to sleep; `false` if it must not, because there is a mark.
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

    /// Two posters and an owner that sleeps on a condition: if a wake-up could be lost, loom would
    /// find an order in which the owner sleeps for ever, and report the deadlock.
    #[test]
    fn no_packet_is_left_behind_a_sleeping_owner() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let state = Arc::new(WakeState::new());
            let posted = Arc::new(AtomicU32::new(0));
            let bell = Arc::new((Mutex::new(false), Condvar::new()));
            let posters: Vec<_> = (0..2)
                .map(|_| {
                    let (state, posted, bell) = (state.clone(), posted.clone(), bell.clone());
                    loom::thread::spawn(move || {
                        posted.fetch_add(1, Ordering::Relaxed);
                        if state.notify() {
                            *bell.0.lock().unwrap() = true;
                            bell.1.notify_one();
                        }
                    })
                })
                .collect();
            let mut seen = 0;
            while seen < 2 {
                state.clear();
                seen += posted.swap(0, Ordering::Relaxed);
                if seen < 2 && state.fall_asleep() {
                    let mut rung = bell.0.lock().unwrap();
                    while !*rung {
                        rung = bell.1.wait(rung).unwrap();
                    }
                    *rung = false;
                }
            }
            for poster in posters {
                poster.join().unwrap();
            }
        });
    }
}
