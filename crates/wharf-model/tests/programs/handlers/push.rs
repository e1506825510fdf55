//! Pushes to users by name, from another part of the program: `LOGIN name`, and then wait.

use super::api::{DisconnectReason, Handle, Handler, Input, Link, LinkId, Result, Verdict};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Default)]
pub(crate) struct Online {
    pub(crate) users: Mutex<BTreeMap<String, LinkId>>,
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
                // A second login of the user: the first link is closed.
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

    fn on_drain(&self, link: &mut Link<'_, String>) -> Result<Verdict> {
        link.out.send("BYE\n")?;
        Ok(Verdict::Close)
    }

    fn on_disconnect(&self, link: &mut Link<'_, String>, _: DisconnectReason) {
        let mut users = self.users.lock().unwrap();
        if users.get(link.state) == Some(&link.id()) {
            users.remove(link.state);
        }
    }
}

/// The part of the program that pushes. When all users have logged in, each gets all pushes; then the server
/// stops, or each link is closed.
pub(crate) struct Pusher {
    pub(crate) server: Handle,
    pub(crate) online: Arc<Online>,
    pub(crate) users: usize,
    pub(crate) pushes: usize,
    /// Milliseconds between two pushes.
    pub(crate) pause_ms: u64,
    pub(crate) stops: bool,
    pub(crate) pushed: usize,
    pub(crate) next_ms: u64,
}

impl Pusher {
    /// Pushes once. Returns the time of its next call: now, if it did something.
    pub(crate) fn go_on(&mut self, now_ms: u64) -> Option<u64> {
        let users: Vec<LinkId> = self.online.users.lock().unwrap().values().copied().collect();
        let is_over = self.pushed > self.pushes;
        if is_over || (self.pushed == 0 && users.len() < self.users) {
            return None;
        }
        if now_ms < self.next_ms {
            return Some(self.next_ms);
        }
        let is_last = self.pushed == self.pushes;
        for user in users {
            if !is_last {
                self.server.link(user).post(format_args!("PUSH {}\n", self.pushed));
            } else if !self.stops {
                self.server.link(user).close();
            }
        }
        if is_last && self.stops {
            self.server.stop(Duration::from_secs(60));
        }
        self.pushed += 1;
        self.next_ms = now_ms + self.pause_ms;
        Some(now_ms)
    }
}
