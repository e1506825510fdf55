//! What a test does where something that it needs is missing.

use std::fmt::Display;
use std::io::Write;

/// Set where everything that tests need is there: a test that lacks something then fails.
const MUST_RUN: &str = "WHARF_TESTS_MUST_RUN";

/// A test cannot run here, because of what this process may do. It says so on standard error itself, of
/// which the test harness captures nothing.
pub(crate) fn skip(reason: impl Display) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let said = writeln!(std::io::stderr().lock(), "{test}: skipped, because {reason}");
    said.expect("standard error is open");
}

/// A test lacks a feature of the system or a program, which is no fault on a user's machine, but one
/// where `WHARF_TESTS_MUST_RUN` is set.
pub(crate) fn lacks(reason: impl Display) {
    assert!(std::env::var_os(MUST_RUN).is_none(), "{reason}, and {MUST_RUN} is set");
    skip(reason);
}
