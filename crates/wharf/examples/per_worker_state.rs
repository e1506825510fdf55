//! Each worker thread has a state of its own, made on that thread: here a cache that needs no lock.
//!
//! In a real server this is where a database connection lives. Send a line with a number; the
//! answer is how many steps it takes to reach 1 by halving or by tripling and adding one.
use std::collections::HashMap;
use std::io;
use wharf::{Handler, Link, Result, Server, WorkerId};

struct Collatz;

/// Not `Send`, not shared: no other thread ever sees it.
struct Cache {
    worker: WorkerId,
    steps: HashMap<u64, u32>,
}

const LINE_MAX: usize = 32;

impl Handler for Collatz {
    type Worker = Cache;
    type State = Vec<u8>;

    fn on_worker_start(&self, worker: WorkerId) -> io::Result<Cache> {
        Ok(Cache { worker, steps: HashMap::new() })
    }

    fn on_receive(&self, cache: &mut Cache, link: &mut Link<'_, Vec<u8>>, data: &[u8]) -> Result {
        for &byte in data {
            if byte != b'\n' {
                link.state().push(byte);
                if link.state().len() > LINE_MAX {
                    return Err("the line is too long".into());
                }
                continue;
            }
            let line = std::mem::take(link.state());
            let number = String::from_utf8_lossy(&line).trim().parse().unwrap_or(0);
            let answer = match steps(number, &mut cache.steps) {
                Some(steps) => format!("{number}: {steps} steps, says worker {}\n", cache.worker),
                None => "a number from 1 to 4294967295, please\n".to_owned(),
            };
            link.send(answer.as_bytes())?;
        }
        Ok(())
    }
}

fn steps(number: u64, known: &mut HashMap<u64, u32>) -> Option<u32> {
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
    // A cache has a limit like everything else.
    if known.len() < 10_000 {
        known.insert(number, steps);
    }
    Some(steps)
}

fn main() -> Result {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9527".to_owned());
    Server::builder().listen(address).serve(Collatz)
}
