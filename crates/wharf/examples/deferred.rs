//! A reply that another thread sends later; also if the client has ended its stream by then: `echo 'what is 6 times 7?' | nc -N 127.0.0.1 9527`.
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use wharf::{Error, Handler, Input, Link, Reply, Result, Server};

struct Oracle {
    questions: SyncSender<Question>,
}

struct Question {
    text: String,
    reply: Reply,
}

const QUESTION_MAX: usize = 1024;
const REPLY_MAX: usize = 2048;

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

fn think(questions: Receiver<Question>) {
    for Question { text, reply } in questions {
        std::thread::sleep(Duration::from_millis(100));
        // An error means that the link has ended; then no client waits for the reply.
        let _gone = writeln!(reply, "{text} 42.");
    }
}

fn main() -> Result {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9527".to_owned());
    let (questions, receiver) = sync_channel(100);
    let thinker = std::thread::Builder::new().spawn(|| think(receiver))?;
    Server::builder(Oracle { questions }).listen(address).serve()?;
    // The handler is dropped, and with it the sender.
    thinker.join().map_err(|_| Error::msg("the oracle panicked"))
}
