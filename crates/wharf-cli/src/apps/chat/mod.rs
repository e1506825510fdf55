//! Chat: sends each line to all other clients, after its sender's name.
//!
//! ```text
//!   bytes ─► Line (cut at LF, at most 1,024 bytes) ─► text::clean ─► command | broadcast
//! ```
//!
//! `/nick NAME`, `/who` and `/quit` are the commands. Lines may end in LF or CRLF, so `nc`, `socat`
//! and `telnet` all do. Control characters are removed, so that no client can control another
//! one's terminal. A client that reads too slowly misses lines, and delays no other. Others hear of a
//! guest when it first speaks or takes a name, so not of checks that connect and close. A header of the
//! PROXY protocol ends its link, and is not said.

mod line;
mod names;
mod text;

use line::{LINE_BYTES_MAX, Line, Taken};
use names::Names;
use std::sync::PoisonError;
use wharf::{DisconnectReason, Handler, Input, Link, PostError, Result, Worker};

/// The names in use.
#[derive(Debug, Default)]
pub(crate) struct Chat {
    #[expect(
        clippy::disallowed_types,
        reason = "names are unique across all shards; held briefly"
    )]
    names: std::sync::Mutex<Names>,
}

/// A worker's buffers, so that handling a line allocates nothing.
#[derive(Debug)]
pub(crate) struct Scratch {
    line: Vec<u8>,
    text: String,
    list: String,
}

/// The state of a link.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    name: String,
    /// Whether the others have heard of it.
    is_known: bool,
    /// Whether a line has come that is not empty.
    has_begun: bool,
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
             * commands: /nick NAME, /who, /quit; other lines go to all\r\n",
            if others == 1 { "" } else { "s" }
        );
        if let Err(error) = welcome {
            // For a refused link `on_disconnect` is not called, which would release the name.
            self.names().leave(&name);
            return Err(error.into());
        }
        Ok(Guest { name, ..Guest::default() })
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
        // At a stop all links close: each would be told of each.
        if link.state.is_known && why != DisconnectReason::ServerStopping {
            // A link whose output is full misses this line, and the ones below.
            write!(link.server.all().except(link.id()), "* {name} has left\r\n");
        }
    }
}

impl Chat {
    /// Handles the line in the worker's buffer: a command, or text for all others.
    fn line(&self, link: &mut Client<'_>) -> Result {
        let others = link.server.all().except(link.id());
        let Scratch { line, text, list } = &mut *link.worker;
        let is_first = !line.is_empty() && !std::mem::replace(&mut link.state.has_begun, true);
        if is_first && is_proxy_header(line) {
            link.out.send(NO_PROXY)?;
            link.close();
            return Ok(());
        }
        text::clean(line, text);
        let said = text.trim();
        let Guest { name, is_known, .. } = &mut *link.state;
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
                    Ok(new) => {
                        let old = std::mem::replace(name, new);
                        if std::mem::replace(is_known, true) {
                            write!(others, "* {old} is now {name}\r\n");
                        } else {
                            write!(others, "* {name} is here\r\n");
                        }
                        write!(link.out, "* you are now {name}\r\n")?;
                    }
                    Err(reason) => write!(link.out, "* {reason}\r\n")?,
                }
            }
            (word, _) if word.starts_with('/') => link.out.send(COMMANDS)?,
            _ => {
                let posted = if std::mem::replace(is_known, true) {
                    others.try_post(format_args!("{name}: {said}\r\n"))
                } else {
                    others.try_post(format_args!("* {name} is here\r\n{name}: {said}\r\n"))
                };
                match posted {
                    Ok(()) => {}
                    Err(PostError::TooLarge) => link.out.send(NOT_DELIVERED)?,
                    Err(PostError::Stopping) => link.out.send(STOPPING)?,
                    Err(_) => link.out.send(NOT_DELIVERED_TO_ALL)?,
                }
            }
        }
        Ok(())
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Names> {
        // Nothing that changes names panics, so they are whole.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a link's first line is from a header of the PROXY protocol, which is the proxy's and not a
/// client's. The binary one begins with line ends and a NUL.
fn is_proxy_header(line: &[u8]) -> bool {
    line.starts_with(b"PROXY ") || line == b"\0"
}

const NO_PROXY: &str =
    "* a header of the PROXY protocol is not expected here (see --proxy-from)\r\n";
const COMMANDS: &str = "* the commands are /nick NAME, /who and /quit\r\n";
const TOO_LONG: &str = "* the line is longer than 1,024 bytes: goodbye\r\n";
const NOT_DELIVERED: &str = "* not sent: the line is longer than a send queue\r\n";
const STOPPING: &str = "* not sent: the server is stopping\r\n";
const NOT_DELIVERED_TO_ALL: &str = "* not sent to all: the server is busy\r\n";
const _: () = assert!(LINE_BYTES_MAX == 1_024, "the text says so");

#[cfg(test)]
mod tests {
    use super::*;

    /// All texts that depend on nothing, also those that a client can hardly bring about.
    #[test]
    fn what_the_chat_says_of_itself() {
        let texts =
            [COMMANDS, TOO_LONG, NO_PROXY, NOT_DELIVERED, STOPPING, NOT_DELIVERED_TO_ALL].concat();
        assert_eq!(
            texts,
            "* the commands are /nick NAME, /who and /quit\r\n\
             * the line is longer than 1,024 bytes: goodbye\r\n\
             * a header of the PROXY protocol is not expected here (see --proxy-from)\r\n\
             * not sent: the line is longer than a send queue\r\n\
             * not sent: the server is stopping\r\n\
             * not sent to all: the server is busy\r\n"
        );
    }
}
