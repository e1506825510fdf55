//! INV-PORT-6: when the pool is empty receiving pauses, and the next dequeue after a buffer was
//! released resumes it; no operation fails for it, and sockets get buffers in the order in which
//! they ran out of them.
//!
//! The method: the test takes every free buffer, and draws those that a back end keeps for the
//! kernel out of it through a link of its own. Then it gives them back one at a time and looks who
//! is served.

use super::bench::{Bench, ROUND, assert_pattern, end_of, pattern};
use super::lab::{Lab, Peer, Setup, each_back_end};
use crate::memory::{Buffer, Chain, Owner};
use crate::port::{End, Operation, OperationKind, Outcome, Port, Shots};
use std::time::Duration;

each_back_end!(
    an_empty_pool_pauses_receives_and_fails_none,
    one_buffer_that_comes_home_resumes_a_receive,
    links_are_served_in_the_order_in_which_they_ran_out,
    a_dequeue_serves_those_that_wait_before_it_sleeps,
    eight_flooding_links_on_two_buffers_are_all_served,
    a_pool_of_one_buffer_serves_many_links,
    a_paused_receive_can_be_cancelled_and_closed,
    a_receive_if_ready_on_an_empty_pool_completes_once_and_loses_nothing,
    a_link_whose_peer_ends_while_it_is_paused_still_gets_every_byte,
    sends_and_accepts_go_on_while_the_pool_is_empty,
    a_port_that_is_dropped_while_receives_are_paused_frees_all,
);

fn an_empty_pool_pauses_receives_and_fails_none<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let mut links = bench.links(12);
    let hoard = exhaust(&mut bench);
    let before = bench.lab.port().counters().receive_pauses;
    for (i, (link, peer)) in links.iter_mut().enumerate() {
        bench.receive(*link, if i % 2 == 0 { Shots::Many } else { Shots::One });
        bench.peer_writes(peer, &pattern(link.key, 0, 60));
    }
    bench.until("twelve pauses", |bench| bench.lab.port().counters().receive_pauses >= before + 12);
    bench.stays_quiet("there is no buffer");
    for (link, _) in &links {
        assert!(bench.in_flight(*link, OperationKind::Receive));
        assert_eq!(bench.of(*link).receives, 0);
    }
    // A pause is counted once, and not again and again while it lasts.
    assert_eq!(bench.lab.port().counters().receive_pauses, before + 12);
    drop(hoard);
    bench.until("all bytes", |bench| {
        links.iter().all(|(link, _)| bench.of(*link).received.len() == 60)
    });
    for (link, _) in &links {
        assert_pattern(link.key, 0, &bench.of(*link).received);
    }
    bench.finish();
}

fn one_buffer_that_comes_home_resumes_a_receive<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    let mut hoard = exhaust(&mut bench);
    bench.keep_buffers = true;
    bench.receive(link, Shots::Many);
    pause(&mut bench, &mut peer, &pattern(1, 0, 256 * 10));
    for count in 1..=10 {
        drop(hoard.pop());
        bench.until("one more buffer of bytes", |bench| bench.of(link).receives == count);
        bench.stays_quiet("one buffer serves one receive");
    }
    assert_eq!(bench.of(link).received.len(), 2_560, "a receive fills its buffer");
    assert_pattern(1, 0, &bench.of(link).received);
    assert!(bench.in_flight(link, OperationKind::Receive));
    drop(hoard);
    bench.finish();
}

fn links_are_served_in_the_order_in_which_they_ran_out<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let mut links = bench.links(8);
    for (link, _) in &links {
        bench.receive(*link, Shots::Many);
    }
    bench.stays_quiet("nobody has sent");
    let mut hoard = exhaust(&mut bench);
    bench.keep_buffers = true;
    // Not the order of their places.
    let order = [3, 0, 7, 1, 6, 2, 5, 4];
    for i in order {
        pause(&mut bench, &mut links[i].1, b"served?");
    }
    bench.received_from.clear();
    for count in 1..=order.len() {
        drop(hoard.pop());
        bench.until("a link to be served", |bench| bench.received_from.len() == count);
    }
    let expected: Vec<_> = order.iter().map(|i| links[*i].0.key).collect();
    assert_eq!(bench.received_from, expected);
    drop(hoard);
    bench.finish();
}

fn a_dequeue_serves_those_that_wait_before_it_sleeps<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    let mut hoard = exhaust(&mut bench);
    bench.receive(link, Shots::Many);
    pause(&mut bench, &mut peer, &pattern(1, 0, 1));
    let mut completions = Vec::with_capacity(8);
    for turn in 1..=50 {
        // Nobody is told of it: the dequeue looks.
        drop(hoard.pop().unwrap());
        let start = bench.lab.port().now();
        while completions.is_empty() {
            bench.lab.port().dequeue(&mut completions, Some(LONG)).unwrap();
        }
        let slept = bench.lab.port().now().since(start);
        assert!(slept < LONG / 2, "turn {turn}: served only after {slept:?}");
        let completion = completions.remove(0);
        let Outcome::Received { buffer, last: false } = completion.outcome else {
            panic!("turn {turn}: {completion:?}");
        };
        assert_pattern(1, turn - 1, &buffer);
        assert!(completions.is_empty());
        // The next byte waits for this very buffer.
        hoard.push(buffer);
        pause(&mut bench, &mut peer, &pattern(1, turn, 1));
    }
    drop(hoard);
    bench.until("the last byte", |bench| bench.of(link).receives == 1);
    bench.finish();
}

fn eight_flooding_links_on_two_buffers_are_all_served<L: Lab>() {
    for completions_max in [64, 2, 1] {
        flood::<L>(completions_max);
    }
}

fn flood<L: Lab>(completions_max: usize) {
    const TOTAL: usize = 800;
    let mut bench = Bench::<L>::new(Setup::small().buffers(2, 256));
    bench.completions_max(completions_max);
    let mut links = bench.links(8);
    for (link, _) in &links {
        bench.receive(*link, Shots::Many);
    }
    let mut written = [0; 8];
    bench.until("many receives", |bench| {
        for (i, (link, peer)) in links.iter_mut().enumerate() {
            // As long as a peer's lead is below 64 KiB, it never has nothing to say.
            if written[i] - bench.of(*link).received.len() < 32 << 10 {
                written[i] += peer.try_write(&pattern(link.key, written[i], 32 << 10));
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
    // Who takes no more completions than there are buffers never sees the pool empty.
    let pauses = bench.lab.port().counters().receive_pauses;
    assert!(completions_max <= 2 || pauses > 0);
    bench.finish();
}

fn a_pool_of_one_buffer_serves_many_links<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small().buffers(1, 64));
    let mut links = bench.links(8);
    for (link, peer) in &mut links {
        bench.receive(*link, Shots::Many);
        bench.peer_writes(peer, &pattern(link.key, 0, 1_000));
    }
    bench.until("all bytes", |bench| {
        links.iter().all(|(link, _)| bench.of(*link).received.len() == 1_000)
    });
    for (link, _) in &links {
        assert_pattern(link.key, 0, &bench.of(*link).received);
    }
    bench.finish();
}

fn a_paused_receive_can_be_cancelled_and_closed<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let mut links = bench.links(3);
    let mut hoard = exhaust(&mut bench);
    for (link, peer) in &mut links {
        bench.receive(*link, Shots::Many);
        pause(&mut bench, peer, &pattern(link.key, 0, 30));
    }
    let [first, second, third] = [links[0].0, links[1].0, links[2].0];
    bench.cancel(first, OperationKind::Receive);
    bench.until("the cancelled one", |bench| bench.of(first).ends == [End::Cancelled]);
    bench.close_and_wait(second);
    assert_eq!(bench.of(second).ends, [End::Cancelled]);
    // The buffer goes to the one that still waits.
    drop(hoard.pop());
    bench.until("the third", |bench| bench.of(third).received.len() == 30);
    // What the cancelled receive did not take is still there.
    bench.receive(first, Shots::One);
    bench.until("the first, again", |bench| bench.of(first).received.len() == 30);
    assert_pattern(first.key, 0, &bench.of(first).received);
    assert_eq!(bench.of(second).receives, 0);
    drop(hoard);
    bench.finish();
}

fn a_receive_if_ready_on_an_empty_pool_completes_once_and_loses_nothing<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    let hoard = exhaust(&mut bench);
    bench.peer_writes(&mut peer, b"there");
    // Whether it says that nothing is ready or waits for a buffer is the back end's choice.
    bench.receive(link, Shots::IfReady);
    for _ in 0..5 {
        bench.round(ROUND);
    }
    assert_eq!(bench.of(link).receives, 0);
    drop(hoard);
    bench.until("an answer", |bench| !bench.in_flight(link, OperationKind::Receive));
    bench.until("the bytes", |bench| {
        if !bench.in_flight(link, OperationKind::Receive) && bench.of(link).receives == 0 {
            bench.receive(link, Shots::IfReady);
        }
        bench.of(link).received == b"there"
    });
    bench.finish();
}

fn a_link_whose_peer_ends_while_it_is_paused_still_gets_every_byte<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    let hoard = exhaust(&mut bench);
    bench.receive(link, Shots::Many);
    pause(&mut bench, &mut peer, &pattern(1, 0, 1_000));
    drop(peer);
    bench.stays_quiet("its bytes come before its end");
    drop(hoard);
    bench.until("the end", |bench| bench.of(link).ends == [End::PeerClosed]);
    assert_eq!(bench.of(link).received.len(), 1_000);
    assert_pattern(1, 0, &bench.of(link).received);
    bench.finish();
}

fn sends_and_accepts_go_on_while_the_pool_is_empty<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    let mut hoard = exhaust(&mut bench);
    bench.receive(link, Shots::Many);
    pause(&mut bench, &mut peer, b"waits");
    let empty = hoard.iter().position(|buffer| buffer.is_empty()).unwrap();
    let mut buffer = hoard.remove(empty);
    buffer.append(b"goes out");
    let mut chain = Chain::new();
    chain.push(&bench.pool, buffer).unwrap();
    bench.submit(link, Operation::Send(chain)).unwrap();
    // The send's completion is kept, so its buffer is not free for the receive.
    bench.until("the send", |bench| !bench.of(link).sent.is_empty());
    assert_eq!(bench.peer_reads(&mut peer, 8), b"goes out");
    let (_other, _other_peer) = bench.link();
    assert_eq!(bench.of(link).receives, 0);
    bench.of(link).sent.clear();
    bench.until("the receive", |bench| bench.of(link).received == b"waits");
    drop(hoard);
    bench.finish();
}

fn a_port_that_is_dropped_while_receives_are_paused_frees_all<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let mut links = bench.links(3);
    let hoard = exhaust(&mut bench);
    for (link, peer) in &mut links {
        bench.receive(*link, Shots::Many);
        pause(&mut bench, peer, b"never read");
    }
    let pool = bench.pool.clone();
    drop(bench);
    for (_, mut peer) in links {
        end_of::<L>(&mut peer);
    }
    drop(hoard);
    assert_eq!(pool.free(), pool.capacity(), "{:?}", pool.ledger());
}

/// Takes every buffer there is, also those that the back end keeps for the kernel.
pub(super) fn exhaust<L: Lab>(bench: &mut Bench<L>) -> Vec<Buffer> {
    let kept_before = std::mem::replace(&mut bench.keep_buffers, true);
    let (filler, mut peer) = bench.link();
    let mut hoard = Vec::new();
    bench.round(ROUND);
    loop {
        hoard.extend(std::iter::from_fn(|| bench.pool.acquire(Owner::Application)));
        if bench.pool.ledger().kernel_receive == 0 {
            break;
        }
        // One byte takes one buffer out of the kernel's window.
        let receives = bench.of(filler).receives;
        bench.receive(filler, Shots::One);
        bench.peer_writes(&mut peer, b"x");
        bench.until("the filler's byte", |bench| bench.of(filler).receives == receives + 1);
        hoard.append(&mut bench.of(filler).buffers);
    }
    bench.close_and_wait(filler);
    bench.keep_buffers = kept_before;
    assert_eq!(hoard.len(), bench.pool.capacity() as usize);
    hoard
}

/// Lets the peer write `bytes`, and waits until the link's receive pauses for them.
pub(super) fn pause<L: Lab>(bench: &mut Bench<L>, peer: &mut L::Peer, bytes: &[u8]) {
    let before = bench.lab.port().counters().receive_pauses;
    bench.peer_writes(peer, bytes);
    bench.until("a pause", |bench| bench.lab.port().counters().receive_pauses > before);
}

/// A time-out that no test is to wait for.
const LONG: Duration = Duration::from_secs(8);
