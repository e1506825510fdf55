//! Each fault that can be planted in port or engine is found, or it is said here why it cannot be.

use std::panic::{set_hook, take_hook};
use wharf::sim::{EnginePlant, Plant};
use wharf_sim::plan::Planted;
use wharf_sim::plants::find;

/// Which socket gets the next buffer is the port's promise; above it everybody is served in the end
/// either way, because these runs end. The port's own tests look at the order. The others need a
/// flood, a crowd of posts, a hoarder of loans, or many that do not read: `scenarios.rs` makes those
/// by hand.
const CANNOT_SHOW: [Planted; 5] = [
    Planted::Port(Plant::ServeLastFirst),
    Planted::Port(Plant::OvertakeWaiters),
    Planted::Engine(EnginePlant::StopBeforePosts),
    Planted::Engine(EnginePlant::NeverRevoke),
    Planted::Engine(EnginePlant::TakeOthersEntries),
];

#[test]
fn every_planted_fault_is_found() {
    // They panic in their thousands.
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let missed: Vec<_> = Planted::all()
        .filter(|planted| !CANNOT_SHOW.contains(planted))
        .filter(|planted| find(*planted, SEEDS_MAX).is_none())
        .map(|planted| planted.to_string())
        .collect();
    set_hook(hook);
    assert!(missed.is_empty(), "not found: {missed:?}");
}

const SEEDS_MAX: u64 = 300;
