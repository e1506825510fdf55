//! The speed of the simulation, which is printed and not checked, because machines differ.

use super::super::*;
use super::rig::ADDRESS;
use crate::memory::chain::Chain;
use crate::memory::pool::{BufferPool, PoolConfig};
use crate::port::completion::Outcome;
use crate::port::contract::{Port, PortConfig};
use crate::port::operation::{CompletionMode, Key, Operation};
use std::time::Instant;

#[test]
#[expect(clippy::disallowed_methods, reason = "the model's own speed is measured in real time")]
fn completions_a_second() {
    let latency = Faults::none().with_latency_ns(10_000);
    let storm = latency
        .clone()
        .with(FaultKind::ShortReceive, 50_000)
        .with(FaultKind::ShortSend, 50_000)
        .with(FaultKind::SplitDelivery, 50_000)
        .with(FaultKind::Delay, 50_000)
        .with(FaultKind::Reorder, 50_000)
        .with(FaultKind::Enobufs, 50_000)
        .with(FaultKind::SpuriousWake, 50_000);
    for (name, faults) in [("no faults", Faults::none()), ("latency", latency), ("storm", storm)] {
        for links in [16, 512] {
            let (start, rounds) = (Instant::now(), rounds());
            let (completions, moved) = echo(faults.clone(), links, rounds);
            let seconds = start.elapsed().as_secs_f64();
            println!(
                "{name}, {links} links: {:.2} million completions/s, {:.0} MB/s echoed",
                completions as f64 / seconds / 1e6,
                moved as f64 / seconds / 1e6
            );
        }
    }
}

/// Fewer with debug assertions, where the speed does not matter.
fn rounds() -> u64 {
    if cfg!(debug_assertions) { 20_000 } else { 2_000_000 }
}

fn echo(faults: Faults, links: u64, completions_max: u64) -> (u64, u64) {
    let world = World::new(WorldConfig { faults, ..WorldConfig::new(1) });
    let pool = BufferPool::new(PoolConfig::new(1024)).unwrap();
    let mut port = SimPort::<()>::new(&world, PortConfig::new(1024), pool.clone()).unwrap();
    let listener = world.listen(ADDRESS.parse().unwrap()).unwrap();
    let listener = port.associate_listener(listener, Key(0)).unwrap();
    port.submit(listener, Operation::Accept(CompletionMode::Multishot)).unwrap();
    let message = [7; 64];
    let mut clients = Vec::new();
    let mut sockets = vec![listener];
    let mut queues: Vec<(Chain, bool)> = vec![(Chain::new(), false)];
    let mut batch = Vec::with_capacity(64);
    let (mut count, mut moved) = (0, 0);
    while count < completions_max {
        if (clients.len() as u64) < links {
            let tag = clients.len() as u64;
            let mut client = world.connect(ADDRESS.parse().unwrap(), tag).unwrap();
            client.try_write(&message).unwrap();
            clients.push(client);
        }
        while port.is_runnable() {
            port.dequeue(&mut batch, None).unwrap();
            count += batch.len() as u64;
            for completion in batch.drain(..) {
                let index = usize::try_from(completion.key.0).unwrap();
                #[expect(clippy::wildcard_enum_match_arm, reason = "the rest must not come")]
                match completion.outcome {
                    Outcome::Accepted { stream, .. } => {
                        let socket = port.associate(stream, Key(sockets.len() as u64)).unwrap();
                        port.submit(socket, Operation::receive(CompletionMode::Multishot)).unwrap();
                        sockets.push(socket);
                        queues.push((Chain::new(), false));
                        continue;
                    }
                    Outcome::Received { buffer, .. } => {
                        queues[index].0.push(&pool, buffer).unwrap()
                    }
                    Outcome::Sent { mut chain, sent, .. } => {
                        chain.advance(sent);
                        chain.append_chain(std::mem::take(&mut queues[index].0));
                        queues[index] = (chain, false);
                    }
                    other => panic!("{other:?}"),
                }
                let (queue, sending) = &mut queues[index];
                if !*sending && !queue.is_empty() {
                    *sending = true;
                    let chain = std::mem::take(queue);
                    port.submit(sockets[index], Operation::Send(chain)).unwrap();
                }
            }
        }
        let mut target = [0; 2048];
        while let Some(tag) = world.next_ready_client() {
            let client = &mut clients[usize::try_from(tag).unwrap()];
            while let Ok(len) = client.try_read(&mut target) {
                assert!(len > 0);
                moved += len as u64;
                client.try_write(&target[..len]).unwrap();
            }
        }
        if !port.is_runnable() {
            world.advance();
        }
    }
    (count, moved)
}
