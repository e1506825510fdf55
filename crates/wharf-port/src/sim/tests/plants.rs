//! Each fault that can be planted in the port is found by the rig's oracle.

use super::super::*;
use super::rig::{ADDRESS, Plan, run};
use crate::memory::{BufferPool, PoolConfig};
use crate::port::{Key, Operation, Outcome, Port, PortConfig, Shots};
use std::panic::{AssertUnwindSafe, catch_unwind};

#[test]
fn every_planted_fault_is_found() {
    for plant in Plant::ALL {
        let found = (0..SEEDS_MAX).find_map(|seed| {
            let verdict = catch_unwind(AssertUnwindSafe(|| check(plant, seed)));
            match verdict {
                Ok(Ok(())) => None,
                Ok(Err(fault)) => Some((seed, fault)),
                Err(_) => Some((seed, "a panic".to_owned())),
            }
        });
        let Some((seed, fault)) = found else { panic!("{plant:?} was not found") };
        println!("{plant:?}: seed {seed}: {fault}");
    }
}

fn check(plant: Plant, seed: u64) -> Result<(), String> {
    if plant == Plant::ServeLastFirst {
        return if served_in_order(Some(plant)) { Ok(()) } else { Err("out of turn".into()) };
    }
    let mut plan = Plan::stormy(seed);
    plan.world.plant = Some(plant);
    run(plan).map(drop)
}

#[test]
fn sockets_get_buffers_in_the_order_in_which_they_ran_out() {
    assert!(served_in_order(None));
}

/// Five sockets wait for one buffer.
fn served_in_order(plant: Option<Plant>) -> bool {
    let world = World::new(WorldConfig { plant, ..WorldConfig::new(1) });
    let config = PoolConfig { buffer_size_bytes: 64, ..PoolConfig::new(1) };
    let pool = BufferPool::new(config).unwrap();
    let mut port = SimPort::<()>::new(&world, PortConfig::new(8), pool.clone()).unwrap();
    let listener = world.listen(ADDRESS.parse().unwrap()).unwrap();
    let listener = port.associate_listener(listener, Key(0)).unwrap();
    port.submit(listener, Operation::Accept(Shots::Many)).unwrap();
    let mut clients: Vec<_> =
        (0..5).map(|tag| world.connect(ADDRESS.parse().unwrap(), tag).unwrap()).collect();
    let mut completions = Vec::with_capacity(8);
    port.dequeue(&mut completions, None).unwrap();
    for (completion, key) in completions.drain(..).zip(1..) {
        let Outcome::Accepted { stream, .. } = completion.outcome else { panic!("{completion:?}") };
        let socket = port.associate(stream, Key(key)).unwrap();
        port.submit(socket, Operation::receive(Shots::Many)).unwrap();
    }
    let held = pool.acquire(crate::memory::Owner::Application);
    for index in [2, 0, 4, 1, 3] {
        clients[index].try_write(b"x").unwrap();
        port.dequeue(&mut completions, None).unwrap();
        assert!(completions.is_empty());
        assert!(!world.is_runnable(port.number()));
    }
    assert_eq!(port.counters().receive_pauses, 5);
    drop(held);
    let mut order = Vec::new();
    while world.is_runnable(port.number()) {
        port.dequeue(&mut completions, None).unwrap();
        order.extend(completions.drain(..).map(|completion| completion.key.0));
    }
    order == [3, 1, 5, 2, 4]
}

const SEEDS_MAX: u64 = 1000;
