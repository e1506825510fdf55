//! The program `wharf`. This file runs the command of the command line, and returns its exit code.
#![forbid(unsafe_code)]

mod apps;
#[expect(rustdoc::broken_intra_doc_links, reason = "the help's text, with defaults in brackets")]
mod flags;
#[cfg(test)]
#[cfg(unix)]
#[path = "../tests/util/full_pipe.rs"]
mod full_pipe;
mod log;
mod screen;
mod serve;
#[cfg(test)]
#[cfg(unix)]
#[path = "../tests/util/snapshot.rs"]
mod snapshot;
mod status;
mod units;
mod usage;

use flags::{Command, Flags};
use screen::{Screen, Style};
use serve::{Ended, FailureKind};
use std::fmt::Display;
use std::process::ExitCode;

fn main() -> ExitCode {
    let screen = Screen::start();
    let code = run(&screen);
    screen.finish();
    code
}

fn run(screen: &Screen) -> ExitCode {
    if std::env::args_os().len() <= 1 {
        screen.print(flags::FIRST_STEPS);
        return USAGE.into();
    }
    let flags = match Flags::read() {
        Ok(flags) => flags,
        Err(error) => return usage(screen, &error),
    };
    let style = Style::detect(flags.output);
    if let Err(error) = log::start(screen, style) {
        print_error(screen, &error);
        return USAGE.into();
    }
    log::warn_of_unknown_variables(&Flags::variables());
    let Command::Serve(settings) = flags.command;
    match serve::serve(&settings, screen, style) {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::ForcedCloses) => DRAIN_TIMEOUT.into(),
        Err(error) => {
            print_error(screen, &error);
            ExitCode::from(match error.kind() {
                FailureKind::Settings => SETTINGS,
                FailureKind::System => SYSTEM,
                FailureKind::Program => FAILED,
            })
        }
    }
}

// 0 is success; 130 and 143 are 128 + the number of a signal that ends the program at once (see
// `serve`). `wharf serve --help` has a list.
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const SETTINGS: u8 = 3;
const SYSTEM: u8 = 4;
const DRAIN_TIMEOUT: u8 = 5;

/// Help and version are results and go to standard output; all else is an error.
fn usage(screen: &Screen, error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        print_error(screen, &usage::line(error));
        return USAGE.into();
    }
    let _closed = error.print();
    ExitCode::SUCCESS
}

fn print_error(screen: &Screen, error: &dyn Display) {
    screen.print(&format!("error: {error}"));
}
