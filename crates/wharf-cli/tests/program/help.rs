//! Help and version: asked for, so on standard output.

use super::common::{run, wharf};
use super::snapshot::{matches, transcript};

#[test]
fn help_and_version_are_results() {
    for (name, command) in [
        ("version", "wharf --version"),
        ("help-short", "wharf -h"),
        ("help-long", "wharf --help"),
        ("help-serve-short", "wharf serve -h"),
        ("help-serve-long", "wharf serve --help"),
    ] {
        let words: Vec<&str> = command.split(' ').skip(1).collect();
        let output = run(&mut wharf(&words));
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{command}");
        matches(name, &transcript(command, &output));
    }
}

#[test]
fn help_fits_a_narrow_terminal() {
    let output = run(wharf(&["serve", "-h"]).env("COLUMNS", "60"));
    matches("help-serve-60-columns", &transcript("COLUMNS=60 wharf serve -h", &output));
}

#[test]
fn wharf_alone_says_what_to_try() {
    matches("first-steps", &transcript("wharf", &run(&mut wharf(&[]))));
}
