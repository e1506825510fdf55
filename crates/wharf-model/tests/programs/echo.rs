//! Everything that comes in goes out again.

use crate::check;
use wharf_model::{Handler, Input, Link, Result};

struct Echo;

impl Handler for Echo {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        input.forward(&mut link.out);
        Ok(())
    }
}

pub(crate) fn run(seeds: u64) {
    check(
        seeds,
        || Echo,
        |rng| {
            let text = rng.letters(20_000);
            (text.clone(), text)
        },
    );
}
