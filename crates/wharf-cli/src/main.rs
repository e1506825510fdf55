//! The program `wharf`. Here: from the command line to a command, and from its end to an exit code.
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
use serve::{Ended, Fault};
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().len() <= 1 {
        complain(flags::FIRST_STEPS);
        return USAGE.into();
    }
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(error) => return usage(&error),
    };
    let style = Style::find_out(flags.look);
    let screen = Screen::new();
    if let Err(error) = log::start(&screen, style) {
        complain(&format!("error: {error}"));
        return USAGE.into();
    }
    let Command::Serve(settings) = flags.command;
    match serve::serve(&settings, &screen, style) {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::LinksCut) => DRAIN_RAN_OUT.into(),
        Ok(Ended::AtOnce(signal)) => std::process::exit(128 + signal.number()),
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::from(match error.fault() {
                Fault::Settings => SETTINGS,
                Fault::Machine => MACHINE,
                Fault::Program => FAILED,
            })
        }
    }
}

// 0 is success, 130 and 143 are 128 and the number of a second signal; `wharf serve --help` and the
// tests list them, too.
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const SETTINGS: u8 = 3;
const MACHINE: u8 = 4;
const DRAIN_RAN_OUT: u8 = 5;

/// Help and version are asked for and no faults; all else is.
fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        complain(&format!("error: {}", usage::line(error)));
        return USAGE.into();
    }
    // If nobody can read it, there is nobody to tell.
    let _nobody_reads = error.print();
    ExitCode::SUCCESS
}

fn complain(text: &str) {
    use std::io::Write;
    let _nobody_reads = writeln!(std::io::stderr(), "{text}");
}
