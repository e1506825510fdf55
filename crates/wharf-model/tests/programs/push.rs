//! Pushes to users by name, from another thread: `LOGIN name`, and then wait.

use crate::common::{id_of, small};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use wharf_model::{
    DisconnectReason, Handler, Input, Link, LinkEnd, LinkId, Model, Result, Rng, Settings, Verdict,
};

#[derive(Default)]
struct Online {
    users: Mutex<HashMap<String, LinkId>>,
}

impl Handler<String> for Online {
    fn on_connect(&self, _: &mut Link<'_>) -> Result<String> {
        Ok(String::new())
    }

    fn on_receive(&self, link: &mut Link<'_, String>, input: &mut Input<'_>) -> Result {
        let Some(line) = input.line(128)? else { return Ok(()) };
        match str::from_utf8(line)?.split_once(' ') {
            Some(("LOGIN", name)) if link.state.is_empty() => {
                *link.state = name.to_owned();
                let old = self.users.lock().unwrap().insert(name.to_owned(), link.id());
                // The same user with a new phone: the old one has to go.
                if let Some(old) = old {
                    link.server.link(old).close();
                }
                Ok(link.out.send("OK\n")?)
            }
            _ => Ok(link.out.send("ERR\n")?),
        }
    }

    fn on_idle(&self, link: &mut Link<'_, String>) -> Result<Verdict> {
        link.out.send("PING\n")?;
        Ok(Verdict::Keep)
    }

    fn on_disconnect(&self, link: &mut Link<'_, String>, _: DisconnectReason) {
        let mut users = self.users.lock().unwrap();
        if users.get(link.state) == Some(&link.id()) {
            users.remove(link.state);
        }
    }
}

pub(crate) fn run(seeds: u64) {
    for seed in 1..=seeds {
        let mut rng = Rng::new(seed);
        let online = Arc::new(Online::default());
        let settings = Settings { idle_timeout_ms: 50_000, ..small(&mut rng) };
        let mut model = Model::new(Arc::clone(&online), settings);
        let (first, second) = (model.connect(), model.connect());
        let (mut heard, mut posted) = (Vec::new(), 0);
        model.arrive(first, b"LOGIN ann\n");
        for turn in 0..60 {
            model.turn();
            let ann = online.users.lock().unwrap().get("ann").copied();
            if let Some(ann) = ann {
                model.server().link(ann).post(format_args!("PUSH {turn}\n"));
                posted += 1;
            }
            if rng.once_in(3) {
                let len = rng.below(200);
                heard.extend(model.leave(first, len));
            }
        }
        while model.turn() || model.link(first).unsent_bytes > 0 {
            heard.extend(model.leave(first, 9));
        }
        let text = String::from_utf8(heard).unwrap();
        let got = text.lines().filter(|line| line.starts_with("PUSH ")).count() as u64;
        let missed = model.server().stats().missed;
        assert!(text.starts_with("OK\n"), "seed {seed}");
        assert_eq!(got + missed, posted, "seed {seed}: each push comes or is counted");
        // The same user again: the old link has to go, and its end leaves the new name alone.
        model.arrive(second, b"LOGIN ann\n");
        while model.turn() {
            model.leave(second, 99);
        }
        assert_eq!(model.link(first).end, LinkEnd::Over(DisconnectReason::Kicked));
        assert_eq!(model.link(second).end, LinkEnd::Open);
        assert_eq!(online.users.lock().unwrap().get("ann"), Some(&id_of(second)));
    }
}
