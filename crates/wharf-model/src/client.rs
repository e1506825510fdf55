//! Clients that talk to a model until nothing happens any more.

use crate::interface::Handler;
use crate::rng::Rng;
use crate::rule::Model;

/// A client that writes its text in random pieces, and reads at random.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "of this project's tests only")]
pub struct Client {
    /// The index of its link.
    pub link: usize,
    /// What it writes.
    pub text: Vec<u8>,
    /// How much of it is written.
    pub written: usize,
    /// What it has read.
    pub heard: Vec<u8>,
    /// It ends its stream when all is written.
    pub ends: bool,
    /// It reads nothing before all is written.
    pub reads_last: bool,
}

impl Client {
    /// A client of this link.
    #[must_use]
    pub fn new(link: usize, text: impl Into<Vec<u8>>, ends: bool) -> Self {
        let text = text.into();
        Self { link, text, written: 0, heard: Vec::new(), ends, reads_last: false }
    }

    fn is_written(&self) -> bool {
        self.written == self.text.len()
    }

    /// Writes a piece; whether anything happened.
    fn write<H, S, W>(&mut self, model: &mut Model<H, S, W>, rng: &mut Rng) -> bool
    where
        H: Handler<S, W>,
        S: Send + 'static,
        W: 'static,
    {
        let len_max = if rng.once_in(3) { 3 } else { 700 };
        let rest = &self.text[self.written..];
        let len = (1 + rng.below(len_max)).min(rest.len());
        let len = model.arrive(self.link, &rest[..len]);
        self.written += len;
        let ends = self.is_written() && self.ends && !model.link(self.link).is_ended;
        if ends {
            model.finish(self.link);
        }
        len > 0 || ends
    }
}

/// Runs clients and model until nothing happens any more.
///
/// A client reads 50 bytes at most once in 8 turns; once in 40 turns, and when nothing else moves, all
/// clients read whatever there is. So outputs fill up.
///
/// # Panics
///
/// If it does not end.
pub fn run<H, S, W>(model: &mut Model<H, S, W>, clients: &mut [Client], rng: &mut Rng)
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    run_with(model, clients, rng, |_| false);
}

/// As [`run`], with a part of the program that is not the handler's: `other` is called before each
/// round, and says whether it did something.
///
/// # Panics
///
/// If it does not end.
pub fn run_with<H, S, W>(
    model: &mut Model<H, S, W>,
    clients: &mut [Client],
    rng: &mut Rng,
    mut other: impl FnMut(&mut Rng) -> bool,
) where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    let mut quiet_turns = 0;
    for _ in 0..TURNS_MAX {
        let mut moved = other(rng);
        let reads_all = rng.once_in(40) || quiet_turns > 3;
        for client in &mut *clients {
            moved |= client.write(model, rng);
            let reads =
                (reads_all || rng.once_in(8)) && (!client.reads_last || client.is_written());
            if reads {
                let len = 1 + rng.below(if reads_all { 100_000 } else { 50 });
                let heard = model.leave(client.link, len);
                moved |= !heard.is_empty();
                client.heard.extend(heard);
            }
        }
        for _ in 0..=rng.below(3) {
            moved |= model.turn();
        }
        quiet_turns = if moved { 0 } else { quiet_turns + 1 };
        if quiet_turns > 50 {
            return;
        }
    }
    panic!("it does not end: {model:?}");
}

const TURNS_MAX: u32 = 2_000_000;
