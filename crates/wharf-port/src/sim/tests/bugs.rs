//! The rig's checks find each bug that can be planted in the port.

use super::super::*;
use super::rig::{ADDRESS, Plan, run};
use crate::memory::pool::{BufferPool, PoolConfig};
use crate::port::completion::Outcome;
use crate::port::contract::{Port, PortConfig};
use crate::port::operation::{CompletionMode, Key, Operation};
use std::panic::{AssertUnwindSafe, catch_unwind};

#[test]
fn every_planted_bug_is_found() {
    for bug in PortBug::ALL {
        let found = (0..SEEDS_MAX).find_map(|seed| {
            let verdict = catch_unwind(AssertUnwindSafe(|| check(bug, seed)));
            match verdict {
                Ok(Ok(())) => None,
                Ok(Err(fault)) => Some((seed, fault)),
                Err(_) => Some((seed, "a panic".to_owned())),
            }
        });
        let Some((seed, fault)) = found else { panic!("{bug:?} was not found") };
        println!("{bug:?}: seed {seed}: {fault}");
    }
}

fn check(bug: PortBug, seed: u64) -> Result<(), String> {
    if bug == PortBug::ServeLastFirst {
        return if served_in_order(Some(bug)) { Ok(()) } else { Err("out of turn".into()) };
    }
    if bug == PortBug::OvertakeWaiters {
        return if armed_anew_waits(Some(bug)) { Ok(()) } else { Err("overtaken".into()) };
    }
    let mut plan = Plan::with_faults(seed);
    plan.world.bug = Some(bug);
    run(plan).map(drop)
}

#[test]
fn sockets_get_buffers_in_the_order_in_which_they_began_to_wait() {
    assert!(served_in_order(None));
}

/// Whether five sockets that wait for one buffer are served in FIFO order.
fn served_in_order(bug: Option<PortBug>) -> bool {
    let world = World::new(WorldConfig { bug, ..WorldConfig::new(1) });
    let config = PoolConfig { buffer_size_bytes: 64, ..PoolConfig::new(1) };
    let pool = BufferPool::new(config).unwrap();
    let mut port = SimPort::<()>::new(&world, PortConfig::new(8), pool.clone()).unwrap();
    let listener = world.listen(ADDRESS.parse().unwrap()).unwrap();
    let listener = port.associate_listener(listener, Key(0)).unwrap();
    port.submit(listener, Operation::Accept(CompletionMode::Multishot)).unwrap();
    let mut clients: Vec<_> =
        (0..5).map(|tag| world.connect(ADDRESS.parse().unwrap(), tag).unwrap()).collect();
    let mut completions = Vec::with_capacity(8);
    port.dequeue(&mut completions, None).unwrap();
    for (completion, key) in completions.drain(..).zip(1..) {
        let Outcome::Accepted { stream, .. } = completion.outcome else { panic!("{completion:?}") };
        let socket = port.associate(stream, Key(key)).unwrap();
        port.submit(socket, Operation::receive(CompletionMode::Multishot)).unwrap();
    }
    let held = pool.acquire(crate::memory::Owner::Application);
    for index in [2, 0, 4, 1, 3] {
        clients[index].try_write(b"x").unwrap();
        port.dequeue(&mut completions, None).unwrap();
        assert!(completions.is_empty());
        assert!(!port.is_runnable());
    }
    assert_eq!(port.counters().buffer_waits, 5);
    drop(held);
    let mut order = Vec::new();
    while port.is_runnable() {
        port.dequeue(&mut completions, None).unwrap();
        order.extend(completions.drain(..).map(|completion| completion.key.0));
    }
    order == [3, 1, 5, 2, 4]
}

#[test]
fn a_receive_that_is_armed_anew_waits_behind_those_that_wait() {
    assert!(armed_anew_waits(None));
}

/// One socket waits for the only buffer; the other has more bytes, and is armed anew before the
/// dequeue after the buffer's release. Whether they are served alternately.
fn armed_anew_waits(bug: Option<PortBug>) -> bool {
    let config = WorldConfig { bug, provides_buffers: true, ..WorldConfig::new(1) };
    let (mut port, mut clients, sockets) = super::provided::links(config, 2, 2, 1);
    let mut completions = Vec::with_capacity(8);
    let receive = || Operation::receive(CompletionMode::Oneshot);
    let rest = port.pool().acquire(crate::memory::Owner::Application);
    for (client, socket) in clients.iter_mut().zip(&sockets) {
        client.try_write(&[7; 256]).unwrap();
        port.submit(*socket, receive()).unwrap();
    }
    let mut order = Vec::new();
    for _ in 0..4 {
        port.dequeue(&mut completions, None).unwrap();
        let Some(completion) = completions.pop() else { break };
        order.push(completion.key.0);
        let socket = sockets[usize::try_from(completion.key.0).unwrap() - 1];
        port.submit(socket, receive()).unwrap();
    }
    drop(rest);
    order == [1, 2, 1, 2]
}

const SEEDS_MAX: u64 = 1000;
