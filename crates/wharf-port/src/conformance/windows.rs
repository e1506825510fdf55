//! The window: a port keeps no more buffers lent to the kernel than it is told, and receives
//! complete with any window above 0. Where no buffers are lent, none may be kept.
//!
//! The method: the window is made smaller and larger under traffic, and after each dequeue the
//! owners' ledger says how many buffers are lent.

use super::bench::{Bench, Link, assert_pattern, pattern};
use super::lab::{Lab, Peer, Setup, each_back_end};
use crate::port::{Port, Shots};

each_back_end!(
    a_smaller_window_takes_effect_as_buffers_come_home,
    a_window_of_one_serves_many_links,
    a_window_of_none_pauses_until_it_is_raised,
);

fn a_smaller_window_takes_effect_as_buffers_come_home<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let (link, mut peer) = bench.link();
    bench.receive(link, Shots::Many);
    bench.stays_quiet("nobody has sent");
    let mut lent = lent_with::<L>(&mut bench, 8);
    bench.lab.port().set_window(2);
    bench.stays_quiet("nobody has sent");
    assert_eq!(bench.pool.ledger().kernel_receive, lent, "those that are lent stay so");
    // One byte takes one buffer.
    for sent in 0..20 {
        exchange(&mut bench, link, &mut peer, sent);
        let now = bench.pool.ledger().kernel_receive;
        assert!(now <= lent.max(2), "{now} are lent after {lent}");
        lent = now;
    }
    lent_with::<L>(&mut bench, 2);
    // More than was configured means what was configured.
    for (window, most) in [(3, 3), (u32::MAX, 8), (8, 8), (1, 8)] {
        bench.lab.port().set_window(window);
        bench.stays_quiet("nobody has sent");
        lent_with::<L>(&mut bench, most);
    }
    bench.finish();
}

fn a_window_of_one_serves_many_links<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    bench.lab.port().set_window(1);
    let mut links = bench.links(8);
    for (link, peer) in &mut links {
        bench.receive(*link, Shots::Many);
        bench.peer_writes(peer, &pattern(link.key, 0, 1_500));
    }
    bench.until("all bytes", |bench| {
        lent_with::<L>(bench, 1);
        links.iter().all(|(link, _)| bench.of(*link).received.len() == 1_500)
    });
    for (link, _) in &links {
        assert_pattern(link.key, 0, &bench.of(*link).received);
    }
    bench.finish();
}

fn a_window_of_none_pauses_until_it_is_raised<L: Lab>() {
    let mut bench = Bench::<L>::new(Setup::small());
    let mut links = bench.links(3);
    bench.lab.port().set_window(0);
    for (link, peer) in &mut links {
        bench.receive(*link, Shots::Many);
        bench.peer_writes(peer, &pattern(link.key, 0, 4_000));
    }
    for _ in 0..5 {
        bench.round(super::bench::ROUND);
    }
    assert_eq!(bench.lab.port().buffers_wanted(), 0);
    lent_with::<L>(&mut bench, 0);
    bench.lab.port().set_window(8);
    bench.until("all bytes", |bench| {
        links.iter().all(|(link, _)| bench.of(*link).received.len() == 4_000)
    });
    for (link, _) in &links {
        assert_pattern(link.key, 0, &bench.of(*link).received);
    }
    bench.finish();
}

/// The peer sends one byte, and it arrives.
fn exchange<L: Lab>(bench: &mut Bench<L>, link: Link, peer: &mut L::Peer, sent: usize) {
    bench.peer_writes(peer, &pattern(link.key, sent, 1));
    bench.until("the byte", |bench| bench.of(link).received.len() == sent + 1);
    assert_pattern(link.key, 0, &bench.of(link).received);
    assert!(peer.try_write(&[]) == 0);
}

/// How many buffers are lent: no more than `window`, together with those that are wanted.
fn lent_with<L: Lab>(bench: &mut Bench<L>, window: u32) -> u32 {
    let lent = bench.pool.ledger().kernel_receive;
    let wanted = bench.lab.port().buffers_wanted();
    assert!(lent + wanted <= window, "{lent} are lent and {wanted} wanted, of {window}");
    lent
}
