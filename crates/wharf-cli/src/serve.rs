//! `wharf serve`: starts a server, reports its statistics, and drains it on a signal.

use crate::apps::{Chargen, Chat, Discard, Echo};
use crate::flags::{App, Backend, Serve, WhenFull};
use crate::screen::{Screen, Style};
use crate::status::{Sampler, now};
use crate::units::{buffer_size, bytes, counted, span, thousands};
use std::error::Error as _;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};
use wharf::{
    Address, BackEnd, Builder, Handler, RunningServer, Server, StartError, StartErrorKind,
    StopSignal, StopSignals,
};

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All links closed within the drain timeout.
    Drained,
    /// Links were force-closed at the drain timeout.
    ForcedCloses,
    /// A second signal arrived during the drain.
    SecondSignal(StopSignal),
}

/// Why serving failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Installing the signal handlers failed.
    Signals(io::Error),
    /// The server did not start.
    Start(StartError),
    /// The server stopped without a signal.
    Stopped(wharf::Error),
}

/// What has to change before serving can succeed; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The settings: out of range, contradictory, or invalid.
    Settings,
    /// The system, which lacks a resource or denies a permission.
    System,
    /// The program.
    Program,
}

impl Failure {
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Signals(_) => FailureKind::System,
            Self::Stopped(_) => FailureKind::Program,
            Self::Start(error) => match error.kind() {
                StartErrorKind::Settings => FailureKind::Settings,
                StartErrorKind::Address if !is_refused_by_the_system(error) => {
                    FailureKind::Settings
                }
                StartErrorKind::Handler => FailureKind::Program,
                _ => FailureKind::System,
            },
        }
    }
}

/// Whether the address is valid, but the system does not let the program use it.
fn is_refused_by_the_system(error: &StartError) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|source| {
        matches!(source.kind(), AddrInUse | AddrNotAvailable | PermissionDenied)
    })
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signals(error) => write!(f, "cannot catch signals: {error}"),
            Self::Start(error) if error.kind() == StartErrorKind::Settings => {
                f.write_str(&with_options(&error.to_string()))
            }
            Self::Start(error) => error.fmt(f),
            Self::Stopped(error) => error.fmt(f),
        }
    }
}

/// `text` with the options in place of the library's settings, which the user has not written.
fn with_options(text: &str) -> String {
    let names = [
        ("links_max", "--links"),
        ("buffer_count", "--buffers"),
        ("buffer_size_bytes", "--buffer-size"),
        ("input_bytes", "--input-bytes"),
        ("output_bytes", "--send-queue"),
        ("grant_bytes", "--grant"),
        ("loan_wait is", "--loan-wait is"),
        ("backlog is", "--backlog is"),
        ("shards is", "--shards is"),
    ];
    names.iter().fold(text.to_owned(), |text, (setting, option)| text.replace(setting, option))
}

/// Serves until a signal says to stop.
///
/// # Errors
///
/// The server did not start, or stopped without a signal.
pub(crate) fn serve(flags: &Serve, screen: &Screen, style: Style) -> Result<Ended, Failure> {
    let mut signals = StopSignals::catch().map_err(Failure::Signals)?;
    let running = match flags.app {
        App::Echo => start(flags, Echo),
        App::Discard => start(flags, Discard),
        App::Chargen => start(flags, Chargen),
        App::Chat => start(flags, Chat::default()),
    };
    let running = running.map_err(Failure::Start)?;
    banner(flags, &running, style);
    let ended = watch(flags, running, &mut signals, &mut StatsReporter::new(flags, screen, style));
    screen.clear();
    ended.map_err(Failure::Stopped)
}

fn start<H, S, W>(flags: &Serve, handler: H) -> Result<RunningServer, StartError>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    let builder = builder(flags, handler);
    let builder = match flags.backend {
        #[cfg(not(windows))]
        Backend::Uring => builder.back_end(BackEnd::Uring),
        #[cfg(not(windows))]
        Backend::Epoll => builder.back_end(BackEnd::Epoll),
        #[cfg(windows)]
        Backend::Iocp => builder.back_end(BackEnd::Iocp),
        // The option overrides the variable.
        Backend::Auto => builder.best_back_end(),
    };
    builder.start()
}

#[cfg(not(windows))]
const BEST: BackEnd = BackEnd::Uring;
#[cfg(windows)]
const BEST: BackEnd = BackEnd::Iocp;

/// Every setting of the library has a flag.
fn builder<H, S, W>(flags: &Serve, handler: H) -> Builder<H, S, W>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    let idle = flags.idle.unwrap_or(match flags.app {
        // People pause longer than programs.
        App::Chat => Duration::from_mins(30),
        App::Echo | App::Discard | App::Chargen => Duration::from_mins(1),
    });
    let mut builder = Server::builder(handler)
        .links_max(flags.links)
        .buffer_size_bytes(flags.buffer_size)
        .input_bytes(flags.input_bytes)
        .output_bytes(flags.send_queue)
        .loan_wait(flags.loan_wait)
        .stall_timeout(flags.stall)
        .idle_timeout(idle)
        .backlog(flags.backlog)
        .when_full(match flags.when_full {
            WhenFull::Wait => wharf::WhenFull::Wait,
            WhenFull::Refuse => wharf::WhenFull::Refuse,
        });
    if let Some(buffers) = flags.buffers {
        builder = builder.buffer_count(buffers);
    }
    if let Some(grant) = flags.grant {
        builder = builder.grant_bytes(grant);
    }
    if let Some(shards) = flags.shards {
        builder = builder.shards(shards);
    }
    for address in &flags.listen {
        builder = builder.listen(address);
    }
    builder
}

/// Logs the back end, the memory, the addresses, how to try the server and how to stop it.
fn banner(flags: &Serve, running: &RunningServer, style: Style) {
    let stats = running.handle().stats();
    let workers = u64::try_from(stats.workers.len()).unwrap_or(u64::MAX);
    tracing::info!(
        "wharf {}, pid {}: {} on {}, {}",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        running.back_end().back_end,
        kernel(),
        counted(workers, "worker"),
    );
    if let Some(reason) = &running.back_end().fallback_reason {
        let taken = running.back_end().back_end;
        tracing::warn!("{BEST} is unavailable, using {taken}: {reason}");
    }
    tracing::info!(
        "memory: {}, fixed: {}, {} of {}",
        bytes(running.plan().total_bytes()),
        counted(flags.links.into(), "link"),
        counted(stats.buffers.total().into(), "buffer"),
        buffer_size(flags.buffer_size),
    );
    if let Some((from, to)) = running.files_raised() {
        let (from, to) = (thousands(from), thousands(to));
        tracing::info!("open files: soft limit raised from {from} to {to}");
    }
    let addresses = running.local_addresses();
    let list: Vec<String> = addresses.iter().map(|(_, address)| address.to_string()).collect();
    tracing::info!("ready: {} on {}", flags.app.name(), list.join(", "));
    if let Some((_, address)) = addresses.first() {
        let stop = if style.live || cfg!(windows) {
            "Ctrl-C drains and stops".to_owned()
        } else {
            format!("kill {} drains and stops", std::process::id())
        };
        tracing::info!("try: {}; {stop}", how_to_try(flags.app, address));
    }
}

fn how_to_try(app: App, address: &Address) -> String {
    let client = match (address.ip(), address.port()) {
        (Some(mut host), Some(port)) => {
            if host.is_unspecified() {
                let here = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
                host = if host.is_ipv4() { here.0 } else { here.1 };
            }
            format!("nc {host} {port}")
        }
        _ => format!("nc {address}"),
    };
    match app {
        App::Echo | App::Chat => client,
        App::Discard => format!("{client} < FILE"),
        App::Chargen => format!("{client} | head"),
    }
}

/// The system's name and the first two parts of its version.
fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.trim().split(['.', '-']);
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => format!("Linux {major}.{minor}"),
        _ => std::env::consts::OS.to_owned(),
    }
}

/// Reports statistics until a signal starts the drain and the server has stopped.
fn watch(
    flags: &Serve,
    running: RunningServer,
    signals: &mut StopSignals,
    reporter: &mut StatsReporter<'_>,
) -> wharf::Result<Ended> {
    let handle = running.handle();
    let mut drain: Option<Drain> = None;
    while !running.is_finished() {
        let wait = if drain.is_some() { WAIT_DRAINING } else { WAIT };
        match (signals.wait(Some(wait)), &drain) {
            (Some(signal), None) => {
                let links = handle.stats().links.into();
                let what = match links {
                    0 => "no open links".to_owned(),
                    _ => format!(
                        "draining {}, timeout {}",
                        counted(links, "link"),
                        span(flags.drain)
                    ),
                };
                tracing::info!("stopping on {}: {what}", signal.name());
                handle.stop(flags.drain);
                drain = Some(Drain { links, until: now() + flags.drain.min(SPAN_MAX) });
            }
            (Some(signal), Some(_)) => {
                reporter.screen.clear();
                let left = counted(handle.stats().links.into(), "link");
                let name = signal.name();
                tracing::warn!("stopped immediately by a second {name}: {left} force-closed");
                return Ok(Ended::SecondSignal(signal));
            }
            (None, _) => {}
        }
        reporter.refresh(&running, drain.as_ref());
    }
    reporter.screen.clear();
    let Some(drain) = drain else {
        return match running.wait() {
            Ok(_) => Err(wharf::Error::msg("the server stopped without a signal")),
            Err(error) => Err(error),
        };
    };
    let stats = running.wait()?.stats;
    let drained = counted(drain.links.saturating_sub(stats.forced_closes), "link");
    let receives = counted(stats.receives, "receive");
    let sends = counted(stats.sends, "send");
    if stats.forced_closes == 0 {
        tracing::info!("stopped: {drained} drained, 0 force-closed; {receives}, {sends}");
        return Ok(Ended::Drained);
    }
    tracing::warn!(
        "stopped: {drained} drained, {} force-closed at the timeout of {}; {receives}, {sends}",
        thousands(stats.forced_closes),
        span(flags.drain)
    );
    Ok(Ended::ForcedCloses)
}

/// A drain in progress.
#[derive(Clone, Copy, Debug)]
struct Drain {
    /// Links that were open at its start.
    links: u64,
    until: Instant,
}

/// Four times a second: live statistics look continuous, and cost no measurable CPU.
const WAIT: Duration = Duration::from_millis(250);
/// Shorter during the drain, so that the program ends soon after its last link.
const WAIT_DRAINING: Duration = Duration::from_millis(10);
/// The longest time that is added to a clock: more could overflow.
const SPAN_MAX: Duration = Duration::from_hours(24 * 365);

/// Writes the statistics to the screen or to the log, at an interval.
#[derive(Debug)]
struct StatsReporter<'a> {
    screen: &'a Screen,
    style: Style,
    sampler: Sampler,
    every: Option<Duration>,
    next: Instant,
}

impl<'a> StatsReporter<'a> {
    fn new(flags: &Serve, screen: &'a Screen, style: Style) -> Self {
        let wished = (!flags.stats.is_zero()).then_some(flags.stats.min(SPAN_MAX));
        let every = if style.live { wished.map(|_| WAIT) } else { wished };
        let next = now() + every.unwrap_or_default();
        // Live rates are means over the last second.
        let sampler = Sampler::new(if style.live { 4 } else { 1 });
        Self { screen, style, sampler, every, next }
    }

    fn refresh(&mut self, running: &RunningServer, drain: Option<&Drain>) {
        let Some(every) = self.every else { return };
        let time = now();
        if time < self.next {
            return;
        }
        self.next = (self.next + every).max(time);
        let view = self.sampler.sample(running.handle().stats());
        if !self.style.live {
            return view.log();
        }
        let (columns, rows) = Screen::size();
        let left = drain.map(|drain| drain.until.saturating_duration_since(time));
        let mut lines = view.lines(columns, self.style, left);
        if lines.len() >= rows {
            // Lines that have scrolled off the screen cannot be drawn over.
            lines.drain(..lines.len() - 1);
        }
        self.screen.draw(&lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Command, Flags};
    use clap::Parser;

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let Command::Serve(flags) = Flags::parse_from(["wharf", "serve"]).command;
        let ours = format!("{:?}", builder(&flags, Echo));
        let library = format!("{:?}", Server::builder(Echo).listen("127.0.0.1:9527"));
        assert_eq!(ours, library);
    }

    #[test]
    fn failures_that_no_test_can_bring_about_have_texts() {
        let signals = Failure::Signals(io::Error::from_raw_os_error(12));
        assert!(signals.to_string().starts_with("cannot catch signals: "), "{signals}");
        assert_eq!(signals.kind(), FailureKind::System);
        let stopped = Failure::Stopped(wharf::Error::msg("a reason"));
        assert_eq!(
            (stopped.to_string().as_str(), stopped.kind()),
            ("a reason", FailureKind::Program)
        );
    }

    #[test]
    fn the_way_to_try_it_names_an_address_that_can_be_reached() {
        let text = |app, address: &str| {
            how_to_try(app, &address.parse::<std::net::SocketAddr>().unwrap().into())
        };
        assert_eq!(text(App::Echo, "127.0.0.1:9527"), "nc 127.0.0.1 9527");
        assert_eq!(text(App::Chat, "[::]:9527"), "nc ::1 9527");
        assert_eq!(text(App::Chargen, "0.0.0.0:19"), "nc 127.0.0.1 19 | head");
    }
}
