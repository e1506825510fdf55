//! Replies that another part of the program sends later; also if the client has ended its stream by then.
//!
//! A question is a line: `say TEXT`, `none`, `bye`, `drop`, whose reply is dropped, or `never`, whose
//! reply is never sent.

use super::api::{Error, Handler, Input, Link, Reply, Result};
use crate::talks::{QUESTION_MAX, delay_ms};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

pub(crate) struct Oracle {
    questions: SyncSender<Question>,
}

struct Question {
    text: String,
    reply: Reply,
}

const REPLY_MAX: usize = 100;

impl Oracle {
    /// For so many clients: each asks one question at a time.
    pub(crate) fn new(clients: usize, seed: u64) -> (Self, Answers) {
        let (questions, receiver) = sync_channel(clients);
        (Self { questions }, Answers { questions: receiver, seed, due: Vec::new() })
    }
}

impl Handler for Oracle {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let Some(line) = input.line(QUESTION_MAX)? else { return Ok(()) };
        let text = str::from_utf8(line)?.to_owned();
        let reply = input.defer(&mut link.out, REPLY_MAX)?;
        match self.questions.try_send(Question { text, reply }) {
            Ok(()) => Ok(()),
            // The queue returns the question, and with it the reply.
            Err(TrySendError::Full(question)) => Ok(question.reply.send("too many questions\n")?),
            Err(TrySendError::Disconnected(_)) => Err(Error::msg("the oracle is dead")),
        }
    }
}

/// The part of the program that replies. The seed determines the time for each reply.
pub(crate) struct Answers {
    questions: Receiver<Question>,
    seed: u64,
    due: Vec<(u64, Question)>,
}

impl Answers {
    /// Sends the replies that are due. Returns the time of its next call: now, if it did something.
    pub(crate) fn go_on(&mut self, now_ms: u64) -> Option<u64> {
        let mut did_something = false;
        while let Ok(question) = self.questions.try_recv() {
            let time_ms = match question.text.as_str() {
                "never" => NEVER_MS,
                text => now_ms + delay_ms(self.seed, text),
            };
            self.due.push((time_ms, question));
            did_something = true;
        }
        while let Some(at) = self.due.iter().position(|(time_ms, _)| *time_ms <= now_ms) {
            let (_, question) = self.due.remove(at);
            question.reply();
            did_something = true;
        }
        if did_something {
            return Some(now_ms);
        }
        let times_ms = self.due.iter().map(|(time_ms, _)| *time_ms);
        times_ms.filter(|time_ms| *time_ms < NEVER_MS).min()
    }
}

const NEVER_MS: u64 = u64::MAX;

impl Question {
    fn reply(self) {
        let Self { text, reply } = self;
        // If a reply is too late, its link has ended.
        match text.split_once(' ').unwrap_or((&text, "")) {
            ("say", text) => _ = writeln!(reply, "{text}, 42."),
            ("bye", _) => _ = reply.close("goodbye\n"),
            ("drop", _) => drop(reply),
            _ => reply.none(),
        }
    }
}
