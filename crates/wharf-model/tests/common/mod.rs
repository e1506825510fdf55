//! Shared by the tests of the model: small settings, checks that take a number of seeds, and the search
//! for planted bugs.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::panic::catch_unwind;
use std::sync::Once;
use wharf_model::{Handler, LinkEnd, LinkId, Model, ModelBug, Rng, Settings};

/// Seeds of each check that draws.
pub(crate) const SEEDS: u64 = 1_000;
/// Seeds with which a planted bug must be found.
pub(crate) const BUG_SEEDS: u64 = 40;

/// A check, which panics if it fails, and its name.
pub(crate) type Check = (&'static str, fn(u64));

/// Small outputs, so that they fill up and messages lie across buffers. The surplus is enough.
pub(crate) fn small(rng: &mut Rng) -> Settings {
    let grant_bytes = 100 + rng.below(100);
    Settings {
        buffer_size_bytes: 64 + rng.below(40),
        input_bytes: 410 + rng.below(300),
        output_bytes: grant_bytes * 2 + rng.below(300),
        grant_bytes,
        send_buffers_max: 1 + rng.below(4),
        ..Settings::default()
    }
    .with_surplus(500)
}

pub(crate) fn id_of(link: usize) -> LinkId {
    LinkId::new(link)
}

/// Runs `count` turns.
pub(crate) fn turns<H, S, W>(model: &mut Model<H, S, W>, count: usize)
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    for _ in 0..count {
        model.turn();
    }
}

/// Runs turns until nothing happens, with a peer that reads all; returns the bytes that it read.
pub(crate) fn run_until_idle<H, S, W>(model: &mut Model<H, S, W>, link: usize) -> String
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    let mut heard = Vec::new();
    for _ in 0..10_000 {
        let moved = model.turn();
        let got = model.leave(link, 30);
        if !moved && got.is_empty() {
            break;
        }
        heard.extend(got);
    }
    String::from_utf8(heard).unwrap()
}

/// Why a link has ended, if it has.
pub(crate) fn is_over(end: LinkEnd) -> bool {
    matches!(end, LinkEnd::Over(_))
}

/// Each of these bugs must be found by one of the checks. Prints which one finds it.
pub(crate) fn find(bugs: &[ModelBug], checks: &[Check]) {
    hide_expected_panics();
    for bug in bugs {
        let found = checks
            .iter()
            .find(|(_, check)| bug.plant(|| catch_unwind(|| check(BUG_SEEDS)).is_err()));
        println!("{bug:?}: {:?}", found.map(|(name, _)| name));
        assert!(found.is_some(), "no check finds the planted bug {bug:?}");
    }
}

/// Panics that are planned, or caused by planted bugs, print nothing.
pub(crate) fn hide_expected_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.payload_as_str();
            if ModelBug::current().is_none() && text != Some(ON_PURPOSE) {
                hook(info);
            }
        }));
    });
}

/// The text of planned panics.
pub(crate) const ON_PURPOSE: &str = "on purpose";
