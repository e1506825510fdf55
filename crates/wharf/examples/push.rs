//! Pushes to users by name, from another thread: clients say `LOGIN ann`, our input `ann hello`.
#![expect(clippy::disallowed_types, reason = "workers and the pushing thread share the names")]
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use wharf::{DisconnectReason, Handle, Handler, Input, Link, LinkId, Result, Server, Verdict};

#[derive(Clone, Default)]
struct Online(Arc<Mutex<HashMap<String, LinkId>>>);

impl Handler<String> for Online {
    fn on_start(&self, server: &Handle) -> Result {
        let (online, server) = (self.clone(), server.clone());
        std::thread::Builder::new().spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                let (name, text) = line.split_once(' ').unwrap_or((&line, ""));
                if let Some(user) = online.users().get(name) {
                    // If the link has ended, or its output is full, the post is skipped and counted.
                    server.link(*user).post(format_args!("PUSH {text}\n"));
                }
            }
        })?;
        Ok(())
    }

    fn on_connect(&self, _: &mut Link<'_>) -> Result<String> {
        Ok(String::new())
    }

    fn on_receive(&self, link: &mut Link<'_, String>, input: &mut Input<'_>) -> Result {
        let Some(line) = input.line(128)? else { return Ok(()) };
        let name = str::from_utf8(line)?.strip_prefix("LOGIN ").filter(|_| link.state.is_empty());
        let Some(name) = name else { return Ok(link.out.send("ERR\n")?) };
        *link.state = name.to_owned();
        // A second login of the user: the first link is closed.
        if let Some(old) = self.users().insert(name.to_owned(), link.id()) {
            link.server.link(old).close();
        }
        Ok(link.out.send("OK\n")?)
    }

    fn on_idle(&self, link: &mut Link<'_, String>) -> Result<Verdict> {
        Ok(link.out.send("PING\n").map(|()| Verdict::Keep)?)
    }

    fn on_disconnect(&self, link: &mut Link<'_, String>, _: DisconnectReason) {
        let mut users = self.users();
        if users.get(link.state) == Some(&link.id()) {
            users.remove(link.state);
        }
    }
}

impl Online {
    fn users(&self) -> MutexGuard<'_, HashMap<String, LinkId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn main() -> Result {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9527".to_owned());
    Server::builder(Online::default()).listen(address).serve()
}
