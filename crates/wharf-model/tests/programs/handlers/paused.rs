//! One line at a time: the link pauses after each, until another part of the program resumes it.

use super::api::{Error, Handle, Handler, Input, Link, LinkId, Result};
use crate::talks::{QUESTION_MAX, delay_ms};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

pub(crate) struct Paused {
    lines: SyncSender<(LinkId, String)>,
}

impl Paused {
    /// For so many clients: each has one line that waits.
    pub(crate) fn new(clients: usize) -> (Self, Receiver<(LinkId, String)>) {
        let (lines, receiver) = sync_channel(clients);
        (Self { lines }, receiver)
    }
}

impl Handler for Paused {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let Some(line) = input.line(QUESTION_MAX)? else { return Ok(()) };
        let text = str::from_utf8(line)?.to_owned();
        link.out.send((&*text, "\n"))?;
        link.pause();
        let sent = self.lines.try_send((link.id(), text));
        sent.map_err(|_| Error::msg("more lines wait than there are links"))
    }
}

/// The part of the program that resumes links. The seed determines the time for each line.
pub(crate) struct Resumer {
    pub(crate) server: Handle,
    pub(crate) lines: Receiver<(LinkId, String)>,
    pub(crate) seed: u64,
    pub(crate) due: Vec<(u64, LinkId)>,
}

impl Resumer {
    /// Resumes links that have waited. Returns the time of its next call: now, if it did something.
    pub(crate) fn go_on(&mut self, now_ms: u64) -> Option<u64> {
        let mut did_something = false;
        while let Ok((link, line)) = self.lines.try_recv() {
            self.due.push((now_ms + delay_ms(self.seed, &line), link));
            did_something = true;
        }
        while let Some(at) = self.due.iter().position(|(time_ms, _)| *time_ms <= now_ms) {
            let (_, link) = self.due.remove(at);
            self.server.link(link).resume();
            did_something = true;
        }
        if did_something {
            Some(now_ms)
        } else {
            self.due.iter().map(|(time_ms, _)| *time_ms).min()
        }
    }
}
