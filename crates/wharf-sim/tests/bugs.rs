//! Each bug that can be planted in port or engine is found, with two exceptions.

use std::panic::{set_hook, take_hook};
use std::sync::atomic::{AtomicUsize, Ordering};
use wharf::sim::PortBug;
use wharf_sim::bugs::find;
use wharf_sim::plan::PlantedBug;

/// `OvertakeWaiters` needs a flood beside a link that waits, as in `scenarios.rs`. `ServeLastFirst` changes
/// an order only: the port's own tests find it, and these seldom do.
const CANNOT_SHOW: [PlantedBug; 2] =
    [PlantedBug::Port(PortBug::OvertakeWaiters), PlantedBug::Port(PortBug::ServeLastFirst)];

#[expect(clippy::disallowed_types, reason = "of a test")]
type Lock<T> = std::sync::Mutex<T>;

#[test]
fn every_planted_bug_is_found() {
    // They panic thousands of times.
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let all: Vec<_> = PlantedBug::all().filter(|planted| !CANNOT_SHOW.contains(planted)).collect();
    let (next, missed) = (AtomicUsize::new(0), Lock::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                while let Some(planted) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if find(*planted, SEEDS_MAX).is_none() {
                        missed.lock().unwrap().push(planted.to_string());
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    set_hook(hook);
    assert!(missed.is_empty(), "not found: {missed:?}");
}

const SEEDS_MAX: u64 = 300;
