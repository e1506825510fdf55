//! A handler that waits for a database: each worker has a connection of its own.
//!
//! `balance NAME` is replied to from memory, `sum` asks the database: those calls ask to run in the pool.

use crate::check;
use crate::talks::{PEER_CLOSED, Talk};
use std::rc::Rc;
use wharf_model::{Handler, Input, Link, Result, Worker};

struct Bank;

/// What a thread has: in the pool, a connection.
struct Context {
    database: Option<db::Connection>,
}

const LINE_MAX: usize = 256;

impl Handler<(), Context> for Bank {
    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<Context> {
        let database = if worker.id().is_pool() { Some(db::Connection::open()?) } else { None };
        Ok(Context { database })
    }

    fn on_receive(&self, link: &mut Link<'_, (), Context>, input: &mut Input<'_>) -> Result {
        let Some(line) = input.line(LINE_MAX)? else { return Ok(()) };
        let (word, name) =
            line.split_at(line.iter().position(|b| *b == b' ').unwrap_or(line.len()));
        match (word, &mut link.worker.database) {
            (b"balance", _) => Ok(writeln!(link.out, "{}", name.len())?),
            (b"sum", Some(database)) => Ok(writeln!(link.out, "{}", database.sum()?)?),
            (b"sum", None) => {
                // Not here: the pool gets the same line, and this link's next ones wait for it.
                link.offload(input);
                Ok(())
            }
            _ => Ok(link.out.send("balance NAME, or sum\n")?),
        }
    }
}

/// Some database: its connections cannot go to another thread, and its errors are its own.
mod db {
    use super::{Rc, Result};

    pub(crate) struct Connection(Rc<()>);

    impl Connection {
        pub(crate) fn open() -> Result<Self, Error> {
            Ok(Self(Rc::new(())))
        }

        pub(crate) fn sum(&mut self) -> Result<u64, Error> {
            if Rc::strong_count(&self.0) == 1 { Ok(42) } else { Err(Error) }
        }
    }

    #[derive(Debug)]
    pub(crate) struct Error;

    impl std::fmt::Display for Error {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the database is gone")
        }
    }

    impl std::error::Error for Error {}
}

pub(crate) fn run(seeds: u64) {
    check(
        seeds,
        || Bank,
        |rng, _| {
            let (mut text, mut replies) = (String::new(), String::new());
            for n in 0..rng.below(200) {
                if rng.once_in(2) {
                    text += "sum\n";
                    replies += "42\n";
                } else {
                    let name = n.to_string();
                    text += &format!("balance {name}\n");
                    replies += &format!("{}\n", 1 + name.len());
                }
            }
            let (text, expected) = (text.into_bytes(), replies.into_bytes());
            Talk { text, expected, reason: PEER_CLOSED, must_finish: false }
        },
    );
}
