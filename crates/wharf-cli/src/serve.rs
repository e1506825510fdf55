//! `wharf serve`: starts a server, reports its statistics, and drains it on a signal.

use crate::apps::{Chargen, Chat, Discard, Echo};
use crate::flags::{App, Backend, Serve, WhenFull};
use crate::screen::{Screen, Style};
use crate::status::{Sampler, now};
use crate::units::{buffer_size, bytes, counted, span, thousands};
use std::error::Error as _;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use wharf::{
    Address, BackEnd, Builder, Handle, Handler, RunningServer, Server, StartError, StartErrorKind,
    StopSignal, StopSignals,
};

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All links closed within the drain timeout.
    Drained,
    /// Links were force-closed at the drain timeout.
    ForcedCloses,
}

/// Why serving failed, in the words of the command line.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: FailureKind,
    text: String,
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
        self.kind
    }

    /// The system lacks what the program itself needs.
    fn system(text: String) -> Self {
        Self { kind: FailureKind::System, text }
    }

    /// The server did not start.
    fn start(error: &StartError, flags: &Serve) -> Self {
        let kind = match error.kind() {
            StartErrorKind::Settings => FailureKind::Settings,
            StartErrorKind::Address if is_no_address(error) => FailureKind::Settings,
            StartErrorKind::Handler => FailureKind::Program,
            _ => FailureKind::System,
        };
        let text = match error.kind() {
            StartErrorKind::Settings => with_options(&error.to_string(), flags),
            StartErrorKind::Address => {
                let dual_stack = flags.written("dual_stack");
                let text = error.to_string().replace("Builder::dual_stack", &dual_stack);
                flags.with_variable("listen", &text)
            }
            StartErrorKind::BackEnd => flags.with_variable("backend", error),
            _ => error.to_string(),
        };
        Self { kind, text }
    }

    /// The server stopped without a signal.
    fn stopped(error: &wharf::Error) -> Self {
        Self { kind: FailureKind::Program, text: error.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether the text was not understood, as opposed to an address that cannot be had.
fn is_no_address(error: &StartError) -> bool {
    source_kind(error) == Some(io::ErrorKind::InvalidInput)
}

/// Whether a name was not found, which may be different in a moment.
fn is_lookup(error: &StartError) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, InvalidInput, PermissionDenied};
    let others = [AddrInUse, AddrNotAvailable, InvalidInput, PermissionDenied];
    error.kind() == StartErrorKind::Address
        && source_kind(error).is_some_and(|kind| !others.contains(&kind))
}

fn source_kind(error: &StartError) -> Option<io::ErrorKind> {
    Some(error.source()?.downcast_ref::<io::Error>()?.kind())
}

/// `text` with the options, or their variables, in place of the library's settings, which the user
/// has not written.
fn with_options(text: &str, flags: &Serve) -> String {
    let names = [
        ("links_max", "links", ""),
        ("buffer_count", "buffers", ""),
        ("buffer_size_bytes", "buffer_size", ""),
        ("input_bytes", "input_bytes", ""),
        ("output_bytes", "send_queue", ""),
        ("grant_bytes", "grant", ""),
        ("proxy_protocol is", "proxy_from", " is"),
        ("loan_wait is", "loan_wait", " is"),
        ("backlog is", "backlog", " is"),
        ("shards is", "shards", " is"),
    ];
    names.iter().fold(text.to_owned(), |text, (setting, option, rest)| {
        text.replace(setting, &format!("{}{rest}", flags.written(option)))
    })
}

/// Serves until a signal says to stop.
///
/// # Errors
///
/// The server did not start, or stopped without a signal.
pub(crate) fn serve(flags: &Serve, screen: &Screen, style: Style) -> Result<Ended, Failure> {
    let signals = Signals::catch(flags.drain)?;
    let running = start(flags)?;
    signals.stop_from_now_on(running.handle());
    banner(flags, &running, style);
    let ended = watch(flags, running, &signals, &mut StatsReporter::new(flags, screen, style));
    ended.map_err(|error| Failure::stopped(&error))
}

/// Starts the server; while a name cannot be looked up, again and again for [`LOOKUP_MAX`].
fn start(flags: &Serve) -> Result<RunningServer, Failure> {
    let is_name = |text: &String| !text.starts_with('[') && text.parse::<SocketAddr>().is_err();
    let has_name = flags.listen.iter().any(is_name);
    let begin = now();
    let mut is_told = false;
    loop {
        let running = match flags.app {
            App::Echo => start_app(flags, Echo),
            App::Discard => start_app(flags, Discard),
            App::Chargen => start_app(flags, Chargen),
            App::Chat => start_app(flags, Chat::default()),
        };
        match running {
            Err(error) if has_name && is_lookup(&error) && begin.elapsed() < LOOKUP_MAX => {
                if !is_told {
                    tracing::warn!("{error}; retrying for {}", span(LOOKUP_MAX));
                    is_told = true;
                }
                std::thread::sleep(LOOKUP_EVERY);
            }
            running => return running.map_err(|error| Failure::start(&error, flags)),
        }
    }
}

/// At boot the network is often up a little later than its services; a service manager does the rest.
const LOOKUP_MAX: Duration = Duration::from_secs(3);
const LOOKUP_EVERY: Duration = Duration::from_millis(200);

#[cfg(not(windows))]
const THREAD_REMEDY: &str = "raise the limit for processes (ulimit -u, pids.max)";
#[cfg(windows)]
const THREAD_REMEDY: &str = "end other programs";

/// What signals do, on a thread that neither writes nor waits for a writer: the first one stops the
/// server, and one before it has started, or a second one, ends the program at once, without a word.
struct Signals {
    started: Sender<Handle>,
    stops: Receiver<Stop>,
}

/// How long the first signal waits for a start: clients are served a moment before that is known here.
const START_GRACE: Duration = Duration::from_millis(200);

/// The server has been told to stop.
#[derive(Clone, Copy, Debug)]
struct Stop {
    signal: StopSignal,
    /// Links that were open then.
    links: u64,
    at: Instant,
}

impl Signals {
    fn catch(drain: Duration) -> Result<Self, Failure> {
        let signals = StopSignals::catch();
        let mut signals =
            signals.map_err(|error| Failure::system(format!("cannot catch signals: {error}")))?;
        let (started, start) = channel::<Handle>();
        let (sender, stops) = channel();
        let body = move || {
            let Some(signal) = signals.wait(None) else { return };
            let Ok(server) = start.recv_timeout(START_GRACE) else { end_at_once(signal) };
            let links = server.stats().links.into();
            // Sent before the stop, so that the main thread can say why the server ended.
            let _the_server_has_failed = sender.send(Stop { signal, links, at: now() });
            server.stop(drain);
            if let Some(signal) = signals.wait(None) {
                end_at_once(signal);
            }
        };
        let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(body);
        thread.map_err(|error| {
            Failure::system(format!("cannot start a thread: {error}; {THREAD_REMEDY}"))
        })?;
        Ok(Self { started, stops })
    }

    /// The server has started.
    fn stop_from_now_on(&self, server: Handle) {
        let _it_has_ended_the_program = self.started.send(server);
    }
}

fn end_at_once(signal: StopSignal) -> ! {
    std::process::exit(128 + signal.number())
}

fn start_app<H, S, W>(flags: &Serve, handler: H) -> Result<RunningServer, StartError>
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

/// Every setting that the applications use has a flag.
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
        .loan_wait(flags.loan_wait)
        .stall_timeout(flags.stall)
        .idle_timeout(idle)
        .backlog(flags.backlog)
        .dual_stack(flags.dual_stack)
        .when_full(match flags.when_full {
            WhenFull::Wait => wharf::WhenFull::Wait,
            WhenFull::Refuse => wharf::WhenFull::Refuse,
        });
    if let Some(buffers) = flags.buffers {
        builder = builder.buffer_count(buffers);
    }
    if let Some(bytes) = flags.input_bytes {
        builder = builder.input_bytes(bytes);
    }
    if let Some(bytes) = flags.send_queue {
        builder = builder.output_bytes(bytes);
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
    for network in &flags.proxy_from {
        builder = builder.proxy_protocol(network);
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

/// Reports statistics until a signal has started the drain and the server has stopped.
fn watch(
    flags: &Serve,
    running: RunningServer,
    signals: &Signals,
    reporter: &mut StatsReporter<'_>,
) -> wharf::Result<Ended> {
    let mut stop: Option<Stop> = None;
    loop {
        // Before the next message is looked for, which the end comes after.
        let is_finished = running.is_finished();
        if stop.is_none() {
            let wait = if is_finished { Duration::ZERO } else { reporter.wait() };
            stop = signals.stops.recv_timeout(wait).ok();
            if let Some(stop) = &stop {
                let what = match stop.links {
                    0 => "no open links".to_owned(),
                    links => format!(
                        "draining {}, timeout {}",
                        counted(links, "link"),
                        span(flags.drain)
                    ),
                };
                tracing::info!("stopping on {}: {what}", stop.signal.name());
            }
        } else if !is_finished {
            std::thread::sleep(WAIT_DRAINING);
        }
        if is_finished {
            break;
        }
        reporter.refresh(&running, stop.map(|stop| stop.at + flags.drain.min(SPAN_MAX)));
    }
    reporter.screen.clear();
    let Some(stop) = stop else {
        return match running.wait() {
            Ok(_) => Err(wharf::Error::msg("the server stopped without a signal")),
            Err(error) => Err(error),
        };
    };
    let stats = running.wait()?.stats;
    let drained = counted(stop.links.saturating_sub(stats.forced_closes), "link");
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

    /// Until the next statistics, and often enough to see that the server has ended.
    fn wait(&self) -> Duration {
        let next = self.every.map(|_| self.next.saturating_duration_since(now()));
        next.map_or(WAIT, |next| next.min(WAIT))
    }

    fn refresh(&mut self, running: &RunningServer, drain_end: Option<Instant>) {
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
        let left = drain_end.map(|end| end.saturating_duration_since(time));
        let mut lines = view.lines(columns, self.style, left);
        if lines.len() >= rows {
            // Lines that have scrolled off the screen cannot be drawn over.
            lines.drain(..lines.len() - 1);
        }
        self.screen.draw(lines);
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
    fn a_stop_that_no_signal_asked_for_is_an_error() {
        let Command::Serve(flags) =
            Flags::parse_from(["wharf", "serve", "--listen", "127.0.0.1:0"]).command;
        let running = start(&flags).unwrap();
        running.handle().stop(Duration::ZERO);
        let (started, _) = channel();
        let (_signal, stops) = channel();
        let signals = Signals { started, stops };
        let style = Style { color: false, unicode: false, live: false };
        let screen = Screen::start();
        let mut reporter = StatsReporter::new(&flags, &screen, style);
        let error = watch(&flags, running, &signals, &mut reporter).unwrap_err();
        assert_eq!(Failure::stopped(&error).to_string(), "the server stopped without a signal");
    }

    #[test]
    fn the_way_to_try_it_names_an_address_that_can_be_reached() {
        let text =
            |app, address: &str| how_to_try(app, &address.parse::<SocketAddr>().unwrap().into());
        assert_eq!(text(App::Echo, "127.0.0.1:9527"), "nc 127.0.0.1 9527");
        assert_eq!(text(App::Chat, "[::]:9527"), "nc ::1 9527");
        assert_eq!(text(App::Chargen, "0.0.0.0:19"), "nc 127.0.0.1 19 | head");
    }
}
