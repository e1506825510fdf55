//! Whole outputs of the program.

use super::common::{Output, Server};
pub(crate) use super::texts::matches_but;
use std::net::SocketAddr;

/// Fails unless `actual`, with placeholders for what varies, is what `NAME.txt` holds.
#[track_caller]
pub(crate) fn matches(name: &str, actual: &str) {
    matches_but(name, &[], actual);
}

/// How many receives and sends there were, if that is a matter of time.
pub(crate) const CALLS: (&str, &str) =
    (r"; [0-9,]+ receives?, [0-9,]+ sends?", "; [COUNT] receives, [COUNT] sends");

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
