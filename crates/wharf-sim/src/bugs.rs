//! Finds planted bugs: runs seeds until a check fails.

use crate::plan::{Plan, PlantedBug, Workload};
use crate::run::run;
use wharf::sim::SimFailure;

/// The workload and the failure of the first seed below `seeds` at which a check fails; `None` if none
/// does.
#[must_use]
pub fn find(planted: PlantedBug, seeds: u64) -> Option<(Workload, SimFailure)> {
    (0..seeds).find_map(|seed| {
        Workload::ALL.into_iter().find_map(|workload| {
            let plan = Plan::from_seed(seed, workload).with(Some(planted));
            run(&plan, None).err().map(|failure| (workload, failure))
        })
    })
}
