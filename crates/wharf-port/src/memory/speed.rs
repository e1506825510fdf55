//! What a message costs in this module, in nanoseconds; to be run by hand:
//! `cargo test -p wharf-port --lib --release memory::speed -- --ignored --nocapture`.

use super::{BufferPool, Chain, MessagePool, MessagePoolConfig, Owner, PoolConfig};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: u32 = 2_000_000;

#[test]
#[ignore = "a measurement"]
fn one_message_through_a_chain() {
    let pool = BufferPool::new(PoolConfig::new(256)).unwrap();
    let data = [7; 64];
    let large = vec![7; 65_536];
    for _ in 0..3 {
        report("acquire, append, push, advance, drop", ROUNDS, || {
            let mut buffer = pool.acquire(Owner::Application).unwrap();
            buffer.append(black_box(&data));
            let mut chain = Chain::new();
            chain.push(&pool, buffer).unwrap();
            black_box(&mut chain).advance(64);
        });
        let mut queue = Chain::new();
        report("chain append, set_owner, slices, advance", ROUNDS, || {
            queue.append(&pool, black_box(&data), Owner::SendQueue, 9).unwrap();
            queue.set_owner(Owner::KernelSend);
            black_box(queue.slices().next());
            queue.advance(64);
        });
        report("64 KiB in 32 buffers: append, slices, advance", ROUNDS / 64, || {
            queue.append(&pool, black_box(&large), Owner::SendQueue, 99).unwrap();
            black_box(queue.slices().map(<[u8]>::len).sum::<usize>());
            queue.advance(65_536);
        });
    }
}

#[test]
#[ignore = "a measurement"]
fn one_message_to_many_chains() {
    let pool =
        BufferPool::new(PoolConfig { shared_entries: 40_000, ..PoolConfig::new(64) }).unwrap();
    let posts = MessagePool::new(MessagePoolConfig::new(256)).unwrap();
    let mut queues: Vec<_> = (0..1000).map(|_| Chain::new()).collect();
    for _ in 0..3 {
        for len in [64, 65_536] {
            let data = vec![7; len];
            report(
                &format!("{len} bytes to 1,000 chains, per chain"),
                1000 * ROUNDS / 100_000,
                || {
                    let message = posts.message_of(black_box(&data)).unwrap();
                    for queue in &mut queues {
                        queue.push_message(&pool, message.clone()).unwrap();
                        black_box(queue.slices().map(<[u8]>::len).sum::<usize>());
                    }
                    drop(message);
                    for queue in &mut queues {
                        queue.advance(len);
                    }
                },
            );
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn report(what: &str, rounds: u32, mut step: impl FnMut()) {
    for _ in 0..rounds / 10 {
        step();
    }
    let start = Instant::now();
    for _ in 0..rounds {
        step();
    }
    println!("{:8.1} ns  {what}", start.elapsed().as_nanos() as f64 / f64::from(rounds));
}
