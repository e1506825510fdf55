//! Skips a test that lacks something.

use std::fmt::Display;
use std::io::Write;

/// Set where all that tests need is installed: a test that lacks something then fails.
const MUST_RUN: &str = "WHARF_TESTS_MUST_RUN";

/// Skips a test that cannot run because of the permissions of this process. The message goes to
/// standard error itself, because the test harness does not capture it.
pub(crate) fn skip(reason: impl Display) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let said = writeln!(std::io::stderr().lock(), "{test}: skipped, because {reason}");
    said.expect("standard error is open");
}

/// Skips a test that lacks a feature of the system or a program; where `WHARF_TESTS_MUST_RUN` is
/// set, it fails.
pub(crate) fn lacks(reason: impl Display) {
    assert!(std::env::var_os(MUST_RUN).is_none(), "{reason}, and {MUST_RUN} is set");
    skip(reason);
}
