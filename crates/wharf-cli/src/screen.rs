//! Standard error, shared by the log and the live statistics: one bounded queue, and one thread that
//! writes.
//!
//! A write can block indefinitely: its pipe is not read, or Ctrl-S has stopped the terminal. No thread
//! that serves, stops the server or handles signals waits for it. Log lines for which the queue lacks
//! capacity, and lines whose write failed, are dropped and counted; the next write tells how many.
//!
//! The statistics are a block of lines at the bottom. A log line is written in the block's place, and
//! the block again below it, in one write: log lines scroll above it, and nothing flickers.

use crate::flags::{Color, OutputFlags};
use crate::log::Format;
use crate::units::counted;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;

/// What standard error can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) color: bool,
    pub(crate) unicode: bool,
    /// Lines can be drawn over.
    pub(crate) live: bool,
}

impl Style {
    /// From the options, the environment, and the kind of standard error.
    pub(crate) fn detect(flags: OutputFlags) -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let live =
            io::stderr().is_terminal() && variable("TERM").is_some_and(|term| term != "dumb");
        let color = match flags.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto if variable("NO_COLOR").is_some() => false,
            Color::Auto if variable("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
            Color::Auto => live && variable("CLICOLOR").is_none_or(|value| value != "0"),
        };
        // The first that is set takes precedence (locale(7)).
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable);
        let utf8 = locale.is_some_and(|locale| {
            let locale = locale.to_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        Self { color, unicode: utf8 && !flags.ascii, live }
    }
}

/// Standard error, its queue and its block. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Screen {
    queue: Arc<Queue>,
    /// Whether a thread writes; without one, [`finish`](Self::finish) does.
    has_writer: bool,
}

#[derive(Debug, Default)]
struct Queue {
    #[expect(clippy::disallowed_types, reason = "held to copy a line, never while writing")]
    waiting: std::sync::Mutex<Waiting>,
    changed: Condvar,
    /// How log lines begin, since the log was started.
    format: OnceLock<Format>,
}

/// What is to be written.
#[derive(Debug, Default)]
struct Waiting {
    log: Vec<u8>,
    /// Log lines that were dropped, and that no line on standard error tells of yet.
    dropped: u64,
    /// The block that replaces the one that is shown; a newer one replaces it.
    block: Option<Vec<String>>,
    is_writing: bool,
    is_ending: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.log.is_empty() && self.block.is_none()
    }
}

/// Bytes of log lines that wait: about a thousand lines.
const LOG_BYTES_MAX: usize = 256 * 1024;
/// How long the end of the program waits for the writer.
const FINISH_MAX: Duration = Duration::from_secs(1);

impl Screen {
    /// Starts the thread that writes to standard error.
    pub(crate) fn start() -> Self {
        let queue = Arc::new(Queue::default());
        let body = {
            let queue = Arc::clone(&queue);
            move || queue.write_all()
        };
        let thread = std::thread::Builder::new().name("screen".to_owned()).spawn(body);
        Self { queue, has_writer: thread.is_ok() }
    }

    /// Sets how log lines begin, for those that the screen adds.
    pub(crate) fn set_format(&self, format: Format) {
        let _set_once = self.queue.format.set(format);
    }

    /// Replaces the block. Each line must be narrower than the terminal, or the block would be more
    /// lines high than it has.
    pub(crate) fn draw(&self, lines: Vec<String>) {
        self.queue.lock().block = Some(lines);
        self.queue.changed.notify_all();
    }

    /// Removes the block.
    pub(crate) fn clear(&self) {
        self.draw(Vec::new());
    }

    /// Writes a line as it is, above the block.
    pub(crate) fn print(&self, line: &str) {
        self.queue.add(format!("{line}\n").as_bytes());
    }

    /// Removes the block, and waits until all is written, at most for [`FINISH_MAX`].
    pub(crate) fn finish(&self) {
        let mut waiting = self.queue.lock();
        waiting.block = Some(Vec::new());
        waiting.is_ending = true;
        self.queue.changed.notify_all();
        if self.has_writer {
            let is_busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.is_empty();
            let _written_or_late =
                self.queue.changed.wait_timeout_while(waiting, FINISH_MAX, is_busy);
        } else {
            drop(waiting);
            self.queue.write_all();
        }
    }

    /// How many columns and rows there are; 80 by 24 if unknown.
    pub(crate) fn size() -> (usize, usize) {
        match terminal_size::terminal_size_of(io::stderr()) {
            Some((columns, rows)) if columns.0 > 0 => (columns.0.into(), rows.0.into()),
            _ => (80, 24),
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A panic while it is held leaves a part of a line at worst.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds log lines, or drops and counts them.
    fn add(&self, lines: &[u8]) {
        let mut waiting = self.lock();
        if waiting.log.len() + lines.len() <= LOG_BYTES_MAX {
            waiting.log.extend_from_slice(lines);
        } else {
            waiting.dropped += 1;
        }
        drop(waiting);
        self.changed.notify_all();
    }

    /// Writes what is added, until the end.
    fn write_all(&self) {
        let mut writer = Writer::default();
        #[cfg(unix)]
        let _without_it_a_stop_is_not_seen = signal_hook::flag::register(
            signal_hook::consts::SIGCONT,
            Arc::clone(&writer.continued),
        );
        // By default it ends the process; caught, the write that is one too many fails.
        #[cfg(unix)]
        let _without_it_a_full_file_ends_the_server =
            signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
        while self.write_next(&mut writer) {}
    }

    /// A line about `dropped` log lines.
    fn told(&self, dropped: u64) -> String {
        let text =
            format!("{} dropped: standard error is full or not read", counted(dropped, "log line"));
        match self.format.get() {
            Some(format) => format.warning(&text),
            None => text + "\n",
        }
    }

    /// Waits for something to write, and writes it; false at the end.
    fn write_next(&self, writer: &mut Writer) -> bool {
        let mut waiting = self.lock();
        waiting.is_writing = false;
        self.changed.notify_all();
        while waiting.is_empty() {
            if waiting.is_ending {
                return false;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.is_writing = true;
        writer.log.clear();
        std::mem::swap(&mut writer.log, &mut waiting.log);
        let (block, dropped) = (waiting.block.take(), std::mem::take(&mut waiting.dropped));
        drop(waiting);
        if dropped > 0 {
            writer.log.extend_from_slice(self.told(dropped).as_bytes());
        }
        let lost = writer.write(block);
        if lost > 0 {
            // The last one is the line about those before.
            self.lock().dropped += lost - u64::from(dropped > 0) + dropped;
        }
        true
    }
}

/// The thread's side: what is shown on standard error.
#[derive(Debug, Default)]
struct Writer {
    log: Vec<u8>,
    /// The last write failed within a line.
    is_in_line: bool,
    block: Vec<String>,
    /// Columns of each line of the block that is on the screen.
    drawn: Vec<usize>,
    /// Set when the process goes on after a stop: what is on the screen is no longer ours then.
    continued: Arc<AtomicBool>,
}

impl Writer {
    /// Writes the log lines, and the block below them. Returns how many of the lines were not written.
    fn write(&mut self, block: Option<Vec<String>>) -> u64 {
        if let Some(block) = block {
            self.block = block;
        }
        let has_block = !(self.block.is_empty() && self.drawn.is_empty());
        let is_ours = has_block && is_in_foreground();
        if self.continued.swap(false, Ordering::SeqCst) || !is_ours {
            self.drawn.clear();
        }
        let mut bytes = Vec::with_capacity(self.log.len() + 1024);
        if !self.drawn.is_empty() {
            let (columns, _) = Screen::size();
            let rows: usize = self.drawn.iter().map(|drawn| drawn.div_ceil(columns).max(1)).sum();
            // Move to the start of the block, and delete it with the line after it, where what is typed
            // stands. To erase the screen from there on would add the block to the history of tmux.
            bytes.extend_from_slice(format!("\r\x1b[{rows}A\x1b[{}M", rows + 1).as_bytes());
        }
        if self.is_in_line {
            bytes.push(b'\n');
        }
        let log = bytes.len()..bytes.len() + self.log.len();
        bytes.append(&mut self.log);
        self.drawn.clear();
        if is_ours {
            for line in &self.block {
                bytes.extend_from_slice(line.as_bytes());
                bytes.push(b'\n');
                self.drawn.push(columns_of(line));
            }
        }
        let written = write_until_it_fails(&bytes);
        self.is_in_line = match bytes[..written].last() {
            _ if written == bytes.len() => false,
            None => self.is_in_line,
            Some(last) => *last != b'\n',
        };
        let lost = &bytes[written.clamp(log.start, log.end)..log.end];
        let lost = lost.iter().map(|byte| u64::from(*byte == b'\n')).sum();
        bytes.clear();
        self.log = bytes;
        lost
    }
}

/// Writes to standard error until a write fails, and returns how many bytes it has taken.
fn write_until_it_fails(bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match io::stderr().write(&bytes[written..]) {
            Ok(len @ 1..) => written += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
        }
    }
    written
}

/// Columns of a line, in which each character that is drawn is one column wide.
fn columns_of(line: &str) -> usize {
    let mut parts = line.split('\x1b');
    let plain = parts.next().map_or(0, |text| text.chars().count());
    // A colour ends with an m.
    let coloured = parts.filter_map(|part| part.split_once('m'));
    plain + coloured.map(|(_, text)| text.chars().count()).sum::<usize>()
}

/// Whether the terminal is this process's: in the background another program uses it. Where there is
/// no job control it always is.
#[cfg(unix)]
fn is_in_foreground() -> bool {
    let foreground = rustix::termios::tcgetpgrp(io::stderr());
    foreground.is_err() || foreground == Ok(rustix::process::getpgrp())
}

#[cfg(not(unix))]
fn is_in_foreground() -> bool {
    true
}

/// One log line.
impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.queue.add(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
