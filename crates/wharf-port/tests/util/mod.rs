//! What a test does where io_uring is missing.

use std::io::Write;

/// Whether io_uring is there. If not, the test says on standard error itself, of which the test
/// harness captures nothing, that it skips that back end; where `WHARF_TESTS_MUST_RUN` is set it fails.
pub(crate) fn has_uring() -> bool {
    let Err(error) = wharf_port::uring::probe() else { return true };
    assert!(std::env::var_os("WHARF_TESTS_MUST_RUN").is_none(), "{error}, but every test must run");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{test}: skipped on io_uring, because {error}").unwrap();
    false
}
