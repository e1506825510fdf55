//! Standard error, shared by the log and the live statistics.
//!
//! The statistics are a block of lines at the bottom. A log line is written in the block's place, and
//! the block again below it, in one write: log lines scroll above it, and nothing flickers.

use crate::flags::{Color, OutputFlags};
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, PoisonError};
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

/// Standard error and its block. Clones share both.
#[derive(Clone, Debug)]
pub(crate) struct Screen {
    #[expect(clippy::disallowed_types, reason = "shards log and the main thread draws, seldom")]
    block: Arc<std::sync::Mutex<Block>>,
}

/// The lines at the bottom of the screen.
#[derive(Debug, Default)]
struct Block {
    text: String,
    /// Lines of it that are on the screen.
    drawn: usize,
}

impl Screen {
    #[expect(clippy::disallowed_types, reason = "see the field")]
    pub(crate) fn new() -> Self {
        Self { block: Arc::new(std::sync::Mutex::new(Block::default())) }
    }

    /// Replaces the block. Each line must be narrower than the terminal, or the block would be more
    /// lines high than it has.
    pub(crate) fn draw(&self, lines: &[String]) {
        let mut text = lines.join("\n");
        if !lines.is_empty() {
            text.push('\n');
        }
        self.write(b"", Some(text));
    }

    /// Removes the block.
    pub(crate) fn clear(&self) {
        self.draw(&[]);
    }

    /// How many columns and rows there are; 80 by 24 if unknown.
    pub(crate) fn size() -> (usize, usize) {
        match terminal_size::terminal_size_of(io::stderr()) {
            Some((columns, rows)) if columns.0 > 0 => (columns.0.into(), rows.0.into()),
            _ => (80, 24),
        }
    }

    /// Writes `above` above the block, and replaces the block by `block` if given.
    fn write(&self, above: &[u8], block: Option<String>) {
        // A panic while the lock is held leaves a stale block at worst.
        let mut shown = self.block.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::with_capacity(1024);
        if shown.drawn > 0 {
            // Move to the start of the block, and erase from there on.
            bytes.extend_from_slice(format!("\r\x1b[{}A\x1b[J", shown.drawn).as_bytes());
        }
        bytes.extend_from_slice(above);
        if let Some(text) = block {
            shown.text = text;
        }
        bytes.extend_from_slice(shown.text.as_bytes());
        shown.drawn = shown.text.matches('\n').count();
        // Without a standard error there is no other place to report to.
        let _closed = io::stderr().lock().write_all(&bytes);
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::write(self, bytes, None);
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
