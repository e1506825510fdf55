//! Finding planted bugs: seed after seed, until one shows it.

use crate::plan::{Plan, PlantedBug, Workload};
use crate::run::run;
use wharf::sim::SimFailure;

/// The first seed from 0 to `seeds` at which the planted bug is found, with the workload and
/// what was seen; `None` if none shows it.
#[must_use]
pub fn find(planted: PlantedBug, seeds: u64) -> Option<(Workload, SimFailure)> {
    (0..seeds).find_map(|seed| {
        Workload::ALL.into_iter().find_map(|workload| {
            let plan = Plan::from_seed(seed, workload).with(Some(planted));
            run(&plan, None).err().map(|failure| (workload, failure))
        })
    })
}
