//! The command line: each flag once, with its variable, its default and its help.

use crate::units::{parse_count, parse_duration, parse_size};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::time::Duration;

/// A TCP server in which every byte is set aside before the first client comes
#[derive(Debug, Parser)]
#[command(
    name = "wharf",
    version,
    max_term_width = 100,
    before_help = MAIN_EXAMPLES,
    help_template = TEMPLATE,
    disable_help_subcommand = true
)]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) look: Look,
}

/// How the output looks.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Look {
    /// Colours: auto, always or never [auto]
    ///
    /// `auto` is for terminals only, and heeds NO_COLOR, CLICOLOR_FORCE and CLICOLOR.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", env = "WHARF_COLOR")]
    #[arg(hide_env = true, hide_default_value = true, hide_possible_values = true)]
    #[arg(hide_short_help = true, display_order = 100)]
    pub(crate) color: Color,
    /// Draw with ASCII only; the default where the locale is not UTF-8
    #[arg(long, global = true, env = "WHARF_ASCII", hide_env = true, hide_short_help = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new(), display_order = 101)]
    pub(crate) ascii: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(Serve),
}

/// Serve echo, discard, chargen or chat
#[derive(Debug, Args)]
#[command(before_help = SERVE_EXAMPLES, after_long_help = SERVE_MORE, help_template = TEMPLATE)]
#[command(max_term_width = 100)]
pub(crate) struct Serve {
    /// What to serve: echo, discard, chargen or chat [echo]
    ///
    /// `echo` (RFC 862) answers with what it gets; `discard` (RFC 863) throws it away; `chargen`
    /// (RFC 864) sends lines of all printable characters for ever; `chat` passes each line on to
    /// everybody else and knows /nick NAME, /who and /quit.
    #[arg(long, value_name = "APP", default_value = "echo", env = "WHARF_APP")]
    #[arg(hide_env = true, hide_default_value = true, hide_possible_values = true)]
    pub(crate) app: App,

    /// Address to listen on; repeatable [127.0.0.1:9527]
    ///
    /// Such as 127.0.0.1:9527, [::1]:9527 or localhost:9527. 0.0.0.0 and [::] mean all addresses
    /// of the machine; port 0 lets the system choose one. WHARF_LISTEN takes several with commas.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9527", env = "WHARF_LISTEN")]
    #[arg(hide_env = true, hide_default_value = true, value_delimiter = ',')]
    pub(crate) listen: Vec<String>,

    /// Links (connections) at a time [3,000]
    #[arg(long, value_name = "COUNT", default_value = "3000", env = "WHARF_LINKS")]
    #[arg(value_parser = parse_count, hide_env = true, hide_default_value = true)]
    pub(crate) links: u32,

    /// Buffers for all links together [10,000 or more]
    ///
    /// Two are guaranteed to each link (see --grant), an eighth is for posted messages, the rest is
    /// lent to links that need more. The default grows with what the other options ask for.
    #[arg(long, value_name = "COUNT", env = "WHARF_BUFFERS", hide_env = true)]
    #[arg(value_parser = parse_count)]
    pub(crate) buffers: Option<u32>,

    /// Bytes in a buffer [2KiB]
    ///
    /// The most that is received at once. From 64 B to 1 MiB.
    #[arg(long, value_name = "SIZE", default_value = "2KiB", env = "WHARF_BUFFER_SIZE")]
    #[arg(value_parser = parse_size, hide_env = true, hide_default_value = true)]
    pub(crate) buffer_size: u32,

    /// Bytes that can wait to be sent on one link [256KiB]
    ///
    /// From half of it on, a link whose client does not read is not served, and posted messages are
    /// left out.
    #[arg(long, value_name = "SIZE", default_value = "256KiB", env = "WHARF_SEND_QUEUE")]
    #[arg(value_parser = parse_size, hide_env = true, hide_default_value = true)]
    pub(crate) send_queue: u32,

    /// Bytes that one link can hold unread [64KiB]
    ///
    /// From there on it is not read from.
    #[arg(long, value_name = "SIZE", default_value = "64KiB", env = "WHARF_INPUT_BYTES")]
    #[arg(value_parser = parse_size, hide_env = true, hide_default_value = true)]
    #[arg(hide_short_help = true)]
    pub(crate) input_bytes: u32,

    /// Bytes of an answer for which each link has room [one buffer]
    ///
    /// Whatever other links hold. Rounded up to buffers.
    #[arg(long, value_name = "SIZE", env = "WHARF_GRANT", hide_env = true)]
    #[arg(value_parser = parse_size, hide_short_help = true)]
    pub(crate) grant: Option<u32>,

    /// Wait for buffers that others hold, so long [1s]
    ///
    /// When a link has waited so long for more than its two buffers, and all that can be lent is out,
    /// those are closed that have held most for the longest without progress.
    #[arg(long, value_name = "TIME", default_value = "1s", env = "WHARF_LOAN_WAIT")]
    #[arg(value_parser = parse_duration, hide_env = true, hide_default_value = true)]
    #[arg(hide_short_help = true)]
    pub(crate) loan_wait: Duration,

    /// Close links that take nothing so long; 0: never [30s]
    ///
    /// Who reads, however slowly, is not closed. A link that is closing has 30 s where this is 0.
    #[arg(long, value_name = "TIME", default_value = "30s", env = "WHARF_STALL")]
    #[arg(value_parser = parse_duration, hide_env = true, hide_default_value = true)]
    #[arg(hide_short_help = true)]
    pub(crate) stall: Duration,

    /// Close links silent so long; 0: never [60s; chat 30m]
    ///
    /// Not while something is to be sent: see --stall. A link of chargen is never silent.
    #[arg(long, value_name = "TIME", env = "WHARF_IDLE", hide_env = true)]
    #[arg(value_parser = parse_duration)]
    pub(crate) idle: Option<Duration>,

    /// Threads, among which links are shared [one a core]
    #[arg(long, value_name = "COUNT", env = "WHARF_SHARDS", hide_env = true)]
    #[arg(value_parser = parse_count)]
    pub(crate) shards: Option<u32>,

    /// Back end: auto, uring or epoll [auto]
    ///
    /// `auto` takes io_uring where it works (Linux 6.1 and later, if nothing forbids it), else
    /// epoll, and says why. `uring` does not start without io_uring.
    #[arg(long, value_name = "NAME", default_value = "auto", env = "WHARF_BACKEND")]
    #[arg(hide_env = true, hide_default_value = true, hide_possible_values = true)]
    pub(crate) backend: Backend,

    /// When all links are taken: wait or refuse [wait]
    ///
    /// `wait` leaves new clients in the system's queue (see --backlog) until there is room;
    /// `refuse` accepts them and closes at once.
    #[arg(long, value_name = "WHAT", default_value = "wait", env = "WHARF_WHEN_FULL")]
    #[arg(hide_env = true, hide_default_value = true, hide_possible_values = true)]
    pub(crate) when_full: WhenFull,

    /// Clients that the system lets wait to be accepted [1,024]
    ///
    /// The system has a limit of its own, net.core.somaxconn.
    #[arg(long, value_name = "COUNT", default_value = "1024", env = "WHARF_BACKLOG")]
    #[arg(value_parser = parse_count, hide_env = true, hide_default_value = true)]
    #[arg(hide_short_help = true)]
    pub(crate) backlog: u32,

    /// At the end, let links finish for so long [10s]
    ///
    /// SIGTERM and Ctrl-C (SIGINT) begin it: nobody new is accepted, what has arrived is answered,
    /// what is queued is sent. What is left when the time is over is cut. A second signal ends the
    /// program at once.
    #[arg(long, value_name = "TIME", default_value = "10s", env = "WHARF_DRAIN")]
    #[arg(value_parser = parse_duration, hide_env = true, hide_default_value = true)]
    pub(crate) drain: Duration,

    /// Log a line of figures so often; 0: none [10s]
    ///
    /// On a terminal the figures are live instead; 0 turns these off, too.
    #[arg(long, value_name = "TIME", default_value = "10s", env = "WHARF_STATS")]
    #[arg(value_parser = parse_duration, hide_env = true, hide_default_value = true)]
    pub(crate) stats: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum App {
    Echo,
    Discard,
    Chargen,
    Chat,
}

impl App {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Discard => "discard",
            Self::Chargen => "chargen",
            Self::Chat => "chat",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    // An empty variable says nothing, as in the library.
    #[value(alias = "")]
    Auto,
    #[cfg(not(windows))]
    #[value(alias = "io_uring")]
    Uring,
    #[cfg(not(windows))]
    Epoll,
    #[cfg(windows)]
    Iocp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WhenFull {
    Wait,
    Refuse,
}

/// What `wharf` alone prints.
pub(crate) const FIRST_STEPS: &str = "\
wharf: a TCP server; every byte is set aside before the first client comes
  wharf serve               an echo server on 127.0.0.1:9527, with live figures
  wharf serve --app chat    people talk: nc 127.0.0.1 9527
  wharf serve -h            all that it can do, on one screen
Help: wharf --help";

const TEMPLATE: &str = "{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

const MAIN_EXAMPLES: &str = "\
A TCP server in which every byte is set aside before the first client comes

  wharf serve                an echo server on 127.0.0.1:9527, with live figures
  wharf serve --app chat     people talk: nc 127.0.0.1 9527
  wharf serve -h             all options of serve, on one screen";

const SERVE_EXAMPLES: &str = "\
Serve echo, discard, chargen or chat until Ctrl-C or SIGTERM

  wharf serve                                  echo on 127.0.0.1:9527
  wharf serve --app chat --listen 0.0.0.0:9527 --listen '[::]:9527'
  wharf serve --links 10k --buffers 20k --buffer-size 4KiB --idle 5m";

const SERVE_MORE: &str = "\
Units: sizes 2048, 2KiB = 2K, 10kB = 10k; counts 3000, 10k; times 1.5s, 200ms, 2m, 0.

Each option is also a variable: --buffer-size is WHARF_BUFFER_SIZE. A flag beats its variable.

WHARF_LOG sets what is logged: off, error, warn, info (the default) or debug, or that for each part
of the program: info,wharf=debug.

Exit status:
    0  stopped in good order
    1  failed while running
    2  the command line is wrong
    3  the settings are out of range or do not fit together
    4  the machine says no: address, permission, open files, memory, back end
    5  links were cut because the drain ran out of time
  130  ended at once by a second SIGINT (143: by a second SIGTERM)";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Flags::command().debug_assert();
    }

    #[test]
    fn short_help_fits_a_screen() {
        for words in [&["wharf", "-h"][..], &["wharf", "serve", "-h"]] {
            let help = Flags::try_parse_from(words).unwrap_err().to_string();
            assert!(help.lines().count() <= 24, "{help}");
            assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
        }
    }

    #[test]
    fn each_option_has_the_variable_that_the_help_promises() {
        let command = Flags::command();
        let serve = command.find_subcommand("serve").unwrap();
        for option in serve.get_arguments().chain(command.get_arguments()) {
            let Some(long) = option.get_long().filter(|long| !["help", "version"].contains(long))
            else {
                continue;
            };
            let name = format!("WHARF_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(option.get_env().and_then(|name| name.to_str()), Some(name.as_str()));
        }
    }

    #[test]
    fn first_steps_are_five_lines() {
        assert_eq!(FIRST_STEPS.lines().count(), 5);
    }
}
