//! The arithmetic of the shares.

use wharf_model::shares::{Direction, Holder, Loans, Shares};
use wharf_model::{Rng, Settings};

/// What users are promised, on every number of shards.
pub(crate) fn shares_hold_for_all_settings(_: u64) {
    for shards in 1..=64 {
        for links in [64, 3_000, 10_000, 100_000_usize] {
            for (size, input, output) in [
                (2_048, 65_536, 262_144),
                (512, 65_536, 262_144),
                (4_096, 4_096, 16_384),
                (64, 1_600, 400),
            ] {
                let settings = Settings {
                    buffer_size_bytes: size,
                    links_max: links.div_ceil(shards),
                    input_bytes: input,
                    output_bytes: output,
                    grant_bytes: size,
                    ..Settings::default()
                };
                let least = settings.surplus_min();
                for surplus in [least, least + 1, 2 * least, 10 * least + 3] {
                    let settings = settings.clone().with_surplus(surplus);
                    check(&settings, settings.check().unwrap());
                }
                if least > 0 {
                    assert!(settings.with_surplus(least - 1).check().is_err());
                }
            }
        }
    }
}

fn check(settings: &Settings, shares: Shares) {
    let Settings { buffer_size_bytes, input_bytes, output_bytes, .. } = *settings;
    let guaranteed = settings.links_max * shares.guarantee.sum();
    assert_eq!(guaranteed + shares.surplus, settings.buffer_count);
    let message = input_bytes.div_ceil(buffer_size_bytes) - 1;
    let reply = output_bytes.div_ceil(buffer_size_bytes) - 1;
    // The longest message can always be received, and the longest reply always be queued, as soon as
    // those that can be closed are closed: also while links with whole messages hold all loans for input.
    let nothing = Loans::default();
    assert!(shares.free(nothing, Direction::Input) >= message);
    let input = Loans::new(shares.input_loans_max, 0);
    assert!(shares.free(input, Direction::Output) >= reply);
    assert_eq!(shares.free(input, Direction::Input), 0);
    assert!(shares.can_lend(nothing, Loans::new(message, reply)));
    // What is reserved for the first waiter is lent to no other.
    let beside = shares.free_beside(nothing, Direction::Output, reply, Direction::Output);
    assert_eq!(beside, shares.surplus - reply);
}

pub(crate) fn victims_are_as_many_as_it_takes_and_no_more(seeds: u64) {
    for seed in 1..=seeds * 5 {
        let mut rng = Rng::new(seed);
        let settings = Settings { input_bytes: 1_600, output_bytes: 1_600, ..Settings::default() };
        let surplus = settings.surplus_min() + rng.below(200);
        let shares = settings.with_surplus(surplus).check().unwrap();
        let (mut lent, mut holders) = (Loans::default(), Vec::new());
        for link in 0..rng.below(20) {
            let input = rng.below(25).min(shares.free(lent, Direction::Input));
            lent.input += input;
            let output = rng.below(25).min(shares.free(lent, Direction::Output));
            lent.output += output;
            let weight = ((input + output) * (1 + rng.below(9))) as u64;
            holders.push(Holder::new(link, Loans::new(input, output), weight));
        }
        let needs = Loans::new(rng.below(60), rng.below(60));
        let victims = shares.victims(lent, needs, &holders);
        let without = |victims: &[Holder]| {
            let mut left = lent;
            for victim in victims {
                left.input -= victim.loans.input;
                left.output -= victim.loans.output;
            }
            shares.can_lend(left, needs)
        };
        // All holders together hold all that is lent, so they are enough.
        assert!(without(&victims), "seed {seed}: {victims:?}");
        if let [others @ .., _] = &*victims {
            assert!(!without(others), "seed {seed}: {victims:?}");
        }
        let weights: Vec<u64> = victims.iter().map(|victim| victim.weight).collect();
        assert!(weights.is_sorted_by(|one, next| one >= next), "seed {seed}: {victims:?}");
    }
}
