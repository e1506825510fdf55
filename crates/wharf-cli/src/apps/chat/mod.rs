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
use std::sync::PoisonError;
use wharf::{DisconnectReason, Handler, Input, Link, PostError, Result, Worker};

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
    list: String,
}

/// One who takes part.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    name: String,
    line: Line,
}

type Client<'a> = Link<'a, Guest, Scratch>;

impl Handler<Guest, Scratch> for Chat {
    fn on_worker_start(&self, _: &mut Worker<'_>) -> Result<Scratch> {
        Ok(Scratch {
            line: Vec::with_capacity(LINE_BYTES_MAX),
            // Each invalid byte becomes a sign of three.
            text: String::with_capacity(3 * LINE_BYTES_MAX),
            list: String::with_capacity(2 * LINE_BYTES_MAX),
        })
    }

    fn on_connect(&self, link: &mut Link<'_, (), Scratch>) -> Result<Guest> {
        let (name, others) = {
            let mut names = self.names();
            let others = names.len();
            (names.join(), others)
        };
        let welcome = write!(
            link.out,
            "* welcome; you are {name}, with {others} other{} here\r\n\
             * /nick NAME, /who, /quit; all else goes to everybody\r\n",
            if others == 1 { "" } else { "s" }
        );
        if let Err(error) = welcome {
            // A link that is refused is not disconnected, so nobody else takes the name back.
            self.names().leave(&name);
            return Err(error.into());
        }
        // Who has no room for news does not get them, here and below.
        write!(link.server.all().except(link.id()), "* {name} is here\r\n");
        Ok(Guest { name, line: Line::default() })
    }

    fn on_receive(&self, link: &mut Client<'_>, input: &mut Input<'_>) -> Result {
        loop {
            let chunk = input.chunk();
            let mut rest = chunk;
            let taken = link.state.line.take(&mut rest, &mut link.worker.line);
            let len = chunk.len() - rest.len();
            input.consume(len);
            match taken {
                Taken::Line => return self.line(link),
                Taken::TooLong => {
                    link.out.send(TOO_LONG)?;
                    link.close();
                    return Ok(());
                }
                Taken::Part if input.is_empty() => return Ok(()),
                Taken::Part => {}
            }
        }
    }

    fn on_disconnect(&self, link: &mut Client<'_>, why: DisconnectReason) {
        let name = std::mem::take(&mut link.state.name);
        self.names().leave(&name);
        // At the end everybody goes; nobody need hear it.
        if why != DisconnectReason::ServerStopping {
            write!(link.server.all().except(link.id()), "* {name} has left\r\n");
        }
    }
}

impl Chat {
    /// Does what the worker's line says.
    fn line(&self, link: &mut Client<'_>) -> Result {
        let others = link.server.all().except(link.id());
        let Scratch { line, text, list } = &mut *link.worker;
        text::clean(line, text);
        let said = text.trim();
        let name = &mut link.state.name;
        match said.split_once(' ').unwrap_or((said, "")) {
            ("", _) => {}
            ("/quit", _) => {
                write!(link.out, "* goodbye, {name}\r\n")?;
                link.close();
            }
            ("/who", _) => {
                self.names().list(list);
                link.out.send(&*list)?;
            }
            ("/nick", wanted) => {
                let wanted = wanted.trim();
                let renamed = self.names().rename(name, wanted);
                match renamed {
                    Ok(()) => {
                        write!(others, "* {name} is now {wanted}\r\n");
                        wanted.clone_into(name);
                        write!(link.out, "* you are now {wanted}\r\n")?;
                    }
                    Err(reason) => write!(link.out, "* {reason}\r\n")?,
                }
            }
            (word, _) if word.starts_with('/') => link.out.send(COMMANDS)?,
            _ => match others.try_post(format_args!("{name}: {said}\r\n")) {
                Ok(()) => {}
                Err(PostError::TooLarge) => link.out.send(NOT_DELIVERED)?,
                Err(PostError::Stopping) => link.out.send(STOPPING)?,
                Err(_) => link.out.send(NOT_DELIVERED_TO_ALL)?,
            },
        }
        Ok(())
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Names> {
        // Names change by single calls of a map, so a panic leaves them whole.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const COMMANDS: &str = "* the commands are /nick NAME, /who and /quit\r\n";
const TOO_LONG: &str = "* that line is longer than 1,024 bytes: goodbye\r\n";
const NOT_DELIVERED: &str = "* nobody got that: it is longer than a send queue\r\n";
const STOPPING: &str = "* nobody got that: the server is stopping\r\n";
const NOT_DELIVERED_TO_ALL: &str = "* not everybody got that: the server is busy\r\n";
const _: () = assert!(LINE_BYTES_MAX == 1_024, "the text says so");
