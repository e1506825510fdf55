//! Whole outputs, compared with the files in `tests/snapshots`.

use super::common::{Output, Server};
use regex::Regex;
use snapbox::assert::{Action, DEFAULT_ACTION_ENV};
use snapbox::{Assert, Data};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Fails unless `actual`, with placeholders for what varies, is what `NAME.txt` holds.
#[track_caller]
pub(crate) fn matches(name: &str, actual: &str) {
    matches_but(name, &[], actual);
}

/// As [`matches`], with placeholders for what varies in this output only.
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

/// How many receives and sends there were, if that is a matter of time.
pub(crate) const CALLS: (&str, &str) =
    (r"; [0-9,]+ receives?, [0-9,]+ sends?", "; [COUNT] receives, [COUNT] sends");

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

/// A command, what it printed and on which stream, and how it ended.
pub(crate) fn transcript(command: &str, output: &Output) -> String {
    let mut text = format!("$ {command}\n");
    for (stream, printed) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        if !printed.is_empty() {
            let end = if printed.ends_with('\n') { "" } else { "(no line feed)\n" };
            text.push_str(&format!("--- {stream}\n{printed}{end}"));
        }
    }
    text + &format!("--- exit {}\n\n", output.code.expect("no signal ended it"))
}

impl Server {
    /// All that it has logged so far, with placeholders for its own numbers.
    pub(crate) fn transcript(&self) -> String {
        self.own_numbers(&(self.log.join("\n") + "\n"))
    }

    /// `text` with placeholders for the process and the ports of this server.
    pub(crate) fn own_numbers(&self, text: &str) -> String {
        with_placeholders(text, self.pid(), &self.addresses)
    }
}

/// `text` with placeholders for a process and the ports that it listens on.
pub(crate) fn with_placeholders(text: &str, pid: u32, addresses: &[SocketAddr]) -> String {
    let mut text = text.to_owned();
    for words in ["pid ", "kill "] {
        text = text.replace(&format!("{words}{pid}"), &format!("{words}[PID]"));
    }
    for (number, address) in addresses.iter().enumerate() {
        let (given, port) = (address.to_string(), address.port().to_string());
        let host = given.strip_suffix(&port).expect("the port is last");
        let placeholder = if number == 0 { "[PORT]" } else { "[OTHER PORT]" };
        text = text.replace(&given, &format!("{host}{placeholder}"));
        for client in ["nc 127.0.0.1 ", "nc ::1 "] {
            text = text.replace(&format!("{client}{port}"), &format!("{client}{placeholder}"));
        }
    }
    text
}
