//! The log: `2026-11-21T10:15:02.114Z INFO message key=value`, in UTC, to standard error.
//!
//! On a terminal the time has no date, and in the journal of systemd there is none, because the
//! journal adds its own.

use crate::screen::{Screen, Style};
use std::fmt;
use std::time::{Duration, SystemTime};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Sends all further events to the screen.
///
/// # Errors
///
/// `WHARF_LOG` is not a filter.
pub(crate) fn start(screen: &Screen, style: Style) -> Result<(), String> {
    let filter = filter().map_err(|(given, reason)| {
        format!(
            "WHARF_LOG {given:?}: {reason}; write a filter such as info, debug or info,wharf=debug"
        )
    })?;
    let time = match style.live {
        true => Time::OfDay,
        false if is_journal() => Time::None,
        false => Time::Full,
    };
    let format = Format { time, color: style.color };
    screen.set_format(format);
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(style.color)
        .with_writer(screen.clone())
        .event_format(format)
        .finish();
    tracing::subscriber::set_global_default(subscriber).map_err(|error| error.to_string())?;
    // The default hook would write across the live statistics.
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        tracing::error!(at, thread, "panic: {}", panic.payload_as_str().unwrap_or("no message"));
    }));
    Ok(())
}

/// The filter of `WHARF_LOG`, or what was given and why it is none.
fn filter() -> Result<EnvFilter, (String, String)> {
    let given = std::env::var_os("WHARF_LOG").unwrap_or_default();
    let Some(text) = given.to_str() else {
        return Err((given.to_string_lossy().into_owned(), "not UTF-8".to_owned()));
    };
    let fault = |reason| (text.to_owned(), reason);
    let filter = normal(if text.trim().is_empty() { "info" } else { text }).map_err(fault)?;
    EnvFilter::try_new(filter).map_err(|error| fault(error.to_string()))
}

/// The filter in the words of [`EnvFilter`]. That takes any word for the name of a part, and then
/// shows events of no other part: a level that is written otherwise would switch the log off.
fn normal(filter: &str) -> Result<String, String> {
    let level = |word: &str| {
        let word = word.to_lowercase();
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        if word == "warning" { Some("warn") } else { levels.into_iter().find(|it| *it == word) }
    };
    let is_part = |word: &str| {
        let first = word.split([':', '[']).next().unwrap_or_default();
        first.is_empty() || ["wharf", "wharf_port"].contains(&first)
    };
    let directive = |text: &str| match (text.rsplit_once('='), level(text)) {
        (None, Some(level)) => Ok(level.to_owned()),
        (Some((part, word)), _) if is_part(part) => match level(word) {
            Some(level) => Ok(format!("{part}={level}")),
            None => Err(format!("unknown level {word:?}")),
        },
        (None, None) if is_part(text) => Ok(text.to_owned()),
        (Some((part, _)), _) => Err(format!("unknown part {part:?}")),
        (None, None) => Err(format!("unknown level or part {text:?}")),
    };
    let directives = filter.split(',').map(str::trim).filter(|text| !text.is_empty());
    Ok(directives.map(directive).collect::<Result<Vec<_>, _>>()?.join(","))
}

/// Warns of each variable that is named as ours are and changes nothing.
pub(crate) fn warn_of_unknown_variables(known: &[String]) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if !name.starts_with("WHARF_") || known.iter().any(|known| *known == name) {
            continue;
        }
        let likeness = |known: &&String| strsim::jaro(known, &name);
        let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        match nearest.filter(|nearest| likeness(nearest) > 0.9) {
            Some(nearest) => {
                tracing::warn!("unknown variable {name} is ignored; did you mean {nearest}?");
            }
            None => tracing::warn!("unknown variable {name} is ignored; see wharf serve --help"),
        }
    }
}

/// Whether standard error is connected to the journal (JOURNAL_STREAM in systemd.exec(5)).
#[cfg(unix)]
fn is_journal() -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|file| stream == format!("{}:{}", file.dev(), file.ino()))
}

#[cfg(not(unix))]
fn is_journal() -> bool {
    false
}

#[derive(Clone, Copy, Debug)]
enum Time {
    Full,
    OfDay,
    None,
}

/// How lines begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    time: Time,
    color: bool,
}

impl Format {
    /// A warning that is no event, so that the filter does not apply to it.
    pub(crate) fn warning(self, text: &str) -> String {
        let mut line = String::new();
        let _never_fails = self.begin(&mut line, Level::WARN);
        line + text + "\n"
    }

    fn begin(self, out: &mut impl fmt::Write, level: Level) -> fmt::Result {
        let paint = |code: &'static str| if self.color { code } else { "" };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        match self.time {
            Time::Full => write!(out, "{}{}{} ", paint(DIM), utc(now), paint(PLAIN))?,
            Time::OfDay => write!(out, "{}{}{} ", paint(DIM), &utc(now)[11..], paint(PLAIN))?,
            Time::None => {}
        }
        let code = match level {
            Level::ERROR => "\x1b[1;31m",
            Level::WARN => "\x1b[33m",
            Level::INFO => "\x1b[32m",
            _ => DIM,
        };
        write!(out, "{}{level}{} ", paint(code), paint(PLAIN))
    }
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        self.begin(&mut out, *event.metadata().level())?;
        context.format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// The time since 1970 as `2026-11-21T10:15:02.114Z`.
fn utc(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days counted from 1 March of the year 0, so that the leap day is the last of its year; in
    // 400 years there are 146,097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Five months, from March and from August, have 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!(
        "{:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        era * 400 + year + next_year,
        second / 3_600,
        second / 60 % 60,
        second % 60,
        since_1970.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_in_rfc_3339() {
        // From `date -u -d @SECONDS`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.114Z"),
            (951_782_400, "2000-02-29T00:00:00.114Z"),
            (951_868_799, "2000-02-29T23:59:59.114Z"),
            (1_709_251_199, "2024-02-29T23:59:59.114Z"),
            (1_795_256_102, "2026-11-21T10:15:02.114Z"),
            (4_107_542_400, "2100-03-01T00:00:00.114Z"),
        ] {
            assert_eq!(utc(Duration::from_secs(seconds) + Duration::from_millis(114)), text);
        }
    }

    #[test]
    fn levels_may_be_written_otherwise_and_nothing_is_ignored() {
        for (given, filter) in [
            ("warning", "warn"),
            ("Warning,wharf=DEBUG", "warn,wharf=debug"),
            (" info , wharf::engine=trace,", "info,wharf::engine=trace"),
            ("off", "off"),
            ("wharf_port", "wharf_port"),
        ] {
            assert_eq!(normal(given).as_deref(), Ok(filter));
        }
        for given in ["inf", "wharf=loud", "wharfs=info", "info,x", "3"] {
            assert!(normal(given).is_err(), "{given}");
        }
    }

    /// Set where this program is to panic on a thread.
    #[cfg(unix)]
    const PANICS: &str = "WHARF_TEST_PANICS";

    /// This test in a process of its own, whose hook for panics the program has set.
    #[cfg(unix)]
    fn panicking(stderr: impl Into<std::process::Stdio>) -> std::process::Child {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "log::tests::a_panic_is_a_line_and_waits_for_no_reader"]);
        command.args(["--nocapture", "--test-threads=1"]).env(PANICS, "1").env_remove("WHARF_LOG");
        command.stdout(std::process::Stdio::null()).stderr(stderr).spawn().unwrap()
    }

    #[cfg(unix)]
    #[test]
    fn a_panic_is_a_line_and_waits_for_no_reader() {
        use std::time::Instant;
        if std::env::var_os(PANICS).is_some() {
            let screen = Screen::start();
            start(&screen, Style { color: false, unicode: true, live: false }).unwrap();
            let panic = || panic!("the handler's words");
            let thread = std::thread::Builder::new().name("wharf-0".to_owned()).spawn(panic);
            thread.unwrap().join().unwrap_err();
            screen.finish();
            std::process::exit(7);
        }
        let output = panicking(std::process::Stdio::piped()).wait_with_output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        let place = (r#"at="[^"]+""#, "at=[PLACE]");
        crate::snapshot::matches_but("log-panic", &[place], &text);

        let (_reader, writer) = crate::full_pipe::full_pipe();
        let mut child = panicking(writer);
        let begin = crate::status::now();
        while child.try_wait().unwrap().is_none() {
            let waited = Instant::elapsed(&begin);
            assert!(waited < Duration::from_secs(20), "it waits for a reader");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(child.wait().unwrap().code(), Some(7));
    }
}
