//! The program `wharf`. This file runs the command of the command line, and returns its exit code.
#![forbid(unsafe_code)]

mod apps;
#[expect(rustdoc::broken_intra_doc_links, reason = "the help's text, with defaults in brackets")]
mod flags;
mod log;
mod screen;
mod serve;
mod status;
mod units;
mod usage;

use clap::Parser;
use flags::{Command, Flags};
use screen::{Screen, Style};
use serve::{Ended, FailureKind};
use std::fmt::Display;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().len() <= 1 {
        print(flags::FIRST_STEPS);
        return USAGE.into();
    }
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(error) => return usage(&error),
    };
    let style = Style::detect(flags.output);
    let screen = Screen::new();
    if let Err(error) = log::start(&screen, style) {
        print_error(&error);
        return USAGE.into();
    }
    let Command::Serve(settings) = flags.command;
    match serve::serve(&settings, &screen, style) {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::ForcedCloses) => DRAIN_TIMEOUT.into(),
        Ok(Ended::SecondSignal(signal)) => std::process::exit(128 + signal.number()),
        Err(error) => {
            print_error(&error);
            ExitCode::from(match error.kind() {
                FailureKind::Settings => SETTINGS,
                FailureKind::System => SYSTEM,
                FailureKind::Program => FAILED,
            })
        }
    }
}

// 0 is success; 130 and 143 are 128 + the number of a second signal. `wharf serve --help` has a list.
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const SETTINGS: u8 = 3;
const SYSTEM: u8 = 4;
const DRAIN_TIMEOUT: u8 = 5;

/// Help and version are results and go to standard output; all else is an error.
fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        print_error(&usage::line(error));
        return USAGE.into();
    }
    let _closed = error.print();
    ExitCode::SUCCESS
}

fn print_error(error: &dyn Display) {
    print(&format!("error: {error}"));
}

fn print(text: &str) {
    use std::io::Write;
    // Without a standard error there is no other place to report to.
    let _closed = writeln!(std::io::stderr(), "{text}");
}
