//! The command line: each option once, with its variable, its default and its help.

use crate::units::{parse_count, parse_duration, parse_size, parse_switch};
use clap::parser::ValueSource;
use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::fmt::Display;
use std::time::Duration;

/// A TCP server that allocates its tables and buffers at startup
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
    pub(crate) output: OutputFlags,
}

impl Flags {
    /// The flags of the command line and the variables. An empty variable is as good as none.
    ///
    /// # Errors
    ///
    /// Also help and version, if that is asked for.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        let is_set = |arg: Arg| match arg.get_env() {
            Some(name) if std::env::var_os(name).is_none_or(|value| value.is_empty()) => {
                arg.env(None)
            }
            _ => arg,
        };
        let command = Self::command().mut_args(is_set);
        let command = command.mut_subcommands(|command| command.mut_args(is_set));
        let matches = command.try_get_matches()?;
        let mut flags = Self::from_arg_matches(&matches)?;
        let Command::Serve(serve) = &mut flags.command;
        if let Some(matches) = matches.subcommand_matches("serve") {
            let ids = matches.ids().map(clap::Id::as_str);
            let is_variable =
                |id: &&str| matches.value_source(id) == Some(ValueSource::EnvVariable);
            serve.variables = ids.filter(is_variable).map(str::to_owned).collect();
        }
        Ok(flags)
    }

    /// The variables that change what the program does.
    pub(crate) fn variables() -> Vec<String> {
        let command = Self::command();
        let args = command.get_subcommands().chain([&command]).flat_map(|it| it.get_arguments());
        let names = args.filter_map(|arg| arg.get_env()?.to_str().map(str::to_owned));
        names.chain(["WHARF_LOG".to_owned()]).collect()
    }
}

/// Options of the output, for all commands.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputFlags {
    /// Colours: auto, always or never [auto]
    ///
    /// `auto` uses them on a terminal; NO_COLOR, CLICOLOR_FORCE and CLICOLOR override it, in this
    /// order.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", env = "WHARF_COLOR")]
    #[arg(hide_env = true, hide_default_value = true, hide_possible_values = true)]
    #[arg(hide_short_help = true, display_order = 100)]
    pub(crate) color: Color,
    /// ASCII characters only [unless the locale is UTF-8]
    #[arg(long, global = true, env = "WHARF_ASCII", hide_env = true, hide_short_help = true)]
    #[arg(value_parser = parse_switch, display_order = 101)]
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
    /// Application: echo, discard, chargen or chat [echo]
    ///
    /// `echo` (RFC 862) sends back what it receives; `discard` (RFC 863) sends nothing; `chargen`
    /// (RFC 864) sends lines of printable characters indefinitely; `chat` sends each line to all
    /// other clients, and has the commands /nick NAME, /who and /quit.
    #[arg(long, value_name = "APP", default_value = "echo", env = "WHARF_APP")]
    #[arg(hide_env = true, hide_default_value = true, hide_possible_values = true)]
    pub(crate) app: App,

    /// Address to listen on; repeatable [127.0.0.1:9527]
    ///
    /// For example 127.0.0.1:9527, [::1]:9527, [fe80::1%eth0]:9527 or localhost:9527. 0.0.0.0 is all
    /// IPv4 addresses of the machine and [::] all IPv6 addresses (see --dual-stack); for port 0 the
    /// system chooses a port. WHARF_LISTEN takes several addresses, separated by commas.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9527", env = "WHARF_LISTEN")]
    #[arg(hide_env = true, hide_default_value = true, value_delimiter = ',')]
    #[arg(value_parser = trimmed)]
    pub(crate) listen: Vec<String>,

    /// Accept IPv4 on the listeners of IPv6, too
    ///
    /// [::] is then all addresses of the machine. Without it, listen on 0.0.0.0 and on [::].
    #[arg(long, env = "WHARF_DUAL_STACK", hide_env = true, hide_short_help = true)]
    #[arg(value_parser = parse_switch)]
    pub(crate) dual_stack: bool,

    /// Proxies that send a PROXY header; repeatable [none]
    ///
    /// Networks or addresses, such as 10.0.0.0/8 or 127.0.0.1; WHARF_PROXY_FROM takes several,
    /// separated by commas. A connection from there must begin with the header of the PROXY
    /// protocol, version 1 or 2, within 5 s, and counts as one of the client that the header names.
    /// From other addresses a header is input, which chat refuses.
    #[arg(long, value_name = "NETWORK", env = "WHARF_PROXY_FROM", hide_env = true)]
    #[arg(value_delimiter = ',', hide_short_help = true)]
    #[arg(value_parser = trimmed)]
    pub(crate) proxy_from: Vec<String>,

    /// Maximum number of links (connections) [3,000]
    #[arg(long, value_name = "COUNT", default_value = "3000", env = "WHARF_LINKS")]
    #[arg(value_parser = parse_count, hide_env = true, hide_default_value = true)]
    pub(crate) links: u32,

    /// Number of buffers, for all links [10,000 or more]
    ///
    /// Each link has two guaranteed buffers (see --grant), an eighth is for posted messages, and
    /// links borrow from the rest. The default grows with the other options.
    #[arg(long, value_name = "COUNT", env = "WHARF_BUFFERS", hide_env = true)]
    #[arg(value_parser = parse_count)]
    pub(crate) buffers: Option<u32>,

    /// Size of a buffer in bytes [2KiB]
    ///
    /// The maximum of one receive. From 64 B to 1 MiB.
    #[arg(long, value_name = "SIZE", default_value = "2KiB", env = "WHARF_BUFFER_SIZE")]
    #[arg(value_parser = parse_size, hide_env = true, hide_default_value = true)]
    pub(crate) buffer_size: u32,

    /// Maximum of unsent bytes on a link [256KiB]
    ///
    /// While more than half of it is unsent, the link's input is not handled, and posted messages
    /// skip the link. The default grows with --buffer-size and --grant.
    #[arg(long, value_name = "SIZE", env = "WHARF_SEND_QUEUE")]
    #[arg(value_parser = parse_size, hide_env = true)]
    pub(crate) send_queue: Option<u32>,

    /// Maximum of unhandled input bytes on a link [64KiB]
    ///
    /// Reading pauses at the maximum.
    #[arg(long, value_name = "SIZE", env = "WHARF_INPUT_BYTES", hide_env = true)]
    #[arg(value_parser = parse_size, hide_short_help = true)]
    pub(crate) input_bytes: Option<u32>,

    /// Guaranteed output bytes of a link [one buffer]
    ///
    /// Whatever other links hold. Rounded up to buffers.
    #[arg(long, value_name = "SIZE", env = "WHARF_GRANT", hide_env = true)]
    #[arg(value_parser = parse_size, hide_short_help = true)]
    pub(crate) grant: Option<u32>,

    /// Loan timeout: wait for lent buffers [1s]
    ///
    /// When a link has waited this long for more than its two guaranteed buffers, and all that can
    /// be lent is lent, the links are closed that have held most for the longest without progress.
    #[arg(long, value_name = "TIME", default_value = "1s", env = "WHARF_LOAN_WAIT")]
    #[arg(value_parser = parse_duration, hide_env = true, hide_default_value = true)]
    #[arg(hide_short_help = true)]
    pub(crate) loan_wait: Duration,

    /// Stall timeout; 0 disables it [30s]
    ///
    /// Closes a link whose client takes no bytes for this long. A client that reads, however slowly,
    /// is not closed. With 0, a link that is closing still has 30 s.
    #[arg(long, value_name = "TIME", default_value = "30s", env = "WHARF_STALL")]
    #[arg(value_parser = parse_duration, hide_env = true, hide_default_value = true)]
    #[arg(hide_short_help = true)]
    pub(crate) stall: Duration,

    /// Idle timeout; 0 disables it [60s; chat 30m]
    ///
    /// Closes a link whose client sends nothing for this long. While bytes are unsent, the stall
    /// timeout applies instead (see --stall); a link of chargen is never idle.
    #[arg(long, value_name = "TIME", env = "WHARF_IDLE", hide_env = true)]
    #[arg(value_parser = parse_duration)]
    pub(crate) idle: Option<Duration>,

    /// Shards, one worker thread each [one per CPU core]
    #[arg(long, value_name = "COUNT", env = "WHARF_SHARDS", hide_env = true)]
    #[arg(value_parser = parse_count)]
    pub(crate) shards: Option<u32>,

    // As `doc` because the systems have different ones.
    #[cfg_attr(not(windows), doc = "Back end: auto, uring or epoll [auto]")]
    #[cfg_attr(not(windows), doc = "")]
    #[cfg_attr(
        not(windows),
        doc = "`auto` uses io_uring if the startup probe succeeds (Linux 6.1"
    )]
    #[cfg_attr(not(windows), doc = "and later, unless forbidden), and otherwise epoll, and logs")]
    #[cfg_attr(not(windows), doc = "why. `uring` does not start without io_uring.")]
    #[cfg_attr(windows, doc = "Back end: auto or iocp [auto]")]
    #[arg(long, value_name = "NAME", default_value = "auto", env = "WHARF_BACKEND")]
    #[arg(hide_env = true, hide_default_value = true, hide_possible_values = true)]
    pub(crate) backend: Backend,

    /// At the maximum of links: wait or refuse [wait]
    ///
    /// `wait` leaves new connections in the backlog (see --backlog) until a link closes; `refuse`
    /// accepts and closes them.
    #[arg(long, value_name = "WHAT", default_value = "wait", env = "WHARF_WHEN_FULL")]
    #[arg(hide_env = true, hide_default_value = true, hide_possible_values = true)]
    pub(crate) when_full: WhenFull,

    /// Backlog: connections that wait for accept [1,024]
    #[cfg_attr(not(windows), doc = "")]
    #[cfg_attr(not(windows), doc = "The kernel limits it, too: net.core.somaxconn.")]
    #[arg(long, value_name = "COUNT", default_value = "1024", env = "WHARF_BACKLOG")]
    #[arg(value_parser = parse_count, hide_env = true, hide_default_value = true)]
    #[arg(hide_short_help = true)]
    pub(crate) backlog: u32,

    /// Drain timeout at shutdown [10s]
    ///
    /// SIGTERM and Ctrl-C (SIGINT) start the drain: no connection is accepted, received input is
    /// handled, unsent bytes are sent. At the timeout, links that are still open are force-closed. A
    /// second signal ends the program immediately.
    #[arg(long, value_name = "TIME", default_value = "10s", env = "WHARF_DRAIN")]
    #[arg(value_parser = parse_duration, hide_env = true, hide_default_value = true)]
    pub(crate) drain: Duration,

    /// Statistics interval; 0 disables it [10s]
    ///
    /// On a terminal the statistics are live; 0 disables these, too.
    #[arg(long, value_name = "TIME", default_value = "10s", env = "WHARF_STATS")]
    #[arg(value_parser = parse_duration, hide_env = true, hide_default_value = true)]
    pub(crate) stats: Duration,

    /// The options, such as `buffer_size`, whose values come from variables.
    #[arg(skip)]
    variables: Vec<String>,
}

/// Values in a list of a variable may have spaces around them.
#[expect(clippy::unnecessary_wraps, reason = "clap wants a result")]
fn trimmed(text: &str) -> Result<String, String> {
    Ok(text.trim().to_owned())
}

impl Serve {
    /// An option as it was written: `--buffer-size`, or its variable.
    pub(crate) fn written(&self, option: &str) -> String {
        if self.variables.iter().any(|variable| variable == option) {
            return format!("WHARF_{}", option.to_uppercase());
        }
        format!("--{}", option.replace('_', "-"))
    }

    /// An error, after the variable that the option comes from, if it comes from one.
    pub(crate) fn with_variable(&self, option: &str, error: &dyn Display) -> String {
        match self.written(option) {
            name if name.starts_with('-') => error.to_string(),
            name => format!("{name}: {error}"),
        }
    }
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

/// What each signal does whose default ends a process.
#[cfg(unix)]
macro_rules! signals {
    () => {
        "
Signals:
  INT, TERM   drain and stop (see --drain); end it immediately when it is not ready yet, or draining
  PIPE, XFSZ  ignored
  The others end it immediately, without a drain, as they end any process that was not started with
  them ignored: ABRT, ALRM, BUS, FPE, HUP, ILL, IO, KILL, PROF, PWR, QUIT, SEGV, STKFLT, SYS, TRAP,
  USR1, USR2, VTALRM, XCPU and the real-time signals.
"
    };
}
#[cfg(windows)]
macro_rules! signals {
    () => {
        ""
    };
}

/// What `wharf` alone prints.
pub(crate) const FIRST_STEPS: &str = "\
wharf: a TCP server that allocates its tables and buffers at startup
  wharf serve               echo on 127.0.0.1:9527, with live statistics
  wharf serve --app chat    chat; join it with: nc 127.0.0.1 9527
  wharf serve -h            the options of serve on one screen
Help: wharf --help";

const TEMPLATE: &str = "{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

const MAIN_EXAMPLES: &str = "\
A TCP server that allocates its tables and buffers at startup

  wharf serve                echo on 127.0.0.1:9527, with live statistics
  wharf serve --app chat     chat; join it with: nc 127.0.0.1 9527
  wharf serve -h             the options of serve on one screen";

const SERVE_EXAMPLES: &str = "\
Serve echo, discard, chargen or chat until Ctrl-C or SIGTERM

  wharf serve                                  echo on 127.0.0.1:9527
  wharf serve --app chat --listen 0.0.0.0:9527 --listen '[::]:9527'
  wharf serve --links 10k --buffers 20k --buffer-size 4KiB --idle 5m";

const SERVE_MORE: &str = concat!(
    "\
Units: sizes 2048, 2KiB = 2K (1,024 bytes each), 10kB = 10k (1,000 bytes each); counts 3000, 3,000,
10k; times 1.5s, 200ms, 1h30m, 1d, 0. With a comma only between thousands.

Each option has a variable: WHARF_BUFFER_SIZE for --buffer-size. The option takes precedence; an
empty variable is as good as none.

WHARF_LOG filters the log: off, error, warn, info (default), debug or trace, also for each part of
the program: info,wharf=debug.
",
    signals!(),
    "
Exit status:
    0  stopped, and all links drained
    1  failed while running
    2  wrong command line or variable
    3  settings out of range or contradictory, or an address that is none
    4  system error: address, name, permission, open files, memory or back end
    5  drain timeout: links were force-closed
  130  ended immediately by SIGINT: the second one, or before it was ready (143: by SIGTERM)"
);

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
            // 28 columns for the option, and 52 for its help.
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
