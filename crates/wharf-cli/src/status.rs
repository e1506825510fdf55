//! The statistics of a running server: live lines for a terminal, otherwise a line of the log.

use crate::screen::Style;
use crate::units::{bytes, counted, span, thousands};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use wharf::{DisconnectReason, Stats};

/// Samples of the counters; rates are means since the oldest.
#[derive(Debug)]
pub(crate) struct Sampler {
    started: Instant,
    samples: VecDeque<(Instant, Stats)>,
    kept: usize,
}

impl Sampler {
    /// Keeps `kept` samples.
    pub(crate) fn new(kept: usize) -> Self {
        Self { started: now(), samples: VecDeque::with_capacity(kept + 1), kept }
    }

    /// Adds a sample, and returns its values and rates.
    pub(crate) fn sample(&mut self, stats: Stats) -> StatsView {
        let at = now();
        let oldest = self.samples.front();
        let elapsed = oldest.map_or(at - self.started, |oldest| at - oldest.0);
        let nothing = Stats::default();
        let before = oldest.map_or(&nothing, |oldest| &oldest.1);
        let view = StatsView::new(before, &stats, elapsed, at - self.started);
        self.samples.push_back((at, stats));
        if self.samples.len() > self.kept {
            self.samples.pop_front();
        }
        view
    }
}

/// The time for statistics and timeouts of the program; the engine has a clock of its own.
#[expect(clippy::disallowed_methods, reason = "the program is not simulated")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The values that are shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StatsView {
    up: Duration,
    links: u64,
    links_max: u64,
    buffers: u64,
    buffers_max: u64,
    input: Rate,
    output: Rate,
    accepted: u64,
    /// Connections that their peers aborted before they were accepted.
    accept_aborts: u64,
    workers: Vec<WorkerView>,
    /// Events since the start that may need attention, and their numbers.
    warnings: Vec<(&'static str, u64)>,
}

/// Calls, which are receives or sends, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rate {
    calls_per_second: u64,
    bytes_per_second: u64,
    calls: u64,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct WorkerView {
    calls: u64,
    links: u64,
    /// From 0 to 1.
    busy: f64,
}

impl StatsView {
    fn new(before: &Stats, stats: &Stats, elapsed: Duration, up: Duration) -> Self {
        let seconds = elapsed.as_secs_f64().max(1e-3);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rates are rounded, and counts only rise"
        )]
        let rate = |now: u64, then: u64| (now.saturating_sub(then) as f64 / seconds).round() as u64;
        let ledgers = [&stats.buffers, &stats.post_buffers];
        // A buffer that is provided to the kernel for a receive is not in use: it holds no bytes.
        let used = ledgers.map(|ledger| ledger.total() - ledger.free - ledger.kernel_receive);
        let workers = stats.workers.iter().enumerate().map(|(number, worker)| {
            let before = before.workers.get(number).map_or(0, |worker| worker.busy_ns);
            let busy = Duration::from_nanos(worker.busy_ns.saturating_sub(before));
            let busy = (busy.as_secs_f64() / seconds).min(1.0);
            WorkerView { calls: worker.calls, links: worker.links.into(), busy }
        });
        Self {
            up,
            links: stats.links.into(),
            links_max: stats.links_max.into(),
            buffers: used.into_iter().map(u64::from).sum(),
            buffers_max: ledgers.iter().map(|ledger| u64::from(ledger.total())).sum(),
            input: Rate {
                calls_per_second: rate(stats.receives, before.receives),
                bytes_per_second: rate(stats.received_bytes, before.received_bytes),
                calls: stats.receives,
                bytes: stats.received_bytes,
            },
            output: Rate {
                calls_per_second: rate(stats.sends, before.sends),
                bytes_per_second: rate(stats.sent_bytes, before.sent_bytes),
                calls: stats.sends,
                bytes: stats.sent_bytes,
            },
            accepted: stats.accepted,
            accept_aborts: stats.accept_aborts,
            workers: workers.collect(),
            warnings: warnings(stats),
        }
    }

    /// The mean over all workers.
    fn busy(&self) -> f64 {
        let count = u32::try_from(self.workers.len().max(1)).unwrap_or(u32::MAX);
        self.workers.iter().map(|worker| worker.busy).sum::<f64>() / f64::from(count)
    }

    /// Logs the values.
    pub(crate) fn log(&self) {
        tracing::info!(
            up_s = self.up.as_secs(),
            links = self.links,
            links_max = self.links_max,
            buffers_in_use = self.buffers,
            buffers_max = self.buffers_max,
            accepted = self.accepted,
            accept_aborts = self.accept_aborts,
            receives = self.input.calls,
            receive_bytes = self.input.bytes,
            receive_per_s = self.input.calls_per_second,
            receive_bytes_per_s = self.input.bytes_per_second,
            sends = self.output.calls,
            send_bytes = self.output.bytes,
            send_per_s = self.output.calls_per_second,
            send_bytes_per_s = self.output.bytes_per_second,
            busy_percent = percent(self.busy()),
            warnings = self.warnings.iter().map(|warning| warning.1).sum::<u64>(),
            "stats"
        );
    }

    /// The values as lines narrower than `width`, below a blank one.
    pub(crate) fn lines(&self, width: usize, style: Style, drain: Option<Duration>) -> Vec<String> {
        let row = || Row { text: String::new(), spare_columns: width.saturating_sub(1), style };
        let rate = |name: &str, call: &str, rate: Rate| {
            format!(
                "   {name:<3}{:>10} {call}/s {:>9}",
                thousands(rate.calls_per_second),
                format!("{}/s", bytes(rate.bytes_per_second))
            )
        };
        let of = |n: u64, limit: u64| format!("{:>7} of {:>7}", thousands(n), thousands(limit));
        let mut lines = vec![
            String::new(),
            row()
                .left("links", &of(self.links, self.links_max))
                .bar(share(self.links, self.links_max))
                .right(&rate("in", "recv", self.input)),
            row()
                .left("buffers", &of(self.buffers, self.buffers_max))
                .bar(share(self.buffers, self.buffers_max))
                .right(&rate("out", "send", self.output)),
        ];
        if self.workers.len() <= WORKERS_SHOWN_MAX {
            for (number, worker) in self.workers.iter().enumerate() {
                let label = format!("worker {number}");
                let left = row().left(&label, &format!("{:>12} calls", thousands(worker.calls)));
                let links = counted(worker.links, "link");
                lines.push(left.bar(worker.busy).right(&format!("   {links}")));
            }
        } else {
            let calls = thousands(self.workers.iter().map(|worker| worker.calls).sum());
            let left = row().left("workers", &format!("{calls:>12} calls"));
            let most = self.workers.iter().map(|worker| worker.busy).fold(0.0, f64::max);
            let right = format!("   {} workers, busiest {} %", self.workers.len(), percent(most));
            lines.push(left.bar(self.busy()).right(&right));
        }
        let total = |name: &str, call: &str, total: Rate| {
            format!("{name} {} {call}, {}", thousands(total.calls), bytes(total.bytes))
        };
        let accepted = format!("; {} accepted", thousands(self.accepted));
        let aborted = match self.accept_aborts {
            0 => String::new(),
            aborts => format!(", {} aborted", thousands(aborts)),
        };
        lines.push(
            row()
                .push(&total(" total: in", "recv", self.input), "")
                .push(&total("; out", "send", self.output), "")
                .push(&accepted, "")
                .right(&aborted),
        );
        lines.push(self.last_line(row(), drain));
        lines
    }

    fn last_line(&self, row: Row, drain: Option<Duration>) -> String {
        if let Some(left) = drain {
            // Whole seconds: tenths would change at each redraw.
            let left = left.saturating_add(Duration::from_millis(999));
            let left = span(Duration::from_secs(left.as_secs()));
            return row
                .push(&format!(" draining: {}", counted(self.links, "link")), "")
                .push(&format!(", timeout in {left}"), "")
                .right("; Ctrl-C again stops immediately");
        }
        // In whole seconds, at least one: less would be shown in milliseconds.
        let up = span(Duration::from_secs(self.up.as_secs().max(1)));
        let row = row.push(&format!(" up {up}"), "");
        if self.warnings.is_empty() {
            return row.right(", no warnings");
        }
        let each = |row: Row, (noun, count): &(&str, u64)| {
            row.push(&format!(", {}", counted(*count, noun)), YELLOW)
        };
        self.warnings.iter().fold(row, each).text
    }
}

/// The counters of events that may need attention, without those at 0.
fn warnings(stats: &Stats) -> Vec<(&'static str, u64)> {
    let slow = stats.closed(DisconnectReason::SlowReader);
    let all = [
        ("handler panic", stats.handler_panics),
        ("accept failure", stats.accept_failures),
        ("refused connection", stats.refused_full),
        ("missing PROXY header", stats.proxy_errors),
        ("buffer wait", stats.buffer_waits),
        ("slow reader", slow),
        ("limit violation", stats.closed(DisconnectReason::Limit)),
        ("revoked loan", stats.loans_revoked),
        ("output overflow", stats.closed(DisconnectReason::OutputFull)),
        ("missed post", stats.missed),
        ("system error", stats.closed(DisconnectReason::SystemError)),
    ];
    all.into_iter().filter(|warning| warning.1 > 0).collect()
}

/// Above this number workers share a row: more rows would fill a small terminal.
const WORKERS_SHOWN_MAX: usize = 4;
const BAR_WIDTH: usize = 10;
/// From this share on a bar is yellow.
const NEARLY_FULL: f64 = 0.9;
const CYAN: &str = "\x1b[36m";
const YELLOW: &str = "\x1b[33m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

#[expect(clippy::cast_precision_loss, reason = "a bar has ten places")]
fn share(n: u64, limit: u64) -> f64 {
    n as f64 / limit.max(1) as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 100")]
fn percent(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * 100.0).round() as u64
}

/// A line under construction, not wider than the terminal.
struct Row {
    text: String,
    spare_columns: usize,
    style: Style,
}

impl Row {
    fn left(self, label: &str, value: &str) -> Self {
        self.push(&format!(" {label:<9}{value:>18}  "), "")
    }

    fn bar(self, share: f64) -> Self {
        let (full, rest) = if self.style.unicode { ("█", "░") } else { ("#", ".") };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10")]
        let cells = (share.clamp(0.0, 1.0) * BAR_WIDTH as f64).round() as usize;
        let code = if share >= NEARLY_FULL { YELLOW } else { CYAN };
        self.push(&full.repeat(cells), code)
            .push(&rest.repeat(BAR_WIDTH - cells), DIM)
            .push(&format!(" {:>3} %", percent(share)), "")
    }

    fn right(self, text: &str) -> String {
        self.push(text, "").text
    }

    /// Adds a part if all of it fits: half a number would be another number. After a part that does
    /// not fit, none is added.
    fn push(mut self, text: &str, code: &str) -> Self {
        // Each character that is drawn is one column wide.
        let Some(spare_columns) = self.spare_columns.checked_sub(text.chars().count()) else {
            self.spare_columns = 0;
            return self;
        };
        self.spare_columns = spare_columns;
        if self.style.color && !code.is_empty() && !text.is_empty() {
            self.text.extend([code, text, PLAIN]);
        } else {
            self.text.push_str(text);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf::WorkerStats;

    const PLAIN_STYLE: Style = Style { color: false, unicode: true, live: true };

    fn view(workers: usize) -> StatsView {
        let (mut before, mut stats) = (Stats::default(), Stats::default());
        stats.links = 1_204;
        stats.links_max = 3_000;
        stats.buffers.free = 7_089;
        stats.buffers.send_queue = 2_911;
        before.receives = 1_000;
        stats.receives = 365_602;
        stats.received_bytes = 23_400_000;
        (stats.accepted, stats.sends, before.sends) = (1_206, 1, 1);
        for _ in 0..workers {
            let mut worker = WorkerStats::default();
            (worker.links, worker.calls, worker.busy_ns) = (602, 9_120_334, 1_220_000_000);
            stats.workers.push(worker);
        }
        StatsView::new(&before, &stats, Duration::from_secs(2), Duration::from_secs(100))
    }

    #[test]
    fn the_block_is_calm_and_fits_80_columns() {
        let lines = view(2).lines(80, PLAIN_STYLE, None);
        let expected = [
            "",
            " links      1,204 of   3,000  ████░░░░░░  40 %   in    182,301 recv/s 11.7 MB/s",
            " buffers    2,911 of  10,000  ███░░░░░░░  29 %   out         0 send/s     0 B/s",
            " worker 0    9,120,334 calls  ██████░░░░  61 %   602 links",
            " worker 1    9,120,334 calls  ██████░░░░  61 %   602 links",
            " total: in 365,602 recv, 23.4 MB; out 1 send, 0 B; 1,206 accepted",
            " up 1 min 40 s, no warnings",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_narrow_terminal_gets_fewer_parts_and_no_half_numbers() {
        let wide = view(2).lines(80, PLAIN_STYLE, None);
        for width in 1..80 {
            for (line, whole) in view(2).lines(width, PLAIN_STYLE, None).iter().zip(&wide) {
                assert!(line.chars().count() < width && whole.starts_with(line), "{line}");
                let rest = &whole[line.len()..];
                let cut = line.ends_with(|c: char| c.is_ascii_digit())
                    && rest.starts_with(|c: char| c.is_ascii_digit() || c == ',');
                assert!(!cut || rest.starts_with(", "), "{line}");
            }
        }
    }

    #[test]
    fn many_workers_share_a_row() {
        let lines = view(16).lines(80, PLAIN_STYLE, None);
        assert_eq!(lines.len(), 6);
        assert!(lines[3].ends_with("61 %   16 workers, busiest 61 %"), "{}", lines[3]);
    }

    #[test]
    fn warnings_are_named_and_counted() {
        let mut stats = Stats::default();
        (stats.handler_panics, stats.refused_full) = (2, 1_000);
        let second = Duration::from_secs(1);
        let view = StatsView::new(&Stats::default(), &stats, second, second);
        let last = view.lines(80, PLAIN_STYLE, None).pop().unwrap();
        assert_eq!(last, " up 1 s, 2 handler panics, 1,000 refused connections");
    }

    #[test]
    fn a_plain_terminal_gets_plain_signs() {
        let style = Style { color: false, unicode: false, live: true };
        let lines = view(2).lines(80, style, Some(Duration::from_millis(7_400)));
        assert!(lines.iter().all(|line| line.is_ascii()), "{lines:?}");
        assert_eq!(
            lines.last().unwrap(),
            " draining: 1,204 links, timeout in 8 s; Ctrl-C again stops immediately"
        );
    }

    #[test]
    fn colour_is_added_to_the_same_text() {
        let style = Style { color: true, ..PLAIN_STYLE };
        let mut text = view(2).lines(80, style, None).join("\n");
        assert!(text.contains("\x1b[36m████\x1b[0m"));
        for code in [CYAN, YELLOW, DIM, PLAIN] {
            text = text.replace(code, "");
        }
        assert_eq!(text, view(2).lines(80, PLAIN_STYLE, None).join("\n"));
    }
}
