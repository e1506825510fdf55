//! INV-PORT-6, the queue: sockets that wait for a buffer stand in one queue, and nothing that
//! happens to others changes their order or their turn.
//!
//! The method: sockets are put into the queue in a known order while the pool is empty. Then
//! others are armed, which have bytes already, before one buffer after the other is released; or
//! all that wait are cancelled, once some and once four times as many.

use super::bench::{Bench, assert_pattern, pattern};
use super::lab::{Lab, Peer, Setup, each_back_end};
use super::pool_empty::{exhaust, pause};
use crate::port::{Clock, End, OperationKind, Port, Shots};
use std::time::Duration;

each_back_end!(
    a_receive_armed_anew_waits_behind_those_that_wait,
    failed_turns_keep_their_order,
    a_link_that_is_armed_again_and_again_starves_nobody,
    waiting_receives_are_cancelled_in_linear_time,
);

fn a_receive_armed_anew_waits_behind_those_that_wait<L: Lab>() {
    for shots in [Shots::One, Shots::Many, Shots::IfReady] {
        let mut bench = Bench::<L>::new(Setup::small());
        let mut links = bench.links(4);
        let mut hoard = exhaust(&mut bench);
        bench.keep_buffers = true;
        bench.peer_writes(&mut links[3].1, b"armed last");
        for (link, peer) in &mut links[..3] {
            bench.receive(*link, Shots::Many);
            pause(&mut bench, peer, b"waits");
        }
        bench.received_from.clear();
        // Its bytes, its receive and a free buffer are there in the same dequeue.
        bench.receive(links[3].0, shots);
        for count in 1..=4 {
            drop(hoard.pop());
            bench.until("a link to be served", |bench| bench.received_from.len() == count);
        }
        let expected: Vec<_> = links.iter().map(|(link, _)| link.key).collect();
        assert_eq!(bench.received_from, expected, "{shots:?}");
        drop(hoard);
        bench.finish();
    }
}

fn failed_turns_keep_their_order<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let mut links = bench.links(6);
    let mut hoard = exhaust(&mut bench);
    bench.keep_buffers = true;
    for (_, peer) in &mut links[3..] {
        bench.peer_writes(peer, b"armed last");
    }
    for (link, peer) in &mut links[..3] {
        bench.receive(*link, Shots::Many);
        pause(&mut bench, peer, b"waits");
    }
    bench.received_from.clear();
    // Should a back end let these three have the buffers, the turns of the others fail together.
    for (link, _) in &links[3..] {
        bench.receive(*link, Shots::One);
    }
    hoard.truncate(hoard.len() - 3);
    bench.until("three links to be served", |bench| bench.received_from.len() == 3);
    for count in 4..=6 {
        drop(hoard.pop());
        bench.until("a link to be served", |bench| bench.received_from.len() == count);
    }
    let waited: Vec<_> = links[..3].iter().map(|(link, _)| link.key).collect();
    let one_by_one: Vec<_> = bench.received_from[3..].to_vec();
    let in_turn: Vec<_> = one_by_one.iter().copied().filter(|key| waited.contains(key)).collect();
    assert!(in_turn.is_sorted(), "{in_turn:?} of {waited:?}");
    drop(hoard);
    bench.finish();
}

fn a_link_that_is_armed_again_and_again_starves_nobody<L: Lab>() {
    const TOTAL: usize = 800;
    let mut bench = Bench::<L>::new(Setup::small().buffers(2, 256));
    let mut links = bench.links(8);
    let mut written = [0; 8];
    bench.until("many receives", |bench| {
        for (i, (link, peer)) in links.iter_mut().enumerate() {
            if written[i] - bench.of(*link).received.len() < 32 << 10 {
                written[i] += peer.try_write(&pattern(link.key, written[i], 32 << 10));
            }
            if !bench.in_flight(*link, OperationKind::Receive) {
                bench.receive(*link, if i < 4 { Shots::One } else { Shots::Many });
            }
        }
        bench.received_from.len() >= TOTAL
    });
    let receives: Vec<_> = links.iter().map(|(link, _)| bench.of(*link).receives).collect();
    // An eighth each would be 100.
    assert!(receives.iter().all(|count| (50..=200).contains(count)), "{receives:?} of {TOTAL}");
    for (link, _) in &links {
        assert_pattern(link.key, 0, &bench.of(*link).received);
    }
    bench.finish();
}

fn waiting_receives_are_cancelled_in_linear_time<L: Lab>() {
    let few = time_to_cancel::<L>(LINKS);
    let many = time_to_cancel::<L>(4 * LINKS);
    // Four times as many take four times as long; sixteen times if each looks at all others. Both
    // take microseconds, and the slack is for what else the machine does.
    assert!(
        many < few * 9 + Duration::from_millis(1),
        "{LINKS} links: {few:?}, four times as many: {many:?}"
    );
}

/// How long it takes to cancel the waiting receives of so many links; the least of five times.
fn time_to_cancel<L: Lab>(count: u32) -> Duration {
    let mut bench = Bench::<L>::new(Setup::small().sockets(count + 8));
    let mut links = bench.links(count as usize);
    let hoard = exhaust(&mut bench);
    bench.completions_max(2 * count as usize);
    for (_, peer) in &mut links {
        bench.peer_writes(peer, b"x");
    }
    let clock = Clock::new();
    let mut least = Duration::MAX;
    for _ in 0..5 {
        let before = bench.lab.port().counters().receive_pauses;
        for (link, _) in &links {
            bench.receive(*link, Shots::Many);
        }
        bench.until("all to wait", |bench| {
            bench.lab.port().counters().receive_pauses >= before + u64::from(count)
        });
        let start = clock.now();
        // From the end, so that a search from the front looks at all others.
        for (link, _) in links.iter().rev() {
            bench.lab.port().cancel(link.socket, OperationKind::Receive);
        }
        least = least.min(clock.now().since(start));
        for (link, _) in &links {
            bench.cancel(*link, OperationKind::Receive);
        }
        bench.until("all to be cancelled", |bench| {
            !links.iter().any(|(link, _)| bench.in_flight(*link, OperationKind::Receive))
        });
        for (link, _) in &links {
            assert_eq!(bench.of(*link).ends.pop(), Some(End::Cancelled));
        }
    }
    drop(hoard);
    bench.finish();
    least
}

/// Each is two descriptors, and more time under Wine.
const LINKS: u32 = if cfg!(windows) { 100 } else { 500 };
