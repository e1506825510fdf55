//! A reply that comes later, from a part of the program of its own; also if the client has ended its
//! half by then.

use crate::check_with;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use wharf_model::{Error, Handler, Input, Link, Reply, Result};

struct Oracle {
    questions: SyncSender<Question>,
}

struct Question {
    text: String,
    reply: Reply,
}

const QUESTION_MAX: usize = 300;
const REPLY_MAX: usize = 100;

impl Handler for Oracle {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let Some(line) = input.line(QUESTION_MAX)? else { return Ok(()) };
        let text = str::from_utf8(line)?.to_owned();
        let reply = input.defer(&mut link.out, REPLY_MAX)?;
        match self.questions.try_send(Question { text, reply }) {
            Ok(()) => Ok(()),
            // The question comes back, and with it the reply.
            Err(TrySendError::Full(question)) => Ok(question.reply.send("too many questions\n")?),
            Err(TrySendError::Disconnected(_)) => Err(Error::msg("the oracle is dead")),
        }
    }
}

/// Replies to a question at times; to every third one, nothing.
pub(crate) fn run(seeds: u64) {
    let start = || {
        let (questions, receiver) = sync_channel::<Question>(1);
        let mut count = 0;
        let oracle = move |rng: &mut wharf_model::Rng| {
            if !rng.once_in(3) {
                return false;
            }
            let Ok(Question { text, reply }) = receiver.try_recv() else { return false };
            if count % 3 > 0 {
                writeln!(reply, "{text} 42.").unwrap();
            } else {
                reply.none();
            }
            count += 1;
            true
        };
        (Oracle { questions }, oracle)
    };
    check_with(seeds, start, |rng| {
        let (mut text, mut replies) = (String::new(), String::new());
        for n in 0..rng.below(40) {
            text += &format!("q{n}\n");
            if n % 3 > 0 {
                replies += &format!("q{n} 42.\n");
            }
        }
        (text.into_bytes(), replies.into_bytes())
    });
}
