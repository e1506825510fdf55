//! Each worker thread has a context of its own, made on that thread: here a cache without a lock.
//!
//! In a real server this is where a database connection lives. Send a line with a number; the
//! reply is how many steps it takes to reach 1 by halving or by tripling and adding one.
use std::collections::HashMap;
use wharf::{Handler, Input, Link, Result, Server, Worker};

struct Collatz;

/// It is not shared, and need not be `Send`: no other thread ever sees it.
type Cache = HashMap<u64, u32>;

/// The limit of the cache.
const CACHE_MAX: usize = 10_000;

impl Handler<(), Cache> for Collatz {
    fn on_worker_start(&self, _: &mut Worker<'_>) -> Result<Cache> {
        Ok(HashMap::with_capacity(CACHE_MAX))
    }

    fn on_receive(&self, link: &mut Link<'_, (), Cache>, input: &mut Input<'_>) -> Result {
        let Some(line) = input.line(32)? else { return Ok(()) };
        let number = str::from_utf8(line)?.trim().parse().unwrap_or(0);
        match steps(number, link.worker) {
            Some(steps) => {
                let worker = link.worker_id();
                Ok(writeln!(link.out, "{number}: {steps} steps, says worker {worker}")?)
            }
            None => Ok(link.out.send("a number from 1 to 4294967295, please\n")?),
        }
    }
}

fn steps(number: u64, known: &mut Cache) -> Option<u32> {
    if number == 0 || number > u64::from(u32::MAX) {
        return None;
    }
    if let Some(steps) = known.get(&number) {
        return Some(*steps);
    }
    let mut n = number;
    let mut steps = 0;
    while n != 1 {
        n = if n.is_multiple_of(2) { n / 2 } else { n.checked_mul(3)?.checked_add(1)? };
        steps += 1;
    }
    if known.len() < CACHE_MAX {
        known.insert(number, steps);
    }
    Some(steps)
}

fn main() -> Result {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9527".to_owned());
    Server::builder(Collatz).listen(address).serve()
}
