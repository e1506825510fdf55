//! A chat with rooms and nicknames: what one says, all others in the room read.
//! `/nick NAME`, `/join NUMBER`, `/msg NAME TEXT`, `/quit`.

use crate::common::small;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use wharf_model::{
    DisconnectReason, Group, Handler, Input, Link, LinkEnd, LinkId, Model, Result, Rng, Settings,
    Verdict,
};

#[derive(Default)]
struct Chat {
    names: Arc<Names>,
}

struct Guest {
    name: Name,
    room: Group,
}

const LOBBY: Group = Group::new(0);
const LINE_MAX: usize = 300;

impl Handler<Guest> for Chat {
    fn on_connect(&self, link: &mut Link<'_>) -> Result<Guest> {
        let name = self.names.guest(link.id());
        writeln!(link.out, "* you are {name}; /nick NAME, /join NUMBER, /msg NAME TEXT, /quit")?;
        writeln!(link.server.group(LOBBY), "* {name} came in");
        link.join(LOBBY)?;
        Ok(Guest { name, room: LOBBY })
    }

    fn on_receive(&self, link: &mut Link<'_, Guest>, input: &mut Input<'_>) -> Result {
        let Some(line) = input.line(LINE_MAX)? else { return Ok(()) };
        let line = String::from_utf8_lossy(line);
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let others = link.server.group(link.state.room).except(link.id());
        match word {
            "" => {}
            "/quit" => {
                link.out.send("* goodbye\n")?;
                link.close();
            }
            "/nick" => match link.state.name.change(rest) {
                Ok(old) => writeln!(others, "* {old} is now {}", link.state.name),
                Err(why) => writeln!(link.out, "* {why}")?,
            },
            "/join" => match rest.parse().map(Group::new) {
                Ok(room) => {
                    writeln!(others, "* {} went to room {rest}", link.state.name);
                    link.leave(link.state.room);
                    link.join(room)?;
                    link.state.room = room;
                }
                Err(error) => writeln!(link.out, "* {rest:?}: {error}")?,
            },
            "/msg" => {
                let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
                match self.names.find(name) {
                    Some(id) => writeln!(link.server.link(id), "{} -> {text}", link.state.name),
                    None => writeln!(link.out, "* there is no {name}")?,
                }
            }
            _ => writeln!(others, "{}: {line}", link.state.name),
        }
        Ok(())
    }

    fn on_drain(&self, link: &mut Link<'_, Guest>) -> Result<Verdict> {
        link.out.send("* the server stops: goodbye\n")?;
        Ok(Verdict::Close)
    }

    fn on_disconnect(&self, link: &mut Link<'_, Guest>, reason: DisconnectReason) {
        writeln!(link.server.group(link.state.room), "* {} left ({reason})", link.state.name);
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

type Room = Model<Chat, Guest, ()>;

/// Runs until nothing happens; what each of the links hears is added to `heard`.
fn hear(model: &mut Room, links: &[usize], heard: &mut [String]) {
    while model.turn() {}
    for (link, heard) in links.iter().zip(heard) {
        *heard += &String::from_utf8(model.leave(*link, 9_999)).unwrap();
    }
}

pub(crate) fn run(seeds: u64) {
    for seed in 1..=seeds {
        let mut rng = Rng::new(seed);
        let output_bytes = 2_000 + rng.below(2_000);
        let settings = Settings { grant_bytes: 200, output_bytes, ..small(&mut rng) };
        let mut model: Room = Model::new(Chat::default(), settings.with_surplus(500));
        let links = [model.connect(), model.connect(), model.connect()];
        let mut heard = [const { String::new() }; 3];
        hear(&mut model, &links, &mut heard);
        for line in 0..rng.below(12) {
            model.arrive(links[0], format!("hello {line}\n").as_bytes());
            hear(&mut model, &links, &mut heard);
            let text = format!("guest-0: hello {line}\n");
            let reached = heard.each_ref().map(|heard| heard.ends_with(&text));
            assert_eq!(reached, [false, true, true], "seed {seed}");
        }
        stop(&mut model, links);
    }
}

/// A private message and one to a room, and then the server stops.
fn stop(model: &mut Room, links: [usize; 3]) {
    model.arrive(links[1], b"/join 7\n/nick bo\n");
    model.arrive(links[0], b"/msg bo psst\nlobby\n");
    while model.turn() {}
    model.arrive(links[0], b"/msg bo psst\n");
    model.server().stop(Duration::from_secs(60));
    let mut last = [const { String::new() }; 3];
    hear(model, &links, &mut last);
    assert!(last[1].ends_with("* the server stops: goodbye\n"), "{last:?}");
    assert!(!last[1].contains("lobby") && last[2].contains("lobby"), "{last:?}");
    while model.turn() {}
    for link in links {
        assert_eq!(model.link(link).end, LinkEnd::Over(DisconnectReason::ServerStopping));
    }
}
