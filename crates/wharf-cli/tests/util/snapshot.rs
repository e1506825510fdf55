//! Whole outputs, compared with the files in `tests/snapshots`; also for the tests within the program.

use regex::Regex;
use snapbox::assert::{Action, DEFAULT_ACTION_ENV};
use snapbox::{Assert, Data};
use std::path::PathBuf;

/// Fails unless `actual`, with placeholders for what varies, is what `NAME.txt` holds. `varying` is what
/// varies in this output only.
#[track_caller]
pub(crate) fn matches_but(name: &str, varying: &[(&str, &str)], actual: &str) {
    let path = PathBuf::from(format!("{}/tests/snapshots/{name}.txt", env!("CARGO_MANIFEST_DIR")));
    // `raw`: otherwise a `[..]` in the file would stand for any words.
    let expected = Data::read_from(&path, None).raw();
    let assert = Assert::new().normalize_paths(false);
    let assert = match std::env::var_os("CI") {
        Some(_) => assert.action(Action::Verify),
        None => assert.action_env(DEFAULT_ACTION_ENV),
    };
    assert.eq(redact(&redact(actual, VARYING), varying), expected);
}

/// What varies between runs and machines. Each pattern has the words around it, so that no other
/// number, and no word, is replaced.
const VARYING: &[(&str, &str)] = &[
    (
        r"(?m)^((?:\{dim\})?)[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z",
        "$1[TIME]",
    ),
    (r"(?m)^((?:\{dim\})?)[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z", "$1[TIME OF DAY]"),
    (r"wharf [0-9]+\.[0-9]+\.[0-9]+", "wharf [VERSION]"),
    (r" on Linux [0-9]+\.[0-9]+,", " on Linux [KERNEL],"),
    (r" memory: [0-9.]+ [kMG]B,", " memory: [MEMORY],"),
    // What the system's resolver says; without a network that is something else.
    (r"(failed to lookup address information): [A-Z][a-z ]+;", "$1: [REASON];"),
    (
        r"need [0-9.]+ [kMGT]B of memory, but [0-9.]+ [kMGT]?B are",
        "need [NEEDED] of memory, but [FREE] are",
    ),
    (r"sport = :[0-9]+", "sport = :[PORT]"),
    // The program inherits open files.
    (
        r"[0-9]+ open files are needed \(([0-9]+) for this server, [0-9]+ for the program\)",
        "[NEEDED] open files are needed ($1 for this server, [OPEN] for the program)",
    ),
];

fn redact(text: &str, varying: &[(&str, &str)]) -> String {
    varying.iter().fold(text.to_owned(), |text, (pattern, placeholder)| {
        let pattern = Regex::new(pattern).expect("a pattern");
        pattern.replace_all(&text, *placeholder).into_owned()
    })
}
