//! Chat: each line goes to everybody else, under its sender's name.
//!
//! ```text
//!   bytes ─► Line (cut at LF, at most 1,024 bytes) ─► text::clean ─► command | broadcast
//! ```
//!
//! `/nick NAME`, `/who` and `/quit` are the commands. Lines may end in LF or CRLF, so `nc`, `socat`
//! and `telnet` all do. What one client sends cannot move another one's cursor: control characters
//! are taken out. Who reads too slowly misses lines and delays nobody.

mod line;
mod names;
mod text;

use line::{LINE_BYTES_MAX, Line, Taken};
use names::Names;
use std::fmt::Write as _;
use std::io;
use std::ops::ControlFlow;
use std::sync::PoisonError;
use wharf::{DisconnectReason, Handler, Link, Result, SendError, WorkerId};

/// Lets people talk.
#[derive(Debug, Default)]
pub(crate) struct Chat {
    #[expect(
        clippy::disallowed_types,
        reason = "names are unique across all shards; held briefly"
    )]
    names: std::sync::Mutex<Names>,
}

/// What a worker writes in, so that a line needs no memory of its own.
#[derive(Debug)]
pub(crate) struct Scratch {
    line: Vec<u8>,
    text: String,
    out: String,
}

/// One who takes part.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    name: String,
    line: Line,
}

type Client<'a> = Link<'a, Guest>;

impl Handler for Chat {
    type Worker = Scratch;
    type State = Guest;

    fn on_worker_start(&self, _: WorkerId) -> io::Result<Scratch> {
        Ok(Scratch {
            line: Vec::with_capacity(LINE_BYTES_MAX),
            // Each invalid byte becomes a sign of three.
            text: String::with_capacity(3 * LINE_BYTES_MAX),
            out: String::with_capacity(4 * LINE_BYTES_MAX),
        })
    }

    fn on_connect(&self, scratch: &mut Scratch, link: &mut Client<'_>) -> Result {
        let (name, others) = {
            let mut names = self.names();
            let others = names.len();
            (names.join(), others)
        };
        let out = scratch.say(format_args!(
            "* welcome; you are {name}, with {others} other{} here\r\n\
             * /nick NAME, /who, /quit; all else goes to everybody\r\n",
            if others == 1 { "" } else { "s" }
        ));
        if let Err(error) = link.send(out) {
            // A link that is refused is not disconnected, so nobody else takes the name back.
            self.names().leave(&name);
            return Err(error.into());
        }
        tell_others(link, scratch.say(format_args!("* {name} is here\r\n")));
        link.state().name = name;
        Ok(())
    }

    fn on_receive(&self, scratch: &mut Scratch, link: &mut Client<'_>, data: &[u8]) -> Result {
        let mut rest = data;
        loop {
            match link.state().line.take(&mut rest, &mut scratch.line) {
                Taken::Part => return Ok(()),
                Taken::Line => {
                    if self.line(scratch, link)?.is_break() {
                        return Ok(());
                    }
                }
                Taken::TooLong => {
                    link.send(TOO_LONG.as_bytes())?;
                    link.close();
                    return Ok(());
                }
            }
        }
    }

    fn on_disconnect(&self, scratch: &mut Scratch, link: &mut Client<'_>, why: DisconnectReason) {
        let name = std::mem::take(&mut link.state().name);
        self.names().leave(&name);
        // At the end everybody goes; nobody need hear it.
        if why != DisconnectReason::ServerStopping {
            tell_others(link, scratch.say(format_args!("* {name} has left\r\n")));
        }
    }
}

impl Chat {
    /// Does what the line in `scratch.line` says; breaks if that is the end of the link.
    fn line(&self, scratch: &mut Scratch, link: &mut Client<'_>) -> Result<ControlFlow<()>> {
        let mut text = std::mem::take(&mut scratch.text);
        text::clean(&scratch.line, &mut text);
        let said = text.trim();
        let result = match said.split_once(' ').unwrap_or((said, "")) {
            ("", _) => Ok(()),
            ("/quit", _) => {
                let name = &link.state().name;
                let bye = scratch.say(format_args!("* goodbye, {name}\r\n"));
                let result = link.send(bye);
                link.close();
                scratch.text = text;
                return Ok(result.map(|()| ControlFlow::Break(()))?);
            }
            ("/who", _) => {
                self.names().list(&mut scratch.out);
                link.send(scratch.out.as_bytes())
            }
            ("/nick", name) => self.rename(scratch, link, name.trim()),
            (word, _) if word.starts_with('/') => link.send(COMMANDS.as_bytes()),
            _ => {
                let name = &link.state().name;
                let out = scratch.say(format_args!("{name}: {said}\r\n"));
                match link.broadcast(out) {
                    Ok(()) => Ok(()),
                    Err(SendError::TooLarge) => link.send(NOT_DELIVERED.as_bytes()),
                    Err(_) => link.send(NOT_DELIVERED_TO_ALL.as_bytes()),
                }
            }
        };
        scratch.text = text;
        Ok(result.map(|()| ControlFlow::Continue(()))?)
    }

    fn rename(
        &self,
        scratch: &mut Scratch,
        link: &mut Client<'_>,
        wanted: &str,
    ) -> Result<(), SendError> {
        let old = link.state().name.clone();
        let renamed = self.names().rename(&old, wanted);
        match renamed {
            Ok(()) => {
                wanted.clone_into(&mut link.state().name);
                tell_others(link, scratch.say(format_args!("* {old} is now {wanted}\r\n")));
                link.send(scratch.say(format_args!("* you are now {wanted}\r\n")))
            }
            Err(reason) => link.send(scratch.say(format_args!("* {reason}\r\n"))),
        }
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Names> {
        // Names change by single calls of a map, so a panic leaves them whole.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scratch {
    /// What is to be sent, in the worker's own memory.
    fn say(&mut self, what: std::fmt::Arguments<'_>) -> &[u8] {
        self.out.clear();
        let _never_fails = self.out.write_fmt(what);
        self.out.as_bytes()
    }
}

/// News that nobody waits for: if there is no room for them now, they are left out.
fn tell_others(link: &mut Client<'_>, news: &[u8]) {
    if let Err(error) = link.broadcast(news) {
        tracing::debug!(link = %link.id(), %error, "chat: news left out");
    }
}

const COMMANDS: &str = "* the commands are /nick NAME, /who and /quit\r\n";
const TOO_LONG: &str = "* that line is longer than 1,024 bytes: goodbye\r\n";
const NOT_DELIVERED: &str = "* nobody got that: it is longer than a send queue\r\n";
const NOT_DELIVERED_TO_ALL: &str = "* not everybody got that: the server is busy\r\n";
const _: () = assert!(LINE_BYTES_MAX == 1_024, "the text says so");
