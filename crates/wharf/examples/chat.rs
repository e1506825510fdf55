//! A chat with nicknames: each line goes to all others.
//!
//! `/nick NAME`, `/msg NAME TEXT`, `/quit`; try it with two of `nc 127.0.0.1 9527`.
#![expect(clippy::disallowed_types, reason = "names are unique among all workers")]
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use wharf::{DisconnectReason, Handler, Input, Link, LinkId, Result, Server, Verdict};

#[derive(Default)]
struct Chat {
    names: Arc<Names>,
}

const LINE_MAX: usize = 1024;

impl Handler<Name> for Chat {
    fn on_connect(&self, link: &mut Link<'_>) -> Result<Name> {
        let name = self.names.guest(link.id());
        writeln!(link.out, "* you are {name}; /nick NAME, /msg NAME TEXT, /quit")?;
        writeln!(link.server.all().except(link.id()), "* {name} came in");
        Ok(name)
    }

    fn on_receive(&self, link: &mut Link<'_, Name>, input: &mut Input<'_>) -> Result {
        let Some(line) = input.line(LINE_MAX)? else { return Ok(()) };
        let line = String::from_utf8_lossy(line);
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let others = link.server.all().except(link.id());
        match word {
            "" => {}
            "/quit" => {
                link.out.send("* goodbye\n")?;
                link.close();
            }
            "/nick" => match link.state.change(rest) {
                Ok(old) => writeln!(others, "* {old} is now {}", link.state),
                Err(why) => writeln!(link.out, "* {why}")?,
            },
            "/msg" => {
                let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
                match self.names.find(name) {
                    Some(id) => writeln!(link.server.link(id), "{} -> {text}", link.state),
                    None => writeln!(link.out, "* there is no {name}")?,
                }
            }
            _ => writeln!(others, "{}: {line}", link.state),
        }
        Ok(())
    }

    fn on_drain(&self, link: &mut Link<'_, Name>) -> Result<Verdict> {
        link.out.send("* the server stops: goodbye\n")?;
        Ok(Verdict::Close)
    }

    fn on_disconnect(&self, link: &mut Link<'_, Name>, reason: DisconnectReason) {
        writeln!(link.server.all().except(link.id()), "* {} left ({reason})", link.state);
    }
}

/// The names in use.
#[derive(Default)]
struct Names(Mutex<HashMap<String, LinkId>>);

/// A name in use, until it is dropped: a link that is refused releases it, too.
struct Name {
    text: String,
    link: LinkId,
    names: Arc<Names>,
}

impl Names {
    fn guest(self: &Arc<Self>, link: LinkId) -> Name {
        let text = format!("guest-{link}");
        self.lock().insert(text.clone(), link);
        Name { text, link, names: Arc::clone(self) }
    }

    fn find(&self, name: &str) -> Option<LinkId> {
        self.lock().get(name).copied()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, LinkId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Name {
    /// Returns the old one.
    fn change(&mut self, new: &str) -> Result<String, &'static str> {
        if !(1..=20).contains(&new.len()) || !new.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err("a name has 1 to 20 letters and digits");
        }
        let mut names = self.names.lock();
        if names.contains_key(new) {
            return Err("that name is taken");
        }
        names.remove(&self.text);
        names.insert(new.to_owned(), self.link);
        Ok(std::mem::replace(&mut self.text, new.to_owned()))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.names.lock().remove(&self.text);
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn main() -> Result {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9527".to_owned());
    Server::builder(Chat::default()).listen(address).serve()
}
